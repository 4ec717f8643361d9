"""What a network is trained to undo, one task a file: what it sets of a network, and how training
degrades clean patches; always seeded."""

from mirnet_edge.workstation.tasks.batch import Task
from mirnet_edge.workstation.tasks.denoise import Denoise
from mirnet_edge.workstation.tasks.enhance import Enhance
from mirnet_edge.workstation.tasks.gaussian import Gaussian
from mirnet_edge.workstation.tasks.super_resolution import SuperResolution

TRAINABLE: dict[str, type[Task]] = {
    task.name: task for task in (Denoise, Gaussian, SuperResolution, Enhance)
}
"""By the names of ``--task``; settings are the fields of each."""
