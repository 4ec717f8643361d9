"""The compiled engine on a real GPU: memory, opening by name, and the figures of a frame."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

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
from device_frames import frame_of

import mirnet_edge as me
from mirnet_edge.cuda import open_device
from mirnet_edge.metrics import psnr

pytestmark = [pytest.mark.gpu, pytest.mark.slow, USED]
FRAME = (1080, 1920)


# Memory


def test_all_is_given_back() -> None:
    device = open_device()
    frame = frame_of(400, 600)

    def once() -> int:
        with (
            me.CompiledEngine(EDGE, mode="off") as engine,
            me.Restorer(engine, noise=15, tile=None) as restore,
        ):
            restore(frame)
            held = engine.device_bytes
            assert held.activations > 1 << 20
            assert held.weights > 1 << 16
        gc.collect()
        torch.cuda.empty_cache()
        return device.memory()[0]

    once()
    free = [once() for _ in range(4)]
    assert free[0] - free[-1] < 16 << 20, f"{free} bytes free after each"


def test_too_large_a_tile_is_an_error_and_the_next_one_none() -> None:
    network = me.load_model(EDGE)
    side = 4096
    with me.CompiledEngine(network, precision="fp16", mode="off") as engine:
        _, total = open_device().memory()
        torch.cuda.set_per_process_memory_fraction(min(1.0, (1 << 30) / total))
        try:
            with pytest.raises(me.DeviceMemoryError, match="out of memory"):
                engine.fit((side, side))
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
        tiles = tiles_for(network, 1, (64, 64))
        assert error_of(engine.run(tiles), reference_of(network, tiles)) < ERRORS["fp16"]


def test_tiles_follow_the_memory_there_is() -> None:
    frame = frame_of(600, 800)
    with me.CompiledEngine(EDGE, mode="off") as engine:
        with me.Restorer(engine, noise=15) as restore:
            expected = restore(frame)
            assert restore.timings.tiles == 1
        with me.Restorer(engine, noise=15, memory_limit=100 << 20) as restore:
            found = restore(frame)
            assert restore.timings.tiles > 1, engine.pixels_within(100 << 20)
            assert psnr(np.float32(found) / 255, np.float32(expected) / 255) > 35


# Opening by name


def test_a_checkpoint_is_opened_on_the_gpu(photo: np.ndarray, tmp_path: Path) -> None:
    with me.Restorer(EDGE, noise=15) as restore:
        assert isinstance(restore.engine, me.CompiledEngine)
        restored = restore(photo)
    path = tmp_path / "edge.safetensors"
    me.save_model(me.load_model(EDGE), path)
    with me.Restorer(path, noise=15) as restore:
        assert isinstance(restore.engine, me.CompiledEngine)
        np.testing.assert_array_equal(restore(photo), restored)
    with me.Restorer(EDGE, provider="CPUExecutionProvider", noise=15) as restore:
        assert isinstance(restore.engine, me.OnnxEngine)


def test_an_engine_that_is_closed() -> None:
    engine = me.CompiledEngine(tiny("edge"), mode="off")
    engine.close()
    engine.close()
    with pytest.raises(me.EngineError, match="closed"):
        engine.fit((48, 48))


LOST = """
import numpy as np
import mirnet_edge as me

frame = np.random.default_rng(0).integers(0, 256, (150, 250, 3), np.uint8)
engine = me.CompiledEngine("edge-s-denoise", mode="off")
with me.Restorer("edge-s-denoise", noise=15, tile=None) as restore:
    kept = restore(frame)
    expected = kept.copy()
    kernels = restore._lanes[0].path._machine.kernels
    kernels.advance(8, stream=restore.engine.stream)  # of nobody's memory
    for again in (lambda: restore(frame), restore.reopen):
        try:
            again()
            raise SystemExit("on a device that is lost")
        except me.MirnetEdgeError as error:
            print("told:", error, flush=True)
try:
    engine.close()
except me.DeviceError as error:
    print("told:", error, flush=True)
assert (kept == expected).all()
print("went on", flush=True)
"""


def test_a_device_that_is_lost_ends_no_process() -> None:
    """In a process of its own, where PyTorch's destructors run at the end as well."""
    done = subprocess.run(
        [sys.executable, "-c", LOST],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert "PyTorch works on it too; start the process again" in done.stdout
    assert "went on" in done.stdout


# Figures


def test_figures_of_a_camera_frame(caplog: pytest.LogCaptureFixture) -> None:
    """edge-s at 1080p: the whole of a frame is the engine, the copies, and a millisecond."""
    caplog.set_level(logging.INFO, "mirnet_edge")
    frame = frame_of(*FRAME)
    began = time.perf_counter()
    with (
        me.CompiledEngine(EDGE, mode="default") as engine,
        me.Restorer(engine, noise=15, tile=None, frame_size=FRAME) as restore,
    ):
        ready_s = time.perf_counter() - began
        assert engine.compiled, engine.notes
        buffers = restore.buffers(frame.shape)
        np.copyto(buffers.frame, frame)
        for _ in range(30):
            restore(buffers.frame, out=buffers.restored)
        latency = restore.latency(20)
        _, graph_ms = engine.measure(30)
        engine_ms = float(np.median(graph_ms))
        said = f"ready after {ready_s:.1f} s, engine {engine_ms:.2f} ms, {latency}, {engine.proof}"
        print(f"\n{said}\n{caplog.text[-2000:]}")
        copies_ms = latency.upload.p50 + latency.download.p50
        assert latency.total.p50 <= engine_ms + copies_ms + 1.0, said
        assert "without CUDA graphs" not in caplog.text, caplog.text
        np.testing.assert_array_equal(buffers.restored, restore(frame))
