"""A video decoded frame by frame, through PyAV: of a damaged one all that can be, and what is
lost."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from mirnet_edge._imports import require
from mirnet_edge.errors import StreamError, first_line
from mirnet_edge.stream.video.facts import VideoFacts, picture_stream

OPEN_TIMEOUT_S = 30.0
INDEX_AT_ITS_END = (".mp4", ".mov", ".m4v")
PATIENCE_S = 2.0
RESTART_S, LEAST_S = Fraction(1, 5), Fraction(1, 1000)
"""By how much a clock goes back where it begins anew, and how far apart frames are at least: a tick
of Matroska."""
CUT_OFF = "the file ends before its video does: it was cut off"


@dataclass(frozen=True, eq=False)
class Decoded:
    """One frame: when it is shown and how long, in ticks of `VideoFacts.time_base`, and PyAV's
    picture."""

    pts: int
    duration: int
    picture: Any


@dataclass
class Losses:
    """Frames that did not come, and what is known of why."""

    frames: int = 0
    reasons: list[str] = field(default_factory=list)

    def add(self, frames: int, reason: str) -> None:
        """Count frames; a reason is told once."""
        self.frames += frames
        if reason not in self.reasons:
            self.reasons.append(reason)


class VideoReader:
    """Frames of a video file or network stream, read once.

    Args:
        name: a file or URL.
        begin_s: seconds from the start of the file before which no frame is wanted.
        hardware: decode on the GPU or another unit where FFmpeg can, else on the CPU.
        timeout_s: of a network source that gives nothing; None waits for ever.

    Attributes:
        facts: of its first frame.
        lost: up to now.
        guessed: whether the decoder made up some of what it decoded, of a damaged file; what it
            makes up depends on where it began.
        is_live: whether it comes over the network and has no end that is known.

    Raises:
        StreamError: it is no video, is missing, or damaged before the first frame; while it is
            read: a frame of another size. What else fails then is told in `lost`.
        MissingDependencyError: PyAV is not installed.
    """

    def __init__(
        self,
        name: str,
        *,
        begin_s: float = 0,
        hardware: bool = False,
        timeout_s: float | None = None,
    ) -> None:
        self._av = require("av", "reading and writing videos")
        self.name, self.lost, self.ended_by = name, Losses(), ""
        self.guessed = False
        self._hardware, self._timeout_s = hardware, timeout_s
        self._after: int | None = None
        self._decoded = 0
        self._reading = threading.Lock()
        self._container, self._stream = self._open()
        self.is_live = "://" in name and self._container.duration is None
        try:
            pictures = self._decode()
            first = next(pictures, None)
            if first is None:
                why = self.ended_by or "it has none"
                raise StreamError(f"{name}: no frame can be decoded: {why}")
            self.facts = VideoFacts.of(self._container, self._stream, first)
        except BaseException:
            self.close()
            raise
        self.begin_pts = self._start_pts + round(Fraction(begin_s) / self.facts.time_base)
        self._wanted = self.begin_pts
        self._pictures = self._from_the_wanted(first, pictures)

    def go_on_after(self, pts: int, had: int) -> None:
        """Begin behind the frame of this PTS: ``had`` frames are had already, those that are lost
        included. To be called before `frames`."""
        self._after, self._decoded, self._wanted = pts, had, max(self._wanted, pts + 1)

    def frames(self) -> Iterator[Decoded]:
        """All that can be decoded, in the order in which they are shown, each later than the one
        before."""
        facts, last, end = self.facts, self._after, self._start_pts
        step = max(1, round(facts.frame_s / facts.time_base))
        least, shift = math.ceil(LEAST_S / facts.time_base), 0
        for number, picture in enumerate(self._pictures):
            if (picture.width, picture.height) != (facts.width, facts.height):
                raise StreamError(
                    f"{self.name}: a frame of {picture.width}x{picture.height} pixels after those "
                    f"of {facts.width}x{facts.height}; cut the video where its size changes"
                )
            self.guessed |= picture.is_corrupt
            pts = self._start_pts + number * step if picture.pts is None else picture.pts
            duration = picture.duration or step
            end = max(end, pts + duration)
            if pts < self._wanted:
                continue
            self._decoded += 1
            # Broken clocks stand still or go back, which no container takes: by little for a
            # moment, by much where another recording begins.
            shown = pts + shift
            if last is not None and shown <= last:
                if last - shown > RESTART_S / facts.time_base:
                    shift = last + step - pts
                shown = max(pts + shift, last + least)
            yield Decoded(shown, duration, picture)
            last = shown
        self._count_missing(end, step)

    def close(self) -> None:
        """Close the file. A second call does nothing."""
        # Closing under a thread that reads would free what it reads into. A network source may not
        # let go; then the process' end closes it.
        if self._reading.acquire(timeout=PATIENCE_S):
            self._container.close()
            self._reading.release()

    def _open(self) -> tuple[Any, Any]:
        last = None
        for accelerator in [*self._accelerators(), None]:
            try:
                container = self._av.open(
                    self.name,
                    options={"rtsp_transport": "tcp"} if self.name.startswith("rtsp") else {},
                    timeout=(OPEN_TIMEOUT_S, self._timeout_s) if "://" in self.name else None,
                    hwaccel=accelerator,
                )
            except (self._av.FFmpegError, OSError, ValueError) as error:
                last = error
                continue
            stream = picture_stream(container)
            if stream is None:
                container.close()
                raise StreamError(f"{self.name}: there is no video in it")
            stream.thread_type = "AUTO"
            return container, stream
        reason = self._reason(last) if last is not None else "no reason given"
        if isinstance(last, FileNotFoundError):
            reason = "no such file"
        elif isinstance(last, self._av.InvalidDataError) and self.name.endswith(INDEX_AT_ITS_END):
            reason = "it has no index, as where a recording was cut off, or is no video"
        raise StreamError(f"{self.name}: cannot be read as a video: {reason}") from last

    def _accelerators(self) -> list[Any]:
        if not self._hardware:
            return []
        units = require("av.codec.hwaccel", "decoding in hardware")
        return [units.HWAccel(device_type=name) for name in units.hwdevices_available()]

    @property
    def _start_pts(self) -> int:
        return int(self._stream.start_time or 0)

    def _from_the_wanted(self, first: Any, pictures: Iterator[Any]) -> Iterator[Any]:
        """Pictures from the wanted one on, and some before it."""
        if self._wanted > self._start_pts and not self.is_live:
            try:
                self._container.seek(self._wanted, stream=self._stream)
                pictures = self._decode()
                first = next(pictures, None)
            except self._av.FFmpegError:
                first = None
            # Some files cannot be sought, in others one lands behind, or between key frames: decode
            # all then.
            sought = first is not None and first.pts is not None and first.key_frame
            if not sought or first.pts > self._wanted:
                self.close()
                self._container, self._stream = self._open()
                pictures = self._decode()
                first = next(pictures, None)
        if first is not None:
            yield first
        yield from pictures

    def _decode(self) -> Iterator[Any]:
        self.ended_by = ""
        packets = self._container.demux(self._stream)
        while True:
            try:
                with self._reading:
                    packet = next(packets, None)
            except self._av.FFmpegError as error:
                self.ended_by = self._reason(error)
                yield from self._pictures_of(None)
                return
            if packet is None:
                return
            yield from self._pictures_of(packet)

    def _pictures_of(self, packet: Any) -> list[Any]:
        """Pictures that one packet completes; None asks for those that wait in the decoder."""
        try:
            with self._reading:
                found: list[Any] = self._stream.decode(packet)
        except self._av.EOFError:
            return []
        except self._av.FFmpegError as error:
            self.lost.add(1, f"cannot be decoded: {self._reason(error)}")
            return []
        return found

    def _reason(self, error: Exception) -> str:
        if isinstance(error, self._av.error.ExitError):
            return f"nothing came for {self._timeout_s:g} s"
        return getattr(error, "strerror", None) or first_line(error)

    def _count_missing(self, end: int, step: int) -> None:
        """Compare what came with what the file promises."""
        last, lost = self._last_pts(), self.lost
        missing = at_the_end = 0 if last is None else max(0, round((last - end) / step))
        # Only of a damaged file by number: an edit list shows fewer frames than there are.
        damaged = missing or lost.frames or self.ended_by
        if damaged and self.facts.frames is not None and self.begin_pts == self._start_pts:
            missing = max(0, self.facts.frames - self._decoded - lost.frames)
        if missing and not self.is_live:
            lost.add(missing, self.ended_by or (CUT_OFF if at_the_end else lost.reasons[-1]))
        elif self.ended_by:
            lost.add(0, self.ended_by)

    def _last_pts(self) -> int | None:
        """Where the video ends by what its file says."""
        stream, container = self._stream, self._container
        if stream.duration is not None:
            return self._start_pts + int(stream.duration)
        tick_s = float(self.facts.time_base)
        if text := stream.metadata.get("DURATION"):
            hours, minutes, seconds = text.split(":")
            return round((3600 * int(hours) + 60 * int(minutes) + float(seconds)) / tick_s)
        # The sound may be longer than the picture.
        if container.duration is not None and len(container.streams) == 1:
            length_s = float(container.duration) / 1e6
            return self._start_pts + round(length_s / tick_s)
        return None
