"""Image files of every format, with what they carry; and all that are no still 8-bit image."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, JpegImagePlugin

from mirnet_edge._files import atomic_path
from mirnet_edge.errors import ImageError, OutputError
from mirnet_edge.frames.images import (
    SUFFIXES,
    ImageFile,
    find_images,
    read_image,
    upright_rgb,
    write_image,
)

Pixels = NDArray[Any]
ORIENTATION, DESCRIPTION, EXIF_IFD, LENS = 0x0112, 0x010E, 0x8769, 0xA434
JPEG = (".jpg", ".jpeg")


def random_pixels(*shape: int, dtype: Any = np.uint8) -> Pixels:
    rng = np.random.default_rng(len(shape))
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def smooth_pixels(height: int, width: int) -> Pixels:
    """A colour gradient, which JPEG keeps within a few levels."""
    y, x = np.mgrid[:height, :width]
    return np.stack([5 * y, 3 * x, 60 + y + x], axis=2).astype(np.uint8)


@cache
def srgb() -> bytes:
    """The same bytes however often: a profile holds the second it was made in."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def exif_block(orientation: int, lens: str | None = None) -> bytes:
    """With a lens, there is a second directory in it, as every camera writes one."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    exif[DESCRIPTION] = "a test"
    if lens:
        exif.get_ifd(EXIF_IFD)[LENS] = lens
    return exif.tobytes()


def tags(block: bytes | None) -> tuple[Any, Any, Any]:
    exif = Image.Exif()
    exif.load(block or b"")
    return exif.get(ORIENTATION), exif.get(DESCRIPTION), exif.get_ifd(EXIF_IFD).get(LENS)


def png(pixels: Pixels, chunks: bytes = b"") -> bytes:
    """A PNG of 8 or 16 bits a channel, written without Pillow, which has no 16-bit colour."""
    height, width = pixels.shape[:2]
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[pixels.reshape(height, width, -1).shape[2]]
    header = struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, colour_type, 0, 0, 0)
    rows = pixels.astype(pixels.dtype.newbyteorder(">"))
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunks
        + chunk(b"IDAT", data)
        + chunk(b"IEND", b"")
    )


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def refusal(path: Path) -> str:
    with pytest.raises(ImageError) as raised:
        read_image(path)
    assert str(raised.value).startswith(f"{path}: ")
    return str(raised.value).removeprefix(f"{path}: ")


# ---------------------------------------------------------------- round trips


@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_suffix(suffix: str, upper: bool, tmp_path: Path) -> None:
    pixels = smooth_pixels(23, 31)
    path = tmp_path / f"a{suffix.upper() if upper else suffix}"
    write_image(path, pixels)
    read = read_image(path)
    assert (read.pixels.shape, read.pixels.dtype) == ((23, 31, 3), np.uint8)
    tolerance = 6 if suffix in JPEG else 0
    np.testing.assert_allclose(read.pixels.astype(int), pixels, atol=tolerance)
    assert read.icc_profile is None
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "pixels",
    [
        random_pixels(9, 11),
        random_pixels(9, 11, 2),
        random_pixels(9, 11, 4),
        random_pixels(9, 11, dtype=np.uint16),
        random_pixels(1, 1, 3),
        random_pixels(1, 40),
        random_pixels(40, 1, 4),
    ],
    ids=lambda pixels: f"{'x'.join(map(str, pixels.shape))}-{pixels.dtype}",
)
def test_written_exactly_or_refused(pixels: Pixels, suffix: str, tmp_path: Path) -> None:
    """WebP has no gray: three equal channels stand for one."""
    path = tmp_path / f"a{suffix}"
    try:
        write_image(path, pixels)
    except OutputError:
        assert suffix not in (".png", ".tif", ".tiff"), "these hold everything"
        assert list(tmp_path.iterdir()) == []
        return
    read = read_image(path).pixels
    if suffix in JPEG:
        np.testing.assert_allclose(read.astype(int), pixels, atol=40)
        return
    if suffix == ".webp" and (pixels.ndim == 2 or pixels.shape[2] == 2):
        planes = pixels.reshape(*pixels.shape[:2], -1)
        pixels = planes[:, :, [0, 0, 0, 1][: planes.shape[2] + 2]]
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
        np.zeros((5, 7, 3), np.uint16),
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


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_sixteen_bit_colour_png_is_refused(channels: int, tmp_path: Path) -> None:
    path = tmp_path / "c.png"
    path.write_bytes(png(random_pixels(5, 7, channels, dtype=np.uint16)))
    message = refusal(path)
    assert message.startswith("16 bits a colour channel, of which reading would drop 8")
    assert "uint16 array" in message


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_sixteen_bit_colour_tiff_is_refused(
    planar: str, compression: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "c.tif"
    shape = (5, 7, 3) if planar == "contig" else (3, 5, 7)
    pixels = random_pixels(*shape, dtype=np.uint16)
    tifffile.imwrite(path, pixels, photometric="rgb", planarconfig=planar, compression=compression)
    assert "16 bits a colour channel" in refusal(path)


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
    assert refusal(path) == "holds 3 frames; extract them to one file each"


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


# ---------------------------------------------------------------- writing


def test_a_file_is_replaced_only_when_allowed(tmp_path: Path) -> None:
    path, pixels = tmp_path / "a.png", random_pixels(5, 7, 3)
    path.write_bytes(b"old")
    with pytest.raises(OutputError, match=r"a\.png exists; choose another name or allow"):
        write_image(path, pixels)
    assert path.read_bytes() == b"old"
    write_image(path, pixels, overwrite=True)
    np.testing.assert_array_equal(read_image(path).pixels, pixels)


@pytest.mark.parametrize("name", ["a", "a.gif", "a.xyz", ".png", "a.png.part"])
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


# ---------------------------------------------------------------- find_images


@pytest.fixture
def album(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of empty files, as the current folder: finding does not open them."""
    for name in ["b.JPG", "a.png", "c.tiff", "notes.txt", "d", "sub/e.webp", "sub/deep/f.bmp"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("specs", "found"),
    [
        (["a.png"], ["a.png"]),
        (["notes.txt"], ["notes.txt"]),
        (["."], ["a.png", "b.JPG", "c.tiff"]),
        (["sub"], ["sub/e.webp"]),
        (["*.png"], ["a.png"]),
        (["*"], ["a.png", "b.JPG", "c.tiff"]),
        (["[ab].*"], ["a.png", "b.JPG"]),
        (["**/*"], ["a.png", "b.JPG", "c.tiff", "sub/deep/f.bmp", "sub/e.webp"]),
        (["sub/**/*.bmp"], ["sub/deep/f.bmp"]),
        (["c.tiff", "a.png"], ["c.tiff", "a.png"]),
        (["c.tiff", ".", "a.png", "*.tiff", "./c.tiff"], ["c.tiff", "a.png", "b.JPG"]),
        ([], []),
    ],
    ids=str,
)
def test_find_images(album: Path, specs: list[str], found: list[str]) -> None:
    assert [path.as_posix() for path in find_images(specs)] == found
    assert [path.as_posix() for path in find_images(Path(spec) for spec in specs)] == found


@pytest.mark.parametrize("spec", ["z.png", "*.gif", "*.txt", "nowhere/*", "sub/**/*.png"])
def test_nothing_found_is_an_error(album: Path, spec: str) -> None:
    with pytest.raises(ImageError, match=r": no such file, and no image \(\.png, ") as raised:
        find_images(["a.png", spec])
    assert str(raised.value).startswith(f"{spec}: ")


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no image"):
        find_images([tmp_path])


def test_a_file_whose_name_looks_like_a_pattern(album: Path) -> None:
    (album / "a[1].png").touch()
    assert find_images(["a[1].png"]) == [Path("a[1].png")]


def test_a_file_being_written_is_not_found(album: Path) -> None:
    """Nor is what a killed process left."""
    with atomic_path(album / "g.png") as temporary:
        temporary.touch()
        for spec in (album, f"{album}/*"):
            assert [path.name for path in find_images([spec])] == ["a.png", "b.JPG", "c.tiff"]


def test_a_folder_named_like_an_image_is_not_found(album: Path) -> None:
    (album / "trip.jpg").mkdir()
    for spec in (album, f"{album}/*"):
        assert [path.name for path in find_images([spec])] == ["a.png", "b.JPG", "c.tiff"]


@pytest.mark.parametrize("save", [Path, str])
def test_paths_may_be_strings(save: Callable[[Path], Any], tmp_path: Path) -> None:
    write_image(save(tmp_path / "a.png"), random_pixels(3, 4, 3))
    assert read_image(save(tmp_path / "a.png")).pixels.shape == (3, 4, 3)


def test_the_png_of_these_tests_is_a_png() -> None:
    pixels = random_pixels(5, 7, 3)
    np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(png(pixels)))), pixels)
