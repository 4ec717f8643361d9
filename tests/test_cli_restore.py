"""``mirnet-edge restore``: what comes out of a picture, and what is said of it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from command_line import run
from fake_tensorrt import write_plan
from PIL import Image, ImageCms
from restoring import Restore, halves, load, noise, save, upright
from restoring import restore as restore

import mirnet_edge as me
from mirnet_edge.cli.console import read_bytes
from mirnet_edge.tiling.choice import ENGINE_OVERHEAD

ORIENTATION, DESCRIPTION = 0x0112, 0x010E
QUARTER_TURN = 6
ICC_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


# What is restored


@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        ("rgb.png", (37, 53, 3), np.uint8),
        ("gray.png", (21, 34), np.uint8),
        ("gray-alpha.png", (23, 9, 2), np.uint8),
        ("rgba.png", (22, 35, 4), np.uint8),
        ("gray-16.png", (21, 35), np.uint16),
        ("gray-16.tif", (20, 33), np.uint16),
        ("rgba.tiff", (19, 30, 4), np.uint8),
        ("rgb.webp", (33, 18, 3), np.uint8),
        ("rgb.bmp", (5, 7, 3), np.uint8),
        ("UPPER.PNG", (6, 5, 3), np.uint8),
        ("pixel.png", (1, 1, 3), np.uint8),
        ("gray-pixel.png", (1, 1), np.uint8),
        ("row.png", (1, 70, 3), np.uint8),
        ("column.png", (66, 1, 4), np.uint8),
    ],
)
def test_every_kind_of_image_comes_back_in_its_kind(
    name: str, shape: tuple[int, ...], dtype: type, restore: Restore, tiny_onnx: Path
) -> None:
    pixels = noise(*shape, dtype=dtype)
    lossless = {"lossless": True} if name.endswith("webp") else {}
    source = save(name, pixels, **lossless)
    outcome = restore(name)
    assert (outcome.code, outcome.errors) == (0, []), outcome
    with me.Restorer(tiny_onnx) as restorer:
        expected = restorer(pixels)
    found = load(f"{source.stem}_restored{source.suffix}")
    assert (found.shape, found.dtype) == (pixels.shape, pixels.dtype)
    assert np.array_equal(found, expected)
    assert not np.array_equal(found, pixels), "the file was copied, not restored"
    if shape[-1] in (2, 4) and len(shape) == 3:
        assert np.array_equal(found[..., -1], pixels[..., -1])
    assert np.array_equal(load(source), pixels), "the source was changed"


def test_palette_and_one_bit_images_are_restored(restore: Restore) -> None:
    Image.fromarray(noise(20, 30, 3)).quantize(16).save("palette.png")
    Image.fromarray(noise(20, 30)).convert("1").save("one-bit.png")
    assert restore("palette.png", "one-bit.png").code == 0
    assert load("palette_restored.png").shape == (20, 30, 3)
    assert load("one-bit_restored.png").shape == (20, 30)


def test_statistics_reach_the_restorer(restore: Restore) -> None:
    pixels = noise(48, 101, 3)
    save("a.png", pixels)
    model = ["--model", "edge-s-denoise", "--tile", "48", "--halo", "8"]
    outcome = restore("a.png", *model, "--statistics", "frame", "--json")
    with me.Restorer("edge-s-denoise", tile=48, halo=8, statistics="frame") as restorer:
        assert np.array_equal(load("a_restored.png"), restorer(pixels))
        assert outcome.json[0]["passes"] == restorer.timings.passes > 1
        assert outcome.json[0]["samples"] == restorer.timings.samples > 0
    outcome = restore("a.png", *model, "--statistics", "frame", "--overwrite")
    assert "3 tiles " in outcome.out
    assert f" {restorer.timings.passes} passes " in outcome.out
    outcome = restore("a.png", *model, "--statistics", "picture")
    assert outcome.code == 2
    assert "'picture'" in outcome.err


def test_the_first_model_that_fits_is_taken(
    tiny_onnx: Path,
    trt: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    save("a.png")
    large = write_plan(tmp_path, {"activation_bytes": 2**21})
    command = ("restore", "a.png", "--overwrite", "--tile", "64", "-m", large)
    limit = ("--memory-limit", "1.5MiB")
    assert "no engine fits memory_limit=1,572,864 bytes" in run(capfd, *command, *limit).only_error
    outcome = run(capfd, *command, "-m", tiny_onnx, *limit)
    assert (outcome.code, outcome.err) == (0, "")
    with me.Restorer(tiny_onnx, tile=64) as restorer:
        assert np.array_equal(load("a_restored.png"), restorer(load("a.png")))
    assert "only (8, 12)" in run(capfd, *command, "-m", tiny_onnx).only_error


def test_a_memory_limit_is_the_automatic_tile_s(restore: Restore, tiny_onnx: Path) -> None:
    save("a.png", noise(150, 160, 3))
    bytes_per_pixel = me.OnnxEngine(tiny_onnx).facts.bytes_per_pixel
    assert bytes_per_pixel is not None
    tile_128 = int(ENGINE_OVERHEAD * bytes_per_pixel * 128**2) + 1
    tiles = [
        restore("a.png", "--json", "--overwrite", "--memory-limit", limit).json[0]["tiles"]
        for limit in ("1GiB", "1024MiB", "1gb", f"{tile_128}B", tile_128)
    ]
    assert tiles == [1, 1, 1, 4, 4]


def test_a_memory_limit_that_nothing_fits_is_an_error(restore: Restore) -> None:
    save("a.png")
    error = restore("a.png", "--memory-limit", "1KiB").only_error
    assert "memory_limit=1,024 bytes" in error
    assert "128x128" in error or "64x64" in error
    assert not Path("a_restored.png").exists()


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1KiB", 2**10),
        ("1.5 MiB", 3 * 2**19),
        ("2GiB", 2**31),
        ("1tib", 2**40),
        ("2kB", 2000),
        ("3MB", 3_000_000),
        ("1.5GB", 1_500_000_000),
        ("7B", 7),
    ],
)
def test_units_of_memory(text: str, size: int) -> None:
    assert read_bytes(text) == size


def test_tiling_options_reach_the_restorer(restore: Restore, tiny_onnx: Path) -> None:
    pixels = noise(70, 101, 3)
    save("a.png", pixels)
    outcome = restore("a.png", "--tile", "32x48", "--halo", "4", "--blend", "6", "--json")
    with me.Restorer(tiny_onnx, tile=(32, 48), halo=4, blend=6) as restorer:
        assert np.array_equal(load("a_restored.png"), restorer(pixels))
        assert outcome.json[0]["tiles"] == restorer.timings.tiles > 4
    outcome = restore("a.png", "--tile", "none", "--threads", "1", "--overwrite", "--json")
    assert outcome.json[0]["tiles"] == 1


def test_results_say_where_and_how_long(restore: Restore) -> None:
    save("a.png", noise(21, 34, 3))
    save("b.png", noise(9, 8, 3))
    lines = restore("a.png", "b.png").out.splitlines()
    assert lines[0].startswith("a.png -> a_restored.png  34x21  1 tile ")
    assert lines[1].startswith("b.png -> b_restored.png  8x9  1 tile ")
    assert lines[2] == "2 of 2 restored"
    (result,) = restore("a.png", "--overwrite", "--json").json
    assert (result["width"], result["height"], result["tiles"]) == (34, 21, 1)
    assert min(result[name] for name in ("load_ms", "engine_ms", "store_ms")) > 0


@pytest.mark.parametrize("name", ["photo[final].png", "[red]a.png", "a:smile:.png", "a [b.png"])
def test_names_are_printed_as_they_are(name: str, restore: Restore) -> None:
    source = save(name)
    outcome = restore(name)
    assert outcome.out.startswith(f"{name} -> {source.stem}_restored.png "), outcome
    assert restore(name).only_error.startswith(f"{source.stem}_restored.png exists")


def test_nothing_but_errors_is_printed_on_a_standard_error_that_is_no_terminal(
    restore: Restore,
) -> None:
    save("a.png")
    assert restore("a.png").err == ""


# Orientation, colour profile, comparison


def marked() -> np.ndarray:
    """One bright corner, so that any turn or mirror image shows; (20, 36, 3)."""
    pixels = np.full((20, 36, 3), 20, np.uint8)
    pixels[:10, :18] = 230
    return pixels


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_orientation_text_and_profile_are_kept(suffix: str, restore: Restore) -> None:
    exif = Image.Exif()
    exif[ORIENTATION], exif[DESCRIPTION] = QUARTER_TURN, "a test"
    save(f"a.{suffix}", marked(), exif=exif, icc_profile=ICC_PROFILE)
    outcome = restore(f"a.{suffix}")
    assert (outcome.code, outcome.errors) == (0, [])
    with Image.open(f"a_restored.{suffix}") as image:
        assert image.getexif()[DESCRIPTION] == "a test"
        assert image.info["icc_profile"] == ICC_PROFILE
    before, after = upright(f"a.{suffix}"), upright(f"a_restored.{suffix}")
    assert before.shape == after.shape == (36, 20, 3)
    likeness = np.corrcoef(before.ravel(), after.ravel())[0, 1]
    assert likeness > 0.8, f"correlation {likeness:.2f}: turned otherwise than the source"


def test_images_without_exif_get_none(restore: Restore) -> None:
    save("a.png")
    save("a.jpg")
    restore("a.png", "a.jpg")
    for name in ("a_restored.png", "a_restored.jpg"):
        with Image.open(name) as image:
            assert not image.getexif()
            assert "icc_profile" not in image.info


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_compare_shows_both_upright(suffix: str, restore: Restore) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = QUARTER_TURN
    source = save(f"a.{suffix}", marked(), exif=exif)
    outcome = restore(source, "--compare")
    assert (outcome.code, outcome.errors) == (0, [])
    before, after = halves("a_compare.png")
    assert np.array_equal(before, upright(source))
    result = upright(f"a_restored.{suffix}")
    assert after.shape == result.shape
    loss = np.abs(after.astype(int) - result).mean()
    assert loss <= (3 if suffix == "jpg" else 0)


@pytest.mark.parametrize(("shape", "dtype"), [((9, 14), np.uint16), ((9, 14, 4), np.uint8)])
def test_compare_of_deep_and_transparent_images(
    shape: tuple[int, ...], dtype: type, restore: Restore
) -> None:
    save("a.png", noise(*shape, dtype=dtype))
    assert restore("a.png", "--compare").code == 0
    before, after = halves("a_compare.png")
    assert before.shape == after.shape == (9, 14, 3)
    assert not np.array_equal(before, after)
