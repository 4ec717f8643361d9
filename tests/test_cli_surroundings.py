"""``mirnet-edge restore`` where the surroundings are poor: no home, no locale, few descriptors."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from command_line import COMMAND, ENVIRONMENT, finish, start
from restoring import load, save


def in_surroundings(
    first: str, arguments: list[object], **environment: str | None
) -> tuple[int, str]:
    """Exit code and standard error of a run with variables set, or unset where they are None."""
    found = {**ENVIRONMENT, **environment}
    kept = {name: value for name, value in found.items() if value is not None}
    launcher = f"import os, sys\n{first}\nos.execvp(sys.argv[1], sys.argv[1:])"
    command = [COMMAND[0], "-c", launcher, *COMMAND, *map(str, arguments)]
    done = subprocess.run(command, env=kept, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"HOME": None, "XDG_CACHE_HOME": None},
        {"HOME": "/nowhere", "XDG_CACHE_HOME": None, "TMPDIR": "/nowhere"},
        {"TERM": "dumb", "COLUMNS": "0", "LINES": "0"},
        {"COLUMNS": "many"},
        {"ORT_DISABLE_TELEMETRY": "0"},
    ],
    ids=lambda environment: ",".join(environment),
)
def test_variables(environment: dict[str, str | None], tiny_onnx: Path, tmp_path: Path) -> None:
    source = save(tmp_path / "größe 日本.png")
    code, said = in_surroundings("", ["restore", source, "-m", tiny_onnx], **environment)
    assert (code, said) == (0, "")
    assert load(tmp_path / "größe 日本_restored.png").shape == (21, 34, 3)


@pytest.mark.parametrize("descriptors", [12, 40])
def test_few_descriptors(descriptors: int, tiny_onnx: Path, tmp_path: Path) -> None:
    for index in range(30):
        save(tmp_path / f"{index:02}.png")
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({descriptors},) * 2)"
    code, said = in_surroundings(limit, ["restore", tmp_path, "-m", tiny_onnx, "--threads", "1"])
    made = sorted(tmp_path.glob("*_restored.png"))
    assert (code == 0 and len(made) == 30) or said.startswith("error: "), said
    for path in made:
        assert load(path).shape == (21, 34, 3)


def test_a_clock_that_goes_back(tiny_onnx: Path, tmp_path: Path) -> None:
    """Times are taken by a clock that does not: files of tomorrow are files all the same."""
    source = save(tmp_path / "a.png")
    later = 2**33
    first = f"os.utime({str(source)!r}, ({later}, {later}))"
    code, said = in_surroundings(first, ["restore", source, "-m", tiny_onnx])
    assert (code, said) == (0, "")


def test_closed_standard_streams(tiny_onnx: Path, tmp_path: Path) -> None:
    source = save(tmp_path / "a.png")
    process = start([*COMMAND, "restore", source, "-m", tiny_onnx], "os.close(0)")
    assert finish(process).code == 0
    assert (tmp_path / "a_restored.png").exists()
