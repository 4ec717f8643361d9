"""The GPU: its context, streams, events, memory, graphs and kernels. No other module talks to the
driver, by one route for each need:

- ``driver``, through ctypes: what a GPU is, graphs, and waiting for a stream of another library.
  It needs nothing installed, so that ``doctor`` and ``build`` read the same facts by it.
- pycuda: context, memory, streams, events, and loading and launching kernels; ``native``, the same
  through ctypes, where pycuda is not installed.
- ``compiler``, through NVRTC of cuda-bindings, or nvcc: machine code, where the cache has none.

Everything belongs to a `Device` and lives in its primary context, the one that PyTorch and TensorRT
use as well. The context is current in a thread only inside `Device.current`, which every method
here enters by itself: pycuda aborts the process when a thread ends with contexts on its stack.
Each thing has one owner, which is a context manager; nothing synchronizes but ``synchronize()``.

NVIDIA's cuda.core carries neither this nor the foreign arrays of ``device`` (1.2.2 was tried). Its
`StridedMemoryView` refuses buffers, version 2 of the CUDA array interface and rows that are no
whole number of elements apart. `Program` makes cubins well, but headers, versions, nvcc and the
cache would stay; and `GraphBuilder` is the five calls of `Graph` again.
"""

from __future__ import annotations

from mirnet_edge.cuda.device import Device, Owner, open_device
from mirnet_edge.cuda.driver import DeviceFacts
from mirnet_edge.cuda.kernels import Kernel, Kernels
from mirnet_edge.cuda.memory import DeviceBuffer, MirroredBuffer, PinnedBuffer
from mirnet_edge.cuda.page_locked import LockedPages, is_page_locked
from mirnet_edge.cuda.streams import Event, Graph, Stream

__all__ = [
    "Device",
    "DeviceBuffer",
    "DeviceFacts",
    "Event",
    "Graph",
    "Kernel",
    "Kernels",
    "LockedPages",
    "MirroredBuffer",
    "Owner",
    "PinnedBuffer",
    "Stream",
    "is_page_locked",
    "open_device",
]
