"""``mirnet-edge restore``: what is read, what is written where, and what happens when it fails."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from fake_tensorrt import write_plan
from PIL import Image, ImageCms, ImageOps
from test_cli import COMMAND, ENVIRONMENT, Outcome, run

import mirnet_edge as me

ORIENTATION, DESCRIPTION = 0x0112, 0x010E
QUARTER_TURN = 6
ICC_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

Restore = Callable[..., Outcome]


@pytest.fixture
def restore(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> Restore:
    """Calls ``mirnet-edge restore`` in an empty folder, with the tiny model where none is named."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Outcome:
        named = {"-m", "--model"} & {str(argument) for argument in arguments}
        return run(capfd, "restore", *([] if named else ["-m", tiny_onnx]), *arguments)

    return call


def noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    """Seeded random pixels."""
    random = np.random.Generator(np.random.PCG64(shape))
    return random.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def save(path: str | Path, pixels: np.ndarray | None = None, **options: Any) -> Path:
    """Write an image with Pillow alone; small noise by default."""
    Image.fromarray(noise(21, 34, 3) if pixels is None else pixels).save(path, **options)
    return Path(path)


def load(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def upright(path: str | Path) -> np.ndarray:
    """As a viewer shows it."""
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def names(folder: Path) -> list[str]:
    """Of all files below a folder, hidden ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def halves(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Both pictures of a comparison, after checking the white line between them."""
    picture = load(path)
    width = (picture.shape[1] - 4) // 2
    assert picture.shape[1] == 2 * width + 4
    assert (picture[:, width : width + 4] == 255).all()
    return picture[:, :width], picture[:, width + 4 :]


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
    assert f"3 tiles  {restorer.timings.passes} passes " in outcome.out
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


def test_a_memory_limit_is_the_automatic_tile_s(restore: Restore) -> None:
    save("a.png", noise(150, 160, 3))
    tiles = [
        restore("a.png", "--json", "--overwrite", "--memory-limit", limit).json[0]["tiles"]
        for limit in ("1GiB", "1024MiB", 13 * 2**20)
    ]
    assert tiles == [1, 1, 4]
    error = restore("a.png", "--overwrite", "--memory-limit", "1KiB").only_error
    assert "memory_limit=1,024 bytes: a tile of 64x64 pixels takes about" in error


def test_tiling_options_reach_the_restorer(restore: Restore, tiny_onnx: Path) -> None:
    pixels = noise(70, 101, 3)
    save("a.png", pixels)
    outcome = restore("a.png", "--tile", "32x48", "--halo", "4", "--blend", "6", "--json")
    with me.Restorer(tiny_onnx, tile=(32, 48), halo=4, blend=6) as restorer:
        assert np.array_equal(load("a_restored.png"), restorer(pixels))
        assert outcome.json[0]["tiles"] == restorer.timings.tiles > 4
    outcome = restore("a.png", "--tile", "none", "--threads", "1", "--overwrite", "--json")
    assert outcome.json[0]["tiles"] == 1


def test_several_files_folders_and_globs(restore: Restore, tmp_path: Path) -> None:
    for folder in ("one", "two", "two/below", "three"):
        Path(folder).mkdir()
    for name in ("a.png", "one/b.png", "one/c.jpg", "two/d.png", "two/below/e.png", "three/f.png"):
        save(name)
    Path("one/notes.txt").write_text("not an image")
    before = names(tmp_path)
    outcome = restore("a.png", "one", "t*/*.png", "a.png", "--json")
    assert outcome.code == 0
    inputs = ["a.png", "one/b.png", "one/c.jpg", "three/f.png", "two/d.png"]
    assert [result["input"] for result in outcome.json] == inputs
    outputs = [result["output"] for result in outcome.json]
    assert outputs == [
        "a_restored.png",
        "one/b_restored.png",
        "one/c_restored.jpg",
        "three/f_restored.png",
        "two/d_restored.png",
    ]
    assert names(tmp_path) == sorted(before + outputs)


def test_recursive_glob(restore: Restore) -> None:
    Path("x/y").mkdir(parents=True)
    save("x/a.png")
    save("x/y/b.png")
    outcome = restore("x/**/*.png", "--json")
    assert [result["input"] for result in outcome.json] == ["x/a.png", "x/y/b.png"]


def test_output_folder_and_output_file(restore: Restore) -> None:
    Path("out").mkdir()
    save("a.png")
    save("b.jpg")
    assert restore("a.png", "b.jpg", "-o", "out").code == 0
    assert names(Path("out")) == ["a_restored.png", "b_restored.jpg"]
    assert restore("a.png", "-o", "out/other.bmp", "--compare").code == 0
    assert np.array_equal(load("out/other.bmp"), load("out/a_restored.png"))
    assert names(Path("out")) == ["a_compare.png", "a_restored.png", "b_restored.jpg", "other.bmp"]


def test_a_folder_may_look_like_an_image_name(restore: Restore) -> None:
    Path("out.png").mkdir()
    save("a.png")
    assert restore("a.png", "-o", "out.png").code == 0
    assert names(Path("out.png")) == ["a_restored.png"]


def test_results_say_where_and_how_long(restore: Restore) -> None:
    save("a.png", noise(21, 34, 3))
    save("b.png", noise(9, 8, 3))
    lines = restore("a.png", "b.png").out.splitlines()
    assert lines[0].startswith("a.png -> a_restored.png  34x21  1 tiles ")
    assert lines[1].startswith("b.png -> b_restored.png  8x9  1 tiles ")
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


# Files that are there already


def test_existing_results_are_refused_and_stay_untouched(restore: Restore) -> None:
    save("a.png")
    result = Path("a_restored.png")
    result.write_bytes(b"mine")
    assert restore("a.png").only_error.startswith("a_restored.png exists; ")
    assert result.read_bytes() == b"mine"
    assert restore("a.png", "--overwrite").code == 0
    assert load(result).shape == (21, 34, 3)


def test_existing_comparison_is_refused_before_anything_is_written(
    restore: Restore, tmp_path: Path
) -> None:
    save("a.png")
    Path("a_compare.png").write_bytes(b"mine")
    assert "a_compare.png exists; " in restore("a.png", "--compare").only_error
    assert names(tmp_path) == ["a.png", "a_compare.png"]
    assert Path("a_compare.png").read_bytes() == b"mine"


def test_source_is_replaced_only_when_asked(restore: Restore) -> None:
    source = save("a.png")
    original = source.read_bytes()
    assert restore("a.png", "-o", "a.png").code == 1
    assert source.read_bytes() == original
    assert restore("a.png", "-o", "a.png", "--overwrite").code == 0
    assert source.read_bytes() != original


def test_results_in_a_folder_are_not_restored_again(restore: Restore, tmp_path: Path) -> None:
    save("a.png")
    save("b.jpg")
    restore(tmp_path, "--compare")
    first = names(tmp_path)
    for spec in (tmp_path, "*.*"):
        outcome = restore(spec, "--compare", "--overwrite", "--json")
        assert [Path(result["input"]).name for result in outcome.json] == ["a.png", "b.jpg"]
        assert names(tmp_path) == first


@pytest.mark.parametrize("spelled", ["a_restored.png", "./a_restored.png", "b/../a_restored.png"])
def test_an_earlier_result_named_by_itself_is_restored(spelled: str, restore: Restore) -> None:
    Path("b").mkdir()
    save("a_restored.png")
    outcome = restore(spelled)
    assert (outcome.code, outcome.errors) == (0, [])
    assert Path("a_restored_restored.png").is_file(), outcome


def test_two_inputs_with_one_target_are_refused(restore: Restore, tmp_path: Path) -> None:
    for folder in ("one", "two", "out"):
        Path(folder).mkdir()
    save("one/a.png")
    save("two/a.png")
    error = restore("one", "two", "-o", "out").only_error
    for name in ("one/a.png", "two/a.png", "out/a_restored.png"):
        assert name in error
    assert names(tmp_path) == ["one/a.png", "two/a.png"]


def test_two_inputs_with_one_comparison_are_refused(restore: Restore, tmp_path: Path) -> None:
    save("a.png")
    save("a.jpg")
    error = restore("a.png", "a.jpg", "--compare", "--overwrite").only_error
    for name in ("a.png", "a.jpg", "a_compare.png"):
        assert name in error
    assert names(tmp_path) == ["a.jpg", "a.png"]


# Errors


@pytest.fixture
def mixed(restore: Restore) -> Path:
    """A folder of two good images and three that are none."""
    folder = Path("mixed")
    folder.mkdir()
    save(folder / "a-good.png")
    (folder / "b-text.png").write_text("hello")
    (folder / "c-cut.png").write_bytes((folder / "a-good.png").read_bytes()[:900])
    (folder / "d-empty.jpg").touch()
    save(folder / "e-good.jpg")
    return folder


def test_bad_files_are_reported_at_the_end_and_stop_nothing(mixed: Path, restore: Restore) -> None:
    before = names(mixed)
    outcome = restore(mixed)
    assert outcome.code == 1
    assert outcome.out.splitlines()[-1] == "2 of 5 restored"
    bad = ("b-text.png", "c-cut.png", "d-empty.jpg")
    assert len(outcome.errors) == 3
    for name, error in zip(bad, outcome.errors):
        assert error.startswith(f"mixed/{name}: ")
    assert names(mixed) == sorted([*before, "a-good_restored.png", "e-good_restored.jpg"])


def test_json_holds_the_errors(mixed: Path, restore: Restore) -> None:
    outcome = restore(mixed, "--json")
    assert outcome.code == 1
    assert ["error" in result for result in outcome.json] == [False, True, True, True, False]
    assert [result.get("error") for result in outcome.json[1:4]] == outcome.errors
    assert all(result["input"] and result["output"] for result in outcome.json)


def _damaged(model: Path, how: str) -> Path:
    whole = model.read_bytes()
    damaged = {
        "empty": b"",
        "text": b"not a model\n",
        "cut": whole[: len(whole) // 2],
        "zeros": whole[:2000] + bytes(len(whole) - 2000),
    }
    path = Path(f"{how}.onnx")
    path.write_bytes(damaged[how])
    return path


@pytest.mark.parametrize("how", ["empty", "text", "cut", "zeros"])
def test_damaged_model_is_one_clear_error(
    how: str, restore: Restore, tiny_onnx: Path, tmp_path: Path
) -> None:
    save("a.png")
    damaged = _damaged(tiny_onnx, how)
    assert restore("a.png", "-m", damaged).only_error.startswith(f"{damaged}: ")
    assert names(tmp_path) == ["a.png", str(damaged)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a.png", "--tile", "30"], ["30", "multiples of 4"]),
        (["a.png", "--tile", "64x30"], ["(64, 30)", "multiples of 4"]),
        (["a.png", "--tile", "0"], ["multiples of 4"]),
        (["a.png", "--tile", "28", "--halo", "16"], ["28", "halo=16", "larger tile"]),
        (["a.png", "--tile", "32", "--halo", "16"], ["32", "halo=16", "larger tile"]),
        (["a.png", "--tile", "48", "--halo", "16", "--blend", "8"], ["48", "blend=8"]),
        (["a.png", "--tile", "64", "--blend", "3"], ["blend=3", "even"]),
        (["a.png", "--provider", "AbacusExecutionProvider"], ["Abacus", "CPUExecutionProvider"]),
        (["a.png", "-m", "edge-xxl"], ["edge-xxl", "no such file", "mirnet-edge models"]),
        (["a.png", "-m", "a.png"], ["a.png", ".onnx", ".safetensors"]),
        (["missing.png"], ["missing.png", "no such file"]),
        (["*.webp"], ["*.webp", "no such file"]),
        (["empty"], ["empty", "no image"]),
        (["a.png", "-o", "nowhere"], ["no folder nowhere", "mkdir"]),
        (["a.png", "-o", "nowhere/a.png"], ["no folder nowhere", "mkdir"]),
        (["a.png", "b.png", "-o", "one.png"], ["one.png", "2 inputs"]),
    ],
    ids=lambda value: " ".join(value) if ".png" in value[0] else "",
)
def test_what_cannot_be_is_one_clear_error(
    arguments: list[str], said: list[str], restore: Restore, tmp_path: Path
) -> None:
    Path("empty").mkdir()
    save("a.png")
    save("b.png")
    error = restore(*arguments).only_error
    for words in said:
        assert words in error
    assert names(tmp_path) == ["a.png", "b.png"]


def test_formats_that_cannot_be_written_are_named(restore: Restore, tmp_path: Path) -> None:
    save("a.gif")
    error = restore("a.gif").only_error
    assert "a_restored.gif" in error
    assert ".png" in error
    save("b.png", noise(8, 8, 4))
    assert "b.jpg" in restore("b.png", "-o", "b.jpg").only_error
    assert names(tmp_path) == ["a.gif", "b.png"]


# What needs a process of its own


OBEY_PERMISSIONS = """
import ctypes
drop_from_bounding_set, dac_override = 24, 1
if os.geteuid() == 0 and ctypes.CDLL(None).prctl(drop_from_bounding_set, dac_override, 0, 0, 0):
    sys.exit("root may write anywhere here, and may not give that up")
"""
SMALL_FILES = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (16384, 16384))
"""
HEED_CTRL_C = """
import signal
signal.signal(signal.SIGINT, signal.SIG_DFL)
"""


def start(command: Sequence[object], first: str, **options: Any) -> subprocess.Popen[str]:
    """Start a program in a process that runs the Python code ``first`` before, which is what
    ``preexec_fn`` would do, but that is no longer allowed where threads are running."""
    launcher = f"import os, sys\n{first}\nos.execvp(sys.argv[1], sys.argv[1:])"
    return subprocess.Popen(
        [sys.executable, "-c", launcher, *map(str, command)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finish(process: subprocess.Popen[str]) -> Outcome:
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in err, err
    return Outcome(process.returncode, out, err)


@pytest.fixture
def read_only(tmp_path: Path) -> Path:
    folder = tmp_path / "read-only"
    folder.mkdir()
    folder.chmod(0o555)
    touched = finish(start(["touch", folder / "x"], OBEY_PERMISSIONS))
    if touched.code == 0 or "root may" in touched.err:
        pytest.skip(touched.err or "permissions of folders are not enforced here")
    return folder


def test_read_only_folder_is_refused(read_only: Path, tiny_onnx: Path, tmp_path: Path) -> None:
    source = save(tmp_path / "a.png")
    command = [*COMMAND, "restore", source, "-m", tiny_onnx, "-o", read_only]
    assert str(read_only) in finish(start(command, OBEY_PERMISSIONS)).only_error
    assert names(tmp_path) == ["a.png"]


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "bmp"])
def test_full_disk_leaves_nothing_behind(suffix: str, tiny_onnx: Path, tmp_path: Path) -> None:
    save(tmp_path / f"a.{suffix}", noise(200, 300, 3))
    save(tmp_path / "small.png")
    command = [*COMMAND, "restore", tmp_path, "-m", tiny_onnx, "--json"]
    outcome = finish(start(command, SMALL_FILES))
    assert outcome.code == 1
    assert names(tmp_path) == [f"a.{suffix}", "small.png", "small_restored.png"]
    (error,) = outcome.errors
    assert error.startswith(f"cannot write {tmp_path / f'a_restored.{suffix}'}: no space left")
    assert [result.get("error") for result in outcome.json] == [error, None]


def test_interruption_leaves_whole_files_only(tmp_path: Path) -> None:
    size, count = (512, 512), 8
    source = save(tmp_path / "0.png", noise(*size, 3))
    for index in range(1, count):
        shutil.copy(source, tmp_path / f"{index}.png")
    command = [*COMMAND, "restore", tmp_path, "--threads", "1"]
    process = start(command, HEED_CTRL_C, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "0_restored.png").exists() and process.poll() is None:
            assert time.monotonic() < deadline, "no result within a minute"
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        outcome = finish(process)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert (outcome.code, outcome.out) == (130, ""), outcome
    assert "interrupted" in outcome.errors[0]
    results = sorted(tmp_path.glob("*_restored.png"))
    assert 1 <= len(results) < count
    assert [path.name for path in results] == [f"{i}_restored.png" for i in range(len(results))]
    for path in results:
        assert load(path).shape == (*size, 3)
    left_over = set(tmp_path.iterdir()) - {tmp_path / f"{index}.png" for index in range(count)}
    assert left_over == set(results)


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_terminal_gets_its_cursor_back(options: list[str], tiny_onnx: Path, tmp_path: Path) -> None:
    source = save(tmp_path / "a.png")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "restore", "-m", tiny_onnx, source, *options],
        env={**ENVIRONMENT, "TERM": "xterm"},
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    shown = _drain(ours)
    assert process.wait(timeout=60) == 0, shown
    assert ("restoring" in shown) == (not options)
    assert shown.rfind("\x1b[?25h") >= shown.rfind("\x1b[?25l"), f"cursor left hidden: {shown!r}"


def _drain(descriptor: int) -> str:
    """All that is written to the other end of a pseudoterminal until it is closed."""
    received = b""
    try:
        while block := os.read(descriptor, 4096):
            received += block
    except OSError:  # Linux: EIO once the other end is closed and all is read
        pass
    finally:
        os.close(descriptor)
    return received.decode()
