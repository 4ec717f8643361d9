"""``mirnet-edge train-noise-level``."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from command_line import run
from PIL import Image
from tiny_edge import DENOISER
from torch import Tensor

from mirnet_edge.frames.noise_estimator import CROP_PX, WEIGHTS, NoiseEstimator, load_estimator
from mirnet_edge.workstation import noise_level


@pytest.fixture
def photo_folder(photo: np.ndarray, tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(photo).save(folder / "photo.png")
    return folder


def test_it_learns_what_the_package_reads(
    photo: np.ndarray,
    photo_folder: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = count(step=0.25)  # so that as many steps are taken wherever it runs
    monkeypatch.setattr(noise_level.time, "monotonic", lambda: next(clock))
    output = tmp_path / "weights.npz"
    asked = ("train-noise-level", "--data", photo_folder, "-o", output, "--batch", 16)
    outcome = run(capfd, *asked, "--minutes", 0.1, "--device", "cpu", "--quantile", 0.5)
    assert outcome.code == 0, outcome.err
    assert "43713 parameters" in outcome.out
    crops = np.stack([photo[top : top + 64, 96:160] for top in (0, 100, 200)]) / np.float32(255)
    levels = load_estimator(output).levels(crops.transpose(0, 3, 1, 2))
    # Weights that were never trained find 35: softplus of nothing, times 50.
    assert 1 < levels.min() <= levels.max() < 25
    assert "exists" in run(capfd, *asked).only_error


class Brightest(torch.nn.Module):
    """Makes of every picture a flat one, as bright as the level that it is told is high."""

    config = DENOISER

    def forward(self, given: Tensor) -> Tensor:
        return given[:, 3:].expand(-1, 3, -1, -1)


def test_through_a_denoiser_the_level_is_what_serves_it(
    photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = count(step=0.05)  # so that as many steps are taken wherever it runs
    monkeypatch.setattr(noise_level.time, "monotonic", lambda: next(clock))
    initial = load_estimator(WEIGHTS).weights
    net = noise_level.train(
        [photo_folder],
        denoiser=cast(Any, Brightest()),
        initial=initial,
        minutes=0.05,
        batch=16,
        device="cpu",
    )
    crop = torch.full((1, 3, CROP_PX, CROP_PX), 0.5)
    with torch.inference_mode():
        assert 0.25 < float(net(crop)) < 1, "not about as bright as the photo"
    assert NoiseEstimator(initial).levels(crop.numpy())[0] < 1


def test_a_denoiser_that_is_told_no_level_is_refused(
    photo_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = ("train-noise-level", "--data", photo_folder, "-o", tmp_path / "weights.npz")
    message = run(capfd, *asked, "--through", "edge-m-x2").only_error
    assert "take edge-s-denoise" in message


def test_other_names_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    asked = ("train-noise-level", "--data", tmp_path, "-o", tmp_path / "weights.pt")
    assert "must end in .npz" in run(capfd, *asked).only_error
