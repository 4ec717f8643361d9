"""What a power cut, a killed process and files of others leave behind: nothing half, nothing lost,
nothing that stays for ever."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mirnet_edge import _files
from mirnet_edge._files import atomic_path, require_new
from mirnet_edge.errors import OutputError


def write(path: Path, data: bytes = b"new") -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# ---------------------------------------------------------------- power cuts


def test_contents_reach_the_device_before_the_name_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    did: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        size = os.fstat(descriptor).st_size
        did.append("folder" if is_folder else f"{size} bytes")
        fsync(descriptor)

    def renamed(source: Path, target: Path) -> Path:
        did.append("name")
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    write(tmp_path / "a.bin", b"12345")
    assert did == ["5 bytes", "name", "folder"]


def test_a_folder_that_cannot_be_synced_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def refused(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(22, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refused)
    write(tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == b"new"


def test_a_device_that_fails_to_sync_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def broken(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OutputError, match="Input/output error"):
        write(path)
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["a.bin"]


# ---------------------------------------------------------------- killed processes

KILLED = """
import os, signal, sys
from mirnet_edge._files import atomic_path

with atomic_path(sys.argv[1]) as temporary:
    temporary.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    command = [sys.executable, "-c", KILLED, str(path)]
    assert subprocess.run(command, cwd=_files.PACKAGE.parent, timeout=60).returncode == -9
    assert len(list(tmp_path.iterdir())) == 1
    _files._remove_abandoned.cache_clear()
    write(path)
    assert [item.name for item in tmp_path.iterdir()] == ["a.png"]


def test_what_is_being_written_and_what_is_not_ours_stays(tmp_path: Path) -> None:
    others = {f".{'0' * 15}.tmp.png", f"{'0' * 16}.tmp.png", f".{'g' * 16}.tmp", ".tmp.png"}
    for name in others:
        (tmp_path / name).touch()
    (tmp_path / f".{'1' * 16}.tmp").symlink_to("nowhere")
    os.mkfifo(tmp_path / f".{'2' * 16}.tmp.png")
    with atomic_path(tmp_path / "slow.png") as slow:
        slow.write_bytes(b"not yet")
        _files._remove_abandoned.cache_clear()
        write(tmp_path / "a.png")
        assert slow.read_bytes() == b"not yet"
    left = {path.name for path in tmp_path.iterdir()}
    assert left - {f".{'2' * 16}.tmp.png"} == {*others, f".{'1' * 16}.tmp", "slow.png", "a.png"}


# ---------------------------------------------------------------- files of others, and links


def test_a_replaced_file_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.touch(0o600)
    path.chmod(0o600)
    with atomic_path(path) as temporary:
        assert mode_of(temporary) & 0o077 == 0, "readable for all while it is written"
        temporary.write_bytes(b"new")
    assert mode_of(path) == 0o600
    umask = os.umask(0o027)
    try:
        write(tmp_path / "b.png")
    finally:
        os.umask(umask)
    assert mode_of(tmp_path / "b.png") == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_replaced_file_keeps_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.touch()
    os.chown(path, 12345, 23456)
    write(path)
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 23456)
    assert path.read_bytes() == b"new"


class Another:
    """The files of a user whom one cannot become."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path, uid: int, gid: int) -> None:
        lstat = Path.lstat

        def told(asked: Path) -> os.stat_result:
            fields = list(lstat(asked))
            if asked == path:
                fields[4:6] = [fields[4] + uid, fields[5] + gid]
            return os.stat_result(fields)

        def refused(*_: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(Path, "lstat", told)
        monkeypatch.setattr(os, "chown", refused)


def test_another_users_file_is_not_made_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"theirs")
    Another(monkeypatch, path, uid=1, gid=0)
    with pytest.raises(OutputError, match=r"a\.png: it belongs to user \d+ and would be yours"):
        write(path)
    assert path.read_bytes() == b"theirs"


def test_a_group_that_cannot_be_kept_is_granted_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    path.touch()
    path.chmod(0o664)
    Another(monkeypatch, path, uid=0, gid=1)
    write(path)
    assert mode_of(path) == 0o604


def test_a_link_that_leads_nowhere_is_there(tmp_path: Path) -> None:
    link = tmp_path / "a.png"
    link.symlink_to("elsewhere.png")
    with pytest.raises(OutputError, match="exists"):
        require_new(link, overwrite=False)


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    original, link = tmp_path / "original.png", tmp_path / "a.png"
    original.write_bytes(b"original")
    link.symlink_to(original.name)
    write(link)
    assert not link.is_symlink()
    assert (link.read_bytes(), original.read_bytes()) == (b"new", b"original")


def test_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    os.mkfifo(path)
    with pytest.raises(OutputError, match="a directory, device or pipe"):
        write(path)
    assert stat.S_ISFIFO(path.stat().st_mode)
