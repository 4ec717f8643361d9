"""What quantization costs, and the choice of layers within a budget."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from graph_samples import QUANTIZABLE, network, ranges_of

import mirnet_edge as me
from mirnet_edge.metrics import psnr
from mirnet_edge.quantize.qdq import insert_qdq, macs_of
from mirnet_edge.quantize.sensitivity import (
    Group,
    Judge,
    Loss,
    groups_of,
    run_tiles,
    search,
    sensitivity,
)


def tiles(count: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(seed)).random((count, 3, 20, 28), np.float32)


def quantized(amax: float = 2.0) -> tuple[Any, Any]:
    proto = network()
    return proto, insert_qdq(proto, ranges_of(proto, amax), QUANTIZABLE)


def test_loss_against_targets_is_the_psnr_lost() -> None:
    proto, int8 = quantized()
    inputs, targets = tiles(), tiles(seed=1)
    lost = [
        psnr(run_tiles(proto, tile[None])[0].clip(0, 1), target)
        - psnr(run_tiles(int8, tile[None])[0].clip(0, 1), target)
        for tile, target in zip(inputs, targets)
    ]
    loss = Judge(proto, inputs, targets).loss(int8)
    assert loss.mean_db == pytest.approx(np.mean(lost), abs=1e-6)
    assert loss.error_db == pytest.approx(np.std(lost, ddof=1) / math.sqrt(3), abs=1e-6)
    assert loss.upper_db == loss.mean_db + loss.error_db


def test_loss_without_targets_adds_to_the_error_of_a_restoration_of_32_db() -> None:
    proto, int8 = quantized()
    inputs = tiles()
    apart = [psnr(run_tiles(int8, tile[None]), run_tiles(proto, tile[None])) for tile in inputs]
    expected = np.mean([10 * math.log10(1 + 10 ** ((32 - value) / 10)) for value in apart])
    assert Judge(proto, inputs, None).loss(int8).mean_db == pytest.approx(expected, rel=1e-5)


def test_the_cost_is_the_loss_if_errors_are_independent() -> None:
    proto, int8 = quantized()
    inputs, targets = tiles(), tiles(seed=1)
    expected = []
    for tile, target in zip(inputs, targets):
        own, added = run_tiles(proto, tile[None])[0], run_tiles(int8, tile[None])[0]
        base = 10 ** (-psnr(own.clip(0, 1), target) / 10)
        expected.append(10 * math.log10(1 + 10 ** (-psnr(added, own) / 10) / base))
    assert Judge(proto, inputs, targets).cost_db(int8) == pytest.approx(np.mean(expected), rel=1e-5)
    without = Judge(proto, inputs, None)
    assert without.cost_db(int8) == without.loss(int8).mean_db


def test_the_graph_itself_loses_nothing() -> None:
    proto = network()
    assert Judge(proto, tiles(), tiles(seed=1)).loss(proto) == Loss(0.0, 0.0)
    assert Judge(proto, tiles(1), None).loss(proto) == Loss(0.0, 0.0)


def test_a_restoration_without_error_is_no_division_by_zero() -> None:
    proto = network()
    exact = run_tiles(proto, tiles()).clip(0, 1)
    loss = Judge(proto, tiles(), exact).loss(quantized()[1])
    assert loss.mean_db > 100
    assert math.isfinite(loss.mean_db)


def test_tiles_and_targets_must_fit() -> None:
    proto = network()
    with pytest.raises(me.CalibrationError, match="no tiles"):
        Judge(proto, tiles(0), None)
    with pytest.raises(me.CalibrationError, match=r"targets of shape \(2, 3, 20, 28\).*\(3, 3,"):
        Judge(proto, tiles(3), tiles(2))
    with pytest.raises(
        me.GraphError, match=r"cannot run the graph on tiles of shape \(3, 20, 20\)"
    ):
        Judge(proto, tiles()[..., :20], None)


def test_groups_are_the_weights_that_passes_share() -> None:
    proto = network()
    macs = macs_of(proto)
    found = {group.name: group for group in groups_of(proto, QUANTIZABLE)}
    assert {name: group.nodes for name, group in found.items()} == {
        "w_one": ("one", "side"),
        "w_shared": ("two", "three"),
        "w_up": ("up",),
        "w_down": ("down",),
    }
    assert found["w_one"].macs == macs["one"] + macs["side"]


def test_many_groups_are_joined_by_module() -> None:
    proto = network()
    names = {"w_one": "body.0.a.w", "w_shared": "body.0.b.w", "w_up": "body.1.c.w"}
    for node in proto.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)
    for tensor in proto.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    by_limit = {
        most: [group.name for group in groups_of(proto, QUANTIZABLE, most)] for most in (4, 3, 2)
    }
    assert by_limit[4] == ["body.0.a.w", "body.0.b.w", "body.1.c.w", "w_down"]
    assert by_limit[3] == ["body.0", "body.1", "w_down"]
    assert by_limit[2] == ["body", "w_down"]
    assert sum(group.macs for group in groups_of(proto, QUANTIZABLE, 2)) == sum(
        macs_of(proto)[name] for name in QUANTIZABLE
    )


def test_sensitivity_is_the_loss_of_each_group_alone() -> None:
    proto, int8 = quantized(amax=0.4)
    judge = Judge(proto, tiles(), tiles(seed=1))
    seen: list[tuple[int, int]] = []
    measured = sensitivity(
        int8, judge, groups_of(proto, QUANTIZABLE), 2, lambda *step: seen.append(step)
    )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    for group in measured:
        alone = insert_qdq(proto, ranges_of(proto, 0.4), group.nodes)
        assert group.cost_db == judge.cost_db(alone, 2) > 0


class PricedJudge:
    """A loss that is a sum of prices of quantized nodes, times a factor that sensitivity does not
    see."""

    def __init__(
        self, prices: dict[str, float], factor: float = 1.0, error_db: float = 0.0
    ) -> None:
        self.prices, self.factor, self.error_db = prices, factor, error_db
        self.calls = 0

    def loss(self, proto: Any, count: int | None = None) -> Loss:
        self.calls += 1
        total = sum(
            self.prices[node.name]
            for node in proto.graph.node
            if node.name in self.prices
            and any(name.endswith("_DequantizeLinear_Output") for name in node.input)
        )
        return Loss(self.factor * total, self.error_db)


PRICES = {"one": 0.01, "side": 0.01, "two": 0.05, "three": 0.05, "up": 0.02, "down": 0.001}


@pytest.mark.parametrize(
    ("budget", "factor", "error_db", "expected"),
    [
        (1.0, 1.0, 0.0, {"w_one", "w_shared", "w_up", "w_down"}),
        (0.05, 1.0, 0.0, {"w_one", "w_up", "w_down"}),
        (0.05, 2.0, 0.0, {"w_one", "w_down"}),
        (0.05, 1.0, 0.02, {"w_one", "w_down"}),
        (0.0005, 1.0, 0.0, set()),
    ],
    ids=["all", "some", "they add up to more", "uncertain", "none"],
)
def test_the_search_keeps_what_the_budget_allows(
    budget: float, factor: float, error_db: float, expected: set[str]
) -> None:
    proto, int8 = quantized()
    groups = [
        Group(g.name, g.nodes, g.macs, sum(PRICES[name] for name in g.nodes))
        for g in groups_of(proto, QUANTIZABLE)
    ]
    judge: Any = PricedJudge(PRICES, factor, error_db)
    seen: list[tuple[int, int]] = []
    chosen, loss = search(int8, judge, groups, budget, lambda *step: seen.append(step))
    assert {group.name for group in chosen} == expected
    paid = sum(PRICES[name] for group in chosen for name in group.nodes)
    assert loss.mean_db == pytest.approx(factor * paid)
    assert loss.upper_db <= budget or not chosen
    assert len(seen) == judge.calls <= seen[0][1]
