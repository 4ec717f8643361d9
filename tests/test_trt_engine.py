"""Running, timing and closing engines, on a TensorRT and a GPU in host memory."""

from __future__ import annotations

import gc
import threading
from pathlib import Path
from types import ModuleType

import fake_cuda
import numpy as np
import pytest
from fake_gpu import FakeGpu, LogicError
from fake_tensorrt import ENQUEUE_MS, LAYERS, SHAPE, batch_of, random_tiles, write_plan

import mirnet_edge as me
from mirnet_edge.cuda import Stream, open_device
from mirnet_edge.engines.card import TensorFacts, card_path
from mirnet_edge.errors import DeviceError, EngineError
from mirnet_edge.trt.engine import TensorRTEngine

# Running


def test_engine_knows_what_it_runs(trt: ModuleType, tmp_path: Path) -> None:
    with TensorRTEngine(write_plan(tmp_path)) as engine:
        assert engine.facts.task == "denoise"
        assert (engine.fixed_size, engine.batch) == ((8, 12), 1)
        assert engine.inputs == (
            TensorFacts("frame", (1, *SHAPE), "float32", "Row major (kLINEAR)"),
        )
        assert [item.name for item in engine.outputs] == ["clean"]
        assert engine.card is not None
        assert engine.activation_bytes == 4096
        assert (engine.graph, engine.graph_note) == (True, "")
        assert isinstance(engine, me.Engine)


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize(("batch", "counts"), [(1, (1, 3)), (4, (1, 4, 5, 9))])
@pytest.mark.parametrize(("dtype", "atol"), [("FLOAT", 0), ("HALF", 5e-4)])
def test_run_takes_any_number_of_tiles(
    dtype: str,
    atol: float,
    batch: int,
    counts: tuple[int, ...],
    graph: bool,
    trt: ModuleType,
    tmp_path: Path,
) -> None:
    path = write_plan(tmp_path, **batch_of(batch, dtype, out_channels=2))
    with TensorRTEngine(path, graph=graph) as engine:
        for count in counts:
            tiles = random_tiles(count)
            restored = engine.run(tiles)
            assert restored.shape == (count, 2, 8, 12)
            assert restored.dtype == np.float32
            np.testing.assert_allclose(restored, tiles[:, :2] / 2, atol=atol, rtol=0)


@pytest.mark.parametrize("integrated", [False, True])
def test_nothing_is_allocated_after_loading(
    integrated: bool, trt: ModuleType, gpu: FakeGpu, tmp_path: Path
) -> None:
    gpu.integrated = integrated
    with TensorRTEngine(write_plan(tmp_path, **batch_of(2))) as engine:
        made = dict(gpu.made)
        results = [
            engine.run(random_tiles(count, seed)) for count, seed in ((2, 0), (1, 1), (2, 2))
        ]
        assert gpu.made == made
        assert results[0].base is results[2].base, "one array is kept"
    assert made.get("memory", 0) == (0 if integrated else 2)


def test_strided_tiles_are_read_as_they_are(trt: ModuleType, tmp_path: Path) -> None:
    channels_last = np.ascontiguousarray(random_tiles(1).transpose(0, 2, 3, 1))
    with TensorRTEngine(write_plan(tmp_path)) as engine:
        tiles = channels_last.transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(engine.run(tiles), tiles / 2)


@pytest.mark.parametrize("name", ["tiny.engine", "tiny.plan"])
def test_restorer_runs_a_plan(name: str, trt: ModuleType, gpu: FakeGpu, tmp_path: Path) -> None:
    path = write_plan(tmp_path)
    card_path(path).rename(card_path(tmp_path / name))
    path = path.rename(tmp_path / name)
    frame = np.random.default_rng(1).integers(0, 256, (19, 31, 3), np.uint8)
    with me.Restorer(path, halo=2) as restore:
        assert isinstance(restore.engine, TensorRTEngine)
        restored = restore(frame)
    assert np.abs(restored - frame / 2).max() <= 0.5
    assert set(gpu.live.values()) == {0}


def test_threads_wait_for_each_other(trt: ModuleType, tmp_path: Path) -> None:
    failures = []
    with TensorRTEngine(write_plan(tmp_path)) as engine:

        def work(seed: int) -> None:
            tiles = random_tiles(1, seed)
            for _ in range(30):
                if not np.array_equal(engine.run(tiles), tiles / 2):
                    failures.append(seed)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


def test_a_given_stream_stays_open(trt: ModuleType, gpu: FakeGpu, tmp_path: Path) -> None:
    with Stream(open_device()) as stream:
        with TensorRTEngine(write_plan(tmp_path), stream=stream) as engine:
            engine.run(random_tiles(1))
            assert gpu.live["stream"] == 1
        stream.synchronize()
    assert gpu.live["stream"] == 0


@pytest.mark.parametrize(
    ("tiles", "said"),
    [
        (np.zeros((1, 3, 8, 8), np.float32), r"\(1, 3, 8, 8\).*built for \(N, 3, 8, 12\)"),
        (np.zeros((3, 8, 12), np.float32), r"\(3, 8, 12\).*built for \(N, 3, 8, 12\)"),
        (np.zeros((0, 3, 8, 12), np.float32), "N from 1"),
        (np.zeros((1, 3, 8, 12), np.uint8), "tiles of uint8; need float32"),
    ],
)
def test_other_tiles_are_refused(
    tiles: np.ndarray, said: str, trt: ModuleType, tmp_path: Path
) -> None:
    with TensorRTEngine(write_plan(tmp_path)) as engine, pytest.raises(EngineError, match=said):
        engine.run(tiles)


def test_a_run_that_tensorrt_refuses(trt: ModuleType, tmp_path: Path) -> None:
    with TensorRTEngine(write_plan(tmp_path), graph=False) as engine:
        trt.switches.enqueue_fails = True
        with pytest.raises(EngineError, match=r"failed to run: .*no kernel"):
            engine.run(random_tiles(1))


def test_a_device_lost_in_a_run(trt: ModuleType, gpu: FakeGpu, tmp_path: Path) -> None:
    with TensorRTEngine(write_plan(tmp_path)) as engine:
        gpu.failures["cuStreamSynchronize"] = LogicError("unspecified launch failure")
        with pytest.raises(DeviceError, match="unspecified launch failure"):
            engine.run(random_tiles(1))


# Measuring


def test_measure_times_batches_both_ways(trt: ModuleType, gpu: FakeGpu, tmp_path: Path) -> None:
    with TensorRTEngine(write_plan(tmp_path)) as engine:
        enqueue_ms, graph_ms = engine.measure(5)
        assert enqueue_ms == pytest.approx([ENQUEUE_MS] * 5)
        assert graph_ms == pytest.approx([ENQUEUE_MS * gpu.graph_speed] * 5)
    assert gpu.live["event"] == 0
    with TensorRTEngine(tmp_path / "tiny.engine", graph=False) as engine:
        assert engine.graph_note == "not asked for"
        assert engine.measure(2)[1] == []


def test_layer_times_take_a_context_of_their_own(
    trt: ModuleType, gpu: FakeGpu, tmp_path: Path
) -> None:
    with TensorRTEngine(write_plan(tmp_path)) as engine:
        assert engine.layer_times(4) == LAYERS
        assert list(engine.layer_times(1)) == list(LAYERS)
        assert trt.gone == [("IExecutionContext", 1)] * 2
        tiles = random_tiles(1)
        np.testing.assert_array_equal(engine.run(tiles), tiles / 2)


def test_layers_that_run_side_by_side_are_not_timed(
    trt: ModuleType, gpu: FakeGpu, tmp_path: Path
) -> None:
    with TensorRTEngine(write_plan(tmp_path, streams=2)) as engine:
        with pytest.raises(EngineError, match=r"on 3 streams.*aux_streams=0"):
            engine.layer_times()
        assert engine.measure(1)[1], "what the whole takes is told"


# Without a graph


def test_without_bindings_it_runs_without_graph(
    trt: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_cuda.without_graphs(monkeypatch)
    with TensorRTEngine(write_plan(tmp_path)) as engine:
        assert engine.graph is False
        assert "STREAM_CAPTURE_UNSUPPORTED" in engine.graph_note
        tiles = random_tiles(2)
        np.testing.assert_array_equal(engine.run(tiles), tiles / 2)
        assert engine.measure(1) == ([ENQUEUE_MS], [])


def test_an_engine_that_cannot_be_captured_runs_without_graph(
    trt: ModuleType, gpu: FakeGpu, tmp_path: Path
) -> None:
    gpu.failures["cuStreamEndCapture"] = 901
    with TensorRTEngine(write_plan(tmp_path)) as engine:
        assert engine.graph is False
        assert "CAPTURE_INVALIDATED" in engine.graph_note
        tiles = random_tiles(1)
        np.testing.assert_array_equal(engine.run(tiles), tiles / 2)


# Closing


def test_everything_goes_in_order(trt: ModuleType, gpu: FakeGpu, tmp_path: Path) -> None:
    engine = TensorRTEngine(write_plan(tmp_path))
    engine.run(random_tiles(1))
    engine.close()
    engine.close()
    assert trt.gone == [("IExecutionContext", 1), ("ICudaEngine", 1), ("Runtime", 1)]
    assert set(gpu.live.values()) == {0}
    for use in (lambda: engine.run(random_tiles(1)), engine.measure, engine.layer_times):
        with pytest.raises(EngineError, match="this engine is closed"):
            use()


def test_closing_waits_for_what_is_queued(trt: ModuleType, gpu: FakeGpu, tmp_path: Path) -> None:
    engine = TensorRTEngine(write_plan(tmp_path))
    seen, live = [], dict(gpu.live)
    engine.enqueue()
    gpu.queue(engine.stream.handle, lambda: seen.append((dict(gpu.live), list(trt.gone))))
    engine.close()
    assert seen == [(live, [])], "graph, memory and context were there until the queue ended"


def test_a_dropped_engine_is_closed_at_once(trt: ModuleType, gpu: FakeGpu, tmp_path: Path) -> None:
    TensorRTEngine(write_plan(tmp_path)).run(random_tiles(1))
    assert [name for name, _ in trt.gone] == ["IExecutionContext", "ICudaEngine", "Runtime"]
    assert set(gpu.live.values()) == {0}


def test_a_lost_device_does_not_keep_the_rest(
    trt: ModuleType, gpu: FakeGpu, tmp_path: Path
) -> None:
    engine = TensorRTEngine(write_plan(tmp_path))
    gpu.failures["cuStreamSynchronize"] = LogicError("unspecified launch failure")
    with pytest.raises(DeviceError, match="unspecified launch failure"):
        engine.close()
    with open_device().current():
        gc.collect()  # the traceback held the stream
    assert set(gpu.live.values()) == {0}
