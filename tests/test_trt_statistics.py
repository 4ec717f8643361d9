"""Statistics on TensorRT, on one in host memory, against those of the portable engine."""

from __future__ import annotations

import dataclasses
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
from fake_gpu import FakeGpu
from fake_gpu import MemoryError as CudaMemoryError
from fake_tensorrt import ENQUEUE_MS, plan_of_graph, write_plan, write_plans

import mirnet_edge as me
from mirnet_edge.cuda import Graph
from mirnet_edge.engines.card import EngineCard, Kind, card_path, kind_path
from mirnet_edge.engines.onnx_statistics import OnnxStatistics
from mirnet_edge.engines.protocol import statistics_of_engine
from mirnet_edge.errors import DeviceError, EngineError
from mirnet_edge.graph.file import with_shape
from mirnet_edge.graph.pooling import apply_graph
from mirnet_edge.graph.rewrite import rewrite
from mirnet_edge.pooling.vectors import Partial, Statistics, Weights
from mirnet_edge.trt.engine import TensorRTEngine
from mirnet_edge.trt.side_tensors import BlockLayout

TILE = (16, 24)
REGION = Weights.of(TILE, slice(4, 16), slice(0, 20))
WHOLE = Weights.of(TILE, slice(0, 16), slice(0, 24))
WritePlans = Callable[..., Path]


@pytest.fixture(scope="session")
def network(raw_graph: RawGraph) -> Any:
    """The graph of a tiny MIRNet-v2, whose means are plain and weighted, as it is exported; that is
    done before there is any TensorRT, at which torch looks."""
    return rewrite(raw_graph("mirnet-v2"))[0]


@pytest.fixture
def write(network: Any, trt: ModuleType, tmp_path: Path) -> WritePlans:
    """Write its plans."""

    def written(batch: int = 1, image: str = "FLOAT") -> Path:
        return write_plans(tmp_path, network, TILE, batch, image)

    return written


@pytest.fixture
def portable(network: Any, tmp_path: Path) -> OnnxStatistics:
    path = tmp_path / "net.onnx"
    onnx.save(network, path)
    return me.OnnxEngine(path, provider="CPUExecutionProvider").statistics


def random_tiles(count: int, seed: int = 0) -> np.ndarray:
    """Each brighter than the one before, so that their statistics differ."""
    tiles = np.random.default_rng(seed).random((count, 3, *TILE), np.float32)
    return tiles * np.linspace(0.4, 1, count + 1, dtype=np.float32)[1:, None, None, None]


def some_statistics(portable: OnnxStatistics, seed: int = 9) -> Statistics:
    _, partial = portable.gather(random_tiles(1, seed), WHOLE, None)
    return Statistics(partial.vectors)


def assert_close(found: np.ndarray, expected: np.ndarray, error: float = 1e-5) -> None:
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=error * np.ptp(expected) + 1e-9)


def assert_alike(found: Partial, expected: Partial, error: float = 1e-5) -> None:
    assert found.area == expected.area
    np.testing.assert_allclose(found.log_masses, expected.log_masses, atol=10 * error)
    for vector, wanted in zip(found.vectors, expected.vectors, strict=True):
        assert vector.shape == wanted.shape
        np.testing.assert_allclose(vector, wanted, rtol=0, atol=error * np.abs(wanted).max())


# Arrays of the host


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize(("image", "error"), [("FLOAT", 1e-5), ("HALF", 5e-3)])
@pytest.mark.parametrize("batch", [1, 2])
def test_results_are_those_of_the_portable_engine(
    batch: int, image: str, error: float, graph: bool, write: WritePlans, portable: OnnxStatistics
) -> None:
    given = some_statistics(portable)
    with TensorRTEngine(write(batch, image), graph=graph) as engine:
        statistics = statistics_of_engine(engine)
        assert statistics.pools == portable.pools
        assert {pool.kind for pool in statistics.pools} == {"mean", "softmax"}
        for seed, (region, used) in enumerate(
            [(WHOLE, None), (REGION, None), (REGION, given), (WHOLE, given), (REGION, None)]
        ):
            tile = random_tiles(1, seed)
            restored, partial = statistics.gather(tile, region, used)
            expected, wanted = portable.gather(tile, region, used)
            assert_close(restored, expected, error)
            assert_alike(partial, wanted, error)
        for count in (1, 3):
            tiles = random_tiles(count, seed=50)
            each = [portable.apply(tile[None], given) for tile in tiles]
            assert_close(statistics.apply(tiles, given), np.concatenate(each), error)
        plain = engine.run(tile).copy()
        assert_close(statistics.gather(tile, WHOLE, None)[0], plain, error)


def test_a_restorer_shares_statistics(write: WritePlans, network: Any, tmp_path: Path) -> None:
    frame = np.random.default_rng(3).random((40, 52, 3), np.float32)
    settings = me.Restorer(write(), halo=4, statistics="frame")
    with settings as restore, TensorRTEngine(tmp_path / "net.engine") as alone:
        restored = restore(frame)
        assert isinstance(restore.engine, TensorRTEngine)
        with me.Restorer(alone, halo=4) as each:
            assert np.abs(each(frame) - restored).max() > 1e-3
    sized = tmp_path / "sized.onnx"
    onnx.save(network, sized)
    with me.Restorer(sized, tile=TILE, halo=4, statistics="frame") as reference:
        assert_close(restored, reference(frame), 1e-4)


def test_threads_wait_for_each_other(write: WritePlans, portable: OnnxStatistics) -> None:
    failures: list[int] = []
    with TensorRTEngine(write()) as engine:

        def work(seed: int) -> None:
            tile, given = random_tiles(1, seed), some_statistics(portable, seed)
            wanted = engine.run(tile).copy(), portable.apply(tile, given)
            for _ in range(5):
                for found, expected in zip(
                    (engine.run(tile), engine.statistics.apply(tile, given)), wanted
                ):
                    if found is not expected and np.abs(found - expected).max() > 1e-4:
                        failures.append(seed)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


def test_each_kind_is_captured_once(
    write: WritePlans, portable: OnnxStatistics, gpu: FakeGpu
) -> None:
    given, tile = some_statistics(portable), random_tiles(1)
    with TensorRTEngine(write()) as engine:
        statistics, graphs = engine.statistics, gpu.live["graph"]
        for _ in range(2):
            statistics.apply(tile, given)
            statistics.gather(tile, REGION, given)
        assert gpu.live["graph"] == graphs + 2
        assert gpu.launches == 4


def test_without_bindings_it_runs_without_graph(
    write: WritePlans, portable: OnnxStatistics, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_cuda.without_graphs(monkeypatch)
    given, tile = some_statistics(portable), random_tiles(1)
    with TensorRTEngine(write()) as engine:
        assert_close(engine.statistics.apply(tile, given), portable.apply(tile, given))


# Memory of the device


def floats(gpu: FakeGpu, address: int, count: int) -> np.ndarray:
    return gpu.bytes_at(address, 4 * count).view(np.float32)


def put(gpu: FakeGpu, address: int, values: np.ndarray) -> None:
    floats(gpu, address, values.size)[...] = values.reshape(-1)


@pytest.mark.parametrize("integrated", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_captured_batch_gathers_from_each_tile(
    batch: int, integrated: bool, write: WritePlans, portable: OnnxStatistics, gpu: FakeGpu
) -> None:
    gpu.integrated = integrated
    given = some_statistics(portable)
    regions = [REGION, Weights.of(TILE, slice(0, 8), slice(8, 24))][:batch]
    with TensorRTEngine(write(batch)) as engine:
        statistics = engine.statistics
        with Graph(engine.stream, statistics.enqueue_gather) as graph:
            made, before_ms = dict(gpu.made), gpu.clock_ms
            tiles = random_tiles(batch)
            put(gpu, engine.image.address, tiles)
            put(gpu, statistics.rows_address, np.stack([region.rows for region in regions]))
            put(gpu, statistics.columns_address, np.stack([region.columns for region in regions]))
            statistics.give(given)
            graph.launch(engine.stream)
            assert gpu.clock_ms == before_ms, "something waited"
            engine.stream.synchronize()
            assert gpu.clock_ms == before_ms + ENQUEUE_MS * gpu.graph_speed
            block = floats(gpu, statistics.block_address, statistics.block_words).copy()
            found = statistics.partials_of(block, [region.area for region in regions])
            assert gpu.made == made
        restored = floats(gpu, engine.restored.address, tiles.size).reshape(tiles.shape)
        assert (engine.image.shape, engine.image.dtype) == (tiles.shape, "float32")
        for index, region in enumerate(regions):
            tile = slice(index, index + 1)
            expected, partial = portable.gather(tiles[tile], region, given)
            assert_close(restored[tile], expected)
            assert_alike(found[index], partial)
        block[...] = np.nan
        assert np.isfinite(found[0].vectors[0]).all(), "a partial outlives its block"


def test_plain_and_apply_batches_are_queued_alike(
    write: WritePlans, portable: OnnxStatistics, gpu: FakeGpu
) -> None:
    given, tile = some_statistics(portable), random_tiles(1)
    with TensorRTEngine(write()) as engine:
        plain = engine.run(tile).copy()
        statistics = engine.statistics
        put(gpu, engine.image.address, tile)
        for queue, expected in (
            (engine.enqueue, plain),
            (statistics.enqueue_apply, portable.apply(tile, given)),
        ):
            statistics.give(given)
            queue()
            engine.stream.synchronize()
            found = floats(gpu, engine.restored.address, tile.size).reshape(tile.shape)
            assert_close(found, expected)


def test_vectors_in_flight_are_not_overwritten(
    write: WritePlans, portable: OnnxStatistics, gpu: FakeGpu
) -> None:
    tile = random_tiles(1)
    given = [some_statistics(portable, seed) for seed in range(5)]
    results = []
    with TensorRTEngine(write()) as engine:
        statistics = engine.statistics
        put(gpu, engine.image.address, tile)
        before_ms = gpu.clock_ms
        for index, vectors in enumerate(given):
            statistics.give(vectors)
            statistics.enqueue_apply()
            if index == 1:
                assert gpu.clock_ms == before_ms, "two copies need no waiting"
            restored = floats(gpu, engine.restored.address, tile.size)
            gpu.queue(engine.stream.handle, lambda view=restored: results.append(view.copy()))
        engine.stream.synchronize()
    for found, vectors in zip(results, given, strict=True):
        assert_close(found.reshape(tile.shape), portable.apply(tile, vectors))


def test_the_same_vectors_are_copied_once(
    write: WritePlans, portable: OnnxStatistics, gpu: FakeGpu
) -> None:
    given = some_statistics(portable)
    with TensorRTEngine(write()) as engine:
        statistics = engine.statistics
        queued = []
        for vectors in (given, given, None, None, given):
            statistics.give(vectors)
            queued.append(len(gpu.queues[engine.stream.handle].work))
        copy = queued[0]
        assert copy > 0
        assert queued == [copy, copy, 2 * copy, 2 * copy, queued[-1]]


def test_all_that_is_gathered_lies_in_one_aligned_block(
    write: WritePlans, portable: OnnxStatistics
) -> None:
    shapes = {"a": (2, 3, 1, 1), "b": (2, 1, 1, 1), "c": (1, 64, 1, 1), "d": (1, 65, 1, 1)}
    layout = BlockLayout(shapes)
    assert layout.addresses(1024) == {"a": 1024, "b": 1280, "c": 1536, "d": 1792}
    assert layout.words == 64 * 5
    views = layout.views(np.arange(layout.words, dtype=np.float32))
    assert {name: view.shape for name, view in views.items()} == shapes
    assert [view.flat[0] for view in views.values()] == [0, 64, 128, 192]
    with TensorRTEngine(write(2)) as engine:
        softmax = sum(pool.kind == "softmax" for pool in portable.pools)
        assert 0 < softmax < len(portable.pools)
        assert engine.statistics.block_words == 64 * (len(portable.pools) + softmax)
        block = np.zeros(engine.statistics.block_words, np.float32)
        for wrong, areas in ((block[:-1], [1]), (block, [1, 2, 3])):
            with pytest.raises(EngineError, match=rf"partials of {len(areas)} tiles.*at most 2"):
                engine.statistics.partials_of(wrong, areas)


# Loading and memory


def test_statistics_are_loaded_when_asked_for(
    write: WritePlans, trt: ModuleType, gpu: FakeGpu, portable: OnnxStatistics
) -> None:
    path = write()
    with TensorRTEngine(path) as engine:
        assert trt.strategies == ["USER_MANAGED"]
        before = gpu.used_bytes()
        statistics = engine.statistics
        assert engine.statistics is statistics
        assert trt.strategies == ["USER_MANAGED"] * 3
        assert gpu.used_bytes() - before < 1 << 16, "activations are shared"
        statistics.apply(random_tiles(1), some_statistics(portable))
    order = [name for name, _ in trt.gone]
    assert order == ["IExecutionContext", "ICudaEngine", "Runtime"] * 3
    assert set(gpu.live.values()) == {0}
    tile = random_tiles(1)
    for use in (
        lambda: engine.statistics,
        engine.enqueue,
        statistics.enqueue_apply,
        statistics.enqueue_gather,
        lambda: statistics.give(None),
        lambda: statistics.gather(tile, WHOLE, None),
        lambda: statistics.apply(tile, some_statistics(portable)),
    ):
        with pytest.raises(EngineError, match="closed"):
            use()


def test_without_the_others_an_engine_has_its_own_memory(
    write: WritePlans, trt: ModuleType
) -> None:
    path = write()
    moved = [kind_path(path, kind) for kind in ("apply", "gather")]
    for other in moved:
        other.rename(other.with_suffix(".away"))
    with TensorRTEngine(path) as engine:
        assert trt.strategies == ["STATIC"]
        with pytest.raises(
            EngineError,
            match=r"net\.apply\.engine: no such file.*mirnet-edge build tiny\.onnx .*net\.engine "
            "--statistics",
        ):
            statistics_of_engine(engine)
        for other in moved:
            other.with_suffix(".away").rename(other)
        engine.statistics.gather(random_tiles(1), WHOLE, None)
        assert trt.strategies == ["STATIC", "USER_MANAGED", "USER_MANAGED"]


@pytest.mark.parametrize("function", ["cuMemAlloc", "cuMemHostAlloc", "cuEventCreate"])
def test_no_memory_for_statistics_leaves_the_engine(
    function: str, write: WritePlans, gpu: FakeGpu
) -> None:
    with TensorRTEngine(write()) as engine:
        live = dict(gpu.live)
        gpu.failures[function] = CudaMemoryError(f"{function} failed: out of memory")
        with pytest.raises(DeviceError, match="out of memory"):
            engine.statistics  # noqa: B018
        assert {**gpu.live, "event": 0} == {**live, "event": 0}
        engine.run(random_tiles(1))
        engine.statistics.gather(random_tiles(1), WHOLE, None)
    assert set(gpu.live.values()) == {0}


def test_a_plan_opened_by_itself(write: WritePlans) -> None:
    path, tiles = write(2), random_tiles(3)
    with TensorRTEngine(path) as plain:
        expected = plain.run(tiles).copy()
    with TensorRTEngine(kind_path(path, "gather")) as gather:
        assert_close(gather.run(tiles), expected)
        assert [facts.name for facts in gather.inputs[:2]] == ["input", "columns"]
        assert [facts.name for facts in gather.outputs[:3]] == [
            "output",
            "gathered.0",
            "gathered.1",
        ]
    with TensorRTEngine(kind_path(path, "apply")) as apply:
        assert apply.inputs[-1].name == f"statistic.{len(apply.inputs) - 2}"
        assert apply.measure(1)[0] == pytest.approx([ENQUEUE_MS])
        with pytest.raises(EngineError, match=r"net\.apply\.engine restores with given"):
            apply.run(tiles)


# What does not fit


def change_card(path: Path, of_kind: Kind, **changes: Any) -> None:
    of = card_path(kind_path(path, of_kind))
    dataclasses.replace(EngineCard.load(of), **changes).save(of)


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("apply", {"graph_sha256": "other"}, r"apply.*graph_sha256 'other', not 'g'"),
        ("gather", {"tile": (32, 24)}, r"gather.*tile \(32, 24\), not \(16, 24\)"),
        ("gather", {"batch": 4}, r"gather.*batch 4, not 1"),
        ("apply", {"kind": "gather"}, r"apply.*kind 'gather', not 'apply'"),
        ("gather", {"kind": "plain"}, r"gather.*kind 'plain', not 'gather'"),
        ("apply", {"pools": ()}, r"apply.* 0 pools"),
        ("gather", {"pools": ()}, r"gather.* 0 pools"),
    ],
)
def test_a_plan_of_something_else(
    kind: Kind, changes: dict[str, Any], said: str, write: WritePlans, trt: ModuleType
) -> None:
    path = write()
    change_card(path, kind, **changes)
    with TensorRTEngine(path) as engine:
        with pytest.raises(
            EngineError, match=said + ".*mirnet-edge build tiny.onnx .*--statistics"
        ):
            engine.statistics  # noqa: B018
        assert len(trt.strategies) == 1, "nothing of it was loaded"
        engine.run(random_tiles(1))


def test_a_damaged_card_matters_to_statistics_alone(write: WritePlans, trt: ModuleType) -> None:
    path = write()
    card_path(kind_path(path, "gather")).write_text("{")
    with TensorRTEngine(path) as engine:
        engine.run(random_tiles(1))
        with pytest.raises(EngineError, match=r"net\.gather\.engine\.json: .*vouches"):
            engine.statistics  # noqa: B018


def test_an_engine_without_card(write: WritePlans) -> None:
    path = write()
    card_path(path).unlink()
    said = r"without its card.*build MODEL .*--statistics"
    with TensorRTEngine(path, trust=True) as engine, pytest.raises(EngineError, match=said):
        engine.statistics  # noqa: B018


def test_a_plan_that_is_not_what_its_card_says(
    write: WritePlans, network: Any, tmp_path: Path, gpu: FakeGpu
) -> None:
    path = write()
    pools = EngineCard.load(card_path(kind_path(path, "apply"))).pools
    card = {"pools": pools, "kind": "gather", "tile": TILE}
    wrong = plan_of_graph(apply_graph(with_shape(network, 1, *TILE)))
    write_plan(tmp_path, card, "net.gather.engine", **wrong)
    with TensorRTEngine(path) as engine:
        live = dict(gpu.live)
        with pytest.raises(EngineError, match=r"net\.gather\.engine.*side tensors.*columns"):
            engine.statistics  # noqa: B018
        assert {**gpu.live, "event": 0} == {**live, "event": 0}


def test_what_is_given_must_fit(write: WritePlans, portable: OnnxStatistics) -> None:
    given, tile = some_statistics(portable), random_tiles(1)
    fewer = Statistics(given.vectors[1:])
    other = Weights.of((16, 16), slice(0, 16), slice(0, 16))
    with TensorRTEngine(write()) as engine:
        statistics = engine.statistics
        with pytest.raises(EngineError, match=rf"of {len(fewer.vectors)} vectors.*pools take"):
            statistics.apply(tile, fewer)
        with pytest.raises(EngineError, match=r"from 2 tiles"):
            statistics.gather(random_tiles(2), REGION, None)
        with pytest.raises(EngineError, match=r"\(1, 1, 1, 16\).*need one tile.*\(1, 1, 1, 24\)"):
            statistics.gather(tile, other, None)
        with pytest.raises(EngineError, match=r"built for \(N, 3, 16, 24\)"):
            statistics.apply(np.zeros((1, 3, 8, 8), np.float32), given)
