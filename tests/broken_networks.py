"""Networks whose outputs are not all finite, as those of FP16 are where it overflows: each as a
plan for the fake TensorRT, and for the portable engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from fake_tensorrt import plan_of_graph, write_plan
from onnx import TensorProto, helper

from mirnet_edge.engines.card import TensorFacts
from mirnet_edge.facts import ModelFacts

TILE = (32, 40)


def broken_network(batch: int = 1, tile: tuple[int, int] = TILE, kind: str = "nan") -> Any:
    """NaN where the input is below a quarter ("nan"), or -inf where it is 0 ("infinity"); else a
    number that the input tells."""
    shape = [batch, 3, *tile]
    quarter = helper.make_tensor("quarter", TensorProto.FLOAT, [], [0.25])
    nodes = {
        "nan": [
            helper.make_node("Sub", ["input", "quarter"], ["less"]),
            helper.make_node("Sqrt", ["less"], ["output"]),
        ],
        "infinity": [
            helper.make_node("Log", ["input"], ["log"]),
            helper.make_node("Add", ["log", "quarter"], ["output"]),
        ],
    }[kind]
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)]
        for name in ("input", "output")
    ]
    graph = helper.make_graph(nodes, "broken", *ends, initializer=[quarter])
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="tests"
    )


def write_broken(folder: Path, kind: str = "nan", batch: int = 1, image: str = "FLOAT") -> Path:
    """The plan, ``broken.engine``, and beside it the same for the portable engine."""
    network = broken_network(batch, kind=kind)
    onnx.save(broken_network(kind=kind), folder / "broken.onnx")
    dtype = "float32" if image == "FLOAT" else "float16"
    tensors = tuple(
        (TensorFacts(name, (batch, 3, *TILE), dtype, "linear"),) for name in ("frame", "clean")
    )
    card = {
        "facts": ModelFacts(task="denoise"),
        "tile": TILE,
        "batch": batch,
        "inputs": tensors[0],
        "outputs": tensors[1],
    }
    return write_plan(folder, card, "broken.engine", **plan_of_graph(network, image))
