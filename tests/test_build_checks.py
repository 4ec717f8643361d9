"""What must hold of an engine before it is kept."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from mirnet_edge.build.calibration import accuracy
from mirnet_edge.build.checks import prove_precision, reasons_against_int8
from mirnet_edge.engines.card import LayerFacts, Measured
from mirnet_edge.errors import BuildError


def convolution(name: str, precision: str) -> LayerFacts:
    return LayerFacts(name, "CaskConvolution", precision, 1)


def test_the_precision_asked_for_needs_no_note() -> None:
    layers = [convolution("a", "FP16"), convolution("b", "INT8"), LayerFacts("s", "x", "FP32", 1)]
    assert prove_precision(layers, "fp16") == []
    assert prove_precision(layers, "int8", quantized={"b"}) == []


def test_wider_convolutions_are_named() -> None:
    layers = [convolution("a", "FP16"), convolution("b + relu", "FP32"), convolution("c", "FP32")]
    (note,) = prove_precision(layers, "fp16", islands={"c"})
    assert note == "1 of 2 convolutions asked for FP16 run wider: b + relu (FP32)"
    layers = [convolution("w.weight + QuantizeLinear_2 + a || b", "INT8")] + [
        convolution(f"n{index}", "FP16") for index in range(5)
    ]
    (note,) = prove_precision(layers, "int8", quantized={"a", *(f"n{i}" for i in range(5))})
    assert note.endswith("n0 (FP16), n1 (FP16), n2 (FP16) and 2 more")


def test_a_precision_that_no_convolution_got_is_an_error() -> None:
    layers = [convolution("a", "FP32"), convolution("b", "FP32")]
    with pytest.raises(BuildError, match=r"asked for FP16, but .* all 2 convolutions in FP32"):
        prove_precision(layers, "fp16")
    with pytest.raises(BuildError, match="asked for INT8"):
        prove_precision([*layers, convolution("c", "FP16")], "int8", quantized={"a", "b"})


def test_a_loss_that_nobody_measured_is_no_reason() -> None:
    unknown = Measured(2.0, 0.8, None, None, 16, fp16_graph_ms=1.0)
    assert reasons_against_int8(unknown, 0.1) == []


def test_where_none_was_asked_none_is_wider() -> None:
    assert prove_precision([convolution("a", "FP16")], "int8", quantized=()) == []


def test_layers_that_do_not_tell_are_noted() -> None:
    for layers in ([], [convolution("a", "unknown")]):
        assert "does not tell" in prove_precision(layers, "fp16")[0]


def test_accuracy_is_the_least_and_the_loss_the_mean() -> None:
    targets = np.full((2, 3, 4, 4), 0.5, np.float32)
    references = targets + 0.1
    outputs = references + np.array([0.001, 0.01], np.float32).reshape(2, 1, 1, 1)
    least, loss = accuracy(outputs, references, targets)
    assert least == pytest.approx(40, abs=1e-3)
    assert loss == pytest.approx((20 * np.log10(1.01) + 20 * np.log10(1.1)) / 2, abs=1e-3)
    assert accuracy(outputs, references, None)[1] is None
    assert accuracy(references + 5, references, references.clip(0, 1))[1] != 0
    outputs[1, 0, 0, 0] = np.inf
    with pytest.raises(BuildError, match="not finite"):
        accuracy(outputs, references, None)


def test_int8_must_be_faster_and_within_the_budget() -> None:
    good = Measured(2.0, 0.8, 50.0, 0.05, 16, fp16_graph_ms=1.0)
    assert reasons_against_int8(good, 0.1) == []
    slow, lossy = (
        dataclasses.replace(good, graph_ms=1.0),
        dataclasses.replace(good, task_loss_db=0.2),
    )
    assert "1.000 ms, FP16 1.000 ms" in reasons_against_int8(slow, 0.1)[0]
    assert "loses 0.200 dB" in reasons_against_int8(lossy, 0.1)[0]
    assert reasons_against_int8(lossy, 0.2) == []
    assert len(reasons_against_int8(None, 0.1)) == 1
    assert len(reasons_against_int8(dataclasses.replace(good, fp16_graph_ms=None), 0.1)) == 1


def test_without_clean_tiles_the_error_counts_against_a_restoration_of_32_db() -> None:
    measured = Measured(2.0, 0.8, 32.0, None, 16, fp16_graph_ms=1.0)
    assert "loses 3.010 dB" in reasons_against_int8(measured, 0.1)[0]
    nearer = dataclasses.replace(measured, psnr_vs_fp32_db=42.0)  # a tenth of the error
    assert "loses 0.414 dB" in reasons_against_int8(nearer, 0.1)[0]
    assert not reasons_against_int8(dataclasses.replace(measured, psnr_vs_fp32_db=60.0), 0.1)
