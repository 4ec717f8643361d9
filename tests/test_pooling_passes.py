"""Tiles that agree with the frame: against the untiled run, over frames, and where they cannot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import TINY, RawGraph

import mirnet_edge as me
from mirnet_edge.frames.noise import add_gaussian_noise
from mirnet_edge.graph.rewrite import rewrite
from mirnet_edge.metrics import psnr
from mirnet_edge.pooling.passes import MODES, Mode, StatisticsSettings, rotated
from mirnet_edge.pooling.vectors import Partial, Pool, Statistics, Weights

EXACT = StatisticsSettings("frame", tolerance=1e-6)
Export = Callable[[str, bool], Path]


@pytest.fixture
def exported(raw_graph: RawGraph, tmp_path: Path) -> Export:
    """Files of networks of `TINY` with lively weights and open sizes."""

    def export(name: str, rewritten: bool) -> Path:
        path = tmp_path / f"{name}.onnx"
        onnx.save(rewrite(raw_graph(name))[0] if rewritten else raw_graph(name), path)
        return path

    return export


def random_frame(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Brighter and busier to the right, so that tiles differ."""
    noise = np.random.default_rng(seed).random((height, width, channels), np.float32)
    ramp = np.linspace(0.1, 1, width, dtype=np.float32)[:, None]
    return np.asarray(ramp * (0.3 + 0.7 * ramp * noise), np.float32)


# Against the untiled run


@pytest.mark.parametrize("rewritten", [False, True])
@pytest.mark.parametrize("name", ["mirnet", "mirnet-v2", "edge", "edge-x3"])
def test_exact_statistics_at_the_local_support_equal_the_untiled_frame(
    name: str, rewritten: bool, exported: Export
) -> None:
    model = exported(name, rewritten)
    told = {"noise": 20.0} if TINY[name].noise_level else {}
    with me.Restorer(model, tile=None, **told) as restore:
        halo = restore.facts.local_support_px
        assert halo is not None
        side = 2 * halo + 24
        frame = random_frame(side + 27, side + 46)
        whole = restore(frame)
    with me.Restorer(model, tile=side, halo=halo, statistics=EXACT, **told) as restore:
        tiled = restore(frame)
        assert restore.timings.tiles >= 6
        assert restore.statistics is not None
        assert restore.timings.passes == len(restore.statistics.moves)
        assert restore.statistics.moves[-1] <= 1e-6
        # A chain of few pools is settled by the samples, which are all tiles of so small a frame.
        assert name.startswith("edge") or restore.statistics.moves[0] > 1e-6
    with me.Restorer(model, tile=side, halo=halo, **told) as restore:
        own = restore(frame)
    scale = np.ptp(whole)
    assert np.abs(tiled - whole).max() <= 1e-4 * scale
    assert np.abs(own - whole).max() > 1e-3 * scale


def test_exact_statistics_of_the_bundled_model_equal_the_untiled_frame(photo: np.ndarray) -> None:
    noisy = add_gaussian_noise(photo[:250, :270], 25, seed=0)
    with me.Restorer("edge-s-denoise", tile=None) as restore:
        whole, halo = restore(noisy), restore.facts.local_support_px
        assert halo is not None
    with me.Restorer("edge-s-denoise", tile=232, halo=halo, statistics="frame") as restore:
        assert np.abs(restore(noisy) - whole).max() <= 1e-4
        assert restore.timings.tiles >= 4
        assert restore.timings.passes > 1


@pytest.mark.parametrize("size", [(65, 130), (125, 67), (118, 131)])
def test_exact_statistics_are_those_of_the_padded_frame(
    size: tuple[int, int], exported: Export
) -> None:
    """Odd sizes: an untiled run pools the reflected pixels too."""
    model = exported("mirnet-v2", False)
    frame = random_frame(*size, seed=3)
    with me.Restorer(model, tile=None) as restore:
        halo = restore.facts.local_support_px or 0
        padded = np.pad(
            frame, ((0, -size[0] % 4), (0, -size[1] % 4), (0, 0)), mode="reflect"
        ).transpose(2, 0, 1)[None]
        engine = restore.engine
        assert isinstance(engine, me.OnnxEngine)
        height, width = padded.shape[2:]
        region = Weights.of((height, width), slice(0, height), slice(0, width))
        _, partial = engine.statistics.gather(padded, region, None)
    with me.Restorer(model, tile=2 * halo + 8, halo=halo, statistics=EXACT) as restore:
        restore(frame)
        assert restore.timings.tiles > 1
        assert restore.statistics is not None
        assert restore.statistics.current.vectors
        assert restore.statistics.current.distance(Statistics(partial.vectors)) <= 1e-5


def test_more_statistics_come_closer_to_the_untiled_frame(photo: np.ndarray) -> None:
    """The bundled denoiser on a quarter of the bundled photo, tile 128, halo 32."""
    noisy = add_gaussian_noise(photo[:180, :230], 25, seed=0)
    with me.Restorer("edge-s-denoise", tile=None) as restore:
        whole = restore(noisy)
    decibels = {}
    for mode in MODES:
        with me.Restorer("edge-s-denoise", tile=128, halo=32, statistics=mode) as restore:
            decibels[mode] = psnr(restore(noisy), whole)
            if mode == "stream":
                assert psnr(restore(noisy), whole) > decibels["stream"]
    # Convolutions reach 96 pixels, so that a halo of 32 leaves something.
    assert decibels["frame"] >= 80, decibels
    assert min(decibels["frame-fast"], decibels["stream"]) >= 60 > decibels["tile"], decibels


def test_blended_tiles_and_every_kind_of_frame_are_taken(tiny_onnx: Path) -> None:
    frame = (255 * random_frame(90, 120)).astype(np.uint8)
    for mode in MODES:
        with me.Restorer(tiny_onnx, tile=64, halo=8, blend=4, statistics=mode) as restore:
            assert restore(frame).shape == frame.shape
            gray = restore(frame[..., 0])
            assert gray.dtype == np.uint8
            np.testing.assert_array_equal(restore(np.dstack([frame] * 2)[..., :4])[..., 3],
                                          frame[..., 0])  # fmt: skip


# Over frames


class CountedEngine:
    """Statistics of an engine with one mean: the tile's own mean is added to the tile."""

    def __init__(self) -> None:
        self.pools = (Pool("mean", "mean", 1, 1),)
        self.gathered: list[float] = []
        self.used: list[float] = []

    def gather(
        self, tiles: np.ndarray, region: Weights, statistics: Statistics | None
    ) -> tuple[np.ndarray, Partial]:
        mean = (tiles[:, :1] * region.rows * region.columns).sum((2, 3), keepdims=True)
        self.gathered.append(float(mean.item()))
        own = statistics or Statistics((mean,))
        return self.apply(tiles, own), Partial((mean,), (0.0,), region.area)

    def apply(self, tiles: np.ndarray, statistics: Statistics) -> np.ndarray:
        self.used.append(float(statistics.vectors[0].item()))
        return np.asarray(tiles / 2 + statistics.vectors[0] / 2, np.float32)


def counted(mode: Mode, **arguments: float) -> tuple[me.Restorer, CountedEngine]:
    engine = CountedEngine()
    chosen = StatisticsSettings(mode, **arguments)  # type: ignore[arg-type]
    fake = me.FakeEngine(statistics=engine)
    return me.Restorer(fake, tile=32, halo=4, statistics=chosen), engine


def test_exact_statistics_start_from_the_last_frame_s() -> None:
    restore, engine = counted("frame", samples=4)
    frame = random_frame(100, 152)
    out = restore(frame)
    mean = frame[..., 0].mean()
    np.testing.assert_allclose(out[..., 0], frame[..., 0] / 2 + mean / 2, atol=1e-5)
    tiles = restore.timings.tiles
    assert (restore.timings.passes, restore.timings.samples) == (2, 2 * 4)
    assert len(engine.gathered) == 2 * 4 + 2 * tiles
    restore(frame)
    assert (restore.timings.passes, restore.timings.samples) == (1, 0)


def test_fast_statistics_are_sampled_in_every_frame() -> None:
    restore, engine = counted("frame-fast", samples=4, rounds=1)
    for _ in range(2):
        restore(random_frame(100, 152))
        assert (restore.timings.passes, restore.timings.samples) == (1, 4)
    assert len(engine.gathered) == 8
    assert len(set(engine.used[4:])) < len(engine.used[4:])


def test_a_stream_gathers_from_a_share_of_the_tiles_and_from_each_in_turn() -> None:
    restore, engine = counted("stream", settling=2, share=0.25, samples=4, rounds=1)
    still = random_frame(100, 152)
    restore(still)
    tiles = restore.timings.tiles
    assert len(engine.gathered) == 4 + tiles
    turns: list[float] = []
    for gathers in [tiles] + 4 * [-(-tiles // 4)]:
        engine.gathered.clear()
        restore(still)
        assert (restore.timings.passes, restore.timings.samples) == (1, 0)
        assert len(engine.gathered) == gathers
        turns += engine.gathered
    assert sorted(turns[tiles:][:tiles]) == sorted(turns[:tiles])
    assert engine.used[-1] == pytest.approx(still[..., 0].mean(), abs=1e-6)


def test_a_stream_follows_slow_change_and_averages_over_frames() -> None:
    restore, engine = counted("stream", settling=1, share=1, weight=0.5)
    for level in (0.5, 0.5, 0.52, 0.52, 0.52):
        restore(np.full((100, 152, 3), level, np.float32))
    used = [engine.used[-1 - frame * restore.timings.tiles] for frame in range(3)][::-1]
    assert used == pytest.approx([0.5, 0.51, 0.515], abs=1e-5)


def test_a_scene_cut_starts_anew() -> None:
    restore, engine = counted("stream", samples=4, rounds=2)
    dark, bright = (np.full((100, 152, 3), level, np.float32) for level in (0.2, 0.7))
    for frame in (dark, dark, bright):
        engine.used.clear()
        restore(frame)
    assert restore.timings.samples == 2 * 4
    assert set(np.round(engine.used, 5)) == {0.7}
    restore(bright[:96])
    assert restore.timings.samples > 0, "another size is another scene"
    restore(bright[:96])
    assert restore.timings.samples == 0


def test_a_frame_that_fails_leaves_nothing_behind() -> None:
    restore, _ = counted("stream")
    good = random_frame(100, 152)
    restore(good)
    bad = good.copy()
    bad[70, 70] = np.nan
    with pytest.raises(me.FrameError, match="NaN"):
        restore(bad)
    restore(good)
    assert restore.timings.samples > 0


def test_one_tile_needs_no_statistics() -> None:
    for mode in MODES:
        engine = CountedEngine()
        restore = me.Restorer(me.FakeEngine(statistics=engine), tile=64, halo=4, statistics=mode)
        np.testing.assert_array_equal(restore(random_frame(50, 60)), random_frame(50, 60))
        assert restore.timings.passes == 1
        assert engine.gathered == []


@pytest.mark.parametrize("count", [1, 2, 3, 10, 35, 64])
def test_every_tile_has_its_turn(count: int) -> None:
    assert sorted(rotated(turn, count) for turn in range(count)) == list(range(count))


# What cannot be


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "frames"}, "statistics='frames': need one of tile, frame, frame-fast, stream"),
        ({"share": 0}, "share=0"),
        ({"weight": 1.5}, "weight=1.5"),
        ({"tolerance": -1}, "tolerance=-1"),
        ({"cut": float("nan")}, "cut=nan"),
        ({"samples": 0}, "samples=0"),
        ({"rounds": 0}, "rounds=0"),
        ({"settling": 0}, "settling=0"),
    ],
)
def test_settings_that_cannot_be_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(me.TilingError, match=message):
        StatisticsSettings(**arguments)  # type: ignore[arg-type]


def test_an_engine_without_open_pools_is_refused() -> None:
    engine = me.TorchEngine(me.create_model(TINY["mirnet-v2"]))
    for statistics in ("frame", EXACT):
        with pytest.raises(me.EngineError, match=r"TorchEngine .* export the network to \.onnx"):
            me.Restorer(engine, statistics=statistics)  # type: ignore[arg-type]
    with pytest.raises(me.EngineError, match="FakeEngine"):
        me.Restorer(me.FakeEngine(), statistics="stream")
    with pytest.raises(me.TilingError, match="'whole'"):
        me.Restorer(me.FakeEngine(), statistics="whole")  # type: ignore[arg-type]


def test_statistics_of_a_closed_engine_are_an_error(tiny_onnx: Path) -> None:
    engine = me.OnnxEngine(tiny_onnx)
    engine.close()
    with pytest.raises(me.EngineError, match="closed"):
        me.Restorer(engine, statistics="frame")


def test_without_onnx_the_error_names_the_extra(
    tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnx_ir", None)
    with pytest.raises(me.MissingDependencyError, match=r'pip install "mirnet-edge\[graph\]"'):
        me.Restorer(tiny_onnx, statistics="frame")
