"""The service, without a socket: pictures in and out, what a request may ask for, how it tells of
itself, and who may ask."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from serving import LOCAL, TOKEN, Failing, file_of, models, noise, pixels_of, service

from mirnet_edge.engines.fake import FakeEngine
from mirnet_edge.frames.enlarged import enlarged
from mirnet_edge.frames.pixel_formats import pixel_format

pytest.importorskip("starlette", reason="the extra serve is not installed")
pytest.importorskip("prometheus_client", reason="the extra serve is not installed")

from starlette.routing import Route
from starlette.testclient import TestClient

from mirnet_edge.serve.app import PUBLIC, Service

PHOTO = noise(21, 34, 3)


@pytest.fixture(scope="module")
def made() -> Iterator[Service]:
    with service() as made:
        yield made


@pytest.fixture(scope="module")
def client(made: Service) -> TestClient:
    return TestClient(made.app(), base_url=LOCAL)


# Files


@pytest.mark.parametrize(("kind", "media"), [("PNG", "image/png"), ("WEBP", "image/webp")])
@pytest.mark.parametrize("shape", [(1, 1, 3), (21, 34, 3), (7, 5, 4), (64, 65, 3)])
def test_a_file_comes_back_restored_and_of_its_kind(
    client: TestClient, kind: str, media: str, shape: tuple[int, ...]
) -> None:
    pixels = noise(*shape)
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    answer = client.post("/restore", content=file_of(pixels, kind, **options))
    assert (answer.status_code, answer.headers["content-type"]) == (200, media)
    assert np.array_equal(pixels_of(answer.content)[..., :3], 255 - pixels[..., :3])
    if shape[2] == 4:
        assert np.array_equal(pixels_of(answer.content)[..., 3], pixels[..., 3])
    assert re.fullmatch(
        r"decode;dur=[\d.]+, restore;dur=[\d.]+, encode;dur=[\d.]+",
        answer.headers["server-timing"],
    )


def test_a_jpeg_comes_back_as_jpeg_with_what_it_held(client: TestClient) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a picture"
    smooth = np.add.outer(np.arange(40), np.arange(56)).astype(np.uint8)
    given = file_of(np.stack([smooth] * 3, -1), "JPEG", quality=95, exif=exif.tobytes())
    answer = client.post("/restore", content=given, headers={"content-type": "image/jpeg"})
    assert answer.headers["content-type"] == "image/jpeg"
    assert np.abs(255 - pixels_of(given).astype(int) - pixels_of(answer.content)).max() <= 6
    kept = Image.open(io.BytesIO(answer.content)).getexif()
    assert (kept[0x0112], kept[0x010E]) == (6, "a picture")


def test_16_bits_stay_16_bits(client: TestClient) -> None:
    pixels = noise(9, 13, dtype=np.uint16)
    answer = client.post("/restore", content=file_of(pixels))
    assert np.array_equal(pixels_of(answer.content).astype(np.int64), 65535 - pixels.astype(int))
    refused = client.post("/restore", content=file_of(pixels), headers={"accept": "image/jpeg"})
    assert refused.status_code == 406
    assert "does not hold 16-bit gray" in refused.json()["error"]


def test_16_bits_of_colour(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    codecs = pytest.importorskip("imagecodecs", reason="the extra photos is not installed")
    pixels = noise(9, 13, 3, dtype=np.uint16)
    given = bytes(codecs.png_encode(pixels))
    answer = client.post("/restore", content=given)
    assert np.array_equal(codecs.png_decode(answer.content), 65535 - pixels)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    without = client.post("/restore", content=given)
    assert without.status_code == 501
    assert 'pip install "mirnet-edge[photos]"' in without.json()["error"]


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        ("", "image/png"),
        ("*/*", "image/png"),
        ("image/*", "image/png"),
        ("image/webp", "image/webp"),
        ("image/jpeg;q=0.5, image/webp;q=0.8, */*;q=0.1", "image/webp"),
        ("text/html, image/*;q=0.9", "image/png"),
        ("image/png;q=0, image/*", "image/jpeg"),
        ("application/octet-stream", "application/octet-stream"),
        ("IMAGE/JPEG", "image/jpeg"),
    ],
)
def test_the_answer_is_what_is_accepted(client: TestClient, accept: str, media: str) -> None:
    answer = client.post("/restore", content=file_of(PHOTO), headers={"accept": accept})
    assert (answer.status_code, answer.headers["content-type"]) == (200, media)


def test_quality(client: TestClient) -> None:
    sizes = [
        len(client.post(f"/restore?quality={q}", content=file_of(noise(64, 64, 3)),
                        headers={"accept": kind}).content)
        for kind in ("image/jpeg", "image/webp") for q in (10, 90)
    ]  # fmt: skip
    assert sizes[0] < sizes[1] / 2
    assert sizes[2] < sizes[3] / 2


# Raw pixels


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape", [(11, 6), (11, 6, 1), (11, 6, 3), (11, 6, 4)])
def test_raw_pixels(client: TestClient, dtype: Any, shape: tuple[int, ...]) -> None:
    pixels = noise(*shape, dtype=dtype)
    headers = {"frame-shape": ", ".join(map(str, shape)), "frame-dtype": np.dtype(dtype).name}
    answer = client.post("/restore", content=pixels.tobytes(), headers=headers)
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["frame-shape"] == ",".join(map(str, shape))
    assert answer.headers["frame-dtype"] == np.dtype(dtype).name
    restored = np.frombuffer(answer.content, dtype).reshape(shape)
    most = 1.0 if dtype is np.float32 else np.iinfo(dtype).max
    colours = slice(None) if len(shape) == 2 or shape[2] < 4 else slice(3)
    expected = most - pixels[..., colours].astype(np.float64)
    assert np.abs(restored[..., colours] - expected).max() <= 1e-6 * (most == 1.0)


@pytest.mark.parametrize("name", ["nv12", "i420", "yuyv", "bgr", "bgra", "nv12 bt601 full"])
def test_raw_pixels_of_other_formats(client: TestClient, name: str) -> None:
    kind, *words = name.split()
    found = pixel_format(kind, standard="bt601" if words else "bt709", full_range=bool(words))
    pixels = noise(*found.shape_of(12, 18))
    headers = {"frame-shape": ",".join(map(str, pixels.shape)), "frame-pixels": name}
    answer = client.post("/restore?strength=0", content=pixels.tobytes(), headers=headers)
    assert np.array_equal(np.frombuffer(answer.content, np.uint8).reshape(pixels.shape), pixels)
    assert answer.headers["frame-pixels"].split()[: len(name.split())] == name.split()
    answer = client.post("/restore", content=pixels.tobytes(), headers=headers)
    restored = np.frombuffer(answer.content, np.uint8).reshape(pixels.shape)
    if kind.startswith("bgr"):
        assert np.array_equal(restored[..., :3], 255 - pixels[..., :3])
    else:
        assert not np.array_equal(restored, pixels)


def test_raw_pixels_to_a_file(client: TestClient) -> None:
    headers = {"frame-shape": "21,34,3", "accept": "image/png"}
    answer = client.post("/restore", content=PHOTO.tobytes(), headers=headers)
    assert np.array_equal(pixels_of(answer.content), 255 - PHOTO)


# Options


def test_strength_is_between(client: TestClient) -> None:
    for strength in (0.0, 0.25, 1.0):
        answer = client.post(f"/restore?strength={strength}", content=file_of(PHOTO))
        expected = PHOTO + strength * (255.0 - 2.0 * PHOTO)
        assert np.array_equal(pixels_of(answer.content), np.rint(expected))


@pytest.mark.parametrize("shape", [(9, 14), (9, 14, 3)])
def test_strength_of_a_model_that_enlarges(client: TestClient, shape: tuple[int, ...]) -> None:
    pixels = noise(*shape)
    answer = client.post("/restore?model=doubles&strength=0", content=file_of(pixels))
    planes = np.atleast_3d(pixels).transpose(2, 0, 1).astype(np.float32)
    expected = np.rint(enlarged(np.ascontiguousarray(planes), 2).clip(0, 255))
    assert np.array_equal(np.atleast_3d(pixels_of(answer.content)).transpose(2, 0, 1), expected)


def test_noise_is_told_to_a_model_that_asks(client: TestClient) -> None:
    told = client.post("/restore?model=asks&noise=12.5", content=file_of(PHOTO))
    assert told.headers["noise-level"] == "12.50"
    estimated = client.post("/restore?model=asks", content=file_of(noise(64, 64, 3)))
    assert float(estimated.headers["noise-level"]) > 20
    refused = client.post("/restore?model=inverts&noise=10", content=file_of(PHOTO))
    assert refused.status_code == 422
    assert "not told a noise level" in refused.json()["error"]
    # The refusal, and the level before it, are of one request each.
    assert "noise-level" not in client.post("/restore", content=file_of(PHOTO)).headers


def test_statistics_that_an_engine_cannot_have_are_refused(client: TestClient) -> None:
    refused = client.post("/restore?statistics=frame", content=file_of(PHOTO))
    assert refused.status_code == 422
    assert "cannot be given those of the frame" in refused.json()["error"]
    assert client.post("/restore?statistics=tile", content=file_of(PHOTO)).status_code == 200


def test_the_model_is_chosen_by_name(client: TestClient) -> None:
    shapes = {
        name: pixels_of(
            client.post(f"/restore?model={name}", content=file_of(noise(8, 9))).content
        ).shape
        for name in ("inverts", "doubles", "gray")
    }
    assert shapes == {"inverts": (8, 9), "doubles": (16, 18), "gray": (8, 9)}


# What it tells of itself


def test_health_and_readiness() -> None:
    failing = Failing()
    with service(models(fails=FakeEngine(failing), works=FakeEngine())) as made:
        client = TestClient(made.app(), base_url=LOCAL)
        paths = ("/health", "/ready", "/v2/health/live", "/v2/health/ready")
        assert [client.get(path).status_code for path in paths] == [200] * 4
        failing.is_failing = True
        for _ in range(3):
            answer = client.post("/restore", content=file_of(PHOTO))
            assert answer.status_code == 500
            assert "the GPU is on fire" in answer.json()["error"]
        assert [client.get(path).status_code for path in paths] == [503] * 4
        assert "fails" in client.get("/health").json()["error"]
        assert client.get("/v2/models/fails/ready").status_code == 503
        assert client.get("/v2/models/works/ready").status_code == 200
        failing.is_failing = False
        assert client.post("/restore", content=file_of(PHOTO)).status_code == 200
        assert client.get("/health").status_code == 200
        made.is_draining = True
        assert [client.get(path).status_code for path in paths] == [200, 503, 200, 503]


def test_a_bad_picture_is_no_failure_of_the_engine(client: TestClient, made: Service) -> None:
    for _ in range(4):
        assert client.post("/restore", content=file_of(PHOTO)[:200]).status_code == 422
    assert client.get("/health").status_code == 200


def figures(client: TestClient) -> dict[str, float]:
    lines = (line for line in client.get("/metrics").text.splitlines() if line[:1] != "#")
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_figures_for_prometheus() -> None:
    with service() as made:
        client = TestClient(made.app(), base_url=LOCAL)
        for _ in range(3):
            client.post("/restore", content=file_of(PHOTO))
        client.post("/restore?model=none", content=file_of(PHOTO))
        found = figures(client)
        assert found['mirnet_edge_requests_total{route="/restore",status="200"}'] == 3
        assert found['mirnet_edge_requests_total{route="/restore",status="404"}'] == 1
        assert found['mirnet_edge_request_seconds_count{route="/restore"}'] == 4
        assert found['mirnet_edge_pixels_total{model="inverts"}'] == 3 * 21 * 34
        for part in ("wait", "decode", "restore", "encode"):
            name = f'mirnet_edge_part_seconds_count{{model="inverts",part="{part}"}}'
            assert found[name] == 3
        assert found["mirnet_edge_requests_present"] == 0
        assert found["mirnet_edge_requests_room"] == 10
        assert found['mirnet_edge_engine_runs{model="inverts"}'] == 4, "and one to try it"
        assert found["process_resident_memory_bytes"] > 1e6


def test_unknown_addresses_do_not_make_series(client: TestClient) -> None:
    for number in range(5):
        client.get(f"/there-is-no-{number}")
    assert not [name for name in figures(client) if "there-is-no" in name]


def test_each_request_has_a_number(client: TestClient) -> None:
    one, two = (client.get("/nothing") for _ in range(2))
    assert one.json()["request_id"] == one.headers["x-request-id"] != two.headers["x-request-id"]
    given = client.post("/restore", content=b"x", headers={"x-request-id": "job-7/a"})
    assert given.json()["request_id"] == given.headers["x-request-id"] == "job-7/a"
    odd = client.get("/health", headers={"x-request-id": "a b\x7f" + "c" * 300})
    assert re.fullmatch("[0-9a-f]{32}", odd.headers["x-request-id"])


def test_the_document_says_what_there_is(client: TestClient, made: Service) -> None:
    document = client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    app: Any = made.app()
    routes = app._app._app.routes
    there = {
        (route.path, method.lower())
        for route in routes
        if isinstance(route, Route)
        for method in route.methods or ()
        if method != "HEAD" and route.path != "/"
    }
    told = {
        (path, method)
        for path, methods in document["paths"].items()
        for method in methods
        if method != "parameters"
    }
    assert told == there
    text = str(document)
    for name in re.findall(r"#/components/schemas/(\w+)", text):
        assert name in document["components"]["schemas"]
    page = client.get("/").text
    assert all(path in page.replace("&#x27;", "'") for path, _ in told)
    assert "<script" not in page


# Who may ask


def test_without_the_token_there_is_only_how_it_is(made: Service) -> None:
    guarded = TestClient(made.app(TOKEN), base_url="http://edge:8091")
    document = guarded.get("/openapi.json").json()
    for path in document["paths"]:
        path = path.replace("{name}", "inverts").replace("{version}", "1")
        for method in ("GET", "POST"):
            status = guarded.request(method, path).status_code
            if path in PUBLIC:
                assert status == (200 if method == "GET" else 405)
            else:
                assert status == 401, path
    wrong = guarded.post("/restore", headers={"authorization": "Bearer open"})
    assert wrong.status_code == 401
    assert "needs its token" in wrong.json()["error"]
    assert wrong.headers["www-authenticate"] == "Bearer"
    assert guarded.post(f"/restore?token={TOKEN}").status_code == 401, "not in an address"
    bearer = {"authorization": f"Bearer {TOKEN}"}
    assert guarded.post("/restore", content=file_of(PHOTO), headers=bearer).status_code == 200


def test_other_sites_and_names_are_refused(client: TestClient) -> None:
    for host in ("evil.example:8091", "[half", ""):
        assert client.get("/health", headers={"host": host}).status_code == 403
    for origin in ("http://evil.example", "null", "http://[half"):
        refused = client.post("/restore", content=file_of(PHOTO), headers={"origin": origin})
        assert refused.status_code == 403
    assert client.post("/restore", content=file_of(PHOTO), headers={"origin": LOCAL}).is_success
