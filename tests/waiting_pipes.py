"""Reading a pipe that nobody writes to, which would wait for ever."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest


def refusal_of_a_pipe(path: Path, use: Callable[[Path], object], error: type[Exception]) -> str:
    """Make a pipe at ``path`` and return what ``use`` says when it refuses it, within 5 s."""
    os.mkfifo(path)
    said: list[str] = []

    def read() -> None:
        with pytest.raises(error) as raised:
            use(path)
        said.append(str(raised.value))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(5)
    assert said
    return said[0]
