"""``restore`` for videos: its options, and what is said of a result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

import click

from mirnet_edge.cli.console import err, option_group, progress_bar, read_time
from mirnet_edge.files.remote import AnyJob
from mirnet_edge.files.settings import VideoOptions
from mirnet_edge.files.videos import PREVIEW
from mirnet_edge.frame_path import told_nonfinite

if TYPE_CHECKING:
    from mirnet_edge.stream.video.job import FramesDone

video_options = option_group(
    click.option("--codec", help="Of videos: an encoder or codec (libx264, hevc, av1, h264_nvenc); "
                 "by default that of the source, where it can be written, or H.264."),
    click.option("--crf", type=click.FloatRange(0, 63),
                 help="Constant quality of the encoder: less is better and larger."),
    click.option("--preset", help="Of the encoder, as 'fast' or 'slow'."),
    click.option("--hardware", is_flag=True,
                 help="Decode and encode videos on the GPU or another unit, where FFmpeg can."),
    click.option("--start", "begin_s", type=read_time, default="0", metavar="TIME",
                 help="Of a video: from there on, in seconds or as 1:02:03.5."),
    click.option("--duration", "duration_s", type=read_time, metavar="TIME",
                 help="Of a video: so long."),
    click.option("--every", type=click.IntRange(1), default=1, help="Keep every so many-th frame."),
    click.option("--preview", "preview_s", type=click.FloatRange(0.1), metavar="SECONDS",
                 help=f"Of a video: NAME{PREVIEW}, before | after, renewed so often."),
    click.option("--reconnect", type=click.IntRange(0), default=0,
                 help="How often to connect again to a live source that stops."),
    click.option("--timeout", "timeout_s", type=click.FloatRange(0.1), default=30.0,
                 help="Seconds after which a network source that gives nothing has stopped."),
)  # fmt: skip
"""Of a command that restores videos; of pictures none matters."""


def taken_options(given: dict[str, Any]) -> VideoOptions:
    """Take the options of videos out of what a command was given."""
    names = [name for name in VideoOptions.__dataclass_fields__ if name in given]
    return VideoOptions(**{name: given.pop(name) for name in names})


@contextmanager
def frames_shown(quiet: bool) -> Iterator[FramesDone]:
    """Show a bar for a call that reports (frames done, frames)."""
    with progress_bar("frames", quiet=quiet) as bar:
        task = bar.add_task("restoring", total=None)
        calls = count()

        def progress(done: int, total: int | None) -> None:
            if next(calls) == 0:  # what was there already says nothing of the rate
                bar.reset(task, completed=done)
            bar.update(task, completed=done, total=total)

        yield progress


def video_line(job: AnyJob, result: dict[str, Any]) -> str:
    """What is said of a video that was restored."""
    rate = result["frames_per_second"]
    resumed = f" ({result['resumed']} of them earlier)" if result["resumed"] else ""
    copied = f"  copied: {', '.join(result['copied'])}" if result["copied"] else ""
    return (
        f"{job.name} -> {job.target}  {result['width']}x{result['height']}  "
        f"{result['frames']} frames{resumed}"
        + ("" if rate is None else f"  {rate:.2f} frames/s")
        + copied
    )


def print_video(job: AnyJob, result: dict[str, Any]) -> None:
    """Print, on standard error, what is missing of a video."""
    for line in result["left_out"]:
        err().print(f"left out of {job.name}: {line}")
    reasons = "; ".join(result["reasons"])
    if result["lost"]:
        whole = result["lost"] + result["frames"]
        err().print(f"{job.name}: {result['lost']} of about {whole} frames are lost: {reasons}")
    elif reasons:
        err().print(f"{job.name}: {reasons}")
    if result["nonfinite"]:
        err().print(f"{job.name}: {told_nonfinite(result['nonfinite'])}")
