"""The compiled engine on a GPU in host memory, where PyTorch computes on the CPU: against the
portable engine and FP32, and what happens where compiling, memory or precision do not suffice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_torch
import numpy as np
import onnx
import pytest
import torch
from conftest import TINY, RawGraph, lively
from device_frames import OnDevice, assert_near, frame_of
from fake_gpu import FakeGpu
from fake_torch import FakeTorchDevice

import mirnet_edge as me
from mirnet_edge.engines.compiled import engine as compiled_engine
from mirnet_edge.engines.compiled.engine import CompiledEngine
from mirnet_edge.engines.protocol import works_on_device
from mirnet_edge.pooling.passes import MODES, StatisticsSettings
from mirnet_edge.pooling.vectors import Statistics, Weights

TILE = (32, 40)
Made = list[FakeTorchDevice]


@pytest.fixture
def portable(raw_graph: RawGraph, tmp_path: Path) -> Callable[..., me.Restorer]:
    """The same network on ONNX Runtime, which takes any size as well; as it was exported, for a
    rewrite moves means to where those of tiles are others."""
    path = tmp_path / "net.onnx"
    onnx.save(raw_graph("mirnet-v2"), path)

    def opened(**options: Any) -> me.Restorer:
        return me.Restorer(path, provider="CPUExecutionProvider", tile=TILE, **options)

    return opened


@pytest.fixture
def made(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> Made:
    return fake_torch.install(monkeypatch, gpu)


def tiny(name: str = "mirnet-v2") -> Any:
    """Of the weights that the portable engine has, too."""
    return lively(me.create_model(TINY[name], seed=0))


def opened(name: str = "mirnet-v2", **options: Any) -> CompiledEngine:
    return me.CompiledEngine(tiny(name), **{"precision": "fp32", "mode": "off", **options})


class Compiler:
    """In place of ``torch.compile``: notes what it is asked for."""

    def __init__(self, change: Callable[[Any], Any] = lambda found: found) -> None:
        self.asked: list[dict[str, Any]] = []
        self._change = change

    def __call__(self, form: Any, **options: Any) -> Any:
        self.asked.append(options)
        return lambda *given: self._change(form(*given))


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    found = Compiler()
    monkeypatch.setattr(torch, "compile", found)
    return found


# The same result as the reference


@pytest.mark.parametrize("name", ["mirnet-v2", "mirnet", "edge", "edge-x3", "defocus"])
def test_tiles_of_every_network(name: str, made: Made) -> None:
    network = tiny(name)
    tiles = np.random.default_rng(0).random((3, network.config.in_planes, 48, 72), np.float32)
    expected = me.TorchEngine(network).run(tiles)
    with opened(name, batch=2) as engine:
        np.testing.assert_allclose(engine.run(tiles), expected, atol=2e-5)
        assert engine.fixed_size is None
        assert works_on_device(engine)
        assert engine.proof.psnr_db > 100
    with opened(name, precision="fp16") as engine:
        found = engine.run(tiles)
        assert engine.image.dtype == engine.restored.dtype == "float16"
        assert 0 < np.abs(found - expected).max() < 0.02 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("size", "batch", "blend"), [((1, 1), 1, 0), ((33, 41), 4, 8), ((97, 131), 3, 4)]
)
def test_frames_in_tiles(
    size: tuple[int, int],
    batch: int,
    blend: int,
    made: Made,
    portable: Callable[..., me.Restorer],
) -> None:
    options = {"halo": 4, "blend": blend}
    with (
        opened(batch=batch) as engine,
        me.Restorer(engine, tile=TILE, **options) as restore,
        portable(**options) as expected,
    ):
        for seed in range(2):
            frame = frame_of(*size, seed=seed)
            found = restore(frame)
            assert_near(found, expected(frame))
            np.testing.assert_array_equal(restore(OnDevice(frame)).copy_to_host(), found)
        assert type(restore._lanes[0].path).__name__ == "DevicePath"


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_statistics_of_the_frame(
    mode: Any, batch: int, made: Made, portable: Callable[..., me.Restorer]
) -> None:
    settings = StatisticsSettings(mode, samples=4, settling=1, share=0.3)
    options = {"halo": 4, "statistics": settings}
    with (
        opened(batch=batch) as engine,
        me.Restorer(engine, tile=TILE, **options) as restore,
        portable(**options) as expected,
    ):
        for seed in (0, 0, 0, 1):
            frame = frame_of(75, 90, dtype=np.float32, seed=seed)
            assert_near(restore(frame), expected(frame))
            timings, wanted = restore.timings, expected.timings
            assert (timings.passes, timings.samples) == (wanted.passes, wanted.samples)


def test_what_tiles_contribute(made: Made, portable: Callable[..., me.Restorer]) -> None:
    tiles = np.random.default_rng(0).random((1, 3, *TILE), np.float32)
    region = Weights.of(TILE, slice(4, 28), slice(8, 40))
    with opened() as engine, portable(halo=4) as reference:
        wanted = reference.engine.statistics  # type: ignore[attr-defined]
        found, expected = engine.statistics, wanted
        kinds = [(pool.kind, pool.channels, pool.scale) for pool in found.pools]
        assert sorted(kinds) == sorted((p.kind, p.channels, p.scale) for p in expected.pools)
        restored, partial = found.gather(tiles, region, None)
        again, other = expected.gather(tiles, region, None)
        np.testing.assert_allclose(restored, again, atol=1e-4)
        assert partial.area == other.area
        sums = sorted(float(vector.sum()) for vector in partial.vectors)
        np.testing.assert_allclose(sums, sorted(float(v.sum()) for v in other.vectors), atol=1e-3)
        np.testing.assert_allclose(sorted(partial.log_masses), sorted(other.log_masses), atol=1e-4)
        # The engines number their pools differently: vectors are for the one they came from.
        shared = Statistics.of([partial])
        np.testing.assert_allclose(
            found.apply(tiles, shared), found.gather(tiles, region, shared)[0], atol=1e-5
        )


# Sizes, graphs and memory


def test_another_size_is_another_generation(made: Made, gpu: FakeGpu) -> None:
    with opened() as engine:
        assert engine.image.address == 0, "no memory before a size is known"
        assert engine.image.shape == (1, 3, 4, 4)
        first = engine.fit(TILE)
        assert engine.fit(TILE) == first
        assert engine.image.shape == (1, 3, *TILE)
        held = gpu.used_bytes()
        assert engine.fit((64, 64)) != first
        assert engine.fit(TILE) not in (first, first + 1)
        assert gpu.used_bytes() == held, "what the other size needed is given back"
        assert engine.device_bytes.activations == 4096


def test_two_restorers_share_an_engine(made: Made) -> None:
    frame = frame_of(60, 75)
    with (
        opened() as engine,
        me.Restorer(engine, tile=TILE, halo=4) as one,
        me.Restorer(engine, tile=(64, 80), halo=4) as other,
    ):
        expected = one(frame), other(frame)
        for _ in range(2):
            np.testing.assert_array_equal(one(frame), expected[0])
            np.testing.assert_array_equal(other(frame), expected[1])


def test_frames_in_flight_outlive_another_size(made: Made) -> None:
    frames = [frame_of(40, 60), frame_of(60, 40), frame_of(40, 60, seed=1)]
    with opened() as engine, me.Restorer(engine, tile=None) as restore:
        expected = [restore(frame) for frame in frames]
        path = restore._lanes[0].path
        tickets = [path.submit(frame) for frame in frames[:2]]  # type: ignore[union-attr]
        for ticket, wanted in zip(tickets, expected):
            np.testing.assert_array_equal(path.collect(ticket), wanted)  # type: ignore[union-attr]


def test_frames_and_tiles_are_graphs(made: Made, gpu: FakeGpu) -> None:
    frame = frame_of(60, 75)
    with opened() as engine, me.Restorer(engine, tile=TILE, halo=4, frame_size=(60, 75)) as restore:
        launches, queued = gpu.launches, len(made[0].queued)
        restore(frame)
        assert gpu.launches == launches + restore.timings.tiles
        assert len(made[0].queued) == queued, "PyTorch was asked again"
        assert made[0].queued[-1], "captured without memory of its own"
        assert len(engine.measure(4)[1]) == 4
    assert gpu.used_bytes() == 0


def test_the_largest_tile_that_fits(made: Made, gpu: FakeGpu) -> None:
    frame = frame_of(300, 400)
    with opened() as engine:
        with me.Restorer(engine) as restore:
            restore(frame)
            assert restore.timings.tiles == 1
        limit = 2 * fake_torch.BYTES_PER_PIXEL * 200 * 200
        assert 36_000 < engine.pixels_within(limit) < 40_000
        with me.Restorer(engine, memory_limit=20 * limit) as restore:
            assert restore.tiling(300, 400).tile == (300, 400)
        with me.Restorer(engine, memory_limit=limit, halo=8) as restore:
            assert restore.tiling(300, 400).tile != (300, 400)
        with pytest.raises(me.TilingError, match="there is memory for"):
            me.Restorer(engine, memory_limit=300_000)


# Compiling


def test_what_stays_is_compiled(made: Made, compiler: Compiler) -> None:
    frame = frame_of(40, 60)
    with opened(mode="auto") as engine:
        with me.Restorer(engine, tile=None) as restore:
            restore(frame)
            assert not compiler.asked
        with me.Restorer(engine, tile=None, frame_size=(40, 60)) as restore:
            expected = restore(frame)
        options = {"dynamic": False, "fullgraph": True}
        assert compiler.asked == [{"mode": "max-autotune-no-cudagraphs", **options}]
        assert engine.compiled
        assert engine.proof.compiled
        with me.Restorer(engine, tile=None) as restore:  # nor is it thrown away
            np.testing.assert_array_equal(restore(frame), expected)
        assert engine.compiled
    with opened(mode="default") as engine:
        engine.fit(TILE)
        assert compiler.asked[1]["mode"] == "default"


def test_many_frames_of_a_size_are_worth_compiling(
    made: Made, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled_engine, "COMPILE_AFTER_FRAMES", 3)
    frame = frame_of(40, 60)
    with opened(mode="auto") as engine, me.Restorer(engine, tile=None) as restore:
        found = [restore(frame) for _ in range(2)]
        assert not engine.compiled
        found += [restore(frame) for _ in range(3)]
        assert engine.compiled
        assert len(compiler.asked) == 1
        for each in found:
            np.testing.assert_array_equal(each, found[0])


def test_statistics_are_compiled_too(made: Made, compiler: Compiler) -> None:
    with opened(mode="default") as engine:
        options = {"tile": TILE, "halo": 4, "statistics": "frame"}
        with me.Restorer(engine, **options) as restore:
            restore(frame_of(60, 75))
        assert len(compiler.asked) == 3


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("Triton is broken"), "RuntimeError: Triton is broken"),
        (torch.cuda.OutOfMemoryError("no room to tune"), "OutOfMemoryError: no room to tune"),
        (ImportError("no cc"), "ImportError: no cc"),
    ],
)
def test_without_a_compiler_it_runs_all_the_same(
    error: Exception, said: str, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(found: Any) -> Any:
        raise error

    monkeypatch.setattr(torch, "compile", Compiler(fails))
    frame = frame_of(40, 60)
    with opened() as engine, me.Restorer(engine, tile=None) as restore:
        expected = restore(frame)
    with opened(mode="default") as engine, me.Restorer(engine, tile=None) as restore:
        np.testing.assert_array_equal(restore(frame), expected)
        assert not engine.compiled
        assert engine.notes == [f"not compiled: {said}"]
        restore(frame)
        assert len(engine.notes) == 1, "tried again"
        assert engine.measure(2)[1], "no graph"


def test_code_that_is_wrong_is_not_run(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", Compiler(lambda found: (found[0] + 0.05,)))
    frame = frame_of(40, 60)
    with opened() as engine, me.Restorer(engine, tile=None) as restore:
        expected = restore(frame)
    with opened(mode="default") as engine, me.Restorer(engine, tile=None) as restore:
        np.testing.assert_array_equal(restore(frame), expected)
        assert "compiled code is" in engine.notes[0]
        assert not engine.compiled


def test_a_machine_without_triton(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeTorchDevice, "why_no_compiler", lambda self: "Triton is not installed")
    with opened(mode="max-autotune") as engine:
        engine.fit(TILE)
        assert engine.notes == ["not compiled: Triton is not installed"]


# Precision


def test_a_precision_that_is_too_far_from_fp32(
    made: Made, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with me.CompiledEngine(tiny(), mode="off") as engine:
        assert (engine.precision, engine.proof.precision) == ("fp16", "fp16")
        assert 50 < engine.proof.psnr_db < 110
    wide = tiny()
    with torch.no_grad():
        wide.conv_in.weight *= 1e5  # beyond what FP16 holds
    with me.CompiledEngine(wide, mode="off") as engine:
        assert engine.precision == "tf32"
        assert engine.image.dtype == "float32"
    assert "nan dB from FP32" in caplog.text
    assert "running in TF32" in caplog.text
    with pytest.raises(me.EngineError, match='take precision="auto", which chooses'):
        me.CompiledEngine(wide, precision="fp16", mode="off")


@pytest.mark.parametrize(
    "options", [{"precision": "int8"}, {"mode": "fast"}, {"batch": 0}, {"batch": 1.0}]
)
def test_options_that_there_are_not(options: dict[str, Any], made: Made) -> None:
    with pytest.raises(me.EngineError, match="need"):
        opened(**options)


# Errors


def test_out_of_memory(made: Made) -> None:
    with opened() as engine:
        made[0].failures["run"] = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried 3 GiB")
        with pytest.raises(me.DeviceMemoryError, match=r"out of memory: CUDA out .* smaller tile"):
            engine.fit(TILE)
        engine.fit(TILE)  # what failed is given back, and it can go on
        made[0].failures["queue"] = RuntimeError("CUDA error: an illegal memory access")
        with pytest.raises(me.EngineError, match=r"illegal memory access; if every call now fails"):
            engine.enqueue()


def test_an_engine_before_and_after_its_time(made: Made) -> None:
    engine = opened()
    with pytest.raises(me.EngineError, match=r"call fit\(\(height, width\)\) first"):
        engine.enqueue()
    with pytest.raises(me.EngineError, match=r"call fit\(\(height, width\)\) first"):
        _ = engine.statistics.block_words
    with pytest.raises(me.EngineError, match="50x40 pixels; height and width must be multiples"):
        engine.fit((50, 40))
    with pytest.raises(me.EngineError, match="need 4 axes"):
        engine.run(np.zeros((3, 8, 8), np.float32))
    engine.close()
    engine.close()
    for call in (lambda: engine.fit(TILE), engine.measure, engine.enqueue):
        with pytest.raises(me.EngineError, match="closed"):
            call()
