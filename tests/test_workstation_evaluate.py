"""Metrics against scikit-image, and the evaluation protocol."""

from __future__ import annotations

import math
import sys
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


def gray_picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(60, 200, (40, 44), np.uint8)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_gray_photo_is_the_gray_frame_that_a_user_has(mode: str, tmp_path: Path) -> None:
    """A network that averages colours has nothing to gain from it; scores are those of the frame
    that a user restores."""

    def average(tiles: np.ndarray) -> np.ndarray:
        return np.repeat(tiles.mean(1, keepdims=True), 3, axis=1)

    gray = gray_picture()
    Image.fromarray(gray).convert(mode).save(tmp_path / "gray.png")
    restore = me.Restorer(me.FakeEngine(average))
    evaluation = me.evaluate_model(restore, tmp_path, sigma=25, with_ssim=True)
    clean = (gray / np.float32(255)).astype(np.float32)
    noise = np.random.Generator(np.random.PCG64(0)).standard_normal(gray.shape, np.float32)
    noisy = clean + np.float32(25 / 255) * noise
    mean = evaluation.mean
    expected = reference.peak_signal_noise_ratio(clean, noisy, data_range=1.0)
    assert mean.noisy_psnr == pytest.approx(expected, abs=1e-4)
    expected = reference.peak_signal_noise_ratio(clean, restore(noisy), data_range=1.0)
    assert mean.psnr == pytest.approx(expected, abs=1e-4)
    assert mean.psnr - mean.noisy_psnr < 0.5, "clamping alone"
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = reference.structural_similarity(clean, noisy, data_range=1.0, **window)
    assert mean.noisy_ssim == pytest.approx(expected, abs=1e-4)


def test_one_pixel_of_colour_makes_a_colour_photo() -> None:
    seen = []
    restore = me.Restorer(me.FakeEngine(lambda t: seen.append(t.copy()) or t))
    picture = np.repeat(gray_picture()[..., None], 3, axis=2)
    picture[7, 9] = (90, 91, 90)
    me.evaluate_model(restore, [picture], sigma=25)
    assert not np.array_equal(seen[0][0, 0], seen[0][0, 1])


def test_without_scikit_image_there_is_psnr_and_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    restore = me.Restorer(me.FakeEngine())
    whole = me.evaluate_model(restore, [gray_picture(1)[..., None].repeat(3, 2)])
    assert whole.note == ""
    for module in ("skimage", "skimage.metrics"):
        monkeypatch.setitem(sys.modules, module, None)
    evaluation = me.evaluate_model(restore, [gray_picture(1)[..., None].repeat(3, 2)])
    assert evaluation.mean.psnr == whole.mean.psnr
    assert (evaluation.mean.ssim, evaluation.mean.noisy_ssim) == (None, None)
    assert "scikit-image is not installed" in evaluation.note
    asked_without = me.evaluate_model(restore, [gray_picture(1)], with_ssim=False)
    assert asked_without.note == ""


def test_nothing_to_evaluate_is_an_error(tmp_path: Path) -> None:
    restore = me.Restorer(me.FakeEngine())
    with pytest.raises(me.DataError, match="no such file"):
        me.evaluate_model(restore, tmp_path)
    (tmp_path / "a.png").write_text("text")
    with pytest.raises(me.DataError, match="no image can be read"):
        me.evaluate_model(restore, tmp_path)
