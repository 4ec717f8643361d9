"""PyTorch on a `FakeGpu`: it computes on the CPU, when the stream is waited for, on tensors over
the memory that the fake driver gave."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from fake_gpu import FakeGpu

from mirnet_edge.cuda import Device, Stream
from mirnet_edge.engines.compiled import engine as compiled_engine
from mirnet_edge.engines.compiled import proof

BYTES_PER_PIXEL = 256


class FakeTorchDevice:
    """In place of `TorchDevice`; ``failures`` are raised once, by what is asked."""

    def __init__(self, gpu: FakeGpu, device: Device) -> None:
        self._gpu, self._device = gpu, device
        self.where = torch.device("cpu")
        self.failures: dict[str, Exception] = {}
        self.no_compiler = ""
        self.pools = self.abandoned = 0
        self.queued: list[bool] = []

    def _fail(self, what: str) -> None:
        if what in self.failures:
            raise self.failures.pop(what)

    def why_no_compiler(self) -> str:
        return self.no_compiler

    def make_pool(self) -> object:
        self.pools += 1
        return object()

    def abandon(self, pool: object) -> None:
        self.abandoned += 1

    def pool_bytes(self, pool: object) -> int:
        return 4096

    def zeros(self, shape: Sequence[int], dtype: str) -> torch.Tensor:
        return torch.zeros(tuple(shape), dtype=getattr(torch, dtype))

    def tensor(self, address: int, shape: Sequence[int], dtype: str) -> torch.Tensor:
        size_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self._gpu.bytes_at(address, size_bytes)  # it is there
        memory = (ctypes.c_char * size_bytes).from_address(address)
        return torch.frombuffer(memory, dtype=getattr(torch, dtype)).reshape(tuple(shape))

    @contextmanager
    def working(self, stream: Stream, pool: Any = None, tf32: bool = False) -> Iterator[None]:
        self._fail("working")
        with self._device.current(), torch.no_grad():
            yield

    def queue(
        self, stream: Stream, work: Callable[[], None], pool: Any = None, tf32: bool = False
    ) -> None:
        self._fail("queue")
        self.queued.append(pool is not None)

        def run() -> None:
            self._fail("run")
            with torch.no_grad():
                work()

        self._gpu.queue(stream.handle, run)

    def peak_bytes(self, stream: Stream, work: Callable[[], None]) -> int:
        self.queue(stream, work)
        stream.synchronize()
        return BYTES_PER_PIXEL * proof.PROOF_PX**2

    def release(self) -> None:
        pass


def install(monkeypatch: pytest.MonkeyPatch, gpu: FakeGpu) -> list[FakeTorchDevice]:
    """Put it where engines find the real one; those that are made, in their order."""
    made: list[FakeTorchDevice] = []

    def opened(device: Device) -> FakeTorchDevice:
        made.append(FakeTorchDevice(gpu.at(device.facts.index), device))
        return made[-1]

    monkeypatch.setattr(compiled_engine, "TorchDevice", opened)
    monkeypatch.setattr(proof, "PROOF_PX", 32)
    monkeypatch.setattr(compiled_engine, "PROOF_PX", 32)
    return made
