"""Names of tasks: what a network may be said to restore, and what can be trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import TINY

import mirnet_edge as me
from mirnet_edge.model.config import TASKS
from mirnet_edge.workstation.tasks import TRAINABLE

WRONG = ["anything", "super-resolution-x4", "Denoise", ""]


@pytest.fixture
def network() -> torch.nn.Module:
    return me.create_model(TINY["defocus"], seed=0)


def test_what_can_be_trained_says_what_a_network_may_restore(tmp_path: Path) -> None:
    assert {kind.restores for kind in TRAINABLE.values()} <= set(TASKS)
    assert all(kind.name == name for name, kind in TRAINABLE.items())
    with pytest.raises(me.ConfigError, match=r"no task 'derain' can be trained; .*denoise"):
        me.Trainer(me.TrainSettings(task="derain"), [tmp_path], tmp_path)


@pytest.mark.parametrize("task", TASKS)
def test_published_checkpoints_of_every_task_get_its_name(
    task: str, network: torch.nn.Module, tmp_path: Path
) -> None:
    torch.save({"params": network.state_dict()}, tmp_path / "published.pth")
    loaded = me.load_model(tmp_path / "published.pth", task=task)
    assert loaded.facts.task == task
    me.save_model(loaded, tmp_path / "own.safetensors", task=task)
    assert me.load_model(tmp_path / "own.safetensors").facts.task == task


def test_an_export_carries_the_task(tmp_path: Path) -> None:
    path, network = tmp_path / "x.onnx", me.create_model(TINY["edge-x4"], seed=0)
    report = me.export_onnx(network, path, task="defocus-deblurring")
    assert report.facts.task == "defocus-deblurring"
    assert me.OnnxEngine(path).facts.task == "defocus-deblurring"


@pytest.mark.parametrize("task", WRONG)
@pytest.mark.parametrize("verb", ["load", "save", "export"])
def test_a_task_that_there_is_not_is_refused_with_those_there_are(
    verb: str, task: str, network: torch.nn.Module, tmp_path: Path
) -> None:
    torch.save({"params": network.state_dict()}, tmp_path / "published.pth")
    do: dict[str, Callable[[], object]] = {
        "load": lambda: me.load_model(tmp_path / "published.pth", task=task),
        "save": lambda: me.save_model(network, tmp_path / "x.safetensors", task=task),  # type: ignore[arg-type]
        "export": lambda: me.export_onnx(network, tmp_path / "x.onnx", task=task),  # type: ignore[arg-type]
    }
    with pytest.raises(me.ConfigError, match=f"no task '{task}'; there are: denoise, super-res"):
        do[verb]()
    assert [path.name for path in tmp_path.iterdir()] == ["published.pth"]


def test_a_denoiser_cannot_be_called_something_else(
    network: torch.nn.Module, tmp_path: Path
) -> None:
    path = tmp_path / "own.safetensors"
    me.save_model(network, path, task="denoise")  # type: ignore[arg-type]
    assert me.load_model(path, task="denoise").facts.task == "denoise"
    with pytest.raises(me.ConfigError, match="for 'denoise', not 'enhance'; leave the task out"):
        me.load_model(path, task="enhance")
    denoiser = me.load_model(path)
    with pytest.raises(me.ConfigError, match="for 'denoise', not 'enhance'"):
        me.export_onnx(denoiser, tmp_path / "x.onnx", task="enhance")


def test_a_label_of_another_program_can_be_corrected(
    network: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "own.safetensors"
    monkeypatch.setattr("mirnet_edge.model.checkpoints.task_of", lambda known, said: said)
    me.save_model(network, path, task="derain")  # type: ignore[arg-type]
    monkeypatch.undo()
    assert me.load_model(path).facts.task == "derain"
    assert me.load_model(path, task="enhance").facts.task == "enhance"
