"""The script that runs the kernels under compute-sanitizer, with one that finds what it is told."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import sanitize
from test_kernels_nvcc import SYMBOLS

PLUGINS = [
    "residual_sum", "residual_block", "fusion_gate", "gated_sum", "unshuffle", "shuffle_add",
    "context_rows", "context_vector", "attention_pools", "channel_gate", "dual_gate",
    "mean_rows", "select_gate", "select_sum",
]  # fmt: skip
CLEAN = "========= ERROR SUMMARY: 0 errors\n"


@pytest.mark.parametrize(
    ("report", "errors"),
    [
        (CLEAN, 0),
        ("1 passed\n========= ERROR SUMMARY: 1 error\n", 1),
        ("========= RACECHECK SUMMARY: 3 hazards displayed (3 errors, 0 warnings)\n", 3),
        (f"{CLEAN}========= ERROR SUMMARY: 12 errors\n", 12),
        ("Killed\n", None),
    ],
)
def test_summaries_are_read(report: str, errors: int | None) -> None:
    assert sanitize.errors_of(report) == errors


@pytest.mark.parametrize(("said", "code"), [(CLEAN, 0), (CLEAN.replace("0", "2"), 86), ("", 1)])
def test_what_a_tool_found_and_what_was_not_run_fails(
    said: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "compute-sanitizer"
    names = "pathlib.Path(sys.argv[sys.argv.index('--child') + 1])"
    tool.write_text(
        f"#!{sys.executable}\nimport json, pathlib, sys\n"
        f"{names}.write_text(json.dumps({[*SYMBOLS[1:], *PLUGINS[1:]]!r}))\n"
        f"sys.stdout.write({said!r})\nsys.exit({code})\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    record = tmp_path / "build" / "record.json"
    monkeypatch.setattr(sys, "argv", ["sanitize.py", str(record), "--tools", "memcheck"])
    assert sanitize.main() == 1
    (found,) = json.loads(record.read_text("utf-8"))["tools"]
    assert (found["tool"], found["exit_code"]) == ("memcheck", code)
    assert found["not_run"] == sorted([SYMBOLS[0], PLUGINS[0]]), "nobody launched them"
    monkeypatch.setattr(sanitize, "missing", lambda _: [])
    assert sanitize.main() == (0 if (said, code) == (CLEAN, 0) else 1)


def test_the_plugins_kernels_are_seen_where_their_library_is_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queues = (sanitize.HERE / "kernels" / "plugin_queues.cu").read_text("utf-8")
    functions = re.findall(r"host_\w+(?=\()", queues)
    functions += [f"host_shuffles_{kind}" for kind in re.findall(r"^SHUFFLES\((\w+)", queues, re.M)]
    assert {name for each in functions for name in sanitize.launched_by(each)} == {*PLUGINS}
    monkeypatch.setattr(sanitize.Library, "launched", set())
    with pytest.raises(AttributeError):
        sanitize.Library(None).host_gated_sum  # noqa: B018
    assert sanitize.Library(None).getpid
    assert sanitize.Library.launched == {"gated_sum"}


def test_there_may_be_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sanitize, "PLACES", ())
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "argv", ["sanitize.py"])
    assert sanitize.main() == 2
