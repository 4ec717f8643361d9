"""What a network is trained to undo, one task a file: how clean images are degraded, in training
and to measure, always seeded, and the task's name in the facts of what was trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from mirnet_edge.errors import ConfigError
from mirnet_edge.workstation.tasks.denoise import Denoise

if TYPE_CHECKING:
    from torch import Generator, Tensor


class Task(Protocol):
    """A dataclass of the task's settings, which the card of a bundled model tells."""

    @property
    def name(self) -> str:
        """One of `mirnet_edge.model.config.TASKS`."""
        ...

    def degrade(self, clean: Tensor, generator: Generator) -> Tensor:
        """Make network input of (N, C, H, W) clean patches in [0, 1]."""
        ...


TRAINABLE: dict[str, Task] = {task.name: task for task in (Denoise(),)}


def task_named(name: str) -> Task:
    """The training task called ``name``.

    Raises:
        ConfigError: there is none; the message lists them.
    """
    if name not in TRAINABLE:
        raise ConfigError(f"no task {name!r} can be trained yet; there are: {', '.join(TRAINABLE)}")
    return TRAINABLE[name]
