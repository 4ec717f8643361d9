"""Opening an image file with Pillow: which formats, how large, and what its errors become."""

from __future__ import annotations

import io
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import psutil
from PIL import Image, UnidentifiedImageError

from mirnet_edge._files import open_regular
from mirnet_edge._imports import require
from mirnet_edge.errors import ImageError, MissingDependencyError
from mirnet_edge.frames.formats import FORMATS
from mirnet_edge.frames.jpeg_xl import JxlFacts, jxl_facts
from mirnet_edge.limits import how_to_lift, limit

log = logging.getLogger(__name__)
_COPIES = 3
"""Of an image's pixels while it is read: as decoded, as bytes on their way to NumPy, as array."""
_OPENING = threading.Lock()
_READ = (
    *("PNG", "JPEG", "MPO", "WEBP", "TIFF", "BMP", "DIB", "GIF", "PPM", "TGA"),
    *("JPEG2000", "AVIF", "HEIF", "JXL"),
)
"""Formats, whatever a file is called. Of the others Pillow knows, some are read by starting another
program (EPS by Ghostscript), and none is a photo's or a frame's."""
_ALWAYS_READ_PX = 1 << 24
Source = str | os.PathLike[str] | BinaryIO
"""A file's path, or its bytes in memory."""


@dataclass(frozen=True)
class Opened:
    """An image file: as Pillow opened it, the file itself, its name for errors, and its size."""

    image: Image.Image
    file: BinaryIO
    name: str
    size_bytes: int
    max_pixels: int | None

    @property
    def frames(self) -> int:
        """How many pictures it holds, one where all but the first belong to it: phones add a
        preview or a depth map."""
        return 1 if self.image.format == "MPO" else int(getattr(self.image, "n_frames", 1))

    def require_room(self, frames: int = 1) -> None:
        """Refuse what memory does not hold, or what is made to fill it, before it is decoded."""
        image = self.image
        size, bands = (image.width, image.height), max(len(image.getbands()), 3)
        # Asked before decoding: Linux grants memory that is not there, and kills who touches it.
        needed = (_COPIES + frames - 1) * image.width * image.height * bands
        available = psutil.virtual_memory().available
        if needed > available:
            each = f"{frames} frames of " if frames > 1 else ""
            raise ImageError(
                f"{self.name}: {each}{image.width}x{image.height} pixels take {needed:,} bytes to "
                f"read, and {available:,} are free; cut the image into parts, or free some memory"
            )
        _require_size(size, frames, self.size_bytes, self.name, self.max_pixels)


@contextmanager
def opened(source: Source, max_pixels: int | None = None) -> Iterator[Opened]:
    """Open an image file; with ``max_pixels``, that many and no more, however few bytes it has."""
    with ExitStack() as ends:
        ends.enter_context(WITHOUT_WARNINGS)
        file: BinaryIO
        if isinstance(source, (str, os.PathLike)):
            file, name = ends.enter_context(open_regular(source)), str(source)
        else:
            file, name = source, _name_of(source)
        size_bytes = file.seek(0, io.SEEK_END)
        file.seek(0)
        if facts := jxl_facts(file):
            _require_readable(facts, name, size_bytes, max_pixels)
        image = ends.enter_context(_open(file))
        log.debug("%s: %s, %s, %s", name, image.format, image.mode, image.size)
        found = Opened(image, file, name, size_bytes, max_pixels)
        found.require_room()
        yield found


@contextmanager
def reading(source: Source) -> Iterator[None]:
    """Translate what reading an image file raises into an `ImageError` that names the file."""
    named, name = isinstance(source, (str, os.PathLike)), _name_of(source)
    try:
        yield
    except (ImageError, MissingDependencyError):
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file") from error
    except UnidentifiedImageError as error:
        size = Path(name).stat().st_size if named else source.seek(0, io.SEEK_END)  # type: ignore[union-attr]
        raise ImageError(f"{name}: {size} bytes in no image format that Pillow reads") from error
    except Exception as error:  # Pillow's plugins raise nearly anything for damaged files
        raise ImageError(f"{name}: cannot be read: {error}") from error


def size_of(source: BinaryIO) -> tuple[int, int]:
    """Read (height, width) of an image file in memory, and nothing of its pixels; raises what
    `reading` translates."""
    with WITHOUT_WARNINGS, _open(source) as image:
        return image.height, image.width


def _name_of(source: Source) -> str:
    """What errors call it: of bytes in memory their ``name``, if whoever has them gave one."""
    if isinstance(source, (str, os.PathLike)):
        return str(source)
    return str(getattr(source, "name", "standard input"))


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


WITHOUT_WARNINGS = _WithoutWarnings()


def _open(file: BinaryIO) -> Image.Image:
    # Pillow's limit of pixels is there for strangers' uploads, warns at 89 megapixels and refuses
    # 179, and is one for the process: it is away for the moment that opening takes, and one reader
    # at a time takes it away, so that none finds, and puts back, another one's None.
    with _OPENING:
        limit_px, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            # All plugins are loaded, 40 ms, only where the common ones do not know the file.
            for load_plugins in (Image.preinit, Image.init, _load_jxl):
                load_plugins()
                with suppress(UnidentifiedImageError):
                    return Image.open(file, formats=[n for n in _READ if n in Image.OPEN])
        finally:
            Image.MAX_IMAGE_PIXELS = limit_px
    raise UnidentifiedImageError


def _load_jxl() -> None:
    if ".jxl" in FORMATS:
        require("pillow_jxl", "JPEG XL")


def _require_readable(facts: JxlFacts, name: str, size_bytes: int, max_pixels: int | None) -> None:
    """Refuse a JPEG XL file of which the plugin would lose something; it decodes as it opens, so
    its size is asked for here too."""
    if ".jxl" not in FORMATS:
        raise MissingDependencyError(
            f"{name}: JPEG XL needs the package pillow-jxl-plugin, which is not installed. "
            'Install it with: pip install "mirnet-edge[photos]"'
        )
    _require_size((facts.width, facts.height), 1, size_bytes, name, max_pixels)
    if facts.is_animated:
        raise ImageError(f"{name}: an animated JPEG XL, of which one frame would be read")
    if facts.bits > 8 and not facts.is_gray:
        raise ImageError(
            f"{name}: {facts.bits} bits a colour channel, of which reading JPEG XL would drop "
            f"{facts.bits - 8}. Convert it to a 16-bit PNG first"
        )


def _require_size(
    size: tuple[int, int], frames: int, size_bytes: int, name: str, max_pixels: int | None
) -> None:
    width, height = size
    pixels = frames * width * height
    each = f"{frames} frames of " if frames > 1 else ""
    if max_pixels is not None:
        if width * height > max_pixels:
            raise ImageError(
                f"{name}: {width}x{height} are {width * height:,} pixels, more than "
                f"--max-pixels {max_pixels:,}"
            )
    elif pixels > max(_ALWAYS_READ_PX, size_bytes * limit("PIXELS_PER_BYTE")):
        raise ImageError(
            f"{name}: {each}{width}x{height} pixels in {size_bytes:,} bytes are made to fill "
            f"memory; {how_to_lift('PIXELS_PER_BYTE')}"
        )
