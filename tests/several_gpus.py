"""Several GPUs in host memory, and engines on them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fake_cuda
import fake_native
import fake_tensorrt
import pytest
from fake_gpu import FakeGpu, machine_of
from fake_tensorrt import write_plan

from mirnet_edge.cuda.driver import Driver
from mirnet_edge.engines import gpu_there

Gpus = list[FakeGpu]


def three() -> Gpus:
    """Of one machine."""
    gpus = [FakeGpu(name=f"Fake {letter}") for letter in "ABC"]
    machine_of(*gpus)
    return gpus


@pytest.fixture
def native_gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpus]:
    """Where pycuda is missing, and ctypes calls the driver."""
    gpus = three()
    library = fake_native.install(monkeypatch, gpus[0])
    monkeypatch.setattr(gpu_there, "start_driver", lambda: Driver(library))
    fake_tensorrt.install(monkeypatch, gpus[0])
    yield gpus
    assert gpus[0].context_depth() == 0, "a context was left on the stack"


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpus]:
    """Three, and a TensorRT that knows them."""
    gpus = three()
    machine = fake_cuda.install(monkeypatch, gpus[0])
    library = fake_cuda.FakeLibcuda(machine)
    monkeypatch.setattr(gpu_there, "start_driver", lambda: Driver(library))
    fake_tensorrt.install(monkeypatch, machine)
    yield gpus
    assert machine.context_depth() == 0, "a context was left on the stack"
    assert not any(gpu.stray for gpu in gpus), "freed without the context"


@pytest.fixture
def halving(gpus: Gpus, tmp_path: Path) -> Path:
    """A plan that halves tiles of 8 x 12 pixels."""
    return write_plan(tmp_path)
