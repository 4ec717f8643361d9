"""A line of the doctor's report, and the question that it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from mirnet_edge.doctor.system import System


@dataclass(frozen=True)
class Check:
    """One line of the report: "ok"; "missing": required and absent; "optional": absent and only
    needed for some uses; or "warning": there, but something about it wants attention. ``fix`` is a
    command for a shell, always given with "missing", or None where no command helps."""

    name: str
    status: Literal["ok", "missing", "optional", "warning"]
    detail: str
    fix: str | None = None


@dataclass(frozen=True)
class Probe:
    """A question to the system. One with a ``fix`` is for a requirement, unmet where it fails."""

    name: str
    ask: Callable[[System], list[Check]]
    fix: str | None = None

    def failed(self, detail: str) -> Check:
        """Make the line that stands for an answer that did not come."""
        return Check(self.name, "missing" if self.fix else "warning", detail, self.fix)
