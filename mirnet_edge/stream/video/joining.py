"""The parts of a restored video become one file, with the sound, subtitles, chapters and metadata
of its source, copied."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from mirnet_edge._files import atomic_path
from mirnet_edge._imports import require
from mirnet_edge.errors import OutputError, first_line
from mirnet_edge.stream.video.encoding import Encoding, add_stream, format_of
from mirnet_edge.stream.video.facts import VideoFacts

COPIED = ("audio", "subtitle", "attachment")
OF_THE_OLD_FILE = ("encoder", "duration", "major_brand", "minor_version", "compatible_brands",
                   "bps", "number_of_", "_statistics", "vendor_id")  # fmt: skip
"""Beginnings of metadata that tell of how the source was written."""


Piece = tuple[Path, int]


@dataclass(frozen=True)
class Joined:
    """What became of the other streams of a source: what was copied, what was left out and why."""

    copied: list[str]
    left_out: list[str]


def join(
    parts: Sequence[Piece],
    target: Path,
    encoding: Encoding,
    facts: VideoFacts,
    *,
    last_duration: int,
    source: str | None = None,
    span: tuple[Fraction, Fraction | None] | None = None,
) -> Joined:
    """Join parts to one file, which is whole or not there.

    Args:
        parts: in their order, each with the PTS of its first frame.
        target: replaced if it is there.
        encoding: how all of them were written.
        facts: of the source's video.
        last_duration: of the last frame, in ticks.
        source: file whose other streams are copied; None copies nothing.
        span: (begin, end) in seconds of the source's clock that the result shows; it begins at 0
            then, and None for the end is the source's.

    Raises:
        OutputError: the container does not hold this video, or it cannot be written.
    """
    av = require("av", "reading and writing videos")
    with atomic_path(target) as temporary:
        try:
            # Bit-exact: without random numbers and versions, so that equal runs make equal files.
            options = {"fflags": "+bitexact"}
            kind = format_of(target)
            with av.open(str(temporary), "w", format=kind, container_options=options) as output:
                return _write(av, output, parts, target, encoding, facts, last_duration, source, span)
        except (av.FFmpegError, ValueError) as error:
            if isinstance(error, OSError) and error.errno:
                raise OSError(error.errno, os.strerror(error.errno)) from error
            raise OutputError(
                f"cannot write {target}: {first_line(error)}; try .mkv, or another --codec"
            ) from error


def _write(
    av: Any,
    output: Any,
    parts: Sequence[Piece],
    target: Path,
    encoding: Encoding,
    facts: VideoFacts,
    last_duration: int,
    source: str | None,
    span: tuple[Fraction, Fraction | None] | None,
) -> Joined:
    begin_s, end_s = span or (Fraction(0), None)
    video = _add_video(av, output, parts[0][0], encoding, facts)
    shift = round(begin_s / facts.time_base)
    packets = [
        _video_packets(
            av,
            parts,
            video,
            facts.time_base,
            last=last_duration,
            shift=shift,
            summed=format_of(target) in ("mp4", "mov"),
        )
    ]
    joined = Joined([], [])
    if source is not None:
        with av.open(source) as original:
            output.metadata.update(_kept(original.metadata))
            video.metadata.update(_kept(original.streams.video[0].metadata))
            video.disposition = original.streams.video[0].disposition
            copies = _add_copies(output, original, target, joined)
            if span is None and not set(original.format.name.split(",")) & {"rtsp"}:
                output.set_chapters(original.chapters())
            kind = format_of(target)
            first_s = begin_s if begin_s or kind not in original.format.name else None
            packets.append(_copied_packets(av, original, copies, begin_s, first_s, end_s))
            _mux_all(output, packets)
    else:
        _mux_all(output, packets)
    return joined


def _mux_all(output: Any, packets: Sequence[Iterator[tuple[float, Any]]]) -> None:
    for _, packet in heapq.merge(*packets, key=lambda item: item[0]):
        output.mux_one(packet)


def _add_video(av: Any, output: Any, part: Path, encoding: Encoding, facts: VideoFacts) -> Any:
    with av.open(str(part)) as first:
        size = first.streams.video[0].height, first.streams.video[0].width
    stream = add_stream(output, encoding, facts, size)
    if facts.display_matrix is not None:
        if not hasattr(stream, "set_display_matrix"):
            raise OutputError(
                f"PyAV {av.__version__} cannot write that a video is shown turned by "
                f"{facts.turn} degrees; install version 18 or later, on Python 3.11 or later"
            )
        stream.set_display_matrix(facts.display_matrix)
    return stream


def _video_packets(
    av: Any,
    parts: Sequence[Piece],
    stream: Any,
    time_base: Fraction,
    *,
    last: int,
    shift: int,
    summed: bool,
) -> Iterator[tuple[float, Any]]:
    """Packets of all parts with decoding times of one clock. Each encoder began its own, and where
    the frame rate varies they may overlap. ``summed`` is of containers whose length is that of all
    packets, one after the other."""
    shown = [pts for _, pts in _packets(av, parts, time_base)]
    order = sorted(shown)
    rank = {pts: number for number, pts in enumerate(order)}
    delay = max(number - rank[pts] for number, pts in enumerate(shown))
    step = min((b - a for a, b in zip(order, order[1:])), default=1)
    duration_of = dict(zip(order, (b - a for a, b in zip(order, order[1:]))))
    if summed:
        # Of the packet that is decoded last, so that the sum is what is shown.
        duration_of[shown[-1]] = order[-1] + last - order[-1 - delay] - delay * step
    for number, (packet, pts) in enumerate(_packets(av, parts, time_base)):
        early = number - delay
        # The n-th shown is decoded `delay` frames before it is shown: never later than any packet.
        dts = order[early] if early >= 0 else order[0] + early * step
        packet.stream, packet.time_base = stream, time_base
        packet.pts, packet.dts = pts - shift, dts - shift
        packet.duration = duration_of.get(pts, last)
        yield float(dts * time_base), packet


def _packets(
    av: Any, parts: Sequence[Piece], time_base: Fraction
) -> Iterator[tuple[Any, int]]:
    """Packets in the order of decoding, and their PTS in ticks of ``time_base``."""
    for path, first_pts in parts:
        with av.open(str(path)) as container:
            for packet in container.demux(video=0):
                if packet.pts is not None:
                    yield packet, first_pts + round(packet.pts * packet.time_base / time_base)


def _add_copies(output: Any, original: Any, target: Path, joined: Joined) -> dict[int, Any]:
    """Add streams for what is copied, by the index of the original's."""
    copies: dict[int, Any] = {}
    others = [stream for stream in original.streams if stream.index != original.streams.video[0].index]
    for stream in others:
        codec = stream.codec_context.name if stream.codec_context is not None else "unknown"
        name = f"{stream.type} ({codec})"
        if stream.type not in COPIED:
            joined.left_out.append(f"{name}: only sound, subtitles and attachments are copied")
            continue
        try:
            copy = output.add_stream_from_template(stream)
        except ValueError:
            joined.left_out.append(f"{name}: {target.suffix} does not hold it; .mkv may")
            continue
        copy.time_base = stream.time_base
        copy.metadata.update(_kept(stream.metadata))
        copy.disposition = stream.disposition
        copies[stream.index] = copy
        joined.copied.append(name)
    return copies


def _copied_packets(
    av: Any,
    original: Any,
    copies: dict[int, Any],
    begin_s: Fraction,
    first_s: Fraction | None,
    end_s: Fraction | None,
) -> Iterator[tuple[float, Any]]:
    """Packets between two times, moved by ``begin_s``. What comes before ``first_s``, as priming of
    sound does before 0, would move everything in a container that has no negative times."""
    streams = [stream for stream in original.streams if stream.index in copies]
    if not streams:
        return
    packets = original.demux(streams)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError:
            return  # of a damaged file, what is whole
        if packet is None:
            return
        if packet.dts is None:
            continue
        time_base = packet.time_base
        at_s = (packet.pts if packet.pts is not None else packet.dts) * time_base
        too_early = first_s is not None and at_s < first_s
        if too_early or (end_s is not None and at_s >= end_s):
            continue
        shift = round(begin_s / time_base)
        packet.dts -= shift
        if packet.pts is not None:
            packet.pts -= shift
        packet.stream = copies[packet.stream_index]
        yield float(at_s), packet


def _kept(metadata: dict[str, str]) -> dict[str, str]:
    return {
        name: text
        for name, text in metadata.items()
        if not name.lower().startswith(OF_THE_OLD_FILE)
    }
