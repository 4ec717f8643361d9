"""The state of a training run: what it begins with, and what a checkpoint holds of it."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mirnet_edge._files import atomic_path
from mirnet_edge.errors import CheckpointError, ConfigError, first_line
from mirnet_edge.model.checkpoints import load_model
from mirnet_edge.model.config import Config, preset_of
from mirnet_edge.model.create import create_model
from mirnet_edge.model.layers import Network
from mirnet_edge.workstation.curve import Point
from mirnet_edge.workstation.settings import TrainSettings

log = logging.getLogger(__name__)
CHECKPOINT = "checkpoint.pt"
CHECKPOINT_FORMAT = 2
MAY_DIFFER = ("steps", "minutes")
"""Settings that a resumed run may have otherwise: how long the whole shall be."""


@dataclass
class TrainState:
    """What a step changes, and what a checkpoint holds.

    Attributes:
        network: the weights that the optimizer moves.
        average: their moving average, which is validated and kept.
        seconds: of training so far, of earlier runs too.
        rate_factor: of the schedule's learning rate, below 1 after the training diverged.
    """

    settings: TrainSettings
    network: Network
    average: Network
    optimizer: torch.optim.Adam
    step: int = 0
    seconds: float = 0.0
    rate_factor: float = 1.0
    curve: list[Point] = field(default_factory=list)

    @property
    def position(self) -> float:
        """Which part of the schedule is over, from 1 on the whole."""
        return self.settings.position(self.step, self.seconds)

    def save(self, folder: Path) -> None:
        """Write the checkpoint and the curve."""
        curve = [dataclasses.asdict(point) for point in self.curve]
        content = {
            "format": CHECKPOINT_FORMAT,
            "settings": dataclasses.asdict(self.settings),
            # Under the name by which `load_model` finds weights: those that are of use.
            "model": self.average.state_dict(),
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "rate_factor": self.rate_factor,
            "curve": curve,
        }
        # Into memory first: of a full disk torch says no more than that its writer failed.
        saved = io.BytesIO()
        torch.save(content, saved)
        with atomic_path(folder / CHECKPOINT) as temporary:
            temporary.write_bytes(saved.getbuffer())
        log.info("%s: step %d is saved", folder / CHECKPOINT, self.step)
        with atomic_path(folder / "curve.json") as temporary:
            temporary.write_text(json.dumps(curve, indent=1))

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint, with its warm-up where the settings name none; a `ConfigError`
        where its settings differ in more than `MAY_DIFFER`."""
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            version = content["format"]
            found = TrainSettings(**content["settings"]) if version == CHECKPOINT_FORMAT else None
        except Exception as error:  # damaged files make torch and pickle raise nearly anything
            raise CheckpointError(
                f"{path}: not a training checkpoint, or damaged; delete it to start anew"
            ) from error
        if found is None:
            raise CheckpointError(
                f"{path}: format {version}; this version reads {CHECKPOINT_FORMAT}"
            )
        if self.settings.warmup_steps is None:
            self.settings = dataclasses.replace(self.settings, warmup_steps=found.warmup_steps)
        different = [
            f"{name} {old!r} -> {new!r}"
            for (name, old), new in zip(vars(found).items(), vars(self.settings).values())
            if old != new and name not in MAY_DIFFER
        ]
        if different:
            raise ConfigError(
                f"{path} was trained with other settings ({', '.join(different)}); use the same, "
                "or another output folder"
            )
        try:
            self._take(content)
        except Exception as error:
            raise CheckpointError(
                f"{path}: does not hold this training ({first_line(error)}); delete it to start "
                "anew"
            ) from error

    def _take(self, content: dict[str, Any]) -> None:
        self.network.load_state_dict(content["network"])
        self.average.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        for name, kinds in (
            ("step", int),
            ("seconds", (int, float)),
            ("rate_factor", (int, float)),
        ):
            if not isinstance(content[name], kinds) or not 0 <= content[name] < math.inf:
                raise ValueError(f"{name} is {content[name]!r:.40}")
            setattr(self, name, content[name])
        self.curve = [Point(**point) for point in content["curve"]]


def initial_network(
    config: Config,
    settings: TrainSettings,
    initial: str | os.PathLike[str] | None,
    say: Callable[[str], None],
) -> Network:
    """A network of ``config`` with weights drawn from the settings' seed, or those of ``initial``.

    A network of the same preset that was made for another task may differ in a few tensors: these
    are drawn anew, and ``say`` is told which. A `ConfigError` where the presets differ.
    """
    network = create_model(config, seed=settings.seed)
    if initial is None:
        return network
    found = load_model(initial)
    if found.config == config:
        return found
    if preset_of(found.config) != settings.preset:
        raise ConfigError(
            f"{initial} is a {found.facts.preset} network, but {settings.preset} is to be trained"
        )
    drawn, known = network.state_dict(), found.state_dict()
    fitting = {
        name: tensor
        for name, tensor in known.items()
        if name in drawn and drawn[name].shape == tensor.shape
    }
    network.load_state_dict({**drawn, **fitting})
    network.facts = found.facts
    anew = [name for name in drawn if name not in fitting]
    say(f"{initial} was made for another task; drawn anew: {', '.join(anew)}")
    return network
