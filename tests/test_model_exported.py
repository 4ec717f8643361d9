"""Weights out of graphs: what an export rewrites is undone exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import TINY

import mirnet_edge as me
from mirnet_edge.model.checkpoints import infer_config
from mirnet_edge.model.exported import read_exported, with_differences


@pytest.mark.parametrize(
    ("name", "half"), [("mirnet-v2", True), ("edge", True), ("edge-x3", False), ("edge-x4", False)]
)
def test_what_was_exported_is_read_back(tmp_path: Path, name: str, half: bool) -> None:
    config = TINY[name]
    network = with_differences(me.create_model(config, seed=0))
    if half:
        network = network.half().float()
    me.export_onnx(network, tmp_path / "a.onnx", task="denoise", half_weights=half)
    tensors, facts = read_exported(tmp_path / "a.onnx")
    assert infer_config(tensors) == config
    assert facts == {"task": "denoise", "scale": 1}
    state = network.state_dict()
    assert tensors.keys() == state.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, state[name], name)
    loaded = me.load_model(tmp_path / "a.onnx")
    assert (loaded.facts.task, loaded.config) == ("denoise", config)
    for name, tensor in loaded.state_dict().items():
        np.testing.assert_array_equal(tensor, state[name], name)


def test_differences_leave_the_network_as_it_is() -> None:
    network = me.create_model("edge-xs")
    tile = torch.rand(1, 3, 48, 64)
    with torch.no_grad():
        before = network(tile)
        torch.testing.assert_close(with_differences(network)(tile), before, atol=1e-6, rtol=0)


def test_another_graph_is_refused(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [value], [y])),
              tmp_path / "a.onnx")  # fmt: skip
    with pytest.raises(me.CheckpointError, match="no graph that was exported"):
        read_exported(tmp_path / "a.onnx")
    (tmp_path / "b.onnx").write_bytes(b"no graph")
    for name in ("a.onnx", "b.onnx", "c.onnx"):
        with pytest.raises(me.CheckpointError, match=rf"{name}: no (graph|valid|such)"):
            me.load_model(tmp_path / name)
