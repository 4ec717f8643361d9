"""Training: its settings, its patches and its noise, and it learns."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training_runs import SHORT, weights_of, write_images

import mirnet_edge as me
from mirnet_edge.frames.noise import add_gaussian_noise
from mirnet_edge.workstation.curve import Point, plot_curve
from mirnet_edge.workstation.patches import PatchSampler
from mirnet_edge.workstation.stepper import absolute, charbonnier, of_psnr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("clean"))


def test_what_a_run_leaves_behind(folder: Path, tmp_path: Path) -> None:
    trainer = me.Trainer(SHORT, [folder], tmp_path, validation=[folder], device="cpu")
    assert sum("broken.png" in reason for reason in trainer.skipped) == 1
    assert sum("8x8, smaller than a patch" in reason for reason in trainer.skipped) == 1
    trainer.run(validate_every=3)
    curve = json.loads((tmp_path / "curve.json").read_text())
    assert [point["step"] for point in curve] == [3, 6]
    assert all(point["psnr"][folder.name] > 5 for point in curve)
    with Image.open(tmp_path / "curve.png") as curve_picture:
        assert curve_picture.width > 100
    model = me.load_model(tmp_path / "model.safetensors")
    assert model.facts.task == "denoise"
    assert model.facts.preset == "edge-s"
    assert model.training_facts["steps_done"] == 6
    assert model.training_facts["settings"]["learning_rate"] == 2e-3
    for name, tensor in trainer.state.average.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def test_training_lowers_the_loss(folder: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(SHORT, steps=60, batch=4, warmup_steps=5)
    trainer = me.Trainer(settings, [folder], tmp_path, device="cpu")
    trainer.run(validate_every=20)
    first, *_, last = trainer.state.curve
    assert last.loss < 0.8 * first.loss, (first.loss, last.loss)


def test_folder_without_large_enough_images_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(me.DataError, match="no image to train on; 4 left out"):
        me.Trainer(dataclasses.replace(SHORT, patch_px=64), [folder], tmp_path, device="cpu")
    with pytest.raises(me.DataError, match="no such file"):
        me.Trainer(SHORT, [tmp_path / "missing"], tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"steps": 0}, "steps=0: must be positive"),
        ({"batch": -1}, "batch=-1: must be positive"),
        ({"learning_rate": 0.0}, r"learning_rate=0\.0: must be positive"),
        ({"learning_rate": float("nan")}, "learning_rate=nan: must be positive and finite"),
        ({"learning_rate": float("inf")}, "learning_rate=inf: must be positive and finite"),
        ({"final_learning_rate": float("nan")}, "final_learning_rate=nan"),
        ({"warmup_steps": -1}, "warmup_steps=-1: must not be negative"),
        ({"minutes": float("nan")}, "minutes=nan: must be positive"),
        ({"ema": 1.0}, r"ema=1\.0: the decay is at least 0 and below 1"),
        ({"loss": "l2"}, "loss='l2': there are charbonnier, l1, psnr"),
        ({"rescale": (1.5,)}, r"rescale=\(1\.5,\): need factors above 0 and at most 1"),
        ({"progressive": ((1.2, 64, 4),)}, "a stage begins at 0 to below 1"),
    ],
)
def test_impossible_settings_are_refused(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(me.ConfigError, match=said):
        me.TrainSettings(**arguments)  # type: ignore[arg-type]


def test_sides_of_patches_are_what_task_and_network_can_have(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(me.ConfigError, match="patch_px=18: must be a multiple of 16"):
        me.Trainer(dataclasses.replace(SHORT, patch_px=18), [folder], tmp_path, device="cpu")
    tripled = me.TrainSettings(task="super-resolution", task_settings={"scale": 3}, patch_px=64)
    with pytest.raises(me.ConfigError, match="patch_px=64: must be a multiple of 48"):
        me.Trainer(tripled, [folder], tmp_path, device="cpu")
    assert me.TrainSettings().stages(48)[0].patch_px == 144


def test_learning_rate_warms_up_and_follows_the_cosine() -> None:
    settings = me.TrainSettings(steps=1000, warmup_steps=10, learning_rate=1e-3)
    assert settings.learning_rate_at(0) == pytest.approx(1e-4, rel=1e-3)
    assert settings.learning_rate_at(500) == pytest.approx((1e-3 + 1e-6) / 2)
    assert settings.learning_rate_at(1000) == pytest.approx(1e-6)


@pytest.mark.parametrize(("steps", "warmup"), [(5, 1), (100, 10), (1999, 199), (100_000, 200)])
def test_short_schedules_warm_up_in_a_tenth(steps: int, warmup: int) -> None:
    settings = me.TrainSettings(steps=steps, learning_rate=1e-3)
    named = me.TrainSettings(steps=steps, learning_rate=1e-3, warmup_steps=warmup)
    rates = [settings.learning_rate_at(step) for step in range(min(steps, 300))]
    assert rates == [named.learning_rate_at(step) for step in range(min(steps, 300))]
    assert max(rates) >= 0.9e-3


def test_patches_are_the_eight_symmetries_of_real_crops() -> None:
    """Every pixel holds its own coordinates, so a patch tells where it was cut and how turned."""
    y, x = np.mgrid[0:40, 0:60]
    image = np.stack([y, x, np.full_like(y, 7)], axis=2).astype(np.uint8)
    sampler = PatchSampler([image], torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    patches = (sampler.draw(400, 8, generator) * 255).round().byte().numpy().transpose(0, 2, 3, 1)
    seen = set()
    for patch in patches:
        top, left = patch[..., 0].min(), patch[..., 1].min()
        crop = image[top : top + 8, left : left + 8]
        turned = {
            (turns, mirror): np.rot90(crop[:, ::-1] if mirror else crop, turns)
            for turns in range(4)
            for mirror in (False, True)
        }
        matches = [key for key, value in turned.items() if np.array_equal(value, patch)]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) == 8


def test_patches_come_from_all_images_and_reach_their_borders() -> None:
    images = [np.full((8 + i, 9, 3), i, np.uint8) for i in range(3)]
    images[2][-1] = 99
    sampler = PatchSampler(images, torch.device("cpu"))
    patches = sampler.draw(200, 8, torch.Generator().manual_seed(0)) * 255
    assert {0, 1, 2, 99} == set(patches.round().int().flatten().tolist())


def test_benchmark_noise_is_seeded() -> None:
    image = np.full((64, 64, 3), 128, np.uint8)
    first, again, other = (add_gaussian_noise(image, 25, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert float((first - 128 / 255).std()) == pytest.approx(25 / 255, rel=0.03)


def test_charbonnier_is_the_smoothed_absolute_error() -> None:
    restored, clean = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.0])
    expected = (np.sqrt(1 + 1e-6) + 1e-3) / 2
    assert float(charbonnier(restored, clean)) == pytest.approx(expected)
    assert float(absolute(restored, clean)) == 0.5


def test_loss_of_psnr_is_the_geometric_mean_of_root_mean_squares() -> None:
    clean = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    off = clean + torch.tensor([0.02, 0.08])[:, None, None, None]
    psnr = (40 * np.log10(1 / 0.02) + 40 * np.log10(1 / 0.08)) / 4
    assert 20 * np.log10(1 / float(of_psnr(off, clean, floor=0))) == pytest.approx(psnr, abs=1e-4)
    # Of two patches that lose the same share of their error, each counts the same.
    better = [clean + torch.tensor(offsets)[:, None, None, None]
              for offsets in ([0.01, 0.08], [0.02, 0.04])]  # fmt: skip
    first, second = (float(of_psnr(picture, clean, floor=0)) for picture in better)
    assert first == pytest.approx(second, rel=1e-4)
    assert float(of_psnr(clean, clean)) == pytest.approx(0.5 / 255)
    equal = clean.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(of_psnr(equal, clean), equal)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_curve_without_validation_is_drawn(tmp_path: Path) -> None:
    plot_curve([Point(1, 0.1, {}, 1e-3, 1.0)], tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.format == "PNG"


def test_training_starts_from_given_weights(folder: Path, tmp_path: Path) -> None:
    given = tmp_path / "given.safetensors"
    me.Trainer(SHORT, [folder], tmp_path / "given", device="cpu").run(until=1)
    (tmp_path / "given" / "model.safetensors").replace(given)
    trainer = me.Trainer(SHORT, [folder], tmp_path, device="cpu", initial=given)
    loaded = me.load_model(given)
    for name, tensor in weights_of(trainer).items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    trainer.run(until=1)
    facts = me.load_model(tmp_path / "model.safetensors").training_facts
    assert facts["data"]["initial_weights_sha256"] == loaded.facts.weights_sha256
    moved = me.Trainer(SHORT, [folder], tmp_path, device="cpu", initial=given)
    assert moved.state.step == 1  # the checkpoint goes before
    other = dataclasses.replace(SHORT, preset="edge-m")
    with pytest.raises(me.ConfigError, match="edge-s network, but edge-m"):
        me.Trainer(other, [folder], tmp_path / "m", device="cpu", initial=given)

    said: list[str] = []
    enlarging = dataclasses.replace(SHORT, task="super-resolution", patch_px=32)
    trainer = me.Trainer(
        enlarging, [folder], tmp_path / "x2", device="cpu", initial=given, say=said.append
    )
    assert said == [f"{given} was made for another task; drawn anew: conv_in.weight"]
    assert torch.equal(
        weights_of(trainer)["conv_out.weight"], loaded.state_dict()["conv_out.weight"]
    )


def test_pairs_do_not_validate_what_enlarges(folder: Path, tmp_path: Path) -> None:
    enlarging = dataclasses.replace(SHORT, task="super-resolution", patch_px=32)
    shutil.copytree(folder, tmp_path / "good")
    pairs = f"pairs={folder}:{tmp_path / 'good'}"
    with pytest.raises(me.ConfigError, match=r"validation set pairs is of pairs, .* enlarges 2 ti"):
        me.Trainer(enlarging, [folder], tmp_path / "x2", device="cpu", validation=[pairs])
