"""How tests restore a video without a command line, with a function in place of a network."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

from video_samples import NoOp

from mirnet_edge.stream.video.encoding import choose_encoding
from mirnet_edge.stream.video.job import VideoJob, VideoOutcome, VideoSettings, settings_of_run
from mirnet_edge.stream.video.live import open_video
from mirnet_edge.stream.video.parts import Parts
from mirnet_edge.stream.video.pictures import Pictures

Settings = dict[str, Any]


def restore(
    source: Path | str,
    target: Path,
    restorer: Any = None,
    *,
    scale: int = 1,
    encoding: Settings | None = None,
    opening: Settings | None = None,
    anew: bool = False,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
    **settings: Any,
) -> VideoOutcome:
    """Restore as the command line does; ``settings`` are of `VideoSettings`."""
    chosen = VideoSettings(**settings)
    opening = {"begin_s": chosen.begin_s, **(opening or {})}
    reader = open_video(str(source), **opening)
    try:
        how = choose_encoding(reader.facts, target, scale=scale, **(encoding or {}))
        parts = Parts(target, settings_of_run(str(source), how, chosen, {}), anew)
        job = VideoJob(reader, target, parts, how, chosen, scale)
        return job.run(restorer or NoOp(), progress)
    finally:
        reader.close()


def pictures_of(source: Path) -> tuple[Pictures, list[Any]]:
    """The conversion of a video, written as it is read, and its decoded frames."""
    reader = open_video(str(source))
    planes = choose_encoding(reader.facts, source).planes
    frames = [frame.picture for frame in reader.frames()]
    reader.close()
    return Pictures(reader.facts, planes), frames


def seconds(number: float) -> Fraction:
    return Fraction(number).limit_denominator(1000)
