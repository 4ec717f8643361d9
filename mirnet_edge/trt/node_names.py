"""Which module of the network a node of the graph came from, for errors of those who know only the
network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mirnet_edge._imports import require

STEPS = 8
"""How far from a node its module's weights are looked for."""


def describe_node(onnx_file: Path, index: int) -> str:
    """A node by its place in a graph's list: name, operator, and the module it stands in or
    behind."""
    onnx = require("onnx", "naming a node of a graph")
    graph = onnx.load(str(onnx_file)).graph
    if not 0 <= index < len(graph.node):
        return "the graph"
    node = graph.node[index]
    module = module_of_node(graph, node)
    return f"node {node.name!r} ({node.op_type}{', ' + module if module else ''})"


def module_of_node(graph: Any, node: Any) -> str | None:
    """ "in body.0.dau_top" where the node itself has that module's weights, "behind body.0.dau_top"
    where a node before it has, None where none of the last `STEPS` has any."""
    stored = {tensor.name for tensor in graph.initializer}
    producer = {name: item for item in graph.node for name in item.output}
    level, place = [node], "in"
    for _ in range(STEPS):
        for item in level:
            for name in item.input:
                module = name.partition("/")[0].rpartition(".")[0]  # rewrites append "/dense"
                if name in stored and module:
                    return f"{place} {module}"
        level = [producer[name] for item in level for name in item.input if name in producer]
        place = "behind"
    return None
