"""The card beside an engine: what is written is read, and what older releases wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_tensorrt import write_plan

from mirnet_edge.engines.card import EngineCard, TensorFacts, card_path, kind_path
from mirnet_edge.errors import EngineError
from mirnet_edge.pooling.vectors import Pool

POOLS = (Pool("mean_1", "mean", 12, 2), Pool("context", "softmax", 24, 4))


def stored(folder: Path, **changes: Any) -> Path:
    """A card's file, its JSON changed; None leaves a field out."""
    path = card_path(write_plan(folder, {"kind": "gather", "pools": POOLS}))
    fields = json.loads(path.read_text("utf-8")) | changes
    kept = {
        name: value for name, value in fields.items() if value is not None or name not in changes
    }
    path.write_text(json.dumps(kept), "utf-8")
    return path


def test_kind_and_pools_are_kept(tmp_path: Path) -> None:
    card = EngineCard.load(stored(tmp_path))
    assert (card.kind, card.pools) == ("gather", POOLS)
    card.save(tmp_path / "again.json")
    assert EngineCard.load(tmp_path / "again.json") == card


def test_an_older_card_is_of_a_plain_engine(tmp_path: Path) -> None:
    card = EngineCard.load(stored(tmp_path, kind=None, pools=None))
    assert (card.kind, card.pools) == ("plain", ())


def test_facts_of_another_release_are_left_out(tmp_path: Path) -> None:
    path = stored(tmp_path)
    fields = json.loads(path.read_text("utf-8"))
    fields["facts"] |= {"value_range": [0.0, 1.0], "made_up": 7}
    path.write_text(json.dumps(fields), "utf-8")
    facts = EngineCard.load(path).facts
    assert (facts.task, facts.size_multiple) == ("denoise", 4)
    assert not hasattr(facts, "made_up")


@pytest.mark.parametrize(
    ("dtype", "channels", "value_bytes"), [("float32", 3, 4), ("float16", 3, 2), ("float32", 1, 4)]
)
def test_tiles_count_in_the_types_and_channels_they_have(
    dtype: str, channels: int, value_bytes: int, tmp_path: Path
) -> None:
    taken = TensorFacts("frame", (2, 3, 8, 12), dtype, "linear")
    given = TensorFacts("clean", (2, channels, 8, 12), dtype, "linear")
    side = TensorFacts("own", (1, 1, 1, 1), "float32", "linear")
    changes = {"inputs": (taken, side), "outputs": (given,), "batch": 2}
    held = EngineCard.load(card_path(write_plan(tmp_path, changes))).device_bytes
    assert held.tiles == 2 * 8 * 12 * (3 + channels) * value_bytes
    assert held.total == held.weights + held.activations + held.tiles


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "other"}, "kind is 'other'"),
        ({"pools": [{"name": "p"}]}, "missing"),
        ({"tile": 1}, ""),
        ({"facts": 1}, ""),
    ],
)
def test_a_damaged_card_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=rf"not a whole engine card \(.*{said}.*build"):
        EngineCard.load(stored(tmp_path, **changes))


@pytest.mark.parametrize(
    ("engine", "apply"),
    [("x.engine", "x.apply.engine"), ("a/x.8.plan", "a/x.8.apply.plan"), ("x", "x.apply")],
)
def test_where_the_other_kinds_lie(engine: str, apply: str) -> None:
    assert kind_path(engine, "apply") == Path(apply)
    assert kind_path(engine, "plain") == Path(engine)
