"""A GPU that is lost, on which every call fails: told by an error of ours, and one call opens a
Restorer again."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from broken_networks import write_broken
from device_frames import frame_of, held_of
from fake_gpu import FakeGpu, LogicError
from test_device_hanging import LIMIT_S, Hanging
from test_device_hanging import hanging as hanging

import mirnet_edge as me

FRAME = frame_of(36, 44)


@pytest.fixture
def path(trt: ModuleType, tmp_path: Path) -> Path:
    return write_broken(tmp_path, "infinity")


@pytest.mark.parametrize("options", [{}, {"frame_size": FRAME.shape[:2]}, {"timeout": 60}])
def test_one_call_opens_it_again(
    options: dict[str, Any],
    path: Path,
    gpu: FakeGpu,
    trt: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compute = trt.IExecutionContext._compute

    def computed(context: object) -> None:
        if losing:
            gpu.lost = True
            raise LogicError("cuLaunchKernel failed: an illegal memory access was encountered")
        compute(context)

    losing = False
    monkeypatch.setattr(trt.IExecutionContext, "_compute", computed)
    with me.Restorer(path, halo=4, nan="zero", **options) as restore:
        expected = restore(FRAME)
        list(restore.stream([FRAME] * 3))
        held = held_of(gpu)
        for number in range(2):
            losing = True
            with pytest.raises(me.DeviceError, match=r"illegal memory access.*Restorer\.reopen"):
                restore(FRAME)
            losing = False
            with pytest.raises(me.DeviceError, match="illegal memory access"):
                restore(FRAME)
            assert gpu.resets == number
            restore.reopen()
            assert gpu.resets == number + 1
            np.testing.assert_array_equal(restore(FRAME), expected)
            np.testing.assert_array_equal(list(restore.stream([FRAME] * 3)), [expected] * 3)
            assert held_of(gpu) == held, "something of what was lost is still there"
    assert not held_of(gpu)


def test_a_stream_names_the_frame(path: Path, gpu: FakeGpu) -> None:
    with me.Restorer(path, halo=4) as restore:
        expected = restore(FRAME)
        stream = restore.stream(FRAME for _ in range(9))
        np.testing.assert_array_equal(next(stream), expected)
        gpu.lost = True
        with pytest.raises(me.DeviceError, match=r"^frame [1-4]: .*illegal memory access"):
            list(stream)
        restore.reopen()
        np.testing.assert_array_equal(restore(FRAME), expected)


@pytest.mark.parametrize("function", ["cuDevicePrimaryCtxReset", "cuDevicePrimaryCtxRetain"])
def test_a_gpu_that_does_not_come_back(function: str, path: Path, gpu: FakeGpu) -> None:
    restore = me.Restorer(path, halo=4)
    restore(FRAME)
    gpu.lost = True
    gpu.broken[function] = 700
    for _ in range(2):
        with pytest.raises(
            me.DeviceLostError,
            match=r"lost to this process: cuMemAlloc.* does not come back: cu.* Start the process",
        ):
            restore.reopen()
    with pytest.raises(me.EngineError, match="this Restorer is closed"):
        restore(FRAME)
    gpu.broken.clear()
    restore.reopen()
    restore(FRAME)
    restore.close()
    assert not held_of(gpu)


def test_a_gpu_that_answers_is_not_reset(path: Path, gpu: FakeGpu) -> None:
    with me.Restorer(path, halo=4) as restore, me.TensorRTEngine(path) as other:
        expected = restore(FRAME)
        restore.reopen()
        np.testing.assert_array_equal(restore(FRAME), expected)
        restore.close()
        restore.reopen()
        np.testing.assert_array_equal(restore(FRAME), expected)
        assert (gpu.resets, other.closed) == (0, False)


def test_after_an_engine_that_hung(hanging: Hanging, path: Path) -> None:
    with me.Restorer(path, halo=4, timeout=LIMIT_S, frame_size=FRAME.shape[:2]) as restore:
        expected = restore(FRAME)
        hanging.left = 0
        with pytest.raises(me.EngineError, match="no answer"):
            restore(FRAME)
        hanging.left = -1
        hanging.released.set()
        restore.reopen()
        np.testing.assert_array_equal(restore(FRAME), expected)


def test_of_the_host_too(tmp_path: Path, path: Path) -> None:
    with me.Restorer(tmp_path / "broken.onnx", halo=4, nan="zero") as restore:
        expected = restore(FRAME)
        restore.reopen()
        np.testing.assert_array_equal(restore(FRAME), expected)


def test_an_engine_that_was_given_is_the_callers() -> None:
    with (
        me.Restorer(me.FakeEngine()) as restore,
        pytest.raises(me.EngineError, match="was given an open engine; open both again"),
    ):
        restore.reopen()
