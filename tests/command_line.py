"""How tests call the command line: in this process, or in one of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import mirnet_edge
from mirnet_edge.cli import main

COMMAND = (sys.executable, "-m", "mirnet_edge")
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(Path(mirnet_edge.__file__).parents[1]),
    "PYTHONDONTWRITEBYTECODE": "1",
}
"""For a subprocess in any folder, with the package under test."""


@dataclass(frozen=True)
class Outcome:
    """What one call of the command line left behind."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The messages of all ``error:`` lines."""
        lines = self.err.splitlines()
        return [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]

    @property
    def json(self) -> Any:
        """Standard output, as a parser reads it that knows only what the JSON standard knows."""
        return parse(self.out)

    @property
    def only_error(self) -> str:
        """The message of a call that failed with exit code 1 and printed one line and no more."""
        lines = [line for line in self.err.splitlines() if line]
        assert (self.code, len(lines), len(self.errors), self.out) == (1, 1, 1, ""), self
        return self.errors[0]


def parse(text: str) -> Any:
    """JSON, and nothing that Python alone takes for it."""
    return json.loads(text, parse_constant=_refuse)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def run(capfd: pytest.CaptureFixture[str], *arguments: object) -> Outcome:
    """Call the command line in this process."""
    capfd.readouterr()
    code = main([str(argument) for argument in arguments])
    return Outcome(code, *capfd.readouterr())


def start(command: Sequence[object], first: str, **options: Any) -> subprocess.Popen[str]:
    """Start a program in a process that runs the Python code ``first`` before, which is what
    ``preexec_fn`` would do, but that is no longer allowed where threads are running."""
    launcher = f"import os, sys\n{first}\nos.execvp(sys.argv[1], sys.argv[1:])"
    return subprocess.Popen(
        [sys.executable, "-c", launcher, *map(str, command)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finish(process: subprocess.Popen[str]) -> Outcome:
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in err, err
    return Outcome(process.returncode, out, err)
