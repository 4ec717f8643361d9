"""Gather and apply graphs: the plain graph with its pooled vectors open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import TINY, RawGraph, fitting

import mirnet_edge as me
from mirnet_edge.graph.file import with_shape
from mirnet_edge.graph.pooling import apply_graph, gather_graph, pools_of
from mirnet_edge.graph.rewrite import rewrite
from mirnet_edge.pooling.vectors import Statistics, Weights

NETWORKS = list(TINY)[::-1]
"""From the last to the first: beside another process that begins with the first, each exports half
of them instead of waiting for the other."""
SIZES = [(16, 16), (28, 44)]
REDUCTIONS = {"ReduceMean", "ReduceSum", "ReduceMax", "GlobalAveragePool", "Softmax"}


def graph_of(network: str, rewritten: bool, raw_graph: RawGraph) -> Any:
    raw = raw_graph(network)
    return rewrite(raw)[0] if rewritten else raw


def engine_of(proto: Any, folder: Path) -> me.OnnxEngine:
    path = folder / "graph.onnx"
    onnx.save(proto, path)
    return me.OnnxEngine(path, provider="CPUExecutionProvider")


def random_tile(engine: me.OnnxEngine, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    size = (engine.facts.size_rule.padded(size[0]), engine.facts.size_rule.padded(size[1]))
    shape = (1, engine.facts.in_planes, *size)
    return np.random.default_rng(seed).random(shape, np.float32)


def whole(size: tuple[int, int]) -> Weights:
    return Weights.of(size, slice(0, size[0]), slice(0, size[1]))


def error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.ptp(expected))


def pooled(proto: Any, tile: np.ndarray) -> list[np.ndarray]:
    """The means of a plain graph, as it computes them."""
    import onnxruntime

    probe = onnx.ModelProto()
    probe.CopyFrom(proto)
    names = [pool.name for pool in pools_of(proto)]
    for name in names:
        probe.graph.output.append(onnx.ValueInfoProto(name=name))
    session = onnxruntime.InferenceSession(probe.SerializeToString())
    return list(session.run(names, {"input": tile}))


@pytest.mark.parametrize("rewritten", [False, True])
@pytest.mark.parametrize("network", NETWORKS)
def test_own_statistics_over_the_whole_tile_are_the_plain_graph_s(
    network: str, rewritten: bool, raw_graph: RawGraph, tmp_path: Path
) -> None:
    proto = graph_of(network, rewritten, raw_graph)
    engine = engine_of(proto, tmp_path)
    for size in SIZES:
        tile = random_tile(engine, size)
        found, partial = engine.statistics.gather(tile, whole(tile.shape[2:]), None)
        expected = engine.run(tile)
        assert error(found, expected) <= 1e-5
        for vector, mean in zip(partial.vectors, pooled(proto, tile), strict=True):
            assert vector.shape == mean.shape
            np.testing.assert_allclose(vector, mean, atol=1e-5 * np.abs(mean).max())
        applied = engine.statistics.apply(tile, Statistics(partial.vectors))
        assert error(applied, expected) <= 1e-5


@pytest.mark.parametrize("network", NETWORKS)
def test_given_statistics_are_used_and_do_not_matter_to_own_ones(
    network: str, raw_graph: RawGraph, tmp_path: Path
) -> None:
    engine = engine_of(raw_graph(network), tmp_path)
    size = fitting(network, SIZES[1])
    tile, other = random_tile(engine, size), random_tile(engine, size, seed=1) / 4
    _, partial = engine.statistics.gather(other, whole(size), None)
    given_ones = Statistics(partial.vectors)
    gathered, _ = engine.statistics.gather(tile, whole(size), given_ones)
    applied = engine.statistics.apply(tile, given_ones)
    assert error(gathered, applied) <= 1e-5
    assert error(applied, engine.run(tile)) > 1e-3


@pytest.mark.parametrize("network", ["mirnet", "mirnet-v2", "edge", "edge-x3"])
def test_no_reduction_over_the_frame_is_left(network: str, raw_graph: RawGraph) -> None:
    for rewritten in (False, True):
        proto = graph_of(network, rewritten, raw_graph)
        pools = pools_of(proto)
        shapes = with_shape(proto, 1, *fitting(network, (32, 48))).graph
        changed = apply_graph(proto)
        assert pools_of(changed) == ()
        assert [value.name for value in changed.graph.input[1:]] == [
            f"statistic.{index}" for index in range(len(pools))
        ]
        assert list(changed.metadata_props) == list(proto.metadata_props)
        dims = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
                for v in shapes.value_info}  # fmt: skip
        for node in changed.graph.node:
            if node.op_type in REDUCTIONS:
                assert (
                    dims[node.input[0]][2:] == dims[node.output[0]][2:]
                    or len(dims[node.input[0]]) == 5
                )


def test_pools_are_described_in_order(raw_graph: RawGraph) -> None:
    pools = pools_of(raw_graph("mirnet-v2"))
    kinds = [(pool.kind, pool.channels, pool.scale) for pool in pools[:5]]
    assert kinds == [
        ("softmax", 8, 1), ("softmax", 12, 2), ("softmax", 18, 4), ("mean", 12, 2), ("mean", 8, 1),
    ]  # fmt: skip
    assert len({pool.name for pool in pools}) == len(pools) == 10


def test_pools_of_blocks_of_pixels_know_their_scale(raw_graph: RawGraph) -> None:
    described = {
        name: [(pool.kind, pool.channels, pool.scale) for pool in pools_of(raw_graph(name))]
        for name in ("edge", "edge-x3", "edge-x4")
    }
    means = [("mean", 12), ("mean", 8)]
    assert described["edge"] == [(*mean, scale) for mean, scale in zip(means, (4, 2))] * 2
    assert described["edge-x4"] == [(*mean, scale) for mean, scale in zip(means, (8, 4))] * 2
    assert described["edge-x3"] == [
        ("softmax", 8, 3), ("softmax", 12, 6), ("softmax", 16, 12), ("mean", 12, 6), ("mean", 8, 3),
    ] * 2  # fmt: skip


@pytest.mark.parametrize("network", ["mirnet", "mirnet-v2", "edge", "edge-x3", "edge-x4"])
def test_regions_of_one_tile_add_up_to_its_means(
    network: str, raw_graph: RawGraph, tmp_path: Path
) -> None:
    """The tile is gathered four times, with each quarter of it as the region."""
    engine = engine_of(raw_graph(network), tmp_path)
    step = engine.facts.size_multiple
    size = (7 * step, 11 * step)
    tile = random_tile(engine, size)
    _, full = engine.statistics.gather(tile, whole(size), None)
    used = Statistics(full.vectors)
    parts = [
        engine.statistics.gather(tile, Weights.of(size, rows, columns), used)[1]
        for rows in (slice(0, 3 * step), slice(3 * step, 7 * step))
        for columns in (slice(0, 10 * step), slice(10 * step, 11 * step))
    ]
    assert sum(part.area for part in parts) == full.area == size[0] * size[1]
    assert Statistics.of(parts).distance(used) <= 1e-5


@pytest.mark.parametrize("network", ["edge", "edge-x3", "edge-x4"])
@pytest.mark.parametrize("rewritten", [False, True])
def test_two_tiles_with_the_frame_s_statistics_are_the_frame(
    network: str, rewritten: bool, raw_graph: RawGraph, tmp_path: Path
) -> None:
    """Each pass settles the pools whose maps hang on those that were settled before."""
    engine = engine_of(graph_of(network, rewritten, raw_graph), tmp_path)
    facts = engine.facts
    halo = facts.local_support_px
    assert halo is not None
    middle = halo + 2 * facts.size_multiple
    frame = random_tile(engine, (2 * facts.size_multiple, 2 * middle))
    # Brighter to the right, under one level: its halves differ in all that a mean can tell.
    frame[:, :3] *= np.linspace(0.1, 1, 2 * middle, dtype=np.float32)
    frame[:, 3:] = 0.4
    size = (frame.shape[2], middle + halo)
    tiles = (frame[..., : size[1]].copy(), frame[..., -size[1] :].copy())
    kept = (slice(0, middle), slice(halo, size[1]))
    regions = [Weights.of(size, slice(0, size[0]), columns) for columns in kept]
    used: Statistics | None = None
    for _ in range(len(engine.statistics.pools) + 1):
        gathered = [engine.statistics.gather(*pair, used) for pair in zip(tiles, regions)]
        used = Statistics.of([partial for _, partial in gathered])
    assert used is not None
    expected = engine.run(frame)
    applied, own = (
        np.concatenate([restored[..., part] for restored, part in zip(outputs, kept)], axis=3)
        for outputs in (
            [engine.statistics.apply(tile, used) for tile in tiles],
            [engine.run(tile).copy() for tile in tiles],
        )
    )
    assert error(applied, expected) <= 1e-4 < 10 * error(own, expected)


def test_fixed_size_and_batches_are_taken(raw_graph: RawGraph) -> None:
    proto = with_shape(raw_graph("mirnet-v2"), 3, 16, 24)
    for changed in (gather_graph(proto), apply_graph(proto)):
        onnx.checker.check_model(changed, full_check=True)
        found = with_shape(changed, 3, 16, 24).graph.output[0]
        assert [dim.dim_value for dim in found.type.tensor_type.shape.dim] == [3, 3, 16, 24]
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in gather_graph(proto).graph.input
    }
    assert (shapes["rows"], shapes["columns"]) == ([3, 1, 16, 1], [3, 1, 1, 24])


def test_a_region_far_below_the_tile_s_largest_logit_divides_by_no_zero(
    raw_graph: RawGraph, tmp_path: Path
) -> None:
    """Its exponentials are all 0 in FP32."""
    proto = onnx.ModelProto()
    proto.CopyFrom(raw_graph("mirnet-v2"))
    mask = next(
        t for t in proto.graph.initializer if t.name.endswith("dau_top.gcnet.conv_mask.weight")
    )
    array = 1e4 * onnx.numpy_helper.to_array(mask)
    mask.CopyFrom(onnx.numpy_helper.from_array(array, mask.name))
    engine = engine_of(proto, tmp_path)
    size = (32, 32)
    tile = random_tile(engine, size)
    _, full = engine.statistics.gather(tile, whole(size), None)
    quarters = [
        Weights.of(size, slice(y, y + 16), slice(x, x + 16)) for y in (0, 16) for x in (0, 16)
    ]
    used = Statistics(full.vectors)
    parts = [engine.statistics.gather(tile, region, used)[1] for region in quarters]
    assert min(part.log_masses[0] for part in parts) < max(p.log_masses[0] for p in parts) - 60
    assert Statistics.of(parts).distance(used) <= 1e-4


def test_graphs_rewritten_for_tensorrt_are_refused(raw_graph: RawGraph) -> None:
    for network in ("mirnet", "mirnet-v2"):
        staged, _ = rewrite(with_shape(raw_graph(network), 1, 256, 256), "tensorrt")
        for make in (gather_graph, apply_graph, pools_of):
            with pytest.raises(me.GraphError, match="before rewriting for TensorRT"):
                make(staged)


FIRES_ON_PLAIN_ALONE = {"means_through_linear_maps", "spatial_softmaxes", "staged_means"}
"""Passes about means: an apply graph has none, a gather graph makes its own."""


@pytest.mark.parametrize("network", [*NETWORKS, "edge-s"])
def test_statistics_graphs_are_rewritten_for_tensorrt_as_the_plain_one(
    network: str, raw_graph: RawGraph
) -> None:
    import onnxruntime

    size = fitting(network, (64, 72))
    step = size[0] - fitting(network, (size[0] // 2, 1))[0]
    region = Weights.of(size, slice(step, size[0]), slice(0, size[1] - step))
    plain = with_shape(raw_graph(network), 1, *size)
    counts = {report.name: report.changes for report in rewrite(plain, "tensorrt")[1]}
    feeds: dict[str, np.ndarray] = {
        "rows": region.rows, "columns": region.columns, "own": np.ones((1,) * 4, np.float32)
    }  # fmt: skip
    for make in (gather_graph, apply_graph):
        exact = make(plain)
        changed, reports = rewrite(exact, "tensorrt")
        for report in reports[1:]:
            fires = report.name not in FIRES_ON_PLAIN_ALONE
            assert report.changes == (counts[report.name] if fires else 0), report.name
        random = np.random.default_rng(0)
        for value in exact.graph.input:
            shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            feeds.setdefault(value.name, random.random(shape, np.float32))
        names = [value.name for value in exact.graph.output]
        given = {value.name: feeds[value.name] for value in exact.graph.input}
        found, expected = (
            onnxruntime.InferenceSession(graph.SerializeToString()).run(names, given)
            for graph in (changed, exact)
        )
        for name, a, b in zip(names, found, expected):
            extent = np.ptp(b) if b.size > 1 else 1.0
            assert np.abs(a - b).max() <= 1e-5 * max(extent, np.abs(b).max()), name
