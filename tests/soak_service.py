"""The service under load: as a process with a fake engine, and clients that come without a pause.

``python tests/soak_service.py --seconds 60`` measures 64 clients for a minute, with an engine that
does nothing and with one of 20 ms, and prints the figures. With ``--model x.engine --side 256`` it
measures that model with frames of 256 x 256 pixels; with ``--batch 4`` one after the other and in
batches of four.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil

SIDE = 64
QUEUE, THREADS = 16, 2


@dataclass
class Load:
    """What clients found.

    Attributes:
        statuses: how often each came.
        seconds: that each answer of status 200 took.
        odd: refusals without Retry-After, and answers that are not the frame.
        grown_bytes, grown_files: of the server's memory, and of what it has open, from the first
            fifth of the time to its end.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)
    grown_bytes: int = 0
    grown_files: int = 0

    def p(self, percent: float) -> float:
        """A percentile of the times, in milliseconds."""
        return 1000 * float(np.percentile(self.seconds, percent)) if self.seconds else 0.0

    def summary(self) -> dict[str, Any]:
        """For a record."""
        return {
            "statuses": {str(status): count for status, count in self.statuses.items()},
            **{f"p{percent}_ms": round(self.p(percent), 1) for percent in (50, 99, 100)},
            "grown_bytes": self.grown_bytes,
            "grown_files": self.grown_files,
        }


async def _client(
    address: str, head: bytes, body: bytes, found: Load, until: float, is_same: bool
) -> None:
    host, port = urlsplit(address).hostname, urlsplit(address).port
    reader, writer = await asyncio.open_connection(host, port)
    while time.monotonic() < until:
        began = time.monotonic()
        writer.write(head + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        status = int(answer.split(None, 2)[1])
        length = int(answer.partition("content-length: ")[2].split("\r", 1)[0])
        content = await reader.readexactly(length)
        found.statuses[status] += 1
        if status == 200:
            found.seconds.append(time.monotonic() - began)
            if is_same and content != body:
                found.odd.append(f"200 with {length} bytes that are not the frame's")
        elif "retry-after: " not in answer or b'"error"' not in content:
            found.odd.append(f"{status}: {content[:100]!r}")
        if status != 200:
            # Sooner than Retry-After says, as clients do that do not read it.
            await asyncio.sleep(0.01)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def _clients(
    address: str, count: int, seconds: float, found: Load, side: int, is_same: bool
) -> None:
    body = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8).tobytes()
    head = (
        f"POST /restore HTTP/1.1\r\nhost: {urlsplit(address).netloc}\r\n"
        f"frame-shape: {side},{side},3\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode()
    until = time.monotonic() + seconds
    clients = (_client(address, head, body, found, until, is_same) for _ in range(count))
    await asyncio.gather(*clients)


def load(
    address: str,
    server_id: int,
    seconds: float,
    clients: int = 64,
    side: int = SIDE,
    is_same: bool = True,
) -> Load:
    """Ask a server by many clients at once, each again as soon as it is answered; where frames come
    back as they were, what does not is odd."""
    found, server = Load(), psutil.Process(server_id)
    asyncio.run(_clients(address, clients, seconds / 5, found, side, is_same))
    before, files = server.memory_info().rss, server.num_fds()
    asyncio.run(_clients(address, clients, seconds * 4 / 5, found, side, is_same))
    found.grown_bytes = server.memory_info().rss - before
    found.grown_files = server.num_fds() - files
    return found


def _serve(options: argparse.Namespace) -> None:
    """Serve an engine on a free port, and say at which address."""
    from serving import service, slowly

    from mirnet_edge.access import listening
    from mirnet_edge.engines.fake import FakeEngine
    from mirnet_edge.serve.models import Models, ModelSpec
    from mirnet_edge.serve.server import serve

    # As the command line has it: uvicorn raises the signal again when all is done.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    engine = options.model
    if not engine:
        engine = FakeEngine(slowly(options.engine_ms / 1000) if options.engine_ms else None)
        engine.shapes = _Forgetful()
    spec = ModelSpec("model", engine)
    threads = max(options.threads, options.batch)
    with (
        listening("127.0.0.1", 0) as at,
        contextlib.closing(Models([spec], seats=threads, batch=options.batch)) as opened,
        service(opened, threads=threads, queue=options.queue) as made,
    ):
        print(f"http://127.0.0.1:{at.getsockname()[1]}", flush=True)
        serve(made, at, grace_s=options.grace)


class _Forgetful(list[tuple[int, ...]]):
    """A fake engine's record of shapes, which would grow."""

    def append(self, shape: tuple[int, ...]) -> None:
        del shape


def main() -> int:
    """Serve, or measure; 1 where anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--engine-ms", type=float, default=0.0)
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--queue", type=int, default=QUEUE)
    parser.add_argument("--grace", type=int, default=30)
    parser.add_argument("--model", default="")
    parser.add_argument("--side", type=int, default=SIDE)
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args()
    if options.seconds is None:
        _serve(options)
        return 0
    from serving import served_apart

    ways = [("--engine-ms", 0.0), ("--engine-ms", 20.0)]
    if options.model:
        # Twice, in turn: what else the machine does is then seen.
        ways = [("--model", options.model)]
        if options.batch > 1:
            ways = [("--model", options.model, "--batch", n) for n in (1, options.batch)] * 2
    wrong = 0
    for way in ways:
        with served_apart(*way, "--queue", options.queue) as (address, process):
            is_same = not options.model
            found = load(address, process.pid, options.seconds, 64, options.side, is_same)
        rate = found.statuses[200] / options.seconds
        told = {
            "a second": {" ".join(map(str, way)): round(rate, 1)},
            # Who is let in waits for those in front of him: so long at that rate.
            "room_ms": round(1000 * (THREADS + options.queue) / rate) if rate else None,
            **found.summary(),
            "odd": found.odd[:5],
        }
        print(json.dumps(told), flush=True)
        wrong += bool(found.odd) or not {200, 503} >= found.statuses.keys()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
