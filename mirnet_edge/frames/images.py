"""Image files in and out (Pillow), with the orientation and colour profile they carry."""

from __future__ import annotations

import glob
import io
import os
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import psutil
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from mirnet_edge._arguments import explained
from mirnet_edge._files import atomic_path, open_regular, require_new
from mirnet_edge.errors import ImageError, OutputError
from mirnet_edge.limits import how_to_lift, limit

_GRAY_16 = ("I;16", "I;16B", "I;16L", "I;16N")
_DIRECT = ("L", "LA", "RGB", "RGBA")
_OTHER_COLOURS = ("CMYK", "LAB")
"""Modes whose colour profile says nothing of the RGB that they become."""
_COPIES = 3
"""Of an image's pixels while it is read: as decoded, as bytes on their way to NumPy, as array."""
_OPENING = threading.Lock()
_READ = (
    *("PNG", "JPEG", "MPO", "WEBP", "TIFF", "BMP", "DIB", "GIF", "PPM", "TGA"),
    *("JPEG2000", "AVIF", "HEIF"),
)
"""Formats, whatever a file is called. Of the others Pillow knows, some are read by starting another
program (EPS by Ghostscript), and none is a photo's or a frame's."""
_ALWAYS_READ_PX = 1 << 24
_ANYTHING = ("gray", "gray with alpha", "RGB", "RGBA", "16-bit gray")


@dataclass(frozen=True)
class _Format:
    """How files of one suffix are written: Pillow's name, the kinds of pixels that come back as
    they were, options of Pillow's save."""

    name: str
    holds: tuple[str, ...] = _ANYTHING
    options: dict[str, Any] = field(default_factory=dict)


_JPEG = _Format("JPEG", ("gray", "RGB"), {"quality": 95, "subsampling": 0})
_FORMATS = {
    ".png": _Format("PNG"),
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".webp": _Format("WEBP", ("gray", "RGB", "RGBA"), {"lossless": True, "exact": True}),
    # Uncompressed: through libtiff, Pillow loses the EXIF sub-directories that cameras write.
    ".tif": _Format("TIFF"),
    ".tiff": _Format("TIFF"),
    ".bmp": _Format("BMP", ("gray", "RGB")),
}
VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".ts")
SUFFIXES = tuple(_FORMATS)
_EXIF_PREFIX = b"Exif\0\0"
_DESCRIPTIVE_TAGS = (270, 271, 272, 274, 282, 283, 296, 305, 306, 315, 33432, 34665, 34853)
"""What a TIFF's directory says of the picture (ImageDescription … GPS), not of the file."""
_SUB_DIRECTORIES = (34665, 34853)
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0


@dataclass(frozen=True, eq=False)
class ImageFile:
    """One still image.

    Attributes:
        pixels: (H, W) or (H, W, C), C = 2 (gray, alpha), 3 (RGB) or 4 (RGBA); uint8, or uint16
            for 16-bit gray. As stored: the EXIF orientation is not applied (TIFF: Pillow applies
            it and drops the tag).
        exif: the EXIF block with its prefix.
    """

    pixels: NDArray[Any]
    exif: bytes | None = None
    icc_profile: bytes | None = None


@explained(ImageError)
def read_image(path: str | os.PathLike[str]) -> ImageFile:
    """Read a still image of any size; palettes, CMYK and LAB become RGB.

    Raises:
        ImageError: the file is missing, is no image, is truncated, holds several frames, claims
            more pixels than the memory at hand or the limit ``PIXELS_PER_BYTE`` allow, or has 16
            bits a colour channel, of which Pillow would drop 8.
    """
    try:
        with _opened(path) as image:
            return _decode(image, path)
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such file") from error
    except UnidentifiedImageError as error:
        size = Path(path).stat().st_size
        raise ImageError(f"{path}: {size} bytes in no image format that Pillow reads") from error
    except Exception as error:  # Pillow's plugins raise nearly anything for damaged files
        raise ImageError(f"{path}: cannot be read: {error}") from error


def is_damaged(path: str | os.PathLike[str]) -> bool:
    """Whether a file that is there is empty, or no image, or not a whole one."""
    try:
        with _opened(path) as image:
            image.load()
    except (ImageError, MemoryError, FileNotFoundError, PermissionError):
        return False
    except Exception:  # as in `read_image`
        return True
    return False


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    with _WITHOUT_WARNINGS, open_regular(path) as file, _open(file) as image:
        _require_memory(image, path)
        _require_plausible(image, os.fstat(file.fileno()).st_size, path)
        yield image


class _WithoutWarnings:
    """Keeps Pillow's warnings, of tags that it cannot parse, from the user while any thread reads.
    What was filtered before comes back with the last reader: filters are of the process, and of two
    threads that each put back what they found, one would put back the other's."""

    def __init__(self) -> None:
        self._lock, self._readers = threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._readers:
                self._found = warnings.catch_warnings()
                self._found.__enter__()
                warnings.simplefilter("ignore", UserWarning)
            self._readers += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._readers -= 1
            if not self._readers:
                self._found.__exit__(None, None, None)


_WITHOUT_WARNINGS = _WithoutWarnings()


def _open(file: BinaryIO) -> Image.Image:
    # Pillow's limit of pixels is there for strangers' uploads, warns at 89 megapixels and refuses
    # 179, and is one for the process: it is away for the moment that opening takes, and one reader
    # at a time takes it away, so that none finds, and puts back, another one's None.
    with _OPENING:
        limit_px, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            # All plugins are loaded, 40 ms, only where the common ones do not know the file.
            for load_plugins in (Image.preinit, Image.init):
                load_plugins()
                with suppress(UnidentifiedImageError):
                    return Image.open(file, formats=[n for n in _READ if n in Image.OPEN])
        finally:
            Image.MAX_IMAGE_PIXELS = limit_px
    raise UnidentifiedImageError


def _require_plausible(image: Image.Image, size_bytes: int, path: str | os.PathLike[str]) -> None:
    pixels = image.width * image.height
    if pixels > max(_ALWAYS_READ_PX, size_bytes * limit("PIXELS_PER_BYTE")):
        raise ImageError(
            f"{path}: {image.width}x{image.height} pixels in {size_bytes:,} bytes are made to fill "
            f"memory; {how_to_lift('PIXELS_PER_BYTE')}"
        )


def _require_memory(image: Image.Image, path: str | os.PathLike[str]) -> None:
    # Asked before decoding: Linux grants memory that is not there, and kills who touches it.
    needed = _COPIES * image.width * image.height * max(len(image.getbands()), 3)
    available = psutil.virtual_memory().available
    if needed > available:
        raise ImageError(
            f"{path}: {image.width}x{image.height} pixels take {needed:,} bytes to read, and "
            f"{available:,} are free; cut the image into parts, or free some memory"
        )


def _decode(image: Image.Image, path: str | os.PathLike[str]) -> ImageFile:
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # phones add a preview or a depth map as second one
        raise ImageError(f"{path}: holds {frames} frames; extract them to one file each")
    # Before load(), which turns 16-bit colour into 8 bits and says nothing.
    if _bits_per_channel(image) > 8 and image.mode in ("RGB", "RGBA"):
        raise ImageError(
            f"{path}: 16 bits a colour channel, of which reading would drop 8. Convert it to 8 "
            "bits, or pass the uint16 array to Restorer in Python."
        )
    image.load()
    icc_profile, exif = image.info.get("icc_profile"), _exif_of(image)
    if image.mode in _GRAY_16 or image.mode == "I":
        pixels = np.asarray(image)
        if pixels.min(initial=0) < 0 or pixels.max(initial=0) > 65535:
            raise ImageError(f"{path}: 32-bit gray values beyond 16 bits; scale them first")
        pixels = pixels.astype(np.uint16)
        if _tiff_tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO:  # Pillow inverts 8 bits only
            pixels = 65535 - pixels
        return ImageFile(pixels, exif, icc_profile)
    if image.mode == "F":
        raise ImageError(f"{path}: floating-point image; pass the array to Restorer in Python")
    transparent = "transparency" in image.info or image.mode in ("PA", "La", "RGBa")
    if image.mode not in _DIRECT or transparent:
        if image.mode in _OTHER_COLOURS:
            icc_profile = None
        base = "L" if image.mode in ("1", "L", "La") else "RGB"
        image = image.convert(base + "A" * transparent)
    return ImageFile(np.asarray(image), exif, icc_profile)


def _bits_per_channel(image: Image.Image) -> int:
    """As stored: TIFF says it in a tag; else Pillow's raw mode (``RGB;16B``) tells that the decoder
    cuts 16-bit samples down."""
    raw_modes = [str(tile[3]) for tile in getattr(image, "tile", [])]
    bits = _tiff_tag(image, _BITS_PER_SAMPLE) or (16 if ";16" in "".join(raw_modes) else 8)
    return max(bits) if isinstance(bits, tuple) else int(bits)


def _tiff_tag(image: Image.Image, tag: int) -> Any:
    directory = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    return directory.get(tag)


def _exif_of(image: Image.Image) -> bytes | None:
    if image.format == "TIFF":
        # Copied tag by tag: where strips lie and how they are packed would lie about the new file.
        directory, described = image.tag_v2, Image.Exif()  # type: ignore[attr-defined]
        for tag in set(_DESCRIPTIVE_TAGS) & set(directory):
            is_pointer = tag in _SUB_DIRECTORIES
            described[tag] = image.getexif().get_ifd(tag) if is_pointer else directory[tag]
        return described.tobytes() if len(described) else None
    block = image.info.get("exif") or image.getexif().tobytes()
    if not block:
        return None
    return bytes(block) if block.startswith(_EXIF_PREFIX) else _EXIF_PREFIX + bytes(block)


@explained(OutputError)
def write_image(
    path: str | os.PathLike[str],
    pixels: NDArray[Any],
    like: ImageFile | None = None,
    overwrite: bool = False,
) -> None:
    """Write an image, as `ImageFile.pixels`, in the format of the path's suffix, whole or not at
    all: JPEG at quality 95 without chroma subsampling, WebP lossless. The file carries the EXIF
    block and colour profile of ``like``. OutputError says why one cannot be written."""
    path = Path(path)
    require_new(path, overwrite)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise OutputError(f"cannot write {path}: use one of {', '.join(SUFFIXES)}")
    kind = _kind(pixels)
    if kind not in _FORMATS[suffix].holds:
        raise OutputError(f"cannot write {path}: {suffix} does not hold {kind}; use .png")
    options = dict(_FORMATS[suffix].options)
    if like is not None and like.exif:
        options["exif"] = like.exif
    if like is not None and like.icc_profile:
        options["icc_profile"] = like.icc_profile
    # Into memory first: what an encoder raises is then of the pixels, and not of the disk.
    encoded = io.BytesIO()
    try:
        Image.fromarray(pixels).save(encoded, _FORMATS[suffix].name, **options)
    except (OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        raise OutputError(f"cannot write {path}: {error}; try .png") from error
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded.getbuffer())


def _kind(pixels: NDArray[Any]) -> str:
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    bits = {np.dtype(np.uint8): "", np.dtype(np.uint16): "16-bit "}.get(pixels.dtype)
    name = {1: "gray", 2: "gray with alpha", 3: "RGB", 4: "RGBA"}.get(channels)
    if bits is None or name is None or pixels.ndim not in (2, 3):
        return f"a {pixels.dtype} array of shape {pixels.shape}"
    return bits + name


def upright_rgb(image: ImageFile) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 as a viewer shows it: orientation applied, alpha dropped."""
    pixels = image.pixels
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    picture = Image.fromarray(pixels)
    if image.exif:
        picture = _turned(picture, image.exif)
    return np.asarray(picture.convert("RGB"))


def _turned(picture: Image.Image, exif: bytes) -> Image.Image:
    try:
        with _WITHOUT_WARNINGS:
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
            matches = sorted(file for file in path.iterdir() if _is_image(file, suffixes))
        elif path.exists():  # before patterns: a[1].png may be a file's name
            matches = [path]
        else:
            matches = [Path(match) for match in sorted(glob.glob(str(spec), recursive=True))]
            matches = [match for match in matches if _is_image(match, suffixes)]
        if not matches:
            known = ", ".join(suffixes)
            raise ImageError(f"{spec}: no such file, and no {what} ({known}) there")
        found += matches
    return list(dict.fromkeys(found))  # a file may be named and match a pattern too


def _is_image(path: Path, suffixes: Sequence[str]) -> bool:
    """By name: a file of a known suffix, not a hidden one."""
    return path.suffix.lower() in suffixes and path.is_file() and not path.name.startswith(".")
