"""Arrays as other libraries give them, of memory of the host that is said to lie on a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.device import dlpack

DTYPES = [np.uint8, np.uint16, np.float32]


def pixels(shape: tuple[int, ...], dtype: Any = np.uint8) -> NDArray[Any]:
    values = np.random.default_rng(8).integers(1, 255, shape)
    return values.astype(dtype)


class Cuda:
    """A fake of an array on a GPU."""

    def __init__(self, shape: tuple[int, ...] = (5, 7, 3), **changes: Any) -> None:
        interface = {
            "version": 3,
            "shape": shape,
            "typestr": "|u1",
            "data": (0x7000, False),
            "strides": None,
            "stream": None,
        }
        self.__cuda_array_interface__ = {
            key: value for key, value in (interface | changes).items() if value != "left out"
        }


class Shared:
    """A fake of an array whose capsules are numpy's, said to lie on some device."""

    def __init__(self, source: NDArray[Any], kind: int = dlpack.CUDA, index: int = 1) -> None:
        self.source, self.kind, self.index = source, kind, index
        self.requests: list[dict[str, Any]] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.kind, self.index

    def __dlpack__(self, **request: Any) -> Any:
        self.requests.append(request)
        source = self.source
        return dlpack.capsule_of(
            source.ctypes.data, source.shape, source.dtype, self.kind, self.index, source
        )


class OldShared(Shared):
    """The same, of before DLPack 1.0."""

    def __dlpack__(self, stream: int | None = None) -> Any:  # type: ignore[override]
        return super().__dlpack__(stream=stream)


class Both(Shared):
    """The same, with the interface that PyTorch has."""

    __cuda_array_interface__: Any = Cuda(version=2, stream="left out").__cuda_array_interface__
