"""``mirnet-edge train``: what it leaves behind, how it is stopped, what it refuses."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest
import torch
from command_line import Outcome, run
from PIL import Image
from training_runs import write_smooth_images

import mirnet_edge as me
from mirnet_edge.workstation.train import Trainer

TRAIN = ("--steps", 6, "--patch-px", 16, "--batch", 1, "--device", "cpu")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_smooth_images(tmp_path_factory.mktemp("images"))


def train(capfd: pytest.CaptureFixture[str], data: Path, output: Path, *options: object) -> Outcome:
    return run(capfd, "train", "--data", data, "-o", output, *TRAIN, *options)


def test_stopped_and_resumed_training_equals_one_run(
    images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first = train(capfd, images, tmp_path / "resumed", "--until", 2)
    assert (first.code, first.errors) == (0, [])
    assert first.out == f"step 2: {tmp_path / 'resumed' / 'model.safetensors'}\n"
    assert "2 images, cpu, step 0 of 6" in first.err
    second = train(capfd, images, tmp_path / "resumed", "--validation", images)
    assert "step 2 of 6" in second.err
    assert second.out.startswith("step 6: ")
    assert train(capfd, images, tmp_path / "whole").code == 0

    files = ["checkpoint.pt", "curve.json", "curve.png", "model.safetensors"]
    for name in ("resumed", "whole"):
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == files
        with Image.open(tmp_path / name / "curve.png") as image:
            image.load()
    curve = json.loads((tmp_path / "resumed" / "curve.json").read_text())
    assert [point["step"] for point in curve] == [2, 6]
    assert [point["psnr"] is None for point in curve] == [True, False]
    resumed = me.load_model(tmp_path / "resumed" / "model.safetensors")
    whole = me.load_model(tmp_path / "whole" / "model.safetensors")
    assert resumed.facts == whole.facts
    assert (resumed.facts.preset, resumed.facts.task) == ("edge-s", "denoise")
    assert resumed.training_facts["steps_done"] == 6

    error = train(capfd, images, tmp_path / "resumed", "--batch", 2).only_error
    assert "batch 1 -> 2" in error
    (tmp_path / "resumed" / "checkpoint.pt").write_bytes(b"damaged")
    assert "damaged" in train(capfd, images, tmp_path / "resumed").only_error


def test_interrupted_training_keeps_what_it_did(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    step = Trainer._step

    def interrupted(self: Trainer) -> torch.Tensor:
        if self.state.step == 1:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Trainer, "_step", interrupted)
    outcome = train(capfd, images, tmp_path / "out")
    assert (outcome.code, outcome.out) == (130, "")
    assert "interrupted" in outcome.errors[0]
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["checkpoint.pt", "curve.json"]
    assert f"{tmp_path / 'out' / 'checkpoint.pt'} holds the steps done" in outcome.err
    monkeypatch.undo()
    assert "step 1 of 6" in train(capfd, images, tmp_path / "out", "--until", 1).err


def test_training_that_is_interrupted_before_its_first_step_says_so(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def interrupted(self: Trainer) -> torch.Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_step", interrupted)
    outcome = train(capfd, images, tmp_path / "out")
    assert (outcome.code, outcome.out) == (130, "")
    assert "there was nothing to save" in outcome.err
    assert list((tmp_path / "out").iterdir()) == []


def terminated(capfd: pytest.CaptureFixture[str], images: Path, output: Path) -> str:
    """What training says on standard error when SIGTERM ends it."""
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as raised:
        train(capfd, images, output)
    assert raised.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is handler
    return capfd.readouterr().err


def test_sigterm_while_training_saves_the_steps_done(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def step(self: Trainer) -> torch.Tensor:
        if self.state.step == 1:
            signal.raise_signal(signal.SIGTERM)
        return done(self)

    done = Trainer._step
    monkeypatch.setattr(Trainer, "_step", step)
    said = terminated(capfd, images, tmp_path / "out")
    assert f"{tmp_path / 'out' / 'checkpoint.pt'} holds the steps done" in said
    monkeypatch.undo()
    assert "step 2 of 6" in train(capfd, images, tmp_path / "out", "--until", 2).err


def test_sigterm_while_images_are_read_has_nothing_to_save(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def signalled(*_: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("mirnet_edge.workstation.train.load_images", signalled)
    assert "there was nothing to save" in terminated(capfd, images, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_warm_up_is_an_option(
    images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train(capfd, images, tmp_path / "out", "--until", 1, "--warmup", 4).code == 0
    (point,) = json.loads((tmp_path / "out" / "curve.json").read_text())
    assert point["learning_rate"] == pytest.approx(2e-4 / 4)
    error = train(capfd, images, tmp_path / "out", "--warmup", 5).only_error
    assert "warmup_steps 4 -> 5" in error


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--patch-px", 18], "patch_px=18"),
        (["--patch-px", 64], "smaller than a patch of 64"),
        (["--learning-rate", 0], "learning_rate"),
        (["--learning-rate", "nan"], "learning_rate=nan"),
        (["--device", "abacus"], "abacus"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_training_refuses(
    options: list[object],
    said: str,
    images: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert said in train(capfd, images, tmp_path / "out", *options).only_error
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_training_on_a_gpu_that_is_not_there(
    images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    error = train(capfd, images, tmp_path / "out", "--device", "cuda").only_error
    assert "cuda" in error.lower()


def test_training_without_images(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    assert str(tmp_path / "data") in train(capfd, tmp_path / "data", tmp_path / "out").only_error


def test_training_into_a_file(
    images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    output.write_text("mine")
    outcome = train(capfd, images, output, "--until", 1)
    assert outcome.code == 1
    assert str(output) in outcome.errors[0]
    assert output.read_text() == "mine"


def test_training_leaves_small_images_out_and_says_so(
    images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (12, 40)).save(tmp_path / "narrow.png")
    outcome = run(
        capfd, "train", "--data", images, "--data", tmp_path, "-o", tmp_path / "out",
        *TRAIN, "--until", 1,
    )  # fmt: skip
    assert outcome.code == 0
    assert "left out: narrow.png: 12x40, smaller than a patch of 16" in outcome.err
    assert "2 images" in outcome.err


def test_training_without_matplotlib_says_so_before_it_starts(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for module in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, module, None)
    error = train(capfd, images, tmp_path / "out", "--until", 1).only_error
    assert "mirnet-edge[train]" in error
    assert not (tmp_path / "out").exists()
