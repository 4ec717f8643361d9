"""A short training run for tests: its settings, its images, and the weights it has reached."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

import mirnet_edge as me

SHORT = me.TrainSettings(
    task="gaussian",
    steps=6,
    batch=2,
    patch_px=16,
    rescale=(1.0,),
    learning_rate=2e-3,
    warmup_steps=2,
)


def write_images(path: Path) -> Path:
    """Two images of which patches of 16 can be cut, one that is too small, one that is none."""
    random = np.random.default_rng(0)
    for index, size in enumerate([(40, 56), (33, 21), (8, 8)]):
        small = random.integers(0, 256, (4, 4, 3), np.uint8)
        image = Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC)
        image.save(path / f"{index}.png")
    (path / "broken.png").write_text("no image")
    return path


def write_smooth_images(folder: Path) -> Path:
    """Two images of waves, of which patches of 16 can be cut."""
    for name, height, width in (("a", 33, 46), ("b", 40, 31)):
        y, x = np.mgrid[:height, :width]
        waves = [127 + 90 * np.sin(y / a + x / b) for a, b in ((3, 5), (7, 4), (5, 9))]
        Image.fromarray(np.stack(waves, -1).astype(np.uint8)).save(folder / f"{name}.png")
    return folder


def weights_of(trainer: me.Trainer) -> dict[str, torch.Tensor]:
    return {name: t.clone() for name, t in trainer.state.network.state_dict().items()}


def assert_same_weights(found: me.Trainer, expected: me.Trainer) -> None:
    """Of the networks and of their moving averages."""
    for state in ("network", "average"):
        tensors = getattr(expected.state, state).state_dict()
        for name, tensor in getattr(found.state, state).state_dict().items():
            assert torch.equal(tensor, tensors[name]), name
