"""The library of plugins: compiling it, finding it, loading it, and what each says that fails."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from fake_tensorrt import write_plan

from mirnet_edge.build import plugins as compiling
from mirnet_edge.cli import main
from mirnet_edge.errors import BuildError, EngineError, MissingDependencyError
from mirnet_edge.trt import plugins
from mirnet_edge.trt.engine import TensorRTEngine

NVCC = """#!/bin/sh
echo "$@" > {folder}/arguments
while [ "$1" != -o ]; do shift; done
cp {folder}/made.so "$2" && exit {code}
"""


def library_for(path: Path, release: int) -> Path:
    """A library that says it was compiled for a TensorRT, and has no plugins."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    source = path.with_suffix(".c")
    source.write_text(f"int mirnet_plugins_tensorrt(void) {{ return {release}; }}\n")
    command = ["gcc", "-shared", "-fPIC", "-o", str(path), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return path


def headers_of(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "NvInfer.h").write_text("")
    (folder / "NvInferVersion.h").write_text(text)
    return folder


@pytest.fixture
def headers(tmp_path: Path) -> Path:
    text = "#define NV_TENSORRT_MAJOR 8 //!< major\n#define NV_TENSORRT_MINOR 6 //!< minor\n"
    return headers_of(tmp_path / "include", text)


def nvcc(folder: Path, monkeypatch: pytest.MonkeyPatch, code: int = 0) -> None:
    """Put a compiler on PATH that makes a library of ours whatever it is given."""
    library_for(folder / "made.so", 80601)
    (folder / "nvcc").write_text(NVCC.format(folder=folder, code=code))
    (folder / "nvcc").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where libraries are looked for."""
    monkeypatch.setenv("MIRNET_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(plugins.VARIABLE, raising=False)
    monkeypatch.setattr(plugins, "_loaded", {})
    return tmp_path / "cache" / "plugins"


def fake(version: str = "8.6.1", takes: bool = True) -> Any:
    """A TensorRT's registry; what it loaded."""
    loaded: list[str] = []
    registry = SimpleNamespace(
        load_library=lambda path: (loaded.append(path), "handle" if takes else None)[1]
    )
    return SimpleNamespace(__version__=version, get_plugin_registry=lambda: registry, loaded=loaded)


# Compiling


def test_it_is_compiled_for_the_release_and_found(
    headers: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvcc(tmp_path, monkeypatch)
    path = plugins.default_path("8.6.1")
    assert plugins.find_library("8.6.1") is None
    made = compiling.build_plugins(path, "8.6.1", ["87", "90"], headers)
    assert made == plugins.find_library("8.6.1") == path
    assert path.parent == cache
    assert plugins.find_library("10.3.0") is None, "another release has another"
    told = (tmp_path / "arguments").read_text()
    assert "-gencode=arch=compute_87,code=sm_87" in told
    assert f"-I{headers}" in told
    assert all(str(plugins.sources_folder() / name) in told for name in plugins.SOURCES)


def test_no_headers(tmp_path: Path) -> None:
    said = rf"no NvInfer\.h in {tmp_path}.*libnvinfer-headers-dev.*release/8\.6.*--include"
    with pytest.raises(MissingDependencyError, match=said):
        compiling.find_headers("8.6.1", tmp_path)


def test_headers_of_another_release(headers: Path, tmp_path: Path) -> None:
    assert compiling.find_headers("8.6.0", headers) == headers
    with pytest.raises(BuildError, match=r"of TensorRT 8\.6, but 10\.3\.0 is installed"):
        compiling.find_headers("10.3.0", headers)
    # 10 and later say it in other words.
    text = "#define TRT_MAJOR_ENTERPRISE 10\n#define TRT_MINOR_ENTERPRISE 13\n"
    newer = headers_of(tmp_path / "newer", text)
    assert compiling.find_headers("10.13.2", newer) == newer


def test_no_compiler(headers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(compiling, "TOOLKIT", tmp_path / "no-toolkit")
    with pytest.raises(MissingDependencyError, match="needs nvcc, which is neither on PATH nor"):
        compiling.build_plugins(tmp_path / "x.so", "8.6.1", ["90"], headers)


def test_a_compiler_that_refuses_leaves_nothing(
    headers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvcc(tmp_path, monkeypatch, code=2)
    with pytest.raises(BuildError, match="does not compile the plugins for 53"):
        compiling.build_plugins(tmp_path / "x.so", "8.6.1", ["53"], headers)
    assert not (tmp_path / "x.so").exists()


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
def test_the_sources_compile_against_real_headers(tmp_path: Path) -> None:
    try:
        headers = compiling.find_headers("8.6.1")
    except (BuildError, MissingDependencyError) as error:
        pytest.skip(str(error))
    made = compiling.build_plugins(tmp_path / "plugins.so", "8.6.1", ["87", "90"], headers)
    plugins.require_release(made, "8.6.1")


def test_the_command_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", fake())
    arguments = ["build-plugins", "--include", str(tmp_path), "--architecture", "87"]
    assert main(arguments) == 1
    assert "libnvinfer-headers-dev" in capsys.readouterr().err


# Finding


def test_a_variable_names_another_or_none(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = tmp_path / "mine.so"
    monkeypatch.setenv(plugins.VARIABLE, str(named))
    with pytest.raises(EngineError, match=r"mine\.so: no such file; mirnet-edge build-plugins"):
        plugins.find_library("8.6.1")
    named.write_bytes(b"")
    assert plugins.find_library("8.6.1") == named.resolve()
    monkeypatch.setenv(plugins.VARIABLE, plugins.NONE)
    assert plugins.find_library("8.6.1") is None


def test_a_library_that_others_may_write_is_not_used(cache: Path) -> None:
    path = plugins.default_path("8.6.1")
    path.parent.mkdir(parents=True, mode=0o700)
    path.write_bytes(b"x")
    path.chmod(0o600)
    assert plugins.find_library("8.6.1") == path
    path.parent.chmod(0o777)
    assert plugins.find_library("8.6.1") is None


# Loading


def test_it_is_loaded_once(cache: Path, tmp_path: Path) -> None:
    path, trt = library_for(tmp_path / "a.so", 80600), fake("8.6.1")
    plugins.load_library(trt, path)
    plugins.load_library(trt, path)
    assert trt.loaded == [str(path)]
    with pytest.raises(EngineError, match="this process has loaded"):
        plugins.load_library(trt, tmp_path / "b.so")


def test_a_library_for_another_tensorrt(cache: Path, tmp_path: Path) -> None:
    path, trt = library_for(tmp_path / "old.so", 80601), fake("10.3.0")
    said = r"compiled for TensorRT 8\.6, but 10\.3\.0 is installed; mirnet-edge build-plugins"
    with pytest.raises(EngineError, match=said):
        plugins.load_library(trt, path)
    assert not trt.loaded


def test_what_is_no_library(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "text.so"
    path.write_text("no library")
    with pytest.raises(EngineError, match="is no library of mirnet-edge's plugins"):
        plugins.load_library(fake(), path)


def test_a_tensorrt_that_refuses_it(cache: Path, tmp_path: Path) -> None:
    path = library_for(tmp_path / "a.so", 80601)
    with pytest.raises(EngineError, match=r"TensorRT 8\.6\.1 does not take the plugins of"):
        plugins.load_library(fake(takes=False), path)


def test_an_engine_that_needs_them_says_so(trt: ModuleType, cache: Path, tmp_path: Path) -> None:
    path = write_plan(tmp_path, {"options": {"plugins": {"MirnetGatedSum": 8}}})
    said = r"was built with mirnet-edge's plugins, of which there is no library for TensorRT 10"
    with pytest.raises(EngineError, match=said):
        TensorRTEngine(path)
    assert TensorRTEngine(write_plan(tmp_path, {"options": {}})).close() is None
