"""Image files in and out (Pillow), with the orientation and colour profile they carry."""

from __future__ import annotations

import glob
import io
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from mirnet_edge._arguments import explained
from mirnet_edge._files import atomic_path, require_new
from mirnet_edge._imports import require
from mirnet_edge.errors import ImageError, OutputError
from mirnet_edge.frames.deep import deep_png, read_deep
from mirnet_edge.frames.exif import exif_of
from mirnet_edge.frames.formats import DEEP_COLOURS, FORMATS, kind_of
from mirnet_edge.frames.formats import SUFFIXES as SUFFIXES
from mirnet_edge.frames.opened import WITHOUT_WARNINGS, Opened, Source, opened, reading
from mirnet_edge.frames.tiff_pages import TiffPages

log = logging.getLogger(__name__)
_GRAY_16 = ("I;16", "I;16B", "I;16L", "I;16N")
_DIRECT = ("L", "LA", "RGB", "RGBA")
_OTHER_COLOURS = ("CMYK", "LAB")
"""Modes whose colour profile says nothing of the RGB that they become."""
VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".ts")
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0


@dataclass(frozen=True, eq=False)
class ImageFile:
    """One still image.

    Attributes:
        pixels: (H, W) or (H, W, C), C = 2 (gray, alpha), 3 (RGB) or 4 (RGBA); uint8, or uint16
            for 16 bits a channel. As stored: the EXIF orientation is not applied (TIFF of 8 bits:
            Pillow applies it and drops the tag).
        exif: the EXIF block with its prefix.
        format: Pillow's name of the file's format, if it is of one.
    """

    pixels: NDArray[Any]
    exif: bytes | None = None
    icc_profile: bytes | None = None
    format: str | None = None


@explained(ImageError)
def read_image(path: str | os.PathLike[str] | BinaryIO, max_pixels: int | None = None) -> ImageFile:
    """Read a still image of any size; palettes, CMYK and LAB become RGB.

    Args:
        path: of the file, or an open one that can be sought in.
        max_pixels: the most that is read, in place of the limit ``PIXELS_PER_BYTE``.

    Raises:
        ImageError: the file is missing, is no image, is truncated, holds several frames, claims
            more pixels than the memory at hand or the limit allow, or has 16 bits a colour channel
            in a format other than PNG and TIFF.
        MissingDependencyError: 16 bits a colour channel, or JPEG XL, and the extra ``photos`` is
            not installed.
    """
    with reading(path), opened(path, max_pixels) as file:
        if file.frames > 1:
            raise ImageError(
                f"{file.name}: holds {file.frames} frames; restore it on the command line, or "
                "extract them to one file each"
            )
        return decoded(file)


def read_picture(path: Source, max_pixels: int | None = None) -> ImageFile | None:
    """`read_image`, but None for a file of several pictures (see `moving`)."""
    with reading(path), opened(path, max_pixels) as file:
        return None if file.frames > 1 else decoded(file)


def is_damaged(path: str | os.PathLike[str]) -> bool:
    """Whether a file that is there is empty, or no image, or not a whole one."""
    try:
        with opened(path) as file:
            for number in range(file.frames):
                file.image.seek(number)
                file.image.load()
    except (ImageError, MemoryError, FileNotFoundError, PermissionError):
        return False
    except Exception:  # as in `reading`
        return True
    return False


def decoded(opened: Opened, page: int = 0) -> ImageFile:
    """The picture that an open file is at: its ``page``."""
    image = opened.image
    # Before load(), which turns 16-bit colour into 8 bits and says nothing.
    if _bits_per_channel(image) > 8 and image.mode in ("RGB", "RGBA"):
        if image.format != "TIFF":
            image.load()  # finds what is cut off, and EXIF behind the pixels
        icc_profile, exif = image.info.get("icc_profile"), exif_of(image)
        return ImageFile(read_deep(opened, page), exif, icc_profile, image.format)
    image.load()
    icc_profile, exif = image.info.get("icc_profile"), exif_of(image)
    if image.mode in _GRAY_16 or image.mode == "I":
        pixels = np.asarray(image)
        if pixels.min(initial=0) < 0 or pixels.max(initial=0) > 65535:
            raise ImageError(f"{opened.name}: 32-bit gray values beyond 16 bits; scale them first")
        pixels = pixels.astype(np.uint16)
        if _tiff_tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO:  # Pillow inverts 8 bits only
            pixels = 65535 - pixels
        return ImageFile(pixels, exif, icc_profile, image.format)
    if image.mode == "F":
        raise ImageError(
            f"{opened.name}: floating-point image; pass the array to Restorer in Python"
        )
    name, transparent = image.format, "transparency" in image.info
    if image.mode not in _DIRECT or transparent:
        transparent = transparent or image.mode in ("PA", "La", "RGBa")
        if image.mode in _OTHER_COLOURS:
            icc_profile = None
        base = "L" if image.mode in ("1", "L", "La") else "RGB"
        image = image.convert(base + "A" * transparent)
    return ImageFile(np.asarray(image), exif, icc_profile, name)


def _bits_per_channel(image: Image.Image) -> int:
    """As stored: TIFF says it in a tag; else Pillow's raw mode (``RGB;16B``) tells that the decoder
    cuts 16-bit samples down."""
    raw_modes = [str(tile[3]) for tile in getattr(image, "tile", [])]
    bits = _tiff_tag(image, _BITS_PER_SAMPLE) or (16 if ";16" in "".join(raw_modes) else 8)
    return max(bits) if isinstance(bits, tuple) else int(bits)


def _tiff_tag(image: Image.Image, tag: int) -> Any:
    directory = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    return directory.get(tag)


@explained(OutputError)
def write_image(
    path: str | os.PathLike[str],
    pixels: NDArray[Any],
    like: ImageFile | None = None,
    overwrite: bool = False,
    quality: int | None = None,
) -> None:
    """Write an image, as `ImageFile.pixels`, in the format of the path's suffix, whole or not at
    all: JPEG at quality 95 without chroma subsampling, WebP and JPEG XL lossless, AVIF at 90; where
    a quality is given, from 1 to 100, at that. The file carries the EXIF block and colour profile
    of ``like``. OutputError says why one cannot be written."""
    path = Path(path)
    require_new(path, overwrite)
    write_whole(path, encoded(path, pixels, like, quality))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    log.info("%s: %d bytes written", path, len(content))


def encoded(
    path: Path,
    pixels: NDArray[Any],
    like: ImageFile | None = None,
    quality: int | None = None,
    quick: bool = False,
) -> bytes:
    """What `write_image` writes; ``path`` says the format, and errors name it. With ``quick`` it
    takes less time and more bytes."""
    require_held(path, pixels)
    form, exif = FORMATS[path.suffix.lower()], like.exif if like is not None else None
    icc_profile = like.icc_profile if like is not None else None
    options = form.save_options(quality, quick)
    if exif:
        options["exif"] = exif
    if icc_profile:
        options["icc_profile"] = icc_profile
    # Into memory first: what an encoder raises is then of the pixels, and not of the disk.
    file = io.BytesIO()
    try:
        if kind_of(pixels) not in DEEP_COLOURS:
            picture = Image.fromarray(pixels)
            if form.name == "JXL":
                require("pillow_jxl", "JPEG XL")
                picture = _without_profile(picture, icc_profile)
            picture.save(file, form.name, **options)
        elif form.name == "PNG":
            file.write(deep_png(pixels, exif, icc_profile))
        else:
            TiffPages(file).add(pixels, exif, icc_profile)
    except (OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        raise OutputError(f"cannot write {path}: {error}; try .png") from error
    return file.getvalue()


def require_held(path: Path, pixels: NDArray[Any]) -> None:
    """Refuse pixels that the format of a path's suffix does not hold."""
    suffix, kind = path.suffix.lower(), kind_of(pixels)
    if suffix not in FORMATS:
        raise OutputError(f"cannot write {path}: use one of {', '.join(FORMATS)}")
    if kind not in FORMATS[suffix].holds:
        raise OutputError(f"cannot write {path}: {suffix} does not hold {kind}; use .png")


def _without_profile(picture: Image.Image, icc_profile: bytes | None) -> Image.Image:
    """The picture in sRGB, as Pillow's plugin writes no profile into JPEG XL."""
    if not icc_profile or picture.mode not in ("RGB", "RGBA"):
        return picture
    found = ImageCms.ImageCmsProfile(io.BytesIO(icc_profile))
    if "sRGB" in (name := ImageCms.getProfileDescription(found)) or "RGB_D65_SRG" in name:
        return picture
    srgb = ImageCms.createProfile("sRGB")
    turned = ImageCms.profileToProfile(picture, found, srgb, outputMode=picture.mode)
    return picture if turned is None else turned


def upright_rgb(image: ImageFile) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 as a viewer shows it: orientation applied, alpha dropped."""
    picture = Image.fromarray(to_eight_bits(image.pixels))
    if image.exif:
        picture = _turned(picture, image.exif)
    return np.asarray(picture.convert("RGB"))


def to_eight_bits(pixels: NDArray[Any]) -> NDArray[Any]:
    """uint16 as uint8, anything else as it is."""
    return (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels


def _turned(picture: Image.Image, exif: bytes) -> Image.Image:
    try:
        with WITHOUT_WARNINGS:
            picture.getexif().load(exif)
            return ImageOps.exif_transpose(picture)
    except Exception:  # a block that cannot be parsed turns nothing; Pillow raises nearly anything
        return picture


def find_images(
    specs: Iterable[str | os.PathLike[str]], suffixes: Sequence[str] = SUFFIXES
) -> list[Path]:
    """Files, folders (their images, sorted, not recursive) and glob patterns as one list of paths;
    an ImageError for one that matches nothing. What is an image is told by its suffix."""
    what = "image" if suffixes == SUFFIXES else "image or video"
    found: list[Path] = []
    for spec in specs:
        path = Path(spec)
        if path.is_dir():
            matches = sorted(file for file in path.iterdir() if is_image(file, suffixes))
        elif path.exists():  # before patterns: a[1].png may be a file's name
            matches = [path]
        else:
            matches = [Path(match) for match in sorted(glob.glob(str(spec), recursive=True))]
            matches = [match for match in matches if is_image(match, suffixes)]
        if not matches:
            known = ", ".join(suffixes)
            raise ImageError(f"{spec}: no such file, and no {what} ({known}) there")
        found += matches
    return list(dict.fromkeys(found))  # a file may be named and match a pattern too


def is_image(path: Path, suffixes: Sequence[str]) -> bool:
    """By name: a file of a known suffix, not a hidden one."""
    return path.suffix.lower() in suffixes and path.is_file() and not path.name.startswith(".")
