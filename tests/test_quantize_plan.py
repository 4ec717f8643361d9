"""A plan chooses ranges and layers, keeps its budget, and survives its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graph_samples import QUANTIZABLE, network, parsed

import mirnet_edge as me
from mirnet_edge.graph.file import graph_sha256
from mirnet_edge.quantize import plan
from mirnet_edge.quantize.plan import SENSITIVITY_TILES, QuantizationPlan, make_plan
from mirnet_edge.quantize.qdq import macs_of
from mirnet_edge.quantize.sensitivity import Group, Judge, groups_of

PLAN = QuantizationPlan(
    graph_sha256="ab" * 32,
    method="entropy",
    budget_db=0.1,
    loss_db=0.07,
    loss_error_db=0.01,
    against="targets",
    all_int8_loss_db={"entropy": 0.2, "minmax": 0.3},
    macs=400,
    groups=(
        Group("a.weight", ("x", "y"), 300, 0.01, True),
        Group("b.weight", ("z",), 60, 0.12, False),
    ),
)


def noisy_tiles(count: int = 4) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.Generator(np.random.PCG64(3))
    clean = random.random((count, 3, 20, 28), np.float32)
    return clean + np.float32(0.1) * random.standard_normal(clean.shape, np.float32), clean


def test_a_plan_says_what_is_int8() -> None:
    assert PLAN.int8_nodes == ["x", "y"]
    assert PLAN.int8_share == 0.75


def test_a_plan_comes_back_from_its_file(tmp_path: Path) -> None:
    PLAN.save(tmp_path / "plan.json")
    assert QuantizationPlan.load(tmp_path / "plan.json") == PLAN


@pytest.mark.parametrize(
    "text", ["", "[]", '{"format": 2}', '{"format": 1}', '{"format": 1, "groups": [{}]}']
)
def test_a_file_that_is_no_plan_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(me.CalibrationError, match=r"plan.json: no quantization plan of format 1"):
        QuantizationPlan.load(path)
    with pytest.raises(me.CalibrationError, match="no such file"):
        QuantizationPlan.load(tmp_path / "none.json")


def test_a_plan_keeps_the_budget_and_knows_its_loss() -> None:
    proto = network()
    tiles, targets = noisy_tiles()
    seen: list[str] = []
    all_in, ranges, _ = make_plan(
        proto, tiles, targets, budget_db=100.0, progress=lambda step, *_: seen.append(step)
    )
    assert sorted(all_in.int8_nodes) == sorted(QUANTIZABLE)
    assert set(all_in.all_int8_loss_db) == {"minmax", "percentile", "entropy", "mse"}
    assert min(all_in.all_int8_loss_db, key=all_in.all_int8_loss_db.__getitem__) == all_in.method
    assert all_in.loss_db == pytest.approx(all_in.all_int8_loss_db[all_in.method])
    assert list(dict.fromkeys(seen)) == [
        "ranges, minmax", "ranges, percentile", "ranges, entropy", "ranges, mse", "sensitivity",
        "search",
    ]  # fmt: skip
    assert ranges.method == all_in.method
    half = abs(all_in.loss_db) / 2
    some, ranges, graph = make_plan(proto, tiles, None, methods=[all_in.method], budget_db=half)
    assert some.loss_db + some.loss_error_db <= half
    assert some.against == "fp32"
    assert some.graph_sha256 == ranges.graph_sha256 == graph_sha256(proto)
    assert Judge(proto, tiles, None).loss(graph).mean_db == some.loss_db
    assert some.macs == sum(macs_of(proto).values())


@pytest.mark.parametrize(
    ("affordable", "tiles"),
    [(0.2, 1), (1, 1), (2.5, 2), (SENSITIVITY_TILES + 1, SENSITIVITY_TILES)],
)
def test_groups_are_ordered_by_as_many_tiles_as_their_cost_allows(
    affordable: float, tiles: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def stop(graph: Any, judge: Judge, groups: Any, count: int, *_: Any) -> None:
        asked.append(count)
        raise LookupError

    proto = network()
    cost = sum(macs_of(proto).values()) * len(groups_of(proto, QUANTIZABLE))
    monkeypatch.setattr(plan, "SENSITIVITY_MACS", affordable * cost)
    monkeypatch.setattr(plan, "sensitivity", stop)
    with pytest.raises(LookupError):
        make_plan(proto, *noisy_tiles(1), methods=["minmax"])
    assert asked == [tiles]


def test_a_network_without_layers_to_quantize_is_refused() -> None:
    proto = parsed(
        """<ir_version: 8, opset_import: ["" : 17]>
        narrow (float[1,3,20,28] input) => (float[1,3,20,28] output)
        { [one] a = Conv (input, w) [two] b = Conv (a, v) [three] output = Conv (b, w) }""",
        w=(3, 3, 1, 1),
        v=(3, 3, 1, 1),
    )
    tiles, targets = noisy_tiles(1)
    with pytest.raises(me.GraphError, match="no convolution of this network gains from INT8"):
        make_plan(proto, tiles, targets)
