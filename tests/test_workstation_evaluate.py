"""Metrics against scikit-image, and evaluation on folders, arrays and pairs."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage import metrics as reference

import mirnet_edge as me
from mirnet_edge.metrics import bt601_luma, matlab_luma, psnr, ssim
from mirnet_edge.workstation.protocols import Denoising, Enhancement, Pairs, SuperResolution


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


def test_luma_as_matlab_makes_it() -> None:
    """Codes that MATLAB's ``rgb2ycbcr`` documents: black, white, and the three primaries."""
    colours = [(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255), (10, 200, 90)]
    image = np.array([colours], np.uint8)
    assert matlab_luma(image)[0, :, 0].tolist() == [16, 235, 81, 145, 41, 128]
    gray = image[..., :1]
    assert matlab_luma(gray) is gray
    floats = (image / np.float32(255)).astype(np.float32)
    expected = np.asarray(Image.fromarray(image).convert("L")) / 255
    np.testing.assert_allclose(bt601_luma(floats)[..., 0], expected, atol=0.51 / 255)


def test_identity_scores_the_noise_itself(tmp_path: Path) -> None:
    for index in range(3):
        picture = np.random.default_rng(index).integers(60, 200, (60, 64, 3), np.uint8)
        Image.fromarray(picture).save(tmp_path / f"{index}.png")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    restore = me.Restorer(me.FakeEngine())
    done: list[tuple[int, int]] = []
    sigma_10 = Denoising(10)
    evaluation = me.evaluate_model(
        restore, tmp_path, sigma_10, progress=lambda *call: done.append(call)
    )
    assert [score.name for score in evaluation.scores] == ["0.png", "1.png", "2.png"]
    assert evaluation.mean.psnr == pytest.approx(-20 * math.log10(10 / 255), abs=0.1)
    assert evaluation.mean.psnr == pytest.approx(evaluation.mean.given_psnr)
    assert evaluation.mean.noise is None
    assert len(evaluation.skipped) == 1
    assert done == [(1, 4), (2, 4), (3, 4)]
    assert (evaluation.protocol, dict(evaluation.titles)) == (
        "σ 10",
        {"psnr": "dB", "ssim": "SSIM"},
    )
    assert me.evaluate_model(restore, tmp_path, sigma_10) == evaluation
    assert me.evaluate_model(restore, tmp_path, sigma_10, seed=5) != evaluation
    few = me.evaluate_model(restore, tmp_path, sigma_10, every=2)
    assert [score.name for score in few.scores] == ["0.png", "2.png"]


def gray_picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(60, 200, (40, 44), np.uint8)


def colour_picture(seed: int = 0, height: int = 40, width: int = 44) -> np.ndarray:
    return np.random.default_rng(seed).integers(40, 220, (height, width, 3), np.uint8)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_gray_photo_is_the_gray_frame_that_a_user_has(mode: str, tmp_path: Path) -> None:
    """A network that averages colours has nothing to gain from it; scores are those of the frame
    that a user restores."""

    def average(tiles: np.ndarray) -> np.ndarray:
        return np.repeat(tiles.mean(1, keepdims=True), 3, axis=1)

    gray = gray_picture()
    Image.fromarray(gray).convert(mode).save(tmp_path / "gray.png")
    restore = me.Restorer(me.FakeEngine(average))
    evaluation = me.evaluate_model(restore, tmp_path, with_ssim=True)
    clean = (gray / np.float32(255)).astype(np.float32)
    noise = np.random.Generator(np.random.PCG64(0)).standard_normal(gray.shape, np.float32)
    noisy = clean + np.float32(25 / 255) * noise
    mean = evaluation.mean
    expected = reference.peak_signal_noise_ratio(clean, noisy, data_range=1.0)
    assert mean.given_psnr == pytest.approx(expected, abs=1e-4)
    expected = reference.peak_signal_noise_ratio(clean, restore(noisy), data_range=1.0)
    assert mean.psnr == pytest.approx(expected, abs=1e-4)
    assert mean.psnr - mean.given_psnr < 0.5, "clamping alone"
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = reference.structural_similarity(clean, noisy, data_range=1.0, **window)
    assert mean.given["ssim"] == pytest.approx(expected, abs=1e-4)


def test_one_pixel_of_colour_makes_a_colour_photo() -> None:
    seen = []
    restore = me.Restorer(me.FakeEngine(lambda t: seen.append(t.copy()) or t))
    picture = np.repeat(gray_picture()[..., None], 3, axis=2)
    picture[7, 9] = (90, 91, 90)
    me.evaluate_model(restore, [picture])
    assert not np.array_equal(seen[0][0, 0], seen[0][0, 1])


def test_without_scikit_image_there_is_psnr_and_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    restore = me.Restorer(me.FakeEngine())
    picture = gray_picture(1)[..., None].repeat(3, 2)
    whole = me.evaluate_model(restore, [picture])
    assert whole.note == ""
    for module in ("skimage", "skimage.metrics"):
        monkeypatch.setitem(sys.modules, module, None)
    evaluation = me.evaluate_model(restore, [picture])
    assert evaluation.mean.psnr == whole.mean.psnr
    assert (evaluation.mean.ssim, dict(evaluation.titles)) == (None, {"psnr": "dB"})
    assert "scikit-image is not installed" in evaluation.note
    asked_without = me.evaluate_model(restore, [picture], with_ssim=False)
    assert asked_without.note == ""


def test_nothing_to_evaluate_is_an_error(tmp_path: Path) -> None:
    restore = me.Restorer(me.FakeEngine())
    with pytest.raises(me.DataError, match="no such file"):
        me.evaluate_model(restore, tmp_path)
    (tmp_path / "a.png").write_text("text")
    with pytest.raises(me.DataError, match="no picture can be tested"):
        me.evaluate_model(restore, tmp_path)


# Pairs


def write_pairs(given: Path, wanted: Path, gap: int = 10) -> None:
    for folder in (given, wanted):
        folder.mkdir(exist_ok=True)
    for name in ("a", "b"):
        good = colour_picture(ord(name))
        Image.fromarray(good).save(wanted / f"{name}.png")
        Image.fromarray(good + np.uint8(gap)).save(given / f"{name}.png")


def test_pairs_are_taken_as_they_are(tmp_path: Path) -> None:
    given, wanted = tmp_path / "given", tmp_path / "wanted"
    write_pairs(given, wanted)
    Image.fromarray(gray_picture()).save(given / "alone.png")
    restore = me.Restorer(me.FakeEngine(lambda tiles: tiles - np.float32(5 / 255)))
    evaluation = me.evaluate_model(restore, (given, wanted))
    assert evaluation.mean.given_psnr == pytest.approx(20 * math.log10(255 / 10), abs=1e-3)
    assert evaluation.mean.psnr == pytest.approx(20 * math.log10(255 / 5), abs=1e-3)
    assert [score.name for score in evaluation.scores] == ["a", "b"]
    assert len(evaluation.skipped) == 1
    assert "alone.png" in evaluation.skipped[0]
    arrays = [(colour_picture(0) + np.uint8(10), colour_picture(0))]
    of_arrays = me.evaluate_model(restore, arrays, Pairs(brightness=True))
    assert of_arrays.mean.psnr == pytest.approx(evaluation.mean.psnr, abs=1e-3)
    assert of_arrays.mean.restored["psnr_bright"] > of_arrays.mean.psnr


def test_both_halves_in_one_folder(tmp_path: Path) -> None:
    good = colour_picture(1)
    Image.fromarray(good).save(tmp_path / "scene_mean.png")
    Image.fromarray(good + np.uint8(4)).save(tmp_path / "scene_real.png")
    evaluation = me.evaluate_model(me.Restorer(me.FakeEngine()), tmp_path, Pairs())
    assert evaluation.mean.psnr == pytest.approx(20 * math.log10(255 / 4), abs=1e-3)


def test_pairs_of_two_sizes_are_left_out(tmp_path: Path) -> None:
    given, wanted = tmp_path / "given", tmp_path / "wanted"
    write_pairs(given, wanted)
    Image.fromarray(colour_picture(0, 20, 20)).save(given / "b.png")
    evaluation = me.evaluate_model(me.Restorer(me.FakeEngine()), (given, wanted))
    assert [score.name for score in evaluation.scores] == ["a"]
    assert "20x20" in evaluation.skipped[0]
    restore = me.Restorer(me.FakeEngine())
    with pytest.raises(me.ConfigError, match="two folders are pairs"):
        me.evaluate_model(restore, (given, wanted), Denoising())


# Noise levels and scales, as networks ask for them


@dataclass
class ToldRestorer:
    """A Restorer of a network that asks for the noise level, or enlarges, and returns the frame."""

    facts: me.ModelFacts
    restore: Callable[[np.ndarray], np.ndarray] = lambda frame: frame.clip(0, 1)
    noise: Any = "auto"

    def __post_init__(self) -> None:
        self.told: list[object] = []

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        self.told.append(self.noise)
        level = 7.0 if self.noise == "auto" else self.noise
        self.timings = SimpleNamespace(noise=level if self.facts.noise_level else None)
        return self.restore(frame)


@pytest.mark.parametrize(
    ("noise", "offset", "level"),
    [("auto", 0, 7), ("told", 0, 12), ("told", 5, 17), ("told", -20, 0), (3.5, 0, 3.5)],
)
def test_the_level_that_a_network_is_told(noise: Any, offset: float, level: float) -> None:
    restorer = ToldRestorer(me.ModelFacts(noise_level=True), noise=42)
    evaluation = me.evaluate_model(
        restorer, [colour_picture()], Denoising(12), noise=noise, told_offset=offset
    )
    assert evaluation.scores[0].noise == evaluation.mean.noise == level
    assert restorer.noise == 42, "as its owner had it"


def test_the_level_of_a_pair_is_the_difference_of_its_halves() -> None:
    restorer = ToldRestorer(me.ModelFacts(noise_level=True))
    good = colour_picture()
    me.evaluate_model(restorer, [(good + np.uint8(6), good)], Pairs(), noise="told")
    assert restorer.told == [pytest.approx(6, abs=1e-4)]


def test_a_level_for_a_network_that_asks_for_none() -> None:
    restore = me.Restorer(me.FakeEngine())
    with pytest.raises(me.ConfigError, match="told no level"):
        me.evaluate_model(restore, [colour_picture()], noise=10.0)
    with pytest.raises(me.ConfigError, match="'auto', 'told' or a level"):
        me.evaluate_model(restore, [colour_picture()], noise="true")
    with pytest.raises(me.ConfigError, match="added to a true level"):
        me.evaluate_model(restore, [colour_picture()], told_offset=5)
    told = me.evaluate_model(restore, [colour_picture()], noise="told")
    assert told.mean.noise is None, "and the truth is for no one"


def test_the_task_of_a_model_chooses_its_protocol() -> None:
    bicubic = SuperResolution(3)

    def enlarge(frame: np.ndarray) -> np.ndarray:
        rows, columns = frame.shape[:2]
        return frame.repeat(3, 0).repeat(3, 1)[: 3 * rows, : 3 * columns]

    picture = colour_picture(0, 41, 32)
    facts = me.ModelFacts(task="super-resolution", scale=3)
    evaluation = me.evaluate_model(ToldRestorer(facts, enlarge), [picture])
    assert evaluation.protocol == "×3"
    sample = bicubic.sample(picture, 0)
    assert evaluation.mean.given == bicubic.measure(sample.before, sample)
    assert evaluation.mean.restored == bicubic.measure(enlarge(sample.given), sample)
    light = me.evaluate_model(ToldRestorer(me.ModelFacts(task="enhance")), [picture])
    assert light.protocol == Enhancement().name
    with pytest.raises(me.ConfigError, match="by what scale"):
        me.evaluate_model(ToldRestorer(me.ModelFacts(task="super-resolution")), [picture])
    with pytest.raises(me.ConfigError, match="tested on pairs"):
        me.evaluate_model(ToldRestorer(me.ModelFacts(task="defocus-deblurring")), [picture])


def test_a_network_that_keeps_the_size_gets_the_enlarged_picture() -> None:
    evaluation = me.evaluate_model(
        me.Restorer(me.FakeEngine()), [colour_picture()], SuperResolution(2)
    )
    assert evaluation.mean.psnr == pytest.approx(evaluation.mean.given_psnr, abs=0.01)
    facts = me.ModelFacts(task="super-resolution", scale=4)
    with pytest.raises(me.DataError, match=r"enlarges by 4, and the test ×2 by 2"):
        me.evaluate_model(ToldRestorer(facts), [colour_picture()], SuperResolution(2))


def test_pictures_too_small_for_a_protocol_are_left_out() -> None:
    pictures = [colour_picture(0, 3, 30), colour_picture()]
    evaluation = me.evaluate_model(me.Restorer(me.FakeEngine()), pictures, SuperResolution(2))
    assert len(evaluation.scores) == 1
    assert evaluation.skipped[0].startswith("image 0: a picture of 30x3 pixels is too small")


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_restorer_that_enlarges_alone_is_bicubic(scale: int) -> None:
    facts = me.ModelFacts(task="super-resolution", scale=scale, size_multiple=4, min_size_px=4)
    with me.Restorer(me.FakeEngine(facts=facts), tile=None) as restore:
        evaluation = me.evaluate_model(restore, [colour_picture(3, 60, 72)], with_ssim=False)
    assert evaluation.protocol == f"×{scale}"
    for name, value in evaluation.mean.given.items():
        assert evaluation.mean.restored[name] == pytest.approx(value, abs=0.01)


def test_a_real_restorer_is_told_and_gets_its_setting_back() -> None:
    facts = me.ModelFacts(noise_level=True, size_multiple=4, min_size_px=4)
    shown = me.FakeEngine(lambda tiles: tiles[:, 3:].repeat(3, 1), facts)
    with me.Restorer(shown, noise=9) as restore:
        seen: list[float] = []
        evaluation = me.evaluate_model(
            restore,
            [colour_picture()],
            Denoising(12),
            noise="told",
            observe=lambda score, sample, restored: seen.append(50 * float(restored.mean())),
        )
        assert restore.noise == 9
    assert seen == [pytest.approx(12, rel=1e-4)]
    assert evaluation.mean.noise == 12
