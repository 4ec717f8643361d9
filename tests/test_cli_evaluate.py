"""``mirnet-edge evaluate``."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import run
from conftest import TINY
from PIL import Image
from training_runs import write_smooth_images

import mirnet_edge as me


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_smooth_images(tmp_path_factory.mktemp("images"))


def test_evaluation_as_json(
    tiny_onnx: Path, images: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = run(capfd, "evaluate", tiny_onnx, "--data", images, "--json")
    assert outcome.code == 0
    result = outcome.json
    assert (result["protocol"], result["seed"], result["skipped"]) == ("σ 25", 0, [])
    assert [score["name"] for score in result["scores"]] == ["a.png", "b.png"]
    for kind in ("given", "restored"):
        for figure in ("psnr", "ssim"):
            mean = np.mean([score[kind][figure] for score in result["scores"]])
            assert result["mean"][kind][figure] == pytest.approx(mean)
    assert result["mean"]["given"]["psnr"] == pytest.approx(20 * np.log10(255 / 25), abs=0.2)
    assert run(capfd, "evaluate", tiny_onnx, "--data", images, "--json").json == result
    other = run(capfd, "evaluate", tiny_onnx, "--data", images, "--json", "--seed", 9).json
    assert other["mean"]["given"] != result["mean"]["given"]


def test_evaluation_options_reach_it(
    tiny_onnx: Path, images: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def noisy(*options: object) -> float:
        outcome = run(capfd, "evaluate", tiny_onnx, "--data", images / "a.png", "--json", *options)
        return float(outcome.json["mean"]["given"]["psnr"])

    assert noisy("--sigma", 50) == pytest.approx(20 * np.log10(255 / 50), abs=0.3)
    assert noisy("--sigma", 50, "--quantize") > noisy("--sigma", 50) + 0.1
    error = run(capfd, "evaluate", tiny_onnx, "--data", images, "--tile", "30").only_error
    assert "multiples of 4" in error


def test_evaluation_as_a_table(
    tiny_onnx: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    (tmp_path / "photo[final].png").write_bytes((images / "a.png").read_bytes())
    (tmp_path / "text.png").write_text("no image")
    outcome = run(capfd, "evaluate", tiny_onnx, "--data", tmp_path)
    assert outcome.code == 0
    assert "text.png" in outcome.err
    assert "left out: " in outcome.err
    assert "σ 25, 1 images" in outcome.out
    assert "mean" in outcome.out
    assert "photo[final].png" in outcome.out


def test_evaluation_without_scikit_image(
    tiny_onnx: Path,
    images: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    whole = run(capfd, "evaluate", tiny_onnx, "--data", images, "--json").json
    for module in ("skimage", "skimage.metrics"):
        monkeypatch.setitem(sys.modules, module, None)
    outcome = run(capfd, "evaluate", tiny_onnx, "--data", images)
    assert outcome.code == 0
    assert f"{whole['mean']['restored']['psnr']:.2f}" in outcome.out
    assert "SSIM" not in outcome.out
    assert "scikit-image is not installed" in outcome.err
    result = run(capfd, "evaluate", tiny_onnx, "--data", images, "--json").json
    assert "ssim" not in result["mean"]["restored"]
    assert "scikit-image" in result["note"]


def test_evaluation_without_noise_is_json_too(
    tiny_onnx: Path, images: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = run(capfd, "evaluate", tiny_onnx, "--data", images, "--sigma", 0, "--json")
    assert outcome.code == 0
    assert outcome.json["mean"]["given"]["ssim"] == pytest.approx(1)


def test_images_smaller_than_the_window_of_ssim(
    tiny_onnx: Path, images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (30, 8)).save(tmp_path / "low.png")
    (tmp_path / "a.png").write_bytes((images / "a.png").read_bytes())
    outcome = run(capfd, "evaluate", tiny_onnx, "--data", tmp_path, "--json")
    assert outcome.code in (0, 1), outcome
    assert "low.png" in outcome.out + outcome.err


def test_evaluation_of_nothing(
    tiny_onnx: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def error() -> str:
        return run(capfd, "evaluate", tiny_onnx, "--data", tmp_path / "data").only_error

    assert "no such file" in error()
    (tmp_path / "data").mkdir()
    assert str(tmp_path / "data") in error()
    (tmp_path / "data" / "a.png").write_text("no image")
    assert "no picture can be tested" in error()
    assert "edge-xxl" in run(capfd, "evaluate", "edge-xxl", "--data", tmp_path).only_error


def test_every_kind_of_degradation(
    tiny_onnx: Path, images: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def test(*options: object) -> tuple[str, float]:
        outcome = run(capfd, "evaluate", tiny_onnx, "--data", images, "--json", *options)
        return outcome.json["protocol"], outcome.json["mean"]["given"]["psnr"]

    assert test("--gray")[0] == "σ 25, gray"
    assert test("--jpeg", 75, "--sigma", 15)[0] == "σ 15, JPEG q75"
    assert test("--task", "super-resolution", "--scale", 2)[0] == "×2"
    name, psnr = test("--task", "enhance", "--exposure", 0.05)
    assert name == "exposure 0.05"
    assert psnr < test("--task", "enhance", "--exposure", 0.5)[1]


def test_pairs(
    tiny_onnx: Path, images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for path in images.iterdir():
        darker = np.asarray(Image.open(path)) // 2
        Image.fromarray(darker).save(tmp_path / path.name)
    pair = ("--input", tmp_path, "--target", images)
    mean = run(capfd, "evaluate", tiny_onnx, *pair, "--brightness", "--json").json["mean"]
    assert mean["given"]["psnr_bright"] > mean["given"]["psnr"] + 10
    table = run(capfd, "evaluate", tiny_onnx, *pair)
    assert "pairs, 2 images" in table.out
    (tmp_path / "a.png").rename(tmp_path / "c.png")
    assert "c.png" in run(capfd, "evaluate", tiny_onnx, *pair).err


def test_a_page_with_the_pictures(
    tiny_onnx: Path, images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    command = ("evaluate", tiny_onnx, "--data", images, "--html", page)
    outcome = run(capfd, *command, "--json")
    text = page.read_text("utf-8")
    assert text.count("<img ") == 3 * len(outcome.json["scores"])
    assert f"{outcome.json['mean']['restored']['psnr']:.2f}" in text
    assert f"{page} exists" in run(capfd, *command).only_error
    assert run(capfd, *command, "--overwrite").code == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "say what to test"),
        (["--data", "x", "--sets", "{images}"], "say what to test"),
        (["--input", "{images}"], "go together"),
        (["--input", "{images}", "--target", "{images}", "--sigma", 5], "as they are"),
        (["--data", "{images}", "--brightness"], "is for pairs"),
        (["--sets", "{images}", "--noise", "told"], "tests of a card"),
        (["--data", "{images}", "--noise", "true"], "give auto, or the level"),
        (["--data", "{images}", "--jpeg", 101], "101"),
    ],
)
def test_options_that_do_not_go_together(
    options: list[object],
    said: str,
    tiny_onnx: Path,
    images: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    filled = [images if option == "{images}" else option for option in options]
    outcome = run(capfd, "evaluate", tiny_onnx, *filled)
    assert outcome.code == 2
    assert said in outcome.err


def test_a_setting_of_another_task_and_a_level_for_no_one(
    tiny_onnx: Path, images: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ("evaluate", tiny_onnx, "--data", images)
    assert "scale: no setting" in run(capfd, *command, "--scale", 2).only_error
    assert "told no level" in run(capfd, *command, "--noise", 10).only_error


def test_a_checkpoint_on_a_device_that_torch_names(
    images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "tiny.safetensors"
    me.save_model(me.create_model(TINY["mirnet-v2"], seed=0), weights, "denoise")
    command = ("evaluate", weights, "--data", images / "a.png", "--json")
    on_device = run(capfd, *command, "--device", "cpu").json["mean"]
    assert on_device == run(capfd, *command).json["mean"]


def test_all_the_sets_of_a_card(
    tiny_onnx: Path, images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ("evaluate", tiny_onnx, "--sets", tmp_path)
    assert "holds none of the sets" in run(capfd, *command).only_error
    (tmp_path / "cbsd68").symlink_to(images)
    outcome = run(capfd, *command, "--every", 2, "--json")
    tests = [row["protocol"] for row in outcome.json["figures"] if row["images"]]
    assert tests[:3] == ["σ 15", "σ 25", "σ 50"]
    assert {"σ 25, gray", "σ 25, JPEG q75", "clean"} <= set(tests)
    table = run(capfd, *command, "--every", 2)
    assert table.code == 0
    assert "σ 25, JPEG q95" in table.out


def test_without_ssim(tiny_onnx: Path, images: Path, capfd: pytest.CaptureFixture[str]) -> None:
    outcome = run(capfd, "evaluate", tiny_onnx, "--data", images, "--no-ssim", "--json")
    assert set(outcome.json["mean"]["restored"]) == {"psnr"}
    assert outcome.json["note"] == ""
