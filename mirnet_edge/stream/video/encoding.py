"""Which encoder writes a restored video, in which pixel format and with which settings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from mirnet_edge._files import atomic_path
from mirnet_edge._imports import require
from mirnet_edge.errors import OutputError, first_line
from mirnet_edge.stream.video.facts import Planes, VideoFacts

ENCODER_OF_CODEC = {
    "h264": "libx264",
    "hevc": "libx265",
    "av1": "libsvtav1",
    "vp8": "libvpx",
    "vp9": "libvpx-vp9",
    "ffv1": "ffv1",
}
"""What writes a video of one of these codecs in the same one; others become H.264."""
CRF = {"libx264": 18, "libx265": 20, "libsvtav1": 24, "libvpx": 8, "libvpx-vp9": 24}
"""Constant quality at which what was cleaned is not spoilt again; a still at the default of 23 or
28 looks coded."""
PRESETS = ("libx264", "libx265", "libsvtav1")
EVEN_SIDES = ("libx264", "libx265", "libsvtav1")
"""Encoders that take no odd width or height where chroma is shared."""
HELD_TOO = {
    "mpegts": {"h264", "hevc", "mpeg2video", "mpeg4", "av1", "aac", "mp3", "ac3", "mp2"},
    "mpeg": {"mpeg2video"},
}
"""What containers hold of which FFmpeg does not say so."""
HARDWARE = ("nvenc", "qsv", "vaapi", "amf", "videotoolbox", "v4l2m2m")
OPTIONS = {
    # Its AVX-512 code gave one of several results at random (core 165, AMD EPYC), and a run that
    # goes on must end as one that was not disturbed.
    "libx264": {"x264-params": "cpu-independent=1"},
    "libx265": {"x265-params": "log-level=error"},
    "libvpx": {"cpu-used": "4", "deadline": "good"},
    "libvpx-vp9": {"cpu-used": "4", "deadline": "good", "row-mt": "1"},
}
CONSTANT_STEP = ("mjpeg", "mpeg4", "mpeg2video", "mpeg1video")
QUALITY_STEP = 2 * 118
"""Quantizer 2 of these, in units of FFmpeg's lambda; the best that their rate control takes."""
FORMAT_HAS_HEADERS, GLOBAL_HEADER = 0x40, 1 << 22
"""AVFMT_GLOBALHEADER and AV_CODEC_FLAG_GLOBAL_HEADER of FFmpeg."""
MPEG4_TICKS = 65535
BITS_PER_PIXEL = 0.2
"""Of encoders without constant quality, unless the source has more."""


@dataclass(frozen=True)
class Encoding:
    """How a video is written.

    Attributes:
        encoder: FFmpeg's name.
        planes: how the codes of its frames lie.
        options: of the encoder.
        bit_rate: bits a second; 0 where the quality is what is constant.
        with_b_frames: whether frames may be coded out of their order.
        headers_apart: the container holds the headers of the codec once, and not its key frames.
    """

    encoder: str
    planes: Planes
    options: dict[str, str] = field(default_factory=dict)
    bit_rate: int = 0
    with_b_frames: bool = True
    headers_apart: bool = True


def choose_encoding(
    facts: VideoFacts,
    target: Path,
    *,
    scale: int = 1,
    codec: str | None = None,
    crf: float | None = None,
    preset: str | None = None,
    hardware: bool = False,
) -> Encoding:
    """Choose how a restored video is written.

    Args:
        facts: of the source, whose codec, chroma and depth are kept where they can be.
        target: the file, whose suffix says which container.
        scale: by which restored frames are larger.
        codec: an encoder's or a codec's name; None that of the source, or H.264.
        crf, preset: of the encoder; None takes its own, with a low ``crf``.
        hardware: take an encoder of the GPU, if one opens here.

    Raises:
        OutputError: no such encoder; one that has no CRF or presets, or that the container does
            not hold; a video that is shown turned, which an old PyAV does not write.
    """
    av = require("av", "reading and writing videos")
    if facts.display_matrix is not None and not hasattr(av.VideoStream, "set_display_matrix"):
        raise OutputError(
            f"PyAV {av.__version__} cannot write that a video is shown turned by {facts.turn} "
            "degrees; install version 18 or later, which needs Python 3.11"
        )
    os.environ.setdefault("SVT_LOG", "1")  # else it prints its settings to standard error
    with _container(target) as container:
        held = container.supported_codecs | HELD_TOO.get(container.format.name, set())
        default = container.default_video_codec
        headers_apart = bool(container.format.flags & FORMAT_HAS_HEADERS)
    name = codec or facts.codec
    if codec is None and target.suffix.lower() == ".avi":
        name = "mjpeg" if name == "mjpeg" else "mpeg4"  # of H.264 there, FFmpeg guesses times wrong
    elif codec is None and (name not in ENCODER_OF_CODEC or name not in held):
        name = next((each for each in ("h264", "mpeg2video") if each in held), default)
    encoder = ENCODER_OF_CODEC.get(name, name)
    if hardware and (found := _hardware_encoder(av, name)):
        encoder = found
    try:
        known = av.Codec(encoder, "w")
    except ValueError as error:
        raise OutputError(
            f"FFmpeg here has no encoder {encoder!r}; try {', '.join(ENCODER_OF_CODEC)}"
        ) from error
    if known.type != "video" or not {encoder, known.canonical_name} & held:
        raise OutputError(
            f"{target}: {target.suffix} holds no {encoder} video; choose another --codec, or "
            "write .mkv"
        )
    options = dict(OPTIONS.get(encoder, {}))
    if preset is not None:
        if encoder not in PRESETS and not encoder.endswith("nvenc"):
            raise OutputError(f"{encoder} has no presets; leave --preset out")
        options["preset"] = preset
    bit_rate = 0
    if crf is not None or encoder in CRF:
        if encoder not in CRF and not encoder.endswith("nvenc"):
            raise OutputError(f"{encoder} has no constant quality; leave --crf out")
        options["cq" if encoder.endswith("nvenc") else "crf"] = f"{crf or CRF[encoder]:g}"
    elif encoder in CONSTANT_STEP:
        options |= {"flags": "+qscale", "global_quality": str(QUALITY_STEP)}
        if encoder == "mjpeg" and not facts.full_range:
            options["strict"] = "unofficial"  # as all that cameras and players do with it
    elif encoder != "ffv1":
        pixels = scale**2 * facts.width * facts.height
        bit_rate = round(BITS_PER_PIXEL * pixels / float(facts.frame_s))
    planes = _written(facts, known, odd=bool(scale * facts.width % 2 or scale * facts.height % 2))
    return Encoding(
        encoder, planes, options, bit_rate, target.suffix.lower() != ".avi", headers_apart
    )


@contextmanager
def _container(target: Path) -> Iterator[Any]:
    """The container format of a file name, of which nothing is written."""
    av = require("av", "reading and writing videos")
    try:
        container = av.open(os.devnull, "w", format=format_of(target))
    except (av.FFmpegError, ValueError) as error:
        raise OutputError(
            f"{target}: FFmpeg writes no {target.suffix}; try .mp4 or .mkv"
        ) from error
    try:
        yield container
    finally:
        container.close()


def format_of(target: Path) -> str:
    """FFmpeg's name of a container."""
    return {
        ".mkv": "matroska",
        ".ts": "mpegts",
        ".mpg": "mpeg",
        ".mpeg": "mpeg",
        ".m4v": "mp4",
    }.get(target.suffix.lower(), target.suffix.lower().removeprefix("."))


def _written(facts: VideoFacts, codec: Any, odd: bool) -> Planes:
    """The format of the source, or of what an encoder takes the next one that loses little."""
    takes = [form.name for form in codec.video_formats or ()]
    deep = "10le" if facts.depth > 8 else ""
    wanted = [f"yuv444p{deep}"]
    if facts.planes is not None:
        dense = facts.planes.rows * facts.planes.columns < 4 and not facts.planes.is_gray
        wanted = [facts.planes.name, f"yuv422p{deep}" if dense else f"yuv420p{deep}"]
    wanted += [f"yuv444p{deep}", f"yuv422p{deep}", f"yuv420p{deep}", "yuv420p", "yuv444p"]
    for name in wanted:
        planes = Planes.of(name)
        assert planes is not None, name
        uneven = odd and codec.name in EVEN_SIDES and not planes.is_gray
        if uneven and planes.rows * planes.columns > 1:
            continue
        if not takes or name in takes or name.replace("yuv", "yuvj") in takes:
            return planes
    return Planes("yuv420p", 8, 2, 2)  # PyAV converts it to what the encoder takes


def _hardware_encoder(av: Any, codec: str) -> str | None:
    """The first of the encoders of this codec that opens on this machine."""
    for unit in HARDWARE:
        name = f"{codec}_{unit}"
        try:
            context = av.CodecContext.create(name, "w")
            context.width = context.height = 256
            context.pix_fmt, context.time_base = "yuv420p", Fraction(1, 25)
            context.open()
        except (av.FFmpegError, ValueError, OSError):
            continue
        return name
    return None


def add_stream(container: Any, encoding: Encoding, facts: VideoFacts, size: tuple[int, int]) -> Any:
    """Add the video of a container that is open for writing: frames of ``size`` (height, width), on
    the clock of the source."""
    rate = (1 / facts.frame_s).limit_denominator(1 << 16)
    stream = container.add_stream(encoding.encoder, rate=rate, options=dict(encoding.options))
    context = stream.codec_context
    context.height, context.width = size
    context.pix_fmt = _taken(encoding, stream.codec)
    context.time_base = 1 / rate if _counts_frames(encoding, facts) else facts.time_base
    stream.time_base = facts.time_base
    # Frames beside each other, as FFmpeg has it: PyAV's default, slices of one frame, leaves cores
    # waiting and costs bits.
    context.thread_type = "AUTO"
    context.bit_rate = encoding.bit_rate
    context.color_primaries, context.color_trc = facts.primaries, facts.transfer
    context.colorspace, context.color_range = facts.written_matrix, facts.written_range
    if facts.pixel_aspect is not None:
        context.sample_aspect_ratio = facts.pixel_aspect
    if not encoding.with_b_frames:
        context.max_b_frames = 0
    # As the file will have it, also in parts: else headers would be twice there, or nowhere.
    if encoding.headers_apart:
        context.flags |= GLOBAL_HEADER
    else:
        context.flags &= ~GLOBAL_HEADER
    return stream


def _counts_frames(encoding: Encoding, facts: VideoFacts) -> bool:
    """Whether an encoder's clock knows frames alone, or is too coarse for the one of the source."""
    if encoding.encoder in ("mpeg1video", "mpeg2video"):
        return True
    return encoding.encoder == "mpeg4" and facts.time_base.denominator > MPEG4_TICKS


class PartWriter:
    """One part of a video, a file of its own that begins with a key frame; made by `open_part`."""

    def __init__(self, container: Any, encoding: Encoding, facts: VideoFacts) -> None:
        self._av = require("av", "reading and writing videos")
        self._container, self._encoding, self._facts = container, encoding, facts
        self._stream: Any = None
        self._first_pts = 0

    def write(self, picture: Any, pts: int, duration: int) -> None:
        """Encode one picture, all of one size. A part's clock begins at 0 with its first one.

        Raises:
            OutputError: the encoder does not open with these settings, or fails.
        """
        if self._stream is None:
            size = picture.height, picture.width
            self._stream = add_stream(self._container, self._encoding, self._facts, size)
            self._first_pts = pts
        picture.pts, picture.duration = pts - self._first_pts, duration
        picture.time_base = self._facts.time_base
        self._mux(picture)

    def finish(self) -> None:
        """Write what the encoder still holds."""
        if self._stream is not None:
            self._mux(None)

    def _mux(self, picture: Any) -> None:
        try:
            self._container.mux(self._stream.encode(picture))
        except (self._av.FFmpegError, ValueError) as error:
            chosen = self._encoding.options.items()
            settings = ", ".join(f"{name} {value}" for name, value in chosen)
            raise OutputError(
                f"{self._encoding.encoder} ({settings}) does not encode this video: "
                f"{first_line(error)}; try another --codec, --preset or --crf"
            ) from error


def _taken(encoding: Encoding, codec: Any) -> str:
    """The format that the encoder is opened for; full range has a name of its own in some."""
    takes = [form.name for form in codec.video_formats or ()]
    name = encoding.planes.name
    if not takes or name in takes:
        return name
    full = name.replace("yuv", "yuvj")
    return full if full in takes else str(takes[0])


@contextmanager
def open_part(path: Path, encoding: Encoding, facts: VideoFacts) -> Iterator[PartWriter]:
    """Open a part for writing; it is finished and moved into place when the block ends, and removed
    if that fails."""
    av = require("av", "reading and writing videos")
    with atomic_path(path) as temporary:
        container = av.open(
            str(temporary),
            "w",
            format=_format_of_parts(av, encoding),
            # Decoding times before 0 are made anew in the whole; shifting would move the PTS too.
            container_options={"avoid_negative_ts": "disabled"},
        )
        try:
            writer = PartWriter(container, encoding, facts)
            yield writer
            writer.finish()
        except BaseException:
            with suppress(av.FFmpegError, ValueError, OSError):  # what failed first is raised
                container.close()
            raise
        container.close()


def _format_of_parts(av: Any, encoding: Encoding) -> str:
    # NUT keeps every clock exactly and is whole after each packet; some codecs only MOV holds.
    with av.open(os.devnull, "w", format="nut") as probe:
        return "nut" if encoding.encoder in probe.supported_codecs else "mov"
