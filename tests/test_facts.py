"""Facts survive the trip through a model file's metadata."""

from __future__ import annotations

import dataclasses
import json

import pytest
from conftest import TINY
from hypothesis import given
from hypothesis import strategies as st

import mirnet_edge as me
from mirnet_edge.facts import PREFIX, ModelFacts, SizeRule
from mirnet_edge.model.checkpoints import facts_of
from mirnet_edge.model.config import PRESETS, preset

FACTS = st.builds(
    ModelFacts,
    task=st.text(),
    family=st.sampled_from(["mirnet", "mirnet-v2", "unknown"]),
    preset=st.text(),
    in_channels=st.integers(1, 16),
    out_channels=st.integers(1, 16),
    scale=st.integers(1, 4),
    noise_level=st.booleans(),
    size_multiple=st.integers(1, 64),
    min_size_px=st.integers(1, 128),
    local_support_px=st.none() | st.integers(0, 10_000),
    bytes_per_pixel=st.none() | st.integers(0, 10**9),
    weights_sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
    version=st.text(),
)
FIELDS = [field.name for field in dataclasses.fields(ModelFacts)]


@given(facts=FACTS)
def test_metadata_round_trip(facts: ModelFacts) -> None:
    metadata = facts.to_metadata()
    assert ModelFacts.from_metadata(metadata) == facts
    assert sorted(metadata) == sorted(PREFIX + name for name in FIELDS)
    assert all(isinstance(value, str) for value in metadata.values())


@given(facts=FACTS)
def test_a_copy_through_json_is_equal(facts: ModelFacts) -> None:
    metadata = json.loads(json.dumps(facts.to_metadata()))
    assert hash(ModelFacts.from_metadata(metadata)) == hash(facts)


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("damage", [None, "", "not json", "{"])
def test_an_absent_or_damaged_field_keeps_its_default(name: str, damage: str | None) -> None:
    facts = ModelFacts(
        task="denoise",
        family="mirnet",
        preset="mirnet",
        in_channels=6,
        out_channels=1,
        scale=3,
        noise_level=True,
        size_multiple=8,
        min_size_px=16,
        local_support_px=44,
        bytes_per_pixel=900,
        weights_sha256="ab",
        version="0.0.1",
    )
    metadata = facts.to_metadata()
    if damage is None:
        del metadata[PREFIX + name]
    else:
        metadata[PREFIX + name] = damage
    default = getattr(ModelFacts(), name)
    assert getattr(facts, name) != default
    assert ModelFacts.from_metadata(metadata) == dataclasses.replace(facts, **{name: default})


def test_foreign_metadata_is_ignored() -> None:
    foreign = {"task": '"deblur"', "mirnet_edge": "{}", PREFIX + "colour": '"red"', "author": "x"}
    assert ModelFacts.from_metadata(foreign) == ModelFacts()
    assert ModelFacts.from_metadata({}) == ModelFacts()


def test_files_of_older_versions_are_read() -> None:
    """They hold a value range, which was always 0 to 1; the bundled graph does."""
    metadata = {PREFIX + "task": '"denoise"', PREFIX + "value_range": "[0.0, 1.0]"}
    assert ModelFacts.from_metadata(metadata) == ModelFacts(task="denoise")
    with me.Restorer("edge-s-denoise") as restore:
        assert restore.facts.task == "denoise"


@given(multiple=st.integers(1, 16), least=st.integers(0, 40), side=st.integers(1, 200))
def test_sizes_of_a_rule(multiple: int, least: int, side: int) -> None:
    rule = SizeRule(multiple, least)
    allowed = [size for size in range(1, 300) if size % multiple == 0 and size >= least]
    assert rule.allows(side) is (side in allowed)
    assert rule.padded(side) == min(size for size in allowed if size >= side)
    assert rule.up(side) == min(size for size in range(side, 300) if size % multiple == 0)
    assert rule.down(side) == max(size for size in range(side + 1) if size % multiple == 0)
    assert not rule.allows(0)


def test_the_version_is_that_of_the_writer() -> None:
    assert ModelFacts().version == ""
    assert facts_of(me.create_model("edge-s")).version == me.__version__


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("size_multiple", '"x"'),
        ("size_multiple", "0"),
        ("min_size_px", "true"),
        ("task", "3"),
        ("bytes_per_pixel", "-1"),
        ("scale", "0"),
        ("scale", "true"),
        ("noise_level", "1"),
    ],
)
def test_values_of_another_type_are_left_out(field: str, text: str) -> None:
    assert ModelFacts.from_metadata({f"mirnet_edge.{field}": text}) == ModelFacts()


@pytest.mark.parametrize("name", TINY)
def test_facts_of_a_network(name: str) -> None:
    weights = pytest.importorskip("mirnet_edge.model.checkpoints")
    config = TINY[name]
    facts = weights.facts_of(me.create_model(config, seed=0), "denoise")
    assert (facts.task, facts.family, facts.preset) == ("denoise", config.family, "custom")
    assert (facts.in_channels, facts.out_channels) == (config.in_channels, config.out_channels)
    assert (facts.noise_level, facts.scale) == (config.noise_level, 1)
    assert facts.in_planes == config.in_planes
    assert facts.size_multiple == config.size_multiple
    assert facts.min_size_px == config.min_size_px
    assert facts.size_rule == SizeRule(config.size_multiple, config.min_size_px)
    assert facts.local_support_px is not None
    assert facts.local_support_px % config.size_multiple == 0
    assert len(facts.weights_sha256) == 64


def test_facts_name_the_preset() -> None:
    weights = pytest.importorskip("mirnet_edge.model.checkpoints")
    facts = weights.facts_of(me.create_model(preset("edge-s"), seed=0))
    assert facts.preset == "edge-s"
    assert facts.preset in PRESETS
    assert facts.task == "unknown"
