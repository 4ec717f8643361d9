"""What ``restore`` reads, and where it writes: a plan that is made before the first image."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from mirnet_edge._files import make_folder
from mirnet_edge.errors import ImageError, OutputError
from mirnet_edge.frames.images import SUFFIXES, VIDEO_SUFFIXES, find_images

RESTORED, COMPARE = "_restored", "_compare"
NOWHERE = "a link to a file that is not there"
NAMED = 3
"""Of the files that are left out, so many are named; the others are counted."""


@dataclass(frozen=True)
class Job:
    """One file to restore, and where to; ``compare`` is where before | after goes, if anywhere;
    ``url`` is of a source that is no file."""

    source: Path
    target: Path
    compare: Path | None
    url: str | None = None

    @property
    def name(self) -> str:
        """As the user named it."""
        return self.url or str(self.source)

    @property
    def is_video(self) -> bool:
        """Whether it is restored frame by frame."""
        return self.url is not None or is_video(self.source)

    @property
    def writes(self) -> list[Path]:
        return [path for path in (self.target, self.compare) if path is not None]


def is_video(path: Path) -> bool:
    """Whether a file is one by its suffix."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def plan_jobs(
    inputs: Sequence[str], output: str | None, compare: bool
) -> tuple[list[Job], list[str]]:
    """Plan what to read and where to write it; results of earlier runs in a folder are left out.
    A folder for output is made if it is missing, and results keep in it the folders that inputs lie
    in, from the one on that holds all of them. A line is returned for each input of which something
    is left out."""
    if urls := [spec for spec in inputs if "://" in spec]:
        return [_url_job(urls, inputs, output, compare)], []
    sources, top, left_out = _find_sources(inputs)
    file = None if output is None or _names_folder(output) else Path(output)
    if file is not None and len(sources) > 1:
        raise OutputError(f"--output {output} is one file, but there are {len(sources)} inputs")
    if file is not None:
        _require_suffix(file, VIDEO_SUFFIXES if is_video(sources[0]) else SUFFIXES)
    # A comparison is always a PNG, so that a.png and a.jpg would both have a_compare.png.
    same_name = Counter(source.with_suffix("") for source in sources)
    jobs: list[Job] = []
    taken: dict[Path, Path] = {}
    for source in sources:
        place = source.parent
        if output is not None:
            place = Path(output) / os.path.relpath(place, top)
        target = file or place / f"{source.stem}{RESTORED}{source.suffix}"
        name = source.stem if same_name[source.with_suffix("")] == 1 else source.name
        beside = target.with_name(f"{name}{COMPARE}{target.suffix if is_video(source) else '.png'}")
        jobs.append(Job(source, target, beside if compare else None))
        for path in jobs[-1].writes:
            if path in taken:
                raise OutputError(f"{taken[path]} and {source} would both be written to {path}")
            taken[path] = source
    if file is not None:
        _require_folder(file.parent)
    elif output is not None:
        make_folder(Path(output))
        _require_folder(Path(output))
    return jobs, left_out


def _url_job(urls: Sequence[str], inputs: Sequence[str], output: str | None, compare: bool) -> Job:
    """The job of a network source, which is alone and whose result is named."""
    if len(inputs) > 1 or output is None or _names_folder(output):
        raise OutputError(
            f"{urls[0]} is a network source: give it alone, and the file for its result as "
            "-o out.mp4"
        )
    target = Path(output)
    _require_suffix(target, VIDEO_SUFFIXES)
    _require_folder(target.parent)
    beside = target.with_name(f"{target.stem}{COMPARE}{target.suffix}")
    return Job(target, target, beside if compare else None, urls[0])


def _require_suffix(file: Path, suffixes: Sequence[str]) -> None:
    if file.suffix.lower() not in suffixes:
        raise OutputError(
            f"--output {file} names neither a folder that is there nor a file that can be written "
            f"({', '.join(suffixes)}); for a new folder write {file}/"
        )


def _find_sources(inputs: Sequence[str]) -> tuple[list[Path], str, list[str]]:
    """Find all images, each once; the folder that holds all; and lines about what is left out."""
    found: dict[str, Path] = {}
    folders, lines = [], []
    for spec in inputs:
        path = Path(spec)
        if path.is_symlink() and not path.exists():
            # The shell makes of *.png a list with such links, and they stop no others.
            lines.append(f"left out: {spec}, {NOWHERE}")
            continue
        try:
            images = find_images([spec], (*SUFFIXES, *VIDEO_SUFFIXES))
        except ImageError as error:
            raise ImageError("; ".join([str(error), *_left_out(spec, [])])) from error
        lines += _left_out(spec, images)
        folders += [_fixed_part(path), *(image.parent for image in images)]
        for image in images:
            if image == path or not image.stem.endswith((RESTORED, COMPARE)):
                found.setdefault(_absolute(image), image)
    if not found:
        why = "only results of earlier runs are there" if folders else NOWHERE
        raise ImageError(f"{', '.join(inputs)}: {why}")
    return list(found.values()), os.path.commonpath(list(map(_absolute, folders))), lines


def _absolute(path: Path) -> str:
    # Not resolve(): a link keeps its own name, under which its result is looked for.
    return os.path.normpath(path.absolute())


def _fixed_part(path: Path) -> Path:
    """The folder below which an input names images: what of a pattern is no pattern."""
    if path.exists():
        return path if path.is_dir() else path.parent
    return Path(*takewhile(lambda part: not glob.has_magic(part), path.parent.parts))


def _left_out(spec: str, images: Collection[Path]) -> list[str]:
    """What a folder or pattern names beside images, in one line; none where that is nothing."""
    path = Path(spec)
    if path.is_file():
        return []
    entries = path.iterdir() if path.is_dir() else map(Path, glob.iglob(spec, recursive=True))
    kinds: dict[str, list[str]] = {"folders": [], "other formats": [], "broken links": []}
    for entry in sorted(set(entries) - set(images)):
        if entry.name.startswith(".") or (entry.is_dir() and "**" in spec):
            continue
        other = "other formats" if entry.exists() else "broken links"
        kinds["folders" if entry.is_dir() else other].append(entry.name)
    parts = [
        f"{kind}: {', '.join(names[:NAMED])}"
        + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
        for kind, names in kinds.items()
        if names
    ]
    if kinds["folders"] and path.is_dir():
        parts.append(f"for what lies in folders give '{path / '**' / '*'}'")
    return [f"left out of {spec}: {'; '.join(parts)}"] if parts else []


def _names_folder(output: str) -> bool:
    path = Path(output)
    return output.endswith(("/", os.sep)) or not path.suffix or path.is_dir()


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise OutputError(f"there is no folder {folder}; create it, e.g. mkdir -p {folder}")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"cannot write to the folder {folder}; choose another")
