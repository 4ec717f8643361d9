"""Checkpoints of a training that are damaged, or cannot be written: one error, and nothing lost."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import SHORT, write_smooth_images

import mirnet_edge as me
from mirnet_edge.errors import CheckpointError, OutputError
from mirnet_edge.workstation.state import CHECKPOINT


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder of images, and what a checkpoint of a short training on them holds."""
    folder = tmp_path_factory.mktemp("trained")
    images = folder / "images"
    images.mkdir()
    write_smooth_images(images)
    trainer = me.Trainer(SHORT, [images], folder / "run", device="cpu")
    trainer.run(2)
    return images, torch.load(folder / "run" / CHECKPOINT, weights_only=True)


def resumed(images: Path, content: Any, folder: Path) -> me.Trainer:
    torch.save(content, folder / CHECKPOINT)
    return me.Trainer(SHORT, [images], folder, device="cpu")


@pytest.mark.parametrize(
    "change",
    [
        *({name: None} for name in ("network", "model", "optimizer", "curve", "settings")),
        *({name: {}} for name in ("network", "model", "optimizer")),
        *({"step": value} for value in (-1, 1.5, "2", None, float("nan"))),
        *({"seconds": value} for value in (-1, "2", float("inf"), None)),
        {"rate_factor": "1"},
        {"curve": [{"step": 1}]},
        {"curve": [7]},
        {"network": {"conv_in.weight": torch.zeros(1)}},
        {"format": 99},
        {"format": None},
    ],
    ids=str,
)
def test_a_damaged_checkpoint_is_one_error(
    change: dict[str, Any], trained: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    images, content = trained
    with pytest.raises(CheckpointError, match=CHECKPOINT):
        resumed(images, {**content, **change}, tmp_path)


def test_a_checkpoint_without_a_field(trained: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    images, content = trained
    for name in content:
        less = {key: value for key, value in content.items() if key != name}
        with pytest.raises(CheckpointError, match=CHECKPOINT):
            resumed(images, less, tmp_path)
    assert resumed(images, content, tmp_path).state.step == 2


def test_a_full_disk_keeps_the_checkpoint_before(
    trained: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, content = trained
    trainer = resumed(images, content, tmp_path)
    before = (tmp_path / CHECKPOINT).read_bytes()

    def full(path: Path, data: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match=r"checkpoint\.pt: no space left"):
        trainer.state.save(tmp_path)
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
