"""``mirnet-edge build``, ``quantize``, ``bench``, and ``info`` of an engine."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from pathlib import Path
from types import ModuleType

import pytest
from build_sandbox import Sandbox, frames
from command_line import run
from fake_tensorrt import write_plan
from PIL import Image

from mirnet_edge.engines.card import EngineCard, Kind, Measured, card_path, kind_path
from mirnet_edge.frame_path import PARTS

KINDS: list[Kind] = ["apply", "gather"]
PERCENTILES = ("p50", "p90", "p99")
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    return Sandbox(tmp_path, monkeypatch)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "frames"
    folder.mkdir()
    for index, frame in enumerate(frames()):
        Image.fromarray(frame).save(folder / f"{index}.png")
    return folder


def build(sandbox: Sandbox, images: Path, *options: object) -> tuple[object, ...]:
    return (
        *("build", sandbox.onnx, sandbox.engine, "--tile", "20x28", "--calibration", images),
        *options,
    )


def test_build_prints_what_was_built(sandbox: Sandbox, images: Path, capfd: Capture) -> None:
    outcome = run(capfd, *build(sandbox, images, "--sigma", 25, "--workspace", 64))
    assert (outcome.code, outcome.err) == (0, "")
    card = EngineCard.load(card_path(sandbox.engine))
    assert card.options["workspace"] == 64 * 2**20
    for said in ("fp16, by flags", "20x28, batch 1", "Orin", "TensorRT 8.6.1", "1.000 ms", "FP16"):
        assert said in outcome.out
    assert "dB, the least of 8 tiles" in outcome.out


def test_build_as_json_is_the_card(sandbox: Sandbox, images: Path, capfd: Capture) -> None:
    outcome = run(capfd, *build(sandbox, images, "--json"))
    card = EngineCard.load(card_path(sandbox.engine))
    assert outcome.json["key"] == card.key
    assert len(outcome.json["layers"]) == len(card.layers)


def test_build_with_statistics(sandbox: Sandbox, images: Path, capfd: Capture) -> None:
    outcome = run(capfd, *build(sandbox, images, "--statistics"))
    assert (outcome.code, outcome.err) == (0, "")
    for kind in KINDS:
        said = f"{kind_path(sandbox.engine, kind)}, 1.000 ms as a CUDA graph"
        assert re.search(rf"^{kind} engine +{re.escape(said)}", outcome.out, re.MULTILINE)
    path = kind_path(sandbox.engine, "gather")
    shown = run(capfd, "info", path).out
    assert "gather: restores, and gathers the statistics of a frame" in shown
    assert "1 (1 mean)" in shown
    assert "statistic.0" not in shown
    described = run(capfd, "info", path, "--json").json
    assert (described["kind"], described["graph"]) == ("TensorRT", "gather")
    assert described["pools"] == [{"name": "h", "kind": "mean", "channels": 16, "scale": 1}]
    assert run(capfd, "info", sandbox.engine, "--json").json["graph"] == "plain"
    assert "kind " not in run(capfd, "info", sandbox.engine).out


def test_build_of_int8_that_is_refused(sandbox: Sandbox, images: Path, capfd: Capture) -> None:
    command = build(sandbox, images, "--precision", "int8", "--method", "minmax", "--budget-db", 3)
    error = run(capfd, *command).only_error
    assert "not faster than FP16" in error
    assert "--force" in error
    outcome = run(capfd, *command, "--force")
    assert outcome.code == 0
    assert "note: kept by force" in outcome.out
    assert "INT8" in outcome.out


def test_build_does_not_replace_unasked(sandbox: Sandbox, images: Path, capfd: Capture) -> None:
    assert run(capfd, *build(sandbox, images)).code == 0
    assert run(capfd, *build(sandbox, images)).code == 0, "the same engine is not built again"
    other = build(sandbox, images, "--precision", "fp32")
    assert "exists" in run(capfd, *other).only_error
    assert run(capfd, *other, "--overwrite").code == 0


def test_build_errors_are_one_line(sandbox: Sandbox, images: Path, capfd: Capture) -> None:
    sandbox.fault("refuse")
    assert "node 'spatial'" in run(capfd, *build(sandbox, images)).only_error


def test_build_without_a_gpu(
    tmp_path: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mirnet_edge.build import target as build_target

    monkeypatch.setattr(build_target, "start_driver", lambda load: None)
    error = run(capfd, "build", "edge-s-denoise", tmp_path / "x.engine").only_error
    assert "an engine is built on the GPU that runs it" in error


def test_ctrl_c_while_building(
    tmp_path: Path, capfd: Capture, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = Sandbox(tmp_path, monkeypatch, own_process=True)
    sandbox.fault("slow")
    timer = threading.Timer(2.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    outcome = run(capfd, *build(sandbox, images))
    timer.join()
    assert outcome.code == 130
    assert outcome.errors == ["interrupted; files that were finished are whole"]
    assert not {name for name in sandbox.left() if name.startswith(("net.", ".net"))}


def test_quantize(sandbox: Sandbox, images: Path, capfd: Capture) -> None:
    output = sandbox.folder / "net.int8.onnx"
    command = ("quantize", sandbox.onnx, output, "--calibration", images, "--tile", "20x28",
               "--method", "minmax", "--budget-db", "3")  # fmt: skip
    outcome = run(capfd, *command)
    assert outcome.code == 0, outcome.err
    assert output.is_file()
    assert "convolutions in INT8" in outcome.out
    assert "budget 3 dB" in outcome.out
    assert "exists" in run(capfd, *command).only_error
    assert run(capfd, *command, "--overwrite", "--json").json["plan"]["method"] == "minmax"


def test_info_of_an_engine(sandbox: Sandbox, images: Path, capfd: Capture) -> None:
    run(capfd, *build(sandbox, images))
    outcome = run(capfd, "info", sandbox.engine)
    assert (outcome.code, outcome.err) == (0, "")
    for said in ("convolutions", "FP16", "all", "as a CUDA graph", "dB, the least of 8 tiles"):
        assert said in outcome.out
    described = run(capfd, "info", sandbox.engine, "--json").json
    assert described["kind"] == "TensorRT"
    assert described["card_matches"] is True
    assert described["layers_by_precision"]["FP16"] == len(described["layers"])
    sandbox.engine.write_bytes(b"damaged")
    assert "the card is of another engine" in run(capfd, "info", sandbox.engine).out
    assert run(capfd, "info", sandbox.engine, "--json").json["card_matches"] is False


def test_info_of_an_int8_engine_compares(tmp_path: Path, capfd: Capture) -> None:
    measured = Measured(2.0, 0.5, 45.0, 0.04, 16, fp16_graph_ms=1.0)
    engine = write_plan(tmp_path, {"measured": measured, "precision": "int8"})
    out = run(capfd, "info", engine).out
    assert "2.00 times as fast (1.000 ms)" in out
    assert "0.040 dB" in out


def test_info_without_a_card(tmp_path: Path, capfd: Capture) -> None:
    engine = tmp_path / "x.engine"
    engine.write_bytes(b"plan")
    assert "x.engine.json: no such file" in run(capfd, "info", engine).only_error


def test_bench_of_an_engine(trt: ModuleType, tmp_path: Path, capfd: Capture) -> None:
    engine = write_plan(tmp_path)
    outcome = run(capfd, "bench", engine, "--runs", 5)
    assert (outcome.code, outcome.err) == (0, "")
    for said in ("enqueue", "graph", *PERCENTILES, "ms per megapixel", "tensorrt 10.3.0"):
        assert said in outcome.out
    assert set(run(capfd, "bench", engine, "--json").json["times"]) == {"enqueue", "graph"}
    assert "8x12 only" in run(capfd, "bench", engine, "--tile", 64).only_error


@pytest.mark.parametrize("columns", [80, 40])
def test_bench_of_frames(
    columns: int,
    tiny_onnx: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: Capture,
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    record = tmp_path / "bench.json"
    command = ("bench", tiny_onnx, "--frame", "70x34", "--frames", 2, "--tile", 32, "--halo", 4,
               "--pixels", "nv12", "--json")  # fmt: skip
    outcome = run(capfd, *command, record)
    assert (outcome.code, outcome.err) == (0, "")
    saved = json.loads(record.read_text())
    assert outcome.out.startswith(f"{tiny_onnx}: 2 frames of 70x34 nv12\n")
    alone, stream = outcome.out.split("as a stream\n", 1)
    for shown, way in ((alone, "one_by_one"), (stream, "stream")):
        rows = {line.split()[0]: line for line in shown.splitlines()}
        for part in PARTS:
            of = saved[way]["latency"][part]
            assert rows[part].split() == [part, *(f"{of[name]:.3f}" for name in PERCENTILES)]
            assert len(rows[part]) <= columns
    assert f"tiles {saved['tiles']} of 32x32, statistics tile, passes 1" in outcome.out
    assert f"{saved['stream']['frames_per_second']:.2f} as a stream on CPU" in outcome.out
    assert "onnxruntime" in saved["versions"]


def test_bench_of_frames_writes_its_record_once(
    tiny_onnx: Path, tmp_path: Path, capfd: Capture
) -> None:
    record = tmp_path / "bench.json"
    command = ("bench", tiny_onnx, "--frame", "36x34", "--frames", 1, "--pixels", "nv12", "--json")
    record.write_text("mine")
    assert "exists" in run(capfd, *command, record).only_error
    assert record.read_text() == "mine"
    assert run(capfd, *command, record, "--overwrite").code == 0
    assert json.loads(record.read_text())["frame_size"] == [34, 36]
    assert run(capfd, *command).json["frame_size"] == [34, 36]
    assert "there is no folder" in run(capfd, *command, tmp_path / "no" / "x.json").only_error
    assert "odd" in run(capfd, *command, "--frame", "35x34").only_error


@pytest.mark.parametrize("columns", [80, 40])
def test_bench_of_tiles_writes_its_record(
    columns: int,
    tiny_onnx: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: Capture,
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    record = tmp_path / "tiles.json"
    outcome = run(capfd, "bench", tiny_onnx, "--runs", 2, "--tile", 32, "--json", record)
    assert (outcome.code, outcome.err) == (0, "")
    assert "ms per megapixel on CPU" in outcome.out
    saved = json.loads(record.read_text())
    assert saved["tile"] == [32, 32]
    figures = [f"{saved['times']['run'][name]:.3f}" for name in PERCENTILES]
    assert ["run", *figures] in [line.split() for line in outcome.out.splitlines()]


def test_bench_of_a_file_that_is_not_there(capfd: Capture) -> None:
    assert "no such file" in run(capfd, "bench", "none.engine").only_error
