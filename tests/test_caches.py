"""What is kept between runs is nobody else's, or is not used."""

from __future__ import annotations

import logging
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from kernel_sources import ORIN, Compiler
from kernel_sources import counting as counting
from kernel_sources import sources as sources

from mirnet_edge._caches import read_cached, read_own, write_cached, write_own
from mirnet_edge.cuda.compiler import Binaries, cache_folder
from mirnet_edge.trt.timing_cache import TimingCache

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    path = tmp_path / "far" / "above" / "cache" / "a.bin"
    write_cached(path, b"ours")
    return path


@pytest.mark.parametrize("umask", [0, 0o002, 0o022])
def test_folder_and_files_are_for_nobody_else(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write_cached(tmp_path / "above" / "cache" / "a.bin", b"ours")
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "above" / "cache") == 0o700
    assert mode_of(tmp_path / "above" / "cache" / "a.bin") == 0o600
    assert read_cached(tmp_path / "above" / "cache" / "a.bin") == b"ours"


def test_a_file_that_others_may_write_is_not_read(kept: Path) -> None:
    for mode in (0o620, 0o602, 0o666):
        kept.chmod(mode)
        with pytest.raises(PermissionError, match=f"has mode {mode:o}: others may have written"):
            read_cached(kept)
    write_cached(kept, b"ours again")
    assert (mode_of(kept), read_cached(kept)) == (0o600, b"ours again")


def test_a_folder_that_others_may_write_is_not_read_and_made_ones_own(kept: Path) -> None:
    kept.parent.chmod(0o775)
    with pytest.raises(PermissionError, match="has mode 775"):
        read_cached(kept)
    write_cached(kept.with_name("b.bin"), b"ours")
    assert mode_of(kept.parent) == 0o700
    assert read_cached(kept) == b"ours"


@as_root
def test_what_is_another_users_is_not_read(kept: Path) -> None:
    os.chown(kept, 12345, 0)
    with pytest.raises(PermissionError, match="belongs to user 12345"):
        read_cached(kept)
    os.chown(kept, 0, 0)
    kept.parent.chmod(0o755)
    os.chown(kept.parent, 12345, 0)
    with pytest.raises(PermissionError, match="belongs to user 12345"):
        read_cached(kept)
    with pytest.raises(PermissionError, match="belongs to user 12345"):
        write_cached(kept, b"ours")
    assert mode_of(kept.parent) == 0o755, "it is not ours to change"


@as_root
def test_what_is_roots_is_read_by_others(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As what an image of a container brings along."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert read_cached(kept) == b"ours"


def test_links_and_pipes_are_not_read(kept: Path, tmp_path: Path) -> None:
    (tmp_path / "planted").write_bytes(b"theirs")
    link, pipe = kept.with_name("link"), kept.with_name("pipe")
    link.symlink_to(tmp_path / "planted")
    os.mkfifo(pipe, 0o600)
    read: list[type] = []

    def refused() -> None:
        for path in (link, pipe):
            with pytest.raises(OSError) as raised:  # noqa: PT011  # of the system's many
                read_cached(path)
            read.append(raised.type)

    thread = threading.Thread(target=refused, daemon=True)
    thread.start()
    thread.join(5)
    assert len(read) == 2
    write_own(link, b"ours")
    assert (tmp_path / "planted").read_bytes() == b"theirs"
    assert read_own(link) == b"ours"


def test_a_planted_kernel_is_compiled_anew(
    sources: Path, counting: Compiler, caplog: pytest.LogCaptureFixture
) -> None:
    before = os.umask(0)
    try:
        cubin = Binaries(ORIN).compile("one")
    finally:
        os.umask(before)
    (path,) = cache_folder().iterdir()
    assert (mode_of(path), mode_of(path.parent)) == (0o600, 0o700)
    assert Binaries(ORIN).cached("one") == cubin
    path.chmod(0o666)
    assert Binaries(ORIN).cached("one") is None
    assert "a kernel of the cache is not used" in caplog.records[-1].getMessage()
    assert caplog.records[-1].levelno == logging.WARNING
    content = path.read_bytes()
    path.unlink()
    (sources / "planted").write_bytes(content)
    path.symlink_to(sources / "planted")
    assert Binaries(ORIN).cached("one") is None
    path.unlink()
    os.mkfifo(path, 0o600)
    assert Binaries(ORIN).cached("one") is None
    path.unlink()
    assert Binaries(ORIN).compile("one") == cubin
    assert Binaries(ORIN).cached("one") == cubin


class Config:
    """Of a TensorRT that keeps what it is given."""

    def __init__(self) -> None:
        self.cache: bytes | None = None

    def create_timing_cache(self, stored: bytes) -> Any:
        return stored

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        self.cache = cache
        return True


def test_timings_of_others_are_not_given_to_tensorrt(tmp_path: Path) -> None:
    path, config = tmp_path / "orin.timing_cache", Config()
    write_own(path, b"timings")
    assert TimingCache(config, path).notes == []
    assert config.cache == b"timings"
    path.chmod(0o666)
    notes = TimingCache(config, path).notes
    assert config.cache == b""
    assert "the timing cache was not read" in notes[0]
    path.unlink()
    path.symlink_to("elsewhere")
    assert "the timing cache was not read" in TimingCache(config, path).notes[0]
    path.unlink()
    assert TimingCache(config, path).notes == []
