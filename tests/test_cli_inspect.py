"""``mirnet-edge models``, ``info``, ``doctor`` and ``demo``."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from command_line import run
from conftest import TINY
from onnx import helper, numpy_helper

import mirnet_edge as me
from mirnet_edge.doctor import Check, diagnose, healthy

BUNDLED = [model.name for model in me.bundled_models()]
STATUSES = {"ok", "missing", "optional", "warning"}


@pytest.fixture(scope="module")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    me.save_model(me.create_model(TINY["mirnet-v2"], seed=0), path, "denoise", {"steps": 7})
    return path


# models


@pytest.mark.parametrize("columns", [80, 40])
def test_models_lists_what_is_bundled(
    columns: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert "edge-s-denoise" in BUNDLED
    outcome = run(capfd, "models")
    assert (outcome.code, outcome.err) == (0, "")
    lines = [line.split() for line in outcome.out.splitlines()]
    for model in me.bundled_models():
        assert ["model", model.name] in lines, "a name is what a user copies: it may not be cut"
        assert f"{model.card['parameters'] / 1e6:.2f} M" in outcome.out
        for figure in model.card["figures"]:
            psnr = (f"{figure[kind]['psnr'] or math.inf:.2f}" for kind in ("given", "restored"))
            test = f"{figure['data']} ({figure['images']}) {figure['protocol']} {figure['noise']}"
            assert [*test.split(), *psnr] in lines or figure["method"] != "model"
    figures = sum(len(model.card["figures"]) for model in me.bundled_models())
    assert len(lines) <= figures + 7 * len(BUNDLED)
    assert max(map(len, outcome.out.splitlines())) <= max(columns, 56)


def test_models_as_json_are_the_cards(capfd: pytest.CaptureFixture[str]) -> None:
    outcome = run(capfd, "models", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    expected = [{"name": model.name, **model.card} for model in me.bundled_models()]
    assert outcome.json == expected


# info


def test_info_of_a_checkpoint(tiny_weights: Path, capfd: pytest.CaptureFixture[str]) -> None:
    described = run(capfd, "info", tiny_weights, "--json").json
    config = TINY["mirnet-v2"]
    network = me.create_model(config)
    expected = {
        "file": str(tiny_weights),
        "size_bytes": tiny_weights.stat().st_size,
        "kind": "checkpoint",
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "family": "mirnet-v2",
        "preset": "custom",
        "task": "denoise",
        "channels": list(config.channels),
        "groups": [2],
        "training": {"steps": 7},
    }
    assert {name: described[name] for name in expected} == expected
    text = run(capfd, "info", tiny_weights).out
    for name in described:
        assert re.search(rf"^{name} +\S", text, re.MULTILINE), name
    assert "(8, 12, 18)" in text


def test_info_of_an_onnx_file(tiny_onnx: Path, capfd: pytest.CaptureFixture[str]) -> None:
    described = run(capfd, "info", tiny_onnx, "--json").json
    assert (described["kind"], described["input_size"]) == ("ONNX", "any")
    assert (described["task"], described["family"]) == ("denoise", "mirnet-v2")
    assert described["size_bytes"] == tiny_onnx.stat().st_size
    assert described["version"] == me.__version__
    proto = onnx.load(tiny_onnx)
    count = [node.op_type for node in proto.graph.node].count("Conv")
    assert described["precision"] == f"{count} convolutions in FP32"
    text = run(capfd, "info", tiny_onnx).out
    assert str(tiny_onnx) in text
    assert described["weights_sha256"] in text


def test_info_names_the_precisions_of_a_graph(
    tiny_onnx: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    proto = onnx.load(tiny_onnx)
    first, *others = [node for node in proto.graph.node if node.op_type == "Conv"]
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    kernel = numpy_helper.to_array(weights[first.input[1]])
    scale = np.float32(np.abs(kernel).max() / 127)
    codes = np.round(kernel / scale).astype(np.int8)
    for name, values in (("codes", codes), ("scale", scale), ("zero", np.int8(0))):
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    pair = helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["kernel"])
    proto.graph.node.insert(0, pair)
    first.input[1] = "kernel"
    path = tmp_path / "int8.onnx"
    onnx.save(proto, path)
    said = f"{len(others)} convolutions in FP32, 1 convolutions in INT8"
    assert run(capfd, "info", path, "--json").json["precision"] == said
    assert re.search(rf"^precision +{said}$", run(capfd, "info", path).out, re.MULTILINE)


@pytest.mark.parametrize("name", BUNDLED)
def test_info_of_a_bundled_model(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    described = run(capfd, "info", name, "--json").json
    assert (described["kind"], described["input_size"]) == ("ONNX", "any")
    card = next(model.card for model in me.bundled_models() if model.name == name)
    for key in ("weights_sha256", "task", "preset"):
        assert described[key] == card[key], key


def test_info_prints_names_as_they_are(
    tiny_onnx: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model[final].onnx"
    path.write_bytes(tiny_onnx.read_bytes())
    assert str(path) in run(capfd, "info", path).out


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing.onnx", None, "no such file, and no bundled model"),
        ("notes.txt", b"hello", ".onnx"),
        ("model.onnx", b"hello", "no valid ONNX"),
        ("model.safetensors", b"hello", "truncated"),
        ("model.pth", b"hello", "model.pth"),
        ("folder", b"", "no such file"),
    ],
)
def test_info_of_what_is_no_model(
    name: str, content: bytes | None, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    error = run(capfd, "info", path, "--json").only_error
    assert str(path) in error
    assert said in error


def test_info_of_a_truncated_checkpoint(
    tiny_weights: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = tiny_weights.read_bytes()
    path = tmp_path / "cut.safetensors"
    path.write_bytes(whole[: len(whole) // 2])
    assert str(path) in run(capfd, "info", path).only_error


# doctor


def test_doctor_of_this_machine(capfd: pytest.CaptureFixture[str]) -> None:
    outcome = run(capfd, "doctor", "--json")
    checks = [Check(**check) for check in outcome.json]
    assert outcome.code == (0 if healthy(checks) else 1)
    assert {"Python", "mirnet-edge", "numpy"} <= {check.name for check in checks}
    assert {check.status for check in checks} <= STATUSES
    assert [check.name for check in checks] == [check.name for check in diagnose()]


def test_doctor_of_a_machine_that_lacks_something(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fix = 'pip install "mirnet-edge[train]"'
    checks = [
        Check("Python", "ok", "3.10 [built here]"),
        Check("torch", "missing", "not installed", fix),
    ]
    monkeypatch.setattr("mirnet_edge.doctor.diagnose", lambda: checks)
    outcome = run(capfd, "doctor")
    assert (outcome.code, outcome.err) == (1, "")
    assert re.search(r"^ok +Python +3.10 \[built here\]$", outcome.out, re.MULTILINE), outcome.out
    assert re.search(r"^MISSING +torch +not installed$", outcome.out, re.MULTILINE)
    assert f"-> {fix}" in outcome.out
    outcome = run(capfd, "doctor", "--json")
    assert outcome.code == 1
    assert outcome.json[1] == {
        "name": "torch",
        "status": "missing",
        "detail": "not installed",
        "fix": fix,
    }


def test_cards_are_plain_json(capfd: pytest.CaptureFixture[str]) -> None:
    def refuse(constant: str) -> Any:
        raise AssertionError(constant)

    for model in me.bundled_models():
        card = (model.folder / "card.json").read_text("utf-8")
        assert json.loads(card, parse_constant=refuse) == model.card
