"""Exports that many tests take, each made once in a run, however many processes run the tests."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest


def made_once(
    tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]
) -> Path:
    """The file of that name, which ``make`` is to write whole, as `export_onnx` does."""
    folder = tmp_path_factory.getbasetemp()
    # Workers of pytest-xdist have folders of their own in the one of the run.
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    path = folder / name
    with path.with_suffix(".lock").open("w") as lock:
        # Held while it is made: a second worker waits instead of taking as long. A process that
        # dies lets go of it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            make(path)
    return path
