"""A run over files on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mirnet_edge.errors import ConfigError
from mirnet_edge.files.cluster.agenda import Agenda
from mirnet_edge.files.cluster.connection import LOCAL, Need, connected
from mirnet_edge.files.cluster.crew import Crew
from mirnet_edge.files.cluster.tasks import Tell
from mirnet_edge.files.jobs import PIPE, Naming, plan_jobs
from mirnet_edge.files.remote import AnyJob, is_url, plan_remote
from mirnet_edge.files.settings import FileSettings
from mirnet_edge.files.sources import LeftOut
from mirnet_edge.system import usable_cores


@dataclass(frozen=True)
class ClusterSettings:
    """Where, and by how many.

    Attributes:
        address: see `connected`.
        workers: how many there are to be; None for one a GPU, or one for each ``threads`` cores.
        wait_s: see `Crew`.
    """

    address: str = LOCAL
    workers: int | None = None
    wait_s: float = 0.0

    def plan(
        self, inputs: Sequence[str], naming: Naming, recursive: bool
    ) -> tuple[Sequence[AnyJob], list[LeftOut], list[str]]:
        """Plan what to read and where to write it, as `plan_jobs`, or `plan_remote` of URLs.

        Raises:
            ConfigError: standard input or output, or what only one process sees.
        """
        named = [*inputs, naming.output or ""]
        if PIPE in named:
            raise ConfigError(f"{PIPE} is of one process, and no worker has it: give files")
        if any(name.startswith("memory://") for name in named):
            raise ConfigError("memory:// is of one process, and no worker has it: give files")
        if any(map(is_url, named)):
            jobs, lines = plan_remote(inputs, naming, recursive)
            return jobs, [], lines
        return plan_jobs(inputs, naming, recursive)


def run_on_cluster(
    jobs: Sequence[AnyJob],
    settings: FileSettings,
    cluster: ClusterSettings,
    *,
    on_done: Callable[[AnyJob, dict[str, Any]], None],
    on_failure: Callable[[AnyJob, str], None],
    progress: Callable[[float], None],
    tell: Tell,
) -> None:
    """Restore files on a cluster.

    Args:
        on_done: called with each file that is restored, in the order in which they end, and its
            result.
        on_failure: called with each that is not, and why.
        progress: called with how many files are done, and shares of those that are begun.
        tell: told what is done otherwise than asked for.

    Raises:
        ClusterError: there is none, or no worker can work. What was done until then is whole.
    """
    if cluster.workers is not None and cluster.workers < 1:
        raise ConfigError(f"workers={cluster.workers}: need at least 1")
    if not jobs:
        return
    models = tuple(
        str(Path(name).absolute()) if Path(name).is_file() else name for name in settings.models
    )
    settings = replace(settings, models=models)
    threads = settings.restoring.get("threads")
    cores = threads or 1
    if threads is None and cluster.workers and cluster.address == LOCAL:
        cores = max(1, usable_cores() // cluster.workers)
    with connected(cluster.address, cores * (cluster.workers or 1)) as ray:
        need = Need.of(settings, cores, ray.nodes())
        if not need.gpus:
            settings = replace(settings, restoring={**settings.restoring, "threads": need.cores})
        agenda = Agenda(jobs, on_done, on_failure)
        with Crew(ray, settings, need, cluster.workers, cluster.wait_s, tell) as crew:
            crew.work(agenda, progress)
