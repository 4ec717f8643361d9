"""Frames of many cameras at a few GPUs, simulated with simpy: how long a frame waits, and what is
lost when a GPU's server dies.

A camera belongs to one GPU. Its frames come at a constant rate from a random phase on, each late by
a random delay of the network. A GPU takes what waits, ``batch`` frames at most, and restores them
in a fixed time and one for each frame. A camera whose frames are not taken has at most `MOST`
waiting: the oldest is dropped, as `Restorer.stream(drop="oldest")` does it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import simpy

MOST = 2
"""Frames of one camera that wait at most."""
DETECTED_S = 5.0
"""Until a server counts as dead, and its cameras are sent to others."""


@dataclass(frozen=True)
class Load:
    """What comes, and what it meets.

    Attributes:
        gpus, cameras: of the whole.
        fps: of a camera.
        frame_ms, fixed_ms: of a batch of n: fixed + n x frame.
        batch: frames at most.
        delay_ms: mean of the exponential delays of the network.
        together: all cameras have one phase: at worst.
        dies_s: when the first GPU dies; None for never.
        seconds: simulated, and not counted at first.
    """

    gpus: int
    cameras: int
    fps: float
    frame_ms: float
    fixed_ms: float = 0.0
    batch: int = 1
    delay_ms: float = 5.0
    together: bool = False
    dies_s: float | None = None
    seconds: float = 30.0
    warm_up_s: float = 2.0
    seed: int = 0


@dataclass
class Outcome:
    """Latencies, in ms, of frames that were restored, by the second in which they came; and counts
    of those that came and that were lost. Of the counted seconds alone."""

    latencies: list[float] = field(default_factory=list)
    came: int = 0
    lost: int = 0

    def percentile(self, share: float) -> float:
        """Of the latencies; NaN where nothing was restored."""
        return float(np.percentile(self.latencies, share)) if self.latencies else float("nan")

    @property
    def lost_share(self) -> float:
        """Of the frames that came."""
        return self.lost / max(self.came, 1)


@dataclass(eq=False)
class _Frame:
    camera: int
    came_s: float


class _Fleet:
    """The simulated whole."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.outcome = Outcome()
        self.env = simpy.Environment()
        self.queues = [simpy.Store(self.env) for _ in range(load.gpus)]
        self.gpu_of = [camera % load.gpus for camera in range(load.cameras)]
        self.dead: set[int] = set()
        self.random = np.random.default_rng(load.seed)
        for gpu in range(load.gpus):
            self.env.process(self.restoring(gpu))
        for camera in range(load.cameras):
            self.env.process(self.sending(camera))
        if load.dies_s is not None:
            self.env.process(self.dying(load.dies_s))

    def is_counted(self, frame: _Frame) -> bool:
        return frame.came_s >= self.load.warm_up_s

    def sending(self, camera: int) -> Iterator[simpy.Event]:
        load, period = self.load, 1 / self.load.fps
        taken = 0.0 if load.together else float(self.random.uniform(0, period))
        while True:
            arrival = taken + float(self.random.exponential(load.delay_ms)) / 1000
            yield self.env.timeout(max(arrival - self.env.now, 0))
            self.came(_Frame(camera, self.env.now))
            taken += period

    def came(self, frame: _Frame) -> None:
        counted, gpu = self.is_counted(frame), self.gpu_of[frame.camera]
        self.outcome.came += counted
        if gpu in self.dead:
            self.outcome.lost += counted
            return
        queue = self.queues[gpu]
        waiting = [other for other in queue.items if other.camera == frame.camera]
        if len(waiting) == MOST:
            queue.items.remove(waiting[0])
            self.outcome.lost += self.is_counted(waiting[0])
        queue.put(frame)

    def restoring(self, gpu: int) -> Iterator[simpy.Event]:
        load, queue = self.load, self.queues[gpu]
        while True:
            frames = [(yield queue.get())]
            while queue.items and len(frames) < load.batch:
                frames.append(queue.items.pop(0))
            yield self.env.timeout((load.fixed_ms + load.frame_ms * len(frames)) / 1000)
            for frame in filter(self.is_counted, frames):
                if gpu in self.dead:
                    self.outcome.lost += 1
                else:
                    self.outcome.latencies.append(1000 * (self.env.now - frame.came_s))

    def dying(self, when_s: float) -> Iterator[simpy.Event]:
        yield self.env.timeout(when_s)
        self.dead.add(0)
        self.outcome.lost += sum(map(self.is_counted, self.queues[0].items))
        self.queues[0].items.clear()
        yield self.env.timeout(DETECTED_S)
        moved = [camera for camera, gpu in enumerate(self.gpu_of) if gpu == 0]
        for number, camera in enumerate(moved):
            self.gpu_of[camera] = 1 + number % (self.load.gpus - 1)


def simulate(load: Load) -> Outcome:
    """Run it; equal loads have equal outcomes."""
    fleet = _Fleet(load)
    fleet.env.run(until=load.seconds)
    return fleet.outcome
