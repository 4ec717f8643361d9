"""The lines of the report, and whether they are good enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "missing", "optional", "warning"]


@dataclass(frozen=True)
class Check:
    """One line of the report.

    ``status`` is "ok"; "missing": required and absent; "optional": absent and only needed for some
    uses; or "warning": there, but something about it wants attention. ``fix`` is a command for a
    shell, always given with "missing", or None where no command helps.
    """

    name: str
    status: Status
    detail: str
    fix: str | None = None


def healthy(checks: Sequence[Check]) -> bool:
    """Whether nothing required is missing."""
    return all(check.status != "missing" for check in checks)


def gib(size_bytes: int) -> str:
    """A size as the report writes it: 30.0 GiB."""
    return f"{size_bytes / 2**30:.1f} GiB"
