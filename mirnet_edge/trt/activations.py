"""Memory for what engines compute on the way, shared by engines that never run at once."""

from __future__ import annotations

import os
import threading

from mirnet_edge.cuda import Device, DeviceBuffer, Owner, Stream, open_device
from mirnet_edge.engines.card import EngineCard, card_path
from mirnet_edge.errors import DeviceError, EngineError


class ActivationMemory(Owner):
    """One block of device memory that the execution contexts of several engines work in.

    All of them run on its stream, so that no two run at once. Close it after them.

    Args:
        device: to allocate on.
        size_bytes: of the largest engine.
        stream: to run on; None makes one.

    Attributes:
        stream, size_bytes: of every engine that works in it; of the memory.
        lock: held while one of them queues work or captures it: what another thread queues on a
            stream that captures would become part of the graph.

    Raises:
        DeviceError: not enough memory.
    """

    def __init__(self, device: Device, size_bytes: int, *, stream: Stream | None = None) -> None:
        super().__init__(device)
        # Re-entrant: an engine holds it while it loads those beside it, which take it as well.
        self.lock = threading.RLock()
        self.size_bytes = size_bytes
        with self._making():
            self.stream = stream or self._own(Stream(device))
            # The driver gives no memory of 0 bytes, which is what a network of one layer needs.
            self._memory = self._own(DeviceBuffer(device, max(size_bytes, 1)))
            # Registered last and so done first: what is queued may still work in the memory.
            self._owned.callback(self.stream.synchronize)

    @classmethod
    def for_engines(
        cls, *paths: str | os.PathLike[str], stream: Stream | None = None
    ) -> ActivationMemory:
        """Make as much as the largest of these needs, by the cards beside them; none is loaded.

        Raises:
            EngineError: no engine, or one without a card.
            DeviceError: no GPU, or not enough memory.
        """
        if not paths:
            raise EngineError("activation memory for no engines; name at least one")
        size_bytes = max(EngineCard.load(card_path(path)).activation_bytes for path in paths)
        return cls(stream.device if stream else open_device(), size_bytes, stream=stream)

    def address_for(self, name: str, needed_bytes: int) -> int:
        """Tell where an engine may work.

        Raises:
            DeviceError: closed, or too small for it.
        """
        self._require_open()
        if needed_bytes > self.size_bytes:
            raise DeviceError(
                f"{name} needs {needed_bytes:,} bytes of activation memory, but what it shares has "
                f"{self.size_bytes:,}; make it of all engines that share it, with "
                "ActivationMemory.for_engines(path, ...), and build those again whose cards say "
                "less than they need"
            )
        return self._memory.address
