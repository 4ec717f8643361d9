"""Where the package's own files lie, and how every file is written: whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mirnet_edge.errors import MirnetEdgeError, OutputError

PACKAGE = Path(__file__).resolve().parent


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


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def require_new(path: Path, overwrite: bool) -> None:
    """Refuse to replace a file that exists."""
    if not overwrite and path.exists():
        raise OutputError(f"{path} exists; choose another name or allow overwriting it")


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside ``path`` with the same suffix, moved into place when the block ends
    and removed when it fails, so that a file that exists is whole.

    Raises:
        OutputError: the folder is missing or read-only, or the device is full. Errors other than
            of the operating system pass through.
    """
    path = Path(path)
    if not path.name:
        raise OutputError(f"cannot write {str(path)!r}: it names no file")
    # In the same folder, as a move is one step within a file system only; hidden, so that no list
    # of images has it; with the suffix, by which some writers choose the format.
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp{path.suffix}")
    try:
        if not path.parent.is_dir():
            raise OutputError(f"cannot write {path}: there is no folder {path.parent}; create it")
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {_reason(error)}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _reason(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"no space left ({os.strerror(error.errno)}); free some or choose another folder"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{os.strerror(error.errno)}; choose a folder you may write to"
    return str(error)
