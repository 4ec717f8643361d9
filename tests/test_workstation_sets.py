"""The figures of a card: which tests a task has, and what runs where sets or packages miss."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mirnet_edge as me
from mirnet_edge.workstation.sets import card_figures, trials_of


@dataclass
class Identity:
    """A Restorer that returns the frame."""

    facts: me.ModelFacts
    noise: Any = "auto"

    @property
    def timings(self) -> SimpleNamespace:
        level = 3.0 if self.noise == "auto" else self.noise
        return SimpleNamespace(noise=level if self.facts.noise_level else None)

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        scale = self.facts.scale
        return frame.repeat(scale, 0).repeat(scale, 1).clip(0, 1)


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(20, 230, (36, 40, 3), np.uint8)


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    for name in ("cbsd68", "set5"):
        (tmp_path / name).mkdir()
        for index in range(3):
            Image.fromarray(picture(index)).save(tmp_path / name / f"{index}.png")
    folders = tmp_path / "polyu", tmp_path / "lol_train4/imgs", tmp_path / "lol_train4/targets"
    for folder in folders:
        folder.mkdir(parents=True)
    Image.fromarray(picture(7)).save(folders[0] / "a_mean.png")
    Image.fromarray(picture(7) + np.uint8(8)).save(folders[0] / "a_real.png")
    Image.fromarray(picture(8)).save(folders[2] / "1.png")
    Image.fromarray(picture(8) // 6).save(folders[1] / "1.png")
    return tmp_path


def test_a_denoiser_that_is_told(sets: Path) -> None:
    facts = me.ModelFacts(task="denoise", noise_level=True)
    stages: list[str] = []
    rows = card_figures(
        Identity(facts), sets, with_ssim=False, progress=lambda stage, *_: stages.append(stage)
    )
    done = {(row.data, row.protocol, row.noise): row for row in rows}
    told = [done["cbsd68", f"σ {sigma}", "told"] for sigma in (15, 25, 50)]
    assert [row.level for row in told] == [15, 25, 50]
    assert done["cbsd68", "σ 25", "20"].level == 20
    assert done["cbsd68", "σ 25", "auto"].level == 3
    assert done["polyu", "pairs", "told +5"].level == pytest.approx(13, abs=1e-4)
    assert done["polyu", "pairs", "told -5"].level == pytest.approx(3, abs=1e-4)
    assert {key[2] for key in done if key[0] == "polyu"} >= {"auto", "told", "5", "10", "15"}
    assert done["photo", "σ 25, JPEG q95", "auto"].images == 1, "comes with the package"
    assert done["cbsd68", "clean", "auto"].restored["psnr"] == np.inf
    assert "set14" not in {row.data for row in rows}, "a set that is not there"
    assert stages[0] == "cbsd68, σ 15"
    assert done["polyu", "pairs", "auto"].each == {"a": pytest.approx(30.07, abs=0.01)}


def test_a_denoiser_that_is_not_told_is_tested_once_each() -> None:
    trials = trials_of(me.ModelFacts(task="denoise"))
    assert len({(trial.data, trial.protocol) for trial in trials}) == len(trials)
    assert {trial.noise for trial in trials} == {"auto"}


def test_without_a_codec_the_other_rows_are_measured(
    sets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    rows = card_figures(Identity(me.ModelFacts(task="denoise")), sets, with_ssim=False, every=3)
    missing = [row for row in rows if not row.restored]
    assert [(row.data, row.protocol) for row in missing] == [
        ("photo", "σ 15, H.264"),
        ("cbsd68", "σ 15, H.264"),
    ]
    assert "'av'" in missing[0].note
    assert {row.images for row in rows if row.restored} == {1}


def test_super_resolution(sets: Path) -> None:
    facts = me.ModelFacts(task="super-resolution", scale=3)
    rows = card_figures(Identity(facts), sets)
    assert [(row.data, row.protocol) for row in rows] == [("set5", "×3"), ("set5", "×3, JPEG q85")]
    assert set(rows[0].restored) == {"psnr", "ssim", "psnr_rgb"}


def test_low_light_beside_what_needs_no_network(sets: Path) -> None:
    rows = card_figures(Identity(me.ModelFacts(task="enhance")), sets, with_ssim=False)
    assert [row.method for row in rows] == ["model", "gamma 1/2.2", "histogram equalization"]
    dark, gamma, equalized = (row.restored["psnr"] for row in rows)
    assert gamma > dark + 3
    assert equalized > dark + 3
    assert all(set(row.each) == {"1"} for row in rows)


def test_no_set_is_there(tmp_path: Path) -> None:
    with pytest.raises(me.DataError, match="none of the sets for 'enhance': lol_train4"):
        card_figures(Identity(me.ModelFacts(task="enhance")), tmp_path)
