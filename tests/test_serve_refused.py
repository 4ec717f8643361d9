"""Requests that are wrong: each is refused, with a status of its own fault and a message that says
what is wrong; and the service works on."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from serving import LOCAL, binary, file_of, models, noise, service

pytest.importorskip("starlette", reason="the extra serve is not installed")
pytest.importorskip("prometheus_client", reason="the extra serve is not installed")

from starlette.testclient import TestClient

from mirnet_edge.serve.asking import Limits
from mirnet_edge.serve.inference import MOST_FRAMES

PNG = file_of(noise(9, 14, 3))
LIMITS = Limits(body_bytes=20_000, pixels=4096)
RAW = noise(4, 6, 3).tobytes()
RESTORE, INFER = "/restore", "/v2/models/inverts/infer"


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with service(models(), limits=LIMITS) as made:
        yield TestClient(made.app(), base_url=LOCAL)


def refused(
    client: TestClient, path: str, body: Any, headers: dict[str, str], method: str = "POST"
) -> tuple[int, str]:
    answer = client.request(method, path, content=body, headers=headers)
    told = answer.json()
    assert set(told) == {"error", "request_id"}
    assert told["request_id"] == answer.headers["x-request-id"]
    assert client.get("/health").status_code == 200
    return answer.status_code, told["error"]


def chunk(name: bytes, content: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + check


def png_of(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    """The head of a PNG, and nothing of its pixels."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b""))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + pixels + chunk(b"IEND", b"")


def animation(kind: str) -> bytes:
    file = io.BytesIO()
    first, *others = (Image.fromarray(noise(8, 8 + n, 3)[:, :8]) for n in range(3))
    first.save(file, kind, save_all=True, append_images=others)
    return file.getvalue()


def raw(**headers: str) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


PICTURES = [
    ("empty", b"", {}, 400, "the body is empty"),
    ("text", b"hello, restore me", {}, 415, "begin neither as PNG"),
    ("gif", file_of(noise(8, 8), "GIF"), {}, 415, "begin neither as PNG"),
    ("bmp", file_of(noise(8, 8, 3), "BMP"), {}, 415, "begin neither as PNG"),
    ("tiff", file_of(noise(8, 8, 3), "TIFF"), {}, 415, "begin neither as PNG"),
    ("form", b"--x\r\ncontent-disposition: form-data\r\n\r\n" + PNG, {}, 415, "file itself"),
    ("only a signature", PNG[:8], {}, 422, "the body"),
    ("half a PNG", PNG[: len(PNG) // 2], {}, 422, "cannot be read"),
    ("half a JPEG", file_of(noise(30, 30, 3), "JPEG")[:400], {}, 422, "cannot be read"),
    ("half a WebP", file_of(noise(30, 30, 3), "WEBP")[:100], {}, 422, "the body"),
    ("a JPEG of one marker", b"\xff\xd8\xff\xe0", {}, 422, "the body"),
    ("WebP of nothing", b"RIFF\x04\x00\x00\x00WEBP", {}, 422, "no image format"),
    ("a damaged head", PNG[:16] + b"\xff" * 8 + PNG[24:], {}, 422, "the body"),
    ("damaged pixels", PNG[:60] + bytes(40) + PNG[100:], {}, 422, "cannot be read"),
    ("a PNG without pixels", png_of(8, 8), {}, 422, "cannot be read"),
    ("a bomb", png_of(65000, 65000), {}, 413, "65000x65000 pixels, and at most 4,096"),
    ("one row too wide", png_of(4097, 1), {}, 413, "4097x1 pixels"),
    ("no width", png_of(0, 8), {}, 422, "the body"),
    ("16 bits of colour", png_of(8, 8, 16), {}, 422, "cannot be read"),
    ("an animation", animation("WEBP"), {}, 422, "3 frames"),
    ("too many bytes", PNG + bytes(20_000), {}, 413, "at most|more than the 20,000"),
    ("packed", PNG, {"content-encoding": "gzip"}, 415, "content-encoding 'gzip'"),
    ("nothing acceptable", PNG, {"accept": "text/html"}, 406, "there are image/png"),
    ("bmp wanted", PNG, {"accept": "image/bmp"}, 406, "there are image/png"),
    ("RGBA as JPEG", file_of(noise(8, 8, 4)), {"accept": "image/jpeg"}, 406, "does not hold RGBA"),
    ("raw without a shape", RAW, raw(frame_dtype="uint8"), 400, "without frame-shape"),
    ("a shape of words", RAW, raw(frame_shape="four,six"), 400, "need sides of an array"),
    ("a shape of one", RAW, raw(frame_shape="72"), 400, "need sides of an array"),
    ("a shape of four", RAW, raw(frame_shape="1,4,6,3"), 400, "need sides of an array"),
    ("a negative side", RAW, raw(frame_shape="-4,6,3"), 400, "need sides of an array"),
    ("digits of elsewhere", RAW, {"frame-shape": b"4,6,\xb2"}, 400, "need sides of an array"),
    ("no rows", RAW, raw(frame_shape="0,6,3"), 400, "0x6 pixels has none"),
    ("a byte too few", RAW[1:], raw(frame_shape="4,6,3"), 400, "71 bytes, but uint8"),
    ("a byte too many", RAW + b"x", raw(frame_shape="4,6,3"), 400, "73 bytes, but uint8"),
    ("seven channels", bytes(56), raw(frame_shape="2,4,7"), 422, "7 channels"),
    ("a huge shape", RAW, raw(frame_shape="9999999,9999999,3"), 413, "at most 4,096"),
    ("complex", RAW, raw(frame_shape="4,6,3", frame_dtype="complex64"), 400, "need one of uint8"),
    ("an object", RAW, raw(frame_shape="4,6,3", frame_dtype="O"), 400, "need one of uint8"),
    ("NaN", np.full((2, 2), np.nan, np.float32).tobytes(),
     raw(frame_shape="2,2", frame_dtype="float32"), 422, "NaN"),
    ("0 to 255 as floats", np.full((2, 2), 200, np.float32).tobytes(),
     raw(frame_shape="2,2", frame_dtype="float32"), 422, "divide it by 255"),
    ("no such format", RAW, raw(frame_shape="4,6,3", frame_pixels="cmyk"), 400, "known are gray"),
    ("no such standard", RAW, raw(frame_shape="4,6,3", frame_pixels="nv12 bt2020"), 400, "bt601"),
    ("nv12 of 4 rows", bytes(24), raw(frame_shape="4,6", frame_pixels="nv12"), 400, "3 / 2"),
    ("floats as nv12", bytes(144), raw(frame_shape="6,6", frame_dtype="float32",
     frame_pixels="nv12"), 400, "nv12 frame of dtype float32"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "headers", "status", "message"),
    [case[1:] for case in PICTURES],
    ids=[case[0] for case in PICTURES],
)
def test_pictures(
    client: TestClient, body: bytes, headers: dict[str, str], status: int, message: str
) -> None:
    found, error = refused(client, RESTORE, body, headers)
    assert found == status, error
    assert any(part in error for part in message.split("|")), error


QUERIES = [
    ("noise=loud", 400, "noise='loud'"),
    ("noise=-1", 400, "from 0 to 100"),
    ("noise=101", 400, "from 0 to 100"),
    ("noise=nan", 400, "from 0 to 100"),
    ("noise=", 400, "noise=''"),
    ("strength=2", 400, "from 0 to 1"),
    ("strength=nan", 400, "from 0 to 1"),
    ("strength=1e999", 400, "from 0 to 1"),
    ("strength=half", 400, "strength='half'"),
    ("statistics=stream", 400, "need one of auto, tile"),
    ("statistics=", 400, "need one of auto, tile"),
    ("quality=0", 400, "from 1 to 100"),
    ("quality=%C2%B2", 400, "from 1 to 100"),
    ("quality=1.5", 400, "from 1 to 100"),
    ("model=none", 404, "there are inverts, asks"),
    ("model=../../etc/passwd", 404, "there are inverts, asks"),
    ("model=", 404, "there is no model ''"),
    ("noize=3", 400, "there is no parameter 'noize'"),
    ("noise=3&noise=4", 400, "noise is given twice"),
    ("model=inverts&noise=3", 422, "not told a noise level"),
    ("model=gray", 422, "takes gray frames"),
]


@pytest.mark.parametrize(("query", "status", "message"), QUERIES)
def test_queries(client: TestClient, query: str, status: int, message: str) -> None:
    found, error = refused(client, f"{RESTORE}?{query}", PNG, {})
    assert (found, message in error) == (status, True), error


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/restore", 405, "need POST"),
        ("PUT", "/restore", 405, "need POST"),
        ("POST", "/health", 405, "need GET"),
        ("GET", "/restore/", 404, "GET /openapi.json"),
        ("GET", "/../../etc/passwd", 404, "GET /openapi.json"),
        ("GET", "/v2/models/none", 404, "there is no model 'none'"),
        ("GET", "/v2/models/inverts/versions/2", 404, "has no version '2'"),
        ("POST", "/v2/models/inverts/versions/9/infer", 404, "has no version '9'"),
        ("GET", "/v2/models/%00", 404, "there is no model"),
    ],
)
def test_addresses(client: TestClient, method: str, path: str, status: int, message: str) -> None:
    found, error = refused(client, path, b"", {}, method)
    assert (found, message in error) == (status, True), error


def asked(**changes: Any) -> dict[str, Any]:
    """A request of the inference protocol, with something else in its input."""
    tensor = {"name": "image", "datatype": "UINT8", "shape": [2, 2], "data": [1, 2, 3, 4]}
    return {"inputs": [{**tensor, **changes}]}


BINARY, LENGTH = binary(noise(4, 6, 3))
INFERENCES: list[tuple[Any, str]] = [
    (b"", "the body is empty"),
    (b"{", "no JSON"),
    (b"\xff\xfe\x00", "no JSON"),
    (b"[" * 5000, "nested too deep"),
    (b"[]", "need an object"),
    (b"null", "need an object"),
    ({}, "need a list of one tensor"),
    ({"inputs": {}}, "need a list of one tensor"),
    ({"inputs": []}, "not 0 of them"),
    ({"inputs": asked()["inputs"] * 2}, "not 2 of them"),
    ({"inputs": [3]}, "inputs[0] is 3"),
    (asked(name="input"), "there is no input 'input'"),
    (asked(name=["image"]), "there is no input"),
    (asked(datatype="BYTES"), "need one of UINT8"),
    (asked(datatype="FP16"), "need one of UINT8"),
    (asked(datatype=["UINT8"]), "need one of UINT8"),
    (asked(shape=None), "need [H, W]"),
    (asked(shape=[4]), "need [H, W]"),
    (asked(shape=[1, 1, 2, 2, 1]), "need [H, W]"),
    (asked(shape=[2, -2]), "need [H, W]"),
    (asked(shape=[2, 2.0]), "need [H, W]"),
    (asked(shape=[True, 4]), "need [H, W]"),
    (asked(shape=[0, 4]), "has none"),
    (asked(shape=[2, 2, 0]), "channels come last"),
    (asked(shape=[MOST_FRAMES + 1, 2, 2, 1]), "need 1 to 64"),
    (asked(data=None), "need a list of numbers"),
    (asked(data="1234"), "need a list of numbers"),
    (asked(data=[1, 2, 3]), "3 items"),
    (asked(data=[[1, 2], [3]]), "no array"),
    (asked(data=[1, 2, 3, "4"]), "items of <U"),
    (asked(data=[1, 2, 3, None]), "items of object"),
    (asked(data=[1, 2, 3, 256]), "from 0 to 255"),
    (asked(data=[1, 2, 3, -1]), "from 0 to 255"),
    (asked(data=[1, 2, 3, 0.5]), "from 0 to 255"),
    (asked(data=[1, 2, 3, 10**30]), "of object"),
    (asked(parameters=[]), "inputs[0].parameters is []"),
    (asked(parameters={"shared_memory_region": "a"}), "no shared memory"),
    (asked(parameters={"binary_data_size": 4}), "0 bytes follow the JSON"),
    (asked(parameters={"binary_data_size": "4"}), "binary_data_size is '4'"),
    ({**asked(), "id": 7}, "id is 7"),
    ({**asked(), "parameters": 1}, "parameters is 1"),
    ({**asked(), "parameters": {"strength": [1]}}, "strength=[1]"),
    ({**asked(), "parameters": {"strength": True}}, "strength=True"),
    ({**asked(), "parameters": {"noise": {}}}, "noise={}"),
    ({**asked(), "parameters": {"noise": 10**400}}, "noise="),
    ({**asked(), "parameters": {"statistics": 3}}, "statistics=3"),
    ({**asked(), "parameters": {"pixels": 3}}, "parameters.pixels is 3"),
    ({**asked(), "parameters": {"pixels": "nv21"}}, "known are gray"),
    ({**asked(), "parameters": {"binary_data_output": 1}}, "need true or false"),
    ({**asked(), "outputs": 1}, "need a list of 'restored'"),
    ({**asked(), "outputs": [{"name": "image"}]}, "there is no output 'image'"),
    ({**asked(), "outputs": [{"name": "restored", "parameters": {"classification": 3}}]},
     "there is no such output"),
    (BINARY, "no JSON"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "message"), INFERENCES, ids=[message for _, message in INFERENCES]
)
def test_inferences(client: TestClient, body: Any, message: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, error = refused(client, INFER, content, {})
    assert (status, message in error) == (400, True), error


@pytest.mark.parametrize(
    ("length", "body"),
    [
        (str(LENGTH + 1), BINARY),
        (str(LENGTH - 1), BINARY),
        ("0", BINARY),
        ("-1", BINARY),
        ("1e2", BINARY),
        ("", BINARY),
        ("9" * 30, BINARY),
        (str(len(BINARY) + 1), BINARY),
        (str(LENGTH), BINARY[:-1]),
        (str(LENGTH), BINARY + b"x"),
    ],
)
def test_lengths_of_the_json(client: TestClient, length: str, body: bytes) -> None:
    headers = {"inference-header-content-length": length}
    status, error = refused(client, INFER, body, headers)
    assert status == 400
    assert error


@pytest.mark.parametrize("shape", [[65, 64], [4097, 1, 1], [2, 64, 33, 1], [10**9, 10**9]])
def test_inferences_that_are_too_large(client: TestClient, shape: list[int]) -> None:
    status, error = refused(client, INFER, json.dumps(asked(shape=shape)).encode(), {})
    assert (status, "are taken" in error) == (413, True), error


def test_what_a_model_enlarges_counts_as_it_will_be(client: TestClient) -> None:
    body = file_of(np.zeros((33, 33, 3), np.uint8))
    assert client.post(f"{RESTORE}?model=inverts", content=body).status_code == 200
    status, error = refused(client, f"{RESTORE}?model=doubles", body, {})
    assert (status, "at most 1,024" in error) == (413, True), error
