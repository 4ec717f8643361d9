"""A server of uvicorn's in a thread of a test."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from threading import Thread
from typing import Any


@contextlib.contextmanager
def served_by(server: Any) -> Iterator[str]:
    """Where the server answers; it ends with the block."""
    from mirnet_edge.access import listening

    with listening("127.0.0.1", 0) as at:
        thread = Thread(target=server.run, kwargs={"sockets": [at]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{at.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
