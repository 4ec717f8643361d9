"""Layers read off the engine inspector's JSON, in the forms of TensorRT 8.6, 10 and 11."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mirnet_edge.trt.layer_info import UNKNOWN, convolutions, read_layers


def tensor(description: str, *dims: int, key: str = "Format/Datatype") -> dict[str, Any]:
    return {"Name": "t", "Location": "Device", "Dimensions": list(dims), key: description}


def read(*layers: Any) -> Any:
    return read_layers(json.dumps({"Layers": list(layers), "Bindings": ["input", "output"]}))


CONVOLUTION_8_6 = {
    "Name": "node_Conv_2122 + node_leaky_relu",
    "LayerType": "CaskConvolution",
    "Inputs": [tensor("Channel major FP16 format where channel % 8 == 0", 1, 12, 10, 6)],
    "Outputs": [tensor("Channel major FP16 format where channel % 8 == 0", 1, 32, 10, 6)],
    "ParameterType": "Convolution",
    "Weights": {"Type": "Half", "Count": 3456},
    "TacticName": "sm80_xmma_fprop_implicit_gemm_f16f16_f16f16_f16_nhwckrsc_nhwc",
    "TacticValue": "0x00000000000203d0",
}


def test_a_convolution_of_8_6() -> None:
    (layer,) = read(CONVOLUTION_8_6)
    assert (layer.name, layer.kind) == ("node_Conv_2122 + node_leaky_relu", "CaskConvolution")
    assert layer.precision == "FP16"
    assert layer.bytes_moved == 2 * 60 * (16 + 32), "12 channels are laid out as 16"
    assert layer.tactic.startswith("sm80_xmma")


@pytest.mark.parametrize(
    ("description", "channels", "size", "precision"),
    [
        ("Row major linear FP32", 3, 4, "FP32"),
        ("Row major linear FP16 format", 3, 2, "FP16"),
        ("Channel major FP16 format where channel % 4 == 0", 4, 2, "FP16"),
        ("Channel major INT8 format where channel % 16 == 0", 16, 1, "INT8"),
        ("Channel major INT8 format where channel == 4 and column stride % 32 == 0", 4, 1, "INT8"),
        ("Thirty-two wide channel vectorized row major Int8 format", 32, 1, "INT8"),
        ("Four wide channel vectorized row major Int8 format", 4, 1, "INT8"),
        ("Two wide channel vectorized row major FP16 format", 4, 2, "FP16"),
        ("Sixteen wide channel vectorized row major FP16 format", 16, 2, "FP16"),
        ("Half", 3, 2, "FP16"),
        ("Float", 3, 4, "FP32"),
        ("Int8", 3, 1, "INT8"),
        ("BFloat16", 3, 2, "BF16"),
        ("Int64", 3, 8, "INT64"),
        ("FP8", 3, 1, "FP8"),
        ("Bool", 3, 1, "BOOL"),
        ("N/A due to dynamic shapes", 3, 0, UNKNOWN),
        ("a format of the future", 3, 0, UNKNOWN),
    ],
)
def test_formats(description: str, channels: int, size: int, precision: str) -> None:
    (layer,) = read({"LayerType": "x", "Inputs": [tensor(description, 2, 3, 5, 7)], "Outputs": []})
    assert layer.bytes_moved == 2 * channels * 5 * 7 * size
    assert layer.precision == precision


def test_types_of_later_releases_stand_in_a_key_of_their_own() -> None:
    described = {
        **tensor("N/A due to dynamic shapes", 1, 4, 2, 2),
        "Format": "Row major linear",
        "Datatype": "Half",
    }
    (layer,) = read({"LayerType": "kgen", "Inputs": [described], "Outputs": [described]})
    assert (layer.precision, layer.bytes_moved) == ("FP16", 2 * 2 * 16)


@pytest.mark.parametrize(
    ("reads", "weights", "precision"),
    [
        ("Thirty-two wide channel vectorized row major Int8 format", "Int8", "INT8"),
        ("Thirty-two wide channel vectorized row major Int8 format", "Float", "INT8"),
        ("Row major linear FP32", "Half", "FP16"),
        ("Row major linear FP16 format", "Float", "FP32"),
    ],
)
def test_a_convolution_computes_in_the_type_of_its_weights_or_int8(
    reads: str, weights: str, precision: str
) -> None:
    (layer,) = read(
        {
            **CONVOLUTION_8_6,
            "Inputs": [tensor(reads, 1, 32, 4, 4), tensor("Row major linear FP32", 1, 8, 4, 4)],
            "Weights": {"Type": weights, "Count": 1},
        }
    )
    assert layer.precision == precision


def test_views_move_nothing() -> None:
    whole = tensor("Half", 1, 8, 4, 4)
    for kind in ("NoOp", "Constant"):
        (layer,) = read({"LayerType": kind, "Inputs": [whole], "Outputs": [whole]})
        assert layer.bytes_moved == 0


def test_convolutions_are_known_by_type_or_name() -> None:
    layers = read(
        CONVOLUTION_8_6,
        {"Name": "node_Conv_1", "LayerType": "kgen"},
        {"Name": "node_matmul", "LayerType": "gemm"},
        {
            "Name": "Reformatting CopyNode for Input 0 to node_Conv_2",
            "LayerType": "Reformat",
        },
        {"Name": "PWN(node_Conv_3_sigmoid)", "LayerType": "PointWiseV2"},
        {"Name": "node_avg_pool2d", "LayerType": "CaskPooling"},
        {"Name": "node_Conv_4/blocks", "LayerType": "PluginV2"},
    )
    assert [layer.name for layer in convolutions(layers)] == [
        "node_Conv_2122 + node_leaky_relu",
        "node_Conv_1",
        "node_matmul",
    ]


@pytest.mark.parametrize(
    "text",
    ["", "no JSON", "[]", "{}", '{"Layers": null}', '{"Layers": 7}', "null"],
)
def test_what_is_no_engine_information_has_no_layers(text: str) -> None:
    assert read_layers(text) == ()


def test_nothing_unexpected_raises() -> None:
    layers = read(
        "a name alone, as without detailed verbosity",
        {},
        {"Name": None, "LayerType": 3, "Inputs": None, "Outputs": "none", "Weights": 4},
        {"Inputs": [{"Dimensions": None}, {"Dimensions": [-1, 3]}, 5, {"Format/Datatype": 5}]},
        {"Weights": {"Type": None}, "Inputs": [tensor("Half")]},
    )
    assert [layer.precision for layer in layers] == [UNKNOWN] * 4 + ["FP16"]
    assert layers[0].name == "a name alone, as without detailed verbosity"


def test_numbers_that_json_does_not_know() -> None:
    text = '{"Layers": [{"Name": "clip", "Alpha": -inf, "Beta": nan, "Clip": [inf, 1]}]}'
    assert [layer.name for layer in read_layers(text)] == ["clip"]
