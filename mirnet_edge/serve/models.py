"""The models that are served: each opened once, and restored with from several threads."""

from __future__ import annotations

import logging
import queue
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.engines.protocol import Engine, works_on_device
from mirnet_edge.errors import (
    ConfigError,
    DeviceError,
    DeviceLostError,
    DeviceMemoryError,
    EngineError,
    MirnetEdgeError,
)
from mirnet_edge.frames.enlarged import enlarged
from mirnet_edge.frames.layout import MAXIMUM
from mirnet_edge.frames.pixel_formats import PixelFormat
from mirnet_edge.restore import Restorer
from mirnet_edge.serve.options import Options, Statistics, told_statistics
from mirnet_edge.serve.shared_engine import SharedEngine

NAME = r"[A-Za-z0-9][\w.-]{0,99}"
PROBE_PX = 64
KEPT = 4
"""Restorers of a thread: each is for one mode of statistics and one format of pixels."""
log = logging.getLogger(__name__)
PATIENCE_S = 10.0
"""For what still runs on a device that is lost; it fails soon."""
FAILED_AFTER = 3
"""Failures of an engine in a row after which it counts as broken."""
Setting = tuple[Statistics, PixelFormat | None]


@dataclass(frozen=True)
class ModelSpec:
    """What is served, and under which name.

    Attributes:
        model: what `Restorer` takes, one file.
    """

    name: str
    model: Any


def model_spec(text: str) -> ModelSpec:
    """Read ``NAME=MODEL``, or ``MODEL``, whose name is then that of its file without the suffix.

    Raises:
        ConfigError: a name that cannot stand in an address.
    """
    name, separator, model = text.partition("=")
    if not separator:
        name, model = PurePath(text).stem if PurePath(text).suffix else text, text
    if not model or not re.fullmatch(NAME, name, re.ASCII):
        raise ConfigError(
            f"{text!r:.80}: a model is served under a name of letters, digits, '.', '_' and '-'; "
            "give NAME=MODEL"
        )
    return ModelSpec(name, model)


class Seat:
    """What one thread restores with: Restorers of one engine, made when they are first needed.

    Args:
        engine: not closed here.
        restoring: options of `Restorer`.
    """

    def __init__(self, engine: Engine, restoring: Mapping[str, Any]) -> None:
        self._engine, self._restoring = engine, restoring
        self._made: OrderedDict[Setting, Restorer] = OrderedDict()

    def restorer(self, statistics: Statistics, pixels: PixelFormat | None) -> Restorer:
        """The one for a setting; the one that was not needed for the longest time goes."""
        key = statistics, pixels
        if key not in self._made:
            try:
                made = Restorer(
                    self._engine,
                    statistics=statistics,
                    pixels="auto" if pixels is None else pixels,
                    **self._restoring,
                )
            except DeviceError:
                raise
            except MirnetEdgeError as error:
                # The engine is open and runs: what was asked for is more than it can do.
                raise ConfigError(f"statistics={statistics!r}: {error}") from error
            while len(self._made) >= KEPT:
                self._made.popitem(last=False)[1].close()
            self._made[key] = made
        self._made.move_to_end(key)
        return self._made[key]

    def renew(self, engine: Engine, timeout: float) -> None:
        """Go on with another engine, in place of one that is lost."""
        with suppress(MirnetEdgeError):  # of what is lost, not all can be given back
            self.close(timeout)
        self._made.clear()
        self._engine = engine

    def close(self, timeout: float | None) -> None:
        """Close all of them."""
        with ExitStack() as last:
            for restorer in self._made.values():
                last.callback(restorer.close, timeout)


@dataclass(frozen=True, eq=False)
class Restored:
    """A restored frame, and the noise level that the network was told, None where it is not."""

    pixels: NDArray[Any]
    noise: float | None


class ServedModel:
    """One model, for any number of threads.

    Args:
        spec: opened at once, and tried.
        seats: for threads that restore at the same time.
        batch: tiles of different requests that the engine may be given together.
        restoring: options of `Restorer`; its statistics may not be "stream".

    Attributes:
        facts: of the network.
        engine_name: the class of the engine.
        failures: of the engine, in a row.
        reopened: how often it was opened again, on a device that was lost.
        is_reopening: whether that is being done; requests that are there wait for it.
        gone: why the device cannot be had again in this process, where that is so.

    On an engine whose frames stay on the device, requests are restored one after the other, on each
    of the ``devices``, but with a ``batch`` of more than one they go by way of the host, in common
    batches.

    Raises:
        MirnetEdgeError: it cannot be opened, or does not run.
    """

    def __init__(self, spec: ModelSpec, seats: int = 1, batch: int = 1, **restoring: Any) -> None:
        if restoring.get("statistics") == "stream":
            raise ConfigError(
                'statistics="stream" restores a frame with what the frames of others left; need '
                "auto, tile, frame or frame-fast"
            )
        self.name, self.failures, self.reopened = spec.name, 0, 0
        self.is_reopening = self._is_lost = self._is_closed = False
        self.gone: DeviceLostError | None = None
        self._lock, self._reopening = threading.Lock(), threading.Lock()
        # As anyone opens a model: by what it was tuned to, within its limits. Then its engine is
        # shared, and this one only holds it.
        self._opened = Restorer(spec.model, **restoring)
        with ExitStack() as on_failure:
            on_failure.callback(self._opened.close)
            self.facts, engines = self._opened.facts, self._opened.engines
            self.engine_name = type(engines[0]).__name__
            self._statistics, options = self._shared_options(restoring)
            stays = works_on_device(engines[0]) and batch == 1
            self.shared = [] if stays else [SharedEngine(engine, batch) for engine in engines]
            each = self.shared or engines
            count = len(each) if stays else max(seats, len(each))
            self._all = [Seat(each[number % len(each)], options) for number in range(count)]
            self._free: queue.LifoQueue[Seat] = queue.LifoQueue()
            for seat in self._all:
                self._free.put(seat)
            self._try(self._all[: len(each)], batch)
            on_failure.pop_all()

    def _shared_options(self, restoring: Mapping[str, Any]) -> tuple[Statistics, dict[str, Any]]:
        """The mode of statistics where a request names none, and options of further Restorers."""
        mode, tuned = restoring.get("statistics", "auto"), self._opened.tuned
        options = {
            "nan": "raise",  # a client that gets a picture believes it
            **{
                name: value
                for name, value in restoring.items()
                if name not in ("statistics", "threads", "provider", "tuned", "devices")
            },
        }
        if tuned is not None:
            mode = tuned.statistics if mode == "auto" else mode
            options["tile"] = tuned.cut
        return told_statistics(mode), options

    def _try(self, seats: Sequence[Seat], batch: int) -> None:
        """Restore black on each engine, so that the first request is as fast as the next; and tiles
        together."""
        channels = self.facts.in_channels
        shape = (PROBE_PX, PROBE_PX) if channels == 1 else (PROBE_PX, PROBE_PX, channels)
        for seat in seats:
            seat.restorer(self._statistics, None)(np.zeros(shape, np.uint8))
        if not self.shared or batch == 1:
            return
        height, width = self.shared[0].fixed_size or (PROBE_PX, PROBE_PX)
        tiles = np.zeros((2, self.facts.in_planes, height, width), np.float32)
        try:
            self.shared[0].run(tiles)
        except Exception as error:
            raise ConfigError(
                f"{self.name}: this engine takes one tile at a time ({error}); serve it with a "
                "batch of 1"
            ) from error

    @property
    def is_broken(self) -> bool:
        """Whether nothing that was tried lately could be restored, or its device is lost."""
        return (self._is_lost and not self.is_reopening) or self.failures >= FAILED_AFTER

    def restore(self, frame: NDArray[Any], options: Options) -> Restored:
        """Restore a frame; waits for a free seat. Where the device is lost, open the engine again,
        once, and restore it then.

        Raises:
            ConfigError, FrameError, TilingError: the frame or the options cannot be.
            EngineError, DeviceError: the engine failed.
        """
        with self._seat() as seat:
            opened = self.reopened
            try:
                try:
                    restored, noise = self._run(seat, frame, options)
                except (EngineError, DeviceError) as error:
                    if not self._is_open_again(opened, error):
                        raise
                    restored, noise = self._run(seat, frame, options)
            except (EngineError, DeviceError):
                self._note(failed=True)
                raise
            self._note(failed=False)
        if options.strength < 1:
            restored = mixed(frame, restored, options.strength, self.facts.scale, options.pixels)
        return Restored(restored, noise)

    def _run(
        self, seat: Seat, frame: NDArray[Any], options: Options
    ) -> tuple[NDArray[Any], float | None]:
        """Restore a frame in a seat, and the noise level that the network was told."""
        restorer = seat.restorer(options.statistics or self._statistics, options.pixels)
        if restorer.noise != options.noise:
            restorer.noise = options.noise
        return restorer(frame), restorer.timings.noise

    def _is_open_again(self, opened: int, error: MirnetEdgeError) -> bool:
        """Open the engine once more where an error says that its device is lost, and nobody did
        since it was opened for the ``opened``-th time; whether it is worth another try.

        Raises:
            EngineError, DeviceError: it cannot be opened.
        """
        with self._reopening:
            if self.reopened != opened:  # by another thread, under this one
                return True
            # An engine that nobody here closed was on a device that another one's was reset with.
            gone = any(getattr(engine, "closed", False) for engine in self._opened.engines)
            is_gone = gone and not self._is_closed
            is_lost = isinstance(error, DeviceError) and not isinstance(error, DeviceMemoryError)
            if not (is_gone or is_lost or self._is_lost):
                return False
            log.warning("%s: the device is lost, and opened again: %s", self.name, error)
            self.is_reopening = self._is_lost = True
            try:
                self._opened.reopen()
                engines = self._opened.engines
                for shared, engine in zip(self.shared, engines):
                    shared.engine = engine
                each = self.shared or engines
                for number, seat in enumerate(self._all):
                    seat.renew(each[number % len(each)], PATIENCE_S)
                self.reopened += 1
                self._is_lost = False
            except DeviceLostError as gone:
                self.gone = gone
                raise
            finally:
                self.is_reopening = False
            log.warning("%s: it is open again", self.name)
            return True

    def _note(self, failed: bool) -> None:
        with self._lock:
            self.failures = self.failures + 1 if failed else 0

    @contextmanager
    def _seat(self) -> Iterator[Seat]:
        seat = self._free.get()
        try:
            yield seat
        finally:
            self._free.put(seat)

    def close(self, timeout: float | None = None) -> None:
        """Close it, once what runs is done; an EngineError after ``timeout`` seconds."""
        self._is_closed = True
        with ExitStack() as last:
            last.callback(self._opened.close, timeout)
            for seat in self._all:
                last.callback(seat.close, timeout)


def mixed(
    before: NDArray[Any],
    after: NDArray[Any],
    strength: float,
    scale: int = 1,
    pixels: PixelFormat | None = None,
) -> NDArray[Any]:
    """Something between a frame and its restored one: 0 is the first, 1 the second. Codes of
    Y'CbCr are mixed as they are.

    Raises:
        ConfigError: frames that cannot be mixed, of a network that changes channels, or that
            enlarges Y'CbCr.
    """
    maximum = MAXIMUM[before.dtype]
    planes = before.astype(np.float32)
    if scale > 1:
        if pixels is not None and pixels.is_yuv:
            raise ConfigError(
                f"strength={strength:g}: a model that enlarges mixes gray and RGB, not "
                f"{pixels.name}; leave strength out"
            )
        stacked = planes[None] if planes.ndim == 2 else np.moveaxis(planes, -1, 0)
        large = enlarged(np.ascontiguousarray(stacked), scale).clip(0, maximum)
        planes = large[0] if planes.ndim == 2 else np.moveaxis(large, 0, -1)
    if planes.shape != after.shape:
        raise ConfigError(
            f"strength={strength:g}: frames of shape {planes.shape} and {after.shape} cannot be "
            "mixed; leave strength out"
        )
    result = planes + np.float32(strength) * (after - planes)
    if maximum != 1.0:
        np.rint(result, out=result)
    mixture: NDArray[Any] = result.astype(before.dtype)
    return mixture


class Models:
    """All models of a service, by name; the first where a request names none.

    Raises:
        ConfigError: none, or two of one name.
        MirnetEdgeError: one cannot be opened.
    """

    def __init__(self, specs: Sequence[ModelSpec], **options: Any) -> None:
        names = [spec.name for spec in specs]
        if not names:
            raise ConfigError("no model is given; name at least one")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"two models are called {twice[0]!r}; name them, as NAME=MODEL")
        self._models: dict[str, ServedModel] = {}
        with ExitStack() as on_failure:
            for spec in specs:
                self._models[spec.name] = model = ServedModel(spec, **options)
                on_failure.callback(model.close)
            on_failure.pop_all()

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.values())

    @property
    def gone(self) -> DeviceLostError | None:
        """Why this process has no device any more, where one of them says so."""
        return next((model.gone for model in self if model.gone), None)

    @property
    def names(self) -> list[str]:
        """In their order."""
        return list(self._models)

    def get(self, name: str | None) -> ServedModel | None:
        """The model of that name, the first for None; None where there is none of it."""
        return self._models.get(self.names[0] if name is None else name)

    def close(self, timeout: float | None = None) -> None:
        """Close all."""
        with ExitStack() as last:
            for model in self:
                last.callback(model.close, timeout)
