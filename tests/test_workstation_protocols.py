"""Protocols: what each makes of a picture, and what it measures, beside independent references."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mirnet_edge as me
from mirnet_edge.workstation import coding
from mirnet_edge.workstation.protocols import (
    Denoising,
    Enhancement,
    Pairs,
    Protocol,
    SuperResolution,
    protocol_for,
)
from mirnet_edge.workstation.protocols.sample import brightness_matched_psnr, level_between


def picture(height: int = 47, width: int = 61, seed: int = 0) -> np.ndarray:
    """Smooth colours, as photos are, so that codecs and resampling leave most of it."""
    small = np.random.default_rng(seed).integers(30, 220, (5, 6, 3), np.uint8)
    image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image)


ALL: tuple[Protocol, ...] = (
    *(Denoising(), Denoising(0), Denoising(50, quantize=True), Denoising(gray=True)),
    *(Denoising(jpeg=75), Denoising(15, gray=True, jpeg=60)),
    *(SuperResolution(2), SuperResolution(3, jpeg=80), SuperResolution(4, sigma=5)),
    *(Enhancement(), Enhancement(0.02)),
)


@pytest.mark.parametrize("protocol", ALL, ids=lambda protocol: protocol.name)
def test_a_protocol_is_a_value_and_its_samples_are_seeded(protocol: Protocol) -> None:
    clean = picture()
    first, again, other = (protocol.sample(clean, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.given, again.given)
    draws = "σ" in protocol.name or "exposure" in protocol.name
    assert (first.given != other.given).any() == draws
    assert (first.reference == other.reference).all()
    assert {first.given.dtype, first.before.dtype, first.reference.dtype} == {np.dtype("float32")}
    assert first.before.shape == first.reference.shape
    figures = protocol.measure(first.reference, first)
    assert set(figures) == set(protocol.titles)
    assert (figures["psnr"], figures["ssim"]) == (math.inf, pytest.approx(1))
    assert "ssim" not in protocol.measure(first.before, first, with_ssim=False)
    assert protocol.measure(first.before, first)["psnr"] == pytest.approx(
        protocol.measure(again.before, again)["psnr"]
    )
    with pytest.raises(me.DataError, match="makes its own inputs"):
        protocol.sample(clean, 0, clean)
    assert len({test.name for test in ALL}) == len({test.sentence for test in ALL}) == len(ALL)


def test_white_noise_is_neither_clamped_nor_rounded() -> None:
    sample = Denoising(50).sample(np.zeros((80, 90, 3), np.uint8), 0)
    # Three equal channels are a gray frame, and zeros are.
    assert sample.given.shape == (80, 90, 1)
    assert 255 * sample.given.std() == pytest.approx(50, rel=0.03)
    assert sample.given.min() < -0.5
    assert sample.noise == 50


def test_a_camera_rounds_and_the_level_is_what_is_left_of_the_noise() -> None:
    black = np.zeros((80, 90, 3), np.uint8)
    sample = Denoising(20, quantize=True).sample(black, 0)
    levels = 255 * sample.given
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-4)
    # Half of a black picture's noise is cut away: the root of half the variance is left.
    assert sample.noise == pytest.approx(20 / math.sqrt(2), rel=0.05)
    assert sample.noise == level_between(sample.given, sample.reference)


def test_gray_noise_is_one_channel_of_the_luma() -> None:
    clean = picture()
    sample = Denoising(10, gray=True).sample(clean, 0)
    luma = np.asarray(Image.fromarray(clean).convert("L"), np.float32)[..., None] / 255
    assert sample.given.shape == (47, 61, 1)
    np.testing.assert_allclose(sample.reference, luma, atol=1.01 / 255)


def test_jpeg_is_what_pillow_reads_of_a_file() -> None:
    clean = picture()
    sample = Denoising(15, jpeg=70, subsampling="4:4:4").sample(clean, 2)
    noisy = Denoising(15, quantize=True).sample(clean, 2).given
    file = io.BytesIO()
    Image.fromarray(np.rint(255 * noisy).astype(np.uint8)).save(
        file, "JPEG", quality=70, subsampling="4:4:4"
    )
    np.testing.assert_array_equal(np.rint(255 * sample.given), np.asarray(Image.open(file)))
    gray = Denoising(15, gray=True, jpeg=70).sample(clean, 2)
    assert gray.given.shape == (47, 61, 1)


def test_super_resolution_as_matlab_prepares_it() -> None:
    """Downscaled by the bicubic that `tests/test_frames_bicubic.py` holds against MATLAB's."""
    from mirnet_edge.frames.bicubic import resized

    clean = picture(47, 62)
    sample = SuperResolution(3).sample(clean, 0)
    assert (sample.given.shape, sample.reference.shape) == ((15, 20, 3), (45, 60, 3))
    np.testing.assert_array_equal(sample.reference, clean[:45, :60] / np.float32(255))
    planes = np.ascontiguousarray(sample.reference.transpose(2, 0, 1))
    expected = np.rint(255 * resized(planes, 15, 20).clip(0, 1)).transpose(1, 2, 0)
    np.testing.assert_array_equal(np.rint(255 * sample.given), expected)


def test_super_resolution_is_measured_inside_a_border_on_the_luma() -> None:
    clean, test = picture(40, 40), SuperResolution(4)
    sample = test.sample(clean, 0)
    wrong = sample.reference.copy()
    wrong[:4], wrong[:, -4:] = 0, 1
    assert test.measure(wrong, sample)["psnr"] == math.inf, "the border does not count"
    wrong = sample.reference + np.float32(10 / 255)
    # Ten more in all channels are 219/255 of ten more luma, of which each is rounded.
    expected = 20 * math.log10(255 / (10 * 219 / 255))
    figures = test.measure(wrong.clip(0, 1), sample)
    assert figures["psnr"] == pytest.approx(expected, abs=0.15)
    assert figures["psnr_rgb"] == pytest.approx(20 * math.log10(25.5), abs=1e-3)
    gray = np.repeat(clean[..., :1], 3, axis=2)
    sample = test.sample(gray, 0)
    figures = test.measure((sample.reference + np.float32(10 / 255)).clip(0, 1), sample)
    assert figures["psnr"] == pytest.approx(20 * math.log10(25.5), abs=1e-3), "as it is"


def test_enhancement_takes_light_away() -> None:
    clean = np.full((50, 50, 3), 188, np.uint8)  # half of the light, by sRGB's curve
    sample = Enhancement(0.1, shot=0, read=0).sample(clean, 0)
    assert 255 * sample.given.mean() == pytest.approx(63, abs=0.6), "a twentieth of the light"
    noisy = Enhancement(0.1).sample(clean, 0)
    assert 255 * noisy.given.std() > 1


def test_pairs() -> None:
    clean = picture()
    given = (clean * 0.5).astype(np.uint8)
    pairs = Pairs(brightness=True)
    sample = pairs.sample(clean, 0, given)
    np.testing.assert_array_equal(sample.given, given / np.float32(255))
    figures = pairs.measure(sample.given, sample)
    assert figures["psnr_bright"] > figures["psnr"] + 20
    assert set(Pairs().measure(sample.given, sample)) == {"psnr", "ssim"}
    with pytest.raises(me.DataError, match="for each wanted one"):
        pairs.sample(clean, 0)
    with pytest.raises(me.DataError, match="61x40 pixels and the wanted one 61x47"):
        pairs.sample(clean, 0, given[:40])


def test_brightness_of_a_black_picture_cannot_be_matched() -> None:
    black, gray = np.zeros((4, 4, 3), np.float32), np.full((4, 4, 3), 0.5, np.float32)
    assert brightness_matched_psnr(black, gray) == pytest.approx(20 * math.log10(2))
    assert brightness_matched_psnr(gray, gray) == math.inf


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        (Denoising, {"sigma": -1}, "sigma=-1"),
        (Denoising, {"jpeg": 0}, "quality of 1 to 100"),
        (Denoising, {"jpeg": 50, "subsampling": "4:1:1"}, "4:1:1"),
        (Denoising, {"codec": "vp9"}, "'h264'"),
        (Denoising, {"codec": "h264", "jpeg": 90}, "neither gray nor jpeg"),
        (SuperResolution, {"scale": 5}, "by 2, 3 or 4"),
        (SuperResolution, {"scale": 2, "sigma": 300}, "sigma=300"),
        (Enhancement, {"exposure": 0}, "exposure=0"),
    ],
)
def test_settings_that_there_are_not(kind: Any, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(me.ConfigError, match=said):
        kind(**settings)


def test_the_protocol_of_a_task() -> None:
    facts = me.ModelFacts(task="super-resolution", scale=4)
    assert protocol_for(facts) == SuperResolution(4)
    assert protocol_for(facts, jpeg=80) == SuperResolution(4, jpeg=80)
    assert protocol_for(me.ModelFacts(task="denoise"), sigma=5.0) == Denoising(5)
    assert protocol_for(me.ModelFacts(task="something else")) == Denoising()
    with pytest.raises(me.ConfigError, match=r"scale: no setting .* it has sigma, gray"):
        protocol_for(me.ModelFacts(task="denoise"), scale=2)


def test_frames_of_a_video() -> None:
    pytest.importorskip("av")
    clean, test = picture(63, 81), Denoising(15, codec="h264")
    sample = test.sample(clean, 0)
    assert sample.given.shape == (62, 80, 3), "even sides"
    assert sample.noise is not None
    assert 1 < sample.noise < 15, "the codec takes some of the noise"
    np.testing.assert_array_equal(test.sample(clean, 0).given, sample.given)
    gray = test.sample(np.repeat(clean[..., :1], 3, axis=2), 0)
    assert gray.given.shape == (62, 80, 1)
    with pytest.raises(me.DataError, match="one row or column"):
        test.sample(clean[:1], 0)


def test_without_pyav_there_is_no_video(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(me.MissingDependencyError, match="'av'"):
        coding.h264_coded([picture(16, 16)])
