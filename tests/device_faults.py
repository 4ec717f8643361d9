"""Faults of a GPU, one after the other: each allocation of some work fails once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from fake_gpu import FakeGpu, MemoryError
from fake_libcuda import CUresult, FakeLibcuda

ALLOCATING = (
    *("cuMemAlloc", "cuMemHostAlloc", "cuStreamCreate", "cuEventCreate", "cuModuleLoadDataEx"),
    "cuGraphInstantiate",
)
"""What takes memory of the device, or of the host for it."""


class AllocationFaults:
    """Counts the allocations of a `FakeGpu`, and lets one of them fail.

    Attributes:
        seen: the functions that were called, in order, since `count` began.
        failed: that which failed; "" while none has.
    """

    def __init__(self, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[str] = []
        self.failed = ""
        self._at = -1
        fail, code_of = gpu.fail, FakeLibcuda._code

        def failing(function: str) -> None:
            fail(function)
            if self._strikes(function):
                raise MemoryError(f"{function} failed: out of memory")

        def coded(library: FakeLibcuda, function: str, context: bool = True) -> int:
            code = code_of(library, function, context)
            if not code and self._strikes(function):
                return CUresult.CUDA_ERROR_OUT_OF_MEMORY
            return code

        monkeypatch.setattr(gpu, "fail", failing)
        monkeypatch.setattr(FakeLibcuda, "_code", coded)

    @contextmanager
    def strike(self, at: int = -1) -> Iterator[None]:
        """Let allocation number ``at`` of a block fail; -1 for none."""
        self.seen, self.failed, self._at = [], "", at
        try:
            yield
        finally:
            self._at = -1

    def _strikes(self, function: str) -> bool:
        if function not in ALLOCATING:
            return False
        self.seen.append(function)
        if len(self.seen) - 1 != self._at:
            return False
        self.failed = function
        return True
