"""Facts survive the trip through a model file's metadata."""

from __future__ import annotations

import dataclasses
import json

import pytest
from conftest import TINY
from hypothesis import given
from hypothesis import strategies as st

import mirnet_edge as me
from mirnet_edge.facts import PREFIX, ModelFacts
from mirnet_edge.model.checkpoints import facts_of
from mirnet_edge.model.config import PRESETS, preset

FACTS = st.builds(
    ModelFacts,
    task=st.text(),
    family=st.sampled_from(["mirnet", "mirnet-v2", "unknown"]),
    preset=st.text(),
    in_channels=st.integers(1, 16),
    out_channels=st.integers(1, 16),
    size_multiple=st.integers(1, 64),
    min_size_px=st.integers(1, 128),
    local_support_px=st.none() | st.integers(0, 10_000),
    bytes_per_pixel=st.none() | st.integers(0, 10**9),
    value_range=st.tuples(st.floats(-300, 300), st.floats(-300, 300)),
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
        size_multiple=8,
        min_size_px=16,
        local_support_px=44,
        bytes_per_pixel=900,
        value_range=(0.0, 255.0),
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


def test_the_version_is_that_of_the_writer() -> None:
    assert ModelFacts().version == ""
    assert facts_of(me.create_model("edge-s")).version == me.__version__


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("size_multiple", '"x"'),
        ("size_multiple", "0"),
        ("min_size_px", "true"),
        ("value_range", "7"),
        ("value_range", "[0]"),
        ("task", "3"),
        ("bytes_per_pixel", "-1"),
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
    assert facts.size_multiple == config.size_multiple
    assert facts.min_size_px == config.min_size_px
    assert facts.local_support_px is not None
    assert facts.local_support_px % config.size_multiple == 0
    assert len(facts.weights_sha256) == 64


def test_facts_name_the_preset() -> None:
    weights = pytest.importorskip("mirnet_edge.model.checkpoints")
    facts = weights.facts_of(me.create_model(preset("edge-s"), seed=0))
    assert facts.preset == "edge-s"
    assert facts.preset in PRESETS
    assert facts.task == "unknown"
