"""What goes wrong on a real GPU with the real TensorRT: memory that ends, values that are not
finite, a device that is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken_networks import TILE, broken_network
from device_frames import OnDevice, frame_of
from edge_networks import edge_network

import mirnet_edge as me
from mirnet_edge.build import build_engine
from mirnet_edge.cuda import DeviceBuffer, open_device

pytestmark = [pytest.mark.gpu, pytest.mark.slow]
SIZE = (150, 250)
CHUNKS = [1 << bits for bits in range(36, 19, -1)]


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    pytest.importorskip("tensorrt", exc_type=ImportError)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that works, in FP16."""
    import onnx

    folder = tmp_path_factory.mktemp("plans")
    onnx.save(edge_network(), folder / "edge.onnx")
    quick: dict[str, Any] = {"tile": (96, 144), "batch": 2, "optimization_level": 0}
    build_engine(folder / "edge.onnx", folder / "edge.engine", precision="fp16", **quick)
    return folder / "edge.engine"


@contextmanager
def all_but(size_bytes: int) -> Iterator[None]:
    """The device's memory taken, but for so much."""
    device = open_device()
    with ExitStack() as taken:
        for chunk in CHUNKS:
            while device.memory()[0] - chunk > size_bytes:
                try:
                    taken.enter_context(DeviceBuffer(device, chunk))
                except me.DeviceMemoryError:
                    break
        yield


def test_memory_that_ends_anywhere(plan: Path) -> None:
    """With less and less left, until there is not even enough for the engine."""
    frame = frame_of(*SIZE)
    with me.Restorer(plan, halo=8) as restore:
        expected = restore(frame)
    free = open_device().memory()[0]
    told: list[str] = []
    for left in (256 << 20, 64 << 20, 32 << 20, 16 << 20, 8 << 20, 4 << 20, 2 << 20, 0):
        with all_but(left):
            try:
                with me.Restorer(plan, halo=8) as restore:
                    np.testing.assert_array_equal(restore(frame), expected)
            except (me.DeviceError, me.EngineError) as error:
                told.append(str(error))
        with me.Restorer(plan, halo=8) as restore:
            np.testing.assert_array_equal(restore(frame), expected)
    assert told, "memory sufficed all the time"
    assert all("memory" in text.lower() for text in told), told
    assert free - open_device().memory()[0] < 64 << 20, "not all was given back"


def test_a_large_frame_that_memory_does_not_hold(plan: Path) -> None:
    frame = frame_of(*SIZE)
    with me.Restorer(plan, halo=8) as restore:
        expected = restore(frame)
        with (
            all_but(64 << 20),
            pytest.raises(me.DeviceMemoryError, match=r"out of memory, [\d,]+ bytes asked for"),
        ):
            restore(np.zeros((8000, 12000, 3), np.uint8))
        np.testing.assert_array_equal(restore(frame), expected)
        np.testing.assert_array_equal(list(restore.stream([frame] * 3)), [expected] * 3)


def broken_plan(path: Path, kind: str) -> Path:
    """Built by TensorRT alone: our build refuses a network whose output is not finite."""
    import tensorrt

    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    builder = tensorrt.Builder(logger)
    flags = getattr(tensorrt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
    network = builder.create_network(0 if flags is None else 1 << int(flags))
    parser = tensorrt.OnnxParser(network, logger)
    assert parser.parse(broken_network(2, kind=kind).SerializeToString()), parser.get_error(0)
    path.write_bytes(builder.build_serialized_network(network, builder.create_builder_config()))
    return path


@pytest.mark.parametrize("kind", ["nan", "infinity"])
def test_what_is_not_finite_is_counted_and_refused(kind: str, tmp_path: Path) -> None:
    path = broken_plan(tmp_path / "broken.engine", kind)
    frame = frame_of(*SIZE)
    frame[:, :80] //= 5
    frame[3:40, 7:50] = 0
    wrong = frame < 0.25 * 255 if kind == "nan" else frame == 0
    with me.TensorRTEngine(path, trust=True) as engine:
        assert engine.fixed_size == TILE
        with me.Restorer(engine, halo=4) as restore:
            for given in (frame, frame, OnDevice(frame)):
                restore(given)
                assert restore.timings.nonfinite == np.count_nonzero(wrong)
            restore(np.full((*SIZE, 3), 200, np.uint8))
            assert restore.timings.nonfinite == 0
        with (
            me.Restorer(engine, halo=4, nan="raise") as restore,
            pytest.raises(me.EngineError, match=rf"returned {np.count_nonzero(wrong):,} values"),
        ):
            restore(frame)


LOST = """
import sys
import numpy as np
import mirnet_edge as me

frame = np.random.default_rng(0).integers(0, 256, (150, 250, 3), np.uint8)
restore = me.Restorer(sys.argv[1], halo=8)
expected = restore(frame)
kernels = restore._lanes[0].path._machine.kernels
kernels.advance(8, stream=restore.engine.stream)  # of nobody's memory
for _ in range(2):
    try:
        restore(frame)
        raise SystemExit("restored on a device that is lost")
    except me.DeviceError as error:
        print("told:", error, flush=True)
try:
    restore.reopen()
except me.DeviceError as error:
    print("gone:", error, flush=True)
else:
    assert (restore(frame) == expected).all()
    assert all((each == expected).all() for each in restore.stream([frame] * 5))
    print("opened again", flush=True)
restore.close()
"""


def test_a_device_that_is_lost_is_opened_again_or_said_to_be_gone(plan: Path) -> None:
    """In a process of its own, which an illegal access ends as far as CUDA goes: the driver of an
    H100 gives no context any more, reset or not. The next process has the device."""
    tests = Path(__file__).parent
    there = os.environ.get("PYTHONPATH", "")
    places = os.pathsep.join(filter(None, (str(tests.parent), str(tests), there)))
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", LOST, str(plan)],
            env={**os.environ, "PYTHONPATH": places},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        assert done.stdout.count("told: ") == 2
        if "opened again" not in done.stdout:
            assert "gone: " in done.stdout
            assert "Start the process again" in done.stdout
