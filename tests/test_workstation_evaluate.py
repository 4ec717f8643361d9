"""Metrics against scikit-image, and the evaluation protocol."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import metrics as reference

import mirnet_edge as me
from mirnet_edge.metrics import psnr, ssim


def pair(seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    clean = random.random((40, 33, 3)).astype(np.float32)
    return clean, clean + np.float32(0.1) * random.standard_normal(clean.shape, np.float32)


@pytest.mark.parametrize("seed", range(3))
def test_metrics_agree_with_scikit_image(seed: int) -> None:
    clean, noisy = pair(seed)
    expected = reference.peak_signal_noise_ratio(clean, noisy, data_range=1.0)
    assert psnr(noisy, clean) == pytest.approx(expected, abs=1e-4)
    assert ssim(clean, clean) == pytest.approx(1)
    assert 0 < ssim(noisy, clean) < 1


def test_psnr_of_equal_images_is_infinite() -> None:
    clean, _ = pair(0)
    assert psnr(clean, clean) == math.inf


def test_identity_scores_the_noise_itself(tmp_path: Path) -> None:
    for index in range(3):
        picture = np.random.default_rng(index).integers(60, 200, (60, 64, 3), np.uint8)
        Image.fromarray(picture).save(tmp_path / f"{index}.png")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    restore = me.Restorer(me.FakeEngine())
    done: list[tuple[int, int]] = []
    evaluation = me.evaluate_model(
        restore, tmp_path, sigma=10, progress=lambda *call: done.append(call)
    )
    assert [score.name for score in evaluation.scores] == ["0.png", "1.png", "2.png"]
    assert evaluation.mean.psnr == pytest.approx(-20 * math.log10(10 / 255), abs=0.1)
    assert evaluation.mean.psnr == pytest.approx(evaluation.mean.noisy_psnr)
    assert len(evaluation.skipped) == 1
    assert done == [(1, 4), (2, 4), (3, 4)]
    assert me.evaluate_model(restore, tmp_path, sigma=10) == evaluation
    assert me.evaluate_model(restore, tmp_path, sigma=10, seed=5) != evaluation


def test_quantized_noise_is_what_a_camera_delivers() -> None:
    seen = []
    restore = me.Restorer(me.FakeEngine(lambda t: seen.append(t.copy()) or t))
    black = np.zeros((32, 32, 3), np.uint8)
    me.evaluate_model(restore, [black], sigma=25, quantize=True)
    levels = seen[0] * 255
    assert levels.min() == 0
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-4)


def test_nothing_to_evaluate_is_an_error(tmp_path: Path) -> None:
    restore = me.Restorer(me.FakeEngine())
    with pytest.raises(me.DataError, match="no such file"):
        me.evaluate_model(restore, tmp_path)
    (tmp_path / "a.png").write_text("text")
    with pytest.raises(me.DataError, match="no image can be read"):
        me.evaluate_model(restore, tmp_path)
