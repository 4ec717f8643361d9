"""What a network is trained to undo, one task a file: synthetic degradations of clean images,
always seeded."""

from __future__ import annotations

from mirnet_edge.errors import ConfigError
from mirnet_edge.workstation.tasks.denoise import Denoise

TASKS = {"denoise": Denoise()}


def task_named(name: str) -> Denoise:
    """The training task called ``name``.

    Raises:
        ConfigError: there is none; the message lists them.
    """
    if name not in TASKS:
        raise ConfigError(f"no task {name!r} can be trained yet; there are: {', '.join(TASKS)}")
    return TASKS[name]
