"""What is counted of a service, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from time import perf_counter

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from mirnet_edge._version import __version__
from mirnet_edge.serve.models import Models
from mirnet_edge.serve.shared_engine import SharedEngine
from mirnet_edge.serve.work import Work

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
PARTS = ("wait", "decode", "restore", "encode")


class Measures:
    """Counts the requests of one service; in a registry of its own, so that there may be several.

    Args:
        work: how many requests are there, is read from it.
        models: how they are, and how full batches were, is read from them.
    """

    def __init__(self, work: Work, models: Models) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        about = Gauge("mirnet_edge_info", "What is served.", ["version"], registry=registry)
        about.labels(__version__).set(1)
        self._requests = Counter(
            "mirnet_edge_requests", "Requests by route and status.", ["route", "status"],
            registry=registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "mirnet_edge_request_seconds", "From the head of a request to the end of its answer.",
            ["route"], buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self._parts = Histogram(
            "mirnet_edge_part_seconds", "Where the time of a picture goes.", ["model", "part"],
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self._pixels = Counter(
            "mirnet_edge_pixels", "Pixels that were given to be restored.", ["model"],
            registry=registry,
        )  # fmt: skip
        self._read(work, models)

    def _read(self, work: Work, models: Models) -> None:
        registry = self._registry

        def gauge(name: str, what: str) -> Gauge:
            return Gauge(name, what, registry=registry)

        present = gauge("mirnet_edge_requests_present", "Requests that are read, wait or run.")
        present.set_function(lambda: work.present)
        running = gauge("mirnet_edge_requests_running", "Requests that are being restored.")
        running.set_function(lambda: work.running)
        gauge("mirnet_edge_requests_room", "Requests that may be present.").set(work.room)
        broken = Gauge(
            "mirnet_edge_model_failures", "Failures of the engine in a row.", ["model"],
            registry=registry,
        )  # fmt: skip
        reopened = Gauge(
            "mirnet_edge_model_reopened", "How often a lost device was opened again.", ["model"],
            registry=registry,
        )  # fmt: skip
        runs = Gauge(
            "mirnet_edge_engine_runs", "Runs of an engine of the host.", ["model"],
            registry=registry,
        )  # fmt: skip
        tiles = Gauge(
            "mirnet_edge_engine_tiles", "Tiles in these runs: more than they are, of batches.",
            ["model"], registry=registry,
        )  # fmt: skip
        for model in models:
            broken.labels(model.name).set_function(partial(getattr, model, "failures"))
            reopened.labels(model.name).set_function(partial(getattr, model, "reopened"))
            if model.shared:
                runs.labels(model.name).set_function(partial(_sum_of, model.shared, "runs"))
                tiles.labels(model.name).set_function(partial(_sum_of, model.shared, "tiles"))
            # Named now: a series that appears with its first request has no rate before the second.
            for part in PARTS:
                self._parts.labels(model.name, part)

    def note_request(self, route: str, status: int, seconds: float) -> None:
        """Count one that is answered."""
        self._requests.labels(route, status).inc()
        self._seconds.labels(route).observe(seconds)

    def note_part(self, model: str, part: str, seconds: float) -> None:
        """Note how long one of `PARTS` took."""
        self._parts.labels(model, part).observe(seconds)

    def note_pixels(self, model: str, pixels: int) -> None:
        """Count what is restored."""
        self._pixels.labels(model).inc(pixels)

    @contextmanager
    def timed(self, model: str, part: str, told: dict[str, float] | None = None) -> Iterator[None]:
        """Note how long one of `PARTS` takes; and into ``told``."""
        began = perf_counter()
        yield
        spent = perf_counter() - began
        self.note_part(model, part, spent)
        if told is not None:
            told[part] = spent

    def page(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)


def _sum_of(engines: list[SharedEngine], what: str) -> float:
    return float(sum(getattr(engine, what) for engine in engines))
