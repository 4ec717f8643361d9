"""How fast a training run goes, and how long it will."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

import torch

from mirnet_edge.workstation.state import TrainState

WINDOW = 30
"""Reports over which the speed is a mean."""
ASKED_EVERY_S = 5.0
"""Between questions to the driver, each of which takes a millisecond."""


@dataclass(frozen=True)
class Report:
    """How a run goes.

    Attributes:
        loss: of a step a little earlier.
        images_per_second: patches, in all processes; 0 before anything was measured.
        gpu_share: of the time, in which the GPU worked; None where nobody knows: the driver tells
            through the package nvidia-ml-py.
        seconds_left: to the end of this run.
    """

    state: TrainState
    loss: float
    images_per_second: float
    gpu_share: float | None
    seconds_left: float


class Pace:
    """Measures a run from now on.

    Args:
        last: step at which it ends.
        processes: that take steps together.
    """

    def __init__(self, state: TrainState, last: int, processes: int, device: torch.device) -> None:
        self._state, self._last, self._processes, self._device = state, last, processes, device
        self._earlier = state.seconds
        self._images = 0
        self._seen: deque[tuple[float, int, int]] = deque(maxlen=WINDOW)
        self._share: float | None = None
        self._asked = -ASKED_EVERY_S
        self.begin()

    def begin(self) -> None:
        """Count the time of the run, and measure its speed, from now on."""
        self._began = self.restart()

    def seconds(self) -> float:
        """Of training so far, of earlier runs too."""
        return self._earlier + time.monotonic() - self._began

    def add(self, images: int) -> None:
        """Count the patches of a step."""
        self._images += images * self._processes

    def restart(self) -> float:
        """Measure the speed from now on, the time as `time.monotonic` has it, as something else
        than steps was done before."""
        now = time.monotonic()
        self._seen.clear()
        self._seen.append((now, self._images, self._state.step))
        return now

    def report(self, loss: float) -> Report:
        """What there is to say now."""
        now = time.monotonic()
        before, images, step = self._seen[0]
        self._seen.append((now, self._images, self._state.step))
        elapsed = max(now - before, 1e-9)
        steps_per_second = (self._state.step - step) / elapsed
        return Report(
            self._state,
            loss,
            (self._images - images) / elapsed,
            self._gpu_share(now),
            self._seconds_left(steps_per_second),
        )

    def _seconds_left(self, steps_per_second: float) -> float:
        of_steps = (self._last - self._state.step) / max(steps_per_second, 1e-9)
        minutes = self._state.settings.minutes
        return min(of_steps, 60 * minutes - self.seconds()) if minutes else of_steps

    def _gpu_share(self, now: float) -> float | None:
        if self._device.type != "cuda" or now - self._asked < ASKED_EVERY_S:
            return self._share
        self._asked = now
        try:
            self._share = torch.cuda.utilization(self._device) / 100
        except Exception:  # of a package that may be missing, or a driver that may not tell
            self._asked = float("inf")
        return self._share
