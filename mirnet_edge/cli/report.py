"""What is said of the files of a run: a line as each is done, and a summary, also of a run that is
cut short."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from mirnet_edge.cli.console import err, fail, print_json_line, say
from mirnet_edge.files.remote import AnyJob
from mirnet_edge.files.sources import WHY, LeftOut

log = logging.getLogger(__name__)
Result = dict[str, Any]
"""Of a job, as ``--json`` prints it."""


class Report:
    """Prints, as lines of text or of JSON, and counts.

    Args:
        jobs: how many there are.
        as_json: print an object a line on standard output, each at once.
        quiet: print errors alone, and JSON where that is asked for.
        piped: standard output is a picture's; lines go to standard error.
    """

    def __init__(self, jobs: int, as_json: bool, quiet: bool, piped: bool) -> None:
        self._jobs, self._as_json, self._quiet = jobs, as_json, quiet
        self._say: Callable[[str], None] = err().print if piped else say
        self.restored = self.skipped = self.failed = self._ignored = 0

    def left_out(self, entries: Sequence[LeftOut], lines: Sequence[str]) -> None:
        """Say what is not restored, and why."""
        self._ignored = len(entries)
        if not self._quiet:
            for line in lines:
                err().print(line)
        for entry in entries:
            self._print_json(
                {"input": entry.spec, "ignored": str(entry.path), "reason": WHY[entry.kind]}
            )

    def done(self, job: AnyJob, result: Result, line: str) -> None:
        """Say that a file was restored."""
        self.restored += 1
        if not self._as_json and not self._quiet:
            self._say(line)
        self._print_json({**_named(job), **result})

    def was_there(self, job: AnyJob) -> None:
        """Count a result that an earlier run made."""
        self.skipped += 1
        log.info("%s was there", job.target)
        self._print_json({**_named(job), "skipped": True})

    def failure(self, job: AnyJob, message: str, said: bool = False) -> None:
        """Say that a file was not restored; ``said`` where the user has been told."""
        named = job.name in message or str(job.target) in message
        message = message if named else f"{job.name}: {message}"
        self.failed += 1
        if not said:
            fail(message)
        self._print_json({**_named(job), "error": message})

    def summary(self, interrupted: bool) -> None:
        """Say how it ended."""
        counts = {"restored": self.restored, "skipped": self.skipped, "failed": self.failed}
        self._print_json(
            {
                "summary": {
                    **counts,
                    "ignored": self._ignored,
                    "of": self._jobs,
                    "interrupted": interrupted,
                }
            }
        )
        if self._as_json or self._quiet or not (self._jobs > 1 or self.skipped):
            return
        there = f", {self.skipped} were there" if self.skipped else ""
        failed = f", {self.failed} failed" if self.failed else ""
        self._say(f"{self.restored} of {self._jobs} restored{there}{failed}")

    def _print_json(self, value: Result) -> None:
        if self._as_json:
            print_json_line(value)


def _named(job: AnyJob) -> Result:
    return {"input": job.name, "output": str(job.target)}
