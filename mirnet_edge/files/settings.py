"""How files are restored, as plain values: what a command line gives, and what a worker on another
machine is sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from mirnet_edge.stream.video.parts import FRAMES_OF_A_PART


@dataclass(frozen=True)
class PictureOptions:
    """How pictures are read and written; ``keep`` leaves results that are there and whole."""

    quality: int | None = None
    max_pixels: int | None = None
    form: str | None = None
    keep: bool = False
    overwrite: bool = False

    @property
    def replaces(self) -> bool:
        """Whether a file that is there may be replaced; where whole ones are kept, damaged are."""
        return self.keep or self.overwrite


@dataclass(frozen=True)
class VideoOptions:
    """How videos are read and written: the options of ``restore``, which see, and of how many
    frames their parts are."""

    codec: str | None = None
    crf: float | None = None
    preset: str | None = None
    hardware: bool = False
    begin_s: Fraction = Fraction(0)
    duration_s: Fraction | None = None
    every: int = 1
    preview_s: float | None = None
    reconnect: int = 0
    timeout_s: float = 30.0
    part_frames: int = FRAMES_OF_A_PART


@dataclass(frozen=True)
class FileSettings:
    """All that the results of a run depend on, but its files.

    Attributes:
        models, restoring: arguments of `Restorer`.
        pictures, videos: how each are read and written.
    """

    models: tuple[str, ...]
    restoring: dict[str, Any] = field(default_factory=dict)
    pictures: PictureOptions = PictureOptions()
    videos: VideoOptions = VideoOptions()
