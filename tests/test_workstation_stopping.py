"""Training that is stopped, by whatever, and goes on as if it had not been."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from training_runs import SHORT, assert_same_weights, write_images

import mirnet_edge as me
from mirnet_edge.workstation import validation
from mirnet_edge.workstation.validation import restore


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("clean"))


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_resumed_training_equals_uninterrupted(folder: Path, tmp_path: Path, stop: int) -> None:
    whole = me.Trainer(SHORT, [folder], tmp_path / "whole", device="cpu")
    whole.run()
    me.Trainer(SHORT, [folder], tmp_path / "parts", device="cpu").run(until=stop)
    parts = me.Trainer(SHORT, [folder], tmp_path / "parts", device="cpu")
    assert parts.state.step == stop
    parts.run()
    assert_same_weights(parts, whole)


def test_interruption_saves_a_checkpoint(folder: Path, tmp_path: Path) -> None:
    def interrupt(news: object) -> None:
        raise KeyboardInterrupt

    settings = dataclasses.replace(SHORT, steps=30, batch=1)
    trainer = me.Trainer(settings, [folder], tmp_path, device="cpu")
    with pytest.raises(KeyboardInterrupt):
        trainer.run(report=interrupt)
    assert me.Trainer(settings, [folder], tmp_path, device="cpu").state.step == 10


class Terminated(Exception):
    """What the handler of SIGTERM raises here, where the default one would end the tests."""


@pytest.fixture
def _sigterm_raises() -> Iterator[None]:
    def handler(*_: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, handler)
    yield
    assert signal.getsignal(signal.SIGTERM) is handler
    signal.signal(signal.SIGTERM, before)


SIGNALS = [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]


@pytest.mark.usefixtures("_sigterm_raises")
@pytest.mark.parametrize(("number", "raised"), SIGNALS)
def test_a_signal_waits_for_the_end_of_the_step(
    number: int, raised: type[BaseException], folder: Path, tmp_path: Path
) -> None:
    """Interrupted within a step, after the weights moved: the whole step is in the checkpoint."""
    whole = me.Trainer(SHORT, [folder], tmp_path / "whole", device="cpu")
    whole.run()
    parts = me.Trainer(SHORT, [folder], tmp_path / "parts", device="cpu")
    update = parts.state.optimizer.step

    def interrupted_update() -> None:
        update()
        if parts.state.step == 3:
            signal.raise_signal(number)

    parts.state.optimizer.step = interrupted_update  # type: ignore[method-assign,assignment]
    with pytest.raises(raised):
        parts.run()
    resumed = me.Trainer(SHORT, [folder], tmp_path / "parts", device="cpu")
    assert resumed.state.step == 4
    resumed.run()
    assert_same_weights(resumed, whole)


@pytest.mark.usefixtures("_sigterm_raises")
@pytest.mark.parametrize(("number", "raised"), SIGNALS)
def test_a_signal_in_the_first_validation_saves_the_steps_before_it(
    number: int,
    raised: type[BaseException],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    validated = []

    def interrupted(network: object, sample: object, device: object) -> object:
        validated.append(sample)
        signal.raise_signal(number)
        return restore(network, sample, device)  # type: ignore[arg-type]

    monkeypatch.setattr(validation, "restore", interrupted)
    trainer = me.Trainer(SHORT, [folder], tmp_path, validation=[folder], device="cpu")
    with pytest.raises(raised):
        trainer.run(validate_every=3)
    assert len(validated) == 1, "the images after the first were not waited for"
    resumed = me.Trainer(SHORT, [folder], tmp_path, device="cpu")
    assert resumed.state.step == 3
    assert_same_weights(resumed, trainer)
    assert [point.psnr for point in resumed.state.curve] == [{}]


@pytest.mark.usefixtures("_sigterm_raises")
def test_a_signal_before_the_first_step_saves_nothing(folder: Path, tmp_path: Path) -> None:
    trainer = me.Trainer(SHORT, [folder], tmp_path, device="cpu")
    step = trainer.stepper.step

    def signalled(stage: object) -> None:
        signal.raise_signal(signal.SIGTERM)
        raise me.DataError("the first step fails")

    trainer.stepper.step = signalled  # type: ignore[method-assign]
    with pytest.raises(me.DataError):
        trainer.run()
    assert list(tmp_path.iterdir()) == []
    trainer.stepper.step = step  # type: ignore[method-assign]
    trainer.run(until=1)
    assert (tmp_path / "checkpoint.pt").exists()


def test_loss_that_is_no_number_keeps_the_last_checkpoint(folder: Path, tmp_path: Path) -> None:
    trainer = me.Trainer(SHORT, [folder], tmp_path, device="cpu")
    trainer.run(until=2)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with torch.no_grad():
        trainer.state.network.conv_in.weight.fill_(float("nan"))  # type: ignore[union-attr,operator]
    with pytest.raises(me.ConfigError, match=r"loss is nan at step 6.*keeps the last good state"):
        trainer.run()
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_loss_that_is_no_number_before_anything_was_saved(folder: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(SHORT, learning_rate=1e30)
    trainer = me.Trainer(settings, [folder], tmp_path, device="cpu")
    with pytest.raises(me.ConfigError, match=r"loss is \w+ at step 6.*; nothing is saved yet"):
        trainer.run()
    assert list(tmp_path.iterdir()) == []


def test_other_settings_are_refused_but_more_steps_are_not(folder: Path, tmp_path: Path) -> None:
    me.Trainer(SHORT, [folder], tmp_path, device="cpu").run(until=1)
    other = dataclasses.replace(SHORT, batch=3)
    with pytest.raises(me.ConfigError, match="batch 2 -> 3"):
        me.Trainer(other, [folder], tmp_path, device="cpu")
    longer = dataclasses.replace(SHORT, steps=8, minutes=5.0)
    assert me.Trainer(longer, [folder], tmp_path, device="cpu").state.step == 1


def test_damaged_checkpoint_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(me.CheckpointError, match="delete it to start anew"):
        me.Trainer(SHORT, [folder], tmp_path, device="cpu")


def test_a_resumed_run_keeps_its_warm_up_unless_told_otherwise(
    folder: Path, tmp_path: Path
) -> None:
    me.Trainer(SHORT, [folder], tmp_path, device="cpu").run(until=1)
    unnamed = dataclasses.replace(SHORT, warmup_steps=None)
    assert me.Trainer(unnamed, [folder], tmp_path, device="cpu").state.settings == SHORT
    other = dataclasses.replace(SHORT, warmup_steps=3)
    with pytest.raises(me.ConfigError, match="warmup_steps 2 -> 3"):
        me.Trainer(other, [folder], tmp_path, device="cpu")
