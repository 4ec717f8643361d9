"""What every task is, and what it makes of a batch of clean patches."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, Protocol

from mirnet_edge.errors import ConfigError
from mirnet_edge.facts import NOISE_UNIT
from mirnet_edge.model.config import Config, MIRNetV2Config

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True)
class Batch:
    """Attributes:
    given: (N, planes, H, W) float32, what the network takes.
    target: (N, 3, H, W) float32 in [0, 1], what it shall make of that.
    """

    given: Tensor
    target: Tensor


class Task(Protocol):
    """A task, as training sees it; a dataclass, whose fields are its settings.

    Attributes:
        name: of ``--task``.
        restores: what a network of this task says of itself (`mirnet_edge.model.config.TASKS`).
        scale: how much it enlarges.
    """

    name: ClassVar[str]
    restores: ClassVar[str]

    @property
    def scale(self) -> int: ...

    def network(self, config: Config) -> Config:
        """The network for this task: of an ``edge`` network, what the task sets of it."""

    def degrade(self, clean: Tensor, generator: Generator) -> Batch:
        """(N, 3, H, W) float32 in [0, 1], H and W multiples of 16 (times the scale), to what a
        network is given and shall make. ``generator`` on the same device. Nothing waits for
        the device, and all that is random is drawn there, so that a CUDA graph can repeat it."""


def with_level(noisy: Tensor, level: Tensor) -> Tensor:
    """A batch and, as one more plane, the level (N, 1, 1, 1) of its noise, as a fraction of 1."""
    import torch

    plane = level.expand(-1, -1, *noisy.shape[2:]) * (255 / NOISE_UNIT)
    return torch.cat((noisy, plane), 1)


def noise_of(noisy: Tensor, target: Tensor) -> Tensor:
    """(N, 1, 1, 1): the root of the mean square of their difference, a fraction of 1."""
    return (noisy - target).square().mean((1, 2, 3), keepdim=True).sqrt()


def shares(count: int, fractions: tuple[float, ...]) -> list[slice]:
    """Cut a batch into parts of about these fractions, the last taking the rest."""
    ends, total = [0], 0.0
    for fraction in fractions:
        total += fraction
        ends.append(round(total * count))
    ends[-1] = count
    return [slice(start, stop) for start, stop in pairwise(ends)]


def edge_network(config: Config, name: str) -> MIRNetV2Config:
    """The configuration, which must be of MIRNet-v2 to take what a task sets of it."""
    if not isinstance(config, MIRNetV2Config):
        raise ConfigError(f"task {name!r} needs a network of the v2 family; e.g. edge-m")
    return config
