"""INT8 engines beside FP16 ones, with a TensorRT that builds nothing: kept where they pay."""

from __future__ import annotations

from pathlib import Path

import pytest
from build_sandbox import TILE, Sandbox, frames

from mirnet_edge import errors
from mirnet_edge.quantize import quantize_onnx

RELEASES = ["8.6.1", "10.3.0", "11.4.0"]


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    return Sandbox(tmp_path, monkeypatch)


def test_int8_is_built_beside_fp16_and_compared(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TENSORRT_TIMES", '{"int8": 0.7}')
    for release in RELEASES:
        sandbox.release(release)
        card = sandbox.build(precision="int8", method="minmax", budget_db=3)
        assert sandbox.left() >= {"net.engine", "net.fp16.engine", "net.fp16.engine.json"}
        assert card.layers_by_precision()["INT8"] >= 3
        assert card.measured is not None
        assert (card.measured.graph_ms, card.measured.fp16_graph_ms) == (0.7, 1.0)
        assert card.options["quantization"]["method"] == "minmax"
        assert sandbox.build(precision="int8", method="minmax", budget_db=3) == card
        assert not sandbox.built


def test_int8_that_does_not_pay_is_refused_with_the_figures(sandbox: Sandbox) -> None:
    options = {"precision": "int8", "method": "minmax", "budget_db": 3}
    with pytest.raises(errors.BuildError, match=r"not faster.*1\.000 ms, FP16 1\.000 ms") as caught:
        sandbox.build(**options)
    assert "net.fp16.engine" in str(caught.value)
    assert not sandbox.engine.exists()
    card = sandbox.build(**options, force=True)
    assert "kept by force" in card.notes[-1]
    assert sandbox.is_whole()
    assert sandbox.build(**options, force=True) == card
    with pytest.raises(errors.BuildError, match="not faster"):
        sandbox.build(**options)
    assert sandbox.is_whole(), "what was there stays"


def test_int8_that_loses_too_much_is_refused_with_the_figures(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TENSORRT_TIMES", '{"int8": 0.7}')
    monkeypatch.setenv("FAKE_TENSORRT_NOISE", "0.3")
    with pytest.raises(errors.BuildError, match=r"it loses [\d.]+ dB .* budget of 3 dB"):
        sandbox.build(precision="int8", method="minmax", budget_db=3)


def test_a_quantized_file_is_built_as_it_is(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TENSORRT_TIMES", '{"int8": 0.5}')
    report = quantize_onnx(
        *(sandbox.onnx, sandbox.folder / "net.int8.onnx"),
        calibration=frames(), method="minmax", budget_db=3, tile=TILE,
    )  # fmt: skip
    sandbox.onnx = report.path
    card = sandbox.build(precision="int8", budget_db=3)
    assert card.layers_by_precision()["INT8"] == len(
        [name for name in report.plan.int8_nodes if name != "up"]
    )
    assert card.measured is not None
    assert card.measured.fp16_graph_ms == 1.0
    assert not sandbox.build(precision="fp32").layers_by_precision().get("INT8")


def test_no_layer_within_the_budget(sandbox: Sandbox) -> None:
    with pytest.raises(errors.BuildError, match=r"within a budget of 0 dB .* cost [\d.]+ dB"):
        sandbox.build(precision="int8", method="minmax", budget_db=0)
