"""What is left to do of a run, file by file: in which order, what follows from what, and what
becomes of the task of a lost worker. It knows nothing of Ray."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mirnet_edge.files.cluster.tasks import Kind, Outcome, Task
from mirnet_edge.files.jobs import Job
from mirnet_edge.files.remote import AnyJob
from mirnet_edge.files.videos import Found

MOST_TRIES = 3
SHARES = 4
"""Into so many tasks for each worker a video is cut, where it has as many parts: the last ones then
end at about the same time."""
MOST_PARTS = 8
"""Of one task: decoding up to its first frame is little beside them."""


@dataclass
class _File:
    """Where one file stands: how many of its tasks run, how many of its parts are there, and what
    they turned out to be."""

    running: int = 0
    parts: int = 0
    plan: tuple[Any, ...] = ()
    found: Found = "planned"
    has_ended: bool = False


@dataclass
class Agenda:
    """The tasks of a run.

    Attributes:
        jobs: the files.
        on_done: called with a file and its result.
        on_failure: called with a file and why it failed.
        workers: how many there are, kept up by who gives the tasks out.
    """

    jobs: Sequence[AnyJob]
    on_done: Callable[[AnyJob, dict[str, Any]], None]
    on_failure: Callable[[AnyJob, str], None]
    workers: int = 1
    _queue: deque[Task] = field(default_factory=deque, init=False)
    # Counted, as a folder may hold a million of them.
    _files: dict[AnyJob, _File] = field(default_factory=dict, init=False)
    _begun: set[AnyJob] = field(default_factory=set, init=False)
    _running: int = field(default=0, init=False)
    _ended: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        for job in self.jobs:
            # What is not seen by all of them, one worker restores as a whole.
            is_shared = isinstance(job, Job) and job.is_video
            self._queue.append(Task(job, "plan" if is_shared else "whole"))
            self._files[job] = _File()

    @property
    def is_done(self) -> bool:
        """Whether every file is restored, or has failed."""
        return self._ended == len(self._files)

    @property
    def done(self) -> float:
        """How many files are done, with the share of those that are begun."""
        begun = map(self._files.__getitem__, self._begun)
        return self._ended + sum(file.parts / len(file.plan) for file in begun)

    @property
    def most_workers(self) -> int | None:
        """How many can be busy; None while a video may still become any number of tasks."""
        if any(task.kind == "plan" for task in self._queue):
            return None
        return len(self._queue) + self._running

    def next(self) -> Task | None:
        """A task to be done now; None while there is none."""
        if not self._queue:
            return None
        task = self._queue.popleft()
        self._files[task.job].running += 1
        self._running += 1
        return task

    def take(self, task: Task, outcome: Outcome) -> None:
        """Go on from what a worker made of a task."""
        if outcome.is_lost:
            self.lose(task, outcome.error)
            return
        job, file = task.job, self._returned(task)
        if file.has_ended:
            return
        if outcome.error:
            self._fail(job, outcome.error)
        elif task.kind in ("whole", "anew", "join"):
            self._end(job)
            self.on_done(job, outcome.result)
        elif task.kind == "plan":
            self._begin_parts(job, outcome.plan)
        else:
            self._take_parts(task, outcome)

    def lose(self, task: Task, why: str) -> None:
        """Give the task of a lost worker to another one, if it did not lose several already."""
        job, file = task.job, self._returned(task)
        if file.has_ended:
            return
        if file.found != "planned":
            self._begin_whole(job)
            return
        tries = task.tries + 1
        if tries < MOST_TRIES:
            self._queue.appendleft(replace(task, tries=tries))
        else:
            self._fail(job, f"{job.name}: {tries} workers were lost with it, the last one: {why}")

    def _begin_parts(self, job: AnyJob, plan: tuple[Any, ...] | None) -> None:
        """Make tasks of the parts of a video, to be done before what else waits."""
        if plan is None or len(plan) < 2:
            self._queue.appendleft(Task(job, "whole"))
            return
        self._files[job].plan = plan
        self._begun.add(job)
        step = max(1, min(MOST_PARTS, len(plan) // (SHARES * self.workers)))
        starts = range(0, len(plan), step)
        numbers = [range(start, min(start + step, len(plan))) for start in starts]
        self._queue.extendleft(Task(job, "parts", plan, each) for each in reversed(numbers))

    def _take_parts(self, task: Task, outcome: Outcome) -> None:
        job, file = task.job, self._files[task.job]
        file.parts += len(task.numbers)
        if outcome.parts != "planned":
            file.found = "guessed" if "guessed" in (file.found, outcome.parts) else "other"
            self._drop(job)
        if file.found != "planned":
            self._begin_whole(job)
        elif file.parts == len(file.plan):
            self._queue.appendleft(Task(job, "join", file.plan))

    def _begin_whole(self, job: AnyJob) -> None:
        """Have a video that is not as planned restored by one worker, once no other writes parts:
        behind those that are as planned, where they are what one process makes of them."""
        file = self._files[job]
        if not file.running:
            kind: Kind = "anew" if file.found == "guessed" else "whole"
            file.plan, file.parts, file.found = (), 0, "planned"
            self._begun.discard(job)
            self._queue.appendleft(Task(job, kind))

    def _returned(self, task: Task) -> _File:
        file = self._files[task.job]
        file.running -= 1
        self._running -= 1
        return file

    def _fail(self, job: AnyJob, why: str) -> None:
        if job in self._begun:
            self._drop(job)
        self._end(job)
        self.on_failure(job, why)

    def _end(self, job: AnyJob) -> None:
        self._files[job].has_ended = True
        self._begun.discard(job)
        self._ended += 1

    def _drop(self, job: AnyJob) -> None:
        self._queue = deque(task for task in self._queue if task.job != job)
