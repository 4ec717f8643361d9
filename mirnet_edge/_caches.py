"""Files that are kept between runs and are nobody else's: what they hold is trusted, so they are
made, opened and checked as such."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from mirnet_edge._files import atomic_path, open_regular

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def write_cached(path: Path, content: bytes) -> None:
    """Write a file into a folder of one's own, which is made where it is missing, for nobody else.

    Raises:
        OSError: the folder cannot be made, or is another user's.
        OutputError: the file cannot be written.
    """
    folder = path.parent
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "geteuid") and folder.stat().st_uid == os.geteuid():
        # Made by an older release, or by hand. What others put there is not read, see `read_own`.
        folder.chmod(0o700)
    _require_own(folder.stat(), folder)
    write_own(path, content)


def read_cached(path: Path) -> bytes:
    """Read a file of such a folder; an `OSError` where there is none, or where anybody else may
    have written it: it is a link, or it or the folder is another user's or open to them."""
    _require_own(path.parent.stat(), path.parent)
    return read_own(path)


def write_own(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read and write; see `atomic_path`."""
    with atomic_path(path, mode=0o600) as temporary:
        temporary.write_bytes(content)


def read_own(path: Path) -> bytes:
    """Read a file of any folder; an `OSError` where there is none, or it is a link, or another
    user's, or open to them."""
    with open_regular(path, follow=False) as file:
        _require_own(os.fstat(file.fileno()), path)
        return file.read()


def _require_own(found: os.stat_result, path: Path) -> None:
    if not hasattr(os, "geteuid"):  # Windows has no such modes
        return
    # An image of a container may bring a cache along, which is root's.
    if found.st_uid not in (0, os.geteuid()) or stat.S_IMODE(found.st_mode) & _OTHERS_WRITE:
        raise PermissionError(
            f"{path} belongs to user {found.st_uid} and has mode {stat.S_IMODE(found.st_mode):o}: "
            "others may have written there, so it is not used; remove it, or chmod it to 0700"
        )
