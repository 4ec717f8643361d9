"""The package's CUDA kernels: compiled on first use, launched on streams."""

from __future__ import annotations

import logging
from typing import Any

from mirnet_edge.cuda.compiler import Binaries
from mirnet_edge.cuda.device import Device, Owner
from mirnet_edge.cuda.streams import Stream
from mirnet_edge.errors import DeviceError

Size = tuple[int, int, int]


class Kernel(Owner):
    """One kernel, ready to be launched; made by `Kernels.get`, and valid while that is open."""

    def __init__(self, device: Device, module: Any, name: str, argument_format: str) -> None:
        super().__init__(device)
        self.name = name
        with self._making():
            self._function = module.get_function(name)
            self._function.prepare(argument_format)

    def launch(self, *arguments: float, grid: Size, block: Size, stream: Stream) -> None:
        """Queue it, with as many numbers as the format has (addresses are the device's, 0 is null);
        ``grid`` and ``block`` are (x, y, z), in blocks and in threads."""
        with self._doing(f"launching {self.name}, grid {grid}, block {block}"):
            self._function.prepared_async_call(grid, block, stream.native, *arguments)

    def _release(self) -> None:
        self._function = None


class Kernels(Owner):
    """All kernels of the package on one GPU. A file of them is compiled, or read from the cache,
    when the first of it is asked for: get them before frames are waiting, and before capturing a
    graph. Close it after the graphs that launch its kernels.
    """

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self._binaries = Binaries(device.facts)
        self._kernels: dict[tuple[str, str], Kernel] = {}
        self._modules: dict[str, Any] = {}
        with self._making():
            # pycuda unloads a module when nothing refers to it any more; its functions do, which
            # the kernels let go of first.
            self._owned.callback(self._modules.clear)

    def get(self, file_stem: str, kernel_name: str, argument_format: str) -> Kernel:
        """Take a kernel of ``<file_stem>.cu``; the same object each time.

        Args:
            argument_format: a letter for each argument, as of `struct`: "P" address, "q" long long,
                "i" int, "f" float. A struct of floats passed by value is that many "f".

        Raises:
            DeviceError: closed, no compiler, a file that does not compile, no such kernel in it.
        """
        self._require_open()
        key = (kernel_name, argument_format)
        if key not in self._kernels:
            if file_stem not in self._modules:
                self._load(file_stem)
            with self.device.doing(f"finding the kernel {kernel_name} in {file_stem}.cu"):
                module = self._modules[file_stem]
                self._kernels[key] = self._own(Kernel(self.device, module, *key))
        return self._kernels[key]

    def _load(self, stem: str) -> None:
        cached = self._binaries.cached(stem)
        try:
            self._load_cubin(stem, cached or self._binaries.compile(stem))
        except DeviceError as error:
            if not cached:
                raise
            log = logging.getLogger(__name__)
            log.info("the cached kernels of %s.cu are compiled again: %s", stem, error)
            self._load_cubin(stem, self._binaries.compile(stem))

    def _load_cubin(self, stem: str, cubin: bytes) -> None:
        with self.device.doing(f"loading the kernels of {stem}.cu, {len(cubin):,} bytes"):
            self._modules[stem] = self.device.driver.module_from_buffer(cubin)
