"""The parts of a video, planned by its packets, so that several workers restore it at once.

Each part of a run begins without memory of those before it (see `VideoJob`): what a worker makes of
one is, bit by bit, what a single process makes of it. A worker seeks the key frame before its first
frame and decodes from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mirnet_edge._imports import require
from mirnet_edge.stream.video.facts import picture_stream
from mirnet_edge.stream.video.live import LiveReader
from mirnet_edge.stream.video.parts import Part
from mirnet_edge.stream.video.reader import VideoReader

if TYPE_CHECKING:
    from mirnet_edge.stream.video.job import VideoSettings


def planned_parts(reader: VideoReader | LiveReader, settings: VideoSettings) -> list[Part] | None:
    """The parts of a video file, by the times of its packets; None where these do not tell: of a
    live source, a clock that stands still or goes back, packets without a time or damaged.

    Their last durations are 0: nobody knows them yet.
    """
    if reader.is_live:
        return None
    shown = _shown_pts(reader.name)
    if shown is None:
        return None
    begin, end = reader.begin_pts, None
    if settings.duration_s is not None:
        end = begin + round(settings.duration_s / reader.facts.time_base)
    wanted = [pts for pts in shown if pts >= begin and (end is None or pts < end)]
    return parts_of_frames(wanted, settings.every, settings.part_frames)


def parts_of_frames(shown: Sequence[int], every: int, part_frames: int) -> list[Part]:
    """Cut frames, by their PTS in rising order, of which each ``every``-th is kept."""
    parts, seen, all_kept = [], 0, shown[::every]
    for begin in range(0, len(all_kept), part_frames):
        kept = all_kept[begin : begin + part_frames]
        # A part ends with its last frame; one that is not full, with all that there is.
        end = (begin + part_frames - 1) * every + 1 if len(kept) == part_frames else len(shown)
        part = Part(
            frames=len(kept),
            seen=end - seen,
            first_pts=kept[0],
            last_pts=shown[end - 1],
            last_duration=0,
            lost=0,
            reasons=[],
        )
        parts.append(part)
        seen = end
    return parts


def _shown_pts(name: str) -> list[int] | None:
    """Of all frames of a file, in the order in which they are shown."""
    av = require("av", "reading and writing videos")
    found = []
    try:
        with av.open(name) as container:
            for packet in container.demux(picture_stream(container)):
                if packet.pts is None or packet.is_corrupt:
                    if packet.size:
                        return None
                elif not packet.is_discard:
                    found.append(packet.pts)
    except av.FFmpegError:
        return None
    found.sort()
    return found if len(set(found)) == len(found) else None
