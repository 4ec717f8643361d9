"""Where the package's own files lie, and how every file is written: whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from mirnet_edge._typed import parse_json
from mirnet_edge.errors import MirnetEdgeError, OutputError

if sys.platform != "win32":
    import fcntl

log = logging.getLogger(__name__)
PACKAGE = Path(__file__).resolve().parent
_MOST_JSON_BYTES = 64 << 20  # the card of a network of 1,000 layers has 0.4 MB
_TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp(\..*)?")
# Windows has neither.
_NO_LINK, _NO_WAIT = getattr(os, "O_NOFOLLOW", 0), getattr(os, "O_NONBLOCK", 0)


def resource_folder(name: str) -> Path:
    """The folder ``kernels``, ``calibration`` or ``gstreamer``: below the package in an installed
    copy (``mirnet_edge/_kernels``), beside it in a checkout."""
    installed = PACKAGE / f"_{name}"
    folder = installed if installed.is_dir() else PACKAGE.parent / name
    if not folder.is_dir():
        raise MirnetEdgeError(
            f"the {name} folder is neither at {installed} nor at {folder}: this installation of "
            "mirnet-edge is incomplete; reinstall it"
        )
    return folder


def open_regular(path: str | os.PathLike[str], follow: bool = True) -> BinaryIO:
    """Open a file to read it; an `OSError` for a pipe or device, which might be waited for without
    end, and for a folder; without ``follow`` for a link too."""
    # Asked of what was opened, which nobody can exchange meanwhile.
    flags = _NO_WAIT | getattr(os, "O_BINARY", 0) | (0 if follow else _NO_LINK)
    file = os.open(path, os.O_RDONLY | flags)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "it is a pipe, device or directory, and no file")
    return os.fdopen(file, "rb")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file that may be anyone's.

    Raises:
        OSError: it cannot be read, or is no regular file.
        ValueError: it is no JSON, is larger than any that is written here, or nested too deep.
    """
    with open_regular(path) as file:
        content = file.read(_MOST_JSON_BYTES + 1)
    if len(content) > _MOST_JSON_BYTES:
        raise ValueError(f"more than {_MOST_JSON_BYTES:,} bytes")
    return parse_json(content)


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Of a file's bytes."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def require_new(path: Path, overwrite: bool) -> None:
    """Refuse to replace a file that exists, or a link, wherever that leads."""
    if not overwrite and os.path.lexists(path):
        raise OutputError(f"{path} exists; choose another name or allow overwriting it")


@contextmanager
def atomic_path(path: str | os.PathLike[str], mode: int | None = None) -> Iterator[Path]:
    """A temporary path beside ``path`` with the same suffix, moved into place when the block ends
    and removed when it fails, so that a file that exists is whole, also after a power cut. What
    killed processes left in the folder is removed. A file that is replaced hands on its owner and,
    unless ``mode`` is given, its mode; a link is replaced itself.

    Raises:
        OutputError: the folder is missing or read-only, the device is full, nothing was written, or
            ``path`` is no regular file, or another user's. Errors other than of the operating
            system pass through.
    """
    path = Path(path)
    if not path.name:
        raise OutputError(f"cannot write {str(path)!r}: it names no file")
    try:
        if not path.parent.is_dir():
            raise OutputError(f"cannot write {path}: there is no folder {path.parent}; create it")
        old = _replaced(path)
        _remove_abandoned(path.parent.resolve())
        with _temporary(path, 0o666 if old is None and mode is None else 0o600) as temporary:
            yield temporary
            if not temporary.stat().st_size:
                raise OutputError(f"cannot write {path}: nothing was written")
            if old is not None:
                _hand_on(old, temporary, path)
            if mode is not None:
                temporary.chmod(mode)
            move_into_place(temporary, path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {_reason(error)}") from error


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"cannot make the folder {folder}: {reason}; choose another") from error


def move_into_place(source: Path, target: Path) -> None:
    """Let a file that is written have its final name, within one file system, so that no power cut
    leaves that name with less than the whole."""
    log.debug("%s is whole", target)
    # Without, file systems write the name first, and seconds later what it stands for.
    with source.open("rb") as file:
        os.fsync(file.fileno())
    source.replace(target)
    with suppress(OSError):  # the name: not every system and network drive can
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _replaced(path: Path) -> os.stat_result | None:
    """The regular file that ``path`` is now; None where there is none, or a link."""
    try:
        old = path.lstat()
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(old.st_mode):
        return None
    if not stat.S_ISREG(old.st_mode):
        raise OutputError(f"cannot write {path}: it is a directory, device or pipe, and no file")
    return old


def _hand_on(old: os.stat_result, new: Path, path: Path) -> None:
    mode = stat.S_IMODE(old.st_mode)
    own = new.stat()
    if (old.st_uid, old.st_gid) != (own.st_uid, own.st_gid):
        try:
            os.chown(new, old.st_uid, old.st_gid)
        except PermissionError as error:
            if old.st_uid != own.st_uid:
                raise OutputError(
                    f"cannot write {path}: it belongs to user {old.st_uid} and would be yours; "
                    "choose another name, or remove it first"
                ) from error
            mode &= ~stat.S_IRWXG  # the group that it was for cannot be had
    new.chmod(mode)


@contextmanager
def _temporary(path: Path, mode: int) -> Iterator[Path]:
    """Make an empty file beside ``path``, and remove it at the end if it is still there."""
    # In the same folder, as a move is one step within a file system only; hidden, so that no list
    # of images has it; with the suffix, by which some writers choose the format.
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp{path.suffix}")
    lock = -1
    try:
        while lock < 0:
            lock = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode)
            # Held as long as this process lives: by it others know that the file is in use.
            _lock(lock, wait=True)
            if not os.path.lexists(temporary):  # another process has just taken it for abandoned
                os.close(lock)
                lock = -1
        yield temporary
    finally:
        with suppress(OSError):
            temporary.unlink()
        if lock >= 0:
            os.close(lock)


@cache  # once a process and folder: each run removes what runs before it left
def _remove_abandoned(folder: Path) -> None:
    with suppress(OSError), os.scandir(folder) as entries:
        for name in [entry.name for entry in entries if _TEMPORARY.fullmatch(entry.name)]:
            with suppress(OSError):
                file = os.open(folder / name, os.O_RDONLY | _NO_LINK | _NO_WAIT)
                try:
                    if _lock(file, wait=False):
                        (folder / name).unlink()
                        log.info("%s, which a killed run left, is removed", folder / name)
                finally:
                    os.close(file)


def _lock(file: int, wait: bool) -> bool:
    """Whether this process holds a file from now on, until it closes it or ends."""
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def _reason(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"no space left ({os.strerror(error.errno)}); free some or choose another folder"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{os.strerror(error.errno)}; choose a folder you may write to"
    return str(error)
