"""Restorer around engines of known behaviour: exact tiles, every frame, honest errors."""

from __future__ import annotations

import math
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import TINY, RawGraph, lively
from hypothesis import given, settings
from hypothesis import strategies as st

import mirnet_edge as me
from mirnet_edge.graph.rewrite import rewrite
from mirnet_edge.tiling.choice import auto_tile

RADIUS = 5


def local_mean(tiles: np.ndarray) -> np.ndarray:
    """Box filter of radius 5 with zeros beyond the tile, exact in float32: the sums of multiples of
    1/256 that it adds are."""
    size = 2 * RADIUS + 1
    padded = np.pad(tiles, ((0, 0), (0, 0), (RADIUS, RADIUS), (RADIUS, RADIUS)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(2, 3))
    return np.asarray(windows.sum((4, 5)) / 256, np.float32)


def dyadic_frame(height: int, width: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).integers(0, 257, (height, width, 3))
    return (values / 256).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 120),
    width=st.integers(1, 120),
    tile=st.tuples(st.integers(7, 24), st.integers(7, 24)).map(lambda t: (4 * t[0], 4 * t[1])),
    halo=st.integers(RADIUS, 11),
    seed=st.integers(0, 100),
)
def test_tiles_of_a_local_engine_equal_the_frame(
    height: int, width: int, tile: tuple[int, int], halo: int, seed: int
) -> None:
    frame = dyadic_frame(height, width, seed)
    whole = me.Restorer(me.FakeEngine(local_mean), tile=None)(frame)
    tiled = me.Restorer(me.FakeEngine(local_mean), tile=tile, halo=halo)(frame)
    np.testing.assert_array_equal(tiled, whole)


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 150),
    width=st.integers(1, 150),
    side=st.integers(10, 24).map(lambda n: 4 * n),
    blend=st.sampled_from([2, 4, 8]),
    seed=st.integers(0, 100),
)
def test_blended_tiles_of_a_local_engine_equal_the_frame_to_rounding(
    height: int, width: int, side: int, blend: int, seed: int
) -> None:
    frame = dyadic_frame(height, width, seed)
    whole = me.Restorer(me.FakeEngine(local_mean), tile=None)(frame)
    tiled = me.Restorer(me.FakeEngine(local_mean), tile=side, halo=RADIUS, blend=blend)(frame)
    np.testing.assert_allclose(tiled, whole, atol=1e-6)


def test_too_small_a_halo_shows() -> None:
    frame = dyadic_frame(96, 96, 0)
    whole = me.Restorer(me.FakeEngine(local_mean), tile=None)(frame)
    tiled = me.Restorer(me.FakeEngine(local_mean), tile=48, halo=RADIUS - 1)(frame)
    assert not np.array_equal(tiled, whole)


def test_fixed_engine_gets_its_size_and_reflected_pixels() -> None:
    seen = []
    engine = me.FakeEngine(lambda t: seen.append(t.copy()) or t, fixed_size=(64, 96))
    frame = np.random.default_rng(0).integers(0, 256, (50, 200, 3), np.uint8)
    out = me.Restorer(engine)(frame)
    assert set(engine.shapes) == {(1, 3, 64, 96)}
    np.testing.assert_array_equal(out, frame)
    expected = np.pad(frame[:, :96], ((0, 14), (0, 0), (0, 0)), mode="reflect") / np.float32(255)
    np.testing.assert_array_equal(seen[0][0], expected.transpose(2, 0, 1))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [None, 1, 2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3), (64, 41)])
def test_identity_engine_returns_every_kind_of_frame_unchanged(
    dtype: type, channels: int | None, size: tuple[int, int]
) -> None:
    shape = size if channels is None else (*size, channels)
    frame = np.random.default_rng(1).random(shape).astype(np.float32)
    if dtype is not np.float32:
        frame = (frame * np.iinfo(dtype).max).astype(dtype)
    tiled = me.Restorer(me.FakeEngine(), tile=32, halo=4)(frame)
    assert tiled.dtype == dtype
    np.testing.assert_array_equal(tiled, frame)


def test_alpha_is_kept_and_colour_restored() -> None:
    frame = np.random.default_rng(2).integers(0, 256, (20, 30, 4), np.uint8)
    out = me.Restorer(me.FakeEngine(lambda t: 1 - t))(frame)
    np.testing.assert_array_equal(out[..., 3], frame[..., 3])
    np.testing.assert_array_equal(out[..., :3], 255 - frame[..., :3])


def test_gray_is_shown_as_three_planes_and_their_mean_is_the_result() -> None:
    def shift(tiles: np.ndarray) -> np.ndarray:
        np.testing.assert_array_equal(tiles[:, 0], tiles[:, 2])
        offsets = np.float32([0.1, 0.2, 0.6]).reshape(1, 3, 1, 1)
        return tiles * 0 + offsets

    out = me.Restorer(me.FakeEngine(shift))(np.zeros((9, 9), np.float32))
    np.testing.assert_allclose(out, 0.3, atol=1e-6)


def test_output_is_clamped_and_rounded_half_to_even() -> None:
    values = np.float32([-0.5, 0.5 / 255, 1.5 / 255, 2.0]).reshape(1, 1, 1, 4)
    engine = me.FakeEngine(lambda t: np.broadcast_to(values, t.shape).copy())
    out = me.Restorer(engine)(np.zeros((4, 4, 3), np.uint8))
    assert out[0, :, 0].tolist() == [0, 0, 2, 255]


def test_six_channel_network_returns_three() -> None:
    facts = me.ModelFacts(in_channels=6, out_channels=3, min_size_px=4)
    engine = me.FakeEngine(lambda t: t[:, 3:].copy(), facts=facts)
    frame = np.random.default_rng(3).integers(0, 256, (37, 70, 6), np.uint8)
    out = me.Restorer(engine, tile=32, halo=4)(frame)
    np.testing.assert_array_equal(out, frame[..., 3:])
    with pytest.raises(me.FrameError, match="takes 6 channels"):
        me.Restorer(engine)(frame[..., :3])


@pytest.mark.parametrize("name", ["mirnet-v2", "mirnet"])
def test_trained_path_through_onnx_equals_torch(
    name: str, raw_graph: RawGraph, tmp_path: Path, photo: np.ndarray
) -> None:
    network = lively(me.create_model(TINY[name]))
    onnx.save(rewrite(raw_graph(name))[0], tmp_path / "tiny.onnx")
    crop = photo[10:83, 20:131]
    with me.Restorer(tmp_path / "tiny.onnx", tile=64, halo=8) as portable:
        portable_out = portable(crop.astype(np.float32) / 255)
    reference = me.Restorer(me.TorchEngine(network), tile=64, halo=8)
    reference_out = reference(crop.astype(np.float32) / 255)
    np.testing.assert_allclose(portable_out, reference_out, atol=1e-5)


def test_whole_frame_is_restored_at_once_with_tile_none(tiny_onnx: Path) -> None:
    with me.Restorer(tiny_onnx, tile=None) as restore:
        restore(np.zeros((90, 130, 3), np.uint8))
        assert restore.timings.tiles == 1
        assert restore.timings.engine_ms > 0


def test_auto_cuts_large_frames_only() -> None:
    facts = me.ModelFacts(bytes_per_pixel=376)
    restore = me.Restorer(me.FakeEngine(facts=facts))
    assert restore.tiling(300, 400).tile == (300, 400)
    large = math.prod(restore.tiling(4000, 6000).tile)
    assert 128**2 <= large <= 1024**2
    assert math.prod(restore.tiling(2000, 3000).tile) == pytest.approx(large, rel=0.2)
    heavier = me.Restorer(me.FakeEngine(facts=me.ModelFacts(bytes_per_pixel=2880)))
    assert math.prod(heavier.tiling(4000, 6000).tile) < large


def test_a_frame_a_little_larger_than_the_automatic_tile_is_not_cut_into_four_of_it() -> None:
    facts = me.ModelFacts(bytes_per_pixel=376, size_multiple=4, min_size_px=8)
    side = auto_tile(facts, 16, 0)
    restore = me.Restorer(me.FakeEngine(facts=facts))
    for length, most in ((side + 16, 1), (side + 64, 2), (2 * side, 6)):
        restore(np.zeros((length, length, 3), np.uint8))
        assert restore.timings.tiles <= most, length
    # A limit is a limit.
    restore = me.Restorer(me.FakeEngine(facts=facts), memory_limit=100 * 2**20)
    side = auto_tile(facts, 16, 0, 100 * 2**20)
    assert math.prod(restore.tiling(side + 16, side + 16).tile) < side * side


def test_out_is_written_and_buffers_are_reused(tiny_onnx: Path) -> None:
    frame = np.random.default_rng(4).integers(0, 256, (64, 64, 3), np.uint8)
    with me.Restorer(tiny_onnx) as restore:
        expected = restore(frame)
        out = np.zeros_like(frame)
        assert restore(frame, out=out) is out
        np.testing.assert_array_equal(out, expected)
        for wrong in (frame, np.zeros((64, 64, 4), np.uint8), np.zeros((64, 64, 3), np.float32)):
            with pytest.raises(me.FrameError, match="out"):
                restore(frame, out=wrong)


def test_frames_need_not_be_contiguous() -> None:
    frame = np.random.default_rng(5).integers(0, 256, (80, 60, 6), np.uint8)[::2, ::-1, 1:4]
    np.testing.assert_array_equal(me.Restorer(me.FakeEngine(), tile=32, halo=4)(frame), frame)


def test_progress_counts_the_tiles() -> None:
    calls: list[tuple[int, int]] = []
    restore = me.Restorer(me.FakeEngine(), tile=64, halo=8)
    restore(np.zeros((100, 100, 3), np.uint8), progress=lambda *call: calls.append(call))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert restore.timings.tiles == 4


def test_threads_share_one_restorer_without_mixing_frames() -> None:
    restore = me.Restorer(me.FakeEngine(), tile=32, halo=4)
    frames = [np.full((150, 150, 3), value, np.uint8) for value in range(8)]
    results: dict[int, np.ndarray] = {}

    def work(index: int) -> None:
        results[index] = restore(frames[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, frame in enumerate(frames):
        np.testing.assert_array_equal(results[index], frame)


def test_use_after_close_is_an_error_and_closing_twice_is_not(tiny_onnx: Path) -> None:
    restore = me.Restorer(tiny_onnx)
    restore.close()
    restore.close()
    with pytest.raises(me.EngineError, match="closed"):
        restore(np.zeros((8, 8, 3), np.uint8))
    engine = me.FakeEngine()
    with me.Restorer(engine):
        pass
    assert not engine.closed  # whoever opened it closes it


@pytest.mark.parametrize("tile", ["auto", None, (8, 16)])
@pytest.mark.parametrize("height", [1, 3, 4, 5, 8])
@pytest.mark.parametrize("width", [1, 4, 7, 50])
def test_frames_below_the_least_size_are_padded_to_it(
    tile: tuple[int, int] | str | None, height: int, width: int
) -> None:
    engine = me.FakeEngine(facts=me.ModelFacts(min_size_px=8))
    frame = np.random.default_rng(6).integers(0, 256, (height, width, 3), np.uint8)
    out = me.Restorer(engine, tile=tile, halo=0)(frame)  # type: ignore[arg-type]
    np.testing.assert_array_equal(out, frame)
    assert all(min(shape[2:]) >= 8 for shape in engine.shapes)


def test_engine_may_return_a_buffer_that_cannot_be_written() -> None:
    def frozen(tiles: np.ndarray) -> np.ndarray:
        out = tiles.copy()
        out.flags.writeable = False
        return out

    frame = np.random.default_rng(7).integers(0, 256, (40, 40, 3), np.uint8)
    out = me.Restorer(me.FakeEngine(frozen), tile=32, halo=4, blend=4)(frame)
    np.testing.assert_array_equal(out, frame)


def test_calls_and_a_stream_take_turns() -> None:
    """A call while the stream's worker is in the engine, with tiles of the same size."""
    inside, go_on = threading.Event(), threading.Event()

    def slow(tiles: np.ndarray) -> np.ndarray:
        seen = tiles.copy()
        if not inside.is_set():
            inside.set()
            go_on.wait(0.5)
        np.testing.assert_array_equal(tiles, seen)
        return tiles

    frames = [np.full((40, 40, 3), value, np.uint8) for value in (10, 20)]
    restore = me.Restorer(me.FakeEngine(slow), tile=None)
    called: list[np.ndarray] = []

    def call() -> None:
        inside.wait()
        called.append(restore(frames[1]))
        go_on.set()

    thread = threading.Thread(target=call)
    thread.start()
    (streamed,) = restore.stream([frames[0]])
    thread.join()
    np.testing.assert_array_equal(streamed, frames[0])
    np.testing.assert_array_equal(called[0], frames[1])


def test_closing_waits_for_a_call() -> None:
    inside, go_on = threading.Event(), threading.Event()

    def slow(tiles: np.ndarray) -> np.ndarray:
        inside.set()
        go_on.wait(5)
        return tiles

    restore = me.Restorer(me.FakeEngine(slow), tile=None)
    closing = threading.Thread(target=restore.close)
    frame = np.full((40, 40, 3), 7, np.uint8)

    def close() -> None:
        inside.wait()
        closing.start()
        closing.join(0.2)
        assert closing.is_alive()
        go_on.set()

    thread = threading.Thread(target=close)
    thread.start()
    np.testing.assert_array_equal(restore(frame), frame)
    thread.join()
    closing.join()
    with pytest.raises(me.EngineError, match="closed"):
        restore(frame)
