"""``mirnet-edge restore`` of animations and of TIFFs with pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from image_samples import exif_block, srgb, tags
from PIL import Image, ImageSequence
from restoring import Restore, halves, names, noise
from restoring import restore as restore

import mirnet_edge as me

MOVING = (".gif", ".webp", ".png", ".apng", ".avif")
DURATIONS = [100, 50, 200, 70]
LOOPS = 3


def frames(count: int = 4, clear: bool = False) -> list[np.ndarray]:
    """A gradient that moves, of few colours; with ``clear`` a hole that moves over it."""
    found = []
    for number in range(count):
        y, x = np.mgrid[:30, :41]
        frame = np.stack([8 * (y // 4) + 20 * number, 4 * (x // 4), 30 + 0 * x], axis=2)
        alpha = np.full((30, 41), 255)
        if clear:
            alpha[5 + 2 * number : 15 + 2 * number, 5:15] = 0
        found.append(np.dstack([frame, alpha]).astype(np.uint8))
    return found


def save_moving(path: str, given: list[np.ndarray], **more: Any) -> None:
    clear = any((frame[..., 3] < 255).any() for frame in given)
    pictures = [Image.fromarray(frame if clear else frame[..., :3]) for frame in given]
    options: dict[str, Any] = {"lossless": True} if path.endswith(".webp") else {}
    if path.endswith(".gif") and clear:
        options["disposal"] = 2
    form = "PNG" if path.endswith(".apng") else None
    pictures[0].save(
        path,
        form,
        save_all=True,
        append_images=pictures[1:],
        loop=LOOPS,
        **{"duration": DURATIONS[: len(given)], **options, **more},
    )


def seen(path: str | Path) -> tuple[list[np.ndarray], list[float], Any]:
    """What a viewer shows: frames as RGBA, durations in ms, loops."""
    with Image.open(path) as image:
        shown, durations = [], []
        for frame in ImageSequence.Iterator(image):
            shown.append(np.asarray(frame.convert("RGBA")))
            durations.append(frame.info.get("duration", 0))
        return shown, durations, image.info.get("loop")


@pytest.mark.parametrize("clear", [False, True])
@pytest.mark.parametrize("suffix", MOVING)
def test_every_frame_is_restored(
    suffix: str, clear: bool, restore: Restore, tiny_onnx: Path
) -> None:
    save_moving(f"a{suffix}", frames(clear=clear))
    given, _, _ = seen(f"a{suffix}")
    outcome = restore(f"a{suffix}", "--compare", "--json")
    assert (outcome.code, outcome.errors) == (0, []), outcome
    assert (outcome.json[0]["frames"], outcome.json[0]["width"]) == (4, 41)
    found, durations, loops = seen(f"a_restored{suffix}")
    assert (len(found), durations) == (4, DURATIONS)
    assert loops == (None if suffix == ".avif" else LOOPS)
    with me.Restorer(tiny_onnx) as restorer:
        expected = [restorer(frame) for frame in given]
    for frame, wanted in zip(found, expected):
        visible = wanted[..., 3] > 127
        assert np.array_equal(frame[..., 3] > 127, visible)
        loss = np.abs(frame[visible].astype(int) - wanted[visible])[:, :3].mean()
        # 255 colours a frame, and AVIF that is never exact; the tiny model makes noise of frames.
        assert loss <= {".gif": 4, ".avif": 4}.get(suffix, 0), loss
    before, after = halves("a_compare.png")
    assert before.shape == after.shape == (30, 41, 3)


@pytest.mark.parametrize("form", ["gif", "webp", "png", "avif"])
def test_an_animation_may_change_its_format(form: str, restore: Restore) -> None:
    save_moving("a.webp", frames())
    outcome = restore("a.webp", "--format", form)
    assert (outcome.code, outcome.errors) == (0, [])
    found, durations, _ = seen(f"a_restored.{form}")
    assert (len(found), durations) == (4, DURATIONS)


@pytest.mark.parametrize("form", ["jpg", "tif", "bmp"])
def test_formats_of_one_picture_are_refused(form: str, restore: Restore, tmp_path: Path) -> None:
    save_moving("a.gif", frames())
    error = restore("a.gif", "--format", form).only_error
    assert f".{form} holds no 4 frames; use one of .png, .webp" in error
    assert names(tmp_path) == ["a.gif"]


def test_a_cover_that_is_no_frame_stays_one(restore: Restore) -> None:
    save_moving("a.png", frames(), default_image=True, duration=DURATIONS[1:])
    assert restore("a.png").code == 0
    with Image.open("a_restored.png") as image:
        assert (image.n_frames, image.info["default_image"]) == (4, True)
    assert restore("a.png", "--format", "gif").code == 0
    assert seen("a_restored.gif")[1] == DURATIONS[1:]


def test_what_an_animation_carries(restore: Restore) -> None:
    save_moving("a.webp", frames(), exif=exif_block(1, lens="50 mm"), icc_profile=srgb())
    assert restore("a.webp").code == 0
    with Image.open("a_restored.webp") as image:
        assert image.info["icc_profile"] == srgb()
        assert tags(image.info["exif"]) == (1, "a test", "50 mm")


def test_short_durations_keep_their_sum(restore: Restore) -> None:
    """GIF counts in hundredths of a second."""
    given = frames(12)
    pictures = [Image.fromarray(frame[..., :3]) for frame in given]
    pictures[0].save("a.webp", save_all=True, append_images=pictures[1:], duration=33)
    assert restore("a.webp", "--format", "gif").code == 0
    durations = seen("a_restored.gif")[1]
    assert abs(sum(durations) - 12 * 33) <= 5
    assert set(durations) <= {30, 40}


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tif"])
def test_a_truncated_one_leaves_nothing(suffix: str, restore: Restore, tmp_path: Path) -> None:
    rough = [np.dstack([noise(30, 41, 3), np.full((30, 41), 255, np.uint8)]) for _ in range(4)]
    for number, frame in enumerate(rough):
        frame[number, :, 0] = 0
    save_moving(f"a{suffix}", rough)
    data = Path(f"a{suffix}").read_bytes()
    for share in (0.3, 0.6, 0.9):
        Path(f"a{suffix}").write_bytes(data[: int(share * len(data))])
        outcome = restore(f"a{suffix}", "--json", "--overwrite")
        if outcome.code == 0:  # GIF says nowhere how many frames there are
            assert outcome.json[0].get("frames", 1) < 4
            Path(f"a_restored{suffix}").unlink()
        else:
            assert names(tmp_path) == [f"a{suffix}"]


def test_pages_are_pictures_of_their_own(restore: Restore, tiny_onnx: Path) -> None:
    pages = [noise(21, 34, 3), noise(9, 14), noise(12, 10, 3, dtype=np.uint16)]
    with tifffile.TiffWriter("a.tif") as tiff:
        for page in pages:
            tiff.write(page, photometric="rgb" if page.ndim == 3 else None)
    outcome = restore("a.tif", "--json")
    assert (outcome.code, outcome.json[0]["frames"]) == (0, 3), outcome
    with tifffile.TiffFile("a_restored.tif") as tiff, me.Restorer(tiny_onnx) as restorer:
        found = [page.asarray() for page in tiff.pages]
        for page, given in zip(found, pages, strict=True):
            assert page.dtype == given.dtype
            np.testing.assert_array_equal(page, restorer(given))
    assert "holds no 3 pages; use .tif" in restore("a.tif", "--format", "png").only_error
