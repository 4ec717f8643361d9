"""Frames through a TensorRT engine without leaving the device: on a GPU in host memory that runs
the package's own kernels, against the portable engine on the same network."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import fake_cuda
import numpy as np
import pytest
from device_frames import TILE, OnDevice, Write, assert_near, frame_of
from device_frames import network as network
from device_frames import portable as portable
from device_frames import write as write
from fake_gpu import FakeGpu

import mirnet_edge as me
from mirnet_edge.cuda import Graph, Stream
from mirnet_edge.device import batch_loop
from mirnet_edge.device.batch_loop import BatchLoop, Machine, Scratch
from mirnet_edge.device.tile_kernels import TileKernels
from mirnet_edge.engines.fake import FakeEngine
from mirnet_edge.engines.protocol import works_on_device
from mirnet_edge.frames.pixel_formats import pixel_format
from mirnet_edge.pooling.passes import MODES, StatisticsSettings
from mirnet_edge.tiling.geometry import Tiling

# The same result as the portable engine


@pytest.mark.parametrize(
    ("channels", "dtype"),
    [
        *((channels, np.uint8) for channels in range(5)),
        *((channels, dtype) for channels in (0, 4) for dtype in (np.uint16, np.float32)),
    ],
)
def test_every_array_is_restored_as_on_the_host(
    channels: int, dtype: Any, write: Write, portable: Callable[..., me.Restorer]
) -> None:
    frame = frame_of(37, 75, channels, dtype)
    with me.Restorer(write(), halo=8) as restore, portable(halo=8) as expected:
        found = restore(frame)
        assert_near(found, expected(frame))
        assert restore.timings.tiles == expected.timings.tiles > 1
        assert type(restore._lanes[0].path).__name__ == "DevicePath"
        if channels in (2, 4):
            np.testing.assert_array_equal(found[..., -1], frame[..., -1])


@pytest.mark.parametrize(
    ("size", "batch", "blend"),
    [
        *(
            ((1, 1), 1, 0),
            ((5, 90), 1, 4),
            ((32, 40), 3, 0),
            ((33, 41), 4, 8),
            ((70, 39), 1, 4),
            ((20, 60), 1, 4),
        ),
        *(((97, 131), batch, blend) for batch, blend in ((1, 0), (3, 0), (1, 4), (4, 8))),
    ],
)
def test_every_size_batch_and_blend(
    size: tuple[int, int],
    batch: int,
    blend: int,
    write: Write,
    portable: Callable[..., me.Restorer],
) -> None:
    options = {"halo": 4, "blend": blend}
    with me.Restorer(write(batch), **options) as restore, portable(**options) as expected:
        for seed in range(2):
            frame = frame_of(*size, seed=seed)
            assert_near(restore(frame), expected(frame))


def test_half_precision_images(write: Write, portable: Callable[..., me.Restorer]) -> None:
    frame = frame_of(60, 75)
    with me.Restorer(write(2, "HALF"), halo=8) as restore, portable(halo=8) as expected:
        assert_near(restore(frame), expected(frame), 5e-3)


@pytest.mark.parametrize("name", ["bgr", "bgra", "nv12", "i420", "yuyv"])
def test_pixel_formats(name: str, write: Write, portable: Callable[..., me.Restorer]) -> None:
    shapes = {"nv12": (60, 82), "i420": (60, 82), "yuyv": (40, 82, 2), "bgra": (41, 83, 4)}
    frame = np.random.default_rng(0).integers(16, 236, shapes.get(name, (41, 83, 3)), np.uint8)
    options = {"halo": 4, "blend": 4, "pixels": pixel_format(name, standard="bt601")}
    with me.Restorer(write(2), **options) as restore, portable(**options) as expected:
        found = restore(frame)
        assert_near(found, expected(frame))
        assert (found != frame).any()
        assert restore.timings.tiles > 1


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_statistics_of_the_frame(
    mode: str, batch: int, write: Write, portable: Callable[..., me.Restorer]
) -> None:
    settings = StatisticsSettings(mode, samples=4, settling=1, share=0.3)  # type: ignore[arg-type]
    options = {"halo": 4, "statistics": settings}
    with me.Restorer(write(batch), **options) as restore, portable(**options) as expected:
        for seed in (0, 0, 0, 1):  # still, then another frame of the scene
            frame = frame_of(75, 90, dtype=np.float32, seed=seed)
            assert_near(restore(frame), expected(frame))
            timings, wanted = restore.timings, expected.timings
            assert (timings.passes, timings.samples) == (wanted.passes, wanted.samples)


def test_frames_of_one_tile_need_no_statistics(write: Write) -> None:
    with me.Restorer(write(), halo=4, statistics="frame") as restore:
        restore(frame_of(20, 30))
        assert (restore.timings.tiles, restore.timings.passes) == (1, 1)


def test_without_graphs_the_result_is_the_same(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = frame_of(75, 90)
    path = write()
    with me.Restorer(path, halo=4, statistics="frame") as restore:
        expected = restore(frame)
    fake_cuda.without_graphs(monkeypatch)
    with me.Restorer(path, halo=4, statistics="frame") as restore:
        np.testing.assert_array_equal(restore(frame), expected)


def test_an_engine_that_cannot_be_captured_runs_without_graphs(
    write: Write, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame, path = frame_of(75, 90), write()
    with me.Restorer(path, halo=4) as restore:
        expected = restore(frame)
    enqueue = me.TensorRTEngine.enqueue

    def refuse(engine: me.TensorRTEngine) -> None:
        if gpu.queues[engine.stream.handle].captured is not None:
            raise me.EngineError("TensorRT does not run while it is captured")
        enqueue(engine)

    monkeypatch.setattr(me.TensorRTEngine, "enqueue", refuse)
    with me.Restorer(path, halo=4) as restore:
        np.testing.assert_array_equal(restore(frame), expected)


def test_latency_has_every_part(write: Write) -> None:
    with me.Restorer(write(), halo=4) as restore:
        assert restore.latency().frames == 0
        for _ in range(3):
            restore(frame_of(75, 90))
        latency = restore.latency()
        assert (restore.latency(2).frames, restore.latency(2000).frames) == (2, 3)
    assert latency.frames == 3
    for part in (latency.pre, latency.engine, latency.post, latency.total):
        assert 0 < part.p50 <= part.p90 <= part.p99
    assert latency.upload.p50 >= 0


def test_engines_of_the_device_are_told_apart_without_loading_those_beside(write: Write) -> None:
    path = write()
    path.with_name(f"{path.stem}.apply.engine").unlink()
    with me.TensorRTEngine(path) as engine:
        assert works_on_device(engine)
        with pytest.raises(me.EngineError, match="apply"):
            _ = engine.statistics
    assert not works_on_device(FakeEngine())
    assert not works_on_device(SimpleNamespace(run=len, enqueue=len))


# What a batch does, and what it leaves be


def test_samples_are_not_stored(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    queue, store = BatchLoop._queue, TileKernels.store
    works: list[str] = []
    stored: set[str] = set()

    def queued(loop: BatchLoop, work: Any, *arguments: Any) -> None:
        works.append(work)
        queue(loop, work, *arguments)

    def storing(*arguments: Any, **named: Any) -> None:
        stored.add(works[-1])
        store(*arguments, **named)

    monkeypatch.setattr(BatchLoop, "_queue", queued)
    monkeypatch.setattr(TileKernels, "store", storing)
    with me.Restorer(write(), halo=4, statistics="stream") as restore:
        restore(frame_of(75, 90))
    assert set(works) == {"sample", "gather"}
    assert stored == {"gather"}


def test_a_graph_is_captured_once_the_first_batch_is_done(
    write: Write, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that what the first batch does wrong is not taken for what cannot be captured."""
    pending: list[int] = []

    class Watched(Graph):
        def __init__(self, stream: Stream, work: Any) -> None:
            pending.append(len(gpu.queues[stream.handle].work))
            super().__init__(stream, work)

    monkeypatch.setattr(batch_loop, "Graph", Watched)
    with me.Restorer(write(), halo=4) as restore:
        restore(frame_of(75, 90))
    assert pending == [0]


@pytest.mark.parametrize(("batch", "width"), [(1, 131), (3, 131), (4, 90), (4, 300)])
def test_tiles_wait_in_no_more_memory_than_they_read_back(
    batch: int, width: int, write: Write, gpu: FakeGpu
) -> None:
    cover = Tiling(TILE, halo=4, blend=4, fixed=True).cover(97, width)
    farthest = len(cover.columns) + 1
    rows = max(tile // batch - (tile - farthest) // batch for tile in range(farthest, 99)) + 1
    with me.TensorRTEngine(write(batch)) as engine:
        machine = Machine(engine, None, TileKernels.__new__(TileKernels))
        before = gpu.used_bytes()
        with Scratch(machine, (97, width), cover, 1) as scratch:
            assert scratch.ring_rows == rows
            assert scratch.size_bytes == gpu.used_bytes() - before


def test_an_engine_that_is_told_no_level_gets_none(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float] = []
    monkeypatch.setattr(
        TileKernels, "fill_plane", lambda _, tiles, level, **named: told.append(level)
    )
    with me.Restorer(write(), halo=4, frame_size=(60, 90)) as restore:
        restore(frame_of(60, 90))
    assert told == []


# What cannot be


def test_frames_and_outputs_that_do_not_fit(write: Write) -> None:
    frame = frame_of(75, 90)
    with me.Restorer(write(), halo=4) as restore:
        with pytest.raises(me.FrameError, match="need one of uint8"):
            restore(frame.astype(np.int64))
        with pytest.raises(me.FrameError, match=r"with C = 1 \(gray\)"):
            restore(np.zeros((75, 90, 5), np.uint8))
        with pytest.raises(me.FrameError, match="holds NaN"):
            restore(np.full((75, 90, 3), np.nan, np.float32))
        with pytest.raises(me.FrameError, match="out is uint8"):
            restore(frame, out=np.empty((75, 91, 3), np.uint8))
        with pytest.raises(me.FrameError, match="shares memory"):
            restore(frame, out=frame)
        there = OnDevice(frame)
        with pytest.raises(me.FrameError, match="shares memory"):
            restore(there, out=there)
        read_only = np.empty_like(frame)
        read_only.flags.writeable = False
        with pytest.raises(me.FrameError, match="read-only"):
            restore(frame, out=read_only)
        with pytest.raises(me.FrameError, match="is no frame"):
            restore("frame.png")
        strided = OnDevice(frame)
        strided.__cuda_array_interface__ |= {"shape": (75, 45, 3), "strides": (270, 6, 1)}
        with pytest.raises(me.FrameError, match="side by side"):
            restore(strided)
        restore(frame)
    odd, odder = (
        me.Restorer(write(), pixels="nv12", halo=4),
        me.Restorer(write(), pixels="nv12", halo=4, blend=6),
    )
    with odd, pytest.raises(me.FrameError, match="rows are not height"):
        odd(np.zeros((61, 82), np.uint8))
    with odder, pytest.raises(me.TilingError, match="multiples of 4"):
        odder(np.zeros((90, 82), np.uint8))
    with pytest.raises(me.FrameError, match="no pixel format 'yuv'"):
        me.Restorer(write(), pixels="yuv")


# Ready before the first frame


@pytest.mark.parametrize(("mode", "pixels"), [("tile", "nv12"), ("stream", "auto")])
def test_all_is_there_before_the_first_frame_of_a_known_size(
    mode: Any, pixels: Any, write: Write, gpu: FakeGpu
) -> None:
    shape = (90, 90) if pixels == "nv12" else (60, 90, 3)
    frame = np.random.default_rng(0).integers(16, 236, shape, np.uint8)
    options = {"halo": 4, "statistics": mode, "pixels": pixels}
    with me.Restorer(write(), **options) as restore:
        expected = restore(frame)
    with me.Restorer(write(), **options, frame_size=(60, 90)) as restore:
        out = np.empty_like(frame)
        made, used, graphs = dict(gpu.made), gpu.used_bytes(), gpu.live["graph"]
        np.testing.assert_array_equal(restore(frame, out=out), expected)
        list(restore.stream([frame] * 3))
        assert (gpu.made, gpu.used_bytes(), gpu.live["graph"]) == (made, used, graphs)
        assert restore.latency().frames == 4


def test_frames_of_another_kind_than_the_size_foresaw(write: Write) -> None:
    frame = frame_of(60, 90, 4, np.uint16)
    with me.Restorer(write(), halo=4) as restore:
        expected = restore(frame)
    with me.Restorer(write(), halo=4, frame_size=(60, 90)) as restore:
        np.testing.assert_array_equal(restore(frame), expected)


def test_a_size_that_memory_does_not_hold_is_told_at_once(write: Write) -> None:
    path = write()
    with me.Restorer(path, halo=4) as restore:
        held = restore.engine.device_bytes.total
    with pytest.raises(me.DeviceMemoryError, match="frames of 600x900"):
        me.Restorer(path, halo=4, memory_limit=held + 10_000, frame_size=(600, 900))
    with pytest.raises(me.FrameError, match="odd"):
        me.Restorer(path, halo=4, pixels="nv12", frame_size=(60, 91))
