"""``restore --ray``: its options, and a run that is shown and reported as one on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from mirnet_edge.cli.console import err, is_quiet, option_group, progress_bar
from mirnet_edge.cli.pictures import picture_line
from mirnet_edge.cli.report import Report
from mirnet_edge.cli.video import print_video, video_line
from mirnet_edge.files.settings import FileSettings

if TYPE_CHECKING:
    from mirnet_edge.files.cluster.run import ClusterSettings
    from mirnet_edge.files.remote import AnyJob

cluster_options = option_group(
    click.option("--ray", "address", metavar="ADDRESS|local",
                 help="Restore on a Ray cluster: 'auto', HOST:PORT or ray://HOST:PORT of one that "
                 "runs; 'local' starts one of this machine. Inputs and --output may be URLs, as "
                 "s3://bucket/in/, or lie in folders that all machines see."),
    click.option("--workers", type=click.IntRange(1),
                 help="With --ray: how many; by default one a GPU, or one for each --threads (1) "
                 "cores."),
    click.option("--ray-wait", "wait_s", type=click.FloatRange(0), default=0.0, metavar="SECONDS",
                 help="With --ray: how long to wait for a node with room for a worker."),
)  # fmt: skip


def cluster_asked(given: dict[str, Any]) -> ClusterSettings | None:
    """Take these options out of what a command was given; None where no cluster is asked for."""
    address, workers, wait_s = (given.pop(name) for name in ("address", "workers", "wait_s"))
    if address is None:
        if workers is not None or wait_s:
            raise click.UsageError("--workers and --ray-wait are of --ray: give that too")
        return None
    from mirnet_edge.files.cluster.run import ClusterSettings

    return ClusterSettings(address, workers, wait_s)


def run_jobs(
    todo: Sequence[AnyJob],
    settings: FileSettings,
    cluster: ClusterSettings,
    report: Report,
    quiet: bool,
) -> None:
    """Restore files on a cluster, and report each as it ends."""
    from mirnet_edge.files.cluster.run import run_on_cluster

    def done(job: AnyJob, result: dict[str, Any]) -> None:
        report.done(job, result, (video_line if job.is_video else picture_line)(job, result))
        if job.is_video and not (quiet or is_quiet()):
            print_video(job, result)

    with progress_bar("files", quiet=quiet) as bar:
        task = bar.add_task("restoring", total=len(todo))
        run_on_cluster(
            todo,
            settings,
            cluster,
            on_done=done,
            on_failure=report.failure,
            progress=lambda count: bar.update(task, completed=count),
            tell=err().print,
        )
