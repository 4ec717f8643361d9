"""What a worker is asked, and what it answers: plain values that travel between machines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from mirnet_edge.files.remote import AnyJob
from mirnet_edge.files.videos import Found
from mirnet_edge.stream.video.parts import Part

Tell = Callable[[str], None]
"""Told what is done otherwise than asked for."""
Kind = Literal["whole", "anew", "plan", "parts", "join"]


@dataclass(frozen=True)
class Task:
    """Some work on one file.

    Attributes:
        job: the file.
        kind: all of it, or of a video all of it without what is there; planning its parts,
            restoring the parts of these ``numbers``, and joining all.
        plan: of the video, once there is one.
        tries: how many workers were lost with it.
    """

    job: AnyJob
    kind: Kind = "whole"
    plan: tuple[Part, ...] = ()
    numbers: range = range(0)
    tries: int = 0


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    Attributes:
        result: of the file, where it is done: what ``--json`` prints.
        plan: of a video; None where it has to be restored as a whole.
        parts: what they turned out to be.
        error: why the file failed; "" where it did not.
        is_lost: the worker is of no more use, and the task is for another one.
        notices: what else is to be told.
    """

    result: dict[str, Any] = field(default_factory=dict)
    plan: tuple[Part, ...] | None = None
    parts: Found = "planned"
    error: str = ""
    is_lost: bool = False
    notices: tuple[str, ...] = ()
