"""The compiled engine on a real GPU: in every form, precision and mode against FP32 on the CPU, on
the way of a frame, and around what may fail. Needs a PyTorch with CUDA; TensorRT is not needed, nor
pycuda.

What is not as it should be is told with the notes of the engine, and with the figures.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from compiled_on_gpu import (  # noqa: F401  # fixtures too, which USED names
    EDGE,
    ERRORS,
    USED,
    caches,
    error_of,
    freed,
    reference_of,
    tiles_for,
    tiny,
    usable_torch,
)
from device_frames import OnDevice, assert_near, frame_of
from edge_restorers import FORMATS, frame_in

import mirnet_edge as me
from mirnet_edge.device.batch_loop import BatchLoop
from mirnet_edge.engines.compiled import engine as compiled_engine
from mirnet_edge.metrics import psnr
from mirnet_edge.model.support import local_support_px

pytestmark = [pytest.mark.gpu, pytest.mark.slow, USED]
HALF = 5e-3
"""Error of float16 against float32, as a share of the range."""


# Forms


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16"])
@pytest.mark.parametrize("name", ["mirnet-v2", "mirnet", "edge", "edge-x3", "defocus"])
def test_operation_by_operation(name: str, precision: Any) -> None:
    network = tiny(name)
    tiles = tiles_for(network, 3)
    with me.CompiledEngine(network, precision=precision, mode="off", batch=2) as engine:
        assert engine.notes == []
        found = engine.run(tiles)
        assert not engine.compiled
        error = error_of(found, reference_of(network, tiles))
        assert error <= ERRORS[precision], (error, engine.proof)
        # Not bit for bit: among the algorithms of cuDNN, of which the fastest is taken, are some
        # that add in no fixed order (mirnet in FP32: 4.8e-7 between two runs on an H100).
        assert error_of(engine.run(tiles), found) <= ERRORS[precision] / 10
        enqueue_ms, graph_ms = engine.measure(5)
        assert len(enqueue_ms) == len(graph_ms) == 5, "no CUDA graph"


@pytest.mark.parametrize("precision", ["fp16", "tf32"])
@pytest.mark.parametrize("name", ["mirnet-v2", "mirnet", "edge"])
def test_compiled(name: str, precision: Any) -> None:
    network = tiny(name)
    tiles = tiles_for(network)
    with me.CompiledEngine(network, precision=precision, mode="default") as engine:
        found = engine.run(tiles)
        assert engine.compiled, engine.notes
        assert engine.notes == []
        assert engine.proof.compiled
        assert engine.proof.holds, engine.proof
        error = error_of(found, reference_of(network, tiles))
        assert error <= ERRORS[precision], (error, engine.proof)
        enqueue_ms, graph_ms = engine.measure(20)
        assert len(graph_ms) == 20, "no CUDA graph"
        print(f"\n{name} {precision}: {np.median(enqueue_ms):.3f} ms, graph "
              f"{np.median(graph_ms):.3f}, {engine.proof}, {engine.device_bytes}")  # fmt: skip


def test_precision_is_chosen_by_what_it_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    with me.CompiledEngine(EDGE, mode="off") as engine:
        assert engine.precision == "fp16"
        assert engine.proof.psnr_db > 50, engine.proof
        print(f"\n{engine.proof}")
    monkeypatch.setattr("mirnet_edge.engines.compiled.proof.LEAST_PSNR_DB", 1000.0)
    with me.CompiledEngine(EDGE, mode="off") as engine:
        assert engine.precision == "tf32"
        assert "running in TF32" in engine.notes[0]
    with pytest.raises(me.EngineError, match='take precision="auto"'):
        me.CompiledEngine(EDGE, precision="fp16", mode="off")


def test_sizes_come_and_go() -> None:
    network = tiny("edge")
    with me.CompiledEngine(network, precision="fp32", mode="off") as engine:
        for size in ((48, 72), (96, 64), (48, 72), (8, 8), (256, 136)):
            tiles = tiles_for(network, 1, size)
            assert error_of(engine.run(tiles), reference_of(network, tiles)) <= 2e-4, size
        with pytest.raises(me.EngineError, match="must be multiples of"):
            engine.run(tiles_for(network, 1, (50, 72)))


def test_a_compiler_that_fails_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Callable[..., Any]:
        def call(*_: Any) -> Any:
            raise RuntimeError("no C compiler was found")

        return call

    monkeypatch.setattr(torch, "compile", fails)
    network = tiny("edge")
    tiles = tiles_for(network)
    with me.CompiledEngine(network, precision="fp16", mode="default") as engine:
        found = engine.run(tiles)
        assert not engine.compiled
        assert "no C compiler was found" in engine.notes[0]
        assert error_of(found, reference_of(network, tiles)) <= ERRORS["fp16"]
        assert engine.measure(3)[1], "no CUDA graph"


# Frames


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The graphs of batches that were made on the way of frames, None where one could not be."""
    made: list[Any] = []
    prepare = BatchLoop.prepare

    def noted(self: BatchLoop, work: Any, tables: Any) -> None:
        prepare(self, work, tables)
        made.append(self._graphs[work])

    monkeypatch.setattr(BatchLoop, "prepare", noted)
    return made


@pytest.mark.parametrize("mode", ["off", "default"])
@pytest.mark.parametrize("tile", [None, (96, 144)])
def test_a_photo_as_the_portable_engine_restores_it(
    tile: Any, mode: Any, photo: np.ndarray, captured: list[Any]
) -> None:
    told = {"noise": 15, "tile": tile, "halo": 16}
    with me.Restorer(EDGE, provider="CPUExecutionProvider", **told) as portable:
        expected = portable(photo)
    with me.CompiledEngine(EDGE, mode=mode) as engine, me.Restorer(engine, **told) as restore:
        for _ in range(2):
            found = restore(photo)
            assert_near(found, expected, HALF)
        assert type(restore._lanes[0].path).__name__ == "DevicePath"
        assert restore.timings.tiles == (1 if tile is None else 12) or tile
        assert engine.compiled == (mode == "default"), engine.notes
        assert captured, "no batch was prepared"
        assert all(graph is not None for graph in captured), "frames run without CUDA graphs"


@pytest.mark.parametrize("name", FORMATS)
def test_every_format(name: str) -> None:
    frame, pixels = frame_in(name, 150, 250)
    told = {"noise": 15, "tile": (96, 144), "halo": 8, "blend": 4, "pixels": pixels}
    with me.Restorer(EDGE, provider="CPUExecutionProvider", **told) as portable:
        expected = portable(frame)
    with me.CompiledEngine(EDGE, mode="off", batch=2) as engine, me.Restorer(engine, **told) as it:
        found = it(frame)
        assert_near(found, expected, HALF)
        np.testing.assert_array_equal(it(OnDevice(frame)).copy_to_host(), found)


@pytest.mark.parametrize("mode", ["frame", "frame-fast", "stream"])
@pytest.mark.parametrize("form", ["off", "default"])
def test_statistics_as_the_portable_engine_has_them(mode: Any, form: Any) -> None:
    told = {"noise": 15, "tile": (96, 144), "halo": 16, "statistics": mode}
    frames = [frame_of(200, 300, dtype=np.float32, seed=seed) for seed in (0, 0, 0, 1)]
    with me.Restorer(EDGE, provider="CPUExecutionProvider", **told) as portable:
        expected = [portable(frame) for frame in frames]
        passes = portable.timings.passes
    with (
        me.CompiledEngine(EDGE, precision="tf32", mode=form, batch=2) as engine,
        me.Restorer(engine, **told) as restore,
    ):
        for frame, wanted in zip(frames, expected):
            # A rewritten graph has other pools, which agree with these over a frame alone.
            assert psnr(restore(frame), wanted) > 45, psnr(restore(frame), wanted)
        assert abs(restore.timings.passes - passes) <= 1
        assert engine.notes == []


def test_softmax_means_of_a_frame_in_half_precision() -> None:
    network = tiny("mirnet-v2")
    frame = frame_of(200, 300, dtype=np.float32)
    with me.Restorer(me.TorchEngine(network), tile=None) as whole:
        expected = whole(frame)
    halo = local_support_px(network.config)
    with (
        me.CompiledEngine(network, precision="fp16", mode="off") as engine,
        me.Restorer(engine, tile=2 * halo + 64, halo=halo, statistics="frame") as restore,
    ):
        found = restore(frame)
        assert restore.timings.tiles > 1
        assert psnr(found, expected) > 45, psnr(found, expected)


def test_frames_of_torch_stay_on_the_device() -> None:
    frame = frame_of(200, 300)
    with (
        me.CompiledEngine(EDGE, mode="off") as engine,
        me.Restorer(engine, noise=15, tile=None) as restore,
    ):
        expected = restore(frame)
        there = torch.from_numpy(frame).cuda()
        found = torch.from_dlpack(restore(there))
        assert found.is_cuda
        np.testing.assert_array_equal(found.cpu().numpy(), expected)
        out = torch.zeros_like(there)
        restore(there, out=out)
        torch.cuda.synchronize()
        np.testing.assert_array_equal(out.cpu().numpy(), expected)


def test_streams_and_threads_agree() -> None:
    frames = [frame_of(200, 300, seed=seed) for seed in range(6)]
    with (
        me.CompiledEngine(EDGE, mode="off") as engine,
        me.Restorer(engine, noise=15, tile=None, frame_size=(200, 300)) as restore,
    ):
        expected = [restore(frame) for frame in frames]
        for _ in range(3):
            for found, wanted in zip(restore.stream(frames), expected):
                np.testing.assert_array_equal(found, wanted)
        wrong: list[int] = []

        def work(first: int) -> None:
            for index in range(first, len(frames)):
                if not np.array_equal(restore(frames[index]), expected[index]):
                    wrong.append(index)

        threads = [threading.Thread(target=work, args=(first,)) for first in range(3)]
        for thread in threads:
            thread.start()
        # What PyTorch does meanwhile on its own stream must not come into our memory or graphs.
        for _ in range(50):
            other = torch.rand(1 << 20, device="cuda")
            assert 0 <= float(other.min()) <= float(other.max()) <= 1
        for thread in threads:
            thread.join()
        assert wrong == []


def test_a_graph_writes_to_no_memory_of_others() -> None:
    """What a network computes on the way lies in memory of its own for as long as graphs do."""
    frame = frame_of(400, 600)
    with (
        me.CompiledEngine(EDGE, mode="off") as engine,
        me.Restorer(engine, noise=15, tile=None) as restore,
    ):
        expected = restore(frame)
        torch.cuda.empty_cache()
        others = [torch.full((1 << 22,), 3.0, device="cuda") for _ in range(64)]
        for _ in range(3):
            np.testing.assert_array_equal(restore(frame), expected)
        torch.cuda.synchronize()
        assert all(bool((other == 3).all()) for other in others)


def test_a_size_that_stays_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_engine, "COMPILE_AFTER_FRAMES", 3)
    monkeypatch.setitem(compiled_engine.TORCH_MODES, "auto", "default")
    frame = frame_of(96, 160)
    with (
        me.CompiledEngine(EDGE) as engine,
        me.Restorer(engine, noise=15, tile=None) as restore,
    ):
        found = []
        for _ in range(5):
            found.append(restore(frame))
            if len(found) < 3:
                assert not engine.compiled
        assert engine.compiled, engine.notes
        assert_near(found[-1], found[0], HALF)
    with (
        me.CompiledEngine(EDGE) as engine,
        me.Restorer(engine, noise=15, tile=None, frame_size=(96, 160)) as restore,
    ):
        assert engine.compiled, "a size that is said to stay is compiled at once"
        np.testing.assert_array_equal(restore(frame), found[-1])
