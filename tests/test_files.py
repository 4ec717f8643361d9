"""Every file is written whole or not at all, and the package finds its own."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mirnet_edge import _files
from mirnet_edge._files import atomic_path, require_new, resource_folder
from mirnet_edge.errors import MirnetEdgeError, OutputError

OLD = b"what was there before"


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(path: Path, data: bytes = b"new") -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A folder with one file in it."""
    path = tmp_path / "photo.png"
    path.write_bytes(OLD)
    return path


# ---------------------------------------------------------------- atomic_path


def test_the_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "photo.restored.png"
    with atomic_path(os.fspath(path)) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == ".png"
        assert temporary.name.startswith(".")
        temporary.write_bytes(b"half")
        assert not path.exists()
    assert path.read_bytes() == b"half"
    assert listing(tmp_path) == ["photo.restored.png"]


def test_an_older_file_stays_until_the_end(old: Path) -> None:
    with atomic_path(old) as temporary:
        temporary.write_bytes(b"new")
        assert old.read_bytes() == OLD
    assert old.read_bytes() == b"new"


def test_two_writers_do_not_share_a_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with atomic_path(path) as first, atomic_path(path) as second:
        assert first != second
        first.write_bytes(b"first")
        second.write_bytes(b"second")
    assert path.read_bytes() == b"first"
    assert listing(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("name", ["plain", ".hidden", "a.tar.gz", "größe μ.png", "with space.png"])
def test_any_name(name: str, tmp_path: Path) -> None:
    write(tmp_path / name)
    assert listing(tmp_path) == [name]


def test_as_long_a_name_as_the_file_system_takes(tmp_path: Path) -> None:
    name = "n" * (os.pathconf(tmp_path, "PC_NAME_MAX") - 4) + ".png"
    write(tmp_path / name)
    assert listing(tmp_path) == [name]


@pytest.mark.parametrize(
    "error", [RuntimeError("no"), MirnetEdgeError("no"), KeyboardInterrupt(), SystemExit(3)]
)
def test_any_exception_leaves_nothing_behind(error: BaseException, old: Path) -> None:
    def attempt(path: Path) -> None:
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"half")
            raise error

    for path in (old, old.with_name("fresh.png")):
        with pytest.raises(type(error)) as raised:
            attempt(path)
        assert raised.value is error
    assert listing(old.parent) == ["photo.png"]
    assert old.read_bytes() == OLD


def test_ctrl_c_leaves_nothing_behind(old: Path) -> None:
    def attempt() -> None:
        with atomic_path(old) as temporary:
            temporary.write_bytes(b"half")
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        attempt()
    assert listing(old.parent) == ["photo.png"]
    assert old.read_bytes() == OLD


def test_a_block_that_fails_before_writing(old: Path) -> None:
    with pytest.raises(KeyError), atomic_path(old):
        raise KeyError("nothing written yet")
    assert listing(old.parent) == ["photo.png"]


def test_a_block_that_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"), atomic_path(tmp_path / "a.png"):
        pass
    assert listing(tmp_path) == []


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "no space left .*; free some or choose another folder"),
        (errno.EDQUOT, "no space left"),
        (errno.EFBIG, "no space left"),
        (errno.EACCES, "Permission denied; choose a folder you may write to"),
        (errno.EPERM, "choose a folder you may write to"),
        (errno.EROFS, "Read-only file system; choose a folder you may write to"),
        (errno.EIO, "Input/output error"),
    ],
    ids=lambda value: errno.errorcode.get(value, ""),
)
def test_errors_of_the_system_are_translated(code: int, advice: str, old: Path) -> None:
    cause = OSError(code, os.strerror(code))

    def attempt() -> None:
        with atomic_path(old) as temporary:
            temporary.write_bytes(b"half")
            raise cause

    with pytest.raises(OutputError, match=rf"cannot write .*photo\.png: .*{advice}") as raised:
        attempt()
    assert raised.value.__cause__ is cause
    assert listing(old.parent) == ["photo.png"]
    assert old.read_bytes() == OLD


WRITERS = ["raw", ".png", ".jpg", ".webp", ".tif", ".bmp"]
FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from mirnet_edge._files import atomic_path
from mirnet_edge.errors import OutputError
from mirnet_edge.frames.images import write_image

folder = Path(sys.argv[1])
noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

def raw():
    with atomic_path(folder / "photo.raw") as temporary:
        temporary.write_bytes(bytes(100_000))

for writer in sys.argv[2:]:
    try:
        if writer == "raw":
            raw()
        else:
            write_image(folder / f"photo{writer}", noise, overwrite=True)
        print("written")
    except OutputError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def full_disk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The folder, and what each writer said, under a real limit on the size of files (in a
    process of its own)."""
    folder = tmp_path_factory.mktemp("full")
    for suffix in WRITERS[1:]:
        (folder / f"photo{suffix}").write_bytes(OLD)
    run = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(folder), *WRITERS],
        cwd=_files.PACKAGE.parent,
        capture_output=True,
        text=True,
        timeout=60,
    )
    messages = run.stdout.splitlines()
    assert len(messages) == len(WRITERS), run.stdout + run.stderr
    return folder, dict(zip(WRITERS, messages))


@pytest.mark.parametrize("writer", WRITERS)
def test_a_device_that_fills_up(writer: str, full_disk: tuple[Path, dict[str, str]]) -> None:
    folder, messages = full_disk
    assert messages[writer].startswith(f"cannot write {folder}")
    assert "no space left" in messages[writer], messages[writer]


def test_a_full_device_keeps_what_was_there(full_disk: tuple[Path, dict[str, str]]) -> None:
    folder, _ = full_disk
    assert listing(folder) == sorted(f"photo{suffix}" for suffix in WRITERS[1:])
    assert {path.read_bytes() for path in folder.iterdir()} == {OLD}


def test_a_missing_folder(tmp_path: Path) -> None:
    path = tmp_path / "no" / "such" / "a.png"
    with pytest.raises(OutputError, match=r"there is no folder .*such; create it"):
        write(path)
    assert listing(tmp_path) == []


def test_a_file_where_the_folder_should_be(old: Path) -> None:
    with pytest.raises(OutputError, match="there is no folder"):
        write(old / "a.png")
    assert old.read_bytes() == OLD


def test_a_folder_where_the_file_should_be(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(OutputError, match="directory"):
        write(tmp_path / "a.png")
    assert listing(tmp_path) == ["a.png"]


@pytest.mark.parametrize("name", [".", "", "/", ".."])
def test_a_path_that_names_no_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match="cannot write"):
        write(Path(name))
    assert listing(tmp_path) == []


def test_a_name_too_long(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="name too long"):
        write(tmp_path / ("n" * 300 + ".png"))


def read_only_folder(tmp_path: Path) -> Path:
    """One that refuses new files; /sys refuses root too, whom permissions do not bind."""
    if os.geteuid():
        folder = tmp_path / "locked"
        folder.mkdir(mode=0o500)
        return folder
    if not Path("/sys/kernel").is_dir():
        pytest.skip("root may write to every folder here, and there is no /sys")
    return Path("/sys/kernel")


def test_a_read_only_folder(tmp_path: Path) -> None:
    folder = read_only_folder(tmp_path)
    before = listing(folder)
    with pytest.raises(OutputError, match="choose a folder you may write to") as raised:
        write(folder / "a.png")
    assert isinstance(raised.value.__cause__, OSError)
    assert listing(folder) == before


# ---------------------------------------------------------------- require_new


def test_require_new(old: Path) -> None:
    require_new(old.with_name("fresh.png"), overwrite=False)
    require_new(old, overwrite=True)
    with pytest.raises(OutputError, match=r"photo\.png exists; choose another name or allow"):
        require_new(old, overwrite=False)
    with pytest.raises(OutputError, match="exists"):
        require_new(old.parent, overwrite=False)


# ---------------------------------------------------------------- resource_folder


@pytest.mark.parametrize(
    ("name", "pattern"),
    [("kernels", "*.cu"), ("calibration", "*"), ("gstreamer", "mirnetrestore.py")],
)
def test_resources_are_found(name: str, pattern: str) -> None:
    folder = resource_folder(name)
    assert folder.is_absolute()
    assert list(folder.rglob(pattern)), f"{folder} is empty"


def test_an_installed_copy_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "mirnet_edge"
    package.mkdir(parents=True)
    monkeypatch.setattr(_files, "PACKAGE", package)
    with pytest.raises(MirnetEdgeError, match=r"neither at .*_kernels nor .*; reinstall it"):
        resource_folder("kernels")
    (package.parent / "kernels").mkdir()
    assert resource_folder("kernels") == package.parent / "kernels"
    (package / "_kernels").mkdir()
    assert resource_folder("kernels") == package / "_kernels"


def test_no_such_resource() -> None:
    with pytest.raises(MirnetEdgeError, match="the lessons folder is neither"):
        resource_folder("lessons")
