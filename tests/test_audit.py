"""The audit of dependencies, with a database of its own; and the lower bounds that are tried."""

from __future__ import annotations

from collections.abc import Mapping

import audit
import bounds
import pytest

VERSIONS = {"a": "1.0", "b": "2.0"}


def database(answers: Mapping[str, object]) -> object:
    return lambda versions: [{"name": name, **answers[name]} for name in versions]  # type: ignore[dict-item]


def test_what_is_required_is_found_with_what_that_requires() -> None:
    found = audit.required(extras=("live",))
    assert {"numpy", "onnxruntime", "starlette", "anyio", "h11"} <= set(found)
    assert "torch" not in found
    assert "pytest" not in found


def test_a_vulnerability_is_told_with_where_it_is_mended(capsys: pytest.CaptureFixture) -> None:
    flaw = {"id": "PYSEC-1", "fix_versions": ["1.1"]}
    known = {"a": {"version": "1.0", "vulns": [flaw]}, "b": {"version": "2.0", "vulns": []}}
    assert audit.audit(VERSIONS, database(known)) == 1  # type: ignore[arg-type]
    said = capsys.readouterr().out
    assert "a 1.0: PYSEC-1, mended in 1.1" in said
    assert "2 packages audited, 1 vulnerabilities" in said


def test_a_database_that_cannot_be_had_is_no_clean_bill(capsys: pytest.CaptureFixture) -> None:
    asked = []

    def ask(versions: Mapping[str, str]) -> audit.Answers:
        asked.append(dict(versions))
        return [{"name": name, "skip_reason": "not found"} for name in versions]

    assert audit.audit(VERSIONS, ask) == 2
    assert "nothing was audited" in capsys.readouterr().out
    assert asked == [{"a": "1.0"}]


def test_what_the_database_does_not_know_is_named(capsys: pytest.CaptureFixture) -> None:
    known = {"a": {"version": "1.0", "vulns": []}, "b": {"skip_reason": "not found"}}
    assert audit.audit(VERSIONS, database(known)) == 0  # type: ignore[arg-type]
    assert "not audited, the database does not know them: b" in capsys.readouterr().out


def test_each_requirement_has_one_lower_bound_that_is_tried() -> None:
    found = bounds.lower_bounds()
    assert {"numpy", "onnxruntime", "torch", "click", "starlette", "av", "pytest"} <= set(found)
    assert not set(bounds.NOT_HERE) & set(found)
    for pattern in bounds.STANDS_ON:
        assert list((bounds.ROOT / "tests").glob(pattern)), pattern


def test_bounds_that_were_not_tried_are_told() -> None:
    given = {"a": "1.2", "b": "3", "c": "1.0.1", "d": "4", "e": "13"}
    found = {"a": "1.2.0", "b": "3.1", "c": "1.0.1+cpu", "d": "", "e": "13.0"}
    assert bounds.untried(given, found) == ["b: 3.1 in place of 3", "d: none in place of 4"]
