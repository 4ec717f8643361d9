"""The parts of a restored video become one file, with the sound, subtitles, chapters and metadata
of its source, copied."""

from __future__ import annotations

import errno
import heapq
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

from mirnet_edge._files import atomic_path
from mirnet_edge._imports import require
from mirnet_edge.errors import OutputError, first_line
from mirnet_edge.stream.video.encoding import Encoding, add_stream, format_of
from mirnet_edge.stream.video.facts import VideoFacts, picture_stream

Piece = tuple[Path, int]
"""A part, and the PTS of its first frame."""
Packets = Iterator[tuple[float, Any]]
"""Packets in the order of decoding, each after its time in seconds."""
COPIED = ("audio", "subtitle", "attachment")
HOLD_TURNS = ("mp4", "mov", "matroska")
OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS,
               errno.EIO)  # fmt: skip
QUICKTIME = ("mp4", "mov")
UNPROBED = {"probesize": "32", "codec_whitelist": "none"}
"""Of parts the headers tell all that is asked; FFmpeg would decode frames of each to learn more."""
OF_THE_OLD_FILE = ("encoder", "duration", "major_brand", "minor_version", "compatible_brands",
                   "bps", "number_of_", "_statistics", "vendor_id")  # fmt: skip
"""Beginnings of metadata that tell of how the source was written."""


@dataclass(frozen=True)
class Span:
    """What of the source's clock a result shows, which then begins at 0; times in seconds, None
    where no end was asked for."""

    begin_s: Fraction
    end_s: Fraction | None


@dataclass(frozen=True)
class Whole:
    """One file that parts are joined to.

    Attributes:
        target: replaced if it is there.
        encoding: how all parts were written.
        facts: of the source's video.
        last_duration: of the last frame, in ticks.
        source: file whose other streams are copied; None copies nothing.
        span: what of the source it shows; None is all, on the source's clock.
        copied, left_out: other streams of the source, once it is joined.
    """

    target: Path
    encoding: Encoding
    facts: VideoFacts
    last_duration: int
    source: str | None = None
    span: Span | None = None
    copied: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def join(self, parts: Sequence[Piece]) -> None:
        """Write the file, whole or not at all.

        Raises:
            OutputError: the container does not hold this video, or it cannot be written.
        """
        av = require("av", "reading and writing videos")
        with atomic_path(self.target) as temporary:
            try:
                self._try(av, temporary, parts, self.source)
            except OutputError as error:
                if not self.copied:
                    raise
                # Better a restored video without sound than none after hours of work.
                self.left_out.append(f"{', '.join(self.copied)}: {error}")
                self.copied.clear()
                self._try(av, temporary, parts, None)

    def _try(self, av: Any, path: Path, parts: Sequence[Piece], source: str | None) -> None:
        # Bit-exact: without random numbers and versions, so that equal runs make equal files.
        options = {"fflags": "+bitexact"}
        try:
            with av.open(str(path), "w", format=self._format, container_options=options) as output:
                self._write(av, output, parts, source)
        except (av.FFmpegError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in OF_THE_DISK:
                raise OSError(error.errno, os.strerror(error.errno)) from error
            raise OutputError(
                f"cannot write {self.target}: {first_line(error)}; try .mkv, or another --codec"
            ) from error

    @property
    def _format(self) -> str:
        return format_of(self.target)

    def _write(self, av: Any, output: Any, parts: Sequence[Piece], source: str | None) -> None:
        facts = self.facts
        with av.open(str(parts[0][0]), options=UNPROBED) as first:
            size = first.streams.video[0].height, first.streams.video[0].width
        video = add_stream(output, self.encoding, facts, size)
        if video.codec.canonical_name == "hevc" and self._format in QUICKTIME:
            video.codec_context.codec_tag = "hvc1"  # Apple's players know no other
        if facts.display_matrix is not None:
            video.set_display_matrix(facts.display_matrix)
            if self._format not in HOLD_TURNS:
                self.left_out.append(
                    f"turn by {facts.turn} degrees: {self.target.suffix} holds none"
                )
        packets = [self._video_packets(av, parts, video)]
        if source is None:
            _mux(output, packets)
            return
        with av.open(source) as original:
            shown = picture_stream(original)
            output.metadata.update(_kept(original.metadata))
            video.metadata.update(_kept(shown.metadata))
            video.disposition = shown.disposition.value
            if self.span is None:
                output.set_chapters(original.chapters())
            copies = self._add_copies(output, original)
            packets.append(self._copied_packets(av, original, copies))
            _mux(output, packets)

    def _video_packets(self, av: Any, parts: Sequence[Piece], stream: Any) -> Packets:
        """Packets of all parts with decoding times of one clock: each encoder began its own, and
        where the frame rate varies they may overlap."""
        time_base = self.facts.time_base
        shift = 0 if self.span is None else round(self.span.begin_s / time_base)
        decoded = [pts for _, pts in _packets(av, parts, time_base)]
        shown = sorted(decoded)
        rank = {pts: number for number, pts in enumerate(shown)}
        delay = max(number - rank[pts] for number, pts in enumerate(decoded))
        step = min((after - before for before, after in pairwise(shown)), default=1)
        duration_of = {before: after - before for before, after in pairwise(shown)}
        duration_of[shown[-1]] = self.last_duration
        if self._format in QUICKTIME:
            # Such a container is as long as all packets one after the other: the last one is as
            # long as the others leave of it.
            end = shown[-1] + self.last_duration
            duration_of[decoded[-1]] = end - shown[-1 - delay] - delay * step
        for number, (packet, pts) in enumerate(_packets(av, parts, time_base)):
            # The n-th shown is decoded `delay` frames before that: never later than any packet.
            early = number - delay
            dts = shown[early] if early >= 0 else shown[0] + early * step
            packet.stream, packet.time_base = stream, time_base
            packet.pts, packet.dts = pts - shift, dts - shift
            packet.duration = duration_of[pts]
            yield float(dts * time_base), packet

    def _add_copies(self, output: Any, original: Any) -> dict[int, Any]:
        """Add streams for what is copied, by the index of the original's."""
        copies: dict[int, Any] = {}
        for stream in original.streams:
            if stream.index == picture_stream(original).index:
                continue
            name = _named(stream)
            if stream.type == "attachment" and self._format != "matroska":
                self.left_out.append(f"{name}: {self.target.suffix} does not hold it; .mkv does")
                continue
            if stream.type not in COPIED:
                self.left_out.append(f"{name}: only sound, subtitles and attachments are copied")
                continue
            try:
                copy = output.add_stream_from_template(stream)
            except ValueError:
                self.left_out.append(f"{name}: {self.target.suffix} does not hold it; .mkv may")
                continue
            copy.time_base = stream.time_base
            copy.metadata.update(_kept(stream.metadata))
            copy.disposition = stream.disposition.value
            copies[stream.index] = copy
            self.copied.append(name)
        return copies

    def _copied_packets(self, av: Any, original: Any, copies: dict[int, Any]) -> Packets:
        streams = [stream for stream in original.streams if stream.index in copies]
        span = self.span or Span(Fraction(0), None)
        # What comes before 0, as the priming of sound does, would move everything in a container
        # that has no negative times; it is kept where the source is of the same kind.
        keeps_all = not span.begin_s and self._format in original.format.name
        last_dts: dict[int, int] = {}
        packets = original.demux(streams) if streams else iter(())
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError:
                return  # of a damaged file, what is whole
            if packet is None:
                return
            # Where a clock goes back no container takes it.
            if packet.dts is None or packet.dts <= last_dts.get(
                packet.stream_index, packet.dts - 1
            ):
                continue
            last_dts[packet.stream_index] = packet.dts
            at_s = (packet.dts if packet.pts is None else packet.pts) * packet.time_base
            too_late = span.end_s is not None and at_s >= span.end_s
            if too_late or (at_s < span.begin_s and not keeps_all):
                continue
            shift = round(span.begin_s / packet.time_base)
            packet.dts -= shift
            if packet.pts is not None:
                packet.pts -= shift
            packet.stream = copies[packet.stream_index]
            yield float(at_s), packet


def _mux(output: Any, packets: Sequence[Packets]) -> None:
    for _, packet in heapq.merge(*packets, key=lambda item: item[0]):
        output.mux_one(packet)


def _packets(av: Any, parts: Sequence[Piece], time_base: Fraction) -> Iterator[tuple[Any, int]]:
    """Packets in the order of decoding, and their PTS in ticks of ``time_base``."""
    for path, first_pts in parts:
        with av.open(str(path), options=UNPROBED) as container:
            for packet in container.demux(video=0):
                if packet.pts is not None:
                    yield packet, first_pts + round(packet.pts * packet.time_base / time_base)


def _named(stream: Any) -> str:
    """What a stream is, for a message."""
    if stream.type == "attachment":
        return f"attachment ({stream.name or 'without a name'})"
    context = stream.codec_context
    codec = "unknown" if context is None else context.codec.canonical_name
    return f"{stream.type} ({codec})"


def _kept(metadata: dict[str, str]) -> dict[str, str]:
    return {
        name: text
        for name, text in metadata.items()
        if not name.lower().startswith(OF_THE_OLD_FILE)
    }
