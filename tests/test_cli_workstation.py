"""``mirnet-edge export`` and ``evaluate``."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import run
from conftest import TINY
from PIL import Image
from training_runs import write_smooth_images

import mirnet_edge as me


@pytest.fixture(scope="module")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    me.save_model(me.create_model(TINY["mirnet-v2"], seed=0), path, "denoise")
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_smooth_images(tmp_path_factory.mktemp("images"))


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
