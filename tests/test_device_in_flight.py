"""Several frames on the device at once: streams, frames in flight, threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from device_frames import TILE, Write, assert_near, frame_of, plans_in
from device_frames import network as network
from device_frames import portable as portable
from device_frames import write as write
from fake_gpu import FakeGpu, LogicError

import mirnet_edge as me
from mirnet_edge.cuda import Event
from mirnet_edge.device.passes import DevicePasses
from mirnet_edge.pooling.passes import StatisticsSettings
from mirnet_edge.pooling.vectors import Partial
from mirnet_edge.trt.pooling import TensorRTPooling

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


def test_a_stream_goes_on_where_memory_holds_one_frame(write: Write, gpu: FakeGpu) -> None:
    frames = [frame_of(75, 90, seed=seed) for seed in range(4)]
    with me.Restorer(write(), halo=4) as restore:
        expected = [restore(frame) for frame in frames]
        gpu.total_bytes = gpu.used_bytes() + frames[0].nbytes  # half of another slot
        found = list(restore.stream(frames))
    for restored, wanted in zip(found, expected, strict=True):
        np.testing.assert_array_equal(restored, wanted)


# Frames in flight


def test_a_busy_stream_frees_what_frames_of_other_sizes_needed(write: Write, gpu: FakeGpu) -> None:
    sizes = [(75, 90), (60, 95)] * 4
    frames = [frame_of(*size, seed=seed) for seed, size in enumerate(sizes)]
    with me.Restorer(write(), halo=4) as restore:
        expected = [restore(frame) for frame in frames]
        path, used = restore._lanes[0].path, []
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
    path = restore._lanes[0].path
    tickets = [path.submit(frame) for frame in frames]
    restore.close()
    for ticket, wanted in zip(tickets, expected, strict=True):
        np.testing.assert_array_equal(path.collect(ticket), wanted)
    with pytest.raises(me.EngineError, match="this Restorer is closed"):
        path.submit(frames[0])


def test_no_more_than_two_frames_are_in_flight(write: Write, gpu: FakeGpu) -> None:
    frames = [frame_of(75, 90, seed=seed) for seed in range(5)]
    with me.Restorer(write(), halo=4) as restore:
        expected = [restore(frame) for frame in frames]
        path = restore._lanes[0].path
        tickets = [path.submit(frame) for frame in frames[:2]]
        made = dict(gpu.made)
        tickets += [path.submit(frame) for frame in frames[2:]]
        assert gpu.made == made
        for ticket, wanted in zip(tickets, expected, strict=True):
            np.testing.assert_array_equal(path.collect(ticket), wanted)


def test_statistics_take_frames_in_any_order(write: Write) -> None:
    """Two threads: the later frame, which gathers from some tiles alone, is collected first."""
    settings = StatisticsSettings("stream", samples=4, settling=1, share=0.3)
    with me.Restorer(write(), halo=4, statistics=settings) as restore:
        path = restore._lanes[0].path
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
        path = restore._lanes[0].path
        tickets = [path.submit(frame) for _ in range(2)]
        with monkeypatch.context() as patch:
            patch.setattr(TensorRTPooling, "partials_of", pooled_nothing)
            with pytest.raises(me.EngineError, match="pooled NaN"):
                path.collect(tickets[0])
        path.collect(tickets[1])
        restore(frame)
        assert restore.timings.samples > 0  # anew


def pooled_nothing(engines: TensorRTPooling, _: Any, areas: Any) -> list[Partial]:
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


def test_a_failed_frame_is_not_handed_out(write: Write, gpu: FakeGpu) -> None:
    with me.Restorer(write(), halo=4) as restore:
        restore(frame_of(75, 90))
        ticket = restore._lanes[0].path.submit(frame_of(75, 90))
        gpu.failures["cuEventSynchronize"] = LogicError("the launch failed: Xid 79")
        for _ in range(2):
            with pytest.raises(me.DeviceError, match="Xid 79"):
                restore._lanes[0].path.collect(ticket)


def test_tiles_wait_for_frames_in_flight_on_an_integrated_gpu(write: Write, gpu: FakeGpu) -> None:
    """There the host writes to the memory that frames in flight pass through."""
    gpu.integrated = True
    frame, tiles = frame_of(75, 90), np.full((1, 3, *TILE), 0.25, np.float32)
    with me.TensorRTEngine(write()) as engine, me.Restorer(engine, halo=4) as restore:
        expected, restored = restore(frame), engine.run(tiles).copy()
        ticket = restore._lanes[0].path.submit(frame)
        np.testing.assert_array_equal(engine.run(tiles), restored)
        np.testing.assert_array_equal(restore._lanes[0].path.collect(ticket), expected)


# Threads


def at_once(work: Callable[[int], None], count: int) -> None:
    """Call with 0, 1, ..., each in a thread of its own."""
    threads = [threading.Thread(target=work, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_threads_take_turns(write: Write) -> None:
    frames = [frame_of(75, 90, seed=seed) for seed in range(4)]
    with me.Restorer(write(), halo=4) as restore:
        expected = [restore(frame) for frame in frames]
        found: dict[int, np.ndarray] = {}

        def work(index: int) -> None:
            for _ in range(3):
                found[index] = restore(frames[index])

        at_once(work, 4)
    for index in range(4):
        np.testing.assert_array_equal(found[index], expected[index])


def test_two_restorers_share_activation_memory(
    network: Any, trt: ModuleType, gpu: FakeGpu, tmp_path: Path
) -> None:
    """In two threads, each of which captures its graphs while the other queues work."""
    paths = plans_in(tmp_path, network, (TILE, 1), ((48, 40), 1))
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

        at_once(work, 2)
        for owner in (*restorers, *engines):
            owner.close()
    for index in range(2):
        for restored, wanted in zip(found[index], expected[index], strict=True):
            np.testing.assert_array_equal(restored, wanted)


def test_frames_are_queued_while_another_thread_waits(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = frame_of(75, 90)
    waiting, go_on = threading.Event(), threading.Event()
    with me.Restorer(write(), halo=4) as restore:
        expected, path = restore(frame), restore._lanes[0].path
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
