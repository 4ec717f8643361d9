"""A server of uvicorn's that ends with its device: what the service and the live page share."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

import uvicorn

from mirnet_edge.errors import DeviceLostError


class EndingServer(uvicorn.Server):
    """Serves until SIGINT, SIGTERM or its ``should_exit``, or until its device is gone, which
    another process can have: whoever runs this one starts it again.

    Args:
        gone: asked ten times a second; why this process has no device any more, where that is so.
    """

    def __init__(self, config: uvicorn.Config, gone: Callable[[], DeviceLostError | None]) -> None:
        super().__init__(config)
        self._gone = gone

    async def on_tick(self, counter: int) -> bool:
        """Whether this is the end."""
        return await super().on_tick(counter) or self._gone() is not None

    def run_on(self, at: socket.socket) -> None:
        """Serve on a socket.

        Raises:
            DeviceLostError: the GPU does not come back to this process.
        """
        with contextlib.suppress(KeyboardInterrupt):  # which uvicorn raises again when it has ended
            self.run(sockets=[at])
        if (gone := self._gone()) is not None:
            raise gone
