"""Files of several pictures: animations (GIF, WebP, APNG, AVIF) and TIFFs of pages, in and out."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mirnet_edge.errors import ImageError, OutputError
from mirnet_edge.frames.exif import exif_of
from mirnet_edge.frames.formats import FORMATS, SUFFIXES
from mirnet_edge.frames.images import ImageFile, decoded, require_held
from mirnet_edge.frames.opened import Opened, Source, opened, reading
from mirnet_edge.frames.tiff_pages import TiffPages

_OPAQUE = 255
_GIF_COLOURS, _GIF_CLEAR, _GIF_UNIT_MS = 255, 255, 10
_TO_BACKGROUND = 2
"""Of GIF frames: each is cleared away before the next, which may be clear where it was not."""


@dataclass(eq=False)
class MovingFile:
    """A file of several pictures, to be iterated over once.

    Attributes:
        count: of its pictures.
        is_paged: they are pages, each a picture of its own size and kind; else frames of one size,
            which are given as RGBA.
        loops: how often an animation is played, 0 for ever; None where its format does not say.
        has_cover: its first frame is shown by what plays no animations, and else not (APNG).
        durations_ms: of the frames that were read.
    """

    count: int
    is_paged: bool
    width: int
    height: int
    loops: int | None
    has_cover: bool
    exif: bytes | None
    icc_profile: bytes | None
    format: str
    _opened: Opened
    durations_ms: list[float] = field(default_factory=list)

    def __iter__(self) -> Iterator[ImageFile]:
        image = self._opened.image
        for number in range(self.count):
            with reading(self._opened.name):
                image.seek(number)
                if self.is_paged:
                    self._opened.require_room()
                    picture = decoded(self._opened, number)
                else:
                    # Pillow lays frames that change a part of the picture over those before.
                    pixels = np.asarray(image.convert("RGBA"))
                    picture = ImageFile(pixels, self.exif, self.icc_profile, self.format)
                self.durations_ms.append(float(image.info.get("duration", 0)))
            yield picture


@contextmanager
def open_moving(source: Source, max_pixels: int | None = None) -> Iterator[MovingFile]:
    """Open a file of several pictures.

    Raises:
        ImageError: as by `read_image`, here and while it is read; its frames together exceed the
            memory at hand, or are animated in more than 8 bits a channel.
    """
    with reading(source):
        context = opened(source, max_pixels)
        file = context.__enter__()
    try:
        with reading(source):
            image = file.image
            is_paged = image.format == "TIFF"
            if not is_paged:
                file.require_room(file.frames)
                if ";16" in "".join(str(tile[3]) for tile in getattr(image, "tile", [])):
                    raise ImageError(
                        f"{file.name}: an animation of 16 bits a channel, of which reading would "
                        "drop 8; extract its frames to one file each"
                    )
            # AVIF does not say it, and what plays it goes on without end.
            loops = 0 if image.format == "AVIF" else image.info.get("loop")
            moving = MovingFile(
                count=file.frames,
                is_paged=is_paged,
                width=image.width,
                height=image.height,
                loops=None if loops is None else int(loops),
                has_cover=bool(image.info.get("default_image", False)),
                exif=None if is_paged else exif_of(image),
                icc_profile=image.info.get("icc_profile"),
                format=image.format or "",
                _opened=file,
            )
        yield moving
    finally:
        context.__exit__(None, None, None)


def encoded_pages(path: Path, pages: Sequence[ImageFile]) -> bytes:
    """What a TIFF of these pages is, each with its EXIF block and profile; errors name ``path``."""
    if FORMATS[path.suffix.lower()].name != "TIFF":
        raise OutputError(
            f"cannot write {path}: {path.suffix} holds no {len(pages)} pages; use .tif"
        )
    file = io.BytesIO()
    try:
        tiff = TiffPages(file)
        for page in pages:
            require_held(path, page.pixels)
            tiff.add(page.pixels, page.exif, page.icc_profile)
    except ValueError as error:
        raise OutputError(f"cannot write {path}: {error}; give fewer pages") from error
    return file.getvalue()


def require_moving(path: Path, count: int) -> None:
    """Refuse the name of a format that holds no animation."""
    form = FORMATS.get(path.suffix.lower())
    if form is None or not form.moves:
        those = ", ".join(suffix for suffix in (*SUFFIXES, ".gif") if FORMATS[suffix].moves)
        raise OutputError(
            f"cannot write {path}: {path.suffix} holds no {count} frames; use one of {those}"
        )


def encoded_animation(
    path: Path,
    frames: Sequence[NDArray[Any]],
    moving: MovingFile,
    exif: bytes | None = None,
    quality: int | None = None,
) -> bytes:
    """What an animation of RGBA frames is in the format of the path's suffix, which errors name:
    with the durations, loops and profile of the file that they are from.

    PNG, WebP and AVIF as `write_image` has them, GIF of up to 255 colours a frame. Equal frames
    that follow each other may become one of their duration.
    """
    require_moving(path, len(frames))
    form, durations = FORMATS[path.suffix.lower()], list(moving.durations_ms)
    frames = list(frames)
    options = form.save_options(quality)
    options |= {} if moving.loops is None else {"loop": moving.loops}
    if form.name == "PNG":
        # Neither blended nor cleared: each frame is what is seen.
        options |= {"blend": 0, "disposal": 0, "default_image": moving.has_cover}
        options.setdefault("loop", 1)  # Pillow's own default is without end
    if moving.has_cover:
        del durations[0]
        if form.name != "PNG":
            del frames[0]
    clear = any((frame[..., 3] < _OPAQUE).any() for frame in frames)
    if form.name == "GIF":
        pictures = [_gif_frame(frame) for frame in frames]
        options |= {"disposal": _TO_BACKGROUND} if clear else {}
    else:
        pictures = [Image.fromarray(frame if clear else frame[..., :3]) for frame in frames]
    if form.name == "WEBP":
        options = {"loop": 1, **options}
        options.pop("exact", None)
    if form.name != "PNG":
        durations = _whole(durations, _GIF_UNIT_MS if form.name == "GIF" else 1)
    options |= {"exif": exif} if exif and form.name != "GIF" else {}
    if moving.icc_profile and form.name != "GIF":
        options["icc_profile"] = moving.icc_profile
    file = io.BytesIO()
    try:
        pictures[0].save(
            file,
            form.name,
            save_all=True,
            append_images=pictures[1:],
            duration=durations,
            **options,
        )
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, IndexError) as error:
        raise OutputError(f"cannot write {path}: {error}; try .png") from error
    return file.getvalue()


def _whole(durations: Sequence[float], unit_ms: int) -> list[float]:
    """The durations in whole units, so that no frame comes later than half of one; none that was
    more than nothing becomes nothing, which players take for a tenth of a second."""
    ends = np.rint(np.cumsum([0, *durations]) / unit_ms).astype(int) * unit_ms
    steps = np.diff(ends).tolist()
    return [max(step, unit_ms) if given else 0 for step, given in zip(steps, durations)]


def _gif_frame(frame: NDArray[np.uint8]) -> Image.Image:
    """A palette of 255 colours, and one entry that is clear where alpha is less than half."""
    picture = Image.fromarray(frame[..., :3]).quantize(_GIF_COLOURS, Image.Quantize.MEDIANCUT)
    if (frame[..., 3] < _OPAQUE // 2 + 1).any():
        indices = np.array(picture)
        indices[frame[..., 3] < _OPAQUE // 2 + 1] = _GIF_CLEAR
        palette = picture.getpalette() or []
        picture = Image.fromarray(indices)
        picture.putpalette([*palette, *[0] * (768 - len(palette))])
        picture.info["transparency"] = _GIF_CLEAR
    return picture
