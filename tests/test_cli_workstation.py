"""``mirnet-edge export``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import run
from conftest import TINY

import mirnet_edge as me


@pytest.fixture(scope="module")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    me.save_model(me.create_model(TINY["edge-x4"], seed=0), path, "denoise")
    return path


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
    tiles = np.random.Generator(np.random.PCG64(1)).random((1, 3, 48, 80), np.float32)
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
        ("tiny", "tiny.onnx", ["--size", "30"], "multiples of 16"),
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
