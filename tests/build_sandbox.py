"""Where builds run against `fake_builder`: a folder, a small graph, and a machine to build for."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fake_builder
import graph_samples
import numpy as np
import onnx
import pytest
from fake_plan_runner import FakeTensorRTEngine

from mirnet_edge import build
from mirnet_edge._files import file_sha256
from mirnet_edge.build import process as build_process
from mirnet_edge.build import worker as build_worker
from mirnet_edge.build.process import BuildAnswer, BuildRequest
from mirnet_edge.build.target import Target
from mirnet_edge.engines.card import EngineCard, card_path
from mirnet_edge.facts import ModelFacts
from mirnet_edge.frame_path import StageProgress
from mirnet_edge.quantize import QuantizeReport, quantize_onnx
from mirnet_edge.trt import log as tensorrt_log

TILE = (20, 28)
ORIN = {
    "name": "Orin",
    "compute_capability": "8.7",
    "memory_bytes": 2**35,
    "integrated": True,
    "multiprocessors": 16,
    "shared_bytes": 163 << 10,
}


class Sandbox:
    """Builds ``net.onnx`` to ``net.engine`` in a folder; what an earlier one made of it stays.

    Args:
        own_process: whether the fake builds in a process of its own, as the real one does; without,
            a test is ten times as quick.

    Attributes:
        events: of the last build, (phase, done, total).
        on_event: called with the phase of each.
    """

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, own_process: bool = False
    ) -> None:
        self.folder, self._monkeypatch = folder, monkeypatch
        self.onnx, self.engine = folder / "net.onnx", folder / "net.engine"
        self.on_event: Callable[[str], object] = str
        self.events: list[tuple[str, int, int]] = []
        if not self.onnx.exists():
            proto = exported_network()
            facts = ModelFacts(task="test", size_multiple=4, min_size_px=8)
            onnx.helper.set_model_props(proto, facts.to_metadata())
            onnx.save(proto, self.onnx)
        if own_process:
            shim = folder / "shim"
            if not shim.exists():
                shim.mkdir()
                fake_builder.write_shim(shim)
            monkeypatch.syspath_prepend(str(shim))
        else:
            monkeypatch.setattr(build_process, "run_build", build_here)
        self._own_process = own_process
        self.release("8.6.1")

    def release(self, version: str) -> None:
        """From now on, TensorRT is of this version."""
        self._monkeypatch.setenv("FAKE_TENSORRT_VERSION", version)
        versions = {"tensorrt": version, "cuda": "12.2", "driver": "540.4", "mirnet_edge": "0"}
        target = Target(versions, ORIN)
        self._monkeypatch.setattr(build, "find_target", lambda: target)
        self._install()

    def fault(self, name: str) -> None:
        """From now on, this goes wrong; see `fake_builder.FAULT`."""
        self._monkeypatch.setenv("FAKE_TENSORRT_FAULT", name)
        self._install()

    def _install(self) -> None:
        if self._own_process:
            return
        fake = importlib.reload(fake_builder)  # it reads the environment when it is loaded
        self._monkeypatch.setitem(sys.modules, "tensorrt", fake)
        self._monkeypatch.setattr(build_worker, "TensorRTEngine", FakeTensorRTEngine)
        self._monkeypatch.setattr(tensorrt_log, "_process_logger", None)

    def open_sizes(self) -> None:
        """From now on, the network takes any size."""
        proto = onnx.load(self.onnx)
        for value in (*proto.graph.input, *proto.graph.output):
            dims = value.type.tensor_type.shape.dim
            dims[2].dim_param, dims[3].dim_param = "height", "width"
        del proto.graph.value_info[:]
        onnx.save(proto, self.onnx)

    def build(self, **options: Any) -> EngineCard:
        self.events.clear()
        # Without plugins, as there is no library of them here, which every card would note.
        given = {"tile": TILE, "calibration": frames(), "plugins": False, **options}
        return build.build_engine(self.onnx, self.engine, progress=self._hear, **given)

    def _hear(self, phase: str, done: int, total: int) -> None:
        self.events.append((phase, done, total))
        self.on_event(phase)

    def left(self) -> set[str]:
        """Names in the folder, but for what was there before any build."""
        return {path.name for path in self.folder.iterdir()} - {"net.onnx", "shim"}

    def is_whole(self) -> bool:
        """Whether the engine there is the one that its card describes."""
        card = EngineCard.load(card_path(self.engine))
        return card.engine_sha256 == file_sha256(self.engine)

    @property
    def built(self) -> bool:
        """Whether the last call built anything."""
        return any(phase == "building" for phase, _, _ in self.events)


def build_here(folder: Path, progress: StageProgress | None = None) -> BuildAnswer:
    """What `build.process.run_build` does, in this process."""
    return build_worker.build(BuildRequest.load(folder), folder, progress or (lambda *_: None))


def quantize(source: Path, target: Path) -> QuantizeReport:
    """Quantize a file as a user would, on the same frames that builds get."""
    return quantize_onnx(
        source, target, calibration=frames(), method="minmax", budget_db=3, tile=TILE
    )


def exported_network() -> Any:
    """`graph_samples.network` with the kernel sizes that an exporter writes down."""
    proto = graph_samples.network()
    shapes = {tensor.name: tensor.dims for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            kernel = onnx.helper.make_attribute("kernel_shape", list(shapes[node.input[1]][2:]))
            node.attribute.append(kernel)
    return proto


def frames(count: int = 16, seed: int = 0) -> Sequence[np.ndarray]:
    """Calibration frames."""
    random = np.random.Generator(np.random.PCG64(seed))
    return [random.integers(0, 256, (40, 48, 3), np.uint8) for _ in range(count)]
