"""Fixtures that several test modules share: tiny networks, a tiny exported graph, a GPU or not."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import fake_cuda
import fake_tensorrt
import kernel_host
import numpy as np
import onnx
import onnxruntime
import pytest
from exports import made_once, traced_once
from fake_gpu import FakeGpu
from pooling_plans import TILE, WritePlans

import mirnet_edge as me
from mirnet_edge.cuda import Device, open_device
from mirnet_edge.engines.graph_engine import OnnxStatistics
from mirnet_edge.facts import SizeRule
from mirnet_edge.graph.rewrite import rewrite
from mirnet_edge.model.config import PRESETS, Config, MIRNetConfig, MIRNetV2Config

# The machine decides which engine is the fastest, by trials of seconds: tests that are about it ask
# for it.
os.environ.setdefault("MIRNET_EDGE_CPU_ENGINE", "onnxruntime")
# A shell ignores it for what it starts in the background, where tests of Ctrl-C would then wait.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Cycles are looked for after so many new objects: Python's 700 take a tenth of the run.
gc.set_threshold(50_000)

TINY: dict[str, Config] = {
    "mirnet": MIRNetConfig(channels=(8, 16, 24), n_rrg=1, n_msrb=1),
    "mirnet-two-streams": MIRNetConfig(channels=(8, 12), n_rrg=2, n_msrb=1, width=1),
    "mirnet-v2": MIRNetV2Config(channels=(8, 12, 18), groups=(2,), n_mrb=1),
    "defocus": MIRNetV2Config(
        channels=(8, 12, 16), groups=(1,), n_mrb=1, in_channels=6, image_skip=False
    ),
    "edge": MIRNetV2Config(
        channels=(8, 12, 16), groups=(1,), n_mrb=1, shuffle=2, context=False, noise_level=True
    ),
    "edge-x3": MIRNetV2Config(channels=(8, 12, 16), groups=(1,), n_mrb=1, shuffle=3),
    "edge-x4": MIRNetV2Config(channels=(8, 12, 16), groups=(1,), n_mrb=1, shuffle=4, context=False),
}
"""One small network of every kind."""
WIDER: dict[str, Config] = {
    "mirnet-v2-wider": MIRNetV2Config(channels=(16, 32, 64), groups=(1,), n_mrb=1),
}
"""What shows beside it in more channels alone."""


def fitting(name: str, size: tuple[int, int]) -> tuple[int, int]:
    """The least size from this one on that a network of `TINY`, or a preset, takes."""
    config = TINY.get(name) or PRESETS[name]
    rule = SizeRule(config.size_multiple, config.min_size_px)
    return rule.padded(size[0]), rule.padded(size[1])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # A worker takes a file at a time: a long one that begins last is waited for by all others.
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)
    reason = _no_gpu()
    if reason:
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason=reason))


def _no_gpu() -> str | None:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver (libcuda.so.1) on this machine"
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return "the NVIDIA driver reports no GPU"
    return None


@pytest.fixture(scope="session", autouse=True)
def kernels_of_the_run(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Where `kernel_host` keeps what it compiles: a compiler takes longer than all the kernels'
    tests."""
    kernel_host.made_once = partial(made_once, tmp_path_factory)


@pytest.fixture(scope="session", autouse=True)
def traces_of_the_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What PyTorch makes of each kind of network, whichever test exports it; where a file of tests
    has loaded it, for a device may have none."""
    if "torch" not in sys.modules:
        yield
        return
    from mirnet_edge.workstation import export

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(export, "_traced", traced_once(tmp_path_factory, export._traced))
        yield


@pytest.fixture(scope="session")
def tiny_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny MIRNet-v2 with random weights, exported with open sizes."""

    def make(path: Path) -> None:
        me.export_onnx(me.create_model(TINY["mirnet-v2"], seed=0), path, task="denoise")

    return made_once(tmp_path_factory, "tiny.onnx", make)


RawGraph = Callable[[str], Any]


def lively(network: Any) -> Any:
    """The network with weights that keep every layer's output near one, so that an error in any
    part of it is seen at the output; PyTorch's own let deep features fade."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.numel() > 1:
                size = parameter[0].numel() ** 0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / size)
    return network


@pytest.fixture(scope="session")
def raw_graph(tmp_path_factory: pytest.TempPathFactory) -> RawGraph:
    """The exported graph of a network of `TINY` or `WIDER`, or a preset, of open size, before any
    rewrite."""

    def graph(name: str) -> Any:
        def make(path: Path) -> None:
            network = lively(me.create_model({**TINY, **WIDER}.get(name, name)))
            me.export_onnx(network, path, task="denoise", rewrite=False)

        return onnx.load(made_once(tmp_path_factory, f"raw-{name}.onnx", make))

    return graph


def run_graph(proto: Any, seed: int, index: int | None = None, scale: float = 1) -> np.ndarray:
    """Output of a graph of fixed size, on ONNX Runtime, for random tiles; with ``index``, for that
    one tile of a batch that begins alike."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    # Its own rewrites take longer than the graph, and would stand between it and what is compared.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    batch, *shape = session.get_inputs()[0].shape
    count = batch if index is None else index + 1
    tiles = scale * np.random.default_rng(seed).random((count, *shape), np.float32)
    output: np.ndarray = session.run(None, {"input": tiles if index is None else tiles[index:]})[0]
    return output


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    """A GPU in host memory, where the package finds the real one."""
    gpu = fake_cuda.install(monkeypatch, FakeGpu())
    yield gpu
    assert gpu.context_depth() == 0, "a context was left on the stack"
    assert not gpu.stray, "freed without the context"


@pytest.fixture
def device(gpu: FakeGpu) -> Device:
    return open_device()


@pytest.fixture
def trt(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A TensorRT 10.3 on that GPU."""
    return fake_tensorrt.install(monkeypatch, gpu)


@pytest.fixture
def photo() -> np.ndarray:
    """The bundled photo, (300, 451, 3) uint8."""
    from mirnet_edge.bundled import PHOTO
    from mirnet_edge.frames.images import read_image

    return read_image(PHOTO).pixels


@pytest.fixture(scope="session")
def pooled_network(raw_graph: RawGraph) -> Any:
    """The graph of a tiny MIRNet-v2, whose means are plain and weighted; exported before there is
    any TensorRT, at which torch looks."""
    return rewrite(raw_graph("mirnet-v2"))[0]


@pytest.fixture
def write_pooled(pooled_network: Any, trt: ModuleType, tmp_path: Path) -> WritePlans:
    """Write its three plans."""

    def written(batch: int = 1, image: str = "FLOAT") -> Path:
        return fake_tensorrt.write_plans(tmp_path, pooled_network, TILE, batch, image)

    return written


@pytest.fixture
def portable_pooling(pooled_network: Any, tmp_path: Path) -> OnnxStatistics:
    """The same network on ONNX Runtime."""
    path = tmp_path / "net.onnx"
    onnx.save(pooled_network, path)
    return me.OnnxEngine(path, provider="CPUExecutionProvider").statistics
