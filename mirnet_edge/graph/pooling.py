"""The exported graph with its pooled vectors as values: the *gather* and the *apply* graph.

A tile differs from the frame it was cut from only where the network takes means over all
positions. The apply graph is given those means, so that nothing in it depends on how large the tile
is; it has no reduction over the tile left. The gather graph also returns what the tile contributes
to each mean (see `mirnet_edge.pooling.vectors`).

Both are made from a plain graph, before it is rewritten for TensorRT or after it was rewritten for
any runtime: the linear maps that such a rewrite takes means through commute with the frame's mean,
not with a tile's, so the results are those of the frame either way.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mirnet_edge.errors import GraphError
from mirnet_edge.graph.rewrite.edit import (
    SPATIAL_AXES,
    GraphEditor,
    attribute,
    input_of,
    is_frame_mean,
)
from mirnet_edge.graph.rewrite.pools import softmax_mean, softmax_sums
from mirnet_edge.pooling.tensors import COLUMNS, GATHERED, LOG_MASS, OWN, ROWS, STATISTIC
from mirnet_edge.pooling.vectors import Pool

if TYPE_CHECKING:
    from onnx import ModelProto
    from onnx_ir import Node, Value

OUTSIDE = -3e4
"""Added to logits outside the kept region: their exponentials are 0, unless they are 29,900 above
all inside."""
LONGEST = 2.0**15
"""Pixels of a tile's side at most: times this, the weight of any row that counts is 1 or more.
Within FP16's range."""
REDUCTIONS = {
    "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "GlobalAveragePool", "GlobalMaxPool",
}  # fmt: skip


@dataclass(frozen=True)
class _Place:
    """A pool in a graph under change: the map it reads, its logits where it has any, the node that
    writes its result."""

    pool: Pool
    features: Value
    logits: Value | None
    writer: Node


def pools_of(proto: ModelProto) -> tuple[Pool, ...]:
    """The pools of a plain graph, in the order in which it computes them.

    Raises:
        GraphError: it reduces over the frame in a way that is no known pool.
    """
    return tuple(place.pool for place in _places(GraphEditor(proto)))


def apply_graph(proto: ModelProto) -> ModelProto:
    """A copy of a plain graph that is given its pooled vectors.

    Inputs: the image, then ``statistic.k`` (1, C, 1, 1) float32 for each of `pools_of`. Output: as
    the plain graph's. No reduction over the frame is left.
    """
    editor = GraphEditor(proto)
    for index, place in enumerate(_places(editor)):
        given = editor.input(f"{STATISTIC}.{index}", (1, place.pool.channels, 1, 1))
        editor.replace(place.writer.outputs[0], given)
    return editor.to_proto()


def gather_graph(proto: ModelProto) -> ModelProto:
    """A copy of a plain graph that also returns what a tile contributes to its pooled vectors.

    Inputs: the image (N, C, H, W); ``rows`` (N, 1, H, 1) and ``columns`` (N, 1, 1, W), weights of
    sum one that are equal inside the tile's kept region and 0 outside (it begins and ends at
    multiples of the size multiple); ``own`` (1, 1, 1, 1); and ``statistic.k`` as in `apply_graph`.
    With ``own`` 1 every pool hands on the tile's own mean over the kept region (of the whole tile:
    what the plain graph computes), with 0 the given vector.

    Outputs: that of the plain graph, then for each pool ``gathered.k`` (N, C, 1, 1), the mean over
    the kept region, followed for a softmax mean by ``log_mass.k`` (N, 1, 1, 1), the logarithm of
    the mean of the exponentials of the logits there.
    """
    editor = GraphEditor(proto)
    places = _places(editor)
    region = _Region(editor)
    for index, place in enumerate(places):
        given = editor.input(f"{STATISTIC}.{index}", (1, place.pool.channels, 1, 1))
        gathered = region.gathered(place, f"{GATHERED}.{index}", f"{LOG_MASS}.{index}")
        chosen = region.chosen(place.writer, gathered, given, f"chosen.{index}")
        editor.replace(place.writer.outputs[0], chosen)
    return editor.to_proto()


def _places(editor: GraphEditor) -> list[_Place]:
    places: list[_Place] = []
    for node in editor.nodes("Softmax", *REDUCTIONS):
        if is_frame_mean(editor, node):
            places.append(_place(editor, input_of(node), None, node))
        elif node.op_type == "Softmax" and (found := softmax_mean(editor, node)) is not None:
            logits, features, _, view = found
            places.append(_place(editor, features, logits, view))
        elif _reduces_positions(editor, node):
            raise GraphError(
                f"{node.op_type} {node.name!r} reduces over the frame in no way that is known; "
                "make the apply and gather graphs before rewriting for TensorRT"
            )
    return places


def _reduces_positions(editor: GraphEditor, node: Node) -> bool:
    before, after = editor.dims(input_of(node)), editor.dims(node.outputs[0])
    if node.op_type == "Softmax":
        axis = attribute(node, "axis", -1)
        return axis % len(before) > 1 and before[axis] > 1
    return len(before) == 4 and before[2:] != after[2:]


def _place(editor: GraphEditor, features: Value, logits: Value | None, writer: Node) -> _Place:
    _, channels, rows, _ = editor.dims(features)
    name, multiple = str(writer.outputs[0].name), editor.facts.size_multiple
    scale = editor.dims(editor.image)[2] // rows
    if multiple % scale:
        raise GraphError(
            f"pool {name!r} reads a map of 1/{scale} of the frame's height, but tiles lie on "
            f"multiples of {multiple}; make the apply and gather graphs before rewriting for "
            "TensorRT"
        )
    kind: Literal["mean", "softmax"] = "mean" if logits is None else "softmax"
    return _Place(Pool(name, kind, channels, scale), features, logits, writer)


class _Region:
    """The kept region of a tile as weights, at every scale, and means over it.

    All in products, sums and pools. With comparisons, selections and products of maps with a vector
    TensorRT 8.6.0 made one "ForeignNode" of all that lay between them, and found no kernel for it.
    """

    def __init__(self, editor: GraphEditor) -> None:
        # The pixels on whose multiples the region begins and ends.
        self._editor, self._multiple = editor, editor.facts.size_multiple
        batch, _, height, width = tuple(editor.image.shape or ())
        self._batch = batch
        self._staged = editor.fixed and isinstance(batch, int)
        # In front of all nodes, where every pool finds what it reads.
        self._first = next(editor.nodes())
        rows = editor.input(ROWS, (batch, 1, height, 1))
        self._weights = {2: rows, 3: editor.input(COLUMNS, (batch, 1, 1, width))}
        # What several pools read is made once.
        self._number, self._integers = cache(editor.number), cache(editor.integers)
        self._made: dict[str, Value] = {}
        self._one = self._number("one", 1)
        self._own = editor.input(OWN, (1, 1, 1, 1))
        self._given = self._shared("Sub", [self._one, self._own], "own/not")

    def chosen(self, before: Node, gathered: Value, given: Value, name: str) -> Value:
        """What a pool hands on; exact, since ``own`` is 0 or 1."""
        own = self._editor.add(before, "Mul", [gathered, self._own], f"{name}/own")
        other = self._editor.add(before, "Mul", [given, self._given], f"{name}/given")
        return self._editor.add(before, "Add", [own, other], name)

    def gathered(self, place: _Place, name: str, mass_name: str) -> Value:
        """The mean over the region of what ``place`` reads; it and its mass become outputs of the
        graph."""
        pool, add = place.pool, partial(self._editor.add, place.writer)
        if place.logits is None:
            mean = self._mean(place.writer, place.features, pool.scale, name)
            self._editor.output(mean, (self._batch, pool.channels, 1, 1))
            return mean
        logits = add("Add", [place.logits, self._outside(pool.scale)], f"{name}/inside")
        # In stages where the size is fixed, as FP16 holds them; else in a form for any size.
        summed, total, shift = (
            softmax_sums(self._editor, logits, place.features, name, (place.writer,) * 2)
            if self._staged
            else self._sums(place.writer, logits, place.features, name)
        )
        mean = add("Div", [summed, total], name)
        power = add("Add", [add("Log", [total], f"{name}/log"), shift], f"{name}/power")
        mass = add("Add", [power, self._log_share(pool.scale)], mass_name)
        self._editor.output(mean, (self._batch, pool.channels, 1, 1))
        self._editor.output(mass, (self._batch, 1, 1, 1))
        return mean

    def _mean(self, before: Node, features: Value, scale: int, name: str) -> Value:
        """The mean of blocks that lie in the region or outside it as a whole, so that the map is
        read once and little is written: that of all, those outside as 0, over the region's
        share."""
        editor, block = self._editor, [self._multiple // scale] * 2
        if block[0] > 1:
            features = editor.pool(before, "AveragePool", features, block, f"{name}/blocks")
        inside = self._inside(self._multiple)
        kept = editor.add(before, "Mul", [features, inside], f"{name}/kept")
        mean = editor.reduce(before, "ReduceMean", kept, f"{name}/mean")
        return editor.add(before, "Div", [mean, self._share()], name)

    def _sums(
        self, before: Node, logits: Value, features: Value, name: str
    ) -> tuple[Value, Value, Value]:
        """What `softmax_sums` returns, at any size."""

        def add(kind: str, inputs: list[Value], part: str, **attributes: int) -> Value:
            return self._editor.add(before, kind, inputs, f"{name}/{part}", **attributes)

        def reshaped(value: Value, part: str, *shape: int) -> Value:
            return add("Reshape", [value, self._integers(f"{name}/{part}/shape", *shape)], part)

        axes = self._integers(f"{name}/axes", *SPATIAL_AXES)
        largest = self._editor.reduce(before, "ReduceMax", logits, f"{name}/largest")
        powers = add("Exp", [add("Sub", [logits, largest], "below")], "exp")
        total = add("ReduceSum", [powers, axes], "sum", keepdims=1)
        # 0 copies a dimension, so that batch and channels may be open.
        flat = reshaped(features, "flat", 0, 0, -1)
        product = add("MatMul", [flat, reshaped(powers, "column", 0, -1, 1)], "product")
        return reshaped(product, "vector", 0, 0, 1, 1), total, largest

    def _inside(self, scale: int) -> Value:
        """1 inside the region and 0 outside: (N, 1, h, w)."""
        sides = [self._side(axis, scale) for axis in (2, 3)]
        return self._shared("Mul", sides, f"inside/{scale}")

    def _side(self, axis: int, scale: int) -> Value:
        """The same along one axis."""
        name = f"{self._weights[axis].name}/{scale}/inside"
        longest = self._number(f"{name}/longest", LONGEST)
        counted = self._shared("Mul", [self._every(axis, scale), longest], f"{name}/counted")
        return self._shared("Min", [counted, self._one], name)

    def _share(self) -> Value:
        """The region's share of the tile: (N, 1, 1, 1)."""
        sides = []
        for axis in (2, 3):
            side, name = self._side(axis, self._multiple), f"{self._weights[axis].name}/share"
            sides.append(self._shared("ReduceMean", [side], name, axes=SPATIAL_AXES, keepdims=1))
        return self._shared("Mul", sides, "share")

    def _outside(self, scale: int) -> Value:
        """What takes the logits outside the region away: (N, 1, h, w)."""
        name = f"outside/{scale}"
        below = self._shared("Sub", [self._one, self._inside(scale)], f"{name}/outside")
        return self._shared("Mul", [below, self._number(f"{name}/far", OUTSIDE)], name)

    def _log_share(self, scale: int) -> Value:
        """The logarithm of one position's share in the region: (N, 1, 1, 1)."""
        name = f"share/{scale}"
        pixel = self._shared("Mul", [self._largest(2), self._largest(3)], f"{name}/pixel")
        size = self._number(f"{name}/size", scale**2)
        share = self._shared("Mul", [pixel, size], f"{name}/position")
        return self._shared("Log", [share], name)

    def _every(self, axis: int, scale: int) -> Value:
        """The weights of every ``scale``-th row or column."""
        weights = self._weights[axis]
        if scale == 1:
            return weights
        name, last = f"{weights.name}/{scale}", np.iinfo(np.int64).max
        parts = {"first": 0, "last": last, "axis": axis, "step": scale}
        bounds = [self._integers(f"{name}/{part}", value) for part, value in parts.items()]
        return self._shared("Slice", [weights, *bounds], f"{name}/every")

    def _largest(self, axis: int) -> Value:
        """The weight of one row or column of pixels in the region: (N, 1, 1, 1)."""
        weights = self._weights[axis]
        name = f"{weights.name}/largest"
        return self._shared("ReduceMax", [weights], name, axes=SPATIAL_AXES, keepdims=1)

    def _shared(self, kind: str, inputs: list[Value], name: str, **attributes: Any) -> Value:
        """A node in front of all others, made when it is first asked for."""
        if name not in self._made:
            self._made[name] = self._editor.add(self._first, kind, inputs, name, **attributes)
        return self._made[name]
