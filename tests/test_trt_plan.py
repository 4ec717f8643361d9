"""What may be loaded, and what each failure to load says, on a TensorRT in host memory."""

from __future__ import annotations

import hashlib
import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import fake_tensorrt
import numpy as np
import pytest
from fake_gpu import FakeGpu
from fake_gpu import MemoryError as CudaMemoryError
from fake_tensorrt import SHAPE, batch_of, make_plan, random_tiles, write_plan

from mirnet_edge.engine_choice import open_engine
from mirnet_edge.engines.card import card_path
from mirnet_edge.errors import DeviceMemoryError, EngineError, MissingDependencyError
from mirnet_edge.facts import ModelFacts
from mirnet_edge.trt.engine import TensorRTEngine
from mirnet_edge.trt.log import KEPT_ERRORS, Log, lacks_memory

FRAME = ["frame", [1, *SHAPE], "FLOAT", "LINEAR"]

# What may be loaded


def test_a_missing_plan_and_a_folder(trt: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"nothing\.engine: cannot be read \(No such file"):
        TensorRTEngine(tmp_path / "nothing.engine")
    with pytest.raises(EngineError, match="cannot be read"):
        TensorRTEngine(tmp_path)


def test_a_plan_without_card_needs_trust(trt: ModuleType, tmp_path: Path) -> None:
    path = write_plan(tmp_path, **batch_of(1, out_channels=1))
    card_path(path).unlink()
    with pytest.raises(EngineError, match=r"tiny\.engine\.json: no such file\. .*trust=True"):
        open_engine(path)
    with TensorRTEngine(path, trust=True) as engine:
        assert engine.card is None
        assert engine.facts == ModelFacts(in_channels=3, out_channels=1)


def test_without_a_card_one_plane_more_is_a_noise_level(trt: ModuleType, tmp_path: Path) -> None:
    taken = {"inputs": [["frame", [1, 4, *SHAPE[1:]], "FLOAT", "LINEAR"]]}
    path = write_plan(tmp_path, **{**batch_of(1), **taken})
    card_path(path).unlink()
    with TensorRTEngine(path, trust=True) as engine:
        assert engine.facts == ModelFacts(noise_level=True)
        assert engine.facts.in_planes == engine.image.shape[1] == 4


def test_a_damaged_card_needs_trust(trt: ModuleType, tmp_path: Path) -> None:
    path = write_plan(tmp_path)
    card_path(path).write_text("{")
    with pytest.raises(EngineError, match=r"no engine card.*trust=True"):
        TensorRTEngine(path)
    with TensorRTEngine(path, trust=True) as engine:
        assert engine.card is None


def test_another_plan_than_the_cards_is_refused(
    trt: ModuleType, gpu: FakeGpu, tmp_path: Path
) -> None:
    path = write_plan(tmp_path)
    wanted = hashlib.sha256(path.read_bytes()).hexdigest()
    size = len(path.read_bytes())
    replaced = make_plan(activation_bytes=8192 * 100)
    path.write_bytes(replaced)
    found = hashlib.sha256(replaced).hexdigest()
    said = (
        f"{found} of {len(replaced)} bytes.*card says {wanted} of {size}.*build it again.*trust=T"
    )
    with pytest.raises(EngineError, match=said):
        TensorRTEngine(path)
    assert not gpu.made, "nothing of it was loaded"
    with TensorRTEngine(path, trust=True) as engine:
        assert engine.card is None, "the card is another file's"


@pytest.mark.parametrize("keep", [0, 5, 100])
def test_a_truncated_plan(keep: int, trt: ModuleType, gpu: FakeGpu, tmp_path: Path) -> None:
    path = write_plan(tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(EngineError, match=f"of {keep} bytes, but the card says"):
        TensorRTEngine(path)
    said = rf"cannot load these {keep} bytes: 1: \[stdArchive.*No card.*TensorRT 10\.3\.0 on Fake"
    with pytest.raises(EngineError, match=said):
        TensorRTEngine(path, trust=True)
    assert set(gpu.live.values()) == {0}


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"version": "8.6.2"}, "not compatible with this version"),
        ({"capability": [8, 7]}, "incomp"),
    ],
)
def test_a_plan_of_another_tensorrt_or_gpu(
    changes: dict[str, Any], cause: str, trt: ModuleType, gpu: FakeGpu, tmp_path: Path
) -> None:
    said = (
        rf"{cause}.*built with TensorRT 8\.6\.2 on Orin \(compute capability 8\.7\); here runs "
        r"TensorRT 10\.3\.0 on Fake H200 \(compute capability 9\.0\)\. .*mirnet-edge build tiny"
    )
    with pytest.raises(EngineError, match=said):
        TensorRTEngine(write_plan(tmp_path, **changes))
    assert set(gpu.live.values()) == {0}


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"inputs": [["a", [1, *SHAPE], "FLOAT", "LINEAR"]], "outputs": []}, "a "),
        ({"inputs": [["a", [-1, *SHAPE], "FLOAT", "LINEAR"]]}, r"a \(-1, 3, 8, 12\)"),
        ({"inputs": [["a", [1, *SHAPE], "INT8", "LINEAR"]]}, "int8"),
        ({"inputs": [["a", [1, *SHAPE], "HALF", "HWC8"]]}, r"float16, Row major \(kHWC8\)"),
        ({"inputs": [["a", [12, 8], "FLOAT", "LINEAR"]]}, r"a \(12, 8\)"),
        ({"inputs": [["a", [2, *SHAPE], "FLOAT", "LINEAR"]]}, r"a \(2, 3, 8, 12\)"),
        ({"inputs": [FRAME, ["b", [1, *SHAPE], "FLOAT", "LINEAR"]]}, r"b \(1, 3, 8, 12\)"),
        ({"inputs": [["own", [1, 1, 1, 1], "FLOAT", "LINEAR"]]}, r"own \(1, 1, 1, 1\)"),
        ({"inputs": [["own", [1, 1, 1, 1], "HALF", "LINEAR"], FRAME]}, r"own .* float16"),
        ({"inputs": [["rows", [1, 1, 8, 1], "FLOAT", "HWC8"], FRAME]}, r"rows .*kHWC8"),
        ({"inputs": [["rows", [1, 1, -1, 1], "FLOAT", "LINEAR"], FRAME]}, r"rows .*-1"),
    ],
)
def test_another_signature_is_refused(
    changes: dict[str, Any], found: str, trt: ModuleType, gpu: FakeGpu, tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match=rf"needs one \(N, C, H, W\) input.*has:.*{found}"):
        TensorRTEngine(write_plan(tmp_path, **changes))
    assert set(gpu.live.values()) == {0}


def test_an_address_that_tensorrt_refuses(trt: ModuleType, tmp_path: Path) -> None:
    trt.switches.refuses_address = True
    with pytest.raises(EngineError, match="misaligned"):
        TensorRTEngine(write_plan(tmp_path))


# Memory


@pytest.mark.parametrize(
    ("changes", "said", "gone"),
    [
        (
            {"activation_bytes": 1 << 40},
            r"needs 1,099,511,627,776 bytes.*OutOfMemory",
            ["ICudaEngine", "Runtime"],
        ),
        ({"weights_bytes": 1 << 40}, r"could not load tiny\.engine: .*out of memory", ["Runtime"]),
    ],
)
def test_too_large_an_engine(
    changes: dict[str, Any],
    said: str,
    gone: list[str],
    trt: ModuleType,
    gpu: FakeGpu,
    tmp_path: Path,
) -> None:
    said += r".* of 1,073,741,824 bytes.*smaller tile"
    with pytest.raises(DeviceMemoryError, match=said) as caught:
        TensorRTEngine(write_plan(tmp_path, **changes))
    assert [name for name, _ in trt.gone] == gone, "in order, though the traceback is there"
    assert caught.value is not None
    assert set(gpu.live.values()) == {0}


@pytest.mark.parametrize(
    ("cause", "lacks"),
    [
        ("10: no implementation for node x due to insufficient workspace", True),
        ("2: [virtualMemoryBuffer.cpp] Error Code 2: OutOfMemory (no further information)", True),
        ("1: [defaultAllocator.cpp] Error Code 1: Cuda Runtime (out of memory)", True),
        ("Requested amount of GPU memory (7 bytes) could not be allocated.", True),
        ("4: the memory layout of x is not supported", False),
        ("6: The engine plan file is not compatible with this version", False),
    ],
)
def test_what_tensorrt_says_when_memory_does_not_suffice(cause: str, lacks: bool) -> None:
    assert lacks_memory(cause) == lacks


@pytest.mark.parametrize("function", ["cuStreamCreate", "cuMemHostAlloc", "cuMemAlloc"])
def test_no_memory_for_buffers_frees_the_rest(
    function: str, trt: ModuleType, gpu: FakeGpu, tmp_path: Path
) -> None:
    gpu.failures[function] = CudaMemoryError(f"{function} failed: out of memory")
    path = write_plan(tmp_path)
    with pytest.raises(DeviceMemoryError, match="out of memory"):
        TensorRTEngine(path)
    assert set(gpu.live.values()) <= {0}
    with TensorRTEngine(path) as engine:
        engine.run(random_tiles(1))


# What is missing, and other releases


def test_without_tensorrt_the_error_names_the_extra(
    gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingDependencyError, match=r"'tensorrt'.*mirnet-edge\[tensorrt\]"):
        TensorRTEngine(write_plan(tmp_path))


def test_a_tensorrt_that_cannot_be_loaded(
    gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EngineError, match=r"cannot be loaded: libnvinfer\.so\.10"):
        TensorRTEngine(write_plan(tmp_path))


@pytest.mark.parametrize("version", ["8.6.1", "10.16.1", "11.4.0"])
def test_every_release_runs(
    version: str, gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They differ in how the memory of a context is asked for."""
    fake_tensorrt.install(monkeypatch, gpu, version)
    with TensorRTEngine(write_plan(tmp_path, version=version)) as engine:
        assert engine.activation_bytes == 4096
        tiles = random_tiles(1)
        np.testing.assert_array_equal(engine.run(tiles), tiles / 2)


# What TensorRT says


def test_the_log_goes_to_python(trt: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    log, other = Log(), Log()
    logger = log.make_logger()
    assert other.make_logger() is logger, "TensorRT holds one a process"
    severity = trt.ILogger.Severity
    with caplog.at_level(logging.DEBUG, "mirnet_edge.tensorrt"):
        for item in severity:
            logger.log(item, f"{item.name}\n  of it")
    levels = [record.levelname for record in caplog.records]
    assert levels == ["ERROR", "ERROR", "WARNING", "INFO", "DEBUG"]
    assert log.errors == other.errors == ["INTERNAL_ERROR of it", "ERROR of it"]
    assert log.cause() == "INTERNAL_ERROR of it; ERROR of it"
    log.errors.clear()
    assert log.cause() == "TensorRT gave no reason"
    for number in range(100):
        logger.log(severity.ERROR, str(number))
    assert len(log.errors) == KEPT_ERRORS
    assert log.cause() == "97; 98; 99"


def test_errors_are_raised_and_not_printed(
    trt: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(EngineError):
        TensorRTEngine(write_plan(tmp_path, version="9.0.0"))
    assert capfd.readouterr() == ("", "")
