"""Builds with plugins, on a TensorRT that builds nothing."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from build_sandbox import ORIN, Sandbox

from mirnet_edge.build import plugins, process, worker
from mirnet_edge.build.job import BuildJob
from mirnet_edge.bundled import bundled_model
from mirnet_edge.engines.card import Measured
from mirnet_edge.errors import (
    BuildDiedError,
    BuildError,
    DeviceError,
    DeviceMemoryError,
    EngineError,
)
from mirnet_edge.graph.rewrite.edit import OWN_DOMAIN

OPERATORS = {
    "MirnetUnshuffle": 1,
    "MirnetResidualSum": 12,
    "MirnetFusionGate": 8,
    "MirnetGatedSum": 8,
    "MirnetShuffleAdd": 1,
}


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    return Sandbox(tmp_path, monkeypatch)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A library that is there; what of it was loaded."""
    path, loaded = tmp_path / "plugins.so", []
    path.write_bytes(b"")
    monkeypatch.setenv("MIRNET_EDGE_PLUGINS", str(path))
    monkeypatch.setattr(worker, "load_library", lambda _, path: loaded.append(path))
    return loaded


@pytest.fixture
def denoiser(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """Of a graph that has what our operators replace; ONNX Runtime, on which the fake runs its
    plans, has none of them."""
    bundled = bundled_model("edge-s-denoise")
    assert bundled is not None
    sandbox.onnx = bundled.onnx
    monkeypatch.setattr(worker, "measured", lambda built, _: built)
    return sandbox


def graph_of(sandbox: Sandbox) -> Any:
    """What TensorRT was given."""
    plan = json.loads(sandbox.engine.read_bytes())
    return onnx.load_from_string(base64.b64decode(plan["onnx"])).graph


def test_none_where_they_are_not_wanted(sandbox: Sandbox, library: list[Path]) -> None:
    card = sandbox.build(plugins=False)
    assert not library
    assert "plugins" not in card.options
    assert card.notes == ()


def test_a_note_where_they_cannot_be_compiled(
    denoiser: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(plugins, "FOLDERS", (str(tmp_path / "include"),))
    (note,) = denoiser.build(plugins=True, tile=(24, 32)).notes
    assert note.startswith("built without plugins, which costs time: compiling plugins needs")
    assert "include" in note
    assert "apt install libnvinfer-headers-dev" in note


def test_they_are_compiled_where_they_are_not(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Any] = []
    monkeypatch.setattr(plugins, "build_plugins", lambda *given: compiled.append(given) or given[0])
    assert not sandbox.build(plugins=True).notes
    (path, version, architectures, _), *more = compiled
    assert (version, architectures) == ("8.6.1", ["87"])
    assert path.name.startswith("tensorrt-8.6-")
    assert not more


def test_a_note_where_what_was_compiled_does_not_load(
    denoiser: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build_plugins(*_: Any) -> Path:
        raise EngineError("undefined symbol: fma")

    monkeypatch.setattr(plugins, "build_plugins", build_plugins)
    (note,) = denoiser.build(plugins=True, tile=(24, 32)).notes
    assert note == "built without plugins, which costs time: undefined symbol: fma"


def test_the_plain_graph_where_a_build_with_them_fails(
    denoiser: Sandbox, library: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    build_plan, tried = worker.build_plan, []

    def build(trt: Any, source: Any, *rest: Any) -> Any:
        tried.append(source)
        if any(node.domain == OWN_DOMAIN for node in onnx.load(source.onnx).graph.node):
            raise BuildError("no kernel for sm_87")
        return build_plan(trt, source, *rest)

    monkeypatch.setattr(worker, "build_plan", build)
    card = denoiser.build(plugins=True, tile=(24, 32))
    assert [source.onnx.name for source in tried] == ["own.onnx", "own.onnx", "weak.onnx"]
    assert tried[2].halves < tried[0].halves, "the second has none"
    assert "plugins" not in card.options
    assert "built without plugins, which costs time: no kernel for sm_87" in card.notes
    assert all(node.domain != OWN_DOMAIN for node in graph_of(denoiser).node)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (BuildDiedError("the build process ended with SIGSEGV"), "SIGSEGV"),
        (DeviceError("an illegal memory access was encountered"), "illegal memory access"),
    ],
    ids=["ends the process", "fails on the device"],
)
def test_the_plain_graph_where_they_break_the_build(
    denoiser: Sandbox,
    library: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    said: str,
) -> None:
    run_build, tried = process.run_build, []

    def run(folder: Path, *rest: Any) -> Any:
        request = process.BuildRequest.load(folder)
        tried.append(request.plugins is not None)
        if request.plugins:
            raise error
        return run_build(folder, *rest)

    monkeypatch.setattr(process, "run_build", run)
    card = denoiser.build(plugins=True, tile=(24, 32))
    assert tried == [True, False]
    assert "plugins" not in card.options
    assert any(
        note.startswith("built without plugins, which costs time") and said in note
        for note in card.notes
    )
    monkeypatch.setattr(process, "run_build", lambda *_: raised(error))
    with pytest.raises(type(error)):
        denoiser.build(plugins=False, tile=(32, 32))


def test_no_other_build_where_memory_is_short(
    denoiser: Sandbox, library: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "run_build", lambda *_: raised(DeviceMemoryError("too little")))
    with pytest.raises(DeviceMemoryError):
        denoiser.build(plugins=True, tile=(24, 32))


@pytest.mark.parametrize(("found_db", "is_kept"), [(12.3, False), (61.0, True), (None, False)])
def test_the_plain_graph_where_they_compute_something_else(
    denoiser: Sandbox,
    library: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    found_db: float | None,
    is_kept: bool,
) -> None:
    def measured(self: Any, answer: Any, folder: Path) -> Measured:
        if answer.plugins and found_db is None:
            raise BuildError("not finite")
        return Measured(1.0, 1.0, psnr_vs_fp32_db=found_db if answer.plugins else 70.0)

    monkeypatch.setattr(BuildJob, "_measured", measured)
    card = denoiser.build(plugins=True, tile=(24, 32))
    assert ("plugins" in card.options) == is_kept
    said = "the output is not finite" if found_db is None else "the output is 12.3 dB from that of"
    assert any(said in note for note in card.notes) != is_kept


def raised(error: Exception) -> Any:
    raise error


def test_none_where_the_variable_says_so(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIRNET_EDGE_PLUGINS", "none")
    monkeypatch.setattr(plugins, "build_plugins", None)
    card = sandbox.build(plugins=True)
    assert card.notes == ()
    assert "plugins" not in card.options


def test_blocks_are_for_gpus_with_shared_memory_for_them(
    denoiser: Sandbox, library: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ORIN, "shared_bytes", 227 << 10)
    card = denoiser.build(plugins=True, tile=(24, 32))
    assert card.options["plugins"] == {
        **OPERATORS, "MirnetResidualSum": 8, "MirnetResidualBlock": 4
    }  # fmt: skip
    assert library


def test_no_note_where_they_do_not_serve(sandbox: Sandbox, library: list[Path]) -> None:
    assert not sandbox.build(plugins=True).notes, "the graph has nothing that they replace"
    assert not sandbox.build(plugins=True, precision="fp32").notes
    assert not library


def test_a_named_library_must_be_there(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MIRNET_EDGE_PLUGINS", str(tmp_path / "gone.so"))
    with pytest.raises(EngineError, match=r"gone\.so: no such file"):
        sandbox.build(plugins=True)


def test_operators_go_into_the_graph_for_flags(
    denoiser: Sandbox, library: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    card = denoiser.build(plugins=True, tile=(24, 32))
    assert card.options["plugins"] == OPERATORS
    assert [path.name for path in library] == ["plugins.so"]
    graph = graph_of(denoiser)
    assert sum(node.domain == OWN_DOMAIN for node in graph.node) == sum(OPERATORS.values())
    convolutions = {layer.name for layer in card.layers if layer.precision == "FP16"}
    assert any(name.endswith("/of_blocks") for name in convolutions)
    # The same again builds nothing; without plugins it is another engine.
    denoiser.build(plugins=True, tile=(24, 32))
    assert not denoiser.built
    assert "plugins" not in denoiser.build(tile=(24, 32)).options
    assert denoiser.built


def test_a_tensorrt_without_flags_builds_without(
    denoiser: Sandbox, library: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    denoiser.release("11.4.0")
    card = denoiser.build(plugins=True, tile=(24, 32))
    assert "plugins" not in card.options
    assert card.strongly_typed
    assert not library
    assert not any("plugins" in note for note in card.notes)
