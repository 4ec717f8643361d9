"""Opening model files, and what ONNX Runtime refuses."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import psutil
import pytest
import torch
from conftest import TINY, RawGraph, lively
from onnx import TensorProto, helper

import mirnet_edge as me
from mirnet_edge import _imports
from mirnet_edge.system import usable_cores


def test_onnx_engine_knows_what_it_runs(tiny_onnx: Path) -> None:
    engine = me.OnnxEngine(tiny_onnx)
    assert engine.facts.task == "denoise"
    assert engine.facts.family == "mirnet-v2"
    assert engine.fixed_size is None
    assert engine.provider == "CPUExecutionProvider"
    out = engine.run(np.zeros((1, 3, 8, 12), np.float32))
    assert out.shape == (1, 3, 8, 12)
    engine.close()
    engine.close()
    with pytest.raises(me.EngineError, match="closed"):
        engine.run(np.zeros((1, 3, 8, 12), np.float32))


def test_open_engine_chooses_by_suffix(tiny_onnx: Path, tmp_path: Path) -> None:
    assert isinstance(me.open_engine(tiny_onnx), me.OnnxEngine)
    checkpoint = tmp_path / "tiny.safetensors"
    network = me.create_model(TINY["mirnet-v2"], seed=0)
    me.save_model(network, checkpoint, task="denoise")
    engine = me.open_engine(checkpoint, threads=torch.get_num_threads())
    assert isinstance(engine, me.TorchEngine)
    tiles = np.random.default_rng(0).random((1, 3, 16, 20), np.float32)
    with me.Restorer(tiny_onnx) as portable:
        np.testing.assert_allclose(engine.run(tiles), portable.engine.run(tiles), atol=1e-4)
    engine.close()
    with pytest.raises(me.EngineError, match="closed"):
        engine.run(tiles)


@pytest.mark.parametrize("name", ["nothing.onnx", "no-such-model"])
def test_missing_model_is_named(name: str) -> None:
    with pytest.raises(me.EngineError, match=f"{name}: no such file, and no bundled model"):
        me.open_engine(name)


def test_other_files_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "model.tflite"
    other.write_bytes(b"TFL3")
    with pytest.raises(me.EngineError, match=r"\.onnx, \.pth, \.pt, \.safetensors"):
        me.open_engine(other)


@pytest.mark.parametrize("keep", [0, 100, 20_000])
def test_corrupt_onnx_is_refused(tiny_onnx: Path, tmp_path: Path, keep: int) -> None:
    corrupt = tmp_path / "corrupt.onnx"
    corrupt.write_bytes(tiny_onnx.read_bytes()[:keep])
    with pytest.raises(me.EngineError, match=r"corrupt\.onnx: .*(cannot load it|export it again)"):
        me.OnnxEngine(corrupt)


def test_graph_with_another_signature_is_refused(tmp_path: Path) -> None:
    a, b, c = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 8, 8]) for name in "abc"
    )
    graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["c"])], "two", [a, b], [c])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "two.onnx")
    with pytest.raises(me.EngineError, match=r"one \(N, C, H, W\) input and one output"):
        me.OnnxEngine(tmp_path / "two.onnx")


def test_wrong_tile_is_an_error_with_both_shapes(tiny_onnx: Path) -> None:
    engine = me.OnnxEngine(tiny_onnx)
    with pytest.raises(me.EngineError, match=r"\(1, 5, 8, 8\).*'height', 'width'"):
        engine.run(np.zeros((1, 5, 8, 8), np.float32))


def test_unknown_provider_lists_what_there_is(tiny_onnx: Path) -> None:
    with pytest.raises(me.EngineError, match="CPUExecutionProvider"):
        me.OnnxEngine(tiny_onnx, provider="QuantumExecutionProvider")


def test_a_provider_that_does_not_start_is_left_in_silence(
    tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    session = onnxruntime.InferenceSession

    def opened(model: str, options: object, providers: list[str], **more: Any) -> object:
        if "CUDAExecutionProvider" not in providers:
            return session(model, options, providers, **more)
        if more.get("enable_fallback", 1):
            print("EP Error")  # as ONNX Runtime does
            return session(model, options, ["CPUExecutionProvider"])
        raise RuntimeError("CUDA does not start")

    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    monkeypatch.setattr(onnxruntime, "InferenceSession", opened)
    assert me.OnnxEngine(tiny_onnx).provider == "CPUExecutionProvider"
    assert capfd.readouterr().out == ""
    with pytest.raises(me.EngineError, match=r"CUDAExecutionProvider .* does not start here"):
        me.OnnxEngine(tiny_onnx, provider="CUDAExecutionProvider")


def test_a_closed_engine_gives_its_threads_and_memory_back(tiny_onnx: Path) -> None:
    process = psutil.Process()
    before = process.num_threads()
    engines = [me.OnnxEngine(tiny_onnx, threads=4) for _ in range(3)]
    assert process.num_threads() >= before + 3 * 3
    for engine in engines:
        engine.close()
    assert process.num_threads() == before


@pytest.mark.parametrize("threads", [0, -1, 99_999_999_999, 2.5, "4", True])
def test_threads_that_there_cannot_be(threads: Any, tiny_onnx: Path) -> None:
    with pytest.raises(me.EngineError, match=r"threads=.*: need a whole number from 1 to 1024"):
        me.OnnxEngine(tiny_onnx, threads=threads)
    with pytest.raises(me.EngineError, match=r"threads=.*: need a whole number from 1 to 1024"):
        me.TorchEngine(me.create_model(TINY["mirnet-v2"]), threads=threads)


@pytest.mark.parametrize(("before", "after"), [(None, "1"), ("0", "0")])
def test_nothing_is_reported_to_the_maker_of_onnx_runtime(
    before: str | None, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "ORT_DISABLE_TELEMETRY"
    monkeypatch.setenv(name, "")
    monkeypatch.delenv(name) if before is None else monkeypatch.setenv(name, before)
    imported = []
    monkeypatch.setattr(
        _imports.importlib, "import_module", lambda what: imported.append(os.environ.get(name))
    )
    _imports.require("onnxruntime", "a test")
    assert imported == [after]


def test_threads_can_be_set_and_give_the_same_result(tiny_onnx: Path) -> None:
    tiles = np.random.default_rng(0).random((1, 3, 40, 40), np.float32)
    one, all_of_them = (
        me.OnnxEngine(tiny_onnx, threads=n).run(tiles).copy() for n in (1, usable_cores())
    )
    np.testing.assert_allclose(one, all_of_them, atol=1e-6)


def test_fake_engine_gives_the_frame_without_its_level() -> None:
    tiles = np.random.default_rng(0).random((2, 4, 8, 8), np.float32)
    engine = me.FakeEngine(facts=me.ModelFacts(noise_level=True))
    np.testing.assert_array_equal(engine.run(tiles), tiles[:, :3])


def test_engines_take_the_level_as_a_plane(raw_graph: RawGraph, tmp_path: Path) -> None:
    network = lively(me.create_model(TINY["edge"]))
    onnx.save(raw_graph("edge"), tmp_path / "x.onnx")
    engine, reference = me.OnnxEngine(tmp_path / "x.onnx"), me.TorchEngine(network)
    tiles = np.random.default_rng(0).random((1, 4, 24, 40), np.float32)
    tiles[:, 3] = 0.3
    expected = reference.run(tiles)
    np.testing.assert_allclose(engine.run(tiles), expected, atol=1e-4 * np.ptp(expected))
    tiles[:, 3] = 0.9
    assert np.abs(engine.run(tiles) - expected).max() > 0.01 * np.ptp(expected)
    with pytest.raises(me.EngineError, match=r"\(1, 3, 24, 40\)"):
        engine.run(tiles[:, :3])


def test_fake_engine_records_and_closes() -> None:
    engine = me.FakeEngine()
    assert isinstance(engine, me.Engine)
    engine.run(np.zeros((1, 3, 4, 8), np.float32))
    assert engine.shapes == [(1, 3, 4, 8)]
    engine.close()
    with pytest.raises(me.EngineError, match="closed"):
        engine.run(np.zeros((1, 3, 4, 8), np.float32))
