"""Models of Triton's Python backend, under a stand-in for what they import: frames as `Restorer`
restores them, each request for itself."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from fake_tensorrt import write_plans
from scenes import scene
from triton_stand_in import OldRequest, Request, loaded

import mirnet_edge as me
from mirnet_edge.errors import ConfigError
from mirnet_edge.serve.triton.backend import show_only
from mirnet_edge.serve.triton.repository import write_repository
from mirnet_edge.serve.triton.settings import FrameSettings

DENOISER = "edge-s-denoise"
SMALL = FrameSettings(tile=(48, 48), halo=8, threads=1, provider="CPUExecutionProvider")


def frames(count: int, height: int, width: int, channels: int = 3) -> np.ndarray:
    random = np.random.default_rng(height * width)
    return random.integers(0, 256, (count, height, width, channels), np.uint8)


def restorer(model: Any, **options: Any) -> me.Restorer:
    return me.Restorer(model, nan="raise", **{**SMALL.restoring, **options})


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("triton") / "repository"
    write_repository([f"tiny={DENOISER}"], folder, part="frames", frame=(33, 50), settings=SMALL)
    return folder / "tiny"


@pytest.mark.parametrize(("count", "height", "width"), [(1, 1, 1), (1, 61, 47), (2, 37, 50)])
def test_frames_are_those_of_a_restorer(
    denoiser: Path, count: int, height: int, width: int
) -> None:
    given = frames(count, height, width)
    before = given.copy()
    with loaded(denoiser) as model, restorer(DENOISER, noise=15) as restore:
        assert [array.shape for array in model.warmed] == [(1, 33, 50, 3)]
        restored = model.one(given, noise=15)
        assert np.array_equal(restored, [restore(frame) for frame in given])
        rgba = frames(1, height, width, 4)
        assert np.array_equal(model.one(rgba, noise=15)[0], restore(rgba[0]))
    assert np.array_equal(given, before)


def test_requests_that_come_together_have_answers_of_their_own(denoiser: Path) -> None:
    first, second = frames(1, 21, 34), frames(2, 50, 49)
    with loaded(denoiser) as model, restorer(DENOISER) as restore:
        answers = model.all(
            Request(first, noise=5),
            Request(first, noise=-1),
            Request(second, noise="40", strength=0),
            OldRequest(first),
        )
        restore.noise = 5
        assert np.array_equal(answers[0].tensors[0].as_numpy()[0], restore(first[0]))
        assert answers[1].error.code == "INVALID_ARG"
        assert "-1" in answers[1].error.text
        assert np.array_equal(answers[2].tensors[0].as_numpy(), second)
        restore.noise = "auto"
        assert np.array_equal(answers[3].tensors[0].as_numpy()[0], restore(first[0]))


@pytest.mark.parametrize(
    ("given", "parameters", "said"),
    [
        (frames(1, 8, 8, 5), {}, "shape"),
        (frames(1, 0, 8), {}, "has none"),
        (np.zeros((1, 1, 1 << 25, 3), np.uint8), {}, "at most 16,777,216 are taken"),
        (frames(1, 8, 8), {"statistics": "stream"}, "need one of auto"),
        (frames(1, 8, 8), {"pixels": "xyz"}, "pixel format"),
        (frames(1, 8, 8), {"pixels": 3}, "need text"),
    ],
)
def test_what_cannot_be_restored_is_the_requests_error(
    denoiser: Path, given: np.ndarray, parameters: dict[str, Any], said: str
) -> None:
    with loaded(denoiser) as model:
        code, message = model.refused(given, **parameters)
        assert code == "INVALID_ARG"
        assert said in message
        assert model.one(frames(1, 8, 8)).shape == (1, 8, 8, 3), "and it works on"


def test_an_engine_that_fails_is_an_internal_error(
    denoiser: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with loaded(denoiser) as model:
        engine = model.model._model._opened.engine

        def broken(*_: object) -> None:
            raise RuntimeError("out of order")

        with monkeypatch.context() as patched:
            patched.setattr(type(engine), "run", broken)
            code, message = model.refused(frames(1, 8, 8))
        assert code == "INTERNAL"
        assert "out of order" in message
        model.one(frames(1, 8, 8))


def test_releases_without_codes_of_errors_have_messages(
    denoiser: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Coarse:
        code = "none"

        def __init__(self, message: str) -> None:
            self.text = message

    with loaded(denoiser) as model:
        monkeypatch.setattr(sys.modules["triton_python_backend_utils"], "TritonError", Coarse)
        code, message = model.refused(frames(1, 8, 8), noise=-1)
    assert code == "none"
    assert "-1" in message


def test_other_pixels_dtypes_and_scales(tmp_path: Path) -> None:
    double = "edge-m-x2"
    settings = FrameSettings(**{**vars(SMALL), "pixels": "nv12 bt601", "max_pixels": 80 * 64})
    for name, dtype, chosen in (("nv12", "uint8", settings), ("floats", "float32", SMALL)):
        write_repository([f"x={double}"], tmp_path / name, part="frames", dtype=dtype,
                         frame=(16, 24), settings=chosen)  # fmt: skip
    with loaded(tmp_path / "nv12/x") as model:
        assert [array.shape for array in model.warmed] == [(1, 48, 48)]
        planes = np.random.default_rng(1).integers(16, 235, (1, 30, 36), np.uint8)
        pixels = me.pixel_format("nv12", standard="bt601")
        with restorer(double, pixels=pixels) as restore:
            assert np.array_equal(model.one(planes)[0], restore(planes[0]))
        assert "at most 5,120" in model.refused(np.zeros((1, 48, 42), np.uint8))[1]
    with loaded(tmp_path / "floats/x") as model, restorer(double) as restore:
        floats = frames(1, 13, 9) / np.float32(255)
        assert np.array_equal(model.one(floats)[0], restore(floats[0]))
        assert model.refused(floats * 90)[0] == "INVALID_ARG"


def test_statistics_of_the_frame(tiny_onnx: Path, tmp_path: Path) -> None:
    settings = FrameSettings(**{**vars(SMALL), "statistics": "frame"})
    write_repository([f"a={tiny_onnx}"], tmp_path / "r", part="frames", settings=settings)
    given = frames(1, 60, 90)
    with loaded(tmp_path / "r/a") as model:
        for mode in ("frame", "tile"):
            with restorer(tiny_onnx, statistics=mode) as restore:
                asked = {} if mode == "frame" else {"statistics": mode}
                assert np.array_equal(model.one(given, **asked)[0], restore(given[0])), mode


def test_the_service_answers_the_same(denoiser: Path) -> None:
    pytest.importorskip("starlette", reason="the extra serve is not installed")
    pytest.importorskip("prometheus_client", reason="the extra serve is not installed")
    from serving import LOCAL, service
    from starlette.testclient import TestClient

    from mirnet_edge.serve.models import Models, ModelSpec

    given = frames(2, 9, 14)
    image = {"name": "image", "datatype": "UINT8", "shape": list(given.shape)}
    asked = {"inputs": [{**image, "data": given.tolist()}], "parameters": {"noise": 25}}
    options = {name: value for name, value in SMALL.restoring.items() if name != "statistics"}
    opened = Models([ModelSpec("tiny", DENOISER)], tuned=False, **options)
    with service(opened) as made, loaded(denoiser) as model:
        client = TestClient(made.app(), base_url=LOCAL)
        (answer,) = client.post("/v2/models/tiny/infer", content=json.dumps(asked)).json()[
            "outputs"
        ]
        restored = model.one(given, noise=25)
    assert (answer["name"], answer["shape"]) == ("restored", list(restored.shape))
    assert answer["data"] == restored.ravel().tolist()


def test_a_wrong_configuration_is_said_at_the_start(denoiser: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    (folder / "1").mkdir(parents=True)
    for name in ("config.pbtxt", "1/model.py"):
        (folder / name).write_bytes((denoiser / name).read_bytes())
    with pytest.raises(ConfigError, match=r"neither of model\.onnx"), loaded(folder):
        pass
    config = folder / "config.pbtxt"
    for old, new, said in (
        ('key: "halo"', 'key: "hallo"', "there is no 'hallo'"),
        ('string_value: "8"', 'string_value: "few"', "need a whole number"),
    ):
        text = (denoiser / "config.pbtxt").read_text()
        assert old in text
        config.write_text(text.replace(old, new))
        with pytest.raises(ConfigError, match=said), loaded(folder):
            pass


def test_settings_come_back_as_they_were_written() -> None:
    settings = FrameSettings(
        tile=None, halo=4, blend=2, statistics="tile", memory_limit=1 << 30, threads=3,
        provider="OpenVINO", timeout=0.5, pixels="nv12 full", workers=5, max_pixels=9,
    )  # fmt: skip
    assert len(settings.parameters()) == len(vars(settings))
    assert FrameSettings.of(settings.parameters()) == settings
    assert FrameSettings().parameters() == {}


def test_an_instance_sees_its_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    show_only(2)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    show_only(1)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-b"


@pytest.mark.usefixtures("trt")
def test_an_engine_restores_frames(
    pooled_network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trt: ModuleType
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    plan = write_plans(tmp_path, pooled_network, (48, 48), batch=2)
    settings = FrameSettings(halo=8)
    write_repository([f"a={plan}"], tmp_path / "r", frame=(48, 48), settings=settings)
    beside = {path.name for path in (tmp_path / "r/a/1").iterdir()}
    assert {"model.apply.engine", "model.gather.engine.json"} <= beside
    given = scene(3, 70, 55)[None]
    with loaded(tmp_path / "r/a", device=0) as model:
        for mode in ("tile", "frame"):
            with me.Restorer(plan, halo=8, statistics=mode) as restore:
                found = model.one(given, statistics=mode)[0]
                assert np.array_equal(found, restore(given[0])), mode
