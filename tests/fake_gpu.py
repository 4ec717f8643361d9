"""A small faithful GPU in host memory: allocations, streams, a clock, and failures on demand.

Like the real one it does nothing before it is waited for: what is queued on a stream runs when the
stream, or an event in it, is synchronized. Time is a clock of its own, moved on by queued work.
What is made needs pycuda's context on the thread's stack, and so does what is freed:
`FakeGpu.stray` lists what was freed without. A machine may have several (`machine_of`), each with
memory, streams and failures of its own; what belongs to one is of no use to another. Addresses are
those of the host's memory, so that kernels compiled for the host run on them.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

ALIGNMENT = 256


class Error(Exception):
    """``pycuda.driver.Error``."""


class MemoryError(Error):
    """``pycuda.driver.MemoryError``, which is not Python's."""


class LogicError(Error):
    """``pycuda.driver.LogicError``."""


class RuntimeError(Error):
    """``pycuda.driver.RuntimeError``."""


Work = Callable[[], None]


@dataclass
class Queue:
    """What a stream holds: work to come, and work captured while it captures."""

    work: list[tuple[Work, float]] = field(default_factory=list)
    captured: list[tuple[Work, float]] | None = None


@dataclass
class FakeGpu:
    """The device behind the fakes.

    Attributes:
        total_bytes: of memory; what is allocated on the device counts, and on the host where the
            GPU is integrated.
        name: of each; "{}" in it is the index.
        failures: error to raise, or code to return, once, by the name of the driver's function.
        broken: codes that a function returns each time.
        live: how many of each kind are there now ("memory", "host", "stream", "event", "graph",
            "module").
        made: the same, ever.
        clock_ms: time of the device.
        graph_speed: of captured work, against the same work launched one by one.
        stray: what was freed without the context.
        detached: indices of the devices whose context was let go of.
        resets: how often the device was reset.
        lost: whether every call fails, until `reset` helps.
        locked: sizes of page-locked memory of the host, by address.
        pages: the same of memory that was not allocated, but locked where it is. It is no part of
            `live` and `made`: callers decide how many results they have.
        running: held while the device works; several threads may wait for it.
        gpus: all of the machine, this one among them.
    """

    count: int = 1
    integrated: bool = False
    total_bytes: int = 1 << 30
    capability: tuple[int, int] = (9, 0)
    multiprocessors: int = 132
    shared_bytes: int = 227 << 10
    name: str = "Fake H200"
    failures: dict[str, Exception | int] = field(default_factory=dict)
    broken: dict[str, int] = field(default_factory=dict)
    live: dict[str, int] = field(default_factory=dict)
    made: dict[str, int] = field(default_factory=dict)
    clock_ms: float = 0.0
    graph_speed: float = 0.5
    stray: list[str] = field(default_factory=list)
    launches: int = 0
    detached: list[int] = field(default_factory=list)
    memory: dict[int, np.ndarray] = field(default_factory=dict)
    locked: dict[int, int] = field(default_factory=dict)
    pages: dict[int, int] = field(default_factory=dict)
    queues: dict[int, Queue] = field(default_factory=dict)
    graphs: dict[int, list[tuple[Work, float]]] = field(default_factory=dict)
    thread: threading.local = field(default_factory=threading.local)
    numbers: Any = field(default_factory=lambda: itertools.count(1))
    resets: int = 0
    lost: bool = False
    running: Any = field(default_factory=threading.RLock)
    gpus: list[FakeGpu] = field(default_factory=list, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.gpus = self.gpus or [self]

    def at(self, index: int) -> FakeGpu:
        """A device of the machine by its number; those that are only counted are this one."""
        return self.gpus[index] if index < len(self.gpus) else self

    def here(self) -> FakeGpu:
        """The device whose context is current in this thread."""
        stack = self._stack()
        return self.at(stack[-1]) if stack else self

    def push(self, index: int) -> None:
        """Make a device's context current."""
        self._stack().append(index)

    def pop(self) -> None:
        self._stack().pop()

    def context_depth(self) -> int:
        """How deep the stack of contexts is in this thread."""
        return len(self._stack())

    def _stack(self) -> list[int]:
        stack: list[int] = self.thread.__dict__.setdefault("stack", [])
        return stack

    def used_bytes(self) -> int:
        return sum(block.nbytes for block in tuple(self.memory.values()))  # other threads allocate

    def make(self, kind: str, function: str) -> None:
        """Count one more, in a context, unless a failure waits for ``function``."""
        self.need_context(function)
        self.fail(function)
        for counts in (self.live, self.made):
            counts[kind] = counts.get(kind, 0) + 1

    def free(self, kind: str) -> None:
        if not self.context_depth():
            self.stray.append(kind)
        self.live[kind] -= 1

    def need_context(self, function: str) -> None:
        if not self.context_depth():
            raise LogicError(f"{function} failed: invalid device context")
        if self.lost and not function.startswith("cuCtx"):
            raise LogicError(f"{function} failed: an illegal memory access was encountered")

    def fail(self, function: str) -> None:
        failure = self.failures.get(function)
        if isinstance(failure, Exception):
            del self.failures[function]
            raise failure
        if self.lost and not function.startswith("cuCtx"):
            raise LogicError(f"{function} failed: an illegal memory access was encountered")

    def reset(self) -> None:
        """Nothing that was queued is done any more. One whose context cannot be had again stays
        lost."""
        self.lost = "cuDevicePrimaryCtxRetain" in self.broken
        self.resets += 1
        self.push(self.gpus.index(self))  # of what the work alone kept alive
        for queue in self.queues.values():
            queue.work.clear()
        self.pop()

    def allocate(self, size_bytes: int, function: str) -> int:
        if self.used_bytes() + size_bytes > self.total_bytes:
            raise MemoryError(f"{function} failed: out of memory")
        block = self.new_block(size_bytes)
        address: int = block.ctypes.data
        self.memory[address] = block
        return address

    def new_block(self, size_bytes: int) -> np.ndarray:
        """Aligned memory of no meaning: whoever reads it shall notice."""
        whole = np.full(size_bytes + ALIGNMENT, 0xA5, np.uint8)
        start = -whole.ctypes.data % ALIGNMENT
        return whole[start : start + size_bytes]

    def bytes_at(self, address: int, size_bytes: int) -> np.ndarray:
        """Memory that begins anywhere in an allocation, and ends in it."""
        for start, block in self.memory.items():
            offset = int(address) - start
            if 0 <= offset <= block.nbytes - size_bytes:
                return block[offset : offset + size_bytes]
        raise LogicError("an illegal memory access was encountered")

    def queue(self, handle: int, work: Work, time_ms: float = 0.0) -> None:
        with self.running:
            queue = self._queue_of(handle)
            target = queue.work if queue.captured is None else queue.captured
            target.append((work, time_ms))

    def _queue_of(self, handle: int) -> Queue:
        if handle not in self.queues:
            raise LogicError("invalid resource handle")  # of another device
        return self.queues[handle]

    def drain(self, handle: int) -> None:
        with self.running:
            queue = self._queue_of(handle)
            if queue.captured is not None:
                raise LogicError("operation not permitted when stream is capturing")
            while queue.work:
                step, time_ms = queue.work.pop(0)
                self.clock_ms += time_ms
                step()


def machine_of(*gpus: FakeGpu) -> FakeGpu:
    """The first of several devices of one machine: what stands for it where there is one alone."""
    first = gpus[0]
    for gpu in gpus:
        gpu.gpus, gpu.thread, gpu.numbers, gpu.count = (
            list(gpus),
            first.thread,
            first.numbers,
            len(gpus),
        )
    return first
