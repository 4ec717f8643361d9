"""Plans with pooling, queued on device memory and captured; and how they are loaded and freed."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from fake_gpu import FakeGpu
from fake_gpu import MemoryError as CudaMemoryError
from fake_tensorrt import ENQUEUE_MS
from pooling_plans import (
    REGION,
    TILE,
    WHOLE,
    WritePlans,
    assert_alike,
    assert_close,
    floats,
    put,
    random_tiles,
    some_statistics,
)

from mirnet_edge.cuda import Graph
from mirnet_edge.engines.card import kind_path
from mirnet_edge.engines.graph_engine import OnnxStatistics
from mirnet_edge.engines.protocol import statistics_of_engine
from mirnet_edge.engines.side_tensors import BlockLayout
from mirnet_edge.errors import DeviceError, EngineError
from mirnet_edge.pooling.vectors import Weights
from mirnet_edge.trt.engine import TensorRTEngine


@pytest.mark.parametrize("integrated", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_captured_batch_gathers_from_each_tile(
    batch: int,
    integrated: bool,
    write_pooled: WritePlans,
    portable_pooling: OnnxStatistics,
    gpu: FakeGpu,
) -> None:
    gpu.integrated = integrated
    given = some_statistics(portable_pooling)
    regions = [REGION, Weights.of(TILE, slice(0, 8), slice(8, 24))][:batch]
    with TensorRTEngine(write_pooled(batch)) as engine:
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
            expected, partial = portable_pooling.gather(tiles[tile], region, given)
            assert_close(restored[tile], expected)
            assert_alike(found[index], partial)
        block[...] = np.nan
        assert np.isfinite(found[0].vectors[0]).all(), "a partial outlives its block"


def test_plain_and_apply_batches_are_queued_alike(
    write_pooled: WritePlans, portable_pooling: OnnxStatistics, gpu: FakeGpu
) -> None:
    given, tile = some_statistics(portable_pooling), random_tiles(1)
    with TensorRTEngine(write_pooled()) as engine:
        plain = engine.run(tile).copy()
        statistics = engine.statistics
        put(gpu, engine.image.address, tile)
        for queue, expected in (
            (engine.enqueue, plain),
            (statistics.enqueue_apply, portable_pooling.apply(tile, given)),
        ):
            statistics.give(given)
            queue()
            engine.stream.synchronize()
            found = floats(gpu, engine.restored.address, tile.size).reshape(tile.shape)
            assert_close(found, expected)


def test_vectors_in_flight_are_not_overwritten(
    write_pooled: WritePlans, portable_pooling: OnnxStatistics, gpu: FakeGpu
) -> None:
    tile = random_tiles(1)
    given = [some_statistics(portable_pooling, seed) for seed in range(5)]
    results = []
    with TensorRTEngine(write_pooled()) as engine:
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
        assert_close(found.reshape(tile.shape), portable_pooling.apply(tile, vectors))


def test_the_same_vectors_are_copied_once(
    write_pooled: WritePlans, portable_pooling: OnnxStatistics, gpu: FakeGpu
) -> None:
    given = some_statistics(portable_pooling)
    with TensorRTEngine(write_pooled()) as engine:
        statistics = engine.statistics
        queued = []
        for vectors in (given, given, None, None, given):
            statistics.give(vectors)
            queued.append(len(gpu.queues[engine.stream.handle].work))
        copy = queued[0]
        assert copy > 0
        assert queued == [copy, copy, 2 * copy, 2 * copy, queued[-1]]


def test_all_that_is_gathered_lies_in_one_aligned_block(
    write_pooled: WritePlans, portable_pooling: OnnxStatistics
) -> None:
    shapes = {"a": (2, 3, 1, 1), "b": (2, 1, 1, 1), "c": (1, 64, 1, 1), "d": (1, 65, 1, 1)}
    layout = BlockLayout(shapes)
    assert layout.addresses(1024) == {"a": 1024, "b": 1280, "c": 1536, "d": 1792}
    assert layout.words == 64 * 5
    views = layout.views(np.arange(layout.words, dtype=np.float32))
    assert {name: view.shape for name, view in views.items()} == shapes
    assert [view.flat[0] for view in views.values()] == [0, 64, 128, 192]
    with TensorRTEngine(write_pooled(2)) as engine:
        softmax = sum(pool.kind == "softmax" for pool in portable_pooling.pools)
        assert 0 < softmax < len(portable_pooling.pools)
        assert engine.statistics.block_words == 64 * (len(portable_pooling.pools) + softmax)
        block = np.zeros(engine.statistics.block_words, np.float32)
        for wrong, areas in ((block[:-1], [1]), (block, [1, 2, 3])):
            with pytest.raises(EngineError, match=rf"partials of {len(areas)} tiles.*at most 2"):
                engine.statistics.partials_of(wrong, areas)


# Loading and memory


def test_statistics_are_loaded_when_asked_for(
    write_pooled: WritePlans, trt: ModuleType, gpu: FakeGpu, portable_pooling: OnnxStatistics
) -> None:
    path = write_pooled()
    with TensorRTEngine(path) as engine:
        assert trt.strategies == ["USER_MANAGED"]
        before = gpu.used_bytes()
        statistics = engine.statistics
        assert engine.statistics is statistics
        assert trt.strategies == ["USER_MANAGED"] * 3
        assert gpu.used_bytes() - before < 1 << 16, "activations are shared"
        statistics.apply(random_tiles(1), some_statistics(portable_pooling))
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
        lambda: statistics.apply(tile, some_statistics(portable_pooling)),
    ):
        with pytest.raises(EngineError, match="closed"):
            use()


def test_without_the_others_an_engine_has_its_own_memory(
    write_pooled: WritePlans, trt: ModuleType
) -> None:
    path = write_pooled()
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
    function: str, write_pooled: WritePlans, gpu: FakeGpu
) -> None:
    with TensorRTEngine(write_pooled()) as engine:
        live = dict(gpu.live)
        gpu.failures[function] = CudaMemoryError(f"{function} failed: out of memory")
        with pytest.raises(DeviceError, match="out of memory"):
            engine.statistics  # noqa: B018
        assert {**gpu.live, "event": 0} == {**live, "event": 0}
        engine.run(random_tiles(1))
        engine.statistics.gather(random_tiles(1), WHOLE, None)
    assert set(gpu.live.values()) == {0}


def test_closing_waits_for_what_is_queued(
    write_pooled: WritePlans, trt: ModuleType, gpu: FakeGpu
) -> None:
    engine = TensorRTEngine(write_pooled())
    statistics, seen = engine.statistics, []
    statistics.give(None)
    statistics.enqueue_gather()
    live = dict(gpu.live)
    gpu.queue(engine.stream.handle, lambda: seen.append((dict(gpu.live), list(trt.gone))))
    engine.close()
    assert seen == [(live, [])], "memory and contexts were there until the queue ended"
    assert set(gpu.live.values()) == {0}


def test_a_plan_opened_by_itself(write_pooled: WritePlans) -> None:
    path, tiles = write_pooled(2), random_tiles(3)
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
