"""What a Restorer refuses: frames, tiles, engines and memory limits that cannot be."""

from __future__ import annotations

import math

import numpy as np
import pytest

import mirnet_edge as me


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.zeros((0, 5, 3), np.uint8), "no pixels"),
        (np.zeros((5, 0, 3), np.uint8), "no pixels"),
        (np.zeros((5, 5, 3), np.float64), "float64"),
        (np.zeros((5, 5, 3), np.int32), "int32"),
        (np.zeros((5, 5, 5), np.uint8), "5 channels"),
        (np.zeros((3, 50, 50), np.uint8), "must be transposed"),
        (np.zeros(5, np.uint8), r"\(5,\)"),
        (np.zeros((1, 5, 5, 3), np.uint8), "need \\(height, width\\)"),
        ([[1, 2], [3, 4]], "list"),
    ],
)
def test_what_is_no_frame_is_refused(frame: np.ndarray, message: str) -> None:
    with pytest.raises(me.FrameError, match=message):
        me.Restorer(me.FakeEngine())(frame)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tile": 130}, "multiples of 4"),
        ({"tile": 32, "halo": 16}, "too small for halo=16"),
        ({"tile": (128, 30)}, "multiples of 4"),
        ({"tile": "large"}, "'large'"),
    ],
)
def test_impossible_tiles_are_refused_at_once(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(me.TilingError, match=message):
        me.Restorer(me.FakeEngine(), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("tile", [None, 64])
def test_fixed_engine_refuses_other_tiles(tile: int | None) -> None:
    with pytest.raises(me.TilingError, match="takes only"):
        me.Restorer(me.FakeEngine(fixed_size=(32, 96)), tile=tile, halo=4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_engine_that_returns_no_numbers_is_an_error(bad: float) -> None:
    def poison(tiles: np.ndarray) -> np.ndarray:
        out = tiles.copy()
        out[0, 1, 2, 3] = bad
        return out

    with pytest.raises(me.EngineError, match="NaN or infinity in rows 0-8"):
        me.Restorer(me.FakeEngine(poison))(np.zeros((8, 8, 3), np.uint8))


def test_engine_that_returns_another_shape_is_an_error() -> None:
    engine = me.FakeEngine(lambda t: t[:, :, ::2])
    with pytest.raises(me.EngineError, match=r"\(1, 3, 4, 8\)"):
        me.Restorer(engine)(np.zeros((8, 8, 3), np.uint8))


def test_tile_below_the_least_size_is_refused() -> None:
    engine = me.FakeEngine(facts=me.ModelFacts(min_size_px=8))
    with pytest.raises(me.TilingError, match="at least 8"):
        me.Restorer(engine, tile=4, halo=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"halo": 3000}, "halo=3000 and blend=0 need tiles of at least 6004"),
        ({"halo": -5}, "halo=-5"),
        ({"blend": 3}, "blend=3"),
        ({"halo": 1.5}, "whole pixels"),
        ({"blend": 2.0}, "whole pixels"),
        ({"tile": 64.5}, "whole pixels"),
        ({"tile": (64,)}, "whole pixels"),
        ({"tile": (64, 64, 64)}, "whole pixels"),
    ],
)
def test_impossible_geometry_shows_before_the_first_frame(
    arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(me.TilingError, match=message):
        me.Restorer(me.FakeEngine(), **arguments)  # type: ignore[arg-type]


def test_an_engine_that_was_opened_here_is_closed_where_the_rest_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Choice:
        left = ()

        def open(self) -> list[me.FakeEngine]:
            return [engine]

    engine = me.FakeEngine()
    monkeypatch.setattr("mirnet_edge.engine_choice.opening.choice_of", lambda *_: Choice())
    with pytest.raises(me.TilingError, match="halo=3000"):
        me.Restorer("net.onnx", halo=3000, tuned=False)
    assert engine.closed


def test_what_cannot_run_is_no_engine() -> None:
    with pytest.raises(me.EngineError, match="a NoneType is no engine"):
        me.Restorer(None)  # type: ignore[arg-type]


def test_float_frame_with_nan_is_refused() -> None:
    frame = np.zeros((40, 40, 3), np.float32)
    frame[35, 3, 1] = np.nan
    with pytest.raises(me.FrameError, match="NaN or infinity in rows"):
        me.Restorer(me.FakeEngine(), tile=32, halo=4)(frame)


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize(("bad", "said"), [(np.nan, "NaN or infinity in alpha"), (255, "in alpha")])
def test_alpha_is_checked_too(channels: int, bad: float, said: str) -> None:
    frame = np.zeros((40, 40, channels), np.float32)
    frame[35, 3, -1] = bad
    with pytest.raises(me.FrameError, match=said):
        me.Restorer(me.FakeEngine(), tile=32, halo=4)(frame)


def test_an_output_that_is_no_array() -> None:
    restore = me.Restorer(me.FakeEngine(), tile=None)
    with pytest.raises(me.FrameError, match="out must be a numpy array, not list"):
        restore(np.zeros((40, 40, 3), np.uint8), out=[])


@pytest.mark.parametrize("pixels", ["auto", "rgb"])
def test_masked_frames_are_refused(pixels: str) -> None:
    frame = np.ma.MaskedArray(np.zeros((5, 7, 3), np.uint8), mask=True)
    with (
        me.Restorer(me.FakeEngine(), pixels=pixels) as restore,
        pytest.raises(me.FrameError, match=r"is masked; .*filled"),
    ):
        restore(frame)


# Memory limits of engines that have no card


def weighing(bytes_per_pixel: int) -> me.FakeEngine:
    return me.FakeEngine(facts=me.ModelFacts(bytes_per_pixel=bytes_per_pixel))


def test_automatic_tiles_shrink_with_the_limit() -> None:
    limits = (64 << 20, 16 << 20, 8 << 20, 2 << 20, 1 << 20)
    pixels = [
        math.prod(me.Restorer(weighing(400), halo=8, memory_limit=limit).tiling(4000, 6000).tile)
        for limit in limits
    ]
    for count, side, limit in zip(pixels, (256, 128, 96, 32, 32), limits):
        assert 0.9 * side * side <= count <= side * side, "the largest square, or one as large"
        assert 2.1 * 400 * count <= limit


def test_a_limit_that_no_tile_keeps_is_an_error_that_says_what_would_fit() -> None:
    message = r"memory_limit=1,024 bytes: a tile of 64x64 pixels takes about 3,440,640 with this "
    with pytest.raises(me.TilingError, match=message + r"model; allow that$"):
        me.Restorer(weighing(400), memory_limit=1024)
    with pytest.raises(me.TilingError, match="memory_limit=1,024 bytes"):
        me.Restorer("edge-s-denoise", memory_limit=1024)


def test_a_tile_that_exceeds_the_limit_is_an_error() -> None:
    message = r"a tile of 512x256 pixels takes about 110,100,480 .*; allow that, or .* at most 108$"
    with pytest.raises(me.TilingError, match=message):
        me.Restorer(weighing(400), tile=(512, 256), memory_limit=10_000_000)
    me.Restorer(weighing(400), tile=108, memory_limit=10_000_000)
    fixed = me.FakeEngine(facts=me.ModelFacts(bytes_per_pixel=400), fixed_size=(512, 256))
    with pytest.raises(me.TilingError, match="a tile of 512x256 pixels"):
        me.Restorer(fixed, memory_limit=10_000_000)


def test_a_whole_frame_that_exceeds_the_limit_is_an_error() -> None:
    restore = me.Restorer(weighing(400), tile=None, memory_limit=1_000_000)
    assert restore(np.zeros((32, 33, 3), np.uint8)).shape == (32, 33, 3)
    with pytest.raises(me.TilingError, match=r"a tile of 32x40 pixels takes about 1,075,200"):
        restore(np.zeros((32, 37, 3), np.uint8))
