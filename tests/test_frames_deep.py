"""Pictures of 16 bits a colour channel: every bit comes in and goes out again."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from image_samples import chunk, exif_block, png, random_pixels, refusal, srgb, tags
from PIL import Image

from mirnet_edge.errors import ImageError, MissingDependencyError
from mirnet_edge.frames.images import ImageFile, read_image, upright_rgb, write_image


@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("shape", [(5, 7), (1, 1), (64, 65)], ids=str)
def test_png_of_other_writers(channels: int, shape: tuple[int, int], tmp_path: Path) -> None:
    pixels = random_pixels(*shape, channels, dtype=np.uint16)
    (tmp_path / "c.png").write_bytes(png(pixels))
    read = read_image(tmp_path / "c.png").pixels
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, pixels)


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize("order", "<>")
def test_tiff_of_other_writers(
    planar: str, compression: str | None, order: str, tmp_path: Path
) -> None:
    pixels = random_pixels(15, 17, 3, dtype=np.uint16)
    given = pixels if planar == "contig" else np.moveaxis(pixels, 2, 0)
    tifffile.imwrite(
        *(tmp_path / "c.tif", given),
        photometric="rgb",
        planarconfig=planar,
        compression=compression,
        byteorder=order,
        predictor=compression is not None,
    )
    read = read_image(tmp_path / "c.tif").pixels
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, pixels)


def test_alpha_of_tiffs(tmp_path: Path) -> None:
    """Colours that are multiplied by alpha come back within what alpha leaves of them."""
    pixels = random_pixels(15, 17, 4, dtype=np.uint16)
    pixels[..., 3] |= 0x8000
    path = tmp_path / "c.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(read_image(path).pixels, pixels)
    alpha = pixels[..., 3:].astype(np.uint64)
    multiplied = np.concatenate([pixels[..., :3] * alpha // 65535, alpha], axis=2)
    tifffile.imwrite(
        path, multiplied.astype(np.uint16), photometric="rgb", extrasamples=["assocalpha"]
    )
    np.testing.assert_allclose(read_image(path).pixels.astype(int), pixels, atol=2)
    tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=["unspecified"])
    np.testing.assert_array_equal(read_image(path).pixels, pixels[..., :3])


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("source", [".png", ".tif"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_what_a_file_carries(suffix: str, source: str, orientation: int, tmp_path: Path) -> None:
    pixels = random_pixels(12, 20, 3, dtype=np.uint16)
    like = ImageFile(pixels, exif_block(orientation, lens="50 mm"), srgb())
    first, second = tmp_path / f"a{source}", tmp_path / f"b{suffix}"
    write_image(first, pixels, like=like)
    read = read_image(first)
    write_image(second, read.pixels, like=read)
    again = read_image(second)
    for found in (read, again):
        np.testing.assert_array_equal(found.pixels, pixels)
        assert found.icc_profile == srgb()
        assert tags(found.exif) == (orientation, "a test", "50 mm")
        assert upright_rgb(found).shape == ((12, 20, 3) if orientation == 1 else (20, 12, 3))
    with Image.open(second) as image:  # what other readers find
        assert image.info["icc_profile"] == srgb()
        assert sorted(image.size) == [12, 20]


def test_exif_behind_the_pixels_is_found(tmp_path: Path) -> None:
    """Where ImageMagick writes it."""
    data = png(random_pixels(5, 7, 3, dtype=np.uint16))
    block = exif_block(6).removeprefix(b"Exif\0\0")
    (tmp_path / "a.png").write_bytes(data[:-12] + chunk(b"eXIf", block) + data[-12:])
    assert tags(read_image(tmp_path / "a.png").exif)[0] == 6


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_truncated_anywhere(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    pixels = random_pixels(23, 31, 3, dtype=np.uint16)
    write_image(path, pixels, like=ImageFile(np.zeros(0), exif_block(1), srgb()))
    data, refused = path.read_bytes(), 0
    for size in range(0, len(data) - 20, len(data) // 50):
        path.write_bytes(data[:size])
        try:
            read = read_image(path).pixels
        except ImageError:
            refused += 1
        else:
            np.testing.assert_array_equal(read, pixels, f"{size} of {len(data)} bytes")
    assert refused >= 50


def test_an_open_file_is_read_and_left_open(tmp_path: Path) -> None:
    for suffix in (".png", ".tif"):
        pixels = random_pixels(5, 7, 3, dtype=np.uint16)
        write_image(tmp_path / f"a{suffix}", pixels)
        file = io.BytesIO((tmp_path / f"a{suffix}").read_bytes())
        np.testing.assert_array_equal(read_image(file).pixels, pixels)
        np.testing.assert_array_equal(read_image(file).pixels, pixels)
    with pytest.raises(ImageError, match="standard input: 5 bytes in no image format"):
        read_image(io.BytesIO(b"hello"))


def test_other_formats_of_sixteen_bits_are_refused(tmp_path: Path) -> None:
    pixels = random_pixels(5, 7, 3, dtype=np.uint16)
    (tmp_path / "a.jxl").write_bytes(imagecodecs.jpegxl_encode(pixels, lossless=True))
    assert "16 bits a colour channel, of which" in refusal(tmp_path / "a.jxl")
    tifffile.imwrite(tmp_path / "f.tif", np.zeros((5, 7, 3), np.uint32), photometric="rgb")
    refusal(tmp_path / "f.tif")


@pytest.mark.parametrize(("suffix", "package"), [(".png", "imagecodecs"), (".tif", "tifffile")])
def test_without_the_extra_it_is_named(
    suffix: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(tmp_path / f"a{suffix}", random_pixels(5, 7, 3, dtype=np.uint16))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=r"mirnet-edge\[photos\]"):
        read_image(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (4, 1, 4)], ids=str)
def test_pages(shape: tuple[int, ...], dtype: Any, tmp_path: Path) -> None:
    """As tifffile, which knows nothing of this package, reads them."""
    from mirnet_edge.frames.moving import encoded_pages

    pages = [
        ImageFile(random_pixels(*shape, dtype=dtype), exif_block(1, lens="50 mm"), srgb()),
        ImageFile(random_pixels(9, 4, 3)),
        ImageFile(random_pixels(*shape, dtype=dtype), exif_block(1, lens="80 mm")),
    ]
    path = tmp_path / "a.tif"
    path.write_bytes(encoded_pages(path, pages))
    with tifffile.TiffFile(path) as tiff:
        assert len(tiff.pages) == 3
        for page, given in zip(tiff.pages, pages):
            np.testing.assert_array_equal(page.asarray(), given.pixels)
        lenses = [
            page.tags["ExifTag"].value["LensModel"] for page in (tiff.pages[0], tiff.pages[2])
        ]
        assert lenses == ["50 mm", "80 mm"]
        assert tiff.pages[0].iccprofile == srgb()


def test_jpeg_xl_takes_no_profile_and_gets_its_colours(tmp_path: Path) -> None:
    """Of a profile whose red is green."""
    swapped = srgb().replace("sRGB".encode("utf-16-be"), "odd!".encode("utf-16-be"))
    swapped = swapped.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")
    pixels = np.full((5, 7, 3), [255, 0, 0], np.uint8)
    write_image(tmp_path / "a.jxl", pixels, like=ImageFile(pixels, icc_profile=swapped))
    np.testing.assert_allclose(read_image(tmp_path / "a.jxl").pixels[2, 3], [0, 255, 0], atol=3)
    write_image(tmp_path / "b.jxl", pixels, like=ImageFile(pixels, icc_profile=srgb()))
    np.testing.assert_array_equal(read_image(tmp_path / "b.jxl").pixels, pixels)


def test_a_jpeg_xl_bomb_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pillow_jxl.JpegXLImagePlugin as plugin

    monkeypatch.setenv("MIRNET_EDGE_MAX_PIXELS_PER_BYTE", "100")
    monkeypatch.setattr(plugin, "Decoder", None)  # whoever calls it fails otherwise
    black = np.zeros((6000, 6000), np.uint8)
    (tmp_path / "a.jxl").write_bytes(imagecodecs.jpegxl_encode(black, effort=1))
    size = (tmp_path / "a.jxl").stat().st_size
    assert f"6000x6000 pixels in {size:,} bytes are made to fill" in refusal(tmp_path / "a.jxl")
