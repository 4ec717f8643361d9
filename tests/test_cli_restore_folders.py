"""``mirnet-edge restore`` of folders: subfolders, names, formats, pipes, and what is said."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import COMMAND, ENVIRONMENT, run
from PIL import Image
from restoring import Restore, load, names, noise, save
from restoring import restore as restore

from mirnet_edge.cli import cli


@pytest.fixture
def album(restore: Restore) -> Path:
    """Pictures in folders of folders, and what is none."""
    for folder in ("in/x/deep", "in/y", "in/.hidden"):
        Path(folder).mkdir(parents=True)
    for name in ("in/a.png", "in/x/a.png", "in/x/deep/b.jpg", "in/y/c.webp", "in/.hidden/h.png"):
        save(name)
    Path("in/x/notes.txt").write_text("none")
    Path("in/x/lost.png").symlink_to("nowhere.png")
    Path("in/loop").symlink_to(Path("in").absolute())
    return Path("in")


# Subfolders


def test_subfolders_are_kept(album: Path, restore: Restore) -> None:
    outcome = restore(album, "--recursive", "-o", "new/")
    assert outcome.code == 0
    kept = ["a_restored.png", "x/a_restored.png", "x/deep/b_restored.jpg", "y/c_restored.webp"]
    assert names(Path("new")) == kept
    (line,) = outcome.err.splitlines()
    for said in ("left out of in: ", "other formats: x/notes.txt", "broken links: x/lost.png",
                 "links to folders: loop"):  # fmt: skip
        assert said in line
    assert ".hidden" not in line
    assert outcome.out.splitlines()[-1] == "4 of 4 restored"


@pytest.mark.parametrize("suffix", ["", "_restored", "-clean"])
def test_results_within_an_input_are_no_input(suffix: str, album: Path, restore: Restore) -> None:
    """Else the results of a run that was killed would be restored by the next."""
    options = ("-r", "-o", "in/new", "--suffix", suffix, "--skip-existing", "--json")
    first = restore(album, *options)
    assert (first.code, first.summary["restored"]) == (0, 4)
    before = names(album)
    again = restore(album, *options)
    assert (again.summary["restored"], again.summary["skipped"]) == (0, 4)
    assert names(album) == before
    left = [line["ignored"] for line in again.lines if "ignored" in line]
    assert "in/new" in left


def test_a_folder_that_cannot_be_read_ends_no_run(
    album: Path, restore: Restore, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("/y"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    outcome = restore(album, "-r", "-o", "new")
    assert (outcome.code, len(names(Path("new")))) == (0, 3)
    assert "folders that cannot be read: y" in outcome.err


def test_results_beside_inputs_are_known_by_their_suffix(album: Path, restore: Restore) -> None:
    assert restore(album, "-r", "--suffix", "-clean").code == 0
    before = names(album)
    outcome = restore(album, "-r", "--suffix", "-clean", "--overwrite", "--json")
    assert (outcome.summary["restored"], names(album)) == (4, before)
    reasons = {line["reason"] for line in outcome.lines if "ignored" in line}
    assert "by its name the result of an earlier run" in reasons


# Names and formats


def test_names_may_be_kept_in_another_folder(album: Path, restore: Restore) -> None:
    assert restore(album, "-r", "-o", "new", "--suffix", "").code == 0
    assert names(Path("new")) == ["a.png", "x/a.png", "x/deep/b.jpg", "y/c.webp"]
    outcome = restore(album, "--suffix", "")
    assert (outcome.code, "give --output" in outcome.err) == (2, True)
    assert restore(album, "--suffix", "a/b").code == 2


def test_one_format_for_all(restore: Restore) -> None:
    pixels = noise(21, 34, 3)
    for name in ("a.png", "a.jpg", "b.bmp"):
        save(name, pixels)
    assert restore("a.png", "a.jpg", "b.bmp", "-o", "new", "--format", "webp").code == 0
    assert names(Path("new")) == ["a.jpg_restored.webp", "a.png_restored.webp", "b_restored.webp"]
    assert np.array_equal(load("new/a.png_restored.webp"), load("new/b_restored.webp"))


@pytest.mark.parametrize("form", ["jpg", "webp", "avif", "jxl"])
def test_quality(form: str, restore: Restore) -> None:
    save("a.png", noise(60, 80, 3))
    sizes = []
    for quality in (20, 90):
        options = ("--format", form, "--quality", quality, "--overwrite")
        assert restore("a.png", *options).code == 0
        sizes.append(Path(f"a_restored.{form}").stat().st_size)
    assert sizes[0] < 0.7 * sizes[1]
    assert restore("a.png", "--quality", "101").code == 2


def test_deep_pictures_keep_their_bits_or_fit_the_format(restore: Restore) -> None:
    import imagecodecs

    pixels = noise(21, 34, 3, dtype=np.uint16)
    Path("a.png").write_bytes(imagecodecs.png_encode(pixels))
    assert restore("a.png").code == 0
    found = imagecodecs.png_decode(Path("a_restored.png").read_bytes())
    assert (found.dtype, found.shape) == (np.uint16, (21, 34, 3))
    assert len(np.unique(found & 0xFF)) > 200, "the lower bits are empty"
    assert restore("a.png", "--format", "jpg", "--compare").code == 0
    assert load("a_restored.jpg").shape == (21, 34, 3)


@pytest.mark.parametrize("order", ["<", ">"])
def test_pixel_dimensions_follow_an_enlargement(order: str, restore: Restore) -> None:
    exif = Image.Exif()
    exif.endian = order
    exif[0x0112], exif[0x010F] = 6, "a camera"
    camera = exif.get_ifd(0x8769)
    camera[40962], camera[40963], camera[0x927C] = 34, 21, b"a maker's note"
    sources = ("a.jpg", "a.png", "a.tif", "a.webp")
    for name in sources:
        save(name, noise(21, 34, 3), exif=exif.tobytes())
    assert restore(*sources, "--suffix", "_x2", "-m", "edge-m-x2").code == 0
    for name in sources:
        with Image.open(name.replace(".", "_x2.")) as image:
            found = image.getexif()
            inner = found.get_ifd(0x8769)
            # As stored; Pillow turns TIFFs, and drops the tag that said so.
            assert (inner[40962], inner[40963]) == image.size, name
            assert sorted(image.size) == [42, 68]
            assert inner[0x927C] == b"a maker's note"
            assert found[0x010F] == "a camera"


def test_max_pixels(restore: Restore) -> None:
    save("a.png", noise(20, 30, 3))
    outcome = restore("a.png", "--max-pixels", "500")
    assert "20 are 600 pixels, more than --max-pixels 500" in outcome.only_error
    assert restore("a.png", "--max-pixels", "0.6k").code == 0
    Image.new("1", (9000, 9000)).save("black.gif")
    refused = restore("black.gif", "--max-pixels", "80M").only_error
    assert "more than --max-pixels 80,000,000" in refused
    assert restore("a.png", "--max-pixels", "many").code == 2


# Pipes


def piped(data: bytes, *arguments: object, folder: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, "restore", *map(str, arguments)],
        input=data,
        capture_output=True,
        env=ENVIRONMENT,
        cwd=folder,
        timeout=60,
    )


def test_standard_input_and_output(tiny_onnx: Path, tmp_path: Path, restore: Restore) -> None:
    save("a.png", noise(21, 34, 3))
    assert restore("a.png").code == 0
    data = Path("a.png").read_bytes()
    done = piped(data, "-", "-m", tiny_onnx, folder=tmp_path)
    assert done.returncode == 0
    assert done.stdout == Path("a_restored.png").read_bytes()
    assert done.stderr.decode().startswith("- -> -  34x21  1 tile")
    done = piped(b"", "a.png", "-m", tiny_onnx, "-o", "-", "--format", "bmp", "-q", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    with Image.open(io.BytesIO(done.stdout)) as image:
        assert (image.format, image.size) == ("BMP", (34, 21))
        assert np.array_equal(np.asarray(image), load("a_restored.png"))
    done = piped(data, "-", "-m", tiny_onnx, "-o", "b.jpg", "--compare", folder=tmp_path)
    assert (done.returncode, done.stdout[:12]) == (0, b"- -> b.jpg  ")
    assert names(tmp_path) == ["a.png", "a_restored.png", "b.jpg", "b_compare.png"]
    done = piped(b"hello", "-", "-m", tiny_onnx, folder=tmp_path)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"standard input: 5 bytes in no image format" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-", "a.png"], "give it alone"),
        (["-", "-o", "new/"], "has no name"),
        (["-", "-o", "a.mp4"], "standard input takes pictures: give a video by its name"),
        (["-", "--compare"], "no place beside standard output"),
        (["a.png", "-o", "-", "--json"], "both go to standard output"),
        (["a.png", "-o", "-", "--compare"], "no place beside standard output"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_pipes_cannot_do_is_wrong_usage(
    arguments: list[str], said: str, restore: Restore
) -> None:
    save("a.png")
    outcome = restore(*arguments)
    assert (outcome.code, said in " ".join(outcome.err.split())) == (2, True), outcome


def test_two_files_do_not_fit_through_one_pipe(restore: Restore) -> None:
    save("a.png")
    save("b.png")
    assert "2 inputs" in restore("a.png", "b.png", "-o", "-").only_error


# What is said


def test_json_is_a_line_a_file(album: Path, restore: Restore) -> None:
    Path("in/bad.png").write_text("hello")
    outcome = restore(album, "-r", "-o", "new", "--json")
    assert outcome.code == 1
    summary = {"restored": 4, "skipped": 0, "failed": 1, "ignored": 3, "of": 5}
    assert outcome.summary == {**summary, "interrupted": False}
    assert {line["reason"] for line in outcome.lines if "ignored" in line} == {
        "no suffix of a picture or video",
        "a link to a file that is not there",
        "a link to a folder, which may lead back",
    }


def test_quiet_prints_errors_alone(album: Path, restore: Restore) -> None:
    outcome = restore(album, "-r", "-o", "new", "-q")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    Path("in/bad.png").write_text("hello")
    outcome = restore(album, "-r", "-o", "two", "-q")
    assert (outcome.code, outcome.out, len(outcome.errors)) == (1, "", 1)
    assert len(restore(album, "-r", "-o", "three", "-q", "--json").json) == 5


def test_verbose_prints_what_the_package_logs(restore: Restore) -> None:
    save("a.png")
    before = list(logging.getLogger("mirnet_edge").handlers)
    assert restore("a.png").err == ""
    outcome = restore("a.png", "--overwrite", "-v")
    cli.main(["-v", "info", "edge-s-denoise"], standalone_mode=False)
    assert logging.getLogger("mirnet_edge").level == logging.INFO
    logging.getLogger("mirnet_edge").setLevel(logging.NOTSET)
    assert "info: engine_choice: opening " in outcome.err
    assert "info: frames.images: a_restored.png: " in outcome.err
    assert "debug:" not in outcome.err
    assert "debug: frames.opened: a.png: PNG, RGB" in restore("a.png", "--overwrite", "-vv").err
    assert "a_restored.png was there" in restore("a.png", "--skip-existing", "-v").err
    assert restore("a.png", "--overwrite").err == "", "the setting of one run is not the next's"
    assert logging.getLogger("mirnet_edge").handlers == before


def test_every_command_has_both(capfd: pytest.CaptureFixture[str]) -> None:
    for command in (["restore"], ["models"], ["doctor"], []):
        outcome = run(capfd, *command, "--help")
        assert "--verbose" in outcome.out
        assert "--quiet" in outcome.out


# Shell completion


def completed(words: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", "from mirnet_edge.cli import main; main()"],
        env={
            **ENVIRONMENT,
            "_MIRNET_EDGE_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split(" ")) - 1),
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout.splitlines()


def test_shells_are_offered_models_files_and_options() -> None:
    assert "plain,edge-s-denoise" in completed("mirnet-edge restore a.png -m edge-s")
    assert "file,edge-s" in completed("mirnet-edge info edge-s")
    assert completed("mirnet-edge restore hol") == ["file,hol"]
    assert {"plain,jpg", "plain,jpeg"} <= set(completed("mirnet-edge restore a --format jp"))
    assert "plain,--skip-existing" in completed("mirnet-edge restore --sk")
