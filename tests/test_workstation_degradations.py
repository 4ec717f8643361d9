"""What training makes of clean patches: a camera, codecs, white noise, small and dark pictures."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from image_samples import smooth_pixels
from PIL import Image
from torch import Tensor

import mirnet_edge as me
from mirnet_edge.facts import NOISE_UNIT
from mirnet_edge.frames.bicubic import resized
from mirnet_edge.model.config import MIRNetV2Config, preset
from mirnet_edge.workstation.tasks import TRAINABLE, Denoise, Enhance, Gaussian, SuperResolution
from mirnet_edge.workstation.tasks.batch import noise_of, shares
from mirnet_edge.workstation.tasks.camera import (
    Development,
    Draw,
    blurred,
    from_ycc,
    gray_of,
    mosaicked,
    sensor_noise,
    to_ycc,
)
from mirnet_edge.workstation.tasks.codec import jpeg, mean_jpeg


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def textured(height: int, width: int, seed: int) -> np.ndarray:
    """(H, W, 3) uint8: gradients, edges of colour, and fine detail."""
    random = np.random.Generator(np.random.PCG64(seed))
    picture = smooth_pixels(height, width).astype(np.float32)
    top, left = random.integers(0, (height // 2, width // 2))
    picture[top : top + height // 2, left : left + width // 2] = random.integers(0, 255, 3)
    y, x = np.mgrid[:height, :width]
    picture += 12 * np.sin(x * random.uniform(0.3, 1.5) + y * random.uniform(0.3, 1.5))[..., None]
    return picture.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def clean() -> Tensor:
    """(25, 3, 48, 48) of edges and textures, none of it at the ends of the range."""
    return patches(25, 48)


def patches(count: int, side: int) -> Tensor:
    pictures = np.stack([textured(side, side, seed=seed) for seed in range(count)])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div(255) * 0.8 + 0.1


def level(value: float) -> Tensor:
    return torch.full((1, 1, 1, 1), value)


def decibels(a: Tensor, b: Tensor) -> float:
    return float(-10 * torch.log10((a - b).square().mean()))


# A camera


def test_a_camera_develops_the_light_that_it_undid(
    clean: Tensor, generator: torch.Generator
) -> None:
    development = Development.drawn(Draw(len(clean), generator))
    light = development.undone(clean)
    assert light.min() >= 0
    assert light.max() <= 1
    torch.testing.assert_close(development.done(light), clean, atol=2e-3, rtol=0)
    assert (development.to_rgb.sum(2) - 1).abs().max() < 1e-5, "white is no longer white"


def test_the_noise_of_a_sensor_has_the_variance_asked_for(generator: torch.Generator) -> None:
    light = torch.full((1, 3, 256, 256), 0.25)
    shot, read = level(0.01), level(1e-4)
    noise = sensor_noise(light, shot, read, Draw(1, generator)) - light
    assert noise.var() == pytest.approx(0.01 * 0.25 + 1e-4, rel=0.03)


def test_a_mosaic_keeps_what_was_seen_and_takes_the_mean_of_neighbours() -> None:
    light = torch.rand(1, 3, 8, 8)
    full = mosaicked(light)
    assert torch.equal(full[:, 0, ::2, ::2], light[:, 0, ::2, ::2])
    assert torch.equal(full[:, 2, 1::2, 1::2], light[:, 2, 1::2, 1::2])
    assert full[0, 0, 0, 1] == pytest.approx(float(light[0, 0, 0, [0, 2]].mean()))
    assert full[0, 1, 2, 2] == pytest.approx(float(light[0, 1, [1, 2, 2, 3], [2, 1, 3, 2]].mean()))


def test_blurring_is_each_images_own_and_keeps_the_mean(clean: Tensor) -> None:
    sigma = torch.linspace(0.3, 2.5, len(clean)).view(-1, 1, 1, 1)
    smooth = blurred(clean, sigma)
    torch.testing.assert_close(blurred(clean[4:5], sigma[4:5]), smooth[4:5])
    assert float(blurred(torch.ones(1, 3, 8, 8), level(2.0)).std()) < 1e-6
    left = (smooth - smooth.mean((2, 3), keepdim=True)).square().mean((1, 2, 3))
    had = (clean - clean.mean((2, 3), keepdim=True)).square().mean((1, 2, 3))
    assert bool((left < had).all())


def test_luma_and_colour_differences_come_back(clean: Tensor) -> None:
    torch.testing.assert_close(from_ycc(to_ycc(clean)), clean, atol=1e-5, rtol=0)
    assert to_ycc(gray_of(clean))[:, 1:].abs().max() < 1e-5


# Codecs


@pytest.mark.parametrize("quality", [50, 75, 92])
def test_jpeg_loses_what_pillows_loses(quality: int) -> None:
    pixels = textured(96, 80, seed=1)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    theirs = torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1)[None] / 255
    clean = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    ours = jpeg(clean, level(quality), level(0.0))
    lost, lost_theirs = decibels(ours, clean), decibels(theirs, clean)
    assert lost == pytest.approx(lost_theirs, abs=0.15)
    assert decibels(ours, theirs) > lost_theirs + 6


def test_blocks_may_begin_anywhere() -> None:
    clean = torch.from_numpy(textured(48, 48, seed=2)).permute(2, 0, 1)[None] / 255
    offset = torch.tensor([5, 11])
    moved = jpeg(clean, level(40), level(0.0), offset)
    rolled = torch.roll(clean, (5, 11), (2, 3))
    expected = torch.roll(jpeg(rolled, level(40), level(0.0)), (-5, -11), (2, 3))
    assert torch.equal(moved, expected)
    assert not torch.equal(moved, jpeg(clean, level(40), level(0.0)))


def test_the_mean_of_noisy_shots_keeps_what_one_clean_jpeg_loses(
    generator: torch.Generator,
) -> None:
    clean = torch.from_numpy(textured(96, 96, seed=2)).permute(2, 0, 1)[None] / 255
    quality, corner = level(75), torch.tensor([0, 0])
    noise = 8 / 255 * torch.randn(clean.shape, generator=generator)
    coded = mean_jpeg(clean, noise, quality, level(0.0), corner, generator)
    many = torch.stack([
        jpeg(clean + 8 / 255 * torch.randn(clean.shape, generator=generator), quality, level(0.0))
        for _ in range(64)
    ]).mean(0)  # fmt: skip
    once = jpeg(clean, quality, level(0.0))
    assert decibels(coded, many) > decibels(once, many) + 2
    left = ((coded - many) * noise).mean() / noise.square().mean()
    assert float(left) == pytest.approx(0, abs=0.03), "the noise itself is asked for"
    still = mean_jpeg(clean, torch.zeros_like(clean), quality, level(0.0), corner, generator)
    torch.testing.assert_close(still, once, atol=1e-6, rtol=0)


# Tasks


@pytest.mark.parametrize("name", TRAINABLE)
def test_a_seed_gives_one_batch_and_another_seed_another(name: str, clean: Tensor) -> None:
    task = TRAINABLE[name]()
    if task.scale > 1:
        clean = patches(3, 96)
    a, b, c = (task.degrade(clean, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(a.given, b.given)
    assert torch.equal(a.target, b.target)
    assert not torch.equal(a.given, c.given)
    planes = task.network(preset("edge-s")).in_planes
    assert a.target.shape == clean.shape
    assert a.given.shape == (len(clean), planes, *clean.shape[2:])
    assert bool(a.given.isfinite().all())
    assert a.target.min() >= 0
    assert a.target.max() <= 1


@pytest.mark.parametrize("name", TRAINABLE)
def test_a_task_needs_a_network_of_the_second_family(name: str) -> None:
    with pytest.raises(me.ConfigError, match=f"task '{name}' needs a network of the v2 family"):
        TRAINABLE[name]().network(preset("mirnet"))


def test_what_each_task_sets_of_a_network() -> None:
    edge = preset("edge-m")
    assert isinstance(edge, MIRNetV2Config)
    assert Denoise().network(edge) == replace(edge, noise_level=True)
    assert SuperResolution(scale=3).network(edge) == replace(edge, shuffle=3)
    assert Enhance().network(edge) == replace(edge, context=True)
    with pytest.raises(me.ConfigError, match="scale=5: need 2, 3 or 4"):
        SuperResolution(scale=5)


def test_denoising_is_told_about_what_there_is_to_remove(clean: Tensor) -> None:
    told, true = [], []
    for seed in range(6):
        batch = Denoise().degrade(clean, torch.Generator().manual_seed(seed))
        given, plane = batch.given[:, :3], batch.given[:, 3]
        assert bool((plane == plane[:, :1, :1]).all()), "the level is not one number a patch"
        told.append(plane[:, 0, 0] * NOISE_UNIT)
        true.append(255 * noise_of(given, batch.target)[:, 0, 0, 0])
    errors = torch.cat(told) - torch.cat(true)
    # Off by a share and a bit, on purpose, but not to one side.
    assert errors.abs().median() < 1.5
    assert float(errors.mean().abs()) < 1.0
    assert torch.cat(true).min() < 3
    assert torch.cat(true).max() > 30


def test_denoising_knows_gray_pictures_pictures_of_8_bits_and_clean_ones(clean: Tensor) -> None:
    batches = [Denoise().degrade(clean, torch.Generator().manual_seed(s)) for s in range(8)]
    given = torch.cat([batch.given[:, :3] for batch in batches])
    target = torch.cat([batch.target for batch in batches])
    is_gray = (given - given[:, :1]).abs().amax((1, 2, 3)) < 1e-6
    assert 0.04 < float(is_gray.float().mean()) < 0.25
    assert bool(((target - target[:, :1]).abs().amax((1, 2, 3)) < 1e-5)[is_gray].all())
    levels = given * 255
    is_picture = (levels - levels.round()).abs().amax((1, 2, 3)) < 1e-3
    assert 0.6 < float(is_picture.float().mean()) < 0.97
    unharmed = noise_of(given, target)[:, 0, 0, 0] < 0.5 / 255
    assert bool(unharmed.any())


@pytest.mark.parametrize("white", [0.0, 1.0])
def test_soft_pictures_are_asked_for_as_they_are(white: float, clean: Tensor) -> None:
    many = clean.repeat(4, 1, 1, 1)

    def contrast_of(soft: float) -> float:
        of_kind = (soft, 1 - soft) if white else (1 - soft, soft)  # the other kind's is not taken
        task = Denoise((9.0, 9.0), camera=0.0, film=0.0, white=white, gray=0.0, soft=of_kind)
        batch = task.degrade(many, torch.Generator().manual_seed(5))
        # Noise comes after the softening: it is as strong, and as white.
        assert (batch.given[:, :3] - batch.target).std() > white * 5 / 255
        unchanged = (batch.target == many).flatten(1).all(1).float().mean()
        assert (unchanged > 0.5) if soft == 0 else (unchanged < 0.5 + 0.1 * (soft < 1))
        return float(batch.target.diff(dim=3).square().mean())

    sharp, some, soft = map(contrast_of, (0.0, 0.5, 1.0))
    assert sharp == pytest.approx(float(many.diff(dim=3).square().mean()), rel=0.05)
    assert soft < 0.7 * sharp
    assert soft < some < sharp


def test_a_camera_without_noise_is_asked_for_what_it_develops(clean: Tensor) -> None:
    task = Denoise(camera=1.0, film=0.0, white=0.0, gray=0.0)
    batch = task.degrade(clean, torch.Generator().manual_seed(5))
    # Its noise reduction and sharpening belong to the picture.
    assert not torch.equal(batch.target, clean)
    assert noise_of(batch.target, clean).mean() < 0.05


@pytest.mark.parametrize(
    ("film", "white", "least", "most", "lost_most"),
    [(1.0, 0.0, 0.1, 0.5, 20.0), (0.0, 1.0, 0.01, 0.15, 12.0), (0.0, 0.0, 0.1, 0.5, 20.0)],
)
def test_what_a_good_jpeg_takes_is_not_asked_back(
    film: float, white: float, least: float, most: float, lost_most: float, clean: Tensor
) -> None:
    task = Denoise(camera=0.0, film=film, white=white, gray=0.0, soft=(0.0, 0.0))
    many = clean.repeat(8, 1, 1, 1)
    target = task.degrade(many, torch.Generator().manual_seed(2)).target
    is_coded = (target != many).flatten(1).any(1)
    assert least < is_coded.float().mean() < most
    lost = noise_of(target, many)[is_coded]
    assert lost.min() > 0.3 / 255
    assert lost.max() < lost_most / 255
    codes = 4 * 255 * target[is_coded]  # the mean of four pictures of 8 bits
    torch.testing.assert_close(codes, codes.round(), atol=1e-3, rtol=0)


def test_white_noise_has_the_level_told(clean: Tensor, generator: torch.Generator) -> None:
    batch = Gaussian(sigma=(20.0, 20.0)).degrade(clean, generator)
    assert torch.equal(batch.target, clean)
    assert float(batch.given[:, 3].mean()) == pytest.approx(20 / NOISE_UNIT)
    assert 255 * float((batch.given[:, :3] - clean).std()) == pytest.approx(20, rel=0.02)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_small_pictures_are_matlabs_bicubic(scale: int) -> None:
    large = 48 * scale
    clean = patches(3, large)
    batch = SuperResolution(scale=scale, clean=1.0).degrade(clean, torch.Generator())
    planes, side = clean[0].numpy(), 48
    small = np.rint(resized(planes, side, side).clip(0, 1) * 255).astype(np.float32) / 255
    # A pixel on the border between two levels may fall to either side.
    difference = np.abs(batch.given[0].numpy() - resized(small, large, large))
    assert difference.max() < 1.1 / 255
    assert difference.mean() < 0.01 / 255
    noisy = SuperResolution(scale=scale, clean=0.0).degrade(clean, torch.Generator())
    assert decibels(noisy.given, clean) < decibels(batch.given, clean)


def test_dark_pictures_are_dark_and_targets_near_the_middle(clean: Tensor) -> None:
    dim = clean * 0.5
    batch = Enhance().degrade(dim, torch.Generator().manual_seed(1))
    darker = batch.given.mean((1, 2, 3)) / batch.target.mean((1, 2, 3))
    assert darker.max() < 0.75
    assert darker.mean() < 0.35
    before, after = ((gray_of(x).mean((1, 2, 3)) - 0.5).abs().mean() for x in (dim, batch.target))
    assert after < 0.6 * before
    kept = Enhance(drawn=0.0).degrade(dim, torch.Generator().manual_seed(1))
    torch.testing.assert_close(kept.target, dim)


def test_a_batch_is_cut_into_its_shares_and_nothing_is_lost() -> None:
    parts = shares(25, (0.4, 0.2, 0.34, 0.0))
    assert [part.stop - part.start for part in parts] == [10, 5, 9, 1]
    assert (parts[0].start, parts[-1].stop) == (0, 25)
    assert [part.stop - part.start for part in shares(2, (0.9, 0.1))] == [2, 0]
