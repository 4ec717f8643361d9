"""PyTorch on one GPU: its work on our streams, in memory of its own, and its tensors over ours."""

from __future__ import annotations

import ctypes
import importlib.util
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mirnet_edge.cuda import Device, Stream
from mirnet_edge.errors import DeviceMemoryError, EngineError, first_line

CUDA_ERROR = "CUDA error"
ALONE = threading.RLock()
"""Held while PyTorch works otherwise than by a captured graph: its settings, warnings and compiler
are the whole process's, and engines of several GPUs work in threads of their own."""


def why_no_cuda() -> str:
    """Why this PyTorch cannot use the GPU; "" where it can."""
    if torch.version.cuda is None:
        return f"this PyTorch, {torch.__version__}, was built without CUDA"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            return ""
    said = "; ".join(first_line(warning.message) for warning in caught)  # type: ignore[arg-type]
    return (
        f"this PyTorch, {torch.__version__} for CUDA {torch.version.cuda}, does not find the GPU"
        + (f" ({said})" if said else "")
    )


class _Foreign:
    """Memory of the device, as other libraries are told of it."""

    def __init__(self, address: int, shape: Sequence[int], dtype: str) -> None:
        self.__cuda_array_interface__ = {
            "version": 3,
            "shape": tuple(shape),
            "typestr": np.dtype(dtype).str,
            "data": (address, False),
            "strides": None,
        }


class TorchDevice:
    """One GPU as PyTorch has it, which it shares with us: both work in its primary context.

    Args:
        device: ours.

    Attributes:
        where: its ``torch.device``.

    Raises:
        EngineError: this PyTorch cannot use it.
    """

    def __init__(self, device: Device) -> None:
        if reason := why_no_cuda():
            raise EngineError(
                f"{reason}. Install a PyTorch whose CUDA the driver runs "
                f"({device.facts.driver_version}): https://pytorch.org/get-started"
            )
        self._device = device
        self.where = torch.device("cuda", device.facts.index)
        device.shared_with.add("PyTorch")
        known = torch.cuda.get_arch_list()
        if known and not _serves(known, device.facts.compute_capability):
            raise EngineError(
                f"this PyTorch, {torch.__version__}, has no code for {device.facts.name} "
                f"({device.facts.architecture}), only for {', '.join(known)}; install one that has"
            )

    def why_no_compiler(self) -> str:
        """Why networks cannot be compiled here; "" where they may be."""
        if importlib.util.find_spec("triton") is None:
            return "Triton is not installed"
        if self._device.facts.compute_capability < (7, 0):
            return f"Triton does not know {self._device.facts.name}"
        return ""

    def make_pool(self) -> Any:
        """Make memory of its own for work that is captured: what a graph writes to must not be
        given to anybody else when the work is done."""
        with self._device.current(), torch.cuda.device(self.where):
            return torch.cuda.MemPool()

    def abandon(self, pool: Any) -> None:
        """Never free a pool, whose GPU is lost: PyTorch would free its memory in a destructor, and
        end the process where the driver refuses that."""
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(pool))

    def pool_bytes(self, pool: Any) -> int:
        """Tell how much a pool holds."""
        return sum(segment["total_size"] for segment in pool.snapshot())

    def tensor(self, address: int, shape: Sequence[int], dtype: str) -> Tensor:
        """A tensor over memory of the device, which outlives it."""
        if not self._device.facts.integrated:
            return torch.as_tensor(_Foreign(address, shape, dtype), device=self.where)
        # The host's memory, mapped: PyTorch asks the driver whose it is and would not take it.
        size_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        storage = torch._C._construct_storage_from_data_pointer(address, self.where, size_bytes)
        mapped: Tensor = torch.empty(0, dtype=getattr(torch, dtype), device=self.where)
        strides = torch.empty(tuple(shape), device="meta").stride()
        mapped.set_(storage, 0, tuple(shape), strides)
        return mapped

    def zeros(self, shape: Sequence[int], dtype: str) -> Tensor:
        """A tensor of its own."""
        with self._device.current():
            return torch.zeros(tuple(shape), dtype=getattr(torch, dtype), device=self.where)

    @contextmanager
    def working(self, stream: Stream, pool: Any = None, tf32: bool = False) -> Iterator[None]:
        """Queue what PyTorch does in a block on a stream of ours, with its memory from a pool."""
        ours = _external(stream.handle, self.where)
        with (
            self._device.current(),
            torch.cuda.device(self.where),
            torch.cuda.stream(ours),
            torch.no_grad(),
            _arithmetic(tf32),
        ):
            if pool is None:
                yield
                return
            with torch.cuda.use_mem_pool(pool):
                yield

    def queue(
        self, stream: Stream, work: Callable[[], None], pool: Any = None, tf32: bool = False
    ) -> None:
        """Queue the work on a stream, in its context; a caller may capture it."""
        with self.working(stream, pool, tf32):
            work()

    def peak_bytes(self, stream: Stream, work: Callable[[], None]) -> int:
        """Run the work, and tell how much memory it took on the way."""
        torch.cuda.reset_peak_memory_stats(self.where)
        before = torch.cuda.memory_allocated(self.where)
        self.queue(stream, work)
        stream.synchronize()
        return torch.cuda.max_memory_allocated(self.where) - before

    def release(self) -> None:
        """Give the memory that PyTorch keeps for later back to the device."""
        with suppress(RuntimeError), self._device.current():
            torch.cuda.empty_cache()


def _external(handle: int, where: torch.device) -> torch.cuda.Stream:
    """A stream of ours as PyTorch has it."""
    return torch.cuda.ExternalStream(handle, device=where)  # type: ignore[no-untyped-call]


def _serves(known: Sequence[str], capability: tuple[int, int]) -> bool:
    """Whether code for some architectures runs on a GPU: that of its major version and no newer
    minor one, or what the driver compiles for it."""
    major, minor = capability
    for name in known:
        kind, _, number = name.partition("_")
        digits = number.rstrip("af")
        if not digits.isdigit():
            return True  # of a kind that is not known: let PyTorch say
        there = divmod(int(digits), 10)
        if kind == "compute" and there <= (major, minor):
            return True
        if kind == "sm" and there[0] == major and there[1] <= minor:
            return True
    return False


@contextmanager
def _arithmetic(tf32: bool) -> Iterator[None]:
    """Have products of FP32 in TF32 or not, and algorithms measured, in a block; these are settings
    of the whole process, which its other networks keep."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    with ALONE:
        before = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
        with quietly():
            cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = True, tf32, tf32
        try:
            yield
        finally:
            with quietly():
                cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before


@contextmanager
def quietly() -> Iterator[None]:
    """Leave out PyTorch's warnings in a block: of settings that have newer names, and while it
    compiles of all that it would do on another GPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn PyTorch's errors in a block into ours, ``what`` failed."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise DeviceMemoryError(
            f"{what}: out of memory: {first_line(error)} Close other engines and programs, or take "
            "a smaller tile"
        ) from error
    except RuntimeError as error:
        lost = "; if every call now fails the device is lost to this process: start it again"
        raise EngineError(
            f"{what}: PyTorch: {first_line(error)}{lost if CUDA_ERROR in str(error) else ''}"
        ) from error
