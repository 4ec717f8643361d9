"""What a network is trained to undo, one task a file: its name in the facts of what was trained,
and how training degrades clean patches; always seeded."""

from mirnet_edge.workstation.tasks.denoise import Denoise

TRAINABLE = {task.name: task for task in (Denoise(),)}
"""By their names among `mirnet_edge.model.config.TASKS`."""
