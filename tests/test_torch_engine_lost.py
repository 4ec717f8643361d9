"""A compiled engine whose GPU is lost, which no process gets back that PyTorch works in; and values
that are not finite."""

from __future__ import annotations

from pathlib import Path

import fake_torch
import numpy as np
import pytest
import torch
from conftest import TINY, lively
from device_frames import frame_of, held_of
from fake_gpu import FakeGpu
from fake_torch import FakeTorchDevice

import mirnet_edge as me
from mirnet_edge.cuda import open_device
from mirnet_edge.engines.compiled import choice

FRAME = frame_of(36, 44)


@pytest.fixture
def made(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> list[FakeTorchDevice]:
    monkeypatch.setattr(choice, "torch_may_use_gpu", lambda: True)
    monkeypatch.setattr(choice, "why_no_cuda", str)
    return fake_torch.install(monkeypatch, gpu)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    me.save_model(lively(me.create_model(TINY["edge"], seed=0)), path, task="denoise")
    return path


def test_a_gpu_that_answers_is_opened_again(
    checkpoint: Path, made: list[FakeTorchDevice], gpu: FakeGpu
) -> None:
    with me.Restorer(checkpoint, tile=None) as restore:
        assert isinstance(restore.engine, me.CompiledEngine)
        expected = restore(FRAME)
        restore.reopen()
        np.testing.assert_array_equal(restore(FRAME), expected)
        assert (gpu.resets, len(made), made[0].abandoned) == (0, 2, 0)
    del expected
    assert not held_of(gpu)
    assert not gpu.pages


@pytest.mark.parametrize("statistics", ["tile", "frame"])
def test_a_gpu_that_is_lost_is_not_reset_under_pytorch(
    statistics: str, checkpoint: Path, made: list[FakeTorchDevice], gpu: FakeGpu
) -> None:
    # As `TorchDevice` does it, for which there is a fake here.
    open_device().shared_with.add("PyTorch")
    options = {"tile": 32, "halo": 4, "statistics": statistics}
    with me.Restorer(checkpoint, **options) as restore:  # type: ignore[arg-type]
        expected = restore(FRAME)
        gpu.lost = True
        with pytest.raises(me.DeviceError, match="illegal memory access"):
            restore(FRAME)
        with pytest.raises(me.DeviceError, match=r"PyTorch works on it too; start the process"):
            restore.reopen()
        assert gpu.resets == 0
        assert made[0].abandoned == 1, "PyTorch would end the process as it frees this"
        assert int(expected.sum()) > 0, "a result is still there"
        with pytest.raises(me.EngineError, match="this Restorer is closed"):
            restore(FRAME)
    gpu.lost = False


def test_values_that_are_not_finite_are_counted(made: list[FakeTorchDevice], gpu: FakeGpu) -> None:
    network = lively(me.create_model(TINY["edge"], seed=0))
    broken = lively(me.create_model(TINY["edge"], seed=0))
    with torch.no_grad():
        next(reversed(list(broken.parameters()))).fill_(float("nan"))
    options = {"precision": "fp32", "mode": "off"}
    with me.CompiledEngine(network, **options) as engine:  # type: ignore[arg-type]
        engine._place.drop("fp32")
        engine._place.weights = broken
        with me.Restorer(engine, tile=None) as restore:
            restored = restore(FRAME)
            assert restore.timings.nonfinite == FRAME.size
            assert (restored == 0).all()
            assert restore.timings.precision == "FP32"
        with (
            me.Restorer(engine, tile=None, nan="raise") as restore,
            pytest.raises(me.EngineError, match=f"returned {FRAME.size:,} values that are NaN"),
        ):
            restore(FRAME)
