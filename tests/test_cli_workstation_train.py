"""``mirnet-edge train``: what it leaves behind, how it is stopped, what it refuses."""

from __future__ import annotations

import json
import re
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
from command_line import Outcome, run
from PIL import Image
from training_runs import write_smooth_images

import mirnet_edge as me
from mirnet_edge.workstation.settings import Stage
from mirnet_edge.workstation.stepper import Stepper

TRAIN = (
    *("--task", "gaussian", "--steps", 6, "--patch-px", 16, "--batch", 1, "--device", "cpu"),
    *("--rescale", "1"),
)


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
    assert [list(point["psnr"]) for point in curve] == [[], [images.name]]
    resumed = me.load_model(tmp_path / "resumed" / "model.safetensors")
    whole = me.load_model(tmp_path / "whole" / "model.safetensors")
    assert resumed.facts == whole.facts
    assert (resumed.facts.preset, resumed.facts.task) == ("edge-s", "denoise")
    assert resumed.training_facts["steps_done"] == 6

    error = train(capfd, images, tmp_path / "resumed", "--batch", 2).only_error
    assert "batch 1 -> 2" in error
    error = train(capfd, images, tmp_path / "resumed", "--sigma", "5,15").only_error
    assert "task_settings {} -> {'sigma': (5, 15)}" in error
    (tmp_path / "resumed" / "checkpoint.pt").write_bytes(b"damaged")
    assert "damaged" in train(capfd, images, tmp_path / "resumed").only_error


def test_interrupted_training_keeps_what_it_did(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    step = Stepper.step

    def interrupted(self: Stepper, stage: Stage) -> None:
        if self.state.step == 1:
            raise KeyboardInterrupt
        step(self, stage)

    monkeypatch.setattr(Stepper, "step", interrupted)
    outcome = train(capfd, images, tmp_path / "out")
    assert (outcome.code, outcome.out) == (130, "")
    assert "interrupted" in outcome.errors[0]
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["checkpoint.pt", "curve.json", "model.safetensors"]
    assert f"{tmp_path / 'out' / 'checkpoint.pt'} holds the steps done" in outcome.err
    monkeypatch.undo()
    assert "step 1 of 6" in train(capfd, images, tmp_path / "out", "--until", 1).err


def test_training_that_is_interrupted_before_its_first_step_says_so(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def interrupted(self: Stepper, stage: Stage) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Stepper, "step", interrupted)
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
    def step(self: Stepper, stage: Stage) -> None:
        if self.state.step == 1:
            signal.raise_signal(signal.SIGTERM)
        done(self, stage)

    done = Stepper.step
    monkeypatch.setattr(Stepper, "step", step)
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

    monkeypatch.setattr("mirnet_edge.workstation.train.read_photos", signalled)
    assert "there was nothing to save" in terminated(capfd, images, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_warm_up_is_an_option(
    images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train(capfd, images, tmp_path / "out", "--until", 1, "--warmup", 4).code == 0
    (point,) = json.loads((tmp_path / "out" / "curve.json").read_text())
    assert point["learning_rate"] == pytest.approx(1e-3 / 4)
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
        (["--scale", 3], "task 'gaussian' has no setting 'scale'; it has: sigma"),
        (["--sigma", 25], r"sigma=25: need 2 values"),
        (["--task", "super-resolution", "--scale", 5], "scale=5: need 2, 3 or 4"),
        (["--preset", "mirnet"], "needs a network of the v2 family"),
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


def test_all_of_a_recipe_from_the_command_line(
    images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pairs = f"pairs={images}:{shutil.copytree(images, tmp_path / 'targets')}"
    outcome = train(
        capfd, images, tmp_path / "out",
        *("--preset", "edge-xs", "--minutes", 5, "--progressive", "0.5:32x2", "--ema", 0.9),
        *("--rescale", "1,0.5", "--loss", "l1", "--clip-norm", 1, "--sigma", "25,25"),
        *("--validation", f"a={images}", "--validation", pairs),
        *("--validate-every", 3, "--validation-images", 1, "--checkpoint-minutes", 0.001),
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "step 0 of 6 or 5 minutes" in outcome.err
    figures = "loss 0.*, a .* dB, pairs .* dB"
    assert len(re.findall(f"step [36]: {figures}", outcome.err)) == 2, outcome.err
    facts = me.load_model(tmp_path / "out" / "model.safetensors").training_facts
    settings = facts["settings"]
    assert settings["progressive"] == [[0.5, 32, 2]]
    assert settings["task_settings"] == facts["task_settings"] == {"sigma": [25, 25]}
    assert (settings["ema"], settings["loss"], settings["minutes"]) == (0.9, "l1", 5.0)
    assert facts["data"]["validation"] == {"a": 1, "pairs": 1}


def test_training_on_pairs_from_the_command_line(
    images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pairs = ("--input", images, "--target", shutil.copytree(images, tmp_path / "targets"))
    outcome = run(capfd, "train", *pairs, "-o", tmp_path / "out", *TRAIN, "--until", 1)
    assert outcome.code == 0, outcome.err
    assert "2 pairs, cpu, step 0 of 6" in outcome.err
    for wrong in (pairs[:2], ()):
        outcome = run(capfd, "train", *wrong, "-o", tmp_path / "other", *TRAIN)
        assert outcome.code == 2
        assert "give --data, or --input and --target" in outcome.err


@pytest.mark.parametrize("stages", ["128", "0.5:64", "x:64x4", "0.5:64x4,", "0.5:64x4;0.7:96x2"])
def test_stages_that_cannot_be_read(
    stages: str, images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = train(capfd, images, tmp_path / "out", "--progressive", stages)
    assert outcome.code == 2
    assert "as 0.6:192x14" in outcome.err
