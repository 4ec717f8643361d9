"""Opening model files, and what ONNX Runtime refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import TINY, RawGraph, lively
from onnx import TensorProto, helper

import mirnet_edge as me
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
    with pytest.raises(me.EngineError, match=r"corrupt\.onnx: ONNX Runtime .* cannot load it"):
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
