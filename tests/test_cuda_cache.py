"""The cache of compiled kernels: what is found again, and what is not."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from kernel_sources import ORIN, Compiler, gpu_of
from kernel_sources import counting as counting
from kernel_sources import sources as sources

from mirnet_edge.cuda import DeviceFacts, compiler
from mirnet_edge.cuda.compiler import Binaries, cache_folder
from mirnet_edge.errors import DeviceError


def test_what_was_compiled_is_found_again(sources: Path, counting: Compiler) -> None:
    first = Binaries(ORIN)
    assert first.cached("one") is None
    cubin = first.compile("one")
    assert first.cached("one") == Binaries(ORIN).cached("one") == cubin
    assert counting.compiled == [("one.cu", "sm_87")]
    (path,) = cache_folder().iterdir()
    assert path.name.startswith("one-sm_87-")
    assert path.suffix == ".cubin"


def test_another_file_is_not_compiled_again(sources: Path, counting: Compiler) -> None:
    Binaries(ORIN).compile("one")
    (sources / "two.cu").write_text("// changed\n")
    assert Binaries(ORIN).cached("one") is not None
    assert Binaries(ORIN).cached("two") is None


@pytest.mark.parametrize("change", ["source", "header", "new header", "compiler", "architecture"])
def test_what_changes_the_code_misses_the_cache(
    change: str, sources: Path, counting: Compiler
) -> None:
    Binaries(ORIN).compile("one")
    target = ORIN
    if change == "source":
        (sources / "one.cu").write_text("// other\n")
    elif change == "header":
        (sources / "shared.cuh").write_text("// other\n")
    elif change == "new header":
        (sources / "more.cuh").touch()
    elif change == "compiler":
        counting.identity = "counting 1.1"
    else:
        target = gpu_of((8, 9), "12.6")
    assert Binaries(target).cached("one") is None


def test_options_are_part_of_the_name(
    sources: Path, counting: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    Binaries(ORIN).compile("one")
    monkeypatch.setattr(compiler, "OPTIONS", ("--std=c++20",))
    assert Binaries(ORIN).cached("one") is None


def test_without_a_compiler_the_cache_serves(
    sources: Path, counting: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    cubin = Binaries(ORIN).compile("one")

    def none(gpu: DeviceFacts) -> Compiler:
        raise DeviceError("no compiler: install one")

    monkeypatch.setattr(compiler, "find_compiler", none)
    assert Binaries(ORIN).cached("one") == cubin
    assert Binaries(gpu_of((8, 9), "12.6")).cached("one") is None
    (sources / "shared.cuh").write_text("// other\n")
    assert Binaries(ORIN).cached("one") is None
    with pytest.raises(DeviceError, match="install one"):
        Binaries(ORIN).compile("one")


def test_a_file_in_the_cache_is_whole(
    sources: Path, counting: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(path: Path, cubin: bytes) -> None:
        with path.open("wb") as file:
            file.write(cubin[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", break_off)
    assert Binaries(ORIN).compile("one").endswith(b"one")
    assert list(cache_folder().iterdir()) == []


@pytest.mark.parametrize("size", [0, 1, 31, 32, 33, -1])
def test_a_file_that_was_cut_off_is_not_used(size: int, sources: Path, counting: Compiler) -> None:
    Binaries(ORIN).compile("one")
    (path,) = cache_folder().iterdir()
    path.write_bytes(path.read_bytes()[:size])
    assert Binaries(ORIN).cached("one") is None
    Binaries(ORIN).compile("one")
    whole = path.read_bytes()
    path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    assert Binaries(ORIN).cached("one") is None


@pytest.mark.parametrize("place", ["below a file", "no home"])
def test_a_cache_that_cannot_be_written_is_no_error(
    place: str,
    sources: Path,
    counting: Compiler,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if place == "below a file":
        monkeypatch.setenv("MIRNET_EDGE_CACHE", str(sources / "one.cu"))
    else:
        for name in ("MIRNET_EDGE_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)

        def nowhere() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "home", nowhere)
    caplog.set_level(logging.INFO)
    binaries = Binaries(ORIN)
    assert binaries.cached("one") is None
    assert binaries.compile("one").endswith(b"one")
    assert binaries.cached("one") is None
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert any("kernels of one.cu are not kept" in text for text in said), said


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MIRNET_EDGE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache/mirnet-edge/kernels"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg/mirnet-edge/kernels"
    monkeypatch.setenv("MIRNET_EDGE_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own/kernels"


def test_kernels_that_are_not_there(sources: Path, counting: Compiler) -> None:
    with pytest.raises(DeviceError, match=r"cannot read the kernels in .*three\.cu.*reinstall"):
        Binaries(ORIN).cached("three")
