"""What a training run is: its settings, and the state that a checkpoint holds between two runs."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import torch

from mirnet_edge._files import atomic_path
from mirnet_edge.errors import CheckpointError, ConfigError
from mirnet_edge.model.layers import Network
from mirnet_edge.workstation.curve import Point

CHECKPOINT = "checkpoint.pt"
CHECKPOINT_FORMAT = 1


@dataclass(frozen=True)
class TrainSettings:
    """Everything that decides the result of a training run, but data and device.

    Attributes:
        preset: name of the network.
        task: name of the degradation (`mirnet_edge.workstation.tasks.TRAINABLE`).
        steps: of the whole schedule.
        batch: patches a step.
        patch_px: side of a patch, a multiple of 4.
        learning_rate, final_learning_rate: cosine from the first to the second.
        warmup_steps: linear from zero; None takes 200, or a tenth of the steps where that is less.
        clip_norm: greatest norm of the gradient.
        seed: of initial weights, patches and noise.
    """

    preset: str = "edge-s"
    task: str = "denoise"
    steps: int = 100_000
    batch: int = 16
    patch_px: int = 128
    learning_rate: float = 2e-4
    final_learning_rate: float = 1e-6
    warmup_steps: int | None = None
    clip_norm: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "patch_px", "learning_rate", "clip_norm"):
            if not 0 < getattr(self, name) < math.inf:  # NaN is no number between either
                raise ConfigError(f"{name}={getattr(self, name)}: must be positive and finite")
        for name in ("final_learning_rate", "warmup_steps", "seed"):
            if not 0 <= (getattr(self, name) or 0) < math.inf:
                raise ConfigError(f"{name}={getattr(self, name)}: must not be negative")

    def learning_rate_at(self, step: int) -> float:
        """Of step ``step``, counted from 0."""
        warmup = self.warmup_steps
        if warmup is None:
            warmup = min(200, self.steps // 10)
        cosine = 0.5 + 0.5 * math.cos(math.pi * min(step / self.steps, 1))
        rate = self.final_learning_rate + cosine * (self.learning_rate - self.final_learning_rate)
        return rate * min(1, (step + 1) / max(warmup, 1))


@dataclass
class TrainState:
    """What a step changes, and what a checkpoint holds."""

    settings: TrainSettings
    network: Network
    optimizer: torch.optim.Adam
    step: int = 0
    seconds: float = 0.0
    curve: list[Point] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        """Write the checkpoint and the curve."""
        curve = [dataclasses.asdict(point) for point in self.curve]
        content = {
            "format": CHECKPOINT_FORMAT,
            "settings": dataclasses.asdict(self.settings),
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "curve": curve,
        }
        with atomic_path(folder / CHECKPOINT) as temporary:
            torch.save(content, temporary)
        with atomic_path(folder / "curve.json") as temporary:
            temporary.write_text(json.dumps(curve, indent=1))

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint, with its warm-up where the settings name none; a `ConfigError`
        where its settings differ in more than ``steps``."""
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            version, found = content["format"], TrainSettings(**content["settings"])
        except Exception as error:  # damaged files make torch and pickle raise nearly anything
            raise CheckpointError(
                f"{path}: not a training checkpoint, or damaged; delete it to start anew"
            ) from error
        if version != CHECKPOINT_FORMAT:
            raise CheckpointError(
                f"{path}: format {version}; this version reads {CHECKPOINT_FORMAT}"
            )
        if self.settings.warmup_steps is None:
            self.settings = dataclasses.replace(self.settings, warmup_steps=found.warmup_steps)
        different = [
            f"{name} {old!r} -> {new!r}"
            for (name, old), new in zip(vars(found).items(), vars(self.settings).values())
            if old != new and name != "steps"
        ]
        if different:
            raise ConfigError(
                f"{path} was trained with other settings ({', '.join(different)}); use the same, "
                "or another output folder"
            )
        self.network.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.step, self.seconds = content["step"], content["seconds"]
        self.curve = [Point(**point) for point in content["curve"]]
