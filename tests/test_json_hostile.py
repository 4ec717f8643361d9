"""JSON beside models, damaged in every place: it is read, or is one error that says why not."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from fake_tensorrt import write_plan
from waiting_pipes import refusal_of_a_pipe

from mirnet_edge._typed import dataclass_of
from mirnet_edge.cli.inspect import print_card
from mirnet_edge.engines.card import EngineCard, Measured, card_path
from mirnet_edge.errors import CalibrationError, EngineError
from mirnet_edge.pooling.vectors import Pool
from mirnet_edge.quantize.plan import QuantizationPlan
from mirnet_edge.quantize.ranges import Ranges, TensorRange
from mirnet_edge.quantize.sensitivity import Group

WRONG: tuple[Any, ...] = (
    *(None, True, 0, -1, 10**30, 1.5, float("nan"), "", "text", "\x1b[31m"),
    *([], [[]], {}, {"a": {}}),
)
MISSING = object()


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value in a tree; of long lists the first two."""
    yield way
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*way, key))
    if isinstance(value, list):
        for index in range(min(len(value), 2)):
            yield from places(value[index], (*way, index))


def changed(tree: Any, way: tuple[Any, ...], value: Any) -> Any:
    tree = copy.deepcopy(tree)
    if not way:
        return value
    inner = tree
    for key in way[:-1]:
        inner = inner[key]
    if value is not MISSING:
        inner[way[-1]] = value
    elif isinstance(inner, dict):
        del inner[way[-1]]
    return tree


def write_card(folder: Path) -> Path:
    pools = (Pool("mean_1", "mean", 12, 2),)
    changes = {"kind": "gather", "pools": pools, "measured": Measured(1.0, 0.9, 40.0, 0.1, 8, 1.2)}
    return card_path(write_plan(folder, changes))


def use_card(path: Path) -> None:
    card = EngineCard.load(path)
    print_card(path.with_suffix(""), card)
    assert card.device_bytes.total >= 0
    assert card.bytes_moved is not None


def write_ranges(folder: Path) -> Path:
    Ranges("ab" * 32, "mse", {"x": TensorRange(1.0, -1.0, 1.0)}, "cd" * 32, 8).save(folder / "r")
    return folder / "r"


def write_plan_of(folder: Path) -> Path:
    groups = (Group("g", ("n",), 100, 0.01, True),)
    losses = {"mse": 0.1}
    plan = QuantizationPlan("ab" * 32, "mse", 0.1, 0.05, 0.01, "fp32", losses, 100, groups)
    plan.save(folder / "p")
    return folder / "p"


def use_plan(path: Path) -> None:
    plan = QuantizationPlan.load(path)
    assert f"{plan.int8_share:.2f} {plan.loss_db:.2f} {plan.macs:,} {sorted(plan.int8_nodes)}"


KINDS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], object], type[Exception]]] = {
    "card": (write_card, use_card, EngineError),
    "ranges": (write_ranges, Ranges.load, CalibrationError),
    "plan": (write_plan_of, use_plan, CalibrationError),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_value_replaced_by_every_other(kind: str, tmp_path: Path, capsys: Any) -> None:
    write, use, error = KINDS[kind]
    path = write(tmp_path)
    whole = json.loads(path.read_text("utf-8"))
    use(path)
    raw, refused = [], 0
    for way in places(whole):
        for value in (*WRONG, MISSING):
            if not way and value is MISSING:
                continue
            path.write_text(json.dumps(changed(whole, way, value)), "utf-8")
            try:
                use(path)
            except error as known:
                refused += 1
                if str(path) not in str(known) or len(str(known)) > 600:
                    raw.append((way, value, str(known)))
            except Exception as unknown:
                raw.append((way, value, repr(unknown)))
    assert raw == []
    assert refused > 100


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "null", "\0", "\xff", "[" * 100_000, '{"a":' * 5000),
        '{"format": 1' + "0" * 5000 + "}",
    ],
    ids=lambda text: f"{len(text)}-{text[:8]!r}",
)
def test_what_is_no_json(kind: str, text: str, tmp_path: Path) -> None:
    write, use, error = KINDS[kind]
    path = write(tmp_path)
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(error, match=str(path)):
        use(path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pipe_is_not_waited_for(kind: str, tmp_path: Path) -> None:
    _, use, error = KINDS[kind]
    assert "it is a pipe" in refusal_of_a_pipe(tmp_path / "pipe", use, error)


def test_files_beyond_all_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mirnet_edge._files._MOST_JSON_BYTES", 100)
    with pytest.raises(EngineError, match="more than 100 bytes"):
        EngineCard.load(write_card(tmp_path))


@dataclass(frozen=True)
class Inner:
    name: str


@dataclass(frozen=True)
class Outer:
    count: int
    share: float
    pair: tuple[int, int]
    names: tuple[str, ...]
    inner: tuple[Inner, ...]
    table: dict[str, float]
    kind: Literal["a", "b"]
    free: dict[str, Any]
    maybe: Inner | None = None
    flag: bool = False


WHOLE = {
    **{"count": 1, "share": 2, "pair": [1, 2], "names": ["x"], "inner": [{"name": "y"}]},
    **{"table": {"z": 0.5}, "kind": "a", "free": {"a": [1]}, "maybe": {"name": "m"}},
}


def test_a_dataclass_is_read_with_its_types() -> None:
    found = dataclass_of(Outer, WHOLE)
    assert found == Outer(
        1, 2, (1, 2), ("x",), (Inner("y"),), {"z": 0.5}, "a", {"a": [1]}, Inner("m"), False
    )
    assert type(found.share) is int, "as it was written"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("count", True, "count is True, not a whole number"),
        ("count", 2**63, "count is 9223372036854775808, not a whole number"),
        ("pair", [1], r"pair is \[1\], not tuple"),
        ("pair", 5, "pair is 5, not tuple"),
        ("names", "xy", "names is 'xy', not tuple"),
        ("pair", [1, "2"], r"pair\[1\] is '2', not a whole number"),
        ("inner", [{"name": 1}], r"inner\[0\]\.name is 1, not text"),
        ("inner", [{}], r"inner\[0\]\.name is missing"),
        ("table", {"z": "1"}, r"table\['z'\] is '1', not a number"),
        ("kind", "c", "kind is 'c'"),
        ("maybe", 3, r"maybe\. is 3, no object"),
        ("flag", 1, "flag is 1, not true or false"),
        ("other", 1, "has 'other', which it cannot have"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(name: str, value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        dataclass_of(Outer, {**WHOLE, name: value})


@dataclass(frozen=True)
class Numbers:
    whole: int = 0
    any_number: float = 0.0


@pytest.mark.parametrize("name", ["whole", "any_number"])
def test_the_first_number_that_is_too_large(name: str) -> None:
    assert dataclass_of(Numbers, {name: 2**63 - 1}) == Numbers(**{name: 2**63 - 1})
    assert dataclass_of(Numbers, {name: 1 - 2**63}) == Numbers(**{name: 1 - 2**63})
    for given in (2**63, -(2**63)):
        with pytest.raises(ValueError, match=f"{name} is {given}"):
            dataclass_of(Numbers, {name: given})
