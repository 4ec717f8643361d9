"""How long batches take on the device, copies left out."""

from __future__ import annotations

from collections.abc import Callable

from mirnet_edge.cuda import Event, Stream

WARM_UP_RUNS = 10


def batch_times_ms(stream: Stream, queue: Callable[[], None], runs: int) -> list[float]:
    """Time each of some batches, which ``queue`` puts on the stream, after a few to warm up."""
    times_ms = []
    device = stream.device
    with device.current(), Event(device) as start, Event(device) as end:
        for run in range(-WARM_UP_RUNS, runs):
            start.record(stream)
            queue()
            end.record(stream)
            end.synchronize()
            if run >= 0:
                times_ms.append(end.elapsed_ms(start))
    return times_ms
