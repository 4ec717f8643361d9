"""What a peer is given, and what it gives back."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FRAME = (1080, 1920)
TOLD = 25.0
"""The noise level of `FRAME`, which networks that take one are told: nobody estimates it."""
Step = Callable[[], "tuple[float | None, float]"]
"""Runs once and waits; milliseconds by events, None where there are none, and on the wall."""


@dataclass(frozen=True)
class Case:
    """What a peer is given: a network, its batch, height and width, and where files lie."""

    network: str
    shape: tuple[int, int, int]
    folder: Path
    device: str

    @property
    def is_frame(self) -> bool:
        """Whether the tile is `FRAME`, padded."""
        return self.device == "cuda" and self.shape == (1, 1088, 1920)

    def tiles(self, planes: int) -> np.ndarray:
        """Random tiles."""
        batch, *size = self.shape
        return np.random.default_rng(0).random((batch, planes, *size), np.float32)


@dataclass
class Form:
    """A peer in one of its forms, open: what runs it; for a case that is a frame, what restores one
    of uint8 from host to host; and whatever else the row is to say."""

    step: Step
    frame: Callable[[], object] | None
    said: dict[str, Any]


Open = Callable[[Case, ExitStack], Form]


def clock(run: Callable[[], object]) -> Step:
    """Time on the wall what returns when it is done."""

    def step() -> tuple[None, float]:
        began = time.perf_counter()
        run()
        return None, 1e3 * (time.perf_counter() - began)

    return step
