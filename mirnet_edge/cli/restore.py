"""``restore`` and ``demo``: pictures in, restored pictures out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from numpy.typing import NDArray

from mirnet_edge._files import require_new
from mirnet_edge.bundled import PHOTO
from mirnet_edge.cli.console import fail, json_option, out, print_json, progress_bar, tiling_options
from mirnet_edge.errors import ImageError, MirnetEdgeError, OutputError
from mirnet_edge.frames.images import (
    SUFFIXES,
    ImageFile,
    find_images,
    read_image,
    upright_rgb,
    write_image,
)

if TYPE_CHECKING:
    from mirnet_edge.frame_path import Progress
    from mirnet_edge.restore import Restorer

DEFAULT_MODEL = "edge-s-denoise"
RESTORED, COMPARE = "_restored", "_compare"


@dataclass(frozen=True)
class Job:
    """One file to restore."""

    source: Path
    target: Path
    compare: Path | None

    @property
    def writes(self) -> list[Path]:
        return [path for path in (self.target, self.compare) if path is not None]


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="IMAGE|FOLDER|GLOB...")
@click.option(
    "-m",
    "--model",
    "models",
    multiple=True,
    default=(DEFAULT_MODEL,),
    show_default=True,
    help="A bundled model's name, an .onnx or .engine file, or a checkpoint. Given several times "
    "(engines of one network), the first that fits into memory is taken.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Folder for the results (it must exist), or a file name for a single input; "
    "by default NAME_restored.EXT beside each input.",
)
@click.option("--compare", is_flag=True, help="Also write NAME_compare.png: before | after.")
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
@tiling_options
@json_option
def restore(
    inputs: tuple[str, ...],
    models: tuple[str, ...],
    output: Path | None,
    compare: bool,
    overwrite: bool,
    as_json: bool,
    **tiling: Any,
) -> int:
    """Restore images: files, folders or glob patterns.

    EXIF data and colour profiles are kept. A file that fails is reported at the end and does not
    stop the others; the exit code is then 1.
    """  # fmt: skip
    from mirnet_edge.restore import Restorer

    jobs = plan_jobs(inputs, output, compare)
    with Restorer(models, **tiling) as restorer:
        results = _run_jobs(jobs, restorer, overwrite, quiet=as_json)
    failures = [result for result in results if "error" in result]
    if as_json:
        print_json(results)
    else:
        _summarize(results)
    for failure in failures:
        fail(failure["error"])
    return 1 if failures else 0


def plan_jobs(inputs: Sequence[str], output: Path | None, compare: bool) -> list[Job]:
    """What to read and where to write it; results of earlier runs in a folder are left out.

    Raises:
        ImageError: an input matches nothing, or all are results of earlier runs.
        OutputError: the output folder is missing, or two inputs would be written to one file.
    """
    named = {Path(spec) for spec in inputs}
    sources = [
        path
        for path in find_images(inputs)
        if path in named or not path.stem.endswith((RESTORED, COMPARE))
    ]
    if not sources:
        raise ImageError(f"{', '.join(inputs)}: only results of earlier runs are there")
    single_file = output is not None and output.suffix.lower() in SUFFIXES and not output.is_dir()
    if single_file and len(sources) > 1:
        raise OutputError(f"--output {output} is one file, but there are {len(sources)} inputs")
    folder = output.parent if output is not None and single_file else output
    if folder is not None and not folder.is_dir():
        raise OutputError(f"there is no folder {folder}; create it, e.g. mkdir -p {folder}")
    if folder is not None and not os.access(folder, os.W_OK):
        raise OutputError(f"cannot write to the folder {folder}; choose another")
    jobs: list[Job] = []
    taken: dict[Path, Path] = {}
    for source in sources:
        target = (folder or source.parent) / f"{source.stem}{RESTORED}{source.suffix}"
        if single_file and output is not None:
            target = output
        beside = target.with_name(f"{source.stem}{COMPARE}.png")
        job = Job(source, target, beside if compare else None)
        for path in job.writes:
            if path in taken:
                raise OutputError(f"{taken[path]} and {source} would both be written to {path}")
            taken[path] = source
        jobs.append(job)
    return jobs


def _run_jobs(
    jobs: list[Job], restorer: Restorer, overwrite: bool, quiet: bool
) -> list[dict[str, Any]]:
    results = []
    with progress_bar("frames", count=len(jobs) > 1, quiet=quiet) as bar:
        task = bar.add_task("restoring", total=len(jobs))
        for index, job in enumerate(jobs):

            def advance(done: int, tiles: int, index: int = index) -> None:
                bar.update(task, completed=index + done / tiles)

            result: dict[str, Any] = {"input": job.source, "output": job.target}
            try:
                result |= _restore_file(job, restorer, overwrite, advance)
            except (MirnetEdgeError, MemoryError) as error:
                message = str(error) or "out of memory"
                named = str(job.source) in message or str(job.target) in message
                result["error"] = message if named else f"{job.source}: {message}"
            results.append(result)
            bar.update(task, completed=index + 1)
    return results


def _restore_file(
    job: Job, restorer: Restorer, overwrite: bool, progress: Progress
) -> dict[str, Any]:
    for path in job.writes:
        require_new(path, overwrite)
    image = read_image(job.source)
    restored = restorer(image.pixels, progress=progress)
    write_image(job.target, restored, like=image, overwrite=overwrite)
    if job.compare:
        after = ImageFile(restored, exif=image.exif)
        write_image(job.compare, side_by_side(image, after), overwrite=overwrite)
    height, width = image.pixels.shape[:2]
    timings = {name: round(value, 3) for name, value in asdict(restorer.timings).items()}
    return {"width": width, "height": height, **timings}


def side_by_side(before: ImageFile, after: ImageFile) -> NDArray[np.uint8]:
    """Both pictures upright, left and right of a white line."""
    left, right = upright_rgb(before), upright_rgb(after)
    line = np.full((left.shape[0], 4, 3), 255, np.uint8)
    return np.concatenate([left, line, right], axis=1)


def _summarize(results: list[dict[str, Any]]) -> None:
    done = [result for result in results if "error" not in result]
    for result in done:
        milliseconds = result["load_ms"] + result["engine_ms"] + result["store_ms"]
        passes = f"{result['passes']} passes  " if result["passes"] > 1 else ""
        out().print(
            f"{result['input']} -> {result['output']}  {result['width']}x{result['height']}  "
            f"{result['tiles']} tiles  {passes}{milliseconds:.0f} ms"
        )
    if len(results) > 1:
        out().print(f"{len(done)} of {len(results)} restored")


@click.command()
@click.option(
    "-m",
    "--model",
    default=DEFAULT_MODEL,
    show_default=True,
    help="A bundled model's name, an .onnx or .engine file, or a checkpoint.",
)
@click.option(
    "--sigma",
    type=click.FloatRange(0, 255),
    default=25.0,
    show_default=True,
    help="Standard deviation of the noise, of 255.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("demo.png"),
    show_default=True,
    help="Where the picture before | after goes; replaced.",
)
@json_option
def demo(model: str, sigma: float, seed: int, output: Path, as_json: bool) -> None:
    """Add noise to a bundled photo, restore it, and print the gain."""  # fmt: skip
    from mirnet_edge.frames.noise import add_gaussian_noise, to_uint8, unit_range
    from mirnet_edge.metrics import psnr
    from mirnet_edge.restore import Restorer

    clean = read_image(PHOTO).pixels
    noisy = to_uint8(add_gaussian_noise(clean, sigma, seed))
    with Restorer(model) as restorer:
        restored = restorer(noisy)
        milliseconds = restorer.timings.total_ms
    write_image(output, side_by_side(ImageFile(noisy), ImageFile(restored)), overwrite=True)

    def quality(image: NDArray[np.uint8]) -> float:
        return psnr(unit_range(image), unit_range(clean))

    result = {
        "model": model,
        "sigma": sigma,
        "noisy_psnr": round(quality(noisy), 2),
        "restored_psnr": round(quality(restored), 2),
        "gain": round(quality(restored) - quality(noisy), 2),
        "milliseconds": round(milliseconds, 1),
        "picture": output,
    }
    if as_json:
        print_json(result)
        return
    height, width = clean.shape[:2]
    out().print(f"photo     {width}x{height}, noise of sigma {sigma:g}/255 (seed {seed})")
    out().print(f"picture   {output} (before | after)")
    out().print(f"time      {milliseconds:.0f} ms with {model}")
    out().print(
        f"PSNR      noisy {result['noisy_psnr']:.2f} dB, restored "
        f"{result['restored_psnr']:.2f} dB: gain {result['gain']:.2f} dB"
    )
