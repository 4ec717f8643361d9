"""What is read, and where it is written: a plan that is made before the first image."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mirnet_edge._files import make_folder
from mirnet_edge.errors import ConfigError, OutputError
from mirnet_edge.files.sources import COMPARE, PICTURE_SUFFIXES, RESTORED, LeftOut, Search
from mirnet_edge.frames.formats import FORMATS
from mirnet_edge.frames.images import VIDEO_SUFFIXES

PIPE = "-"


@dataclass(frozen=True)
class Job:
    """One file to restore, and where to; ``compare`` is where before | after goes, if anywhere;
    ``url`` is of a source that is no file.

    A source or target named `PIPE` is standard input or output.
    """

    source: Path
    target: Path
    compare: Path | None
    url: str | None = None
    reads_stdin: bool = False
    writes_stdout: bool = False

    @property
    def name(self) -> str:
        """As the user named it."""
        return self.url or str(self.source)

    @property
    def is_video(self) -> bool:
        """Whether it is restored frame by frame, by PyAV."""
        return not self.reads_stdin and (self.url is not None or is_video(self.source))

    @property
    def writes(self) -> list[Path]:
        """The files that it makes."""
        target = None if self.writes_stdout else self.target
        return [path for path in (target, self.compare) if path is not None]


@dataclass(frozen=True)
class Naming:
    """Where results go, and what they are called.

    Attributes:
        output: a folder or file; None is beside each input.
        compare: whether comparisons are written.
        suffix: what is added to the names of inputs.
        form: the suffix of the format that pictures are written in; None keeps that of each.
    """

    output: str | None = None
    compare: bool = False
    suffix: str = RESTORED
    form: str | None = None

    def __post_init__(self) -> None:
        if "/" in self.suffix or os.sep in self.suffix or "\0" in self.suffix:
            raise ConfigError(f"--suffix {self.suffix!r} is a part of a name, and no path")
        if not self.suffix and self.output is None:
            raise ConfigError("--suffix '' keeps the names of inputs: give --output a folder")

    @property
    def file(self) -> Path | None:
        """The one file that ``output`` names, if it does."""
        return None if self.output is None or _names_folder(self.output) else Path(self.output)

    @property
    def folder(self) -> Path | None:
        """The folder that it names, if it does."""
        return None if self.output is None or self.file is not None else Path(self.output)

    def ending_of(self, source: Path) -> str:
        """The suffix of a result: its format."""
        if is_video(source):
            return source.suffix
        if self.form is not None:
            return self.form
        return source.suffix if source.suffix.lower() in FORMATS else ".png"

    def target(self, source: Path, place: Path, name: str) -> Path:
        """Where the result of a source called ``name`` goes."""
        return self.file or place / f"{name}{self.suffix}{self.ending_of(source)}"


def is_video(path: Path) -> bool:
    """Whether a file is one by its suffix."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def plan_jobs(
    inputs: Sequence[str], naming: Naming, recursive: bool = False
) -> tuple[list[Job], list[LeftOut], list[str]]:
    """Plan what to read and where to write it; results of earlier runs in a folder are left out.
    A folder for output is made if it is missing, and results keep in it the folders that inputs lie
    in, from the one on that holds all of them. What is left out is returned too, and in lines."""
    if urls := [spec for spec in inputs if "://" in spec]:
        return [_url_job(urls, inputs, naming)], [], []
    if PIPE in inputs:
        return [_pipe_job(inputs, naming)], [], []
    # Beside inputs, results are known by the names that this run gives them.
    own = (naming.suffix,) if naming.output is None and naming.suffix else ()
    search = Search(recursive, naming.folder, (RESTORED, COMPARE, *own))
    found = search.find(inputs)
    jobs = _jobs_of(found.sources, found.top, naming)
    if naming.output == PIPE:
        (job,) = jobs
        jobs = [replace(job, target=Path(PIPE), writes_stdout=True)]
    elif naming.file is not None:
        _require_folder(naming.file.parent)
    elif naming.folder is not None:
        make_folder(naming.folder)
        _require_folder(naming.folder)
    return jobs, found.left_out, found.lines


def _jobs_of(sources: Sequence[Path], top: str, naming: Naming) -> list[Job]:
    output, file = naming.output, naming.file
    if len(sources) > 1 and (file is not None or output == PIPE):
        raise OutputError(f"--output {output} is one file, but there are {len(sources)} inputs")
    if output == PIPE and naming.compare:
        raise ConfigError("--compare has no place beside standard output")
    if output == PIPE and is_video(sources[0]):
        raise ConfigError("standard output takes pictures, and no videos")
    if file is not None and output != PIPE:
        _require_suffix(file, VIDEO_SUFFIXES if is_video(sources[0]) else PICTURE_SUFFIXES)
    places = {
        source: source.parent
        if output is None
        else Path(output) / os.path.relpath(source.parent, top)
        for source in sources
    }
    # A comparison is always a PNG, so that a.png and a.jpg would both have a_compare.png; where a
    # format is given for all, they would have one result too.
    same_name = Counter(source.with_suffix("") for source in sources)
    same_target = Counter(naming.target(each, places[each], each.stem) for each in sources)
    jobs: list[Job] = []
    taken: dict[Path, Path] = {}
    for source in sources:
        target = naming.target(source, places[source], source.stem)
        if same_target[target] > 1:
            target = naming.target(source, places[source], source.name)
        name = source.stem if same_name[source.with_suffix("")] == 1 else source.name
        beside = target.with_name(f"{name}{COMPARE}{target.suffix if is_video(source) else '.png'}")
        jobs.append(Job(source, target, beside if naming.compare else None))
        for path in jobs[-1].writes:
            if path in taken:
                raise OutputError(f"{taken[path]} and {source} would both be written to {path}")
            taken[path] = source
    return jobs


def _url_job(urls: Sequence[str], inputs: Sequence[str], naming: Naming) -> Job:
    """The job of a network source, which is alone and whose result is named."""
    target = naming.file
    if len(inputs) > 1 or target is None or naming.output == PIPE:
        raise OutputError(
            f"{urls[0]} is a network source: give it alone, and the file for its result as "
            "-o out.mp4"
        )
    _require_suffix(target, VIDEO_SUFFIXES)
    _require_folder(target.parent)
    beside = target.with_name(f"{target.stem}{COMPARE}{target.suffix}")
    return Job(target, target, beside if naming.compare else None, urls[0])


def _pipe_job(inputs: Sequence[str], naming: Naming) -> Job:
    """The job of standard input, which is alone, a picture, and has no name."""
    if len(inputs) > 1:
        raise ConfigError("- is standard input: give it alone")
    source = Path(PIPE)
    if naming.output is None or naming.output == PIPE:
        if naming.compare:
            raise ConfigError("--compare has no place beside standard output")
        return Job(source, Path(PIPE), None, reads_stdin=True, writes_stdout=True)
    if naming.file is None:
        raise ConfigError("what comes by standard input has no name: give -o a file, or -")
    if is_video(naming.file):
        raise ConfigError("standard input takes pictures: give a video by its name or URL")
    _require_suffix(naming.file, PICTURE_SUFFIXES)
    _require_folder(naming.file.parent)
    beside = naming.file.with_name(f"{naming.file.stem}{COMPARE}.png")
    return Job(source, naming.file, beside if naming.compare else None, reads_stdin=True)


def _require_suffix(file: Path, suffixes: Sequence[str]) -> None:
    if file.suffix.lower() not in suffixes:
        raise OutputError(
            f"--output {file} names neither a folder that is there nor a file that can be written "
            f"({', '.join(suffixes)}); for a new folder write {file}/"
        )


def _names_folder(output: str) -> bool:
    path = Path(output)
    if output == PIPE:
        return False
    return output.endswith(("/", os.sep)) or not path.suffix or path.is_dir()


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise OutputError(f"there is no folder {folder}; create it, e.g. mkdir -p {folder}")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"cannot write to the folder {folder}; choose another")
