"""The service on a socket, until it is told to end: it then finishes what it began."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvicorn

from mirnet_edge.access import EndingServer
from mirnet_edge.serve.app import Service

KEEP_ALIVE_S = 65
"""Longer than the minute for which most proxies keep a connection, so that they end it."""
MOST_CONNECTIONS = 1024


class Server(EndingServer):
    """Serves a service until its end, or that of its device.

    Args:
        service: told when it is to end.
        token: see `Service.app`.
        grace_s: what was begun may take so long to be finished.
        drain_s: before it stops listening it says for so long that it is not ready, for whoever
            sends requests here to see.
    """

    def __init__(
        self, service: Service, token: str | None = None, grace_s: int = 30, drain_s: float = 0.0
    ) -> None:
        self._service, self._drain_s = service, drain_s
        config = uvicorn.Config(
            service.app(token),
            log_level="warning",
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=grace_s,
        )
        super().__init__(config, lambda: service.models.gone)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End: say so, take no more, and finish what was begun."""
        self._service.is_draining = True
        if self._drain_s and not self.force_exit:
            await asyncio.sleep(self._drain_s)
        await super().shutdown(sockets)


def serve(service: Service, at: socket.socket, token: str | None = None, **options: Any) -> None:
    """Serve on a socket until SIGINT or SIGTERM; ``options`` are those of `Server`.

    Raises:
        DeviceLostError: the GPU does not come back to this process.
    """
    Server(service, token, **options).run_on(at)
