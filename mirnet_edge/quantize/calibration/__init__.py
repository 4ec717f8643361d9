"""Tiles to calibrate INT8 ranges with: few, and as different from one another as the source has."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mirnet_edge.errors import CalibrationError, ImageError
from mirnet_edge.frame_path import Progress
from mirnet_edge.quantize.calibration.diversity import describe, farthest_first
from mirnet_edge.quantize.calibration.given import Given, planes_of
from mirnet_edge.quantize.calibration.sources import (
    Pixels,
    Source,
    Stills,
    Video,
    open_frames,
)

MOST_STILLS, MOST_VIDEO_FRAMES = 1024, 256
"""Candidates looked at; of more, evenly spaced ones. A look at a video's frame is a seek."""
FEWEST_TILES = 8
"""Fewer are named in a warning."""
GRID = 4
"""Positions tried along each side of a frame."""
ALIGNMENT_PX = 4  # tiles of the runtime begin at multiples of it
ALIKE = 0.02
"""Frames nearer than this (see `describe`) count as one."""
PLAIN = 1.5 / 255
"""A tile whose values deviate less from their mean is nearly constant."""
NAMED = 3


@dataclass(frozen=True, eq=False)
class CalibrationSet:
    """Tiles for calibration, and what is wrong with them.

    Attributes:
        tiles: (N, planes, H, W) float32, what the network is given; values in [0, 1], beyond it
            where noise was added. The last plane is that of the noise level, where the network
            takes one.
        targets: (N, C, H, W), the clean pictures of which the tiles were made; None where they
            are those pictures themselves.
        names: of the frame each tile was cut from, and where in it.
        warnings: sentences for the user: too few or too uniform images, smaller ones than the
            tile, unreadable ones.
    """

    tiles: NDArray[np.float32]
    targets: NDArray[np.float32] | None
    names: tuple[str, ...]
    warnings: list[str] = field(default_factory=list)

    @cached_property
    def sha256(self) -> str:
        """Of the tiles' shape and values."""
        return tiles_sha256(self.tiles)

    @classmethod
    def open(
        cls,
        source: Source = None,
        *,
        tile: tuple[int, int] = (256, 256),
        count: int = 16,
        sigma: float | Sequence[float] | None = None,
        seed: int = 0,
        in_channels: int = 3,
        noise_level: bool = False,
        scale: int = 1,
        progress: Progress | None = None,
    ) -> CalibrationSet:
        """Choose frames that differ, and cut tiles from them as the runtime does.

        Of up to 1024 files or arrays, or 256 frames of a video, evenly spaced over all there are,
        ``count`` are chosen, each the one least like those before it (see `diversity`). One tile
        is cut from each, several where there are fewer frames than ``count``, again where the
        picture is least like the tiles before. A frame smaller than the tile is mirrored at its
        right and bottom border.

        Args:
            source: None for the bundled set; a folder (with all below it), a glob pattern, an
                image or video file; or a sequence of (H, W, 3) uint8 frames and image files.
            tile: (height, width) in pixels.
            count: tiles wanted; there may be fewer.
            sigma: standard deviation of white Gaussian noise to add, in units of 1/255, or several
                that the tiles take in turn; None leaves the frames as they are. Every other tile is
                then clamped and rounded as a camera's frame is: the share of them that training
                clips (`frames.noise.CLIPPED_SHARE`).
            seed: of the first choice and the noise; the same seed gives the same set.
            in_channels: of the network. Files are shown to a gray network by their luminance.
            noise_level: whether the network takes a plane of it (see `Given`).
            scale: of a network for super-resolution, which is given the tile made smaller by it
                and enlarged again.
            progress: called with (frames looked at, frames).

        Raises:
            CalibrationError: no images, none readable, an array that is no frame, arguments that
                cannot be, or a bundled image that its manifest does not describe.
            MissingDependencyError: a video, and OpenCV is not installed.
        """
        sigmas = () if sigma is None else (sigma,) if isinstance(sigma, (int, float)) else sigma
        _check_arguments(tile, count, sigmas, seed, scale)
        with closing(open_frames(source, in_channels)) as frames:
            seen, unreadable = _survey(frames, in_channels, progress)
            descriptors = np.stack([candidate.descriptor for candidate in seen])
            random = np.random.Generator(np.random.PCG64(seed))
            order, distances = farthest_first(descriptors, count, random)
            chosen = [seen[index] for index in order]
            crops = _cut(frames, chosen, tile, count, in_channels)
        targets = np.stack([planes_of(crop, tile) for _, crop in crops])
        names = tuple(name for name, _ in crops)
        unlike = 1 + sum(distance > ALIKE for distance in distances)
        warnings = _warnings(unreadable, chosen, unlike, targets, names, tile, count)
        given = Given(sigmas, scale, noise_level, seed)
        parts = enumerate(zip(crops, targets))
        tiles = [given.tile(crop, clean, i, len(crops)) for i, ((_, crop), clean) in parts]
        return cls(np.stack(tiles), targets if given.has_targets else None, names, warnings)


def tiles_sha256(tiles: NDArray[np.float32]) -> str:
    """Of the shape and values of (N, C, H, W) tiles, the same on every machine."""
    digest = hashlib.sha256(repr(tuple(map(int, tiles.shape))).encode())
    for tile in tiles:
        digest.update(np.ascontiguousarray(tile, "<f4").data)
    return digest.hexdigest()


def _check_arguments(
    tile: tuple[int, int], count: int, sigmas: Sequence[float], seed: int, scale: int
) -> None:
    noise_is_fine = all(0 <= sigma < math.inf for sigma in sigmas)
    if min(*tile, count) < 1 or seed < 0 or not noise_is_fine:
        told = ", ".join(map(str, sigmas)) or "None"
        raise CalibrationError(
            f"tile={tile}, count={count}, sigma={told}, seed={seed}: tile and count must be "
            "positive, seed and sigma not negative"
        )
    if scale < 1 or any(side % scale for side in tile):
        raise CalibrationError(f"tile={tile}: height and width must be multiples of scale={scale}")


class _Candidate(NamedTuple):
    """A frame that could be read; its size is (height, width)."""

    number: int
    name: str
    size: tuple[int, int]
    descriptor: NDArray[np.float64]


def _survey(
    frames: Stills | Video, in_channels: int, progress: Progress | None
) -> tuple[list[_Candidate], list[str]]:
    """The candidates that can be read, and what is wrong with the others."""
    most = MOST_VIDEO_FRAMES if isinstance(frames, Video) else MOST_STILLS
    count = len(frames.names)
    candidates = np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()
    seen: list[_Candidate] = []
    unreadable: list[str] = []
    for done, index in enumerate(candidates, 1):
        try:
            frame = _with_channels(frames.read(index), in_channels)
        except ImageError as error:
            unreadable.append(str(error))
        else:
            size = (frame.shape[0], frame.shape[1])
            seen.append(_Candidate(index, frames.names[index], size, describe(frame)))
        if progress:
            progress(done, len(candidates))
    if not seen:
        raise CalibrationError(
            f"none of the {len(candidates)} images can be read: {_some(unreadable)}"
        )
    return seen, unreadable


def _with_channels(frame: Pixels, in_channels: int) -> Pixels:
    """(H, W, in_channels): gray shown as equal planes, alpha dropped, RGB to a gray network as its
    luminance."""
    if frame.ndim == 2:
        frame = frame[:, :, None]
    if in_channels not in (1, 3):
        if frame.shape[2] != in_channels:
            raise CalibrationError(
                f"this network takes {in_channels} channels; give frames of shape "
                f"(H, W, {in_channels}), not image files"
            )
        return frame
    colours = frame[:, :, : 1 if frame.shape[2] <= 2 else 3]
    if in_channels == 1 and colours.shape[2] == 3:
        return np.asarray(Image.fromarray(colours).convert("L"))[:, :, None]
    return np.broadcast_to(colours, (*colours.shape[:2], in_channels))


def _cut(
    frames: Stills | Video,
    chosen: Sequence[_Candidate],
    tile: tuple[int, int],
    count: int,
    in_channels: int,
) -> list[tuple[str, Pixels]]:
    """Name and pixels, at most a tile, of ``count`` crops of the chosen frames; fewer where these
    have no more positions."""
    crops: list[tuple[str, Pixels]] = []
    taken: list[NDArray[np.float64]] = []
    # Small frames first, so that larger ones make up for the crops that they lack.
    ordered = sorted(chosen, key=lambda candidate: candidate.size)
    for done, (number, name, size, _) in enumerate(ordered):
        wanted = -(-(count - len(crops)) // (len(ordered) - done))
        frame = _with_channels(frames.read(number), in_channels)
        places = _positions(size, tile, wanted)
        options = [(y, x, frame[y : y + tile[0], x : x + tile[1]]) for y, x in places]
        descriptors = [describe(crop) for _, _, crop in options]
        for _ in range(min(wanted, len(options))):
            best = max(range(len(options)), key=lambda i: _novelty(descriptors[i], taken))
            top, left, crop = options.pop(best)
            taken.append(descriptors.pop(best))
            where = "" if crop.shape == frame.shape else f" at {left},{top}"
            # A copy: of a view, the whole frame would stay in memory.
            crops.append((name + where, crop.copy()))
    return crops


def _novelty(descriptor: NDArray[np.float64], taken: Sequence[NDArray[np.float64]]) -> float:
    """Distance from the nearest taken one; of the first tile, how much there is to see."""
    if not taken:
        return float(np.linalg.norm(descriptor))
    return float(min(np.linalg.norm(descriptor - other) for other in taken))


def _positions(size: tuple[int, int], tile: tuple[int, int], wanted: int) -> list[tuple[int, int]]:
    """Where tiles may begin: a grid over the frame, about half a tile or more apart, so that two of
    them show different things; the middle where there is room for one."""
    side = max(GRID, math.ceil(math.sqrt(wanted)))
    axes = []
    for size_px, tile_px in zip(size, tile):
        room = max(size_px - tile_px, 0)
        points = min(side, 1 + 2 * room // tile_px)
        starts = np.linspace(0, room, points) if points > 1 else np.array([room / 2])
        axes.append(np.unique(starts.astype(int) // ALIGNMENT_PX * ALIGNMENT_PX).tolist())
    return list(itertools.product(*axes))


def _warnings(
    unreadable: Sequence[str],
    chosen: Sequence[_Candidate],
    unlike: int,
    targets: NDArray[np.float32],
    names: Sequence[str],
    tile: tuple[int, int],
    count: int,
) -> list[str]:
    warnings = []
    frames, tiles = len(chosen), len(targets)
    if unreadable:
        warnings.append(f"{len(unreadable)} unreadable, skipped: {_some(unreadable)}")
    if tiles < count:
        warnings.append(f"only {tiles} of {count} tiles: there are too few images, or too small")
    elif frames < count:
        warnings.append(f"{frames} images for {count} tiles: several were cut from one image")
    if tiles < FEWEST_TILES:
        warnings.append(f"{tiles} tiles are few to calibrate with; give {FEWEST_TILES} or more")
    if 1 < frames >= 2 * unlike:
        warnings.append(f"the {frames} chosen images are so alike that they count as {unlike}")
    sizes = [(candidate.name, *candidate.size) for candidate in chosen]
    small = [f"{name} ({w}x{h})" for name, h, w in sizes if h < tile[0] or w < tile[1]]
    if small:
        warnings.append(
            f"{len(small)} smaller than the tile of {tile[1]}x{tile[0]}, mirrored at the border: "
            f"{_some(small)}"
        )
    plain = [name for name, target in zip(names, targets) if target.std((1, 2)).max() < PLAIN]
    if len(plain) > tiles / 4:
        warnings.append(f"{len(plain)} of {tiles} tiles are nearly constant: {_some(plain)}")
    return warnings


def _some(items: Sequence[str]) -> str:
    """The first few, and how many more."""
    more = f" and {len(items) - NAMED} more" if len(items) > NAMED else ""
    return "; ".join(items[:NAMED]) + more
