"""The recipe of a training run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mirnet_edge.errors import ConfigError
from mirnet_edge.workstation.tasks import TRAINABLE
from mirnet_edge.workstation.tasks.batch import Task

LOSSES = ("charbonnier", "l1", "psnr")
PATCH_PX = 128
EDGE_RATE, PUBLISHED_RATE = 1e-3, 2e-4
"""Learning rates: 2e-3 made an edge network of few channels diverge; the second is the papers'."""
MOST_WARMUP_STEPS = 200


@dataclass(frozen=True)
class Stage:
    """From which part of the schedule on, 0 to 1, patches have which side, and how many a step."""

    start: float
    patch_px: int
    batch: int


@dataclass(frozen=True)
class TrainSettings:
    """Everything that decides the result of a training run, but data and device.

    Attributes:
        preset: name of the network.
        task: name of the degradation (`mirnet_edge.workstation.tasks.TRAINABLE`).
        task_settings: fields of the task by name, as ``{"sigma": (0, 50)}``; others keep their
            defaults.
        steps: of the whole schedule.
        minutes: of training, after which the schedule ends as well, however many steps they took;
            None for none. With it, two runs differ as the speed of their machines does.
        batch: patches a step, in each process.
        patch_px: side of a patch, a multiple of 16 times the task's scale; None takes 128, or the
            next multiple.
        progressive: larger patches later: (part of the schedule, side, batch) of each stage.
        rescale: factors, at most 1, by which photos are made smaller, antialiased: patches are
            drawn from all these copies.
        learning_rate, final_learning_rate: cosine from the first to the second; None takes 1e-3
            for edge networks and the papers' 2e-4 for theirs.
        warmup_steps: linear from zero; None takes 200, or a tenth of the steps where that is less.
        clip_norm: greatest norm of the gradient.
        ema: decay, a step, of the moving average of the weights, which is what is validated and
            kept; less in the first steps.
        loss: "charbonnier", "l1", or "psnr", which weighs all patches alike.
        seed: of initial weights, patches and noise.
    """

    preset: str = "edge-s"
    task: str = "denoise"
    task_settings: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 100_000
    minutes: float | None = None
    batch: int = 16
    patch_px: int | None = None
    progressive: tuple[tuple[float, int, int], ...] = ()
    rescale: tuple[float, ...] = (1.0, 0.75, 0.5)
    learning_rate: float | None = None
    final_learning_rate: float = 1e-6
    warmup_steps: int | None = None
    clip_norm: float = 0.5
    ema: float = 0.999
    loss: str = "charbonnier"
    seed: int = 0

    def __post_init__(self) -> None:
        named = ("minutes", "patch_px", "learning_rate")
        for name in ("steps", "batch", "clip_norm", *named):
            value = getattr(self, name)
            if value is None and name in named:
                continue
            if not 0 < value < math.inf:  # NaN is no number between either
                raise ConfigError(f"{name}={value}: must be positive and finite")
        for name in ("final_learning_rate", "warmup_steps", "seed"):
            if not 0 <= (getattr(self, name) or 0) < math.inf:
                raise ConfigError(f"{name}={getattr(self, name)}: must not be negative")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema={self.ema}: the decay is at least 0 and below 1")
        if self.loss not in LOSSES:
            raise ConfigError(f"loss={self.loss!r}: there are {', '.join(LOSSES)}")
        if not self.rescale or not all(0 < factor <= 1 for factor in self.rescale):
            raise ConfigError(f"rescale={self.rescale}: need factors above 0 and at most 1")
        for start, patch_px, batch in self.progressive:
            if not 0 <= start < 1 or patch_px < 1 or batch < 1:
                raise ConfigError(
                    f"progressive={self.progressive}: a stage begins at 0 to below 1, with a side "
                    "and a batch of at least 1; e.g. (0.6, 192, 14)"
                )

    def make_task(self) -> Task:
        """The task with its settings; a `ConfigError` where there is no such task or setting."""
        kind = TRAINABLE.get(self.task)
        if kind is None:
            trainable = ", ".join(TRAINABLE)
            raise ConfigError(f"no task {self.task!r} can be trained; there are: {trainable}")
        known = defaults_of(kind)
        for name, value in self.task_settings.items():
            if name not in known:
                raise ConfigError(
                    f"task {self.task!r} has no setting {name!r}; it has: {', '.join(known)}"
                )
            _check_setting(name, value, known[name])
        return kind(**self.task_settings)

    def stages(self, multiple: int) -> list[Stage]:
        """What patches are cut when, by start; sides must be multiples of ``multiple``."""
        first = self.patch_px or -(-PATCH_PX // multiple) * multiple
        stages = [Stage(0.0, first, self.batch), *(Stage(*stage) for stage in self.progressive)]
        for stage in stages:
            if stage.patch_px % multiple:
                raise ConfigError(f"patch_px={stage.patch_px}: must be a multiple of {multiple}")
        stages.sort(key=lambda stage: stage.start)
        # One that begins at 0 replaces the first.
        return stages[max(i for i, stage in enumerate(stages) if stage.start == 0) :]

    def position(self, step: int, seconds: float) -> float:
        """Which part of the schedule is over, from 1 on the whole."""
        of_time = seconds / (60 * self.minutes) if self.minutes else 0.0
        return max(step / self.steps, of_time)

    def learning_rate_at(self, step: int, position: float | None = None) -> float:
        """Of step ``step``, counted from 0, at a position of the schedule; None is the steps'."""
        position = step / self.steps if position is None else position
        warmup = self.warmup_steps
        if warmup is None:
            warmup = min(MOST_WARMUP_STEPS, self.steps // 10)
        is_edge = self.preset.startswith("edge")
        highest = self.learning_rate or (EDGE_RATE if is_edge else PUBLISHED_RATE)
        cosine = 0.5 + 0.5 * math.cos(math.pi * min(position, 1))
        rate = self.final_learning_rate + cosine * (highest - self.final_learning_rate)
        return rate * min(1, (step + 1) / max(warmup, 1))

    def ema_decay_at(self, step: int) -> float:
        """Of step ``step``: less at first, so that the average forgets the weights drawn."""
        return min(self.ema, (1 + step) / (10 + step))


def defaults_of(task: type[Task]) -> dict[str, Any]:
    """The settings of a task and their defaults."""
    return {item.name: item.default for item in dataclasses.fields(task)}  # type: ignore[arg-type]


def _check_setting(name: str, value: Any, default: Any) -> None:
    """Check that a value is of the kind of a default: a number, a truth, a text, or as many."""
    many = isinstance(default, tuple)
    values = value if many and isinstance(value, (tuple, list)) else [value]
    examples = default if many else [default]
    if many != isinstance(value, (tuple, list)) or len(values) != len(examples):
        raise ConfigError(f"{name}={value!r}: need {len(examples)} values, as {default!r}")
    for one, example in zip(values, examples):
        is_number = isinstance(example, (int, float)) and not isinstance(example, bool)
        fits = isinstance(one, (int, float)) and math.isfinite(one) if is_number else isinstance(
            one, type(example)
        )  # fmt: skip
        if not fits:
            raise ConfigError(f"{name}={value!r}: need values as {default!r}")
