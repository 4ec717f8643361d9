"""The same on a real GPU with the real TensorRT: plans built here through its API."""

from __future__ import annotations

import dataclasses
import gc
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mirnet_edge.cuda import (
    DeviceBuffer,
    Event,
    Graph,
    MirroredBuffer,
    PinnedBuffer,
    Stream,
    open_device,
)
from mirnet_edge.errors import DeviceError, EngineError
from mirnet_edge.trt.activations import ActivationMemory
from mirnet_edge.trt.engine import TensorRTEngine
from mirnet_edge.trt.log import Log

pytestmark = pytest.mark.gpu

SHAPE = (3, 20, 36)


@pytest.fixture(autouse=True)
def installed() -> None:
    pytest.importorskip("tensorrt", exc_type=ImportError)


@pytest.fixture
def bindings() -> None:
    pytest.importorskip("cuda.bindings.driver", exc_type=ImportError)


def build(path: Path, batch: int = 1, half: bool = False) -> Path:
    """A plan of max(x, 0) + max(x, 0)."""
    import tensorrt as trt

    builder = trt.Builder(Log().make_logger())
    flag = trt.NetworkDefinitionCreationFlag
    strong = hasattr(flag, "STRONGLY_TYPED")
    flags = 1 << int(flag.STRONGLY_TYPED) if strong else 1 << int(flag.EXPLICIT_BATCH)
    network = builder.create_network(flags)
    config = builder.create_builder_config()
    config.set_tactic_sources(0)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    dtype = trt.float16 if half else trt.float32
    frame = network.add_input("frame", dtype, (batch, *SHAPE))
    positive = network.add_activation(frame, trt.ActivationType.RELU).get_output(0)
    twice = network.add_elementwise(positive, positive, trt.ElementWiseOperation.SUM).get_output(0)
    twice.name = "clean"
    network.mark_output(twice)
    if half and not strong:
        config.set_flag(trt.BuilderFlag.FP16)
        twice.dtype = trt.float16
    plan = builder.build_serialized_network(network, config)
    path.write_bytes(plan)
    return path


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("tensorrt", exc_type=ImportError)
    folder = tmp_path_factory.mktemp("plans")
    return {
        "fp32": build(folder / "fp32.engine"),
        "fp16": build(folder / "fp16.engine", half=True),
        "batch": build(folder / "batch.engine", batch=4),
    }


def random_tiles(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, *SHAPE), np.float32) - 0.25


def expected(tiles: np.ndarray) -> np.ndarray:
    return 2 * np.maximum(tiles, 0)


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize(("name", "atol"), [("fp32", 0), ("fp16", 2e-3), ("batch", 0)])
def test_engine_runs(
    name: str, atol: float, graph: bool, bindings: None, plans: dict[str, Path]
) -> None:
    with TensorRTEngine(plans[name], trust=True, graph=graph) as engine:
        assert engine.graph is graph, engine.graph_note
        assert engine.fixed_size == SHAPE[1:]
        assert engine.batch == (4 if name == "batch" else 1)
        assert engine.inputs[0].dtype == ("float16" if name == "fp16" else "float32")
        for count in (1, 4, 9):
            tiles = random_tiles(count, seed=count)
            np.testing.assert_allclose(engine.run(tiles), expected(tiles), atol=atol, rtol=0)


def test_measures(bindings: None, plans: dict[str, Path]) -> None:
    with TensorRTEngine(plans["fp32"], trust=True) as engine:
        enqueue_ms, graph_ms = engine.measure(20)
        assert len(enqueue_ms) == len(graph_ms) == 20
        assert 0 < min(enqueue_ms + graph_ms) <= max(enqueue_ms + graph_ms) < 100
        layers = engine.layer_times(3)
        assert layers
        assert 0 < sum(layers.values()) < 100
        tiles = random_tiles(2)
        np.testing.assert_array_equal(engine.run(tiles), expected(tiles))


def test_engines_share_memory(bindings: None, plans: dict[str, Path]) -> None:
    with (
        ActivationMemory(open_device(), 1 << 20) as memory,
        TensorRTEngine(plans["fp32"], trust=True, activations=memory) as one,
        TensorRTEngine(plans["batch"], trust=True, activations=memory) as other,
    ):
        assert one.stream is other.stream is memory.stream
        for seed in range(3):
            tiles = random_tiles(3, seed)
            for engine in (one, other):
                np.testing.assert_array_equal(engine.run(tiles), expected(tiles))
        assert other.layer_times(1)
        with Graph(memory.stream, lambda: (one.enqueue(), other.enqueue())) as graph:
            graph.launch(memory.stream)
            memory.stream.synchronize()
        np.testing.assert_array_equal(one.run(tiles), expected(tiles))


def test_threads(plans: dict[str, Path]) -> None:
    failures: list[Any] = []
    with TensorRTEngine(plans["fp32"], trust=True) as engine:

        def work(seed: int) -> None:
            try:
                tiles = random_tiles(1, seed)
                for _ in range(50):
                    np.testing.assert_array_equal(engine.run(tiles), expected(tiles))
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


def test_opened_and_closed_in_other_threads(plans: dict[str, Path]) -> None:
    opened: list[TensorRTEngine] = []
    maker = threading.Thread(
        target=lambda: opened.append(TensorRTEngine(plans["fp32"], trust=True))
    )
    maker.start()
    maker.join()
    tiles = random_tiles(1)
    np.testing.assert_array_equal(opened[0].run(tiles), expected(tiles))
    closer = threading.Thread(target=opened[0].close)
    closer.start()
    closer.join()
    with pytest.raises(EngineError, match="closed"):
        opened[0].run(tiles)


def test_memory_comes_back(plans: dict[str, Path]) -> None:
    device = open_device()
    TensorRTEngine(plans["fp32"], trust=True).close()  # what TensorRT and the driver keep
    gc.collect()
    before, _ = device.memory()
    for _ in range(5):
        with TensorRTEngine(plans["batch"], trust=True) as engine:
            engine.run(random_tiles(3))
    gc.collect()
    after, _ = device.memory()
    assert before - after < 8 << 20


@pytest.mark.parametrize("keep", [0, 100, 0.5])
def test_truncated_plan(keep: float, plans: dict[str, Path], tmp_path: Path) -> None:
    plan = plans["fp32"].read_bytes()
    path = tmp_path / "truncated.engine"
    path.write_bytes(plan[: int(keep if keep > 1 else keep * len(plan))])
    with pytest.raises(EngineError, match=r"cannot load these \d.* bytes: .+\. No card"):
        TensorRTEngine(path, trust=True)


def test_facts() -> None:
    facts = open_device().facts
    free, total = open_device().memory()
    assert facts.name
    assert facts.compute_capability >= (5, 0)
    assert 0 < free <= total
    assert abs(total - facts.memory_bytes) < 0.05 * total
    assert float(facts.driver_version) >= 11


def test_copies_events_and_graphs(bindings: None) -> None:
    device = open_device()
    source = np.random.default_rng(0).integers(0, 256, (1 << 20) + 3, np.uint8)
    with (
        Stream(device) as stream,
        DeviceBuffer(device, source.nbytes) as memory,
        PinnedBuffer(device, source.shape, np.uint8) as pinned,
        Event(device) as start,
        Event(device) as end,
    ):
        memory.upload(source, stream=stream)
        stream.synchronize()

        def work() -> None:
            memory.download(pinned.array, stream=stream)

        pinned.array[...] = 0
        with Graph(stream, work) as graph:
            stream.synchronize()
            assert not pinned.array.any(), "capturing runs nothing"
            start.record(stream)
            graph.launch(stream)
            end.record(stream)
            end.synchronize()
        assert np.array_equal(pinned.array, source)
        assert 0 < end.elapsed_ms(start) < 1000


def test_work_that_fails_leaves_the_stream_usable(bindings: None) -> None:
    def work() -> None:
        raise KeyError

    with Stream(open_device()) as stream:
        with pytest.raises(KeyError):
            Graph(stream, work)
        with pytest.raises(DeviceError, match="captur"):
            Graph(stream, stream.synchronize)  # may not wait for what does not run
        stream.synchronize()


@pytest.mark.parametrize("integrated", [False, True])
def test_a_mirror_is_what_the_device_sees(
    integrated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = open_device()
    facts = dataclasses.replace(device.facts, integrated=integrated)
    monkeypatch.setattr(device, "facts", facts)
    target = np.zeros(5, np.float32)
    with (
        Stream(device) as stream,
        MirroredBuffer(device, (5,), np.float32) as mirror,
        DeviceBuffer(device, 20) as memory,
    ):
        mirror.array[...] = 3
        mirror.upload(stream=stream)
        memory.copy_from(mirror.address, 20, stream=stream)
        memory.download(target, stream=stream)
        stream.synchronize()
        assert (target == 3).all()


def test_out_of_memory() -> None:
    device = open_device()
    _, total = device.memory()
    with pytest.raises(
        DeviceError, match=rf"{2 * total:,} bytes asked for, [\d,]+ of {total:,} free"
    ):
        DeviceBuffer(device, 2 * total)
    DeviceBuffer(device, 1 << 20).close()


def test_an_engine_left_open_does_not_spoil_the_exit(plans: dict[str, Path]) -> None:
    program = f"""
import numpy as np
from mirnet_edge.trt.engine import TensorRTEngine
engine = TensorRTEngine({str(plans["fp32"])!r}, trust=True)
print(engine.run(np.ones((1, *{SHAPE}), np.float32)).mean())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "2.0", "")
