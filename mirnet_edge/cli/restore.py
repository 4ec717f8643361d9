"""``restore``: pictures in, restored pictures out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from mirnet_edge.cli.cluster import cluster_asked, cluster_options, run_jobs
from mirnet_edge.cli.console import (
    devices_option,
    fail,
    interruption_code,
    is_quiet,
    json_option,
    message_of,
    noise_level_option,
    option_group,
    progress_bar,
    tiling_options,
)
from mirnet_edge.cli.pictures import picture_line, picture_options
from mirnet_edge.cli.report import Report
from mirnet_edge.cli.video import (
    frames_shown,
    print_video,
    taken_options,
    video_line,
    video_options,
)
from mirnet_edge.errors import ConfigError
from mirnet_edge.files.jobs import PIPE, Job, Naming, plan_jobs
from mirnet_edge.files.pictures import picture_restorer, restore_picture
from mirnet_edge.files.remote import AnyJob
from mirnet_edge.files.settings import FileSettings, PictureOptions
from mirnet_edge.files.sources import RESTORED
from mirnet_edge.files.todo import to_do
from mirnet_edge.files.videos import VideoRestorers, restore_video

if TYPE_CHECKING:
    from mirnet_edge.restore import Restorer

DEFAULT_MODEL = "edge-s-denoise"
MODEL = "A bundled model's name, an .onnx or .engine file, or a checkpoint."

restore_options = option_group(
    click.option("-m", "--model", "models", multiple=True, default=(DEFAULT_MODEL,),
                 help=f"{MODEL} Given several times (engines of one network), the first that fits "
                 "into memory is taken."),
    click.option("-o", "--output",
                 help="Folder for the results, made if it is missing: a name without a suffix, or "
                 "with a slash at its end. Or a file name for a single input, or - for standard "
                 "output. By default NAME_restored.EXT beside each input."),
    click.option("-r", "--recursive", is_flag=True,
                 help="Restore what lies in folders of folders too; --output keeps them."),
    click.option("--suffix", default=RESTORED,
                 help="What is added to the names of inputs; '' with --output keeps them."),
    click.option("--compare", is_flag=True,
                 help="Also write NAME_compare.png, or a video of that name: before | after. Of "
                 "a.png and a.jpg: a.png_compare.png and a.jpg_compare.png."),
    click.option("--skip-existing", is_flag=True,
                 help="Leave results that exist and are whole, and restore the rest: goes on where "
                 "a run was interrupted or killed."),
    click.option("--overwrite", is_flag=True, help="Replace files that exist."),
)  # fmt: skip


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="IMAGE|VIDEO|FOLDER|GLOB...")
@restore_options
@picture_options
@noise_level_option
@devices_option
@tiling_options
@video_options
@cluster_options
@json_option
def restore(
    inputs: tuple[str, ...],
    models: tuple[str, ...],
    output: str | None,
    recursive: bool,
    suffix: str,
    compare: bool,
    skip_existing: bool,
    overwrite: bool,
    form: str | None,
    quality: int | None,
    max_pixels: int | None,
    as_json: bool,
    **tiling: Any,
) -> int:
    """Restore images and videos: files, folders or glob patterns; a network video by its URL; - for
    a picture on standard input.

    EXIF data and colour profiles are kept. Each file is reported when it is done, --json prints an
    object a line. One that fails does not stop the others; the exit code is then 1, after Ctrl-C
    130. What is left out is said. Animations are restored frame by frame, TIFFs page by page.
    NAME_restored and NAME_compare in a folder are taken for results of earlier runs and left out.

    Of a video, timestamps, sound, subtitles, rotation, colours and metadata are kept. The same
    command goes on where a run was killed; of a network video Ctrl-C is the end. --devices restores
    the frames of videos and animations on several GPUs; pictures are on one. Where the means
    over a frame carry its exposure, tiles share those of the stream unless --statistics is given.

    Inputs from several folders keep these folders in --output: 'in/**/*.png' -o out writes
    out/x/a_restored.png for in/x/a.png, and so does --recursive in -o out.
    """
    if skip_existing and overwrite:
        raise click.UsageError("--skip-existing or --overwrite, not both")
    ending = None if form is None else f".{form.lower()}"
    cluster = cluster_asked(tiling)
    if cluster is not None and tiling["devices"] is not None:
        raise click.UsageError("--devices or --ray, not both: each worker has a GPU of its own")
    jobs: Sequence[AnyJob]
    try:
        naming = Naming(output, compare, suffix, ending)
        if cluster is None:
            jobs, left_out, lines = plan_jobs(inputs, naming, recursive)
        else:
            jobs, left_out, lines = cluster.plan(inputs, naming, recursive)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    piped = any(isinstance(job, Job) and job.writes_stdout for job in jobs)
    _require_pipe(piped, as_json)
    pictures = PictureOptions(quality, max_pixels, ending, skip_existing, overwrite)
    report = Report(len(jobs), as_json, is_quiet(), piped)
    report.left_out(left_out, lines)
    videos = taken_options(tiling)
    settings = FileSettings(models, tiling, pictures, videos)
    interrupted: KeyboardInterrupt | None = None
    todo: Sequence[AnyJob] = []
    try:
        todo = _left(jobs, pictures, report)
        if cluster is None:
            _run_here([job for job in todo if isinstance(job, Job)], settings, report, as_json)
        else:
            run_jobs(todo, settings, cluster, report, quiet=as_json)
    except KeyboardInterrupt as error:
        interrupted = error
    report.summary(interrupted is not None)
    if interrupted:
        on = "" if overwrite else "; go on with the same command and --skip-existing"
        done = f"{report.restored} of {len(todo)} were restored"
        fail(f"interrupted; {done}, their files are whole{on}")
        return interruption_code(interrupted)
    return 1 if report.failed else 0


def _require_pipe(piped: bool, as_json: bool) -> None:
    """Refuse to write a picture where it would be mixed with text."""
    if piped and as_json:
        raise click.UsageError("--json and the picture would both go to standard output; give -o")
    if piped and sys.stdout.isatty():
        raise click.UsageError(f"-o {PIPE} writes a picture: send it to a file or program")


def _left(jobs: Sequence[AnyJob], options: PictureOptions, report: Report) -> list[AnyJob]:
    """The jobs that are to be done; the others are told."""
    found = to_do(jobs, options)
    for job in found.kept:
        report.was_there(job)
    if found.refused:
        first = next(iter(found.refused.values()))
        many = len(found.refused)
        fail((f"{many} of {len(jobs)} are not restored: " if many > 1 else "") + first)
    for job, message in found.refused.items():
        report.failure(job, message, said=True)
    return found.left


def _run_here(todo: Sequence[Job], settings: FileSettings, report: Report, as_json: bool) -> None:
    """Restore files in this process, pictures first."""
    if images := [job for job in todo if not job.is_video]:
        with picture_restorer(settings) as restorer:
            quiet = as_json or is_quiet()
            _run_pictures(images, restorer, settings.pictures, report, quiet)
    with VideoRestorers(settings) as of_videos:
        _run_videos([job for job in todo if job.is_video], settings, of_videos, report, as_json)


def _run_pictures(
    todo: Sequence[Job],
    restorer: Restorer,
    options: PictureOptions,
    report: Report,
    quiet: bool,
) -> None:
    """Restore files one by one, and report each."""
    with progress_bar("frames", count=len(todo) > 1, quiet=quiet) as bar:
        task = bar.add_task("restoring", total=len(todo))
        for index, job in enumerate(todo):

            def advance(done: int, tiles: int, index: int = index) -> None:
                bar.update(task, completed=index + done / tiles)

            try:
                result = restore_picture(job, restorer, options, advance)
            except Exception as error:  # whatever is wrong with one, the others are restored
                if isinstance(error, BrokenPipeError):
                    raise  # nobody takes what standard output gives
                report.failure(job, message_of(error))
            else:
                report.done(job, result, picture_line(job, result))
            bar.update(task, completed=index + 1)


def _run_videos(
    todo: Sequence[Job],
    settings: FileSettings,
    restorers: VideoRestorers,
    report: Report,
    quiet: bool,
) -> None:
    """Restore videos one by one, and report each."""
    for job in todo:
        try:
            with frames_shown(quiet) as progress:
                result = restore_video(job, settings, restorers, progress)
        except Exception as error:  # as for images
            report.failure(job, message_of(error))
        else:
            report.done(job, result, video_line(job, result))
            if not (quiet or is_quiet()):
                print_video(job, result)
