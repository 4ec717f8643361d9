"""Kinds of images: what becomes RGB, what stays exact, and all that are no still 8-bit image."""

from __future__ import annotations

import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from image_samples import chunk, exif_block, png, random_pixels, refusal, smooth_pixels, srgb, tags
from PIL import Image, ImageCms

from mirnet_edge.errors import ImageError
from mirnet_edge.frames.images import SUFFIXES, ImageFile, read_image, read_picture, write_image

# ---------------------------------------------------------------- kinds of images


def test_palette_becomes_rgb(tmp_path: Path) -> None:
    image = Image.fromarray(random_pixels(9, 11, 3)).quantize(8)
    image.save(tmp_path / "p.png")
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(read_image(tmp_path / "p.png").pixels, expected)


def test_transparent_palette_becomes_rgba(tmp_path: Path) -> None:
    image = Image.fromarray(random_pixels(9, 11, 3)).quantize(8)
    image.save(tmp_path / "p.png", transparency=2)
    pixels = read_image(tmp_path / "p.png").pixels
    np.testing.assert_array_equal(pixels[..., :3], np.asarray(image.convert("RGB")))
    np.testing.assert_array_equal(pixels[..., 3] == 0, np.asarray(image) == 2)
    assert (pixels[..., 3] == 0).any()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_transparent_colour_becomes_alpha(channels: int, tmp_path: Path) -> None:
    """PNG's tRNS chunk: one gray level or colour is transparent, without an alpha channel."""
    pixels = random_pixels(9, 11, channels)
    clear = pixels[4, 5]
    chunks = chunk(b"tRNS", clear.astype(">u2").tobytes())
    (tmp_path / "t.png").write_bytes(png(pixels, chunks))
    read = read_image(tmp_path / "t.png").pixels
    assert read.shape in ((9, 11, 2), (9, 11, 4)), "the transparency is lost"
    np.testing.assert_array_equal(read[..., -1] == 0, (pixels == clear).all(axis=2))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_one_bit_becomes_gray(suffix: str, tmp_path: Path) -> None:
    bits = random_pixels(9, 11) > 127
    Image.fromarray(bits).save(tmp_path / f"b{suffix}")
    pixels = read_image(tmp_path / f"b{suffix}").pixels
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.where(bits, 255, 0))


def test_cmyk_becomes_rgb_without_its_profile(tmp_path: Path) -> None:
    image = Image.fromarray(smooth_pixels(24, 32)).convert("CMYK")
    image.save(tmp_path / "c.jpg", icc_profile=b"a profile of inks", exif=exif_block(3))
    with Image.open(tmp_path / "c.jpg") as opened:
        assert opened.mode == "CMYK"
        expected = np.asarray(opened.convert("RGB"))
    read = read_image(tmp_path / "c.jpg")
    np.testing.assert_array_equal(read.pixels, expected)
    assert read.icc_profile is None
    assert tags(read.exif)[0] == 3


def test_lab_becomes_rgb_without_its_profile(tmp_path: Path) -> None:
    """Pillow gives sRGB; a profile of Lab beside it would have viewers take red for lightness."""
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    rgb = Image.fromarray(smooth_pixels(24, 32))
    to_lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    ImageCms.applyTransform(rgb, to_lab).save(tmp_path / "l.tif", icc_profile=lab)
    with Image.open(tmp_path / "l.tif") as opened:
        assert (opened.mode, opened.info["icc_profile"][16:20]) == ("LAB", b"Lab ")
    read = read_image(tmp_path / "l.tif")
    assert read.icc_profile is None
    assert np.abs(read.pixels.astype(int) - smooth_pixels(24, 32)).mean() < 1, "8 bits of Lab"
    write_image(tmp_path / "out.tif", read.pixels, like=read)
    assert read_image(tmp_path / "out.tif").icc_profile is None


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff"])
def test_sixteen_bit_gray_is_exact(suffix: str, tmp_path: Path) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    write_image(tmp_path / f"g{suffix}", values)
    read = read_image(tmp_path / f"g{suffix}")
    assert read.pixels.dtype == np.uint16
    np.testing.assert_array_equal(read.pixels, values)
    write_image(tmp_path / f"again{suffix}", read.pixels, like=read)
    np.testing.assert_array_equal(read_image(tmp_path / f"again{suffix}").pixels, values)


def test_sixteen_bit_gray_of_other_writers(tmp_path: Path) -> None:
    values = random_pixels(9, 11, dtype=np.uint16)
    (tmp_path / "g.png").write_bytes(png(values))
    np.testing.assert_array_equal(read_image(tmp_path / "g.png").pixels, values)
    for order in "<>":
        for compression in (None, "zlib"):
            tifffile.imwrite(tmp_path / "g.tif", values, byteorder=order, compression=compression)
            np.testing.assert_array_equal(read_image(tmp_path / "g.tif").pixels, values)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_whose_white_is_zero(dtype: Any, tmp_path: Path) -> None:
    values = random_pixels(9, 11, dtype=dtype)
    tifffile.imwrite(tmp_path / "w.tif", values, photometric="miniswhite")
    read = read_image(tmp_path / "w.tif").pixels
    np.testing.assert_array_equal(read, np.iinfo(dtype).max - values)


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("options", [{}, {"tile": (16, 16)}, {"byteorder": ">"}], ids=str)
def test_tiffs_of_other_writers_can_be_restored(
    options: dict[str, Any], bigtiff: bool, tmp_path: Path
) -> None:
    """How the original lay in its file must not leak into the new one."""
    if bigtiff and "byteorder" in options:
        pytest.skip("Pillow 13 does not read big-endian BigTIFF")
    pixels = random_pixels(37, 53, 3)
    source = tmp_path / "source.tif"
    tifffile.imwrite(source, pixels, photometric="rgb", bigtiff=bigtiff, **options)
    image = read_image(source)
    np.testing.assert_array_equal(image.pixels, pixels)
    for suffix in (".tif", ".png", ".webp"):
        write_image(tmp_path / f"new{suffix}", image.pixels, like=image)
        np.testing.assert_array_equal(read_image(tmp_path / f"new{suffix}").pixels, pixels)


def test_float_tiff_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.tif"
    tifffile.imwrite(path, np.zeros((5, 7), np.float32))
    assert "floating-point image; pass the array to Restorer" in refusal(path)
    tifffile.imwrite(path, np.zeros((5, 7, 3), np.float32), photometric="rgb")
    refusal(path)


def test_gray_beyond_sixteen_bits_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "i.tif"
    for value in (65536, -1):
        tifffile.imwrite(path, np.full((5, 7), value, np.int32))
        assert "beyond 16 bits; scale them first" in refusal(path)
    tifffile.imwrite(path, np.full((5, 7), 65535, np.int32))
    assert read_image(path).pixels.dtype == np.uint16


@pytest.mark.parametrize("suffix", [".png", ".webp", ".gif", ".tif"])
def test_several_frames_are_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"moving{suffix}"
    frames = [Image.fromarray(random_pixels(9, 11, 3)), Image.fromarray(smooth_pixels(9, 11))]
    frames[0].save(path, save_all=True, append_images=[frames[1], frames[0]])
    assert refusal(path).startswith("holds 3 frames; ")
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert read_picture(path) is None
    frames[1].save(path)
    still = read_picture(path)
    assert still is not None
    np.testing.assert_array_equal(still.pixels, read_image(path).pixels)


# ---------------------------------------------------------------- large images


@pytest.mark.parametrize("pixels", [150, 100, 40])
def test_an_image_of_any_size_is_read(
    pixels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 200 pixels, where Pillow warns beyond ``pixels`` and refuses twice as many."""
    image = random_pixels(10, 20, 3)
    write_image(tmp_path / "a.png", image)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").pixels, image)
    assert pixels == Image.MAX_IMAGE_PIXELS, "the setting of others is as it was"


def test_the_limit_of_others_comes_back_with_the_last_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    write_image(tmp_path / "a.png", random_pixels(10, 20, 3))
    (tmp_path / "b.png").write_bytes(b"no image")

    def read(number: int) -> None:
        if number % 3:
            read_image(tmp_path / "a.png")
        else:
            refusal(tmp_path / "b.png")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, range(60)))
    assert Image.MAX_IMAGE_PIXELS == 50


def test_an_image_that_memory_does_not_hold_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a bomb: a few kilobytes that say they are 40 gigapixels."""
    header = struct.pack(">IIBBBBB", 200_000, 200_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99)))
    (tmp_path / "bomb.png").write_bytes(data)
    free = type("Memory", (), {"available": 2**30})
    monkeypatch.setattr("mirnet_edge.frames.opened.psutil.virtual_memory", lambda: free)
    message = refusal(tmp_path / "bomb.png")
    assert message.startswith("200000x200000 pixels take 360,000,000,000 bytes to read, and")
    assert "1,073,741,824 are free; cut the image" in message


# ---------------------------------------------------------------- no image


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.png", b"", "0 bytes in no image format that Pillow reads"),
        ("text.png", b"hello", "5 bytes in no image format that Pillow reads"),
        ("text.jpg", b"\xff\xd8 not really", "13 bytes in no image format"),
        ("zeros.tif", bytes(64), "64 bytes in no image format"),
    ],
)
def test_what_is_no_image(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert message in refusal(tmp_path / name)


def test_a_missing_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "a.png") == "no such file"


def test_a_folder(tmp_path: Path) -> None:
    assert "directory" in refusal(tmp_path)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_truncated_anywhere(suffix: str, tmp_path: Path) -> None:
    """Refused, or (where only an end mark is missing) read as it was; nothing in between."""
    path = tmp_path / f"a{suffix}"
    write_image(path, random_pixels(23, 31, 3), like=ImageFile(np.zeros(0), exif_block(1), srgb()))
    data, whole = path.read_bytes(), read_image(path).pixels
    refused = 0
    for size in range(0, len(data) - 20, max(len(data) // 80, 1)):
        path.write_bytes(data[:size])
        try:
            pixels = read_image(path).pixels
        except ImageError:
            refused += 1
        else:
            np.testing.assert_array_equal(pixels, whole, f"{size} of {len(data)} bytes")
    assert refused > 40


def test_a_truncated_jpeg_says_so(tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    write_image(path, random_pixels(40, 40, 3))
    path.write_bytes(path.read_bytes()[:-400])
    assert "cannot be read: image file is truncated" in refusal(path)
