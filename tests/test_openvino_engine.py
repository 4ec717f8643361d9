"""OpenVINO as an engine: what it computes, what it refuses, what it leaves behind."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

import mirnet_edge as me
from mirnet_edge.bundled import bundled_model
from mirnet_edge.engines import openvino_engine
from mirnet_edge.engines.cpu_trial import photo_tile
from mirnet_edge.engines.openvino_engine import OpenVINOEngine, cpu_precisions
from mirnet_edge.engines.protocol import statistics_of_engine
from mirnet_edge.pooling.vectors import Weights

pytest.importorskip("openvino")


def agree(found: np.ndarray, expected: np.ndarray, share: float = 1e-4) -> None:
    np.testing.assert_allclose(found, expected, atol=share * float(np.ptp(expected)))


def test_it_knows_what_it_runs(tiny_onnx: Path) -> None:
    engine = OpenVINOEngine(tiny_onnx)
    assert engine.facts == me.OnnxEngine(tiny_onnx).facts
    assert (engine.fixed_size, engine.precision) == (None, "FP32")
    assert engine.provider == "OpenVINO-FP32"
    assert isinstance(engine, me.Engine)
    engine.close()
    engine.close()
    with pytest.raises(me.EngineError, match="closed"):
        engine.run(np.zeros((1, 3, 8, 12), np.float32))
    with pytest.raises(me.EngineError, match="closed"):
        _ = engine.statistics


@pytest.mark.parametrize("name", ["edge-s-denoise", "edge-m-enhance", "edge-m-x2"])
def test_it_computes_what_onnx_runtime_does(name: str) -> None:
    model = bundled_model(name)
    assert model is not None
    engine, portable = OpenVINOEngine(model.onnx), me.OnnxEngine(model.onnx)
    assert engine.facts == portable.facts
    for size in ((32, 64), (64, 32), (32, 64)):  # of open size, and back
        tiles = photo_tile(engine.facts, size)
        expected = portable.run(tiles)
        agree(engine.run(tiles), expected)
    turned = np.asfortranarray(tiles)  # not in the order that OpenVINO reads
    agree(engine.run(turned), expected)


def test_results_stay_when_the_next_tile_runs(tiny_onnx: Path) -> None:
    engine = OpenVINOEngine(tiny_onnx)
    tiles = np.random.default_rng(0).random((2, 3, 16, 16), np.float32)
    first = engine.run(tiles[:1])
    kept = first.copy()
    engine.run(tiles[1:])
    np.testing.assert_array_equal(first, kept)


def test_low_precision_is_close_on_a_photo_and_told() -> None:
    model = bundled_model("edge-s-denoise")
    assert model is not None
    exact = me.OnnxEngine(model.onnx)
    tiles = photo_tile(exact.facts, (64, 96))
    expected = exact.run(tiles)
    for precision in cpu_precisions():
        with me.Restorer(model.name, provider=f"OpenVINO-{precision}", tile=64) as restore:
            error = np.sqrt(np.square(restore.engine.run(tiles) - expected).mean())
            assert error < {"FP32": 1e-6, "BF16": 4e-3, "FP16": 1e-3}[precision], precision
            restore(np.zeros((40, 50, 3), np.uint8))
            assert restore.timings.precision == precision


def test_precisions_of_another_cpu_are_refused(
    tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_engine, "cpu_precisions", lambda: ("FP32", "FP16"))
    with pytest.raises(
        me.EngineError, match=r"'BF16': OpenVINO computes on this CPU in FP32, FP16"
    ):
        OpenVINOEngine(tiny_onnx, precision="BF16")


@pytest.mark.parametrize(
    ("capable", "found"),
    [
        (["FP32", "INT8"], ("FP32",)),
        (["FP16", "FP32"], ("FP32", "FP16")),
        (["BF16", "FP16", "FP32"], ("FP32", "BF16")),
    ],
)
def test_precisions_follow_what_the_cpu_tells(
    capable: list[str], found: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Core:
        def get_property(self, *_: str) -> list[str]:
            return capable

    monkeypatch.setattr(openvino_engine, "_core", lambda _: Core())
    assert cpu_precisions.__wrapped__() == found


@pytest.mark.parametrize("mode", ["frame", "frame-fast", "stream"])
def test_tiles_share_means_as_on_onnx_runtime(mode: Any, photo: np.ndarray) -> None:
    frame = photo[:150, :130]
    options: dict[str, Any] = {"tile": 64, "halo": 8, "statistics": mode}
    with (
        me.Restorer("edge-s-denoise", provider="OpenVINO-FP32", **options) as fast,
        me.Restorer("edge-s-denoise", provider="CPUExecutionProvider", **options) as portable,
    ):
        for _ in range(2):
            found, expected = fast(frame), portable(frame)
            assert fast.timings.passes == portable.timings.passes
        assert np.abs(found.astype(int) - expected).max() <= 1


def test_what_a_tile_contributes_is_what_onnx_runtime_gathers() -> None:
    model = bundled_model("edge-m-enhance")
    assert model is not None
    tiles = np.random.default_rng(0).random((1, 3, 32, 40), np.float32)
    rows, columns = np.zeros((1, 1, 32, 1), np.float32), np.zeros((1, 1, 1, 40), np.float32)
    rows[:, :, 8:24], columns[..., :32] = 1 / 16, 1 / 32
    region = Weights(rows, columns, 16 * 32)
    found = []
    for engine in (OpenVINOEngine(model.onnx), me.OnnxEngine(model.onnx)):
        out, partial = statistics_of_engine(engine).gather(tiles, region, None)
        found.append((out, partial.vectors))
    agree(found[0][0], found[1][0])
    for ours, theirs in zip(found[0][1], found[1][1], strict=True):
        agree(ours, theirs, 1e-3)


def test_a_closed_engine_gives_its_threads_and_memory_back() -> None:
    process, model = psutil.Process(), bundled_model("edge-s-denoise")
    assert model is not None
    tiles = np.zeros((1, 4, 512, 512), np.float32)

    def cycle() -> tuple[int, int]:
        engine = OpenVINOEngine(model.onnx, threads=2)
        engine.run(tiles)
        held = process.memory_info().rss
        engine.close()
        gc.collect()
        return process.num_threads(), held - process.memory_info().rss

    cycle()  # what the library keeps for good
    before, memory = process.num_threads(), process.memory_info().rss
    for _ in range(3):
        threads, freed = cycle()
        assert threads <= before
        assert freed > 20e6, "the buffers of a tile stay"
    assert process.memory_info().rss - memory < 30e6


def test_threads_are_as_many_as_asked(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    compiled = openvino_engine._OpenModel
    monkeypatch.setattr(
        openvino_engine, "_OpenModel", lambda ov, g, o: asked.append(o) or compiled(ov, g, o)
    )
    tiles = np.random.default_rng(0).random((1, 3, 40, 40), np.float32)
    one, two = (OpenVINOEngine(tiny_onnx, threads=n).run(tiles) for n in (1, 2))
    assert [options["INFERENCE_NUM_THREADS"] for options in asked] == [1, 2]
    np.testing.assert_allclose(one, two, atol=1e-6)
    for threads in (0, -1, 2.5, True):
        with pytest.raises(me.EngineError, match=r"threads=.*: need a whole number from 1 to 1024"):
            OpenVINOEngine(tiny_onnx, threads=threads)  # type: ignore[arg-type]


def test_wrong_tiles_are_errors_with_both_shapes(tiny_onnx: Path) -> None:
    engine = OpenVINOEngine(tiny_onnx)
    with pytest.raises(me.EngineError, match=r"\(1, 5, 8, 8\).*'height', 'width'"):
        engine.run(np.zeros((1, 5, 8, 8), np.float32))
    with pytest.raises(me.EngineError, match=r"OpenVINO failed on tiles of shape \(1, 3, 9, 8\)"):
        engine.run(np.zeros((1, 3, 9, 8), np.float32))
    assert engine.run(np.zeros((1, 3, 8, 8), np.float32)).shape == (1, 3, 8, 8), "goes on"


@pytest.mark.parametrize("keep", [0, 100, 20_000])
def test_corrupt_files_are_refused(tiny_onnx: Path, tmp_path: Path, keep: int) -> None:
    corrupt = tmp_path / "corrupt.onnx"
    corrupt.write_bytes(tiny_onnx.read_bytes()[:keep])
    with pytest.raises(
        me.EngineError, match=r"corrupt\.onnx: .*(cannot load|export it again|need)"
    ):
        OpenVINOEngine(corrupt)
    with pytest.raises(me.EngineError, match="no such file"):
        OpenVINOEngine(tmp_path / "nothing.onnx")


def saved(path: Path, nodes: list[Any], shape: list[Any], constants: list[Any] = []) -> Path:  # noqa: B006
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "ab"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def test_other_signatures_are_refused(tmp_path: Path) -> None:
    identity = [helper.make_node("Identity", ["a"], ["b"])]
    with pytest.raises(me.EngineError, match=r"one \(N, C, H, W\) input and one output, but has a"):
        OpenVINOEngine(saved(tmp_path / "flat.onnx", identity, [3, 8]))
    with pytest.raises(me.EngineError, match="batches of 4"):
        OpenVINOEngine(saved(tmp_path / "four.onnx", identity, [4, 3, 8, 8]))
    fixed = OpenVINOEngine(saved(tmp_path / "fixed.onnx", identity, [1, 3, 8, 12]))
    assert fixed.fixed_size == (8, 12)


def test_operators_that_there_are_not_are_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Dance", ["a"], ["b"], domain="someone.else")]
    with pytest.raises(me.EngineError, match=r"odd\.onnx: OpenVINO .* cannot load it"):
        OpenVINOEngine(saved(tmp_path / "odd.onnx", nodes, [1, 3, 8, 8]))


@pytest.mark.parametrize("location", ["/etc/hostname", "../secret.bin"])
def test_weights_elsewhere_are_refused(location: str, tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(12))
    (tmp_path / "folder").mkdir()
    weights = numpy_helper.from_array(np.zeros(3, np.float32), "w")
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=location)
    nodes = [helper.make_node("Add", ["a", "w"], ["b"])]
    path = saved(tmp_path / "folder" / "far.onnx", nodes, [1, 3, 8, 3], [weights])
    with pytest.raises(me.EngineError, match="no file in the folder of the model"):
        OpenVINOEngine(path)


def test_loops_are_refused(tmp_path: Path) -> None:
    body = helper.make_graph([], "body", [], [])
    nodes = [helper.make_node("Loop", ["", ""], ["b"], body=body)]
    with pytest.raises(me.EngineError, match="may work without end"):
        OpenVINOEngine(saved(tmp_path / "loop.onnx", nodes, [1, 3, 8, 8]))


def test_another_kind_of_file_of_that_name_is_refused(tmp_path: Path) -> None:
    # Fields of no message, which the check lets pass, and the start of OpenVINO's own format.
    text = b'\n<net name="x" version="11"><layers/><edges/></net>' + b" " * 20
    (tmp_path / "ir.onnx").write_bytes(text)
    with pytest.raises(me.EngineError, match=r"ir\.onnx"):
        OpenVINOEngine(tmp_path / "ir.onnx")


def test_nothing_is_reported_to_the_maker(tiny_onnx: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom mirnet_edge.engines.openvino_engine import OpenVINOEngine\n"
        f"OpenVINOEngine({str(tiny_onnx)!r}).close()\n"
        "print([n for n in sys.modules if n.startswith('openvino_telemetry')])"
    )
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == [], "an identity was written into the home"


def test_without_openvino_it_says_what_to_install(
    tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(me.MissingDependencyError, match=r"mirnet-edge\[openvino\]"):
        OpenVINOEngine(tiny_onnx)
