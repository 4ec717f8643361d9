"""What a network is trained to undo, one task a file: its name in the facts of what was trained,
how training degrades clean patches, and measuring clean images; always seeded."""

from __future__ import annotations

from mirnet_edge.errors import ConfigError
from mirnet_edge.workstation.tasks.denoise import Denoise

TRAINABLE = {task.name: task for task in (Denoise(),)}
"""By their names among `mirnet_edge.model.config.TASKS`."""


def task_named(name: str) -> Denoise:
    """The training task called ``name``.

    Raises:
        ConfigError: there is none; the message lists them.
    """
    if name not in TRAINABLE:
        raise ConfigError(f"no task {name!r} can be trained yet; there are: {', '.join(TRAINABLE)}")
    return TRAINABLE[name]
