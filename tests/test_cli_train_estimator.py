"""``mirnet-edge train-noise-level``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import run
from PIL import Image

from mirnet_edge.frames.noise_estimator import load_estimator


def test_it_learns_what_the_package_reads(
    photo: np.ndarray, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, output = tmp_path / "photos", tmp_path / "weights.npz"
    folder.mkdir()
    Image.fromarray(photo).save(folder / "photo.png")
    asked = ("train-noise-level", "--data", folder, "-o", output, "--batch", 16)
    outcome = run(capfd, *asked, "--minutes", 0.1, "--device", "cpu")
    assert outcome.code == 0, outcome.err
    assert "43713 parameters" in outcome.out
    crops = np.stack([photo[top : top + 64, 96:160] for top in (0, 100, 200)]) / np.float32(255)
    levels = load_estimator(output).levels(crops.transpose(0, 3, 1, 2))
    # Weights that were never trained find 35: softplus of nothing, times 50.
    assert 1 < levels.min() <= levels.max() < 25
    assert "exists" in run(capfd, *asked).only_error


def test_other_names_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    asked = ("train-noise-level", "--data", tmp_path, "-o", tmp_path / "weights.pt")
    assert "must end in .npz" in run(capfd, *asked).only_error
