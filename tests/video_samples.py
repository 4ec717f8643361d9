"""Small videos of many kinds, made with PyAV, and what can be read back of one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mirnet_edge.frame_path import Timings
from mirnet_edge.stream.frame_stream import FrameStream

av: Any = pytest.importorskip("av", reason="PyAV is not installed")

HEIGHT, WIDTH, RATE = 48, 64, 25


def scene(number: int, height: int = HEIGHT, width: int = WIDTH, sigma: float = 6) -> np.ndarray:
    """A noisy (H, W, 3) uint8 picture in which a bar moves."""
    rng = np.random.default_rng(number)
    picture = np.full((height, width, 3), (90, 110, 130), np.float64)
    at = 2 * number % (width - 8)
    picture[:, at : at + 8] = (210, 60, 40)
    picture += rng.normal(0, sigma, picture.shape)
    return picture.clip(0, 255).astype(np.uint8)


def make_video(
    path: Path,
    *,
    frames: int = 12,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    size: tuple[int, int] = (HEIGHT, WIDTH),
    pts: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, RATE),
    turn: int = 0,
    tags: tuple[int, int, int, int] | None = None,
    audio: bool = False,
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    aspect: Fraction | None = None,
    subtitles: bool = False,
    picture: Callable[[int], np.ndarray] | None = None,
) -> Path:
    """Write a video of `scene`; ``tags`` are matrix, range, primaries and transfer."""
    height, width = size
    with av.open(str(path), "w", options=container or {}) as output:
        stream = output.add_stream(codec, rate=RATE, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        context = stream.codec_context
        context.time_base = time_base
        if turn:
            stream.set_display_rotation(turn)
        if tags is not None:
            context.colorspace, context.color_range = tags[:2]
            context.color_primaries, context.color_trc = tags[2:]
        if aspect is not None:
            context.sample_aspect_ratio = aspect
        output.metadata["title"] = "a test"
        sound = output.add_stream("aac", rate=48000) if audio else None
        for number in range(frames):
            rgb = scene(number, height, width) if picture is None else picture(number)
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format=pix_fmt)
            if tags is not None:
                frame.colorspace, frame.color_range = tags[:2]
            frame.pts = number if pts is None else pts[number]
            frame.time_base = time_base
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
        if sound is not None:
            sound.metadata["language"] = "deu"
            _write_sound(output, sound, frames / RATE)
    return path


def _write_sound(output: Any, sound: Any, seconds: float) -> None:
    rng = np.random.default_rng(0)
    for number in range(int(seconds * 48000 / 1024) + 1):
        samples = rng.normal(0, 0.1, (2, 1024)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = 48000, number * 1024
        output.mux(sound.encode(frame))
    output.mux(sound.encode())


@dataclass(frozen=True, eq=False)
class Read:
    """What a player knows of a video file."""

    codec: str
    pix_fmt: str
    size: tuple[int, int]
    times: list[Fraction]
    rate: Fraction
    length: Fraction | None
    turn: int
    tags: tuple[int, int, int, int]
    aspect: Fraction | None
    metadata: dict[str, str]
    pictures: list[np.ndarray]
    others: dict[str, list[tuple[Fraction, bytes]]]

    @property
    def like(self) -> tuple[object, ...]:
        """What a restored video has in common with its source."""
        return (self.size, self.times, self.rate, self.length, self.turn, self.tags, self.aspect)


def read_video(path: Path) -> Read:
    """Decode all of a video; planes as they are, sound and subtitles as packets."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        first, context = frames[0], stream.codec_context
        length = None if stream.duration is None else stream.duration * stream.time_base
        found = {
            "codec": stream.codec.canonical_name,
            "pix_fmt": first.format.name,
            "size": (first.height, first.width),
            "times": [frame.pts * stream.time_base for frame in frames],
            "rate": stream.average_rate,
            "length": length,
            "turn": int(first.rotation),
            "tags": tuple(
                map(int, (first.colorspace, first.color_range, context.color_primaries,
                          context.color_trc))
            ),
            "aspect": context.sample_aspect_ratio,
            "metadata": dict(container.metadata),
            "pictures": [luma(frame) for frame in frames],
        }  # fmt: skip
    others: dict[str, list[tuple[Fraction, bytes]]] = {}
    with av.open(str(path)) as container:
        copied = [stream for stream in container.streams if stream.type != "video"]
        for packet in container.demux(copied) if copied else ():
            if packet.pts is not None:
                kept = others.setdefault(packet.stream.type, [])
                kept.append((packet.pts * packet.time_base, bytes(packet)))
    return Read(**found, others=others)


def luma(frame: Any) -> np.ndarray:
    """The first plane of a decoded frame, a copy."""
    plane = frame.planes[0]
    dtype = np.uint16 if frame.format.components[0].bits > 8 else np.uint8
    rows = np.frombuffer(plane, dtype).reshape(-1, plane.line_size // np.dtype(dtype).itemsize)
    return rows[: plane.height, : plane.width].copy()


class NoOp:
    """A restorer of one function, as a video's job is given one."""

    def __init__(self, restore: Callable[[Any], Any] = np.copy) -> None:
        self.restore, self.given = restore, 0

    def stream(self, frames: Iterable[Any]) -> FrameStream:
        return FrameStream(self, frames)

    depth, timings = 1, Timings()

    def submit(self, frame: Any, out: Any = None, progress: Any = None) -> Any:
        self.given += 1
        return self.restore(frame)

    def collect(self, ticket: Any) -> Any:
        return ticket
