"""Pooled vectors on TensorRT, on one in host memory, against those of the portable engine."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import fake_cuda
import numpy as np
import onnx
import pytest
from fake_gpu import FakeGpu
from fake_tensorrt import plan_of_graph, write_plan
from pooling_plans import (
    REGION,
    TILE,
    WHOLE,
    WritePlans,
    assert_alike,
    assert_close,
    random_tiles,
    some_statistics,
)

import mirnet_edge as me
from mirnet_edge.engines.card import EngineCard, Kind, card_path, kind_path
from mirnet_edge.engines.graph_engine import OnnxStatistics
from mirnet_edge.engines.protocol import statistics_of_engine
from mirnet_edge.errors import EngineError
from mirnet_edge.graph.file import with_shape
from mirnet_edge.graph.pooling import apply_graph
from mirnet_edge.pooling.vectors import Statistics, Weights
from mirnet_edge.trt.engine import TensorRTEngine


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize(("image", "error"), [("FLOAT", 1e-5), ("HALF", 5e-3)])
@pytest.mark.parametrize("batch", [1, 2])
def test_results_are_those_of_the_portable_engine(
    batch: int,
    image: str,
    error: float,
    graph: bool,
    write_pooled: WritePlans,
    portable_pooling: OnnxStatistics,
) -> None:
    given = some_statistics(portable_pooling)
    with TensorRTEngine(write_pooled(batch, image), graph=graph) as engine:
        statistics = statistics_of_engine(engine)
        assert statistics.pools == portable_pooling.pools
        assert {pool.kind for pool in statistics.pools} == {"mean", "softmax"}
        for seed, (region, used) in enumerate(
            [(WHOLE, None), (REGION, None), (REGION, given), (WHOLE, given), (REGION, None)]
        ):
            tile = random_tiles(1, seed)
            restored, partial = statistics.gather(tile, region, used)
            expected, wanted = portable_pooling.gather(tile, region, used)
            assert_close(restored, expected, error)
            assert_alike(partial, wanted, error)
        for count in (1, 3):
            tiles = random_tiles(count, seed=50)
            each = [portable_pooling.apply(tile[None], given) for tile in tiles]
            assert_close(statistics.apply(tiles, given), np.concatenate(each), error)
        plain = engine.run(tile).copy()
        assert_close(statistics.gather(tile, WHOLE, None)[0], plain, error)


def test_a_restorer_shares_statistics(
    write_pooled: WritePlans, pooled_network: Any, tmp_path: Path
) -> None:
    frame = np.random.default_rng(3).random((40, 52, 3), np.float32)
    settings = me.Restorer(write_pooled(), halo=4, statistics="frame")
    with settings as restore, TensorRTEngine(tmp_path / "net.engine") as alone:
        restored = restore(frame)
        assert isinstance(restore.engine, TensorRTEngine)
        with me.Restorer(alone, halo=4) as each:
            assert np.abs(each(frame) - restored).max() > 1e-3
    sized = tmp_path / "sized.onnx"
    onnx.save(pooled_network, sized)
    with me.Restorer(sized, tile=TILE, halo=4, statistics="frame") as reference:
        assert_close(restored, reference(frame), 1e-4)


def test_threads_wait_for_each_other(
    write_pooled: WritePlans, portable_pooling: OnnxStatistics
) -> None:
    failures: list[int] = []
    with TensorRTEngine(write_pooled()) as engine:

        def work(seed: int) -> None:
            tile, given = random_tiles(1, seed), some_statistics(portable_pooling, seed)
            wanted = engine.run(tile).copy(), portable_pooling.apply(tile, given)
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
    write_pooled: WritePlans, portable_pooling: OnnxStatistics, gpu: FakeGpu
) -> None:
    given, tile = some_statistics(portable_pooling), random_tiles(1)
    with TensorRTEngine(write_pooled()) as engine:
        statistics, graphs = engine.statistics, gpu.live["graph"]
        for _ in range(2):
            statistics.apply(tile, given)
            statistics.gather(tile, REGION, given)
        assert gpu.live["graph"] == graphs + 2
        assert gpu.launches == 4


def test_without_bindings_it_runs_without_graph(
    write_pooled: WritePlans, portable_pooling: OnnxStatistics, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_cuda.without_graphs(monkeypatch)
    given, tile = some_statistics(portable_pooling), random_tiles(1)
    with TensorRTEngine(write_pooled()) as engine:
        assert_close(engine.statistics.apply(tile, given), portable_pooling.apply(tile, given))


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
    kind: Kind, changes: dict[str, Any], said: str, write_pooled: WritePlans, trt: ModuleType
) -> None:
    path = write_pooled()
    change_card(path, kind, **changes)
    with TensorRTEngine(path) as engine:
        with pytest.raises(
            EngineError, match=said + ".*mirnet-edge build tiny.onnx .*--statistics"
        ):
            engine.statistics  # noqa: B018
        assert len(trt.strategies) == 1, "nothing of it was loaded"
        engine.run(random_tiles(1))


def test_a_damaged_card_matters_to_statistics_alone(
    write_pooled: WritePlans, trt: ModuleType
) -> None:
    path = write_pooled()
    card_path(kind_path(path, "gather")).write_text("{")
    with TensorRTEngine(path) as engine:
        engine.run(random_tiles(1))
        with pytest.raises(EngineError, match=r"net\.gather\.engine\.json: .*vouches"):
            engine.statistics  # noqa: B018


def test_an_engine_without_card(write_pooled: WritePlans) -> None:
    path = write_pooled()
    card_path(path).unlink()
    said = r"without its card.*build MODEL .*--statistics"
    with TensorRTEngine(path, trust=True) as engine, pytest.raises(EngineError, match=said):
        engine.statistics  # noqa: B018


def test_a_plan_that_is_not_what_its_card_says(
    write_pooled: WritePlans, pooled_network: Any, tmp_path: Path, gpu: FakeGpu
) -> None:
    path = write_pooled()
    pools = EngineCard.load(card_path(kind_path(path, "apply"))).pools
    card = {"pools": pools, "kind": "gather", "tile": TILE}
    wrong = plan_of_graph(apply_graph(with_shape(pooled_network, 1, *TILE)))
    write_plan(tmp_path, card, "net.gather.engine", **wrong)
    with TensorRTEngine(path) as engine:
        live = dict(gpu.live)
        with pytest.raises(EngineError, match=r"net\.gather\.engine.*side tensors.*columns"):
            engine.statistics  # noqa: B018
        assert {**gpu.live, "event": 0} == {**live, "event": 0}


def test_what_is_given_must_fit(write_pooled: WritePlans, portable_pooling: OnnxStatistics) -> None:
    given, tile = some_statistics(portable_pooling), random_tiles(1)
    fewer = Statistics(given.vectors[1:])
    other = Weights.of((16, 16), slice(0, 16), slice(0, 16))
    with TensorRTEngine(write_pooled()) as engine:
        statistics = engine.statistics
        with pytest.raises(EngineError, match=rf"of {len(fewer.vectors)} vectors.*pools take"):
            statistics.apply(tile, fewer)
        with pytest.raises(EngineError, match=r"from 2 tiles"):
            statistics.gather(random_tiles(2), REGION, None)
        with pytest.raises(EngineError, match=r"\(1, 1, 1, 16\).*need one tile.*\(1, 1, 1, 24\)"):
            statistics.gather(tile, other, None)
        with pytest.raises(EngineError, match=r"built for \(N, 3, 16, 24\)"):
            statistics.apply(np.zeros((1, 3, 8, 8), np.float32), given)
