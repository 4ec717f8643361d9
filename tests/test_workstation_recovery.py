"""A training that diverges goes on from where it was well."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from training_runs import SHORT, write_images

import mirnet_edge as me
from mirnet_edge.workstation import recovery, train
from mirnet_edge.workstation.recovery import Recovery

LONGER = dataclasses.replace(SHORT, preset="edge-xs", steps=60, learning_rate=1e-4)


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks and copies that a short run has."""
    monkeypatch.setattr(recovery, "KEEP_EVERY", 4)
    monkeypatch.setattr(train, "READ_EVERY", 2)


def trainer_of(tmp_path: Path, said: list[str], **settings: object) -> me.Trainer:
    folder = tmp_path / "images"
    folder.mkdir()
    write_images(folder)
    longer = dataclasses.replace(LONGER, **settings)  # type: ignore[arg-type]
    return me.Trainer(longer, [folder], tmp_path / "run", device="cpu", say=said.append)


def explode(trainer: me.Trainer, step: int, factor: float = 1e3, times: int = 1) -> None:
    """Let the weights leave all bounds from a step on, so many times."""
    taken = trainer.stepper.step

    def stepping(stage: object) -> None:
        if trainer.state.step >= step and len(exploded) < times:
            exploded.append(step)
            with torch.no_grad():
                for parameter in trainer.state.network.parameters():
                    parameter.mul_(factor)
        taken(stage)  # type: ignore[arg-type]

    exploded: list[int] = []
    trainer.stepper.step = stepping  # type: ignore[method-assign, assignment]


@pytest.mark.parametrize("factor", [8.0, 1e3, float("nan")])
def test_it_goes_back_and_on_with_half_the_rate(factor: float, tmp_path: Path) -> None:
    said: list[str] = []
    trainer = trainer_of(tmp_path, said)
    explode(trainer, 30, factor)
    state = trainer.run(validate_every=1000)
    assert state.step == 60
    assert state.rate_factor == 0.5
    assert len(said) == 1
    assert "goes on from earlier weights, at 0.5 of the learning rate" in said[0]
    weights = me.load_model(tmp_path / "run" / "model.safetensors").state_dict().values()
    assert all(bool(tensor.isfinite().all()) for tensor in weights)
    assert float(trainer.stepper.tally().loss) < 0.3
    # A run that goes on keeps the lower rate.
    content = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert content["rate_factor"] == 0.5


@pytest.mark.parametrize("step", [1, 5])
def test_early_it_goes_back_to_the_weights_it_began_with(step: int, tmp_path: Path) -> None:
    said: list[str] = []
    trainer = trainer_of(tmp_path, said)
    first = [parameter.detach().clone() for parameter in trainer.state.network.parameters()]
    explode(trainer, step, float("nan"))
    began: list[bool] = []
    go_back = trainer.recovery.go_back

    def going_back() -> bool:
        gone = go_back()
        state = trainer.state
        began.append(all(map(torch.equal, first, state.network.parameters())))
        moments = [each for some in state.optimizer.state.values() for each in some.values()]
        assert not any(bool(each.any()) for each in moments)
        return gone

    trainer.recovery.go_back = going_back  # type: ignore[method-assign]
    assert trainer.run(validate_every=1000).step == 60
    assert (began, len(said)) == ([True], 1)


def test_one_that_always_diverges_ends_with_an_error(tmp_path: Path) -> None:
    said: list[str] = []
    trainer = trainer_of(tmp_path, said)
    explode(trainer, 1, float("nan"), times=1000)
    with pytest.raises(me.ConfigError, match="lower learning_rate; nothing is saved yet"):
        trainer.run()
    assert len(said) == recovery.MOST_TIMES


def test_the_older_of_two_copies_is_taken(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, [])
    state = trainer.state
    watch = Recovery(state)
    weight = next(iter(state.network.parameters()))
    with torch.no_grad():
        for step in range(0, 40, 4):
            state.step = step
            weight.fill_(float(step))
            assert not watch.look(0.1)
    assert [watch.look(loss) for loss in (0.9, 0.1, 0.9, 5.0, 0.9)] == [False] * 4 + [True]
    assert watch.go_back()
    assert float(weight.detach().flatten()[0]) == 32.0
    assert [watch.go_back() for _ in range(5)] == [True] * 4 + [False]
    assert state.rate_factor == 0.5**5
