"""Folders of photos and videos on a Ray cluster, from Python; ``mirnet-edge restore --ray`` is the
same as a command."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mirnet_edge._arguments import explained
from mirnet_edge.errors import ConfigError
from mirnet_edge.files.cluster.run import ClusterSettings, run_on_cluster
from mirnet_edge.files.jobs import Naming
from mirnet_edge.files.remote import AnyJob
from mirnet_edge.files.settings import FileSettings, PictureOptions, VideoOptions
from mirnet_edge.files.sources import RESTORED
from mirnet_edge.files.todo import to_do
from mirnet_edge.restore import Restorer

log = logging.getLogger(__name__)
Paths = str | os.PathLike[str]
OF_VIDEOS = ("codec", "crf", "preset", "begin_s", "duration_s", "every")


@dataclass(frozen=True)
class FilesReport:
    """What became of files.

    Attributes:
        restored: what was done, a dictionary a file with "input", "output", "width" and more, as
            ``mirnet-edge restore --json`` prints it, in the order in which they ended.
        skipped: inputs whose results were there.
        failed: inputs that were not restored, and why.
        left_out: lines that say what of the inputs is neither picture nor video.
    """

    restored: list[dict[str, Any]]
    skipped: list[str]
    failed: dict[str, str]
    left_out: list[str]


@explained(ConfigError)
def restore_files(
    inputs: Paths | Sequence[Paths],
    output: Paths | None = None,
    *,
    model: Paths | Sequence[Paths] = "edge-s-denoise",
    address: str = "local",
    workers: int | None = None,
    wait: float = 0.0,
    recursive: bool = False,
    suffix: str = RESTORED,
    compare: bool = False,
    skip_existing: bool = False,
    overwrite: bool = False,
    form: str | None = None,
    quality: int | None = None,
    max_pixels: int | None = None,
    progress: Callable[[float, int], None] | None = None,
    **settings: Any,
) -> FilesReport:
    """Restore files, folders of them and patterns on a Ray cluster; results are those of ``mirnet-
    edge restore`` with the same settings.

    Args:
        inputs: paths that all machines of the cluster see, or URLs of `fsspec`.
        output: folder for the results, or a file for one; None is beside the inputs.
        model: see `Restorer`; files that all machines see, or a bundled model.
        address: "local" for a cluster of this machine alone, which ends with the call; "auto",
            "host:port" or "ray://host:port" of one that runs. Where this process is connected to
            one already, it is used, whatever is given.
        workers: how many processes, each with an engine of its own; None for one a GPU, or one for
            each ``threads`` cores (1 if not given) where there are none.
        wait: seconds to wait for a node with room, of a cluster that starts nodes on demand.
        recursive, suffix, compare, skip_existing, overwrite, form, quality, max_pixels: as of
            ``mirnet-edge restore``, ``form`` its ``--format``.
        progress: called with (files done, files), the former with the share of begun videos.
        settings: of `Restorer`, as ``tile=512``; of videos ``codec``, ``crf``, ``preset``,
            ``begin_s``, ``duration_s`` and ``every``.

    Raises:
        ClusterError: there is no such cluster, or no worker can work; what was done is whole.
        ConfigError: no such setting.
        ImageError: an input is not there.
        OutputError: results cannot be written to ``output``.
        MissingDependencyError: Ray is not installed.

    A file that fails stops no other: see `FilesReport.failed`.
    """
    if skip_existing and overwrite:
        raise ConfigError("skip_existing or overwrite, not both")
    of_videos = {name: settings.pop(name) for name in OF_VIDEOS if name in settings}
    known = set(inspect.signature(Restorer).parameters) - {"model", "pixels", "frame_size"}
    if unknown := sorted(settings.keys() - known):
        raise ConfigError(
            f"{', '.join(unknown)}: no such setting; known are {', '.join(sorted(known))}, and of "
            f"videos {', '.join(OF_VIDEOS)}"
        )
    ending = None if form is None else f".{form.lower().lstrip('.')}"
    cluster = ClusterSettings(address, workers, wait)
    naming = Naming(None if output is None else os.fspath(output), compare, suffix, ending)
    jobs, _, lines = cluster.plan(_listed(inputs), naming, recursive)
    pictures = PictureOptions(quality, max_pixels, ending, skip_existing, overwrite)
    found = to_do(jobs, pictures)
    report = FilesReport(
        restored=[],
        skipped=[job.name for job in found.kept],
        failed={job.name: message for job, message in found.refused.items()},
        left_out=lines,
    )

    def on_done(job: AnyJob, result: dict[str, Any]) -> None:
        report.restored.append({"input": job.name, "output": str(job.target), **result})

    def on_failure(job: AnyJob, message: str) -> None:
        report.failed[job.name] = message

    def on_progress(done: float) -> None:
        if progress is not None:
            progress(done, len(found.left))

    run_on_cluster(
        found.left,
        FileSettings(
            tuple(_listed(model)),
            settings,
            pictures,
            VideoOptions(**of_videos),
        ),
        cluster,
        on_done=on_done,
        on_failure=on_failure,
        progress=on_progress,
        tell=log.warning,
    )
    return report


def _listed(given: Paths | Sequence[Paths]) -> list[str]:
    several = [given] if isinstance(given, (str, os.PathLike)) else given
    return [os.fspath(one) for one in several]
