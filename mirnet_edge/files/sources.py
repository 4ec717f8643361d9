"""What a run is asked to read: the pictures and videos of files, folders and patterns, and
what of them is left out, and why."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from mirnet_edge.errors import ImageError
from mirnet_edge.frames.formats import FORMATS
from mirnet_edge.frames.images import VIDEO_SUFFIXES

PICTURE_SUFFIXES = tuple(FORMATS)
KNOWN_SUFFIXES = (*PICTURE_SUFFIXES, *VIDEO_SUFFIXES)
RESTORED, COMPARE = "_restored", "_compare"
FOLDER, FORMAT, LINK = "folders", "other formats", "broken links"
RESULT, OUTPUT, SPECIAL = "results of earlier runs", "the folder for results", "no files"
UNREADABLE, LINKED = "folders that cannot be read", "links to folders"
WHY = {
    FOLDER: "a folder; --recursive takes what lies in it",
    FORMAT: "no suffix of a picture or video",
    LINK: "a link to a file that is not there",
    RESULT: "by its name the result of an earlier run",
    OUTPUT: "the folder for results",
    SPECIAL: "a pipe, socket or device, and no file",
    UNREADABLE: "a folder that cannot be read",
    LINKED: "a link to a folder, which may lead back",
}
NAMED = 3
"""Of the files that are left out, so many are named; the others are counted."""


@dataclass(frozen=True)
class LeftOut:
    """One entry of an input that is not restored: ``kind`` is one of `WHY`."""

    spec: str
    path: Path
    kind: str


@dataclass(frozen=True)
class Found:
    """All sources, each once; the folder that holds all; and what is left out."""

    sources: list[Path]
    top: str
    left_out: list[LeftOut]

    @property
    def lines(self) -> list[str]:
        """What is left out, in a line for each input."""
        return [_line(spec, self.left_out) for spec in dict.fromkeys(e.spec for e in self.left_out)]


@dataclass(frozen=True)
class Search:
    """How inputs are looked through.

    Attributes:
        recursive: folders within folders too.
        results: the folder for results, which is left out where it lies in an input.
        endings: of names that results of earlier runs have.
    """

    recursive: bool = False
    results: Path | None = None
    endings: tuple[str, ...] = (RESTORED, COMPARE)

    def find(self, specs: Sequence[str]) -> Found:
        """Find all that is to be restored; an `ImageError` where that is nothing."""
        found: dict[str, Path] = {}
        folders: list[Path] = []
        left_out: list[LeftOut] = []
        for spec in specs:
            path = Path(spec)
            if path.is_symlink() and not path.exists():
                # The shell makes of *.png a list with such links, and they stop no others.
                left_out.append(LeftOut(spec, path, LINK))
                continue
            entries = [(path, None)] if path.is_file() else list(self._entries(spec))
            left_out += [LeftOut(spec, entry, kind) for entry, kind in entries if kind]
            sources = [entry for entry, kind in entries if kind is None]
            if not sources and not any(kind == RESULT for _, kind in entries):
                raise ImageError(_nothing(spec, left_out))
            folders += [_fixed_part(path), *(source.parent for source in sources)]
            for source in sources:
                found.setdefault(absolute(source), source)
        if not found:
            why = "only results of earlier runs are there" if folders else WHY[LINK]
            raise ImageError(f"{', '.join(specs)}: {why}")
        top = os.path.commonpath(list(map(absolute, folders)))
        return Found(list(found.values()), top, left_out)

    def _entries(self, spec: str) -> Iterator[tuple[Path, str | None]]:
        """All that a folder or pattern names but hidden files, each with why it is left out."""
        path = Path(spec)
        is_below = self._is_below(path)
        if path.is_dir() and self.recursive:
            entries = self._walk(path)
        elif path.is_dir():
            entries = ((entry, None) for entry in sorted(_listed(path)))
        else:
            matches = (Path(match) for match in sorted(glob.iglob(spec, recursive=True)))
            entries = ((match, None) for match in matches)
        for entry, kind in entries:
            if entry.name.startswith(".") or (entry.is_dir() and kind is None and "**" in spec):
                continue
            if kind is None and is_below and self._is_result(entry):
                kind = OUTPUT
            yield entry, kind or self._kind(entry)

    def _walk(self, folder: Path) -> Iterator[tuple[Path, str | None]]:
        errors: list[OSError] = []
        for name, below, files in os.walk(folder, onerror=errors.append):
            place = Path(name)
            yield from ((place / file, None) for file in sorted(files))
            for entry in [place / one for one in sorted(below)]:
                if entry.is_symlink():
                    yield entry, LINKED
                elif self._is_below(folder) and self._is_result(entry):
                    yield entry, OUTPUT
                    below.remove(entry.name)
            below[:] = sorted(one for one in below if not one.startswith("."))
        yield from ((Path(error.filename), UNREADABLE) for error in errors)

    def _is_below(self, path: Path) -> bool:
        """Whether the folder for results lies in what an input names."""
        if self.results is None:
            return False
        results, top = absolute(self.results), absolute(_fixed_part(path))
        return results != top and Path(results).is_relative_to(top)

    def _is_result(self, entry: Path) -> bool:
        return self.results is not None and Path(absolute(entry)).is_relative_to(
            absolute(self.results)
        )

    def _kind(self, entry: Path) -> str | None:
        if entry.is_dir():
            return FOLDER
        if not entry.exists():
            return LINK
        if entry.suffix.lower() not in KNOWN_SUFFIXES:
            return FORMAT
        if not entry.is_file():
            return SPECIAL
        return RESULT if entry.stem.endswith(self.endings) else None


def absolute(path: Path) -> str:
    """The whole path, without the dots in it."""
    # Not resolve(): a link keeps its own name, under which its result is looked for.
    return os.path.normpath(path.absolute())


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise ImageError(f"{folder}: cannot be read: {error.strerror}") from error


def _fixed_part(path: Path) -> Path:
    """The folder below which an input names images: what of a pattern is no pattern."""
    if path.exists():
        return path if path.is_dir() else path.parent
    return Path(*takewhile(lambda part: not glob.has_magic(part), path.parent.parts))


def _nothing(spec: str, left_out: Sequence[LeftOut]) -> str:
    known = ", ".join(KNOWN_SUFFIXES)
    message = f"{spec}: no such file, and no image or video ({known}) there"
    here = [entry for entry in left_out if entry.spec == spec]
    return f"{message}; {_line(spec, here)}" if here else message


def _line(spec: str, left_out: Sequence[LeftOut]) -> str:
    here = [entry for entry in left_out if entry.spec == spec]
    if [entry.path for entry in here] == [Path(spec)]:
        return f"left out: {spec}, {WHY[here[0].kind]}"
    folder, parts = Path(spec), []
    for kind in WHY:
        paths = [entry.path for entry in here if entry.kind == kind]
        names = [
            str(path.relative_to(folder)) if path.is_relative_to(folder) else path.name
            for path in paths
        ]
        if names:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            parts.append(f"{kind}: {', '.join(names[:NAMED])}{more}")
    if folder.is_dir() and any(entry.kind == FOLDER for entry in here):
        parts.append("--recursive takes what lies in folders")
    return f"left out of {spec}: {'; '.join(parts)}"
