"""``restore`` for videos: its options, and what is said of a result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import click

from mirnet_edge._files import make_folder
from mirnet_edge.cli.console import err, option_group, progress_bar, read_time
from mirnet_edge.cli.jobs import Job
from mirnet_edge.frame_path import told_nonfinite

if TYPE_CHECKING:
    from mirnet_edge.stream.video.job import VideoOutcome

PREVIEW = "_still_compare.jpg"

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


@dataclass(frozen=True)
class VideoOptions:
    """What `video_options` were given."""

    codec: str | None
    crf: float | None
    preset: str | None
    hardware: bool
    begin_s: Fraction
    duration_s: Fraction | None
    every: int
    preview_s: float | None
    reconnect: int
    timeout_s: float

    @classmethod
    def taken_from(cls, given: dict[str, Any]) -> VideoOptions:
        """Take them out of what a command was given."""
        return cls(**{name: given.pop(name) for name in cls.__dataclass_fields__})


def restore_video(
    job: Job,
    models: Sequence[str],
    options: VideoOptions,
    restoring: dict[str, Any],
    *,
    overwrite: bool,
    quiet: bool,
) -> dict[str, Any]:
    """Restore one video, go on where an earlier run ended, and return what is told of it.

    Args:
        job: what, and where to.
        models, restoring: arguments of `Restorer`.
        options: of videos.
        overwrite: replace the parts of a run with other settings.
        quiet: show no bar.
    """
    from mirnet_edge.restore import Restorer
    from mirnet_edge.stream.video.encoding import choose_encoding
    from mirnet_edge.stream.video.job import VideoJob, VideoSettings, settings_of_run
    from mirnet_edge.stream.video.live import open_video
    from mirnet_edge.stream.video.parts import Parts
    from mirnet_edge.stream.video.pictures import Pictures

    make_folder(job.target.parent)
    opening: dict[str, Any] = {
        "begin_s": options.begin_s,
        "hardware": options.hardware,
        "timeout_s": options.timeout_s,
        "reconnect": options.reconnect,
    }
    preview = job.target.with_name(f"{job.source.stem}{PREVIEW}")
    settings = VideoSettings(
        begin_s=options.begin_s,
        duration_s=options.duration_s,
        every=options.every,
        compare=job.compare,
        preview=preview if options.preview_s else None,
        preview_s=options.preview_s or 0,
    )
    chosen = {name: getattr(options, name) for name in ("codec", "crf", "preset", "hardware")}
    reader = open_video(job.name, **opening)
    try:
        encoding = choose_encoding(reader.facts, job.target, **chosen)
        pixels = Pictures(reader.facts, encoding.planes).pixels
        # Of an hour of video one frame with black places is no reason to lose the rest.
        with Restorer(models, pixels=pixels, nan="zero", **restoring) as restorer:
            scale = restorer.facts.scale
            encoding = choose_encoding(reader.facts, job.target, scale=scale, **chosen)
            run = {"model": ", ".join(models), **restoring}
            parts = Parts(
                job.target, settings_of_run(job.name, encoding, settings, run), anew=overwrite
            )
            video = VideoJob(reader, job.target, parts, encoding, settings, scale)
            with progress_bar("frames", quiet=quiet) as bar:
                task = bar.add_task("restoring", total=None)
                # What was there already says nothing of the rate.
                bar.reset(task, completed=parts.frames)

                def progress(done: int, total: int | None) -> None:
                    bar.update(task, completed=done, total=total)

                outcome = video.run(restorer, progress)
    finally:
        reader.close()
    return _told(outcome)


def _told(outcome: VideoOutcome) -> dict[str, Any]:
    rate = outcome.frames_per_second
    return {**vars(outcome), "frames_per_second": None if rate is None else round(rate, 2)}


def video_line(job: Job, result: dict[str, Any]) -> str:
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


def print_video(job: Job, result: dict[str, Any]) -> None:
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
