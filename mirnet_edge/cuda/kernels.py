"""The package's CUDA kernels: compiled on first use, launched on streams."""

from __future__ import annotations

import logging
from typing import Any

from mirnet_edge.cuda.compiler import Binaries
from mirnet_edge.cuda.device import Device, Owner
from mirnet_edge.cuda.streams import Stream
from mirnet_edge.errors import DeviceError

Size = tuple[int, int, int]


class Kernel:
    """One kernel, ready to be launched; made by `Kernels.get`, and valid as long as that is open.

    Attributes:
        name: of the function.
    """

    def __init__(self, owner: Kernels, name: str, argument_format: str) -> None:
        self.name = name
        self._owner, self._key = owner, (name, argument_format)

    def launch(self, *arguments: float, grid: Size, block: Size, stream: Stream) -> None:
        """Queue it.

        Args:
            arguments: numbers, as many as the format has; addresses are those of the device, 0 for
                null.
            grid, block: (x, y, z), in blocks and in threads.

        Raises:
            DeviceError: closed, or a grid that the GPU does not have.
        """
        function = self._owner.function(self._key)
        with self._owner.device.doing(f"launching {self.name}, grid {grid}, block {block}"):
            function.prepared_async_call(grid, block, stream.native, *arguments)


class Kernels(Owner):
    """All kernels of the package on one GPU. A file of them is compiled, or read from the cache,
    when the first of it is asked for: get them before frames are waiting, and before capturing a
    graph. Close it after the graphs that launch its kernels.
    """

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self._binaries = Binaries(device.facts)
        self._kernels: dict[tuple[str, str], Kernel] = {}
        with self._making():
            # pycuda unloads a module when nothing refers to it any more, and its functions do: so
            # they are kept here alone, and not in the kernels that others hold.
            self._modules: dict[str, Any] = {}
            self._functions: dict[tuple[str, str], Any] = {}
            self._owned.callback(self._modules.clear)
            self._owned.callback(self._functions.clear)

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
            module = self._module(file_stem)
            with self.device.doing(f"finding the kernel {kernel_name} in {file_stem}.cu"):
                self._functions[key] = module.get_function(kernel_name)
                self._functions[key].prepare(argument_format)
            self._kernels[key] = Kernel(self, *key)
        return self._kernels[key]

    def function(self, key: tuple[str, str]) -> Any:
        """Look up pycuda's function by a kernel's name and format.

        Raises:
            DeviceError: closed.
        """
        self._require_open()
        return self._functions[key]

    def _module(self, stem: str) -> Any:
        if stem not in self._modules:
            cubin = self._binaries.cached(stem)
            try:
                self._modules[stem] = self._load(stem, cubin or self._binaries.compile(stem))
            except DeviceError as error:
                if not cubin:
                    raise
                log = logging.getLogger(__name__)
                log.info("the cached kernels of %s.cu are compiled again: %s", stem, error)
                self._modules[stem] = self._load(stem, self._binaries.compile(stem))
        return self._modules[stem]

    def _load(self, stem: str, cubin: bytes) -> Any:
        with self.device.doing(f"loading the kernels of {stem}.cu, {len(cubin):,} bytes"):
            return self.device.driver.module_from_buffer(cubin)
