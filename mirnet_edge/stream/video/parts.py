"""What a run over a video has finished: parts in a hidden folder beside its result, so that the
same run, begun again after it was killed, goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mirnet_edge._files import atomic_path
from mirnet_edge.errors import OutputError, StreamError

RUN = "run.json"
FRAMES_OF_A_PART = 120


@dataclass(frozen=True)
class Part:
    """One part that is finished.

    Attributes:
        frames: how many it holds.
        seen: how many of the source were decoded for it; more where not every one is kept.
        first_pts, last_pts: of the first and last of these, in ticks of the source.
        last_duration: of the last frame that it holds.
        lost: frames that did not come up to its end, for ``reasons``.
        nonfinite: values of the network that were NaN or infinite.
        guessed: whether frames up to its end are of damaged data.
    """

    frames: int
    seen: int
    first_pts: int
    last_pts: int
    last_duration: int
    lost: int
    reasons: list[str]
    nonfinite: int = 0
    guessed: bool = False


def folder_of_parts(target: Path) -> Path:
    """Where the parts of a result lie."""
    return target.with_name(f".{target.name}.parts")


class Parts:
    """The parts of one run.

    Args:
        target: where the whole will go.
        settings: all that the result depends on, in words.
        anew: begin again where parts of a run with other settings are there.

    Attributes:
        finished: in their order.

    Raises:
        OutputError: they are of a run with other settings, or cannot be written.
    """

    def __init__(self, target: Path, settings: Mapping[str, str], anew: bool = False) -> None:
        self.folder = folder_of_parts(target)
        self.finished: list[Part] = []
        before = self._settings()
        if before is not None and before != dict(settings):
            if not anew:
                raise OutputError(self._other(before, settings))
            before = None
        if before is None:
            self._begin(settings)
        while (record := self._record(len(self.finished))).exists():
            part = json.loads(record.read_text("utf-8"))
            self.finished.append(Part(**part))

    @property
    def frames(self) -> int:
        """In all parts."""
        return sum(part.frames for part in self.finished)

    @property
    def seen(self) -> int:
        """Of the source, for all parts."""
        return sum(part.seen for part in self.finished)

    @property
    def lost(self) -> int:
        """Frames that did not come."""
        return self.finished[-1].lost if self.finished else 0

    @property
    def after(self) -> int | None:
        """PTS up to which they hold all frames; None where there are none."""
        return self.finished[-1].last_pts if self.finished else None

    def path(self, number: int, kind: str = "") -> Path:
        """Where a part lies; ``kind`` names the one of another video of the run."""
        return self.folder / f"{number:06}{kind}.nut"

    def add(self, part: Part) -> None:
        """Note that the next part is finished; its files are there."""
        with atomic_path(self._record(len(self.finished))) as temporary:
            temporary.write_text(json.dumps(asdict(part)), "utf-8")
        self.finished.append(part)

    def remove(self) -> None:
        """Delete all of them."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _record(self, number: int) -> Path:
        return self.folder / f"{number:06}.json"

    def _settings(self) -> dict[str, str] | None:
        try:
            settings: dict[str, str] = json.loads((self.folder / RUN).read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return settings

    def _begin(self, settings: Mapping[str, str]) -> None:
        self.remove()  # without its settings nobody knows what a part is of
        try:
            self.folder.mkdir()
        except OSError as error:
            raise OutputError(f"cannot make the folder {self.folder}: {error}") from error
        with atomic_path(self.folder / RUN) as temporary:
            temporary.write_text(json.dumps(dict(settings), indent=1), "utf-8")

    def _other(self, before: Mapping[str, str], settings: Mapping[str, str]) -> str:
        differ = [
            f"{name} was {before.get(name, 'not set')}, is {settings.get(name, 'not set')}"
            for name in sorted({*before, *settings})
            if before.get(name) != settings.get(name)
        ]
        return (
            f"{self.folder} holds parts of a run that did not end: {'; '.join(differ)}. Give the "
            "settings of that run to go on, or --overwrite to begin anew"
        )


class OtherThanPlanned(StreamError):
    """A part that is not what was planned, as of a damaged video; ``guessed`` as `Part` has it."""

    def __init__(self, message: str, guessed: bool = False) -> None:
        super().__init__(message)
        self.guessed = guessed


class PlannedParts(Parts):
    """Some of the parts of a run whose other parts are made elsewhere, maybe at the same time.

    Args:
        target, settings: see `Parts`.
        plan: all parts of the video.
        numbers: those that are made here, but those that are there already.

    Attributes:
        finished: all before the next one, whether they are there or not.
    """

    def __init__(
        self, target: Path, settings: Mapping[str, str], plan: Sequence[Part], numbers: range
    ) -> None:
        super().__init__(target, settings)
        self._plan = plan
        there = (number for number in numbers if not self._record(number).exists())
        self.finished = list(plan[: next(there, numbers.stop)])

    def add(self, part: Part) -> None:
        """Note that the next part is finished.

        Raises:
            OtherThanPlanned: it is not as planned, and is not noted.
        """
        number = len(self.finished)
        if number >= len(self._plan):
            raise OtherThanPlanned(f"{self.folder}: a part more than {number}")
        planned = self._plan[number]
        # What nobody knew when it was planned is taken as it is.
        known = replace(part, last_duration=planned.last_duration, nonfinite=planned.nonfinite)
        if known != planned:
            told = f"{self.folder}: {part} where {planned} was planned"
            raise OtherThanPlanned(told, part.guessed)
        super().add(part)
