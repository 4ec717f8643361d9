"""Image files in and out (Pillow), with the orientation and colour profile they carry."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from mirnet_edge._files import atomic_path, require_new
from mirnet_edge.errors import ImageError, OutputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
JPEG_QUALITY = 95
_GRAY_16 = ("I;16", "I;16B", "I;16L", "I;16N")
_DIRECT = ("L", "LA", "RGB", "RGBA")
_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    ".jpg": {"quality": JPEG_QUALITY, "subsampling": 0},
    ".webp": {"lossless": True},
    ".tif": {"compression": "tiff_deflate"},
}
_SAVE_OPTIONS[".jpeg"] = _SAVE_OPTIONS[".jpg"]
_SAVE_OPTIONS[".tiff"] = _SAVE_OPTIONS[".tif"]


@dataclass(frozen=True, eq=False)
class ImageFile:
    """One still image.

    Attributes:
        pixels: (H, W) or (H, W, C), C = 2 (gray, alpha), 3 (RGB) or 4 (RGBA); uint8, or uint16
            for 16-bit gray. As stored: the EXIF orientation is not applied.
        exif: the EXIF block, None where there is none.
        icc_profile: the ICC colour profile, None where there is none.
    """

    pixels: NDArray[Any]
    exif: bytes | None = None
    icc_profile: bytes | None = None


def read_image(path: str | os.PathLike[str]) -> ImageFile:
    """Read a still image; palettes and CMYK become RGB.

    Raises:
        ImageError: the file is missing, is no image, is truncated, holds several frames, or has 16
            bits a colour channel, of which Pillow would drop 8.
    """
    try:
        with Image.open(path) as image:
            return _decode(image, path)
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file") from error
    except UnidentifiedImageError as error:
        size = Path(path).stat().st_size
        raise ImageError(f"{path}: {size} bytes in no image format that Pillow reads") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path}: cannot be read: {error}") from error


def _decode(image: Image.Image, path: str | os.PathLike[str]) -> ImageFile:
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise ImageError(f"{path}: holds {frames} frames; extract them to one file each")
    if _bits_per_channel(image) > 8 and image.mode in ("RGB", "RGBA"):
        raise ImageError(
            f"{path}: 16 bits a colour channel, of which reading would drop 8. Convert it to 8 "
            "bits, or pass the uint16 array to Restorer in Python."
        )
    icc_profile = image.info.get("icc_profile")
    exif = image.info.get("exif") or image.getexif().tobytes() or None
    if image.mode in _GRAY_16 or image.mode == "I":
        pixels = np.asarray(image)
        if pixels.min(initial=0) < 0 or pixels.max(initial=0) > 65535:
            raise ImageError(f"{path}: 32-bit gray values beyond 16 bits; scale them first")
        return ImageFile(pixels.astype(np.uint16), exif, icc_profile)
    if image.mode == "F":
        raise ImageError(f"{path}: floating-point image; pass the array to Restorer in Python")
    if image.mode not in _DIRECT:
        transparent = "transparency" in image.info or image.mode in ("PA", "La", "RGBa")
        if image.mode == "CMYK":
            icc_profile = None
        gray = image.mode == "1"
        image = image.convert("L" if gray else "RGBA" if transparent else "RGB")
    return ImageFile(np.asarray(image), exif, icc_profile)


def _bits_per_channel(image: Image.Image) -> int:
    """16 where the decoder is told to cut 16-bit samples down (Pillow's raw mode ``RGB;16B``)."""
    raw_modes = [str(tile[3]) for tile in getattr(image, "tile", [])]
    return 16 if any(";16" in mode for mode in raw_modes) else 8


def write_image(
    path: str | os.PathLike[str],
    pixels: NDArray[Any],
    like: ImageFile | None = None,
    overwrite: bool = False,
) -> None:
    """Write an image in the format of the path's suffix, whole or not at all.

    JPEG is written at quality 95 without chroma subsampling, WebP lossless.

    Args:
        pixels: as `ImageFile.pixels`.
        like: the image whose EXIF block and colour profile the file shall carry.

    Raises:
        OutputError: the file exists and ``overwrite`` is False; the suffix names no format; the
            format cannot hold such pixels; the folder cannot be written to.
    """
    path = Path(path)
    require_new(path, overwrite)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise OutputError(f"cannot write {path}: use one of {', '.join(SUFFIXES)}")
    options = dict(_SAVE_OPTIONS.get(suffix, {}))
    if like is not None and like.exif:
        options["exif"] = like.exif
    if like is not None and like.icc_profile:
        options["icc_profile"] = like.icc_profile
    with atomic_path(path) as temporary:
        try:
            Image.fromarray(pixels).save(temporary, **options)
        except (ValueError, TypeError, KeyError) as error:
            raise OutputError(f"cannot write {path}: {error}") from error
        except OSError as error:
            if error.errno is None:
                raise OutputError(f"cannot write {path}: {error}; try .png") from error
            raise


def upright_rgb(image: ImageFile) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 as a viewer shows it: orientation applied, alpha dropped."""
    pixels = image.pixels
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    picture = Image.fromarray(pixels)
    if image.exif:
        picture.getexif().load(image.exif)
        picture = ImageOps.exif_transpose(picture)
    return np.asarray(picture.convert("RGB"))


def find_images(specs: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Files, folders (their images, sorted, not recursive) and glob patterns as one list of paths.

    Raises:
        ImageError: a spec matches nothing.
    """
    found: list[Path] = []
    for spec in specs:
        path = Path(spec)
        if path.is_dir():
            matches = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        elif path.exists():
            matches = [path]
        else:
            matches = [Path(match) for match in sorted(glob.glob(str(spec), recursive=True))]
            matches = [match for match in matches if match.suffix.lower() in SUFFIXES]
        if not matches:
            raise ImageError(f"{spec}: no such file, and no image ({', '.join(SUFFIXES)}) there")
        found += matches
    return list(dict.fromkeys(found))
