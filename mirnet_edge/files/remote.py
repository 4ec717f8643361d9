"""Files that lie elsewhere, by URL, through fsspec: which there are, and how one of them is brought
here, restored, and put there."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from mirnet_edge._imports import require
from mirnet_edge.errors import (
    ConfigError,
    ImageError,
    MirnetEdgeError,
    MissingDependencyError,
    OutputError,
    first_line,
)
from mirnet_edge.files.jobs import Job, Naming, is_video
from mirnet_edge.files.sources import COMPARE, KNOWN_SUFFIXES, RESTORED

READ_ONLY = ("http", "https")
WHOLE_OR_NOT = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "memory")
"""Protocols of stores in which a file is there once all of it is; in others it is moved there."""
_MAGIC = re.compile(r"[*?\[]")


def is_url(spec: str) -> bool:
    """Whether a file is named by URL."""
    return "://" in spec


@dataclass(frozen=True)
class RemoteJob:
    """One file to restore, and where to; each by URL, or by a path that all workers see."""

    name: str
    target: str
    compare: str | None = None

    @property
    def is_video(self) -> bool:
        """Whether it is restored frame by frame."""
        return is_video(Path(file_name(self.name)))

    @property
    def writes(self) -> list[str]:
        """The files that it makes."""
        return [self.target] if self.compare is None else [self.target, self.compare]


AnyJob = Job | RemoteJob


def file_name(url: str) -> str:
    """The last part of a URL's path, or of a path."""
    return posixpath.basename(urlsplit(url).path if is_url(url) else url)


def plan_remote(
    inputs: Sequence[str], naming: Naming, recursive: bool = False
) -> tuple[list[RemoteJob], list[str]]:
    """Plan what to read and where to write it, where URLs are among them; and, in lines, what of
    folders and patterns is left out.

    Raises:
        ImageError: an input is not there, or nothing of it is a picture or video.
        OutputError: no place to write to, or one for several.
        MissingDependencyError: fsspec, or what it needs for such a URL, is not installed.
    """
    jobs: dict[str, RemoteJob] = {}
    lines = []
    for spec in inputs:
        found, others = _found(spec, recursive)
        if others:
            lines.append(f"left out of {spec}: {others} of other formats, or results of other runs")
        if not found:
            raise ImageError(f"{spec}: no image or video ({', '.join(KNOWN_SUFFIXES)}) there")
        top = posixpath.commonpath([_folder_of(url) for url in found])
        for url in found:
            jobs.setdefault(url, _job_of(url, top, naming, len(found) + len(inputs) > 2))
    targets: dict[str, str] = {}
    for job in jobs.values():
        for target in job.writes:
            if (other := targets.setdefault(target, job.name)) != job.name:
                raise OutputError(f"{other} and {job.name} would both be written to {target}")
    return list(jobs.values()), lines


def remote_targets(jobs: Sequence[RemoteJob]) -> set[str]:
    """Those of the files that jobs write which are there."""
    targets = [target for job in jobs for target in job.writes]
    there: set[str] = set()
    for folder in {posixpath.dirname(target) for target in targets}:
        system, path = _system(folder, OutputError)
        try:
            listed = system.ls(path, detail=False, refresh=True)
        except FileNotFoundError:
            continue
        except Exception as error:
            raise OutputError(f"{folder}: cannot be listed: {_why(error)}") from error
        names = {posixpath.basename(entry.rstrip("/")) for entry in listed}
        there |= {
            target
            for target in targets
            if posixpath.dirname(target) == folder and file_name(target) in names
        }
    return there


@contextmanager
def staged(job: RemoteJob) -> Iterator[Job]:
    """A job of this machine: its source is brought here, and what it wrote is put where it belongs
    when the block ends. What needs no way stays where it is.

    Raises:
        ImageError: the source cannot be read.
        OutputError: a result cannot be written.
    """
    with TemporaryDirectory(prefix="mirnet-edge-") as name:
        folder = Path(name)
        source = Path(job.name)
        if is_url(job.name):
            source = folder / "in" / file_name(job.name)
            source.parent.mkdir()
            _bring(job.name, source)
        here = [
            folder / "out" / file_name(target) if is_url(target) else Path(target)
            for target in job.writes
        ]
        yield Job(source, here[0], here[1] if here[1:] else None)
        # The result comes last: where it is, the whole job is done.
        for path, target in reversed(list(zip(here, job.writes))):
            if is_url(target):
                _put(path, target)


def _found(spec: str, recursive: bool) -> tuple[list[str], int]:
    """The files that an input names, as URLs or paths, and how many others it names."""
    # In HTTP a question mark begins a query, and stands for no letter.
    named = urlsplit(spec).path if spec.startswith(READ_ONLY) else spec
    is_pattern = _MAGIC.search(named) is not None
    if not is_pattern and Path(file_name(spec)).suffix.lower() in KNOWN_SUFFIXES:
        return [spec], 0  # whether it is there, whoever reads it finds out
    system, path = _system(spec, ImageError)

    def listed() -> list[str]:
        if is_pattern:
            return list(system.glob(path))
        if recursive:
            return list(system.find(path))
        return list(system.ls(path, detail=False))

    try:
        entries = sorted(listed())
    except Exception as error:  # of whatever library reads such URLs
        raise ImageError(f"{spec}: cannot be listed: {_why(error)}") from error
    urls = [system.unstrip_protocol(entry) if is_url(spec) else entry for entry in entries]
    known = [url for url in urls if _is_wanted(url)]
    return known, len(urls) - len(known)


def _is_wanted(url: str) -> bool:
    name = Path(file_name(url))
    if name.name.startswith(".") or name.suffix.lower() not in KNOWN_SUFFIXES:
        return False
    return not name.stem.endswith((RESTORED, COMPARE))


def _job_of(url: str, top: str, naming: Naming, is_one_of_many: bool) -> RemoteJob:
    name = Path(file_name(url))
    result = f"{name.stem}{naming.suffix}{naming.ending_of(name)}"
    if naming.output is None:
        place = url[: -len(posixpath.basename(url))].rstrip("/")
    elif naming.file is not None and not naming.output.endswith("/"):
        if is_one_of_many:
            raise OutputError(f"--output {naming.output} is one file, but there are several inputs")
        place, _, result = naming.output.rpartition("/")
    else:
        below = posixpath.relpath(_folder_of(url), top)
        place = naming.output.rstrip("/") + ("" if below == "." else f"/{below}")
    target = f"{place}/{result}" if place else result
    scheme = target.partition("://")[0]
    if is_url(target) and scheme in READ_ONLY:
        raise OutputError(f"{target}: {scheme} is read and not written to; give -o another place")
    beside = f"{name.stem}{COMPARE}{name.suffix if is_video(name) else '.png'}"
    compare = (f"{place}/{beside}" if place else beside) if naming.compare else None
    return RemoteJob(_whole(url), _whole(target), compare and _whole(compare))


def _whole(name: str) -> str:
    """A URL, or a path as another process understands it, wherever that was started."""
    return name if is_url(name) else str(Path(name).absolute())


def _folder_of(url: str) -> str:
    """Where a file lies: of a URL, the host or bucket and folders."""
    parts = urlsplit(url)
    return posixpath.dirname(f"{parts.netloc}{parts.path}" if is_url(url) else url) or "."


def _bring(url: str, path: Path) -> None:
    system, remote = _system(url, ImageError)
    try:
        system.get_file(remote, str(path))
    except Exception as error:
        raise ImageError(f"{url}: cannot be read: {_why(error)}") from error


def _put(path: Path, url: str) -> None:
    system, remote = _system(url, OutputError)
    folder, name = posixpath.split(remote)
    is_whole = url.partition("://")[0] in WHOLE_OR_NOT
    first = remote if is_whole else f"{folder}/.{path.parent.parent.name}.{name}"
    try:
        system.makedirs(folder, exist_ok=True)
        system.put_file(str(path), first)
        if not is_whole:
            system.mv(first, remote)
    except Exception as error:
        raise OutputError(f"cannot write {url}: {_why(error)}") from error


def _system(url: str, kind: type[MirnetEdgeError]) -> tuple[Any, str]:
    """The file system of a URL, and what it calls the file; ``kind`` where that cannot be had."""
    fsspec = require("fsspec", "files by URL")
    try:
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise MissingDependencyError(f"{url}: {first_line(error)}") from error
    except ValueError as error:
        raise ConfigError(f"{url}: {first_line(error)}") from error
    except Exception as error:
        raise kind(f"{url}: {_why(error)}") from error
    return system, path


def _why(error: Exception) -> str:
    """What a foreign library says; some say no more than a name."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    return first_line(error) or type(error).__name__
