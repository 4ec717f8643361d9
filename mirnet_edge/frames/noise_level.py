"""Which noise level a frame is restored for: the caller's, or an estimate that is steady over a
stream. It knows nothing of where a frame lies: a path cuts the sample crops and estimates them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from numbers import Real
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.errors import ConfigError, FrameError
from mirnet_edge.facts import ModelFacts
from mirnet_edge.frames import noise_estimator
from mirnet_edge.frames.layout import MAXIMUM, Region, reflected
from mirnet_edge.frames.noise_estimator import CROP_PX, MOST_LEVEL, load_estimator

Noise = float | Literal["auto"]
Crops = NDArray[np.float32]
"""(n, 3, 64, 64) in [0, 1], RGB; gray as three equal planes."""
Estimate = Callable[[], float]
"""Waits for an estimate that was begun, and returns the level."""

MOST_CROPS = 16
EVERY = 8
"""Frames of a stream from one estimate to the next."""
WEIGHT = 0.25
"""Of a new estimate in a stream's level, where it is near the level so far."""
JUMP, JUMP_SHARE = 2.0, 0.25
"""An estimate is not near, and is taken as it is, if it is farther away than both: in units of
1/255, and as a share of the level so far."""
BRIGHTNESS_STEP = 8
"""Every eighth row and column of a region tells how bright it is."""
CUT = 0.06
"""Mean change of the brightness of the regions, in [0, 1], from which the scene is a new one; as of
`pooling.scene_cut`, which measured it."""


def sample_regions(height: int, width: int) -> list[Region]:
    """Choose where a frame is sampled: at most `MOST_CROPS` squares of 64 pixels in the middles of
    equal parts, on a grid as square as the frame allows. Their origins are even, so that pixels
    that share chroma stay together. Beyond the end of a frame that is smaller, they go on in its
    reflection (see `frames.layout.reflected`)."""
    most_down, most_across = max(height // CROP_PX, 1), max(width // CROP_PX, 1)
    down = min(max(round((MOST_CROPS * height / width) ** 0.5), 1), most_down, MOST_CROPS)
    across = min(MOST_CROPS // down, most_across)
    down = min(MOST_CROPS // across, most_down)
    return [
        (slice(top, top + CROP_PX), slice(left, left + CROP_PX))
        for top in _origins(height, down)
        for left in _origins(width, across)
    ]


def _origins(length: int, count: int) -> list[int]:
    middles = ((2 * part + 1) * length // (2 * count) for part in range(count))
    last = max(length - CROP_PX, 0)
    return [min(max(middle - CROP_PX // 2, 0), last) // 2 * 2 for middle in middles]


def brightness_of(frame: NDArray[Any], regions: Sequence[Region]) -> NDArray[Any]:
    """Measure how bright regions of a frame are, (n,) in [0, 1], by a few pixels of each: (H, W) or
    (H, W, C), or Y'CbCr whose luma comes first."""
    few = (frame[region][::BRIGHTNESS_STEP, ::BRIGHTNESS_STEP] for region in regions)
    return np.array([pixels.mean() for pixels in few]) / MAXIMUM[frame.dtype]


def estimate_noise(planes: NDArray[np.float32]) -> float:
    """Estimate the noise level of a picture.

    Args:
        planes: (3, H, W), RGB, or (1, H, W), gray, float32 in [0, 1]; any size.

    Returns:
        The RMS of its noise in units of 1/255, from 0 to 100.

    Raises:
        FrameError: no such planes.
        CheckpointError: the estimator's weights are missing or damaged.
    """
    if planes.ndim != 3 or planes.shape[0] not in (1, 3) or 0 in planes.shape:
        raise FrameError(f"planes of shape {planes.shape}: need (3, H, W), or (1, H, W) of gray")
    height, width = planes.shape[1:]
    crops = np.stack(
        [
            planes[:, _places(rows, height)[:, None], _places(columns, width)]
            for rows, columns in sample_regions(height, width)
        ]
    )
    return level_of(np.broadcast_to(crops, (len(crops), 3, CROP_PX, CROP_PX)))


def _places(span: slice, length: int) -> NDArray[np.int64]:
    return reflected(np.arange(span.start, span.stop), length)


def level_of(crops: Crops) -> float:
    """The level of the frame that crops are of: the mean of theirs.

    Raises:
        CheckpointError: the estimator's weights are missing or damaged.
    """
    return float(load_estimator(noise_estimator.WEIGHTS).levels(crops).mean())


def checked_noise(noise: object) -> float | None:
    """Check what a caller asks for, and return the level; None for "auto".

    Raises:
        ConfigError: neither "auto" nor a number of [0, 100].
    """
    if isinstance(noise, str) and noise == "auto":
        return None
    # NaN is in no range; True and False are numbers for Python alone.
    if isinstance(noise, Real) and not isinstance(noise, bool):
        level = float(noise)
        if 0 <= level <= MOST_LEVEL:
            return level
    raise ConfigError(
        f'noise={noise!r}: need "auto", or the level of the noise in units of 1/255, from 0 to '
        f"{MOST_LEVEL:g}"
    )


class NoiseLevel:
    """Settles the level of one frame after the other, for both paths of a `Restorer`.

    A single frame is always estimated anew, and so is the first of a stream, of a scene, or of
    another size. From there on every `EVERY`-th frame is, and its estimate counts from the frame
    after it, which need not wait for it: the same frames always get the same levels. Estimates
    that are near are averaged, so that the picture does not flicker; a change of many levels is
    followed at once.

    Frames of one stream may lie on several devices; they are settled one after another.

    Args:
        noise: "auto" estimates; a number is the level of every frame.

    Raises:
        ConfigError: see `checked_noise`.
        CheckpointError: "auto", and the estimator's weights are missing or damaged.
    """

    def __init__(self, noise: Noise = "auto") -> None:
        self._lock = threading.RLock()  # a level may be told while a stream goes on
        self._stream: object = None
        self._brightness: NDArray[Any] | None = None
        self._level = 0.0
        self._age = 0
        self.tell(noise)

    @property
    def estimates(self) -> bool:
        """Whether the level is estimated, and not told."""
        return self._told is None

    @classmethod
    def for_network(cls, facts: ModelFacts, noise: Noise) -> NoiseLevel | None:
        """What settles the level for a network; None for one that is not told it.

        Raises:
            ConfigError: as above; a number for a network that is not told it; "auto" for one of
                frames that are neither gray nor colour.
        """
        if facts.noise_level:
            if noise == "auto" and facts.in_channels not in (1, 3):
                raise ConfigError(
                    f'noise="auto" is for gray and colour frames, and this network takes '
                    f"{facts.in_channels} channels; tell it the level, as noise=10"
                )
            return cls(noise)
        if checked_noise(noise) is not None:
            raise ConfigError(
                f"noise={noise!r}, but this network ({facts.task}, {facts.preset}) is not told a "
                "noise level; leave noise out, or take a model that is"
            )
        return None

    def tell(self, noise: Noise) -> None:
        """Settle the frames from the next one on by ``noise``; raises as making one does."""
        told = checked_noise(noise)
        if told is None:
            load_estimator(noise_estimator.WEIGHTS)  # said now, and not at the first frame
        with self._lock:
            self._told = told
            self._before: tuple[object, Hashable] | None = None
            self._begun: Estimate | None = None

    def begin(self, stream: object) -> None:
        """Say of which stream the next frame is, by any object that is its own; None for a frame
        that stands alone."""
        self._stream = stream

    def of(
        self,
        begin: Callable[[], Estimate],
        kind: Hashable = None,
        brightness: Callable[[], NDArray[Any]] | None = None,
    ) -> float:
        """Settle the level of the next frame, in units of 1/255.

        Args:
            begin: begins to estimate the level of its `sample_regions`, and returns what waits for
                it, which is called before ``begin`` is again, or never; called only where an
                estimate is needed.
            kind: of the frame: its shape and dtype.
            brightness: returns the mean of some pixels of each region, in [0, 1], by which a new
                scene is told; called for each frame of a stream. None does without.
        """
        with self._lock:
            return self._settled(begin, kind, brightness) if self._told is None else self._told

    def _settled(
        self,
        begin: Callable[[], Estimate],
        kind: Hashable,
        brightness: Callable[[], NDArray[Any]] | None,
    ) -> float:
        now = (self._stream, kind)
        is_new = self._stream is None or self._before != now
        if self._stream is not None and brightness is not None:
            was, self._brightness = self._brightness, brightness()
            if not is_new and was is not None:
                is_new = bool(np.abs(self._brightness - was).mean() > CUT)
        self._before = None  # until the level is known: what fails on the way leaves none
        begun, self._begun = self._begun, None
        if is_new:
            self._level, self._age = begin()(), 0
        else:
            if begun is not None:
                self._follow(begun())
            if self._age % EVERY == 0:
                self._begun = begin()
        self._before = now
        self._age += 1
        return self._level

    def _follow(self, found: float) -> None:
        moved = found - self._level
        is_near = abs(moved) <= max(JUMP, JUMP_SHARE * self._level)
        self._level += WEIGHT * moved if is_near else moved
