"""Which engine runs a checkpoint: on the GPU where PyTorch can use one, else on the CPU."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path

from mirnet_edge.engines.compiled.engine import CompiledEngine
from mirnet_edge.engines.compiled.torch_device import why_no_cuda
from mirnet_edge.engines.gpu_there import torch_may_use_gpu
from mirnet_edge.engines.torch_engine import TorchEngine
from mirnet_edge.errors import EngineError
from mirnet_edge.model.checkpoints import load_model

log = logging.getLogger(__name__)
PROVIDERS = ("CPUExecutionProvider", "CUDAExecutionProvider")
"""As ONNX Runtime calls them, so that one option serves every kind of file."""


def bundled_engine(name: str, device: int = 0) -> CompiledEngine | None:
    """The engine of a bundled model on the GPU; None where that cannot be used, or the weights not
    be read: its graph runs without either."""
    if (reason := why_no_cuda()) or not find_spec("onnx"):
        log.info("%s runs as a graph: %s", name, reason or "onnx is not installed")
        return None
    return CompiledEngine(name, device=device)


def checkpoint_engine(
    path: Path, threads: int | None, provider: str | None, device: int = 0
) -> CompiledEngine | TorchEngine:
    """The engine of a checkpoint.

    Args:
        threads: of the CPU; where they are given, and no provider, it is for the CPU.
        provider: one of `PROVIDERS`; None takes the GPU where that can be used.
        device: number of that GPU.

    Raises:
        EngineError: another provider, or a GPU that is asked for and cannot be used.
        CheckpointError, DeviceError: see `CompiledEngine`.
    """
    if provider not in (None, *PROVIDERS):
        raise EngineError(
            f"provider {provider!r} is none of PyTorch, which runs {path.name} with: "
            f"{', '.join(PROVIDERS)}"
        )
    if provider == PROVIDERS[1]:
        return CompiledEngine(path, device=device)
    if provider is None and threads is None and torch_may_use_gpu():
        reason = why_no_cuda()
        if not reason:
            return CompiledEngine(path, device=device)
        log.warning("%s runs on the CPU: %s", path.name, reason)
    return TorchEngine(load_model(path), threads=threads)
