"""The networks of an ablation, and what is said of their rows."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from ablation_jobs import _tiny_bases  # noqa: F401  # a fixture
from torch import nn

import mirnet_edge as me
from mirnet_edge.model.layers import GlobalMean, GlobalSoftmaxMean, Network
from mirnet_edge.model.mirnet import ChannelAttention
from mirnet_edge.workstation.ablation.figures import cost_of, tile_agreement_db
from mirnet_edge.workstation.ablation.networks import network_of
from mirnet_edge.workstation.ablation.page import page_of, write_ablation
from mirnet_edge.workstation.ablation.record import (
    FAILS,
    HOLDS,
    MISSING,
    ONE_SEED,
    WITHIN,
    Ablation,
    Comparison,
)
from mirnet_edge.workstation.ablation.study import RESULT, Run, Study, runs_of, write_json
from mirnet_edge.workstation.ablation.variants import CLAIMS, VARIANTS, Claim, Variant
from mirnet_edge.workstation.tasks import TRAINABLE

DENOISE = TRAINABLE["denoise"]()
STUDY = Study(
    data=("photos",), validation=("set",), validation_images=2, task="gaussian", batch=1,
    patch_px=32, rescale=(1.0,), learning_rate=1e-3,
)  # fmt: skip
tiny = pytest.mark.usefixtures("_tiny_bases")


def restored(network: Network, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (1, network.facts.in_planes, 32, 48)
    with torch.inference_mode():
        return network(torch.rand(shape, generator=generator))


def without(network: Network, *names: str) -> Network:
    """The network after every convolution below modules of these names became nothing."""
    for name, parameter in network.named_parameters():
        if any(f".{part}." in name for part in names) and parameter.ndim == 4:
            nn.init.zeros_(parameter)
    return network


@tiny
@pytest.mark.parametrize("name", VARIANTS)
def test_every_part_of_a_variant_learns(name: str) -> None:
    network = network_of(VARIANTS[name], DENOISE, seed=0)
    image = torch.rand(1, network.facts.in_planes, 32, 48)
    restored = network(image)
    assert restored.shape == (1, 3, 32, 48)
    restored.square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []
    assert network.facts.task == "denoise"
    assert network.facts.noise_level == name.startswith("v2")


@tiny
@pytest.mark.parametrize(
    ("scales", "silent"), [(2, ("up32_1", "up32_2")), (1, ("up21_1", "up21_2"))]
)
def test_scales_that_are_left_out_are_those_that_would_say_nothing(
    scales: int, silent: tuple[str, ...]
) -> None:
    whole = without(network_of(Variant("v2", "", selective=False), DENOISE, seed=1), *silent)
    part = network_of(Variant("v2-part", "", selective=False, scales=scales), DENOISE, seed=1)
    torch.testing.assert_close(restored(part), restored(whole))
    assert not torch.equal(restored(part), restored(network_of(VARIANTS["v2-sum"], DENOISE, 1)))


@tiny
def test_one_scale_of_a_mirnet_is_its_first_stream() -> None:
    whole = network_of(VARIANTS["v1-sum"], DENOISE, seed=1)
    part = network_of(VARIANTS["v1-one-scale"], DENOISE, seed=2)
    weights = {name: whole.state_dict()[name] for name in part.state_dict()}
    part.load_state_dict(weights)
    without(whole, "up", "last_up")
    torch.testing.assert_close(restored(part), restored(whole))


@tiny
def test_what_is_left_out_is_not_there() -> None:
    def kinds(name: str) -> set[type]:
        return {type(module) for module in network_of(VARIANTS[name], DENOISE, 0).modules()}

    assert kinds("v2") >= {GlobalMean, GlobalSoftmaxMean}
    assert kinds("v2-no-context").isdisjoint({GlobalSoftmaxMean})
    assert kinds("v2-sum").isdisjoint({GlobalMean})
    assert kinds("v2-local").isdisjoint({GlobalMean, GlobalSoftmaxMean})
    assert ChannelAttention in kinds("v1")
    assert ChannelAttention not in kinds("v1-no-channel-attention")


@tiny
@pytest.mark.parametrize("name", ["v2", "v2-sum", "v2-one-scale", "v1-no-channel-attention",
                                  "v1-two-scales", "v1-one-scale"])  # fmt: skip
def test_weights_of_what_was_cut_out_are_refused(name: str, tmp_path: Path) -> None:
    network = network_of(VARIANTS[name], DENOISE, seed=0)
    me.save_model(network, tmp_path / "a.safetensors", "denoise")
    if VARIANTS[name].is_exportable:
        assert torch.equal(restored(me.load_model(tmp_path / "a.safetensors")), restored(network))
    else:
        with pytest.raises(me.CheckpointError, match="is missing"):
            me.load_model(tmp_path / "a.safetensors")


@tiny
def test_tiles_agree_where_no_mean_is_over_the_frame() -> None:
    """Tiles have 16 pixels around them, and the convolutions of one scale see 14."""
    with_context = Variant("v2-x", "", selective=False, scales=1)
    local = dataclasses.replace(with_context, changed={"context": False})
    networks = [network_of(each, DENOISE, seed=0) for each in (local, with_context)]
    alike, different = (tile_agreement_db(each, torch.device("cpu")) for each in networks)
    assert alike is None or alike > 120
    assert different is not None
    assert different < 100


@tiny
def test_costs_are_those_of_what_is_left() -> None:
    network = network_of(VARIANTS["v2-one-scale"], DENOISE, seed=0)
    found = cost_of(network, "cpu", (64, 64), True)
    assert found["parameters"] == sum(p.numel() for p in network.parameters())
    assert "error" not in found
    assert 0 < found["ms"] < math.inf
    assert found["engine"].startswith("ONNX Runtime")


def test_claims_are_of_rows_of_one_family() -> None:
    for claim in CLAIMS:
        assert VARIANTS[claim.better].family == VARIANTS[claim.worse].family


# Rows


def result(row: str, seed: int, db: float, **other: Any) -> dict[str, Any]:
    run = Run(row, other.pop("unit", "steps"), other.pop("amount", 10), seed)
    return {**vars(run), "psnr": {"a": db - 1, "b": db + 1}, "tiles_db": 60.0, "steps": 10,
            "seconds": 5.0, "patch_px": 32, **other}  # fmt: skip


CLAIM = Claim("", "", "v2", "v2-sum")


def compared(better: list[float], worse: list[float]) -> Comparison:
    results = [result("v2", seed, db) for seed, db in enumerate(better)]
    results += [result("v2-sum", seed, db) for seed, db in enumerate(worse)]
    return Comparison.of("steps", 10, results)


@pytest.mark.parametrize(
    ("better", "worse", "said"),
    [
        ([30.0, 30.1, 30.2], [29.0, 29.1, 29.2], HOLDS),
        ([29.0, 29.1, 29.2], [30.0, 30.1, 30.2], FAILS),
        ([30.0, 30.1, 30.2], [29.9, 30.0, 30.15], WITHIN),
        ([30.0, 30.6], [29.5, 30.1], WITHIN),
        ([30.0], [29.0], ONE_SEED),
        ([30.0], [], MISSING),
    ],
)
def test_a_claim_is_a_difference_larger_than_the_spread(
    better: list[float], worse: list[float], said: str
) -> None:
    verdict = compared(better, worse).verdict(CLAIM)
    assert verdict.said == said
    if len(better) > 1:
        from scipy import stats  # which takes a second, and of each process that reads this file

        p = stats.ttest_ind(better, worse).pvalue
        assert (p < 0.05) == (said in (HOLDS, FAILS)), p


def test_the_spread_of_rows_with_several_seeds_serves_the_others() -> None:
    results = [result("v2", 1, 30.0), result("v2-sum", 1, 29.7)]
    results += [result("v2-local", seed, 29.0 + 0.01 * seed) for seed in range(3)]
    assert Comparison.of("steps", 10, results).verdict(CLAIM).said == HOLDS
    results += [result("v2-depth-2", seed, 31.0 + 0.4 * seed) for seed in range(3)]
    verdict = Comparison.of("steps", 10, results).verdict(CLAIM)
    assert (verdict.said, verdict.difference_db) == (WITHIN, pytest.approx(0.3))


def test_rows_of_other_amounts_and_families_are_not_compared() -> None:
    dbs = {"v2": 30.0, "v2-sum": 29.0, "v2-local": 28.0, "v1": 29.9, "v1-sum": 29.5}
    results = [result(row, 1, db) for row, db in dbs.items()]
    results += [result("v2-sum", 1, 99.0, amount=20), result("v2-sum", 1, 98.0, unit="minutes")]
    found = Comparison.of("steps", 10, results)
    assert list(found.rows) == ["v2", "v1", "v1-sum", "v2-sum", "v2-local"]
    assert found.closest() == ("v2", "v2-sum", "v2-local")
    results += [result("v1-one-scale", 1, 29.4)]
    assert Comparison.of("steps", 10, results).closest() == ("v1", "v1-sum", "v1-one-scale")


def test_record_page_and_plots(tmp_path: Path) -> None:
    found = [result(row, seed, db + 0.01 * seed) for row, db in (("v2", 30), ("v2-sum", 29))
             for seed in (1, 2)]  # fmt: skip
    found += [result("v2", 1, 31.0, unit="minutes", amount=1, tiles_db=None)]
    for one in found:
        run = Run(*(one[key] for key in ("row", "unit", "amount", "seed")))
        folder = tmp_path / "runs" / run.name
        folder.mkdir(parents=True)
        write_json(folder / RESULT, one)
    cost = tmp_path / "rows" / "v2"
    cost.mkdir(parents=True)
    write_json(cost / "cost.json", {"parameters": 949_312, "gmac_256": 4.07, "ms": 2.5,
                                    "size": [256, 256], "engine": "ONNX Runtime"})  # fmt: skip
    ablation = Ablation.read(tmp_path, STUDY, {"steps": 10, "minutes": 1})
    record, page, plot = write_ablation(ablation, tmp_path)
    text = page.read_text(encoding="utf-8")
    for line in ("## At equal steps: 10", "## At equal time: 1 minutes each",
                 "| v2 | 29.02 | 31.02 | 30.02 ± 0.00 | 1 2 | 32 | 10 | 5 | 60.0 |",
                 "0.949 M | 4.07 | 2.50 | 256×256, ONNX Runtime |", "(for this comparison alone)",
                 "v2 > v2-sum | holds (+1.00 dB", "| ∞ |", "not measured"):  # fmt: skip
        assert line in text, text
    assert plot.stat().st_size > 10_000
    # What an earlier call trained stays, as long as nothing else is asked for.
    assert page_of(Ablation.read(tmp_path, STUDY, {"steps": 10})) == text
    assert record.name == "ablation.json"
    assert page_of(Ablation.of_json(json.loads(record.read_text(encoding="utf-8")))) == text


def test_rows_come_one_after_another_for_each_seed() -> None:
    names = [run.name for run in runs_of(["v2", "v1"], 10, 0.5, [1, 2])]
    assert names[:5] == ["v2.steps-10.seed-1", "v1.steps-10.seed-1", "v2.minutes-0.5.seed-1",
                         "v1.minutes-0.5.seed-1", "v2.steps-10.seed-2"]  # fmt: skip
    assert len(names) == 8
