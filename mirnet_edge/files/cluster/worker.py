"""A worker: one process of a cluster with one engine, which does one task after the other."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mirnet_edge._version import __version__
from mirnet_edge.errors import (
    DeviceError,
    DeviceMemoryError,
    MirnetEdgeError,
    message_of,
    wanted_traceback,
)
from mirnet_edge.files.cluster.tasks import Outcome, Task
from mirnet_edge.files.jobs import Job
from mirnet_edge.files.pictures import picture_restorer, restore_picture
from mirnet_edge.files.remote import RemoteJob, staged
from mirnet_edge.files.settings import FileSettings
from mirnet_edge.files.videos import (
    VideoRestorers,
    join_video,
    plan_video,
    restore_parts,
    restore_video,
)

if TYPE_CHECKING:
    from mirnet_edge.restore import Restorer


class Worker:
    """Does tasks with one set of settings; the engine is opened with the first that needs it.

    It raises nothing: what fails is told in the answer, so that Ray reports lost workers alone.
    """

    def __init__(self, settings: FileSettings) -> None:
        self._settings = settings
        self._notices: list[str] = []
        self._videos = VideoRestorers(settings)
        self._pictures: Restorer | None = None

    def prepare(self, version: str, sample: Job | None, has_pictures: bool) -> str:
        """Say why this worker cannot serve, or "".

        Args:
            version: of the package where the run was begun.
            sample: one of its files, to see whether files are seen here.
            has_pictures: whether the engine of pictures is needed: it is opened now.
        """
        where = f"the worker on {socket.gethostname()}"
        if version != __version__:
            return f"{where} has mirnet-edge {__version__}, this machine {version}: install one"
        if sample is not None:
            for path in (sample.source, sample.target.parent):
                if not path.exists():
                    return (
                        f"{where} does not see {path}: give a folder that all machines share under "
                        "one name, or a URL, as s3://…"
                    )
        try:
            if has_pictures:
                self._pictures = picture_restorer(self._settings)
        except MirnetEdgeError as error:
            return str(error)
        return ""

    def run(self, task: Task) -> Outcome:
        """Do one task."""
        settings = self._settings
        if task.tries:
            # The worker that was lost may have written the result, and died before it said so.
            settings = replace(settings, pictures=replace(settings.pictures, keep=True))
        self._notices.clear()
        try:
            with ExitStack() as files:
                job = task.job
                if isinstance(job, RemoteJob):
                    job = files.enter_context(staged(job))
                outcome = self._done(task, job, settings)
        except DeviceError as error:
            # A process that lost its GPU does not get it back.
            is_lost = not isinstance(error, DeviceMemoryError)
            outcome = Outcome(error=str(error), is_lost=is_lost)
        except Exception as error:  # whatever is wrong with one file, the others are restored
            if text := wanted_traceback(error):
                self._notices.append(text)
            outcome = Outcome(error=message_of(error))
        return replace(outcome, notices=tuple(self._notices))

    def pid(self) -> int:
        """Of this process."""
        return os.getpid()

    def _done(self, task: Task, job: Job, settings: FileSettings) -> Outcome:
        if not job.is_video:
            self._pictures = self._pictures or picture_restorer(settings)
            return Outcome(restore_picture(job, self._pictures, settings.pictures, _untold))
        if task.kind in ("whole", "anew"):
            anew = task.kind == "anew"
            return Outcome(restore_video(job, settings, self._videos, _untold, anew))
        if task.kind == "plan":
            plan = plan_video(job, settings, self._videos)
            return Outcome(plan=None if plan is None else tuple(plan))
        if task.kind == "join":
            return Outcome(join_video(job, settings, self._videos, task.plan))
        return Outcome(parts=restore_parts(job, settings, self._videos, task.plan, task.numbers))


def _untold(*_: Any) -> None:
    """Progress within a task is not told."""
