"""The workers of a run: made as far as the cluster has room for them, given one task after the
other, and replaced where they are lost."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from mirnet_edge._version import __version__
from mirnet_edge.errors import ClusterError
from mirnet_edge.files.cluster.agenda import MOST_TRIES, Agenda
from mirnet_edge.files.cluster.connection import Need, told_nodes
from mirnet_edge.files.cluster.tasks import Outcome, Task, Tell
from mirnet_edge.files.cluster.worker import Worker
from mirnet_edge.files.jobs import Job
from mirnet_edge.files.settings import FileSettings

log = logging.getLogger(__name__)
TICK_S = 1.0
"""How long a change of the cluster may go unseen: a node that came, or the last one that went."""
SAID_AFTER_S = 30.0
"""Of waiting for room that others have taken."""


@dataclass
class Crew:
    """Workers on a cluster.

    Attributes:
        ray: the module, connected.
        settings: of the run.
        need: what each worker takes.
        most: how many there are to be; None for as many as have room.
        wait_s: how long to wait where no node can hold a worker, as one that starts its nodes when
            they are asked for.
        tell: told what is done otherwise than asked for.
    """

    ray: Any
    settings: FileSettings
    need: Need
    most: int | None
    wait_s: float
    tell: Tell
    _starting: dict[Any, Any] = field(default_factory=dict, init=False)
    _idle: list[Any] = field(default_factory=list, init=False)
    _working: dict[Any, tuple[Any, Task]] = field(default_factory=dict, init=False)
    _refusals: list[str] = field(default_factory=list, init=False)
    _said: set[str] = field(default_factory=set, init=False)
    _look_at_s: float = field(default=0.0, init=False)
    _lost_in_a_row: int = field(default=0, init=False)
    _unfit_since_s: float | None = field(default=None, init=False)
    _idle_since_s: float = field(default_factory=time.monotonic, init=False)

    def work(self, agenda: Agenda, progress: Callable[[float], None]) -> None:
        """Have all of it done.

        Raises:
            ClusterError: no node can hold a worker, none can serve, or one after the other is lost.
        """
        while not agenda.is_done:
            if time.monotonic() >= self._look_at_s:
                self._look_at_s = time.monotonic() + TICK_S
                self._hire(agenda)
            while self._idle and (task := agenda.next()) is not None:
                worker = self._idle.pop()
                self._working[worker.run.remote(_sent(task))] = worker, task
            for answer in self._answers():
                self._take(answer, agenda)
            progress(agenda.done)

    def close(self) -> None:
        """End all workers."""
        working = [worker for worker, _ in self._working.values()]
        for worker in [*self._starting.values(), *self._idle, *working]:
            self._end(worker)

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _there(self) -> int:
        return len(self._idle) + len(self._working)

    def _hire(self, agenda: Agenda) -> None:
        """Ask for as many workers as are wanted now; Ray starts each where and when it can."""
        nodes = self.ray.nodes()
        places = self.need.places(nodes)
        now_s = time.monotonic()
        if places or self._there:
            self._unfit_since_s = None
        else:
            self._unfit_since_s = self._unfit_since_s or now_s
            if now_s - self._unfit_since_s >= self.wait_s:
                raise ClusterError(
                    f"no node has room for a worker, which takes {self.need} "
                    f"({told_nodes(nodes)}); add such a node, or ask for less with --threads or "
                    "another --model"
                )
        if self._there or not places:
            self._idle_since_s = now_s
        elif now_s - self._idle_since_s > SAID_AFTER_S:
            self._say("waiting for room: others have taken what the cluster has")
        wanted = self.most or max(places, 1)
        useful = agenda.most_workers
        wanted = (wanted if useful is None else min(wanted, useful)) - len(self._refusals)
        agenda.workers = max(self._there, wanted, 1)
        for _ in range(wanted - self._there - len(self._starting)):
            self._start(agenda)
        if not (self._there or self._starting) and self._refusals:
            raise ClusterError(self._refusals[-1])

    def _start(self, agenda: Agenda) -> None:
        remote = self.ray.remote(Worker).options(
            num_cpus=self.need.cores,
            num_gpus=self.need.gpus,
            scheduling_strategy="SPREAD",
        )
        worker = remote.remote(self.settings)
        paths = (_absolute(job) for job in agenda.jobs if isinstance(job, Job))
        sample = next(paths, None)
        has_pictures = any(not job.is_video for job in agenda.jobs)
        self._starting[worker.prepare.remote(__version__, sample, has_pictures)] = worker

    def _answers(self) -> list[Any]:
        """What came since, waiting a moment where nothing did."""
        asked = [*self._starting, *self._working]
        if not asked:
            time.sleep(TICK_S)
            return []
        ready, _ = self.ray.wait(asked, num_returns=1, timeout=TICK_S)
        if ready and len(asked) > 1:  # and all others that are there by now
            ready, _ = self.ray.wait(asked, num_returns=len(asked), timeout=0)
        return list(ready)

    def _take(self, answer: Any, agenda: Agenda) -> None:
        try:
            said = self.ray.get(answer)
        except self.ray.exceptions.RayError as error:
            self._lose(answer, agenda, _reason(error))
            return
        self._lost_in_a_row = 0
        if answer in self._starting:
            worker = self._starting.pop(answer)
            if said:
                self._refusals.append(said)
                self._say(said)
                self._end(worker)
            else:
                self._idle.append(worker)
            return
        worker, task = self._working.pop(answer)
        outcome: Outcome = said
        for notice in outcome.notices:
            self._say(notice)
        agenda.take(task, outcome)
        if outcome.is_lost:
            self._end(worker)
        else:
            self._idle.append(worker)

    def _lose(self, answer: Any, agenda: Agenda, why: str) -> None:
        """One worker is gone; another one is made at once."""
        self._look_at_s = 0.0
        log.info("a worker was lost: %s", why)
        self._lost_in_a_row += 1
        if answer in self._starting:
            self._end(self._starting.pop(answer))
        else:
            worker, task = self._working.pop(answer)
            self._end(worker)
            agenda.lose(task, why)
        most = MOST_TRIES * (agenda.workers + 1)
        if self._lost_in_a_row >= most:
            raise ClusterError(
                f"{most} workers one after the other were lost, and no file was done meanwhile; "
                f"the last one: {why}"
            )

    def _end(self, worker: Any) -> None:
        with suppress(self.ray.exceptions.RayError):
            self.ray.kill(worker)

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self.tell(text)


def _sent(task: Task) -> Task:
    """As another process understands it, wherever that was started."""
    return replace(task, job=_absolute(task.job)) if isinstance(task.job, Job) else task


def _absolute(job: Job) -> Job:
    compare = None if job.compare is None else job.compare.absolute()
    return replace(job, source=job.source.absolute(), target=job.target.absolute(), compare=compare)


def _reason(error: Exception) -> str:
    """What Ray says of why a worker is gone, in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if "Error" in line or "died" in line or "killed" in line]
    # What follows there are the causes that there may be, in general.
    return (told or lines or [type(error).__name__])[-1].partition(" Some common causes")[0]
