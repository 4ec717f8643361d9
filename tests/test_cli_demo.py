"""``mirnet-edge demo``: a photo spoiled in three ways, and restored by what is bundled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import run
from PIL import Image

import mirnet_edge as me
from mirnet_edge.cli.demo import SCENES, dark, noisy, small

LEAST_GAIN_DB = {"noise": 5.0, "small": 0.4, "dark": 5.0}
"""Of what is bundled, on the bundled photo."""


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(20 * np.log10(255 / np.sqrt(((a.astype(float) - b) ** 2).mean())))


def test_each_bundled_model_gains(
    photo: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run(capfd, "demo", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    bundled = {model.name for model in me.bundled_models()}
    expected = [name for name, scene in SCENES.items() if scene.model in bundled]
    pictures: list[dict[str, Any]] = outcome.json["pictures"]
    assert [row["picture"] for row in pictures] == expected
    assert "noise" in expected
    for row in pictures:
        assert row["gain"] >= LEAST_GAIN_DB[row["picture"]], row
        with Image.open(row["file"]) as image:
            both = np.asarray(image).astype(float)
        width = (both.shape[1] - 4) // 2
        clean = photo[: both.shape[0], :width].astype(float)
        for name, half in (("given", both[:, :width]), ("restored", both[:, width + 4 :])):
            assert row[f"{name}_psnr"] == pytest.approx(psnr(half, clean), abs=0.011), name
    assert pictures[0]["noise"] == pytest.approx(10, abs=6), "the level that was estimated"
    names = [f"demo-{name}.png" for name in expected]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_a_table_of_one_picture_is_seeded(
    tiny_onnx: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def given(*options: object) -> tuple[str, bytes]:
        target = tmp_path / "d.png"
        asked = ("--picture", "noise", "-m", tiny_onnx, "-o", target, "--sigma", "40")
        outcome = run(capfd, "demo", *asked, *options)
        assert outcome.code == 0, outcome.err
        assert "given dB" in outcome.out
        return outcome.out.splitlines()[0], (tmp_path / "d-noise.png").read_bytes()

    assert given() == given("--seed", "0")
    assert given() != given("--seed", "1")


def test_a_model_restores_what_it_is_for(
    tiny_onnx: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = ("demo", "-m", tiny_onnx, "--json", "-o", tmp_path / "d.png")
    assert [row["picture"] for row in run(capfd, *asked).json["pictures"]] == ["noise"]
    refused = run(capfd, *asked, "--picture", "small").only_error
    assert "is for 'denoise' at scale 1" in refused
    assert "'small' needs 'super-resolution' at scale 2" in refused


def test_into_a_missing_folder(
    tiny_onnx: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "nowhere" / "d.png"
    assert "nowhere" in run(capfd, "demo", "-m", tiny_onnx, "-o", output, "--json").only_error


def test_what_is_done_to_the_photo(photo: np.ndarray) -> None:
    bare, spoiled = noisy(photo, 0, 0), noisy(photo, 20, 0)
    noise = spoiled.astype(float) - bare
    assert np.sqrt((noise**2).mean()) == pytest.approx(14, abs=3), (
        "what 8 bits and JPEG leave of it"
    )
    assert psnr(bare, photo) > 32, "JPEG alone"
    assert small(photo, 0, 0).shape == (photo.shape[0] // 2, photo.shape[1] // 2, 3)
    assert dark(photo, 0, 0).mean() < 0.3 * photo.mean()
