"""A picture file in, a restored one out: animations and pages frame by frame."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mirnet_edge._files import make_folder, require_new
from mirnet_edge.errors import OutputError
from mirnet_edge.files.jobs import PIPE, Job
from mirnet_edge.files.settings import FileSettings, PictureOptions
from mirnet_edge.frames.enlarged import enlarged
from mirnet_edge.frames.exif import with_size
from mirnet_edge.frames.formats import FORMATS, kind_of, suffix_of
from mirnet_edge.frames.images import (
    ImageFile,
    encoded,
    is_damaged,
    read_picture,
    to_eight_bits,
    upright_rgb,
    write_image,
    write_whole,
)
from mirnet_edge.frames.moving import (
    MovingFile,
    encoded_animation,
    encoded_pages,
    open_moving,
    require_moving,
)
from mirnet_edge.frames.noise import to_uint8, unit_range

if TYPE_CHECKING:
    from mirnet_edge.frame_path import Progress
    from mirnet_edge.restore import Restorer

Result = dict[str, Any]


def is_kept(path: Path) -> bool:
    """Whether --skip-existing leaves a file as it is: it is there, and whole."""
    is_picture = path.suffix.lower() in FORMATS
    return os.path.lexists(path) and not (is_picture and is_damaged(path))


def picture_restorer(settings: FileSettings) -> Restorer:
    """Open what restores pictures."""
    from mirnet_edge.restore import Restorer

    # A picture with black places is no picture, on a GPU either.
    return Restorer(settings.models, nan="raise", **settings.restoring)


def restore_picture(
    job: Job, restorer: Restorer, options: PictureOptions, progress: Progress
) -> Result:
    """Restore one file, still or moving, and return what is told of it."""
    source: Path | BinaryIO = job.source
    if job.reads_stdin:
        source = io.BytesIO(sys.stdin.buffer.read())
    image = read_picture(source, options.max_pixels)
    if image is None:
        return _restore_moving(job, source, restorer, options, progress)
    restored = restorer(image.pixels, progress=progress)
    target = _target(job, image.format, options)
    restored, after = _fitted(restored, target), _like(image, restored)
    content = encoded(target, restored, after, options.quality)
    _write(job, target, options, content, (image, replace(after, pixels=restored)))
    height, width = image.pixels.shape[:2]
    timings = {
        name: round(value, 3) if isinstance(value, float) else value
        for name, value in asdict(restorer.timings).items()
    }
    return {"width": width, "height": height, "scale": restorer.scale, **timings}


def _restore_moving(
    job: Job,
    source: Path | BinaryIO,
    restorer: Restorer,
    options: PictureOptions,
    progress: Progress,
) -> Result:
    """Restore each picture of a file: pages by themselves, frames as a stream."""
    began = time.perf_counter()
    with open_moving(source, options.max_pixels) as moving:
        target = _target(job, moving.format, options)
        if not moving.is_paged:
            require_moving(target, moving.count)
        first: tuple[ImageFile, ImageFile] | None = None
        pages: list[ImageFile] = []
        for before, after in _restored(moving, restorer):
            first = first or (before, after)
            pages.append(after)
            progress(len(pages), moving.count)
        if first is None:
            raise OutputError(f"cannot write {target}: {job.name} holds no picture")
        if moving.is_paged:
            content = encoded_pages(target, pages)
        else:
            frames = [page.pixels for page in pages]
            content = encoded_animation(target, frames, moving, first[1].exif, options.quality)
    _write(job, target, options, content, first)
    height, width = first[0].pixels.shape[:2]
    return {
        "width": width,
        "height": height,
        "scale": restorer.scale,
        "frames": len(pages),
        "ms": round(1000 * (time.perf_counter() - began), 3),
    }


def _restored(moving: MovingFile, restorer: Restorer) -> Iterator[tuple[ImageFile, ImageFile]]:
    """Each picture before and after."""
    if moving.is_paged:
        for page in moving:
            yield page, _like(page, restorer(page.pixels))
        return
    before: list[ImageFile] = []

    def arrays() -> Iterator[NDArray[Any]]:
        for frame in moving:
            if not before:
                before.append(frame)
            yield frame.pixels

    with restorer.stream(arrays()) as stream:
        for restored in stream:
            yield before[0], _like(before[0], restored)


def _like(image: ImageFile, restored: NDArray[Any]) -> ImageFile:
    """A restored picture with what the given one carries, but its own size."""
    exif, (height, width) = image.exif, restored.shape[:2]
    if exif and restored.shape[:2] != image.pixels.shape[:2]:
        exif = with_size(exif, width, height)
    return ImageFile(restored, exif, image.icc_profile, image.format)


def _target(job: Job, form: str | None, options: PictureOptions) -> Path:
    """Where a picture goes; for standard output a name that says its format."""
    if not job.writes_stdout:
        return job.target
    if options.form is not None:
        return Path(PIPE + options.form)
    suffix = job.source.suffix.lower()
    return Path(PIPE + (suffix if suffix in FORMATS else suffix_of(form)))


def _fitted(pixels: NDArray[Any], target: Path) -> NDArray[Any]:
    """Eight bits for a format that has no more."""
    form = FORMATS.get(target.suffix.lower())
    is_deeper = form is not None and kind_of(pixels) not in form.holds
    return to_eight_bits(pixels) if is_deeper else pixels


def _write(
    job: Job,
    target: Path,
    options: PictureOptions,
    content: bytes,
    shown: tuple[ImageFile, ImageFile],
) -> None:
    """Write a result and its comparison, where they are not there and to be kept."""
    if job.compare and not (options.keep and is_kept(job.compare)):
        make_folder(job.compare.parent)
        write_image(job.compare, side_by_side(*shown), overwrite=options.replaces)
    # The picture comes last: where it is, a run that was killed had done the whole job.
    if job.writes_stdout:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    elif not (options.keep and is_kept(target)):
        make_folder(target.parent)
        require_new(target, options.replaces)
        write_whole(target, content)


def side_by_side(before: ImageFile, after: ImageFile) -> NDArray[np.uint8]:
    """Both pictures upright, left and right of a white line; the first enlarged bicubically to the
    height of the second."""
    left, right = upright_rgb(before), upright_rgb(after)
    scale = right.shape[0] // left.shape[0]
    if scale > 1:
        planes = enlarged(unit_range(left).transpose(2, 0, 1), scale)
        left = to_uint8(planes.transpose(1, 2, 0))
    line = np.full((left.shape[0], 4, 3), 255, np.uint8)
    return np.concatenate([left, line, right], axis=1)
