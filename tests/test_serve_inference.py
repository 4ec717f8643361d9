"""The inference protocol V2: by hand, and by NVIDIA's client for Triton over a socket."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import LOCAL, NOISY, TOKEN, binary, models, noise, served, service

pytest.importorskip("starlette", reason="the extra serve is not installed")
pytest.importorskip("prometheus_client", reason="the extra serve is not installed")

from starlette.testclient import TestClient

import mirnet_edge as me
from mirnet_edge.engines.fake import FakeEngine

INFER = "/v2/models/inverts/infer"


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with service() as made:
        yield TestClient(made.app(), base_url=LOCAL)


def infer(client: TestClient, path: str = INFER, **asked: Any) -> dict[str, Any]:
    answer = client.post(path, json=asked)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    found: dict[str, Any] = answer.json()
    return found


def image(data: Any, shape: list[int], datatype: str = "UINT8") -> dict[str, Any]:
    return {"name": "image", "shape": shape, "datatype": datatype, "data": data}


def test_what_there_is(client: TestClient) -> None:
    server = client.get("/v2").json()
    assert server == {
        "name": "mirnet_edge",
        "version": me.__version__,
        "extensions": ["binary_tensor_data"],
    }
    model = client.get("/v2/models/gray").json()
    assert (model["name"], model["versions"]) == ("gray", ["1"])
    assert model["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, 1]}]
    assert model["outputs"] == [{"name": "restored", "datatype": "UINT8", "shape": [-1, -1, 1]}]
    assert client.get("/v2/models/gray/versions/1").json() == model
    listed = client.get("/models").json()["models"]
    assert [one["name"] for one in listed] == ["inverts", "asks", "doubles", "gray"]
    assert model in listed


def test_numbers_in_json_come_back_as_numbers(client: TestClient) -> None:
    answer = infer(client, inputs=[image([0, 1, 254, 255, 7, 8], [2, 3])], id="a b")
    assert answer == {
        "model_name": "inverts",
        "model_version": "1",
        "id": "a b",
        "outputs": [
            {
                "name": "restored",
                "datatype": "UINT8",
                "shape": [2, 3],
                "data": [255, 254, 1, 0, 248, 247],
            }
        ],
    }


@pytest.mark.parametrize(
    ("datatype", "dtype"), [("UINT8", np.uint8), ("UINT16", np.uint16), ("FP32", np.float32)]
)
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (3, 5, 7, 4)])
def test_shapes_and_types_in_json_and_binary(
    client: TestClient, datatype: str, dtype: Any, shape: tuple[int, ...]
) -> None:
    pixels = noise(*shape, dtype=dtype)
    answer = infer(client, inputs=[image(pixels.tolist(), list(shape), datatype)])
    (output,) = answer["outputs"]
    assert (output["datatype"], output["shape"]) == (datatype, list(shape))
    by_json = np.array(output["data"], dtype).reshape(shape)
    body, length = binary(pixels, datatype)
    headers = {"inference-header-content-length": str(length)}
    reply = client.post(INFER, content=body, headers=headers)
    head = int(reply.headers["inference-header-content-length"])
    assert reply.headers["content-type"] == "application/octet-stream"
    (output,) = json.loads(reply.content[:head])["outputs"]
    assert output["parameters"]["binary_data_size"] == pixels.nbytes
    by_bytes = np.frombuffer(reply.content[head:], dtype).reshape(shape)
    assert np.array_equal(by_json, by_bytes)
    with me.Restorer(me.FakeEngine(lambda tiles: 1 - tiles)) as restore:
        frames = pixels if len(shape) == 4 else pixels[None]
        expected = np.stack([restore(frame) for frame in frames]).reshape(shape)
    assert np.array_equal(by_bytes, expected)


def test_parameters(client: TestClient) -> None:
    given = image([10, 20, 30, 40, 50, 60], [2, 1, 3])
    half = infer(client, inputs=[given], parameters={"strength": 0.5, "timeout": 7, "mine": {}})
    assert half["outputs"][0]["data"] == [128] * 6
    frame = noise(6, 4)
    nv12 = image(frame.ravel().tolist(), [6, 4])
    kept = infer(client, inputs=[nv12], parameters={"strength": 0, "pixels": "nv12"})
    assert np.array_equal(kept["outputs"][0]["data"], frame.ravel())
    told = infer(
        client,
        "/v2/models/asks/versions/1/infer",
        inputs=[given],
        parameters={"noise": 20, "statistics": "tile"},
    )
    assert told["outputs"][0]["data"] == given["data"]


def test_outputs_are_binary_as_each_or_all_are_asked_for(client: TestClient) -> None:
    def is_binary(outputs: Any, **parameters: Any) -> bool:
        asked = {"inputs": [image([1], [1, 1])], "parameters": parameters}
        answer = client.post(INFER, json={**asked, **outputs})
        assert answer.status_code == 200, answer.text
        return "inference-header-content-length" in answer.headers

    def named(**own: Any) -> dict[str, Any]:
        return {"outputs": [{"name": "restored", "parameters": own}]}

    assert not is_binary({})
    assert not is_binary({"outputs": []})
    assert is_binary({}, binary_data_output=True)
    assert is_binary(named(binary_data=True))
    assert not is_binary(named(binary_data=False), binary_data_output=True)
    assert is_binary(named(), binary_data_output=True)


# NVIDIA's client


@pytest.fixture(scope="module")
def triton() -> Any:
    return pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed")


@pytest.fixture(scope="module")
def asked(triton: Any) -> Iterator[Any]:
    with service() as made, served(made) as address:
        client = triton.InferenceServerClient(address.removeprefix("http://"), concurrency=4)
        yield client
        client.close()


def tensor(
    triton: Any, pixels: np.ndarray, datatype: str = "UINT8", is_binary: bool = True
) -> list[Any]:
    given = triton.InferInput("image", list(pixels.shape), datatype)
    given.set_data_from_numpy(pixels, binary_data=is_binary)
    return [given]


def test_triton_finds_server_and_models(asked: Any) -> None:
    assert asked.is_server_live()
    assert asked.is_server_ready()
    assert asked.is_model_ready("inverts")
    assert asked.is_model_ready("inverts", "1")
    assert not asked.is_model_ready("inverts", "2")
    assert not asked.is_model_ready("none")
    assert asked.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    assert asked.get_model_metadata("inverts")["inputs"][0]["name"] == "image"


@pytest.mark.parametrize("is_binary", [True, False])
@pytest.mark.parametrize("wants_binary", [None, True, False])
def test_triton_infers(triton: Any, asked: Any, is_binary: bool, wants_binary: Any) -> None:
    pixels = noise(19, 23, 3)
    outputs = None
    if wants_binary is not None:
        outputs = [triton.InferRequestedOutput("restored", binary_data=wants_binary)]
    inputs = tensor(triton, pixels, is_binary=is_binary)
    found = asked.infer("inverts", inputs, outputs=outputs, request_id="7", model_version="1")
    assert np.array_equal(found.as_numpy("restored"), 255 - pixels)
    assert found.get_response()["id"] == "7"


def test_triton_infers_floats_and_several_frames(triton: Any, asked: Any) -> None:
    pixels = noise(3, 9, 8, 3, dtype=np.float32)
    inputs = tensor(triton, pixels, "FP32")
    found = asked.infer("inverts", inputs, parameters={"strength": 0.5})
    assert np.abs(found.as_numpy("restored") - 0.5).max() <= 1e-6


def test_triton_infers_at_once(triton: Any, asked: Any) -> None:
    several = [noise(20 + number, 16, 3) for number in range(6)]
    begun = [asked.async_infer("inverts", tensor(triton, pixels)) for pixels in several]
    for pixels, one in zip(several, begun):
        assert np.array_equal(one.get_result().as_numpy("restored"), 255 - pixels)


def test_triton_tells_what_is_wrong(triton: Any, asked: Any) -> None:
    from tritonclient.utils import InferenceServerException

    inputs = tensor(triton, noise(4, 4, 3))
    with pytest.raises(InferenceServerException, match="there is no model 'none'"):
        asked.infer("none", inputs)
    with pytest.raises(InferenceServerException, match="need one of auto, tile"):
        asked.infer("inverts", inputs, parameters={"statistics": "stream"})
    with pytest.raises(InferenceServerException, match="must be transposed"):
        asked.infer("inverts", tensor(triton, noise(3, 20, 20)))
    with pytest.raises(InferenceServerException, match="content-encoding 'gzip'"):
        asked.infer("inverts", inputs, request_compression_algorithm="gzip")


def test_triton_with_a_token(triton: Any) -> None:
    from tritonclient.utils import InferenceServerException

    with service() as made, served(made, TOKEN) as address:
        client = triton.InferenceServerClient(address.removeprefix("http://"))
        inputs = tensor(triton, noise(4, 4, 3))
        assert client.is_server_ready()
        with pytest.raises(InferenceServerException, match="needs its token"):
            client.infer("inverts", inputs)
        bearer = {"authorization": f"Bearer {TOKEN}"}
        assert client.infer("inverts", inputs, headers=bearer).as_numpy("restored") is not None
        client.close()


def test_the_page_of_the_service_shows_a_client_that_works(triton: Any) -> None:
    page = Path(__file__).parents[1] / "docs" / "service.md"
    (code,) = re.findall(r"``` \{.python\}\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    named = models(**{"edge-s-denoise": FakeEngine(facts=NOISY)})
    with service(named) as made, served(made) as address:
        assert '"127.0.0.1:8091"' in code
        code = code.replace("127.0.0.1:8091", address.removeprefix("http://"))
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
    assert (done.returncode, done.stdout) == (0, "(270, 480, 3)\n"), done.stderr
