"""Exports that many tests take, each made once in a run, however many processes run the tests."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import onnx
import pytest

Size = tuple[int, int] | None


def made_once(
    tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]
) -> Path:
    """The file of that name, which ``make`` is to write whole, as `export_onnx` does."""
    folder = tmp_path_factory.getbasetemp()
    # Workers of pytest-xdist have folders of their own in the one of the run.
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    path = folder / name
    with path.with_suffix(".lock").open("w") as lock:
        # Held while it is made: a second worker waits instead of taking as long. A process that
        # dies lets go of it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            make(path)
    return path


def traced_once(
    tmp_path_factory: pytest.TempPathFactory, trace: Callable[[Any, Size], Any]
) -> Callable[[Any, Size], Any]:
    """In place of ``trace``, which is `mirnet_edge.workstation.export._traced`: PyTorch follows a
    network for ten seconds, and networks that differ in nothing but weights to the same graph.

    Each kind of network is followed once in a run, for each size. The next of its kind gets that
    graph with its own weights; `export_onnx` compares what comes of it with PyTorch as ever. Of
    weights that are equal PyTorch keeps one: such a network is followed every time.
    """

    def traced(model: Any, size: Size) -> Any:
        state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
        if len({values.tobytes() for values in state.values()}) < len(state):
            return trace(model, size)

        def make(path: Path) -> None:
            proto = trace(model, size)
            assert state.keys() <= {tensor.name for tensor in proto.graph.initializer}
            onnx.save(proto, path)

        kind = f"{type(model)} {model.config} {model} {size}"
        name = f"traced-{sha256(kind.encode()).hexdigest()}.onnx"
        proto = onnx.load(made_once(tmp_path_factory, name, make))
        for tensor in proto.graph.initializer:
            if tensor.name in state:
                tensor.CopyFrom(onnx.numpy_helper.from_array(state[tensor.name], tensor.name))
        return proto

    return traced
