"""An engine that hangs on the device: an error with the frame's number in time, and neither closing
nor the end of the process waits for it."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from broken_networks import write_broken
from device_frames import OnDevice, frame_of, held_of
from fake_gpu import FakeGpu
from kernel_host import host_kernels

import mirnet_edge as me
from mirnet_edge.cuda import device as cuda_device
from mirnet_edge.cuda import open_device
from mirnet_edge.deadline import something_hangs

FRAME = frame_of(36, 44)
SOON_S = 10.0
LIMIT_S = 1.0


class Hanging:
    """Lets the device hang in a chosen run of its engine, until it is released."""

    def __init__(self, trt: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = -1  # runs that still end; -1 for all
        self.released, self.entered = threading.Event(), threading.Event()
        compute = trt.IExecutionContext._compute

        def computed(context: object) -> None:
            if self.left == 0:
                self.entered.set()
                self.released.wait(60)
            self.left -= self.left > 0
            compute(context)

        monkeypatch.setattr(trt.IExecutionContext, "_compute", computed)


@pytest.fixture
def hanging(trt: ModuleType, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hanging]:
    host_kernels()  # or the first frame compiles them, which takes longer than it may
    made = Hanging(trt, monkeypatch)
    yield made
    made.left = -1
    made.released.set()
    ends = time.monotonic() + SOON_S
    while (something_hangs() or ours()) and time.monotonic() < ends:
        time.sleep(0.01)
    assert not something_hangs()
    assert ours() == set(), "threads that were released are still there"


def ours() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("mirnet")}


def assert_at_an_end(restore: me.Restorer) -> None:
    with pytest.raises(me.EngineError, match="an engine of this Restorer hangs; make a new one"):
        restore(FRAME)
    began = time.monotonic()
    restore.close()
    assert time.monotonic() - began < SOON_S


@pytest.mark.parametrize("where", ["host", "device"])
@pytest.mark.parametrize("known", [True, False])
def test_a_frame_has_a_time_limit(
    known: bool, where: str, hanging: Hanging, gpu: FakeGpu, tmp_path: Path
) -> None:
    path = write_broken(tmp_path, "infinity")
    given = FRAME if where == "host" else OnDevice(FRAME)
    before = held_of(gpu)
    size = FRAME.shape[:2] if known else None
    restore = me.Restorer(path, halo=4, timeout=LIMIT_S, frame_size=size)
    hanging.left = 1  # known: in the frame; else while its graphs are made
    began = time.monotonic()
    with pytest.raises(me.EngineError, match=r"no answer from the engine within 1 s; make a"):
        restore(given)
    assert time.monotonic() - began < SOON_S
    assert_at_an_end(restore)
    hanging.released.set()
    del restore
    deadline = time.monotonic() + SOON_S
    while held_of(gpu) != before and time.monotonic() < deadline:
        with open_device().current():
            gc.collect()
        time.sleep(0.02)
    assert held_of(gpu) == before, "nothing was freed once it had come back"


def test_a_stream_names_the_frame_that_hangs(hanging: Hanging, tmp_path: Path) -> None:
    with me.Restorer(
        write_broken(tmp_path, "infinity"), halo=4, timeout=LIMIT_S, frame_size=FRAME.shape[:2]
    ) as restore:
        expected = restore(FRAME)
        tiles = restore.timings.tiles
        restored: list[np.ndarray] = []
        hanging.left = 2 * tiles + 1
        with pytest.raises(me.EngineError, match=r"^frame 2: no answer from the engine within 1 s"):
            restored.extend(restore.stream([FRAME] * 5))
        np.testing.assert_array_equal(restored, [expected] * 2)
        assert_at_an_end(restore)


def test_the_end_of_the_process_does_not_wait(hanging: Hanging, tmp_path: Path) -> None:
    other = me.TensorRTEngine(write_broken(tmp_path, "infinity"))
    restore = me.Restorer(tmp_path / "broken.engine", halo=4, timeout=LIMIT_S)
    hanging.left = 0
    with pytest.raises(me.EngineError, match="no answer"):
        restore(FRAME)
    ending = threading.Thread(target=cuda_device._close_all, daemon=True)
    ending.start()
    ending.join(SOON_S)
    assert not ending.is_alive(), "the end waits for what hangs"
    assert not other.closed
    hanging.left = -1
    hanging.released.set()
    while something_hangs():
        time.sleep(0.01)
    restore.close()
    cuda_device._close_all()
    assert other.closed
