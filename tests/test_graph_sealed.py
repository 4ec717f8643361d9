"""ONNX files that were made, or damaged, to do harm: what is refused before any library reads."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import mirnet_edge as me
from mirnet_edge.bundled import bundled_models
from mirnet_edge.engines.onnx_engine import OnnxEngine
from mirnet_edge.errors import EngineError, GraphError
from mirnet_edge.graph.file import load_graph, save_graph
from mirnet_edge.graph.sealed import SEAL_KEY, check_onnx, sealed

FLOAT = TensorProto.FLOAT
IMAGE = ("batch", 3, "height", "width")


def model_of(*nodes: onnx.NodeProto, **parts: object) -> ModelProto:
    given, made = (helper.make_tensor_value_info(name, FLOAT, IMAGE) for name in ("x", "y"))
    graph = helper.make_graph(list(nodes), "g", [given], [made], parts.pop("tensors", []))  # type: ignore[arg-type]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, **parts)  # type: ignore[arg-type]


def external(location: str) -> TensorProto:
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def in_initializer(tensor: TensorProto) -> ModelProto:
    return model_of(helper.make_node("Add", ["x", "w"], ["y"]), tensors=[tensor])


def in_constant(tensor: TensorProto) -> ModelProto:
    constant = helper.make_node("Constant", [], ["w"], value=tensor)
    return model_of(constant, helper.make_node("Add", ["x", "w"], ["y"]))


def in_sparse(tensor: TensorProto) -> ModelProto:
    model = model_of(helper.make_node("Add", ["x", "w"], ["y"]))
    model.graph.sparse_initializer.add().values.CopyFrom(tensor)
    return model


def in_branch(tensor: TensorProto) -> ModelProto:
    inner = helper.make_graph([], "inner", [], [], [tensor])
    return model_of(helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner))


def in_function(tensor: TensorProto) -> ModelProto:
    constant = helper.make_node("Constant", [], ["w"], value=tensor)
    opsets = [helper.make_opsetid("", 17)]
    function = helper.make_function("own", "F", ["x"], ["w"], [constant], opsets)
    call = helper.make_node("F", ["x"], ["y"], domain="own")
    return model_of(call, functions=[function])


PLACES = (in_initializer, in_constant, in_sparse, in_branch, in_function)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder for models, beside a file that is none of theirs, with a link to it."""
    (tmp_path / "secret.bin").write_bytes(np.float32(42).tobytes())
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "own.bin").write_bytes(np.float32(1).tobytes())
    (folder / "link.bin").symlink_to("../secret.bin")
    (folder / "circle.bin").symlink_to("circle.bin")
    (folder / "below").symlink_to("..")
    return folder


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "location",
    [
        *("../secret.bin", "link.bin", "below/secret.bin", "/etc/passwd", "circle.bin", "", "."),
        *("nothing.bin", "*/_ORT_MEM_ADDR_/*", "own.bin/../../secret.bin", "own.bin\0"),
    ],
)
def test_weights_outside_the_models_folder_are_refused(
    place: Callable[[TensorProto], ModelProto],
    location: str,
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MIRNET_EDGE_MAX_NESTED_GRAPHS", "9")
    path = models / "model.onnx"
    path.write_bytes(place(external(location)).SerializeToString())
    with pytest.raises(GraphError, match=r"its weights lie in|no valid ONNX"):
        check_onnx(path)
    monkeypatch.setattr("onnxruntime.InferenceSession", None)
    monkeypatch.setattr("onnx.load", None)
    for read in (OnnxEngine, load_graph):
        with pytest.raises((EngineError, GraphError), match=r"its weights lie in|no valid ONNX"):
            read(path)


def test_a_second_location_is_seen_too(models: Path) -> None:
    tensor = external("own.bin")
    tensor.external_data.add(key="location", value="../secret.bin")
    (models / "model.onnx").write_bytes(in_initializer(tensor).SerializeToString())
    with pytest.raises(GraphError, match=r"its weights lie in '\.\./secret\.bin'"):
        check_onnx(models / "model.onnx")


def test_weights_in_the_models_folder_are_read(models: Path) -> None:
    path = models / "model.onnx"
    path.write_bytes(in_initializer(external("own.bin")).SerializeToString())
    engine = OnnxEngine(path, provider="CPUExecutionProvider")
    assert (engine.run(np.zeros((1, 3, 8, 8), np.float32)) == 1).all()
    assert numpy_helper.to_array(load_graph(path).graph.initializer[0]) == 1


def test_work_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    count = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    body = helper.make_graph([], "body", [count, condition], [condition])
    loop = helper.make_node("Loop", ["n", ""], [], body=body)
    often = numpy_helper.from_array(np.array(2**62), "n")
    path = tmp_path / "loop.onnx"
    ending = helper.make_node("Identity", ["x"], ["y"])
    path.write_bytes(model_of(loop, ending, tensors=[often]).SerializeToString())
    with pytest.raises(EngineError, match=r"holds 1 functions or bodies of loops.*NESTED_GRAPHS"):
        me.open_engine(path)
    monkeypatch.setenv("MIRNET_EDGE_MAX_NESTED_GRAPHS", "1")
    assert not check_onnx(path)


def test_damaged_bytes_are_one_error(tiny_onnx: Path, tmp_path: Path) -> None:
    content, path = tiny_onnx.read_bytes(), tmp_path / "damaged.onnx"
    deep = b"\x0a\x00"
    for _ in range(300):
        deep = b"\x3a" + _length(deep)
    for damaged in (
        *(content[:size] for size in (3, 40, 5000)),
        b"\x0b\x0b\x0c",
        b"\xff" * 40,
        b"\x3a\xff\xff\xff\xff\x0f",
        b"\x3a" + _length(b"\x0a" + _length(b"\x2a" + _length(deep))),
    ):
        path.write_bytes(damaged)
        with pytest.raises(EngineError, match=r"damaged\.onnx: "):
            OnnxEngine(path)


def test_fields_of_fixed_size_hide_none_behind_them(models: Path) -> None:
    model = in_initializer(external("../secret.bin")).SerializeToString()
    for head in (b"\xa1\x06" + 8 * b"\xff", b"\xa5\x06" + 4 * b"\xff"):  # 64 and 32 bits
        (models / "model.onnx").write_bytes(head + model)
        with pytest.raises(GraphError, match=r"its weights lie in '\.\./secret\.bin'"):
            check_onnx(models / "model.onnx")


def test_a_number_has_64_bits(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x08" + 9 * b"\x80" + b"\x01")
    assert not check_onnx(path)
    path.write_bytes(b"\x08" + 10 * b"\x80" + b"\x01")
    with pytest.raises(GraphError, match="a number of more than 64 bits"):
        check_onnx(path)


def _length(content: bytes) -> bytes:
    size, head = len(content), bytearray()
    while size > 127:
        head.append(size & 127 | 128)
        size >>= 7
    return bytes((*head, size)) + content


# The seal


@pytest.mark.parametrize("model", bundled_models(), ids=lambda model: model.name)
def test_bundled_models_are_sealed(model: me.BundledModel) -> None:
    assert check_onnx(model.onnx), "write it again: save_graph(load_graph(path), path)"


def test_a_flipped_bit_is_found_or_harmless(tiny_onnx: Path, tmp_path: Path) -> None:
    """Harmless: in the seal itself, which then is none, or in its key."""
    assert check_onnx(tiny_onnx)
    content, path = bytearray(tiny_onnx.read_bytes()), tmp_path / "flipped.onnx"
    seal = len(sealed(b""))
    draw = random.Random(0)
    places = [*range(seal + 8), *(draw.randrange(len(content)) for _ in range(100))]
    harmless = []
    for place in places:
        bit = 1 << draw.randrange(8)
        content[place] ^= bit
        path.write_bytes(content)
        with suppress(GraphError):
            check_onnx(path)
            harmless.append(place)
        content[place] ^= bit
    assert set(harmless) <= set(range(seal)), "a change of what is computed went unseen"


def test_what_other_tools_write_again_is_read(tiny_onnx: Path, tmp_path: Path) -> None:
    proto = onnx.load(tiny_onnx)
    assert any(item.key == SEAL_KEY for item in proto.metadata_props)
    proto.graph.doc_string = "changed"
    onnx.save(proto, tmp_path / "again.onnx")
    assert not check_onnx(tmp_path / "again.onnx")
    before = OnnxEngine(tiny_onnx).facts
    assert OnnxEngine(tmp_path / "again.onnx").facts == before
    save_graph(load_graph(tmp_path / "again.onnx"), tmp_path / "sealed.onnx")
    assert check_onnx(tmp_path / "sealed.onnx")
    assert OnnxEngine(tmp_path / "sealed.onnx").facts == before


def test_a_seal_is_replaced_and_not_added() -> None:
    once = sealed(b"content")
    assert sealed(once) == once
    assert sealed(b"") + b"content" != once
