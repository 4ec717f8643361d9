"""The GPU: its context, streams, events, memory, graphs and kernels. No other module talks to the
driver.

Everything belongs to a `Device` and lives in its primary context, the one that PyTorch and TensorRT
use as well. The context is current in a thread only inside `Device.current`, which every method
here enters by itself: pycuda aborts the process when a thread ends with contexts on its stack.
Each thing has one owner, which is a context manager; nothing synchronizes but ``synchronize()``.
"""

from __future__ import annotations

from mirnet_edge.cuda.device import Device, DeviceFacts, Owner, open_device
from mirnet_edge.cuda.kernels import Kernel, Kernels
from mirnet_edge.cuda.memory import DeviceBuffer, MappedBuffer, MirroredBuffer, PinnedBuffer
from mirnet_edge.cuda.streams import Event, Graph, Stream

__all__ = [
    "Device",
    "DeviceBuffer",
    "DeviceFacts",
    "Event",
    "Graph",
    "Kernel",
    "Kernels",
    "MappedBuffer",
    "MirroredBuffer",
    "Owner",
    "PinnedBuffer",
    "Stream",
    "open_device",
]
