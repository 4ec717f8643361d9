"""The command line with networks that are told a noise level, or enlarge."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import run
from fake_tensorrt import write_plan
from noise_weights import brightness_estimator, level_at
from PIL import Image
from restoring import Restore, halves, load, noise, restore, save, upright
from tiny_edge import tiny_denoiser, tiny_enlarger

import mirnet_edge as me

__all__ = ["brightness_estimator", "restore", "tiny_denoiser", "tiny_enlarger"]
Enlargers = Callable[[int], Path]


def test_a_level_reaches_the_network_and_is_told(restore: Restore, tiny_denoiser: Path) -> None:
    pixels = noise(37, 53, 3)
    save("a.png", pixels)
    with me.Restorer(tiny_denoiser, noise=25) as restorer:
        expected = restorer(pixels)
    outcome = restore("a.png", "-m", tiny_denoiser, "--noise", "25")
    assert (outcome.code, outcome.err) == (0, "")
    assert "  noise 25.0  " in outcome.out
    np.testing.assert_array_equal(load("a_restored.png"), expected)
    (result,) = restore(
        "a.png", "-m", tiny_denoiser, "--noise", "12.5", "--overwrite", "--json"
    ).json
    assert (result["noise"], result["scale"]) == (12.5, 1)
    assert not np.array_equal(load("a_restored.png"), expected)


@pytest.mark.usefixtures("brightness_estimator")
def test_each_file_of_a_folder_is_estimated(restore: Restore, tiny_denoiser: Path) -> None:
    Path("in").mkdir()
    for name, value in (("a", 60), ("b", 200)):
        save(f"in/{name}.png", np.full((70, 90), value, np.uint8))
    results = restore("in", "-m", tiny_denoiser, "-o", "out/", "--json").json
    for result, value in zip(results, (60, 200)):
        assert result["noise"] == pytest.approx(level_at(value / 255), abs=2e-3)


def test_a_network_that_is_not_told_says_so(restore: Restore) -> None:
    save("a.png")
    assert "not told a noise level" in restore("a.png", "--noise", "10").only_error
    (result,) = restore("a.png", "--noise", "auto", "--json").json
    assert result["noise"] is None


@pytest.mark.parametrize("text", ["loud", "-1", "1e3", "nan", ""])
def test_what_is_no_level_is_wrong_usage(text: str, restore: Restore) -> None:
    outcome = restore("a.png", "--noise", text)
    assert (outcome.code, outcome.out) == (2, "")
    assert "give auto, or the level in units of 1/255, as 10" in outcome.err


def test_a_level_beyond_the_range_is_an_error(restore: Restore, tiny_denoiser: Path) -> None:
    save("a.png")
    error = restore("a.png", "-m", tiny_denoiser, "--noise", "101").only_error
    assert "from 0 to 100" in error


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "bmp"])
def test_files_are_enlarged_in_their_format(
    suffix: str, restore: Restore, tiny_enlarger: Enlargers
) -> None:
    save(f"a.{suffix}", noise(21, 34, 3))
    outcome = restore(f"a.{suffix}", "-m", tiny_enlarger(2))
    assert outcome.code == 0, outcome
    assert f"a.{suffix} -> a_restored.{suffix}  34x21 -> 68x42  1 tile" in outcome.out
    assert load(f"a_restored.{suffix}").shape == (42, 68, 3)


def test_pictures_of_every_kind_are_enlarged(restore: Restore, tiny_enlarger: Enlargers) -> None:
    Path("in").mkdir()
    # 4:2:0, of a palette, gray of 16 bits, with alpha, and the smallest there is.
    save("in/a.jpg", noise(21, 35, 3), subsampling="4:2:0")
    Image.fromarray(noise(21, 35, 3)).quantize(16).save("in/b.png")
    save("in/c.png", noise(9, 14, dtype=np.uint16))
    save("in/d.png", noise(9, 14, 4))
    save("in/e.png", noise(1, 1, 3))
    results = restore("in", "-m", tiny_enlarger(4), "-o", "out/", "--json").json
    assert [(result["width"], result["scale"]) for result in results] == [
        *((width, 4) for width in (35, 35, 14, 14, 1))
    ]
    found = [load(path) for path in sorted(Path("out").iterdir())]
    assert [image.shape for image in found] == [
        *((84, 140, 3), (84, 140, 3), (36, 56), (36, 56, 4), (4, 4, 3))
    ]
    assert found[2].dtype == np.uint16


def test_a_comparison_has_both_at_one_size(restore: Restore, tiny_enlarger: Enlargers) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    source = save("a.png", noise(21, 34, 3), exif=exif)
    outcome = restore(source, "-m", tiny_enlarger(2), "--compare")
    assert (outcome.code, outcome.errors) == (0, [])
    before, after = halves("a_compare.png")
    assert before.shape == after.shape == (68, 42, 3)
    np.testing.assert_array_equal(after, upright("a_restored.png"))
    small = before.reshape(34, 2, 21, 2, 3).mean((1, 3))
    assert np.corrcoef(small.ravel(), upright(source).ravel())[0, 1] > 0.9


# bench and info


def test_bench_of_frames_tells_both(
    tiny_denoiser: Path, tiny_enlarger: Enlargers, capfd: Any
) -> None:
    frame = ("--frame", "40x24", "--frames", 2, "--tile", "32", "--halo", 4)
    outcome = run(capfd, "bench", tiny_denoiser, *frame, "--noise", 15)
    assert outcome.code == 0, outcome
    assert "2 frames of 40x24, noise 15.0" in outcome.out
    outcome = run(capfd, "bench", tiny_enlarger(2), *frame)
    assert "2 frames of 40x24, restored to 80x48" in outcome.out
    assert "of 32x32" in outcome.out
    outcome = run(capfd, "bench", tiny_enlarger(2), *frame, "--json")
    assert (outcome.json["scale"], outcome.json["noise"]) == (2, None)
    assert (outcome.json["frame_size"], outcome.json["tile"]) == ([24, 40], [32, 32])


def test_bench_of_tiles_runs_the_plane_too(tiny_denoiser: Path, capfd: Any) -> None:
    outcome = run(capfd, "bench", tiny_denoiser, "--runs", 2, "--tile", "16")
    assert outcome.code == 0, outcome
    outcome = run(capfd, "bench", tiny_denoiser, "--noise", 10)
    assert (outcome.code, outcome.out) == (2, "")
    assert "--noise needs --frame" in outcome.err


def test_info_tells_scale_and_level(
    tiny_denoiser: Path, tiny_enlarger: Enlargers, capfd: Any
) -> None:
    for path, scale, told in ((tiny_denoiser, 1, True), (tiny_enlarger(2), 2, False)):
        found = run(capfd, "info", path, "--json").json
        assert (found["scale"], found["noise_level"]) == (scale, told)


def test_info_of_an_engine_says_what_frames_it_takes(tmp_path: Path, capfd: Any) -> None:
    plain = run(capfd, "info", write_plan(tmp_path)).out
    assert "scale" not in plain
    assert "noise level" not in plain
    facts = me.ModelFacts(task="denoise", scale=2, noise_level=True)
    out = run(capfd, "info", write_plan(tmp_path, {"facts": facts})).out
    assert re.search(r"^scale +restored frames are 2 times as high and wide$", out, re.MULTILINE)
    assert re.search(r"^noise level +told with each frame", out, re.MULTILINE)
