"""A video in, a restored video out: part by part, so that a killed run goes on."""

from __future__ import annotations

import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mirnet_edge.errors import MirnetEdgeError, StreamError
from mirnet_edge.frame_path import told_nonfinite
from mirnet_edge.frames.images import write_image
from mirnet_edge.stream.frame_stream import FrameStream
from mirnet_edge.stream.video.encoding import Encoding, open_part
from mirnet_edge.stream.video.joining import Span, Whole
from mirnet_edge.stream.video.live import LiveReader
from mirnet_edge.stream.video.parts import FRAMES_OF_A_PART, Part, Parts
from mirnet_edge.stream.video.pictures import Array, Pictures
from mirnet_edge.stream.video.reader import Decoded, VideoReader

log = logging.getLogger(__name__)
COMPARE = ".compare"
FramesDone = Callable[[int, "int | None"], None]
"""Called with (frames done, frames; None where nobody knows) after each."""


class Restores(Protocol):
    """What restores the frames of one stream after the other, each begun without memory of those
    before: a `Restorer` of `Pictures.pixels`."""

    def stream(self, frames: object) -> FrameStream: ...


@dataclass(frozen=True)
class VideoSettings:
    """What of a video is restored, and what is written beside it.

    Attributes:
        begin_s: seconds from its start.
        duration_s: from there; None is all.
        every: of the frames, each so many-th is kept.
        compare: file for before | after.
        preview: file of a still of before | after, replaced every ``preview_s`` seconds.
        part_frames: that are written before a part is finished.
    """

    begin_s: Fraction = Fraction(0)
    duration_s: Fraction | None = None
    every: int = 1
    compare: Path | None = None
    preview: Path | None = None
    preview_s: float = 10
    part_frames: int = FRAMES_OF_A_PART


@dataclass(frozen=True)
class VideoOutcome:
    """What became of a video.

    Attributes:
        width, height: of its result, in pixels.
        frames: written.
        resumed: how many of these an earlier run had written.
        lost: frames that did not come, for ``reasons``.
        nonfinite: values of the network that were NaN or infinite.
        copied, left_out: other streams of the file.
        frames_per_second: of this run; None where it restored none, or several workers did.
    """

    width: int
    height: int
    frames: int
    resumed: int
    lost: int
    reasons: list[str]
    nonfinite: int
    copied: list[str]
    left_out: list[str]
    frames_per_second: float | None


def settings_of_run(
    source: str, encoding: Encoding, settings: VideoSettings, more: Mapping[str, object]
) -> dict[str, str]:
    """All that a result depends on, in words, for `Parts`. Of a URL only a hash: it may hold a
    password."""
    if "://" in source:
        origin = hashlib.sha256(source.encode()).hexdigest()
    else:
        path = Path(source)
        origin = f"{path.absolute()}, {path.stat().st_size} bytes, {path.stat().st_mtime_ns}"
    return {
        "source": origin,
        "encoding": f"{encoding.encoder} {encoding.planes.name} {encoding.options}",
        "part": f"{float(settings.begin_s):g} s, {settings.duration_s} s, every {settings.every}",
        "compare": str(settings.compare is not None),
        "frames of a part": str(settings.part_frames),
        **{name: str(value) for name, value in more.items()},
    }


@dataclass
class VideoJob:
    """Restores one video.

    Attributes:
        reader: open on it.
        target: of the result.
        parts: of this run.
        encoding: how it is written.
        settings: see there.
        scale: by which the restorer enlarges.
    """

    reader: VideoReader | LiveReader
    target: Path
    parts: Parts
    encoding: Encoding
    settings: VideoSettings
    scale: int = 1
    _seen: int = field(default=0, init=False)
    _lost_before: int = field(default=0, init=False)
    _last_pts: int = field(default=0, init=False)
    _shown_s: float = field(default=0.0, init=False)
    _told_nonfinite: bool = field(default=False, init=False)

    def run(self, restorer: Restores, progress: FramesDone) -> VideoOutcome:
        """Restore what is left, join all parts, and delete them.

        Raises:
            MirnetEdgeError: what reading, restoring or writing raised, with the frame's number; the
                parts that are finished stay.
            KeyboardInterrupt: likewise, but of a live source it ends the recording.
        """
        resumed, began_s = self.parts.frames, time.monotonic()
        self.restore(restorer, progress)
        return self.finish(resumed, time.monotonic() - began_s)

    def restore(
        self, restorer: Restores, progress: FramesDone, most_parts: int | None = None
    ) -> None:
        """Restore what is left, or the next ``most_parts`` of it, raising as `run` does."""
        pictures = Pictures(self.reader.facts, self.encoding.planes)
        self._seen, self._lost_before = self.parts.seen, self.parts.lost
        if self.parts.after is not None:
            self.reader.go_on_after(self.parts.after, self._seen + self._lost_before)
        progress(self.parts.frames, self._total())
        frames = self._kept()
        last = None if most_parts is None else len(self.parts.finished) + most_parts
        while len(self.parts.finished) != last and (first := next(frames, None)) is not None:
            part_frames = chain([first], islice(frames, self.settings.part_frames - 1))
            if not self._restore_part(part_frames, pictures, restorer, progress):
                break

    def finish(self, resumed: int, elapsed_s: float | None) -> VideoOutcome:
        """Join all parts, and delete them; ``elapsed_s`` of this run, which found ``resumed``
        frames, None where nobody knows."""
        done = self.parts.frames
        if not done:
            raise StreamError(f"{self.reader.name}: no frame between the times that were asked for")
        joined = self._join()
        self.parts.remove()
        lost = self.reader.lost
        before = [reason for part in self.parts.finished for reason in part.reasons]
        return VideoOutcome(
            width=self.scale * self.reader.facts.width,
            height=self.scale * self.reader.facts.height,
            frames=done,
            resumed=resumed,
            lost=self._lost_before + lost.frames,
            reasons=list(dict.fromkeys([*before, *lost.reasons])),
            nonfinite=sum(part.nonfinite for part in self.parts.finished),
            copied=joined.copied,
            left_out=joined.left_out,
            frames_per_second=(done - resumed) / elapsed_s
            if elapsed_s and done > resumed
            else None,
        )

    def _total(self) -> int | None:
        """About how many frames there will be."""
        facts, settings = self.reader.facts, self.settings
        length_s = facts.duration_s
        if settings.duration_s is not None:
            rest_s = float("inf") if length_s is None else length_s - float(settings.begin_s)
            length_s = min(float(settings.duration_s), rest_s)
        elif facts.frames is not None and not settings.begin_s:
            return -(-facts.frames // settings.every)
        elif length_s is not None:
            length_s -= float(settings.begin_s)
        if length_s is None:
            return None
        return max(1, round(length_s / float(facts.frame_s) / settings.every))

    def _kept(self) -> Iterator[Decoded]:
        """The frames that are to be restored."""
        settings, reader = self.settings, self.reader
        end = None
        if settings.duration_s is not None:
            ticks = settings.duration_s / reader.facts.time_base
            end = reader.begin_pts + round(ticks)
        for frame in reader.frames():
            if end is not None and frame.pts >= end:
                return
            self._last_pts = frame.pts
            self._seen += 1
            if (self._seen - 1) % settings.every == 0:
                yield frame

    def _restore_part(
        self,
        frames: Iterator[Decoded],
        pictures: Pictures,
        restorer: Restores,
        progress: FramesDone,
    ) -> bool:
        """Restore one part and note it; tell whether the next one is wanted."""
        number, had, seen = len(self.parts.finished), self.parts.frames, self.parts.seen
        waiting: deque[tuple[Decoded, Array | None]] = deque()
        shown = self.settings.compare is not None or self.settings.preview is not None

        def arrays() -> Iterator[Array]:
            for frame in frames:
                array = pictures.array_of(frame.picture)
                waiting.append((frame, array if shown else None))
                yield array

        written, duration, begin, go_on, nonfinite = 0, 1, 0, True, 0
        kinds = ["", COMPARE] if self.settings.compare is not None else [""]
        with ExitStack() as files:
            writers = [
                files.enter_context(
                    open_part(self.parts.path(number, kind), self.encoding, pictures.facts)
                )
                for kind in kinds
            ]
            stream = restorer.stream(arrays())
            files.callback(stream.close)
            try:
                for restored in stream.frames():
                    frame, before = waiting.popleft()
                    picture = pictures.picture_of(restored.image, self.scale)
                    both = self._beside(pictures, before, restored.image)
                    for writer, each in zip(writers, [picture, *both]):
                        writer.write(each, frame.pts, frame.duration)
                    begin = begin if written else frame.pts
                    duration = frame.duration
                    written += 1
                    nonfinite += restored.nonfinite
                    if restored.nonfinite and not self._told_nonfinite:
                        self._told_nonfinite = True
                        told = told_nonfinite(restored.nonfinite)
                        log.warning("%s, frame %d: %s", self.reader.name, had + written - 1, told)
                    progress(had + written, self._total())
            except KeyboardInterrupt:
                if not self.reader.is_live or not written:
                    raise
                go_on = False
            except MirnetEdgeError as error:
                error.args = (f"{self.reader.name}, behind its first {had} frames: {error}",)
                raise
        lost = self.reader.lost
        log.info("%s: part %d of %d frames is finished", self.target, number, written)
        self.parts.add(
            Part(
                frames=written,
                seen=self._seen - seen,
                first_pts=begin,
                last_pts=self._last_pts,
                last_duration=duration,
                lost=self._lost_before + lost.frames,
                reasons=list(lost.reasons),
                nonfinite=nonfinite,
                guessed=self.reader.guessed,
            )
        )
        return go_on

    def _beside(self, pictures: Pictures, before: Array | None, after: Array) -> list[Any]:
        """A picture of before | after, for the comparison and the still; only where one of them is
        due."""
        settings, now_s = self.settings, time.monotonic()
        due = settings.preview is not None and now_s - self._shown_s >= settings.preview_s
        if before is None or not (due or settings.compare is not None):
            return []
        planes = pictures.codes_of(before)
        if self.scale > 1:
            planes = pictures.enlarged(planes, self.scale)
        both = pictures.compose(pictures.side_by_side(planes, pictures.codes_of(after, self.scale)))
        if due and settings.preview is not None:
            self._shown_s = now_s
            shown = both.to_ndarray(format="rgb24")
            upright = np.ascontiguousarray(np.rot90(shown, pictures.facts.turn // 90))
            write_image(settings.preview, upright, overwrite=True)
        return [both]

    def _join(self) -> Whole:
        settings, parts = self.settings, self.parts.finished
        whole = Whole(
            self.target,
            self.encoding,
            self.reader.facts,
            parts[-1].last_duration,
            source=None if self.reader.is_live else self.reader.name,
            span=self._span(),
        )
        targets = {"": whole}
        if settings.compare is not None:
            targets[COMPARE] = replace(whole, target=settings.compare, copied=[], left_out=[])
        # The result comes last: what is there is whole with all that is beside it.
        for kind, each in reversed(targets.items()):
            each.join([(self.parts.path(n, kind), part.first_pts) for n, part in enumerate(parts)])
        return whole

    def _span(self) -> Span | None:
        settings, reader = self.settings, self.reader
        if not settings.begin_s and settings.duration_s is None:
            return None
        start_s = reader.begin_pts * reader.facts.time_base
        end_s = None if settings.duration_s is None else start_s + settings.duration_s
        return Span(start_s if settings.begin_s else Fraction(0), end_s)
