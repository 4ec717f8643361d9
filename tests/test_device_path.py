"""Frames through a TensorRT engine without leaving the device: on a GPU in host memory that runs
the package's own kernels, against the portable engine on the same network."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import fake_cuda
import numpy as np
import onnx
import pytest
from conftest import RawGraph
from fake_gpu import FakeGpu, LogicError
from fake_tensorrt import write_plans

import mirnet_edge as me
from mirnet_edge.cuda import DeviceBuffer, Event, Stream, open_device
from mirnet_edge.device.device_array import DeviceArray
from mirnet_edge.device.dlpack import CUDA, capsule_of
from mirnet_edge.device.foreign import LEGACY_STREAM
from mirnet_edge.device.frame_plan import LOOPS_KEPT
from mirnet_edge.device.passes import DevicePasses
from mirnet_edge.device.results import RESULTS_KEPT
from mirnet_edge.frames.pixel_formats import pixel_format
from mirnet_edge.graph.file import with_shape
from mirnet_edge.graph.rewrite import rewrite
from mirnet_edge.pooling.passes import MODES, StatisticsSettings
from mirnet_edge.pooling.vectors import Partial
from mirnet_edge.trt.statistics import TensorRTStatistics

TILE = (32, 40)
Write = Callable[..., Path]


@pytest.fixture(scope="session")
def network(raw_graph: RawGraph) -> Any:
    """The graph of a tiny MIRNet-v2, exported before there is a TensorRT, at which torch looks."""
    return rewrite(raw_graph("mirnet-v2"))[0]


@pytest.fixture
def write(network: Any, trt: ModuleType, tmp_path: Path) -> Write:
    """Write the three plans of the network."""

    def written(batch: int = 1, image: str = "FLOAT") -> Path:
        return write_plans(tmp_path, network, TILE, batch, image)

    return written


@pytest.fixture
def portable(network: Any, tmp_path: Path) -> Callable[..., me.Restorer]:
    """The same network on ONNX Runtime, with the same tile."""
    path = tmp_path / "net.onnx"
    onnx.save(with_shape(network, 1, *TILE), path)

    def opened(**options: Any) -> me.Restorer:
        return me.Restorer(path, provider="CPUExecutionProvider", **options)

    return opened


def frame_of(
    height: int, width: int, channels: int = 3, dtype: Any = np.uint8, seed: int = 0
) -> np.ndarray:
    """Brighter to the right, so that tiles differ; (H, W) where there are 0 channels."""
    shape = (height, width, channels) if channels else (height, width)
    values = np.random.default_rng(seed).random(shape)
    ramp = np.linspace(0.2, 1, width).reshape(1, -1, *[1] * bool(channels))
    maximum = 1.0 if dtype is np.float32 else float(np.iinfo(dtype).max)
    return np.asarray(values * ramp * maximum, dtype)


def assert_near(found: np.ndarray, expected: np.ndarray, error: float = 1e-3) -> None:
    """Within ``error`` of the range, and a rounding step."""
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    maximum = 1.0 if found.dtype == np.float32 else float(np.iinfo(found.dtype).max)
    step = 0.0 if found.dtype == np.float32 else 1.0
    difference = np.abs(found.astype(np.float64) - expected).max()
    assert difference <= max(error * maximum, step), difference


def held_of(gpu: FakeGpu) -> dict[str, int]:
    """How many of each kind are there."""
    return {kind: count for kind, count in gpu.live.items() if count}


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
        assert type(restore._path).__name__ == "DevicePath"
        if channels in (2, 4):
            np.testing.assert_array_equal(found[..., -1], frame[..., -1])


@pytest.mark.parametrize(
    ("size", "batch", "blend"),
    [
        *(((1, 1), 1, 0), ((5, 90), 1, 4), ((32, 40), 3, 0), ((33, 41), 4, 8), ((70, 39), 1, 4)),
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


# Streams


@pytest.mark.parametrize("mode", ["tile", "stream"])
def test_a_stream_is_in_order_and_overlaps(
    mode: Any, write: Write, portable: Callable[..., me.Restorer]
) -> None:
    """With what was gathered two frames before, where the portable engine has the last frame's."""
    bright = frame_of(75, 90, dtype=np.float32)
    frames = [bright * np.float32(level) for level in (1, 0.99, 0.98, 0.97, 0.96)]
    options = {"halo": 4, "statistics": mode}
    with me.Restorer(write(), **options) as restore, portable(**options) as expected:
        with restore.stream(frames) as stream:
            found = list(stream)
        assert len(found) == len(frames)
        for index, frame in enumerate(frames):
            assert_near(found[index], expected(frame), 1e-3 if mode == "tile" else 3e-2)
        assert restore.latency().frames == len(frames)


def test_statistics_of_a_stream_with_frames_in_flight_settle(write: Write) -> None:
    """Two frames in flight: what frame t gathers serves frame t + 2. A still scene comes to the
    same."""
    still = frame_of(75, 90, dtype=np.float32)
    path = write()
    settings = StatisticsSettings("stream", samples=4)
    with me.Restorer(path, halo=4, statistics=settings) as restore:
        for _ in range(12):
            expected = restore(still)
    with (
        me.Restorer(path, halo=4, statistics=settings) as restore,
        restore.stream([still] * 24) as stream,
    ):
        *_, found = stream
    assert_near(found, expected, 1e-4)


def test_a_stream_whose_size_changes_plans_again(write: Write) -> None:
    with me.Restorer(write(), halo=4) as restore:
        frames = [frame_of(75, 90), frame_of(60, 95), frame_of(75, 90)]
        expected = [restore(frame) for frame in frames]
        for found, wanted in zip(restore.stream(frames), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
    message = r"frame 1: a frame of 60x95 .* made for 75x90"
    with (
        me.Restorer(write(), halo=4, frame_size=(75, 90)) as restore,
        pytest.raises(me.FrameError, match=message),
    ):
        list(restore.stream(frames))


def test_calls_and_a_stream_share_the_device(write: Write) -> None:
    frames = [frame_of(75, 90, seed=seed) for seed in range(4)]
    with me.Restorer(write(), halo=4) as restore:
        expected = [restore(frame) for frame in frames]
        for index, found in enumerate(restore.stream(frames)):
            np.testing.assert_array_equal(restore(frames[0]), expected[0])
            np.testing.assert_array_equal(found, expected[index])


def test_threads_take_turns(write: Write) -> None:
    frames = [frame_of(75, 90, seed=seed) for seed in range(4)]
    with me.Restorer(write(), halo=4) as restore:
        expected = [restore(frame) for frame in frames]
        found: dict[int, np.ndarray] = {}

        def work(index: int) -> None:
            for _ in range(3):
                found[index] = restore(frames[index])

        threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for index in range(4):
        np.testing.assert_array_equal(found[index], expected[index])


def test_two_restorers_share_activation_memory(
    network: Any, trt: ModuleType, gpu: FakeGpu, tmp_path: Path
) -> None:
    """In two threads, each of which captures its graphs while the other queues work."""
    paths = []
    for name, tile in (("one", TILE), ("other", (48, 40))):
        (tmp_path / name).mkdir()
        paths.append(write_plans(tmp_path / name, network, tile))
    frames = [frame_of(75, 90 + 8 * seed, seed=seed) for seed in range(6)]
    expected = []
    for path in paths:
        with me.Restorer(path, halo=4) as restore:
            expected.append([restore(frame) for frame in frames])
    with me.ActivationMemory.for_engines(*paths) as memory:
        engines = [me.TensorRTEngine(path, activations=memory) for path in paths]
        restorers = [me.Restorer(engine, halo=4) for engine in engines]
        found: list[list[np.ndarray]] = [[], []]

        def work(index: int) -> None:
            found[index].extend(restorers[index](frame) for frame in frames)

        threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for owner in (*restorers, *engines):
            owner.close()
    for index in range(2):
        for restored, wanted in zip(found[index], expected[index], strict=True):
            np.testing.assert_array_equal(restored, wanted)


# Arrays on the device


class OnDevice:
    """An array of another library in memory of the GPU."""

    def __init__(self, array: np.ndarray, stream: int | None = None) -> None:
        device = open_device()
        self.memory = DeviceBuffer(device, array.nbytes)
        self.shape, self.dtype = array.shape, array.dtype
        with Stream(device) as queue:
            self.memory.upload(np.ascontiguousarray(array), stream=queue)
            queue.synchronize()
        self.__cuda_array_interface__ = {
            "version": 3,
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (self.memory.address, False),
            "strides": None,
            "stream": stream,
        }

    def get(self) -> np.ndarray:
        array = np.empty(self.shape, self.dtype)
        with Stream(open_device()) as queue:
            self.memory.download(array, stream=queue)
            queue.synchronize()
        return array


@pytest.mark.parametrize("mode", ["tile", "stream"])
def test_frames_on_the_device_stay_there(mode: Any, write: Write, gpu: FakeGpu) -> None:
    frames = [frame_of(75, 90, 4, seed=seed) for seed in range(2)]
    with me.Restorer(write(), halo=4, statistics=mode) as restore:
        expected = restore(frames[0])
    with me.Restorer(write(), halo=4, statistics=mode) as restore:
        there = OnDevice(frames[0])
        found = restore(there)
        assert isinstance(found, DeviceArray)
        np.testing.assert_array_equal(found.copy_to_host(), expected)
        out = OnDevice(np.zeros_like(frames[0]))
        assert restore(there, out=out) is out
        if mode == "tile":
            np.testing.assert_array_equal(out.get(), expected)
            host = np.empty_like(frames[0])
            np.testing.assert_array_equal(restore(there, out=host), expected)
            restore(frames[1], out=out)
            np.testing.assert_array_equal(out.get(), restore(frames[1]))


def test_memory_of_results_and_graphs_comes_round(write: Write, gpu: FakeGpu) -> None:
    there = OnDevice(frame_of(75, 90))
    with me.Restorer(write(), halo=4) as restore:
        found = restore(there)
        address = found.address
        del found
        made = dict(gpu.made)
        for _ in range(3):
            found = restore(there)
            assert found.address == address
            del found
        assert gpu.made == made
        held = [restore(there) for _ in range(LOOPS_KEPT + 2)]
        assert len({found.address for found in held}) == len(held)
        assert gpu.live["graph"] <= 2 * (LOOPS_KEPT + 1) + 2


def test_another_librarys_stream_is_waited_for(write: Write, gpu: FakeGpu) -> None:
    frame = frame_of(75, 90)
    with me.Restorer(write(), halo=4) as restore:
        expected = restore(frame)
        with Stream(open_device()) as producer:
            there = OnDevice(np.zeros_like(frame), producer.handle)
            there.memory.upload(frame, stream=producer)  # queued, not done
            np.testing.assert_array_equal(restore(there).copy_to_host(), expected)


# What it costs


def test_nothing_is_allocated_after_the_first_frames(write: Write, gpu: FakeGpu) -> None:
    for mode in MODES:
        settings = StatisticsSettings(mode, samples=4, tolerance=1e-2)
        with me.Restorer(write(), halo=4, blend=4, statistics=settings) as restore:
            frame = frame_of(75, 90)
            out = np.empty_like(frame)
            list(restore.stream([frame] * 3))
            restore(frame, out=out)
            made, used = dict(gpu.made), gpu.used_bytes()
            for _ in range(5):
                restore(frame, out=out)
            list(restore.stream([frame] * 5))
            assert (gpu.made, gpu.used_bytes()) == (made, used), mode


def test_closing_gives_everything_back(write: Write, gpu: FakeGpu) -> None:
    path = write()
    before = held_of(gpu)
    restore = me.Restorer(path, halo=4, blend=4, statistics="stream")
    restore(frame_of(75, 90))
    restore(frame_of(60, 90))
    restore.close()
    restore.close()
    assert held_of(gpu) == before
    assert gpu.stray == []
    with pytest.raises(me.EngineError, match="closed; make a new one"):
        restore(frame_of(75, 90))


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


def test_an_integrated_gpu_copies_nothing(
    write: Write, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu.integrated = True
    path = write()
    frame = frame_of(75, 90)
    with me.Restorer(path, halo=4) as restore:
        expected = restore(frame)
        monkeypatch.setattr(DeviceBuffer, "upload", None)
        np.testing.assert_array_equal(restore(frame), expected)


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


def test_a_device_lost_in_a_stream_ends_it_with_the_frames_number(
    write: Write, gpu: FakeGpu
) -> None:
    def frames() -> Any:
        for index in range(6):
            if index == 3:
                gpu.failures["cuEventSynchronize"] = LogicError("the launch failed: Xid 79")
            yield frame_of(75, 90)

    with me.Restorer(write(), halo=4) as restore:
        restore(frame_of(75, 90))
        stream = restore.stream(frames(), queue=1)
        with pytest.raises(me.DeviceError, match=r"frame \d: .*Xid 79"):
            list(stream)
        restore(frame_of(75, 90))


def test_memory_limits_choose_the_engine(
    network: Any, trt: ModuleType, gpu: FakeGpu, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = []
    for name, tile, batch in (("large", (64, 80), 4), ("small", TILE, 1)):
        (tmp_path / name).mkdir()
        paths.append(write_plans(tmp_path / name, network, tile, batch))
    with me.Restorer(paths, halo=4) as restore:
        assert restore.engine.batch == 4
    sizes = [path.stat().st_size + 24 * 64 * 80 * 4 for path in paths]
    with me.Restorer(paths, halo=4, memory_limit=sizes[0]) as restore:
        assert restore.engine.batch == 1
        restore(frame_of(75, 90))
        with pytest.raises(me.DeviceMemoryError, match="memory_limit"):
            restore(np.zeros((900, 1500, 3), np.uint8))
    with pytest.raises(me.DeviceMemoryError, match="no engine fits memory_limit=1,000 bytes"):
        me.Restorer(paths, memory_limit=1000)
    with me.Restorer(paths, halo=4) as restore:
        gpu.total_bytes = gpu.used_bytes() + 1000
        with pytest.raises(me.DeviceMemoryError):  # closing the large one does not give enough
            restore(np.zeros((2000, 3000, 3), np.uint8))
    gpu.total_bytes = 1 << 30
    restore = me.Restorer(paths, halo=4)
    gpu.failures["cuMemAlloc"] = fake_cuda.MemoryError("cuMemAlloc failed: out of memory")
    with restore, caplog.at_level("WARNING"):
        restore(frame_of(75, 90))
        assert restore.engine.batch == 1
    assert "Going on with" in caplog.text


# Frames in flight


def test_a_busy_stream_frees_what_frames_of_other_sizes_needed(write: Write, gpu: FakeGpu) -> None:
    sizes = [(75, 90), (60, 95)] * 4
    frames = [frame_of(*size, seed=seed) for seed, size in enumerate(sizes)]
    with me.Restorer(write(), halo=4) as restore:
        expected = [restore(frame) for frame in frames]
        path, used = restore._path, []
        ticket = path.submit(frames[0])
        for index in range(1, len(frames)):  # two at every time
            later = path.submit(frames[index])
            np.testing.assert_array_equal(path.collect(ticket), expected[index - 1])
            ticket = later
            used.append(gpu.used_bytes())
        np.testing.assert_array_equal(path.collect(ticket), expected[-1])
    assert max(used[2:]) <= max(used[:2])


def test_frames_in_flight_are_collected_after_closing(write: Write) -> None:
    frames = [frame_of(75, 90, seed=seed) for seed in range(2)]
    restore = me.Restorer(write(), halo=4)
    expected = [restore(frame) for frame in frames]
    path = restore._path
    tickets = [path.submit(frame) for frame in frames]
    restore.close()
    for ticket, wanted in zip(tickets, expected, strict=True):
        np.testing.assert_array_equal(path.collect(ticket), wanted)
    with pytest.raises(me.EngineError, match="this Restorer is closed"):
        path.submit(frames[0])


def test_statistics_take_frames_in_any_order(write: Write) -> None:
    """Two threads: the later frame, which gathers from some tiles alone, is collected first."""
    settings = StatisticsSettings("stream", samples=4, settling=1, share=0.3)
    with me.Restorer(write(), halo=4, statistics=settings) as restore:
        path = restore._path
        first, second = (path.submit(frame_of(75, 90)) for _ in range(2))
        path.collect(second)
        path.collect(first)
        restore(frame_of(75, 90))
        assert restore.timings.samples == 0


def test_what_one_frame_pooled_does_not_spoil_those_in_flight(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = frame_of(75, 90)
    settings = StatisticsSettings("stream", samples=4, settling=1, share=0.3)
    with me.Restorer(write(), halo=4, statistics=settings) as restore:
        restore(frame)
        path = restore._path
        tickets = [path.submit(frame) for _ in range(2)]
        with monkeypatch.context() as patch:
            patch.setattr(TensorRTStatistics, "partials_of", pooled_nothing)
            with pytest.raises(me.EngineError, match="pooled NaN"):
                path.collect(tickets[0])
        path.collect(tickets[1])
        restore(frame)
        assert restore.timings.samples > 0  # anew


def pooled_nothing(engines: TensorRTStatistics, _: Any, areas: Any) -> list[Partial]:
    vectors = tuple(np.full((1, p.channels, 1, 1), np.nan, np.float32) for p in engines.pools)
    return [Partial(vectors, (0.0,) * len(vectors), area) for area in areas]


@pytest.mark.parametrize("where", [(DevicePasses, "run"), (Event, "synchronize")])
def test_an_interrupt_leaves_no_memory_in_use(
    where: tuple[Any, str], write: Write, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: Any) -> None:
        raise KeyboardInterrupt

    frame = frame_of(75, 90)
    with me.Restorer(write(), halo=4) as restore:
        expected = restore(frame)
        made = dict(gpu.made)
        with monkeypatch.context() as patch:
            patch.setattr(*where, interrupt)
            with pytest.raises(KeyboardInterrupt):
                restore(frame_of(75, 90, seed=1))
        assert not any(queue.work for queue in gpu.queues.values())
        np.testing.assert_array_equal(restore(frame), expected)
        assert gpu.made == made


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


def test_tiles_wait_for_frames_in_flight_on_an_integrated_gpu(write: Write, gpu: FakeGpu) -> None:
    """There the host writes to the memory that frames in flight pass through."""
    gpu.integrated = True
    frame, tiles = frame_of(75, 90), np.full((1, 3, *TILE), 0.25, np.float32)
    with me.TensorRTEngine(write()) as engine, me.Restorer(engine, halo=4) as restore:
        expected, restored = restore(frame), engine.run(tiles).copy()
        ticket = restore._path.submit(frame)
        np.testing.assert_array_equal(engine.run(tiles), restored)
        np.testing.assert_array_equal(restore._path.collect(ticket), expected)


# Other libraries, and their streams


class ByDlpack:
    """An array of a library that lets the stream it is asked for wait for its own."""

    def __init__(self, there: OnDevice, producer: Stream) -> None:
        self._there, self._producer = there, producer

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA, 0

    def __dlpack__(self, *, stream: int, max_version: Any = None) -> Any:
        waiting = Stream.__new__(Stream)
        waiting.device, waiting.handle, waiting._closed = open_device(), stream, False
        waiting.wait_for_handle(self._producer.handle)
        waiting._closed = True
        there = self._there
        return capsule_of(there.memory.address, there.shape, there.dtype, CUDA, 0, there)


def test_scenes_are_told_apart_once_a_dlpack_frame_is_there(write: Write) -> None:
    frame = frame_of(75, 90)
    with me.Restorer(write(), halo=4, statistics="stream") as restore:
        restore(OnDevice(frame))
        with Stream(open_device()) as producer:
            there = OnDevice(np.zeros_like(frame))
            there.memory.upload(frame, stream=producer)  # queued, not done
            restore(ByDlpack(there, producer))
            assert restore.timings.samples == 0  # the scene is the same


def test_memory_of_a_result_waits_for_its_readers(write: Write) -> None:
    """A library reads a result on the default stream, and lets go of it before that is done."""
    default = Stream(open_device())
    assert default.handle == LEGACY_STREAM
    frames = [OnDevice(frame_of(75, 90, seed=seed)) for seed in range(2)]
    with me.Restorer(write(), halo=4) as restore:
        expected = restore(frames[0]).copy_to_host()
        result = restore(frames[0])
        address, seen = result.address, DeviceBuffer(open_device(), result.size_bytes)
        seen.copy_from(address, result.size_bytes, stream=default)
        del result
        assert restore(frames[1]).address == address
        found = np.empty_like(expected)
        seen.download(found, stream=default)
        default.synchronize()
    np.testing.assert_array_equal(found, expected)


def test_memory_of_results_is_not_hoarded(write: Write, gpu: FakeGpu) -> None:
    with me.Restorer(write(), halo=4) as restore:
        used = []
        for width in range(30, 40):
            there = OnDevice(frame_of(20, width))
            restore(there)
            del there
            used.append(gpu.live["memory"])
        assert used[-1] <= used[1]
        there = OnDevice(frame_of(20, 30))
        held = [restore(there) for _ in range(3 * RESULTS_KEPT)]
        before = gpu.live["memory"]
        del held
        assert gpu.live["memory"] == before - 2 * RESULTS_KEPT


def test_an_output_that_overlaps_its_frame_on_the_device(write: Write) -> None:
    canvas = np.zeros((80, 180, 3), np.uint8)
    frame = canvas[:75, :90] = frame_of(75, 90)
    there = OnDevice(canvas)

    def part(offset: int) -> Any:
        view = OnDevice.__new__(OnDevice)
        interface = dict(there.__cuda_array_interface__)
        interface |= {"shape": (75, 90, 3), "strides": (540, 3, 1)}
        view.__cuda_array_interface__ = interface | {"data": (there.memory.address + offset, False)}
        return view

    with me.Restorer(write(), halo=4) as restore:
        with pytest.raises(me.FrameError, match="shares memory"):
            restore(part(0), out=part(540))  # a row below
        restore(part(0), out=part(270))  # beside it
        np.testing.assert_array_equal(there.get()[:75, 90:], restore(frame))


def test_memory_limits_count_the_engines_for_statistics(write: Write) -> None:
    path, frame = write(), frame_of(75, 90)
    options = {"halo": 4, "statistics": "frame"}
    with me.Restorer(path, halo=4) as restore:
        alone = restore.engine.device_bytes
    with me.Restorer(path, **options) as restore:
        restore(frame)
        planned = restore._path._plan.size_bytes
    beside = sum(path.with_name(f"{path.stem}.{kind}.engine").stat().st_size
                 for kind in ("apply", "gather"))  # fmt: skip
    limit = alone.total + 4 * frame.nbytes + beside + planned
    with me.Restorer(path, **options, memory_limit=limit) as restore:
        restore(frame)
        assert restore.engine.device_bytes.weights == alone.weights + beside
    counted = pytest.raises(me.DeviceMemoryError, match=f"weights {alone.weights + beside:,}")
    with me.Restorer(path, **options, memory_limit=limit - 1) as restore, counted:
        restore(frame)


def test_engines_are_tried_until_one_fits_a_frame(
    network: Any, trt: ModuleType, gpu: FakeGpu, tmp_path: Path
) -> None:
    paths = []
    for name, tile, batch in (("large", (64, 80), 4), ("medium", (64, 80), 2), ("small", TILE, 1)):
        (tmp_path / name).mkdir()
        paths.append(write_plans(tmp_path / name, network, tile, batch))
    with me.Restorer(paths[-1], halo=4) as restore:
        held = restore.engine.device_bytes
        small, frame = frame_of(20, 30), frame_of(200, 200)
        expected = [restore(small), restore(frame)]
        planned = restore._path._plan.size_bytes
    fits = held.total + 4 * frame.nbytes + planned
    with me.Restorer(paths, halo=4, memory_limit=fits) as restore:
        assert restore.engine.batch == 4
        np.testing.assert_array_equal(restore(frame), expected[1])
        assert restore.engine.batch == 1
        with pytest.raises(me.DeviceMemoryError, match="memory_limit"):
            restore(frame_of(200, 204))
        np.testing.assert_array_equal(restore(frame), expected[1])
    with me.Restorer(paths[0], halo=4) as restore:
        first = restore(small)
    with me.Restorer(paths, halo=4, memory_limit=fits) as restore:
        found = list(restore.stream([small, frame, small]))  # the first is in flight on the large
        assert restore.engine.batch == 1
        np.testing.assert_array_equal(found[0], first)
        np.testing.assert_array_equal(found[1], expected[1])
        np.testing.assert_array_equal(found[2], expected[0])


# Outputs on the device


def test_an_outputs_own_stream_is_waited_for(write: Write) -> None:
    """What its library still does to it comes before the restored frame."""
    frame, grey = frame_of(75, 90), np.full((75, 90, 3), 128, np.uint8)
    with me.Restorer(write(), halo=4) as restore, Stream(open_device()) as producer:
        expected = restore(frame)
        out = OnDevice(np.zeros_like(frame), producer.handle)
        out.memory.upload(grey, stream=producer)  # queued, not done
        restore(frame, out=out)
        producer.synchronize()
        np.testing.assert_array_equal(out.get(), expected)


def test_an_output_by_dlpack_waits_on_the_stream_that_writes_it(write: Write) -> None:
    frame = frame_of(75, 90)
    with me.Restorer(write(), halo=4) as restore:
        asked = []

        class Out(ByDlpack):
            def __dlpack__(self, *, stream: int, max_version: Any = None) -> Any:
                asked.append(stream)
                return super().__dlpack__(stream=stream)

        with Stream(open_device()) as producer:
            restore(frame, out=Out(OnDevice(np.zeros_like(frame)), producer))
        assert asked == [restore.engine.stream.handle]


def test_arrays_that_the_kernels_cannot_reach(write: Write) -> None:
    frame = frame_of(75, 90)

    class Elsewhere(OnDevice):
        def __dlpack_device__(self) -> tuple[int, int]:
            return CUDA, 1

    with me.Restorer(write(), halo=4) as restore:
        away = "on GPU 1 and the engine on GPU 0; copy it"
        with pytest.raises(me.FrameError, match=away):
            restore(Elsewhere(frame))
        with pytest.raises(me.FrameError, match=away):
            restore(frame, out=Elsewhere(frame))
        strided = OnDevice(np.zeros((75, 180, 3), np.uint8))
        strided.__cuda_array_interface__ |= {"shape": (75, 90, 3), "strides": (540, 6, 1)}
        with pytest.raises(me.FrameError, match="side by side"):
            restore(frame, out=strided)
        with pytest.raises(me.FrameError, match=r"gray frame with alpha, .* an out of the host"):
            restore(frame_of(75, 90, 2), out=OnDevice(frame_of(75, 90, 2)))


def test_frames_that_come_round_in_more_pairs_than_are_kept(write: Write, gpu: FakeGpu) -> None:
    """Some inputs, and some results that are held: no pair is captured anew, or waited for."""
    inputs = [OnDevice(frame_of(75, 90, 4, seed=seed)) for seed in range(5)]
    with me.Restorer(write(2), halo=4, statistics="stream") as restore:
        held: list[Any] = []

        def run(count: int) -> None:
            for index in range(count):
                held.append(restore(inputs[index % len(inputs)]))
                del held[:-3]

        run(6 * LOOPS_KEPT)
        graphs, launches = gpu.live["graph"], gpu.launches
        made = dict(gpu.made)
        run(4 * LOOPS_KEPT)
        assert (gpu.live["graph"], gpu.made) == (graphs, made)
        assert gpu.launches > launches
        found = restore(inputs[0]).copy_to_host()
    with me.Restorer(write(2), halo=4) as restore:
        for index in range(2 * LOOPS_KEPT):
            last = restore(inputs[index % 5], out=OnDevice(np.zeros((75, 90, 4), np.uint8)))
        np.testing.assert_array_equal(last.get(), restore(inputs[index % 5]).copy_to_host())
    assert found.shape == (75, 90, 4)


# Room for frames in flight


def test_a_stream_goes_on_where_memory_holds_one_frame(write: Write, gpu: FakeGpu) -> None:
    frames = [frame_of(75, 90, seed=seed) for seed in range(4)]
    with me.Restorer(write(), halo=4) as restore:
        expected = [restore(frame) for frame in frames]
        gpu.total_bytes = gpu.used_bytes() + frames[0].nbytes  # half of another slot
        found = list(restore.stream(frames))
    for restored, wanted in zip(found, expected, strict=True):
        np.testing.assert_array_equal(restored, wanted)


def test_no_more_than_two_frames_are_in_flight(write: Write, gpu: FakeGpu) -> None:
    frames = [frame_of(75, 90, seed=seed) for seed in range(5)]
    with me.Restorer(write(), halo=4) as restore:
        expected = [restore(frame) for frame in frames]
        path = restore._path
        tickets = [path.submit(frame) for frame in frames[:2]]
        made = dict(gpu.made)
        tickets += [path.submit(frame) for frame in frames[2:]]
        assert gpu.made == made
        for ticket, wanted in zip(tickets, expected, strict=True):
            np.testing.assert_array_equal(path.collect(ticket), wanted)


def test_frames_are_queued_while_another_thread_waits(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = frame_of(75, 90)
    waiting, go_on = threading.Event(), threading.Event()
    with me.Restorer(write(), halo=4) as restore:
        expected, path = restore(frame), restore._path
        ticket = path.submit(frame)
        synchronize = Event.synchronize

        def wait(event: Event) -> None:
            if threading.current_thread() is thread and not waiting.is_set():
                waiting.set()
                go_on.wait(10)
            synchronize(event)

        monkeypatch.setattr(Event, "synchronize", wait)
        found: list[np.ndarray] = []
        thread = threading.Thread(target=lambda: found.append(path.collect(ticket)))
        thread.start()
        assert waiting.wait(10)
        queued = threading.Thread(target=lambda: found.append(path.collect(path.submit(frame))))
        queued.start()
        queued.join(10)
        assert not queued.is_alive()
        go_on.set()
        thread.join()
    for restored in found:
        np.testing.assert_array_equal(restored, expected)
    assert len(found) == 2


def test_a_failed_frame_is_not_handed_out(write: Write, gpu: FakeGpu) -> None:
    with me.Restorer(write(), halo=4) as restore:
        restore(frame_of(75, 90))
        ticket = restore._path.submit(frame_of(75, 90))
        gpu.failures["cuEventSynchronize"] = LogicError("the launch failed: Xid 79")
        for _ in range(2):
            with pytest.raises(me.DeviceError, match="Xid 79"):
                restore._path.collect(ticket)


# Closing, in any order, and with a GPU that fails


def test_an_engine_closed_before_its_restorer(write: Write, gpu: FakeGpu) -> None:
    path = write()
    before = held_of(gpu)
    frame = frame_of(75, 90)
    with me.ActivationMemory.for_engines(path) as memory:
        for shared, mode in ((memory, "tile"), (None, "stream")):
            engine = me.TensorRTEngine(path, activations=shared)
            restore = me.Restorer(engine, halo=4, blend=4, statistics=mode)  # type: ignore[arg-type]
            restore(frame)
            engine.close()
            with pytest.raises(me.EngineError, match=r"was closed, .* close the Restorer first"):
                restore(frame)
            restore.close()
    assert held_of(gpu) == before


def test_closing_frees_all_though_the_gpu_fails(write: Write, gpu: FakeGpu) -> None:
    path = write()
    before = held_of(gpu)
    restore = me.Restorer(path, halo=4, blend=4, statistics="stream")
    restore(frame_of(75, 90))
    gpu.failures["cuStreamSynchronize"] = LogicError("the launch failed: Xid 79")
    with pytest.raises(me.DeviceError, match="Xid 79"):
        restore.close()
    restore.close()
    with open_device().current():
        gc.collect()  # the traceback held the stream
    assert held_of(gpu) == before


def test_what_runs_is_waited_for_before_its_memory_goes(write: Write, gpu: FakeGpu) -> None:
    with me.Restorer(write(), halo=4) as restore:
        restore(frame_of(75, 90))
        seen = OnDevice(frame_of(75, 90))
        plan, stream = restore._path._plan, restore.engine.stream
        address, size_bytes = plan._slots[0].source.address, seen.memory.size_bytes
        seen.memory.copy_from(address, size_bytes, stream=stream)  # queued, not done
        plan.close()
        assert not gpu.queues[stream.handle].work
        restore._path._plan = None


# The choice of an engine


def test_engines_whose_tiles_cannot_serve_are_left_out(
    network: Any, trt: ModuleType, gpu: FakeGpu, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = []
    for name, tile, batch in (("large", (64, 80), 4), ("small", TILE, 1), ("one", (64, 80), 1)):
        (tmp_path / name).mkdir()
        paths.append(write_plans(tmp_path / name, network, tile, batch))
    frame = frame_of(75, 90)
    for options in ({"halo": 16}, {"halo": 4, "tile": (64, 80)}):
        caplog.clear()
        with me.Restorer(paths, **options) as restore, caplog.at_level("INFO"):  # type: ignore[arg-type]
            assert f"{paths[1]} is left out: " in caplog.text
            gpu.failures["cuMemAlloc"] = fake_cuda.MemoryError("cuMemAlloc failed: out of memory")
            restore(frame)
            assert (restore.engine.fixed_size, restore.engine.batch) == ((64, 80), 1)
            assert f"restoring with {paths[2]}" in caplog.text
    with me.Restorer(paths[:2], halo=16) as restore:
        gpu.failures["cuMemAlloc"] = fake_cuda.MemoryError("cuMemAlloc failed: out of memory")
        with pytest.raises(me.DeviceMemoryError, match="out of memory"):
            restore(frame)
        restore(frame)
    with pytest.raises(me.TilingError):
        me.Restorer(paths[1:], halo=16)


def test_a_graph_that_memory_does_not_hold_is_no_reason_to_go_without(
    write: Write, gpu: FakeGpu
) -> None:
    with me.Restorer(write(), halo=4) as restore:
        gpu.failures["cuGraphInstantiate"] = 2
        with pytest.raises(me.DeviceMemoryError, match="cuGraphInstantiate"):
            restore(frame_of(75, 90))
        launches = gpu.launches
        restore(frame_of(75, 90))
        assert gpu.launches > launches


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
