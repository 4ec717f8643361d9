"""Which checkpoints a compiled engine runs, and where PyTorch cannot use the GPU."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import fake_torch
import pytest
import torch
from conftest import TINY, lively
from fake_gpu import FakeGpu
from fake_torch import FakeTorchDevice

import mirnet_edge as me
from mirnet_edge import engine_choice
from mirnet_edge.cuda import open_device
from mirnet_edge.engines import gpu_there
from mirnet_edge.engines.compiled import choice, torch_device
from mirnet_edge.engines.compiled import engine as compiled_engine

TILE = (32, 40)
Made = list[FakeTorchDevice]


@pytest.fixture
def made(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> Made:
    return fake_torch.install(monkeypatch, gpu)


def tiny(name: str = "mirnet-v2") -> Any:
    """Of the weights that the portable engine has, too."""
    return lively(me.create_model(TINY[name], seed=0))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    me.save_model(tiny(), path, task="denoise")
    return path


def test_a_checkpoint_is_opened_where_it_runs_best(
    checkpoint: Path,
    made: Made,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert isinstance(me.open_engine(checkpoint), me.TorchEngine)
    monkeypatch.setattr(choice, "torch_may_use_gpu", lambda: True)
    assert isinstance(me.open_engine(checkpoint), me.TorchEngine)
    assert f"runs on the CPU: this PyTorch, {torch.__version__}, was built without" in caplog.text
    monkeypatch.setattr(choice, "why_no_cuda", str)
    engine = me.open_engine(checkpoint)
    assert isinstance(engine, me.CompiledEngine)
    assert (engine.facts.task, engine.path) == ("denoise", checkpoint)
    engine.close()
    for asked in ({"provider": "CPUExecutionProvider"}, {"threads": torch.get_num_threads()}):
        assert isinstance(me.open_engine(checkpoint, **asked), me.TorchEngine)
    with pytest.raises(me.EngineError, match="'OpenVINO' is none of PyTorch"):
        me.open_engine(checkpoint, provider="OpenVINO")


def test_bundled_weights_run_on_a_gpu(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_choice, "torch_may_use_gpu", lambda: True)
    monkeypatch.setattr(choice, "torch_may_use_gpu", lambda: True)
    monkeypatch.setattr(choice, "why_no_cuda", str)
    with me.open_engine("edge-s-denoise") as engine:  # type: ignore[attr-defined]
        assert isinstance(engine, me.CompiledEngine)
    assert isinstance(
        me.open_engine("edge-s-denoise", provider="CPUExecutionProvider"), me.OnnxEngine
    )
    assert isinstance(me.open_engine("edge-s-denoise", threads=1), me.OnnxEngine)
    monkeypatch.setattr(choice, "why_no_cuda", lambda: "no CUDA")
    assert isinstance(me.open_engine("edge-s-denoise"), me.OnnxEngine)


def test_a_pytorch_that_has_no_gpu(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(me.EngineError, match=r"was built without CUDA. Install a PyTorch whose"):
        me.CompiledEngine(tiny())
    monkeypatch.setattr(torch.version, "cuda", "14.0")
    with pytest.raises(me.EngineError, match=r"for CUDA 14.0, does not find the GPU"):
        me.CompiledEngine(tiny())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_100", "sm_120"])
    with pytest.raises(me.EngineError, match=r"no code for Fake H200 \(sm_90\), only for sm_100"):
        me.CompiledEngine(tiny())
    assert open_device().facts.architecture == "sm_90"


@pytest.mark.parametrize(
    ("known", "capability", "serves"),
    [
        (["sm_80", "sm_90"], (9, 0), True),
        (["sm_80"], (8, 6), True),
        (["sm_86"], (8, 0), False),
        (["sm_90a"], (9, 0), True),
        (["compute_80"], (12, 0), True),
        (["sm_80"], (12, 0), False),
        (["gfx942"], (9, 0), True),
    ],
)
def test_code_serves_its_architecture(
    known: list[str], capability: tuple[int, int], serves: bool
) -> None:
    assert torch_device._serves(known, capability) == serves


def test_a_gpu_is_looked_for_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_there, "start_driver", lambda: None)
    assert not gpu_there.torch_may_use_gpu()

    def broken() -> Any:
        raise me.DeviceError("no device")

    monkeypatch.setattr(gpu_there, "start_driver", broken)
    assert not gpu_there.torch_may_use_gpu()


def test_bench_measures_it(
    checkpoint: Path, made: Made, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    from mirnet_edge.bench import bench_engine, bench_frames

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(choice, "torch_may_use_gpu", lambda: True)
    monkeypatch.setattr(choice, "why_no_cuda", str)
    monkeypatch.setattr(torch, "compile", lambda form, **_: form)
    # The fake GPU's clock stands still but for copies.
    monkeypatch.setattr(compiled_engine, "batch_times_ms", lambda *_: [1.0, 2.0])
    found = bench_engine(checkpoint, runs=2, tile=TILE)
    assert (found.kind, found.batch, found.tile) == ("CompiledEngine", 1, TILE)
    assert set(found.times) == {"enqueue", "graph"}
    assert found.versions["torch"] == torch.__version__
    frames = bench_frames(checkpoint, (40, 60), frames=2, tile=None)
    assert frames.device == "Fake H200"
    assert frames.tiles == 1
