"""``restore``: pictures in, restored pictures out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from click.core import ParameterSource
from numpy.typing import NDArray

from mirnet_edge._files import make_folder
from mirnet_edge.cli.console import (
    err,
    fail,
    interruption_code,
    json_option,
    message_of,
    noise_level_option,
    option_group,
    print_json,
    progress_bar,
    say,
    tiling_options,
)
from mirnet_edge.cli.jobs import Job, plan_jobs
from mirnet_edge.cli.video import VideoOptions, print_video, restore_video, video_options
from mirnet_edge.frames.enlarged import enlarged
from mirnet_edge.frames.images import (
    SUFFIXES,
    ImageFile,
    is_damaged,
    read_image,
    upright_rgb,
    write_image,
)
from mirnet_edge.frames.noise import to_uint8, unit_range

if TYPE_CHECKING:
    from mirnet_edge.frame_path import Progress
    from mirnet_edge.restore import Restorer

DEFAULT_MODEL = "edge-s-denoise"
MODEL = "A bundled model's name, an .onnx or .engine file, or a checkpoint."
DONE = {"width", "skipped", "error"}
WAYS_ON = "--skip-existing leaves what is there and restores the rest, --overwrite replaces it"
Result = dict[str, Any]
"""Of a job, as ``--json`` prints it; one of `DONE` is in it when the job is."""

restore_options = option_group(
    click.option("-m", "--model", "models", multiple=True, default=(DEFAULT_MODEL,),
                 help=f"{MODEL} Given several times (engines of one network), the first that fits "
                 "into memory is taken."),
    click.option("-o", "--output",
                 help="Folder for the results, made if it is missing: a name without a suffix, or "
                 "with a slash at its end. Or a file name for a single input. By default "
                 "NAME_restored.EXT beside each input."),
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
@noise_level_option
@tiling_options
@video_options
@json_option
def restore(
    inputs: tuple[str, ...],
    models: tuple[str, ...],
    output: str | None,
    compare: bool,
    skip_existing: bool,
    overwrite: bool,
    as_json: bool,
    **tiling: Any,
) -> int:
    """Restore images and videos: files, folders (what lies in them, not below) or glob patterns; a
    network video by its URL.

    EXIF data and colour profiles are kept. Each file is reported when it is done. One that fails
    does not stop the others; the exit code is then 1, after Ctrl-C 130. NAME_restored and
    NAME_compare in a folder are taken for results of earlier runs and left out.

    Of a video, timestamps, sound, subtitles, rotation, colours and metadata are kept. The same
    command goes on where a run was killed; of a network video Ctrl-C is the end. Where the means
    over a frame carry its exposure, tiles share those of the stream unless --statistics is given.

    Inputs from several folders keep these folders in --output: 'in/**/*.png' -o out writes
    out/x/a_restored.png for in/x/a.png.
    """
    from mirnet_edge.restore import Restorer

    if skip_existing and overwrite:
        raise click.UsageError("--skip-existing or --overwrite, not both")
    jobs, left_out = plan_jobs(inputs, output, compare)
    for line in left_out:
        err().print(line)
    results = [_before(job, skip_existing, overwrite) for job in jobs]
    todo = [(job, result) for job, result in zip(jobs, results) if not DONE & result.keys()]
    options = VideoOptions.taken_from(tiling)
    interrupted: KeyboardInterrupt | None = None
    try:
        if exist := [result["error"] for result in results if "error" in result]:
            many = f"{len(exist)} of {len(jobs)} are not restored: " if exist[1:] else ""
            fail(many + exist[0])
        if images := [(job, result) for job, result in todo if not job.is_video]:
            with Restorer(models, **tiling) as restorer:
                _run_jobs(images, restorer, skip_existing, overwrite, quiet=as_json)
        videos = [(job, result) for job, result in todo if job.is_video]
        _run_videos(videos, models, options, tiling, overwrite, quiet=as_json)
    except KeyboardInterrupt as error:
        interrupted = error
    done, there = (sum(name in result for result in results) for name in ("width", "skipped"))
    if as_json:
        print_json([result for result in results if DONE & result.keys()])
    elif len(results) > 1 or there:
        say(f"{done} of {len(results)} restored" + (f", {there} were there" * bool(there)))
    if interrupted:
        on = "" if overwrite else "; go on with the same command and --skip-existing"
        fail(f"interrupted; {done} of {len(todo)} were restored, their files are whole{on}")
        return interruption_code(interrupted)
    return 1 if any("error" in result for result in results) else 0


def _before(job: Job, skip_existing: bool, overwrite: bool) -> Result:
    """What is known of a job before it is done: perhaps that it need not or must not be."""
    result: Result = {"input": job.name, "output": job.target}
    # A link counts as what is there, also one that leads nowhere.
    there = [path for path in job.writes if os.path.lexists(path)]
    if skip_existing and all(_is_kept(path) for path in job.writes):
        result["skipped"] = True
    elif there and not skip_existing and not overwrite:
        result["error"] = f"{there[0]} exists; {WAYS_ON}"
    return result


def _is_kept(path: Path) -> bool:
    """Whether --skip-existing leaves a file as it is: it is there, and whole."""
    is_image = path.suffix.lower() in SUFFIXES
    return os.path.lexists(path) and not (is_image and is_damaged(path))


def _run_jobs(
    todo: Sequence[tuple[Job, Result]], restorer: Restorer, keep: bool, overwrite: bool, quiet: bool
) -> None:
    """Restore files one by one, note in its result what became of each, and print that."""
    with progress_bar("frames", count=len(todo) > 1, quiet=quiet) as bar:
        task = bar.add_task("restoring", total=len(todo))
        for index, (job, result) in enumerate(todo):

            def advance(done: int, tiles: int, index: int = index) -> None:
                bar.update(task, completed=index + done / tiles)

            try:
                result |= _restore_file(job, restorer, keep, overwrite, advance)
            except Exception as error:  # whatever is wrong with one, the others are restored
                _note_failure(job, result, error)
            else:
                if not quiet:
                    _print_result(result)
            bar.update(task, completed=index + 1)


def _run_videos(
    todo: Sequence[tuple[Job, Result]],
    models: Sequence[str],
    options: VideoOptions,
    restoring: dict[str, Any],
    overwrite: bool,
    quiet: bool,
) -> None:
    """Restore videos one by one, note in its result what became of each, and print that."""
    source = click.get_current_context().get_parameter_source("statistics")
    for job, result in todo:
        try:
            result |= restore_video(
                job,
                models,
                options,
                restoring,
                statistics_given=source is not ParameterSource.DEFAULT,
                overwrite=overwrite,
                quiet=quiet,
            )
        except Exception as error:  # as for images
            _note_failure(job, result, error)
        else:
            if not quiet:
                print_video(job, result)


def _note_failure(job: Job, result: Result, error: Exception) -> None:
    """Note and print an error, with the name of its file."""
    message = message_of(error)
    named = job.name in message or str(job.target) in message
    result["error"] = message if named else f"{job.name}: {message}"
    fail(result["error"])


def _restore_file(
    job: Job, restorer: Restorer, keep: bool, overwrite: bool, progress: Progress
) -> Result:
    """Restore one file; with ``keep``, write of picture and comparison what is not there."""
    image = read_image(job.source)
    restored = restorer(image.pixels, progress=progress)
    make_folder(job.target.parent)
    # The picture comes last: where it is, a run that was killed had done the whole job.
    if job.compare and not (keep and _is_kept(job.compare)):
        after = ImageFile(restored, exif=image.exif)
        write_image(job.compare, side_by_side(image, after), overwrite=overwrite or keep)
    if not (keep and _is_kept(job.target)):
        write_image(job.target, restored, like=image, overwrite=overwrite or keep)
    height, width = image.pixels.shape[:2]
    timings = {
        name: None if value is None else round(value, 3)
        for name, value in asdict(restorer.timings).items()
    }
    return {"width": width, "height": height, "scale": restorer.scale, **timings}


def _print_result(result: Result) -> None:
    milliseconds = result["load_ms"] + result["engine_ms"] + result["store_ms"]
    passes = f"{result['passes']} passes  " if result["passes"] > 1 else ""
    noise = "" if result["noise"] is None else f"noise {result['noise']:.1f}  "
    width, height, scale = (result[name] for name in ("width", "height", "scale"))
    larger = "" if scale == 1 else f" -> {scale * width}x{scale * height}"
    say(
        f"{result['input']} -> {result['output']}  {width}x{height}{larger}  "
        f"{result['tiles']} tiles  {noise}{passes}{milliseconds:.0f} ms"
    )


def side_by_side(before: ImageFile, after: ImageFile) -> NDArray[np.uint8]:
    """Both pictures upright, left and right of a white line; the first enlarged bicubically to the
    height of the second."""
    left, right = upright_rgb(before), upright_rgb(after)
    scale = right.shape[0] // left.shape[0]
    if scale > 1:
        planes = enlarged(unit_range(left).transpose(2, 0, 1), scale)
        left = to_uint8(planes.transpose(1, 2, 0))
    line = np.full((left.shape[0], 4, 3), 255, np.uint8)
    return np.concatenate([left, line, right], axis=1)
