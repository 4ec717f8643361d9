"""``mirnet-edge export``, ``evaluate`` and ``train``."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from PIL import Image
from test_cli import Outcome, run

import mirnet_edge as me
from mirnet_edge.workstation.train import Trainer

TRAIN = ("--steps", 6, "--patch-px", 16, "--batch", 1, "--device", "cpu")


@pytest.fixture(scope="module")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    me.save_model(me.create_model(TINY["mirnet-v2"], seed=0), path, "denoise")
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two smooth images."""
    folder = tmp_path_factory.mktemp("images")
    for name, height, width in (("a", 33, 46), ("b", 40, 31)):
        y, x = np.mgrid[:height, :width]
        waves = [127 + 90 * np.sin(y / a + x / b) for a, b in ((3, 5), (7, 4), (5, 9))]
        Image.fromarray(np.stack(waves, -1).astype(np.uint8)).save(folder / f"{name}.png")
    return folder


# export


def test_export_as_json(
    tiny_weights: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tiny.onnx"
    outcome = run(capfd, "export", tiny_weights, path, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    report = outcome.json
    assert (report["path"], report["opset"]) == (str(path), 17)
    assert report["size_bytes"] == path.stat().st_size
    assert 0 <= report["error"] <= 1e-4
    assert report["facts"]["task"] == "denoise"
    assert [found.name for found in tmp_path.iterdir()] == ["tiny.onnx"]
    tiles = np.random.Generator(np.random.PCG64(1)).random((1, 3, 20, 44), np.float32)
    with torch.inference_mode():
        expected = me.load_model(tiny_weights)(torch.from_numpy(tiles)).numpy()
    difference = np.abs(me.OnnxEngine(path).run(tiles) - expected).max() / np.ptp(expected)
    assert difference <= 1e-4


def test_export_of_a_fixed_size_over_an_older_file(
    tiny_weights: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(b"mine")
    options = ("--size", "32x48", "--task", "denoise", "--opset", "18")
    assert f"{path} exists" in run(capfd, "export", tiny_weights, path, *options).only_error
    assert path.read_bytes() == b"mine"
    outcome = run(capfd, "export", tiny_weights, path, *options, "--overwrite")
    assert (outcome.code, outcome.err) == (0, "")
    assert f"{path}: mirnet-v2 (custom)" in outcome.out
    assert "opset 18" in outcome.out
    assert "largest difference from PyTorch: " in outcome.out
    described = run(capfd, "info", path, "--json").json
    assert (described["input_size"], described["task"]) == ("32x48", "denoise")


@pytest.mark.parametrize(
    ("checkpoint", "onnx", "options", "said"),
    [
        ("tiny", "tiny.pb", [], ".onnx"),
        ("tiny", "tiny.onnx", ["--size", "30"], "multiples of 4"),
        ("nowhere.pth", "tiny.onnx", [], "no such file"),
        ("junk.pth", "tiny.onnx", [], "junk.pth"),
        ("other.pth", "tiny.onnx", [], "not a MIRNet"),
    ],
)
def test_export_refuses(
    checkpoint: str,
    onnx: str,
    options: list[str],
    said: str,
    tiny_weights: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "junk.pth").write_bytes(b"junk")
    torch.save({"conv.weight": torch.zeros(3, 3)}, tmp_path / "other.pth")
    source = tiny_weights if checkpoint == "tiny" else tmp_path / checkpoint
    assert said in run(capfd, "export", source, tmp_path / onnx, *options).only_error
    assert not (tmp_path / onnx).exists()


@pytest.mark.parametrize("task", ["anything", "super-resolution-x4", "unknown", ""])
def test_export_of_a_task_that_there_is_not(
    task: str, tiny_weights: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = run(capfd, "export", tiny_weights, tmp_path / "tiny.onnx", "--task", task)
    assert outcome.code == 2
    for name in ("denoise", "super-resolution", "enhance", "defocus-deblurring"):
        assert name in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_a_denoiser_is_not_exported_as_something_else(
    tiny_weights: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tiny.onnx"
    outcome = run(capfd, "export", tiny_weights, path, "--task", "super-resolution")
    assert "for 'denoise', not 'super-resolution'" in outcome.only_error
    assert not path.exists()


# evaluate


def test_evaluation_as_json(
    tiny_onnx: Path, images: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = run(capfd, "evaluate", tiny_onnx, "--data", images, "--json")
    assert outcome.code == 0
    result = outcome.json
    assert (result["sigma"], result["seed"], result["skipped"]) == (25, 0, [])
    assert [score["name"] for score in result["scores"]] == ["a.png", "b.png"]
    for figure in ("noisy_psnr", "psnr", "noisy_ssim", "ssim"):
        mean = np.mean([score[figure] for score in result["scores"]])
        assert result["mean"][figure] == pytest.approx(mean)
    assert result["mean"]["noisy_psnr"] == pytest.approx(20 * np.log10(255 / 25), abs=0.2)
    assert run(capfd, "evaluate", tiny_onnx, "--data", images, "--json").json == result
    other = run(capfd, "evaluate", tiny_onnx, "--data", images, "--json", "--seed", 9).json
    assert other["mean"]["noisy_psnr"] != result["mean"]["noisy_psnr"]


def test_evaluation_options_reach_it(
    tiny_onnx: Path, images: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def noisy(*options: object) -> float:
        outcome = run(capfd, "evaluate", tiny_onnx, "--data", images / "a.png", "--json", *options)
        return float(outcome.json["mean"]["noisy_psnr"])

    assert noisy("--sigma", 50) == pytest.approx(20 * np.log10(255 / 50), abs=0.3)
    assert noisy("--sigma", 50, "--quantize") > noisy("--sigma", 50) + 0.1
    error = run(capfd, "evaluate", tiny_onnx, "--data", images, "--tile", "30").only_error
    assert "multiples of 4" in error


def test_evaluation_as_a_table(
    tiny_onnx: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    (tmp_path / "photo[final].png").write_bytes((images / "a.png").read_bytes())
    (tmp_path / "text.png").write_text("no image")
    outcome = run(capfd, "evaluate", tiny_onnx, "--data", tmp_path)
    assert outcome.code == 0
    assert "text.png" in outcome.err
    assert "left out: " in outcome.err
    assert "sigma 25, 1 images" in outcome.out
    assert "mean" in outcome.out
    assert "photo[final].png" in outcome.out


def test_evaluation_without_scikit_image(
    tiny_onnx: Path,
    images: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    whole = run(capfd, "evaluate", tiny_onnx, "--data", images, "--json").json
    for module in ("skimage", "skimage.metrics"):
        monkeypatch.setitem(sys.modules, module, None)
    outcome = run(capfd, "evaluate", tiny_onnx, "--data", images)
    assert outcome.code == 0
    assert f"{whole['mean']['psnr']:.2f}" in outcome.out
    assert "SSIM" not in outcome.out
    assert "scikit-image is not installed" in outcome.err
    result = run(capfd, "evaluate", tiny_onnx, "--data", images, "--json").json
    assert result["mean"]["ssim"] is None
    assert "scikit-image" in result["note"]


def test_evaluation_without_noise_is_json_too(
    tiny_onnx: Path, images: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = run(capfd, "evaluate", tiny_onnx, "--data", images, "--sigma", 0, "--json")
    assert outcome.code == 0
    assert outcome.json["mean"]["noisy_ssim"] == pytest.approx(1)


def test_images_smaller_than_the_window_of_ssim(
    tiny_onnx: Path, images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (30, 8)).save(tmp_path / "low.png")
    (tmp_path / "a.png").write_bytes((images / "a.png").read_bytes())
    outcome = run(capfd, "evaluate", tiny_onnx, "--data", tmp_path, "--json")
    assert outcome.code in (0, 1), outcome
    assert "low.png" in outcome.out + outcome.err


def test_evaluation_of_nothing(
    tiny_onnx: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def error() -> str:
        return run(capfd, "evaluate", tiny_onnx, "--data", tmp_path / "data").only_error

    assert "no such file" in error()
    (tmp_path / "data").mkdir()
    assert str(tmp_path / "data") in error()
    (tmp_path / "data" / "a.png").write_text("no image")
    assert "no image can be read" in error()
    assert "edge-xxl" in run(capfd, "evaluate", "edge-xxl", "--data", tmp_path).only_error


# train


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
