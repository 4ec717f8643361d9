"""Selective kernel fusion of three maps by our operators (the published MIRNet)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np

from mirnet_edge.graph.operators.maps import is_map, rows_of
from mirnet_edge.graph.operators.means import is_mean
from mirnet_edge.graph.operators.squeezes import Squeeze, squeeze_of
from mirnet_edge.graph.rewrite.edit import Changes, GraphEditor, input_of, source_of

if TYPE_CHECKING:
    from onnx_ir import Node, Value


@dataclass(frozen=True)
class _Selection:
    """The sum of three ``maps``, each times one of ``vectors`` (N, C, 1, 1). Where those are the
    softmax over k of expand_k leaky(squeeze mean), with the mean of all maps, ``weights`` are that,
    all three tables expand_k in one (3, Z, C)."""

    add: Node
    maps: list[Value]
    vectors: list[Value]
    weights: Squeeze | None


def selections(editor: GraphEditor) -> Changes:
    """Selective kernel fusion of three maps: one pass over them for their mean, one small kernel
    for the gates, one pass for the weighted sum."""
    found = [s for node in editor.nodes("Add") if (s := _selection(editor, node)) is not None]
    changed = {selection.add.outputs[0]: _made(editor, selection) for selection in found}
    if changed:
        yield changed


def _made(editor: GraphEditor, selection: _Selection) -> Value:
    add, maps, vectors = selection.add, selection.maps, selection.vectors
    name = f"{add.name}/selection"
    if (weights := selection.weights) is not None:
        count = rows_of(editor, maps[0])
        (rows,) = editor.own(add, "MirnetMeanRows", maps, [f"{name}/rows"], rows=count)
        names = [f"{name}/gate.{index}" for index in range(3)]
        inputs = [rows, *weights.constants(editor, name)]
        vectors = editor.own(add, "MirnetSelectGate", inputs, names, slope=weights.slope)
    (total,) = editor.own(add, "MirnetSelectSum", [*maps, *vectors], [name])
    return total


def _selection(editor: GraphEditor, add: Node) -> _Selection | None:
    """The fusion that ends in ``add``, whose products nothing else reads."""
    total = add.outputs[0]
    for inner, products in _sums_of_three(total):
        found = [_map_and_vector(editor, product, total) for product in products]
        factors = [pair for pair in found if pair is not None]
        if len(factors) == 3 and editor.only_use(inner) is not None and is_map(editor, total):
            maps, vectors = ([pair[index] for pair in factors] for index in (0, 1))
            return _Selection(add, maps, vectors, _gate_weights(editor, maps, vectors))
    return None


def _sums_of_three(total: Value) -> Iterator[tuple[Value, list[Value]]]:
    """The sum of two that ``total`` is made of, and all three terms, in every way to read it so."""
    add = total.producer()
    if add is None or add.op_type != "Add":
        return
    for index in (0, 1):
        if (inner := source_of(add, "Add", index)) is not None:
            two = [input_of(inner), input_of(inner, 1)]
            yield inner.outputs[0], [*two, input_of(add, 1 - index)]


def _map_and_vector(editor: GraphEditor, value: Value, total: Value) -> tuple[Value, Value] | None:
    """What ``value`` is the product of: a map as large as ``total``, and a vector (N, C, 1, 1)."""
    product = value.producer()
    if product is None or product.op_type != "Mul" or editor.only_use(value) is None:
        return None
    dims = editor.dims(total)
    for index in (0, 1):
        features, vector = input_of(product, index), input_of(product, 1 - index)
        if editor.dims(features) == dims and editor.dims(vector) == (*dims[:2], 1, 1):
            return features, vector
    return None


def _gate_weights(editor: GraphEditor, maps: list[Value], gates: list[Value]) -> Squeeze | None:
    """What gates are made by, where they are made of the mean of the sum of all maps, and are for
    nothing else."""
    made = [squeeze_of(editor, logit) for logit in _logits(editor, gates)]
    found = [squeeze for squeeze in made if squeeze is not None]
    if len(found) < len(gates) or any(editor.only_use(gate) is None for gate in gates):
        return None
    first = found[0]
    alike = all(squeeze.inner is first.inner for squeeze in found)
    if not alike or not _is_mean_of_sum(editor, first.source, maps):
        return None
    return replace(first, expand=np.stack([squeeze.expand for squeeze in found]))


def _logits(editor: GraphEditor, gates: list[Value]) -> list[Value]:
    """Those whose softmax three gates are, in their order, as `fusion.weighted_sums` writes it;
    none where they are no softmax."""
    chains = [_chain(gate, "Div", "Exp", "Sub") for gate in gates]
    if not all(chains):
        return []
    powers, logits = [chain[1].outputs[0] for chain in chains], [input_of(c[2]) for c in chains]
    same = (
        _is_made_of({input_of(chain[0], 1) for chain in chains}, "Sum", powers)
        and _is_made_of({input_of(chain[2], 1) for chain in chains}, "Max", logits)
        and len({editor.dims(value) for value in (*gates, *logits)}) == 1
    )
    return logits if same else []


def _chain(value: Value, *kinds: str) -> list[Node]:
    """The nodes of these kinds that end in ``value``, the last first, each the first input of the
    one before; none where others do."""
    nodes: list[Node] = []
    for kind in kinds:
        node = value.producer()
        if node is None or node.op_type != kind:
            return []
        nodes.append(node)
        value = input_of(node)
    return nodes


def _is_made_of(values: set[Value], kind: str, terms: list[Value]) -> bool:
    """Whether ``values`` are one, which a node of this kind makes of three terms."""
    node = values.pop().producer() if len(values) == 1 else None
    if node is None or node.op_type != kind or len(node.inputs) != 3:
        return False
    return set(node.inputs) == set(terms) and len(set(terms)) == 3


def _is_mean_of_sum(editor: GraphEditor, vector: Value, maps: list[Value]) -> bool:
    """Whether it is the sum of the means of three maps, in any order."""
    return any(
        all(is_mean(editor, mean, frame) for mean, frame in zip(means, order))
        for _, means in _sums_of_three(vector)
        for order in permutations(maps)
    )
