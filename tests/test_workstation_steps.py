"""Steps of training: what they do with what is no number, on pairs, in stages, in time, together,
and as graphs of a GPU."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from training_runs import SHORT, assert_same_weights, weights_of, write_images

import mirnet_edge as me
from mirnet_edge.model.config import MIRNetConfig
from mirnet_edge.workstation import pace
from mirnet_edge.workstation.captured import WARM_UP_CALLS, Captured
from mirnet_edge.workstation.patches import PatchSampler, degraded_patches, paired_patches
from mirnet_edge.workstation.photos import read_photos
from mirnet_edge.workstation.settings import Stage
from mirnet_edge.workstation.tasks.batch import Batch
from mirnet_edge.workstation.tasks.gaussian import Gaussian


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("clean"))


def test_a_step_without_a_finite_gradient_moves_nothing(folder: Path, tmp_path: Path) -> None:
    trainer = me.Trainer(SHORT, [folder], tmp_path, device="cpu")
    stepper, stage = trainer.stepper, trainer.stages[0]
    stepper.step(stage)
    before, moments = weights_of(trainer), trainer.state.optimizer.state_dict()["state"][0]
    moment = moments["exp_avg"].clone()
    draw = stepper._draw

    def broken(batch: int, patch_px: int, generator: torch.Generator) -> Batch:
        drawn = draw(batch, patch_px, generator)
        return dataclasses.replace(drawn, given=drawn.given * float("nan"))

    stepper._draw = broken
    stepper.step(stage)
    assert torch.isnan(stepper._loss)
    for name, tensor in weights_of(trainer).items():
        assert torch.equal(tensor, before[name]), name
    state = trainer.state.optimizer.state_dict()["state"][0]
    assert torch.equal(state["exp_avg"], moment)
    assert (stepper.tally().refused, stepper.tally().finite) == (1, 1)
    stepper._draw = draw
    trainer.run()
    assert (stepper.tally().refused, trainer.state.step) == (0, 6)
    assert np.isfinite(trainer.state.curve[-1].loss)


def test_ten_steps_without_a_finite_gradient_end_the_run(folder: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(SHORT, steps=1000)
    trainer = me.Trainer(settings, [folder], tmp_path, device="cpu")
    trainer.run(until=5)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    take = trainer.stepper.step

    def step(stage: Stage) -> None:
        with torch.no_grad():  # whatever it goes back to
            next(trainer.state.network.parameters()).fill_(float("inf"))
        take(stage)

    trainer.stepper.step = step  # type: ignore[method-assign]
    # Five times it halves the rate and goes on.
    said = (
        r"the loss is nan at step \d+, where the learning rate is 6\.\de-05: .*keeps the last good"
    )
    with pytest.raises(me.ConfigError, match=said):
        trainer.run(checkpoint_minutes=1e-9)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_the_average_follows_the_weights(folder: Path, tmp_path: Path) -> None:
    trainer = me.Trainer(dataclasses.replace(SHORT, ema=0.15), [folder], tmp_path, device="cpu")
    name = "conv_in.weight"
    expected = weights_of(trainer)[name]
    for decay in (0.1, 0.15, 0.15):  # (1 + 0) / (10 + 0) is less, (1 + 1) / (10 + 1) more
        trainer.stepper.step(trainer.stages[0])
        expected = decay * expected + (1 - decay) * weights_of(trainer)[name]
    found = trainer.state.average.state_dict()[name]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_stages_begin_when_it_is_their_time(folder: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(SHORT, progressive=((0.5, 32, 1),))
    trainer = me.Trainer(settings, [folder], tmp_path, device="cpu")
    seen = []
    step = trainer.stepper.step

    def watched(stage: Stage) -> None:
        step(stage)
        seen.append(tuple(trainer.stepper._batch.given.shape))

    trainer.stepper.step = watched  # type: ignore[method-assign]
    trainer.run()
    assert seen == [(2, 4, 16, 16)] * 3 + [(1, 4, 32, 32)] * 3
    large = dataclasses.replace(SHORT, progressive=((0.5, 64, 1),))
    with pytest.raises(me.DataError, match="as large as a patch of 64; the largest has 40"):
        me.Trainer(large, [folder], tmp_path / "large", device="cpu")


def test_the_first_stage_can_be_named_too() -> None:
    settings = me.TrainSettings(progressive=((0.5, 192, 8), (0.0, 64, 32)))
    assert settings.stages(16) == [Stage(0.0, 64, 32), Stage(0.5, 192, 8)]


def test_the_schedule_ends_with_the_time(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    settings = dataclasses.replace(SHORT, steps=1000, minutes=1.0, warmup_steps=0)
    trainer = me.Trainer(settings, [folder], tmp_path, device="cpu")
    step = trainer.stepper.step

    def slow(stage: Stage) -> None:
        step(stage)
        now[0] += 15

    trainer.stepper.step = slow  # type: ignore[method-assign]
    trainer.run(until=2)
    assert (trainer.state.step, trainer.state.seconds) == (2, 30)
    trainer = me.Trainer(settings, [folder], tmp_path, device="cpu")
    step = trainer.stepper.step
    trainer.stepper.step = slow  # type: ignore[method-assign]
    trainer.run()
    assert (trainer.state.step, trainer.state.seconds) == (4, 60)
    expected = settings.learning_rate_at(3, position=0.75)
    assert trainer.state.curve[-1].learning_rate == pytest.approx(expected)
    assert settings.position(500, 6.0) == 0.5


def test_pairs_are_cut_at_one_place_and_tell_their_noise() -> None:
    random = np.random.Generator(np.random.PCG64(0))
    good = random.integers(40, 200, (37, 41, 3), np.uint8)
    sampler = PatchSampler([np.concatenate((good + np.uint8(20), good), 2)], torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    batch = paired_patches(sampler, noise_level=True)(5, 16, generator)
    torch.testing.assert_close(
        batch.given[:, :3] - batch.target, torch.full((5, 3, 16, 16), 20 / 255)
    )
    torch.testing.assert_close(batch.given[:, 3:], torch.full((5, 1, 16, 16), 20 / 50))
    assert paired_patches(sampler, noise_level=False)(2, 16, generator).given.shape[1] == 3


def test_training_on_pairs_learns_what_they_differ_in(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "dark").mkdir()
    for name in ("0.png", "1.png"):
        with Image.open(folder / name) as image:
            image.point(lambda value: value // 2).save(tmp_path / "dark" / name)
    settings = dataclasses.replace(SHORT, task="enhance", steps=60, batch=4)
    pairs = (tmp_path / "dark", folder)
    trainer = me.Trainer(settings, [], tmp_path / "run", pairs=pairs, device="cpu")
    assert any("2.png: has no partner" in reason for reason in trainer.skipped)
    trainer.run(validate_every=20)
    first, *_, last = trainer.state.curve
    assert last.loss < 0.8 * first.loss, (first.loss, last.loss)
    enlarging = dataclasses.replace(SHORT, task="super-resolution", patch_px=32)
    with pytest.raises(me.ConfigError, match="makes its own small pictures"):
        me.Trainer(enlarging, [], tmp_path / "x2", pairs=pairs)
    with pytest.raises(me.ConfigError, match="name one of the two"):
        me.Trainer(SHORT, [], tmp_path / "x2")


def test_photos_come_with_smaller_copies(folder: Path) -> None:
    skipped: list[str] = []
    photos = read_photos([folder], 16, (1.0, 0.5), skipped)
    sizes = [[copy.shape for copy in copies] for copies in photos]
    # The smaller copy of the second is smaller than a patch.
    assert sizes == [[(40, 56, 3), (20, 28, 3)], [(33, 21, 3)]]
    assert len(skipped) == 2
    small = photos[0][1].astype(np.float32)
    means = photos[0][0].reshape(20, 2, 28, 2, 3).mean((1, 3))
    assert np.abs(small - means).mean() < 4


TOGETHER = """
import sys
import torch
import mirnet_edge as me
from mirnet_edge.workstation.processes import Processes

torch.set_num_threads(1)
settings = me.TrainSettings(preset="edge-xs", task="gaussian", steps=4, batch=1, patch_px=16)
trainer = me.Trainer(settings, [sys.argv[1]], sys.argv[2], device="cpu")
rank = trainer.processes.rank
own = [torch.full((2, 3), float(rank)), torch.tensor(4.0 * rank)]
trainer.processes.average(own)
assert own[0].unique().tolist() == [0.5] and own[1].item() == 2.0, own
assert trainer.processes.greatest(rank, -rank) == [1, 0]
draw = trainer.stepper._draw
seen = []
def watched(*asked):
    batch = draw(*asked)
    seen.append(float(batch.target.sum()))
    return batch
trainer.stepper._draw = watched
trainer.run()
weights = sum(p.double().abs().sum() for p in trainer.state.network.parameters())
# One call, so that the lines of both processes stay whole.
sys.stdout.write(f"{rank} {weights:.12f} {seen}\\n")
trainer.processes.close()
"""


@pytest.mark.slow
def test_two_processes_train_one_network_on_patches_of_their_own(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "together.py").write_text(TOGETHER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", tmp_path / "together.py", folder, tmp_path / "out"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    (_, weights, seen), (_, other_weights, other_seen) = sorted(
        line.split(maxsplit=2) for line in ended.stdout.splitlines()
    )
    assert weights == other_weights
    assert seen != other_seen
    assert me.load_model(tmp_path / "out" / "model.safetensors").training_facts["processes"] == 2


class FakeGraph:
    """Counts replays."""

    def __init__(self) -> None:
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[FakeGraph]:
    made: list[FakeGraph] = []

    def make() -> FakeGraph:
        made.append(FakeGraph())
        return made[-1]

    @contextmanager
    def recording(graph: object, **options: object) -> Iterator[None]:
        yield

    monkeypatch.setattr("torch.cuda.CUDAGraph", make)
    monkeypatch.setattr("torch.cuda.graph", recording)
    monkeypatch.setattr("torch.cuda.synchronize", lambda: None)
    return made


def test_work_is_recorded_after_some_calls_and_then_replayed(graphs: list[FakeGraph]) -> None:
    called = []
    work = Captured(lambda: called.append(1), stream=object())  # type: ignore[arg-type]
    for _ in range(WARM_UP_CALLS + 4):
        work()
    assert len(called) == WARM_UP_CALLS + 1, "the last one was recorded"
    assert [graph.replays for graph in graphs] == [4]


def test_work_that_cannot_be_recorded_goes_on_as_before(graphs: list[FakeGraph]) -> None:
    called, said = [], []

    def waiting() -> None:
        if len(called) == WARM_UP_CALLS and not said:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        called.append(1)

    work = Captured(waiting, object(), on_failure=said.append)  # type: ignore[arg-type]
    for _ in range(WARM_UP_CALLS + 4):
        work()
    assert said == ["operation not permitted when stream is capturing"]
    assert len(called) == WARM_UP_CALLS + 4


def test_degraded_patches_are_the_tasks_of_what_was_cut() -> None:
    image = np.full((20, 20, 3), 51, np.uint8)
    sampler = PatchSampler([image], torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    batch = degraded_patches(sampler, Gaussian(sigma=(5, 5)), True)(3, 16, generator)
    torch.testing.assert_close(batch.target, torch.full((3, 3, 16, 16), 0.2))
    assert float((batch.given[:, :3] - 0.2).std()) == pytest.approx(5 / 255, rel=0.1)
    untold = degraded_patches(sampler, Gaussian(sigma=(5, 5)), False)(3, 16, generator)
    assert untold.given.shape == (3, 3, 16, 16)
    assert float((untold.given - 0.2).std()) == pytest.approx(5 / 255, rel=0.1)


def test_untimed_steps_count_no_time(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first three take ten minutes each, as compiling might, the others one second."""
    now = 0.0
    settings = dataclasses.replace(SHORT, minutes=0.04, steps=20)
    trainer = me.Trainer(settings, [folder], tmp_path, device="cpu")
    step = trainer.stepper.step

    def timed(stage: Stage) -> None:
        nonlocal now
        now += 600.0 if trainer.state.step < 3 else 1.0
        step(stage)

    trainer.stepper.step = timed  # type: ignore[method-assign]
    monkeypatch.setattr(pace, "time", SimpleNamespace(monotonic=lambda: now))
    state = trainer.run(untimed_steps=3)
    assert (state.step, state.seconds) == (6, 3.0)


def test_a_network_is_trained_instead_of_the_presets(folder: Path, tmp_path: Path) -> None:
    network = me.create_model(MIRNetConfig(channels=(8, 16), n_rrg=1, n_msrb=1), seed=3)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    trainer = me.Trainer(SHORT, [folder], tmp_path, device="cpu", network=network)
    assert trainer.state.network is network
    trainer.run()
    moved = [name for name, tensor in network.state_dict().items()
             if not torch.equal(tensor, before[name])]  # fmt: skip
    assert "conv_in.weight" in moved
    assert me.load_model(tmp_path / "model.safetensors").config == network.config


@pytest.mark.parametrize("minutes", [None, 10.0])
def test_a_checkpoint_by_time_goes_on_as_if_nothing_had_been(
    minutes: float | None, folder: Path, tmp_path: Path
) -> None:
    settings = dataclasses.replace(SHORT, minutes=minutes, steps=4)
    trainer = me.Trainer(settings, [folder], tmp_path / "timed", device="cpu")
    step = trainer.stepper.step

    def killed(stage: Stage) -> None:
        if trainer.state.step == 3:
            trainer.stepper.is_updating = True  # as if it died within
            raise me.DeviceError("lost")
        step(stage)

    trainer.stepper.step = killed  # type: ignore[method-assign]
    with pytest.raises(me.DeviceError):
        trainer.run(checkpoint_minutes=1e-9)
    resumed = me.Trainer(settings, [folder], tmp_path / "timed", device="cpu")
    assert (resumed.state.step, resumed.state.curve) == (3, [])
    resumed.run()
    if minutes is None:
        whole = me.Trainer(settings, [folder], tmp_path / "whole", device="cpu")
        whole.run()
        assert_same_weights(resumed, whole)
    assert resumed.state.seconds > 0


@pytest.mark.gpu
@pytest.mark.parametrize("task", ["denoise", "super-resolution", "enhance"])
def test_recorded_steps_equal_those_launched_one_operation_at_a_time(
    task: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch uses no GPU")
    settings = dataclasses.replace(SHORT, task=task, steps=12, batch=8, patch_px=32)
    trainers, said = [], []
    for name, calls in (("graphs", WARM_UP_CALLS), ("calls", 100)):
        monkeypatch.setattr("mirnet_edge.workstation.captured.WARM_UP_CALLS", calls)
        output = tmp_path / name
        trainer = me.Trainer(
            settings, [folder], output, device="cuda", compile=False, say=said.append
        )
        trainer.run()
        trainers.append(trainer)
    assert said == [], "something could not be recorded"
    losses = [trainer.state.curve[-1].loss for trainer in trainers]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)
    for found, expected in zip(trainers[0].stepper._averages, trainers[1].stepper._averages):
        torch.testing.assert_close(found, expected, rtol=0.05, atol=5e-3)
