"""Image files of every format, written and read again, with what they carry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from image_samples import LOSSY, Pixels, exif_block, png, random_pixels, smooth_pixels, srgb, tags
from PIL import Image, ImageOps, JpegImagePlugin

from mirnet_edge.errors import OutputError
from mirnet_edge.frames.images import SUFFIXES, ImageFile, read_image, upright_rgb, write_image

# ---------------------------------------------------------------- round trips


@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_suffix(suffix: str, upper: bool, tmp_path: Path) -> None:
    pixels = smooth_pixels(23, 31)
    path = tmp_path / f"a{suffix.upper() if upper else suffix}"
    write_image(path, pixels)
    read = read_image(path)
    assert (read.pixels.shape, read.pixels.dtype) == ((23, 31, 3), np.uint8)
    tolerance = 6 if suffix in LOSSY else 0
    np.testing.assert_allclose(read.pixels.astype(int), pixels, atol=tolerance)
    assert read.icc_profile is None or suffix == ".jxl", "the plugin makes one of sRGB"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "pixels",
    [
        random_pixels(9, 11),
        random_pixels(9, 11, 2),
        random_pixels(9, 11, 4),
        random_pixels(9, 11, dtype=np.uint16),
        random_pixels(9, 11, 2, dtype=np.uint16),
        random_pixels(9, 11, 3, dtype=np.uint16),
        random_pixels(1, 1, 4, dtype=np.uint16),
        random_pixels(1, 1, 3),
        random_pixels(1, 40),
        random_pixels(40, 1, 4),
    ],
    ids=lambda pixels: f"{'x'.join(map(str, pixels.shape))}-{pixels.dtype}",
)
def test_written_exactly_or_refused(pixels: Pixels, suffix: str, tmp_path: Path) -> None:
    """WebP and AVIF have no gray: three equal channels stand for one."""
    path = tmp_path / f"a{suffix}"
    try:
        write_image(path, pixels)
    except OutputError:
        assert suffix != ".png", "it holds everything"
        assert list(tmp_path.iterdir()) == []
        return
    read = read_image(path).pixels
    if suffix in (".webp", ".avif") and (pixels.ndim == 2 or pixels.shape[2] == 2):
        planes = pixels.reshape(*pixels.shape[:2], -1)
        pixels = planes[:, :, [0, 0, 0, 1][: planes.shape[2] + 2]]
    if suffix in LOSSY:
        np.testing.assert_allclose(read.astype(int), pixels, atol=40)
        return
    assert read.dtype == pixels.dtype
    np.testing.assert_array_equal(read, pixels)


def test_alpha_into_jpeg_is_refused(tmp_path: Path) -> None:
    for channels in (2, 4):
        with pytest.raises(OutputError, match=r"cannot write .*a\.jpg: \.jpg does not hold"):
            write_image(tmp_path / "a.jpg", random_pixels(5, 7, channels))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((5, 7, 3), np.float32),
        np.zeros((5, 7, 5), np.uint8),
        np.zeros((2, 5, 7, 3), np.uint8),
    ],
    ids=lambda pixels: f"{pixels.ndim}d-{pixels.dtype}",
)
def test_pixels_no_file_holds(pixels: Pixels, tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        with pytest.raises(OutputError, match=rf"cannot write .*a{suffix}: "):
            write_image(tmp_path / f"a{suffix}", pixels)
    assert list(tmp_path.iterdir()) == []


def test_jpeg_keeps_colour_resolution(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg", smooth_pixels(24, 24))
    with Image.open(tmp_path / "a.jpg") as image:
        assert JpegImagePlugin.get_sampling(image) == 0, "4:4:4"


# ---------------------------------------------------------------- what a file carries


@pytest.mark.parametrize("target", [".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"])
@pytest.mark.parametrize("source", [".png", ".jpg", ".webp", ".tif"])
def test_exif_and_profile_are_kept(source: str, target: str, tmp_path: Path) -> None:
    original = tmp_path / f"original{source}"
    Image.fromarray(smooth_pixels(12, 20)).save(
        original, exif=exif_block(1, lens="50 mm"), icc_profile=srgb()
    )
    image = read_image(original)
    assert image.icc_profile == srgb()
    upright = {1, None}  # Pillow drops the tag of a TIFF
    assert tags(image.exif)[1:] == ("a test", "50 mm")
    assert tags(image.exif)[0] in upright
    restored = tmp_path / f"restored{target}"
    write_image(restored, image.pixels, like=image)
    read = read_image(restored)
    assert read.icc_profile == srgb()
    assert tags(read.exif)[1:] == ("a test", "50 mm")
    assert tags(read.exif)[0] in upright


@pytest.mark.parametrize("source", [".png", ".jpg", ".webp", ".tif"])
def test_a_rotated_photo_stays_as_it_looks(source: str, tmp_path: Path) -> None:
    """Pixels are as stored, the orientation stays beside them: every viewer sees the same."""
    stored = smooth_pixels(12, 20)
    for orientation in range(1, 9):
        original = tmp_path / f"{orientation}{source}"
        Image.fromarray(stored).save(original, exif=exif_block(orientation))
        with Image.open(original) as image:
            shown = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        assert shown.shape == ((20, 12, 3) if orientation > 4 else (12, 20, 3))
        read = read_image(original)
        np.testing.assert_array_equal(upright_rgb(read), shown, f"orientation {orientation}")
        for target in (".png", ".tif", ".webp"):
            restored = tmp_path / f"restored-{orientation}{target}"
            write_image(restored, read.pixels, like=read)
            with Image.open(restored) as image:
                again = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
            np.testing.assert_array_equal(again, shown, f"{orientation} to {target}")
        if source != ".tif":  # Pillow turns TIFFs and drops the tag
            assert read.pixels.shape == stored.shape, f"orientation {orientation}"


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.full((2, 3), 7, np.uint8), [7, 7, 7]),
        (np.full((2, 3), 0x1234, np.uint16), [0x12, 0x12, 0x12]),
        (np.full((2, 3, 2), [9, 0], np.uint8), [9, 9, 9]),
        (np.full((2, 3, 3), [1, 2, 3], np.uint8), [1, 2, 3]),
        (np.full((2, 3, 4), [1, 2, 3, 0], np.uint8), [1, 2, 3]),
    ],
    ids=lambda value: str(value.shape) if isinstance(value, np.ndarray) else "",
)
@pytest.mark.parametrize("exif", [None, exif_block(6)], ids=["plain", "rotated"])
def test_upright_rgb_of_every_kind(pixels: Pixels, expected: list[int], exif: bytes | None) -> None:
    upright = upright_rgb(ImageFile(pixels, exif))
    assert upright.dtype == np.uint8
    assert upright.shape == ((3, 2, 3) if exif else (2, 3, 3))
    assert (upright == expected).all()


def test_an_image_without_extras_carries_none(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(random_pixels(3, 4, 3)))
    read = read_image(tmp_path / "a.png")
    assert read.icc_profile is None
    assert tags(read.exif) == (None, None, None)


# ---------------------------------------------------------------- writing


def test_a_file_is_replaced_only_when_allowed(tmp_path: Path) -> None:
    path, pixels = tmp_path / "a.png", random_pixels(5, 7, 3)
    path.write_bytes(b"old")
    with pytest.raises(OutputError, match=r"a\.png exists; choose another name or allow"):
        write_image(path, pixels)
    assert path.read_bytes() == b"old"
    write_image(path, pixels, overwrite=True)
    np.testing.assert_array_equal(read_image(path).pixels, pixels)


@pytest.mark.parametrize("name", ["a", "a.xcf", "a.xyz", ".png", "a.png.part"])
def test_a_suffix_that_is_no_format(name: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"use one of \.png, \.jpg, .*\.bmp"):
        write_image(tmp_path / name, random_pixels(5, 7, 3))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_output_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="there is no folder"):
        write_image(tmp_path / "no" / "a.png", random_pixels(5, 7, 3))


def test_a_failed_write_keeps_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"old")
    with pytest.raises(OutputError):
        write_image(path, random_pixels(5, 7, 4), overwrite=True)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
