"""Which jobs of a run are left to do, and which files stand in the way."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from mirnet_edge.files.pictures import is_kept
from mirnet_edge.files.remote import AnyJob, RemoteJob, remote_targets
from mirnet_edge.files.settings import PictureOptions

WAYS_ON = "--skip-existing leaves what is there and restores the rest, --overwrite replaces it"


@dataclass
class ToDo:
    """Jobs that are left; those whose results are there and kept; those that may not replace what
    is there, each with what is said of it."""

    left: list[AnyJob] = field(default_factory=list)
    kept: list[AnyJob] = field(default_factory=list)
    refused: dict[AnyJob, str] = field(default_factory=dict)


def to_do(jobs: Sequence[AnyJob], options: PictureOptions) -> ToDo:
    """Look at what is there of the results."""
    found: ToDo = ToDo()
    remote = [job for job in jobs if isinstance(job, RemoteJob)]
    elsewhere = remote_targets(remote)
    for job in jobs:
        if isinstance(job, RemoteJob):
            there = [target for target in job.writes if target in elsewhere]
            is_whole = len(there) == len(job.writes)
        else:
            # A link counts as what is there, also one that leads nowhere.
            there = [str(path) for path in job.writes if os.path.lexists(path)]
            is_whole = options.keep and bool(there) and all(is_kept(path) for path in job.writes)
        if options.keep and is_whole:
            found.kept.append(job)
        elif there and not options.replaces:
            found.refused[job] = f"{there[0]} exists; {WAYS_ON}"
        else:
            found.left.append(job)
    return found
