"""What a codec leaves of a picture: JPEG through Pillow, H.264 through PyAV, both in memory."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mirnet_edge._imports import require
from mirnet_edge.errors import ConfigError, DataError, first_line

Picture = NDArray[np.uint8]
SUBSAMPLINGS = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}
"""Chroma subsampling of JPEG by its name, and what Pillow calls it."""


def jpeg_coded(image: Picture, quality: int, subsampling: str = "4:2:0") -> Picture:
    """(H, W, 1) or (H, W, 3) uint8 as it comes back from a JPEG file of ``quality`` (1 to 100)."""
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality, subsampling=SUBSAMPLINGS[subsampling])
    with Image.open(file) as coded:
        return np.asarray(coded).reshape(image.shape)


def h264_coded(frames: Sequence[Picture], crf: int = 23) -> list[Picture]:
    """(H, W, 3) uint8 frames of even height and width, coded one after another as one H.264 video
    in 4:2:0 at x264's ``crf``, and decoded again.

    Raises:
        MissingDependencyError: PyAV is not installed.
        DataError: this build of FFmpeg has no encoder for H.264, or it refused the frames.
    """
    av = require("av", "coding video")
    file = io.BytesIO()
    height, width = frames[0].shape[:2]
    try:
        with av.open(file, "w", format="mp4") as video:
            # x264's fastest code gives other bits on other processors, and from run to run.
            options = {"crf": str(crf), "x264-params": "cpu-independent=1"}
            stream = video.add_stream("libx264", rate=25, options=options)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            # One thread: with several, x264 cuts the frames into other slices on other machines.
            stream.codec_context.thread_count = 1
            for frame in frames:
                video.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            video.mux(stream.encode())
        file.seek(0)
        with av.open(file) as video:
            return [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    except (av.error.FFmpegError, ValueError) as error:
        raise DataError(
            f"{len(frames)} frames of {width}x{height} cannot be coded as H.264: "
            f"{first_line(error)}. PyAV needs an FFmpeg with libx264, as its wheels have"
        ) from error


def check_jpeg(quality: int | None, subsampling: str = "4:2:0") -> None:
    """Check settings of `jpeg_coded`; None for the quality is no JPEG."""
    if quality is not None and not 1 <= quality <= 100:
        raise ConfigError(f"jpeg={quality}: a JPEG file has a quality of 1 to 100")
    if subsampling not in SUBSAMPLINGS:
        names = ", ".join(SUBSAMPLINGS)
        raise ConfigError(f"subsampling={subsampling!r}: chroma is sampled as one of {names}")
