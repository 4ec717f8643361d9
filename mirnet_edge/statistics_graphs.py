"""The exported graph with its pooled vectors as values: the *gather* and the *apply* graph.

A tile differs from the frame it was cut from only where the network takes means over all
positions. The apply graph is given those means, so that nothing in it depends on how large the tile
is; it has no reduction over the tile left. The gather graph also returns what the tile contributes
to each mean (see `mirnet_edge.pooled`).

Both are made from a plain graph, before it is rewritten for TensorRT or after it was rewritten for
any runtime: the linear maps that such a rewrite takes means through commute with the frame's mean,
not with a tile's, so the results are those of the frame either way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mirnet_edge.errors import GraphError
from mirnet_edge.facts import ModelFacts
from mirnet_edge.pooled import Pool
from mirnet_edge.rewrite.edit import SPATIAL_AXES, GraphEditor, Node, Value, is_frame_mean
from mirnet_edge.rewrite.pools import softmax_mean

ROWS, COLUMNS, OWN, STATISTIC = "rows", "columns", "own", "statistic"
GATHERED, LOG_MASS = "gathered", "log_mass"
LEAST_MASS = 1e-30
"""Added to the sum of a tile's exponentials. It is 0 in FP32 only where the largest logit of the
tile lies outside the kept region and 87 above all of it: such a region has no share in the
frame's mean, and must not divide by it."""
REDUCTIONS = {
    "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "GlobalAveragePool", "GlobalMaxPool",
}  # fmt: skip


@dataclass(frozen=True)
class _Place:
    """A pool in a graph under change: the map it reads, its logits, its result."""

    kind: Literal["mean", "softmax"]
    features: Value
    logits: Value | None
    mean: Value


def pools_of(proto: Any) -> tuple[Pool, ...]:
    """The pools of a plain graph, in the order in which it computes them.

    Raises:
        GraphError: it reduces over the frame in a way that is no known pool.
    """
    editor = GraphEditor(proto)
    return _described(editor, _places(editor), proto)


def apply_graph(proto: Any) -> Any:
    """A copy of a plain graph that is given its pooled vectors.

    Inputs: the image, then ``statistic.k`` (1, C, 1, 1) float32 for each of `pools_of`. Output: as
    the plain graph's. No reduction over the frame is left.

    Raises:
        GraphError: as `pools_of`.
    """
    editor = GraphEditor(proto)
    places = _places(editor)
    for index, pool in enumerate(_described(editor, places, proto)):
        given = editor.input(f"{STATISTIC}.{index}", (1, pool.channels, 1, 1))
        editor.replace(places[index].mean, given)
    return _finished(editor, proto)


def gather_graph(proto: Any) -> Any:
    """A copy of a plain graph that also returns what a tile contributes to its pooled vectors.

    Inputs: the image (N, C, H, W); ``rows`` (N, 1, H, 1) and ``columns`` (N, 1, 1, W), weights of
    sum one that are equal inside the tile's kept region and 0 outside (it begins and ends at
    multiples of the size multiple); ``own`` (1, 1, 1, 1); and ``statistic.k`` as in `apply_graph`.
    With ``own`` above 0.5 every pool hands on the tile's own mean over the kept region (of the
    whole tile: what the plain graph computes), else the given vector.

    Outputs: that of the plain graph, then for each pool ``gathered.k`` (N, C, 1, 1), the mean over
    the kept region, followed for a softmax mean by ``log_mass.k`` (N, 1, 1, 1), the logarithm of
    the mean of the exponentials of the logits there.

    Raises:
        GraphError: as `pools_of`.
    """
    editor = GraphEditor(proto)
    places = _places(editor)
    pools = _described(editor, places, proto)
    region = _Region(editor)
    for index, (pool, place) in enumerate(zip(pools, places)):
        given = editor.input(f"{STATISTIC}.{index}", (1, pool.channels, 1, 1))
        reader = place.mean.producer()
        gathered = region.gathered(place, pool, f"{GATHERED}.{index}", f"{LOG_MASS}.{index}")
        chosen = editor.add(reader, "Where", [region.own, gathered, given], f"chosen.{index}")
        editor.replace(place.mean, chosen)
    return _finished(editor, proto)


def _places(editor: GraphEditor) -> list[_Place]:
    places: list[_Place] = []
    for node in editor.nodes("Softmax", *REDUCTIONS):
        if is_frame_mean(node):
            places.append(_Place("mean", node.inputs[0], None, node.outputs[0]))
        elif node.op_type == "Softmax" and (found := softmax_mean(editor, node)) is not None:
            logits, features, mean = found
            places.append(_Place("softmax", features, logits, mean))
        elif _reduces_positions(editor, node):
            raise GraphError(
                f"{node.op_type} {node.name!r} reduces over the frame in no way that is known; "
                "make the statistics graphs before rewriting for TensorRT"
            )
    return places


def _reduces_positions(editor: GraphEditor, node: Node) -> bool:
    before, after = editor.dims(node.inputs[0]), editor.dims(node.outputs[0])
    if node.op_type == "Softmax":
        axis = node.attributes["axis"].value if "axis" in node.attributes else -1
        return axis % len(before) > 1 and before[axis] > 1
    return len(before) == 4 and before[2:] != after[2:]


def _described(editor: GraphEditor, places: list[_Place], proto: Any) -> tuple[Pool, ...]:
    metadata = {item.key: item.value for item in proto.metadata_props}
    multiple = ModelFacts.from_metadata(metadata).size_multiple
    height = editor.dims(editor.image)[2]
    pools = []
    for place in places:
        _, channels, rows, _ = editor.dims(place.features)
        scale = height // rows
        if multiple % scale:
            raise GraphError(
                f"pool {place.mean.name!r} reads a map of 1/{scale} of the frame's height, but "
                f"tiles lie on multiples of {multiple}; make the statistics graphs before "
                "rewriting for TensorRT"
            )
        pools.append(Pool(place.mean.name, place.kind, channels, scale))
    return tuple(pools)


def _finished(editor: GraphEditor, proto: Any) -> Any:
    changed = editor.to_proto()
    del changed.metadata_props[:]
    changed.metadata_props.extend(proto.metadata_props)
    return changed


class _Region:
    """The kept region of a tile as weights, at every scale, and means over it."""

    def __init__(self, editor: GraphEditor) -> None:
        self._editor = editor
        batch, _, height, width = editor.image.shape
        self._batch = batch
        self._weights = {
            2: editor.input(ROWS, (batch, 1, height, 1)),
            3: editor.input(COLUMNS, (batch, 1, 1, width)),
        }
        self._scaled: dict[tuple[int, int], Value] = {}
        self._lines: dict[tuple[int, int], Value] = {}
        self._first = next(editor.nodes())
        half = editor.constant("own/half", np.full((1, 1, 1, 1), 0.5, np.float32))
        own = editor.input(OWN, (1, 1, 1, 1))
        self.own = editor.add(self._first, "Greater", [own, half], "own/chosen")

    def gathered(self, place: _Place, pool: Pool, name: str, mass_name: str) -> Value:
        """The mean over the region of what ``place`` reads; it and its mass become outputs of the
        graph."""
        reader = place.mean.producer()
        if place.logits is None:
            mean = self._mean(reader, place.features, pool.scale, name)
            self._editor.output(mean, (self._batch, pool.channels, 1, 1))
            return mean
        mean, mass = self._softmax_mean(
            reader, place.features, place.logits, pool.scale, name, mass_name
        )
        self._editor.output(mean, (self._batch, pool.channels, 1, 1))
        self._editor.output(mass, (self._batch, 1, 1, 1))
        return mean

    def _mean(self, before: Node, features: Value, scale: int, name: str) -> Value:
        """Rows first, then columns: two products that read the map once and write little."""
        across = self._line(2, scale), self._line(3, scale)
        by_column = self._editor.add(before, "MatMul", [across[0], features], f"{name}/rows")
        return self._editor.add(before, "MatMul", [by_column, across[1]], name)

    def _softmax_mean(
        self, before: Node, features: Value, logits: Value, scale: int, name: str, mass_name: str
    ) -> tuple[Value, Value]:
        def add(kind: str, inputs: list[Value], part: str, **attributes: Any) -> Value:
            return self._editor.add(before, kind, inputs, f"{name}/{part}", **attributes)

        def reshaped(value: Value, shape: list[int], part: str) -> Value:
            constant = self._editor.constant(f"{name}/{part}/shape", np.array(shape, np.int64))
            return add("Reshape", [value, constant], part)

        axes = self._editor.constant(f"{name}/axes", np.array(SPATIAL_AXES, np.int64))
        least = self._editor.constant(
            f"{name}/least", np.full((1, 1, 1, 1), LEAST_MASS, np.float32)
        )
        largest = add("ReduceMax", [logits], "largest", axes=SPATIAL_AXES, keepdims=1)
        powers = add("Exp", [add("Sub", [logits, largest], "below")], "exp")
        inner = add("Mul", [powers, self._weight(2, scale)], "exp/rows")
        kept = add("Mul", [inner, self._weight(3, scale)], "exp/kept")
        total = add("Add", [add("ReduceSum", [kept, axes], "sum", keepdims=1), least], "total")
        flat = reshaped(features, [0, 0, -1], "flat")
        product = add("MatMul", [flat, reshaped(kept, [0, -1, 1], "column")], "product")
        vector = reshaped(product, [0, 0, 1, 1], "vector")
        mass = self._editor.add(before, "Add", [add("Log", [total], "log"), largest], mass_name)
        return self._editor.add(before, "Div", [vector, total], name), mass

    def _weight(self, axis: int, scale: int) -> Value:
        """The weights of every ``scale``-th row or column, again of sum one."""
        if scale == 1:
            return self._weights[axis]
        if (axis, scale) not in self._scaled:
            name = f"{self._weights[axis].name}/{scale}"
            bounds = [
                self._editor.constant(f"{name}/{part}", np.array([value], np.int64))
                for part, value in (
                    ("first", 0), ("last", np.iinfo(np.int64).max), ("axis", axis), ("step", scale),
                )
            ]  # fmt: skip
            factor = self._editor.constant(
                f"{name}/factor", np.full((1, 1, 1, 1), scale, np.float32)
            )
            every = self._editor.add(
                self._first, "Slice", [self._weights[axis], *bounds], f"{name}/every"
            )
            self._scaled[axis, scale] = self._editor.add(
                self._first, "Mul", [every, factor], f"{name}/weights"
            )
        return self._scaled[axis, scale]

    def _line(self, axis: int, scale: int) -> Value:
        """The weights of rows as a row (N, 1, 1, h), of columns as a column (N, 1, w, 1)."""
        if (axis, scale) not in self._lines:
            weight = self._weight(axis, scale)
            self._lines[axis, scale] = self._editor.add(
                self._first, "Transpose", [weight], f"{weight.name}/turned", perm=[0, 1, 3, 2]
            )
        return self._lines[axis, scale]
