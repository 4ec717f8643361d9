"""Ranges of a graph's tensors: the collection against a run of its own, the file against what can
go wrong with it."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from mirnet_edge.errors import CalibrationError, GraphError, OutputError
from mirnet_edge.graph.file import graph_sha256, with_shape
from mirnet_edge.quantize.calibration import tiles_sha256
from mirnet_edge.quantize.qdq import CONVOLUTIONS, inputs_of, insert_qdq
from mirnet_edge.quantize.ranges import METHODS, Ranges, TensorRange, collect_ranges, observe
from mirnet_edge.quantize.ranges.histogram import Histogram, mse_clip

Values = np.ndarray[Any, np.dtype[np.float32]]


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


# Collection


def small_graph(last: str = "Relu") -> Any:
    """input -> Conv -> ``last`` -> ConvTranspose -> output, two channels, 13x21, opset 17."""
    random = generator(5)
    weights = [
        numpy_helper.from_array(random.standard_normal(shape, np.float32), name)
        for name, shape in (("w1", (2, 2, 3, 3)), ("w2", (2, 2, 3, 3)), ("dead", (2,)))
    ]
    pads = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["input", "w1"], ["a"], **pads),
        helper.make_node(last, ["a"], ["b"]),
        helper.make_node("ConvTranspose", ["b", "w2"], ["output"], **pads),
        helper.make_node("Sub", ["b", "b"], ["zero"]),
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, 13, 21])
        for name in ("input", "output")
    ]
    graph = helper.make_graph(nodes, "small", values[:1], values[1:], weights)
    opsets = [helper.make_opsetid("", 17)]
    return with_shape(helper.make_model(graph, opset_imports=opsets, ir_version=8), 1, 13, 21)


def read_by_convolutions(proto: Any) -> list[str]:
    return inputs_of(proto, [n.name for n in proto.graph.node if n.op_type in CONVOLUTIONS])


def observed(proto: Any, tiles: Values, names: list[str]) -> dict[str, Values]:
    """All values of some tensors over all tiles, by a session without any of our code."""
    shown = onnx.shape_inference.infer_shapes(proto)
    known = {value.name for value in shown.graph.output} | {shown.graph.input[0].name}
    shown.graph.output.extend(v for v in shown.graph.value_info if v.name in set(names) - known)
    session = ort.InferenceSession(shown.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs = [value.name for value in session.get_outputs()]
    found: dict[str, list[Values]] = {name: [] for name in names}
    for tile in tiles:
        values = dict(zip(outputs, session.run(outputs, {"input": tile[None]})), input=tile)
        for name in names:
            found[name].append(values[name].ravel())
    return {name: np.concatenate(values) for name, values in found.items()}


def small_tiles(count: int = 3) -> Values:
    tiles = generator(6).standard_normal((count, 2, 13, 21), np.float32)
    return tiles * np.arange(1, count + 1, dtype=np.float32)[:, None, None, None]


@pytest.mark.parametrize("method", METHODS)
def test_ranges_are_those_of_a_run_of_its_own(method: str) -> None:
    proto, tiles = small_graph(), small_tiles()
    found = collect_ranges(proto, tiles, method, tensors=["b", "input", "output", "a"])
    assert list(found.tensors) == ["b", "input", "output", "a"]
    for name, values in observed(proto, tiles, list(found.tensors)).items():
        measured, largest = found.tensors[name], np.abs(values).max()
        assert measured.minimum == pytest.approx(values.min(), rel=1e-5)
        assert measured.maximum == pytest.approx(values.max(), rel=1e-5)
        if method in ("minmax", "entropy"):  # too few values for the divergence
            assert measured.amax == pytest.approx(largest, rel=1e-5)
        elif method == "percentile":
            expected = np.percentile(np.abs(values), 99.99)
            assert expected * 0.97 <= measured.amax <= largest * (1 + 1e-5)
        else:
            histogram = Histogram(float(largest))
            histogram.add(values)
            assert measured.amax == pytest.approx(mse_clip(histogram), rel=0.01)
    assert (found.tiles, found.method, found.graph_sha256) == (3, method, graph_sha256(proto))
    assert found.calibration_sha256 == tiles_sha256(tiles)
    assert found.percentile == (99.99 if method == "percentile" else None)


def test_a_real_graph_is_measured_where_its_convolutions_read(tiny_onnx: Path) -> None:
    proto = with_shape(onnx.load(str(tiny_onnx)), 1, 20, 28)
    tiles = generator(7).random((2, 3, 20, 28), np.float32)
    names = read_by_convolutions(proto)
    found = collect_ranges(proto, tiles, "minmax", names)
    nodes = [node for node in proto.graph.node if node.op_type == "Conv"]
    assert set(found.tensors) == {node.input[0] for node in nodes}
    assert len(found.tensors) > 20
    for name, values in observed(proto, tiles, list(found.tensors)).items():
        measured = found.tensors[name]
        largest = max(np.abs(values).max(), 1e-6)
        assert abs(measured.minimum - values.min()) <= 1e-4 * largest, name
        assert abs(measured.maximum - values.max()) <= 1e-4 * largest, name
    before = collect_ranges(proto, tiles, "percentile", names)
    again = collect_ranges(proto, tiles[::-1].copy(), "percentile", names)
    assert before.tensors == again.tensors, "the order of tiles changed the ranges"
    for name, measured in before.tensors.items():
        assert 0 < measured.amax <= found.tensors[name].amax * (1 + 1e-4), name


@pytest.mark.parametrize("method", ["percentile", "mse"])
def test_more_runs_for_less_memory_change_nothing(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proto, tiles = small_graph(), small_tiles()
    names = ["output", "input", "b"]
    whole = collect_ranges(proto, tiles, method, tensors=names)
    monkeypatch.setattr(observe, "GROUP_BYTES", 1)
    calls: list[tuple[int, int]] = []
    parts = collect_ranges(
        proto, tiles, method, tensors=names, progress=lambda *done: calls.append(done)
    )
    assert parts == whole
    assert calls == [(done, 12) for done in range(1, 13)]  # extremes, and a run for each tensor


def test_memory_does_not_grow_with_the_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a tile is run, no more is left of those before it than what one run returned."""
    returned: list[weakref.ref[Any]] = []
    alive: list[int] = []

    class Session(ort.InferenceSession):  # type: ignore[misc]
        def run(self, *arguments: Any) -> Any:
            alive.append(sum(reference() is not None for reference in returned))
            outputs = super().run(*arguments)
            returned.extend(map(weakref.ref, outputs))
            return outputs

    monkeypatch.setattr(ort, "InferenceSession", Session)
    collect_ranges(small_graph(), small_tiles(20), "percentile", ["input", "a", "b"])
    assert len(alive) == 40
    assert len(returned) > 150
    assert max(alive) <= 7, alive  # a least and a greatest value of three tensors, and the output


def test_a_tensor_of_zeros_gets_a_positive_range() -> None:
    for method in METHODS:
        found = collect_ranges(small_graph(), small_tiles(), method, tensors=["zero"])
        assert (found.tensors["zero"].minimum, found.tensors["zero"].maximum) == (0, 0)
        assert 0 < found.tensors["zero"].amax <= 1


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    for method in METHODS:
        collect_ranges(small_graph(), small_tiles(), method, ["input", "b"])
    assert capfd.readouterr() == ("", "")


def test_the_graph_is_left_as_it_was() -> None:
    proto = small_graph()
    before = proto.SerializeToString(deterministic=True)
    collect_ranges(proto, small_tiles(), "percentile", ["input", "b"])
    assert proto.SerializeToString(deterministic=True) == before


def test_inputs_of_convolutions_are_listed_once_and_in_order() -> None:
    proto = small_graph()
    for index, node in enumerate(proto.graph.node):
        node.name = f"node {index}"
    pads = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    for name in ("second", "other"):
        proto.graph.node.append(helper.make_node("Conv", ["b", "w1"], [name], name=name, **pads))
    assert inputs_of(proto, ["second", "node 2", "node 0"]) == ["input", "b"]
    assert inputs_of(proto, ["other"]) == ["b"]


@pytest.mark.parametrize("name", ["nothing", "w1"])
def test_what_is_no_float32_tensor_cannot_be_calibrated(name: str) -> None:
    with pytest.raises(CalibrationError, match=f"'{name}' is none of its 5 float32 tensors"):
        collect_ranges(small_graph(), small_tiles(), "minmax", [name])


def test_tiles_of_another_size_than_the_graphs_are_an_error() -> None:
    with pytest.raises(GraphError, match=r"on tiles of shape \(2, 12, 21\)"):
        collect_ranges(small_graph(), small_tiles()[:, :, 1:], "minmax", ["b"])


def test_values_that_are_not_finite_are_named() -> None:
    with pytest.raises(CalibrationError, match="tile 0 makes 'b' NaN or infinite"):
        collect_ranges(small_graph(last="Log"), small_tiles(), "percentile", ["b"])
    tiles = small_tiles()
    tiles[2, 0, 4, 4] = np.nan
    with pytest.raises(CalibrationError, match="tile 2 makes 'output' NaN"):
        collect_ranges(small_graph(), tiles, "percentile", ["a"])


# The file


def example(**changes: Any) -> Ranges:
    tensors = {"b": TensorRange(0.1, -0.1, 0.05), "a": TensorRange(2.5, -1.0, 3.0)}
    fields = {"graph_sha256": "11", "method": "percentile", "tensors": tensors}
    return Ranges(
        **{**fields, "calibration_sha256": "22", "tiles": 4, "percentile": 99.9, **changes}
    )


def test_the_file_is_readable_and_sorted(tmp_path: Path) -> None:
    path = tmp_path / "ranges.json"
    example().save(path)
    text = path.read_text("utf-8")
    assert text.endswith("}\n")
    fields = json.loads(text)
    assert list(fields) == sorted(fields)
    assert list(fields["tensors"]) == ["a", "b"]
    assert fields["tensors"]["a"] == {"amax": 2.5, "maximum": 3.0, "minimum": -1.0}
    assert [file.name for file in tmp_path.iterdir()] == ["ranges.json"]


FINITE = st.floats(-1e30, 1e30, allow_nan=False)


@settings(max_examples=30, deadline=None)
@given(
    tensors=st.dictionaries(
        st.text(min_size=1),
        st.tuples(st.floats(1e-30, 1e30), FINITE, FINITE).map(
            lambda item: TensorRange(item[0], min(item[1:]), max(item[1:]))
        ),
    ),
    method=st.sampled_from(METHODS),
)
def test_what_was_saved_is_loaded(
    tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, TensorRange], method: str
) -> None:
    path = tmp_path_factory.mktemp("ranges") / "ranges.json"
    ranges = example(tensors=tensors, method=method, percentile=None)
    ranges.save(path)
    assert Ranges.load(path) == ranges


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="there is no folder"):
        example().save(tmp_path / "missing" / "ranges.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "no calibration ranges of format 1 .its format is 2"),
        ({"format": None}, "its format is None"),
        ({"method": "guess"}, "its method is 'guess'"),
        ({"tensors": {"a": {"amax": 0, "minimum": 0, "maximum": 0}}}, "'a' has amax 0"),
        (
            {"tensors": {"a": {"amax": 1, "minimum": 1.0, "maximum": 0.0}}},
            r"lies in \[1\.0, 0\.0\]",
        ),
        ({"tensors": {"a": {"amax": float("nan"), "minimum": 0, "maximum": 0}}}, "amax nan"),
        (
            {"tensors": {"a": {"amax": "1", "minimum": 0, "maximum": 0}}},
            "amax is .1., not a",
        ),
        ({"tensors": {"a": {"amax": 1, "minimum": 0}}}, "maximum is missing"),
        ({"tensors": ["a"]}, "tensors is .'a'., not dict"),
        ({"clip": 3}, "has 'clip', which it cannot have"),
    ],
)
def test_a_file_of_something_else_is_an_error(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "ranges.json"
    example().save(path)
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **change}), "utf-8")
    with pytest.raises(CalibrationError, match=message) as caught:
        Ranges.load(path)
    assert "mirnet-edge quantize" in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "\xff"])
def test_a_file_that_is_no_json_object_is_an_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "ranges.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(CalibrationError, match=r"ranges\.json: no calibration ranges"):
        Ranges.load(path)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"no such file; record .* mirnet-edge quantize"):
        Ranges.load(tmp_path / "ranges.json")


def test_ranges_of_another_graph_are_refused() -> None:
    proto = small_graph()
    proto.graph.node[0].name = "convolution"
    ranges = collect_ranges(proto, small_tiles(), "minmax", ["input"])
    proto.metadata_props.add(key="note", value="changes nothing")
    insert_qdq(proto, ranges, ["convolution"])
    weights = proto.graph.initializer[0]
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * 2, weights.name))
    with pytest.raises(CalibrationError) as caught:
        insert_qdq(proto, ranges, ["convolution"])
    for part in (ranges.graph_sha256, graph_sha256(proto), "mirnet-edge quantize"):
        assert part in str(caught.value)
