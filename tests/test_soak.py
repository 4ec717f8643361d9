"""The fast share of the campaign of `soak`: some hundred damaged inputs of every kind, and all that
ever went wrong."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

import pytest
import soak
import soak_inputs
from soak_inputs import KINDS, mutated

from mirnet_edge.errors import MirnetEdgeError

INPUTS = 25


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_whole_is_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / KINDS[kind].name
    path.write_bytes(KINDS[kind].make())
    if kind == "eps":
        with pytest.raises(MirnetEdgeError):
            KINDS[kind].read(path)
    else:
        KINDS[kind].read(path)


@pytest.mark.filterwarnings("ignore")  # of Pillow and torch, for what is damaged
def test_damaged_inputs_are_read_or_are_one_error() -> None:
    """In a process of its own, as damage may end it."""
    wrong = []
    for found in soak.fuzz_all(seed=0, inputs=INPUTS):
        wrong += found["violations"]
    assert wrong == []


@pytest.mark.parametrize("path", sorted(soak.CORPUS.glob("*-*")), ids=lambda path: path.name)
def test_what_once_went_wrong(path: Path, tmp_path: Path) -> None:
    kind = KINDS[path.name.rpartition("-")[0]]
    (tmp_path / kind.name).write_bytes(path.read_bytes())
    with suppress(MirnetEdgeError):
        kind.read(tmp_path / kind.name)


def test_inputs_come_back_by_their_seed() -> None:
    data = bytes(range(256)) * 4
    some = {mutated(data, random.Random(f"png {seed}")) for seed in range(50)}
    assert len(some) > 40
    assert mutated(data, random.Random("png 7")) == mutated(data, random.Random("png 7"))


def test_a_violation_is_found_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> None:
        raise LookupError("raw")

    kind = soak_inputs.Kind("a.png", lambda: b"data", broken)
    monkeypatch.setitem(soak_inputs.KINDS, "png", kind)
    monkeypatch.setattr(soak, "CORPUS", tmp_path / "corpus")
    found = soak.fuzz("png", 0, 3, tmp_path)
    assert [violation["seed"] for violation in found["violations"]] == [0, 1, 2]
    assert "LookupError: raw" in found["violations"][0]["wrong"]
    assert list((tmp_path / "corpus").glob("png-*"))
