"""A frame in, a restored frame out: `Restorer` owns the engine and the way through it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mirnet_edge._arguments import explained
from mirnet_edge.deadline import Deadline
from mirnet_edge.engine_choice import ModelPath, choice_of, path_to
from mirnet_edge.engines.card import EngineCard
from mirnet_edge.engines.cutting import cut_for_engine
from mirnet_edge.engines.protocol import Engine, facts_of_engine, works_on_device
from mirnet_edge.engines.shared import asked_settings, shared_statistics
from mirnet_edge.engines.tuned import Tuned, tuned_for
from mirnet_edge.errors import DeviceMemoryError, EngineError, MirnetEdgeError, StreamError
from mirnet_edge.facts import ModelFacts
from mirnet_edge.frame_path import FrameBuffers, Latency, Nan, Progress, StreamedPath, Timings
from mirnet_edge.frames.noise_level import Noise, NoiseLevel, checked_noise
from mirnet_edge.frames.pixel_formats import PixelFormat, pixel_format
from mirnet_edge.host.path import HostPath
from mirnet_edge.pooling.passes import Mode, StatisticsSettings
from mirnet_edge.stream.frame_stream import Drop, FrameStream, Pace, Wait
from mirnet_edge.tiling.choice import Cut, Tile, require_memory
from mirnet_edge.tiling.geometry import Tiling

if TYPE_CHECKING:
    from mirnet_edge.device.path import DevicePath

DEFAULT_HALO_PX = 16
Sample = TypeVar("Sample", bound=np.generic)


class Restorer:
    """Restores frames of any size with one model.

    Args:
        model: an ``.onnx`` file, a checkpoint, an ``.engine`` file, a bundled model's name, or any
            object with ``run()`` (see `Engine`), which the caller closes. Of several files the
            first that fits into memory is taken: engines of one network with smaller and smaller
            tiles or batches. Later ones whose tiles cannot be cut as asked are left out.
        tile: side or (height, width) of the tiles in pixels, a multiple of 4; None for the whole
            frame at once; "auto" chooses by the frame's size and the memory at hand now.
        halo: pixels at each inner edge of a tile that are computed and thrown away.
        blend: pixels over which neighbouring tiles fade into each other; 0 cuts.
        statistics: whose means over all positions the tiles take: "tile", each its own; "frame",
            those of the frame, in several passes; "frame-fast", those of a few sample tiles;
            "stream", what earlier frames gathered; "auto", "tile", but for low light "frame", and
            "stream" in a stream. See `pooling.passes` and `StatisticsSettings`. A frame of one tile
            needs none of it.
        noise: how noisy frames are, for a network that asks for it (``facts.noise_level``): the RMS
            of the noise in units of 1/255, from 0 to 100; "auto" estimates it from each frame,
            steady over a stream (see `frames.noise_level`). ``timings.noise`` tells what was used.
        pixels: how the pixels of every frame lie: a `PixelFormat` ("nv12" with its colour standard
            and range) or its name; "auto" takes gray, RGB or RGBA by an array's channels.
        frame_size: (height, width) of every frame that is given; another size is then an error, and
            on the device all that uint8 frames need is made at once, so that the first is as fast
            as the next. None lets it change; each change allocates anew.
        memory_limit: bytes that the model may take: of device memory for engines, by their card; of
            the host's for others, by an estimate from the model's facts and the tile.
        threads, provider: see `open_engine`.
        timeout: seconds that a frame may take, after which an engine counts as hanging, which is an
            error of the frame and of all that follow; None waits.
        nan: where values of the engine are NaN or infinite, as FP16 makes them where it overflows:
            "raise" an `EngineError`, or restore NaN as "zero" and infinity as the end of the range.
            "auto" raises on the host; on the device ``timings.nonfinite`` counts them.
        tuned: take what ``mirnet-edge tune`` found for this model on this device, where tile,
            memory limit, threads and provider are left to it: the engine that it built, its tiles,
            and with ``statistics`` at its default those that it chose.

    Attributes:
        engine: in use.
        tuned: that answer; None where there is none or none was wanted.
        facts: what the model says of itself.
        statistics: what the tiles of a frame share, None where each has its own.

    Raises:
        EngineError, CheckpointError: the model cannot be loaded, or not be given statistics.
        TilingError: a tile that is no multiple of 4, or too small for halo and blend; no tile fits
            into ``memory_limit``, or this one does not; a mode that there is not.
        ConfigError: ``noise`` is neither "auto" nor such a number, or is one for a network that
            takes none.
        FrameError: no such pixel format.
        DeviceError: a GPU is needed and missing, or its memory does not suffice.
        MissingDependencyError: statistics of the frame need the packages onnx and onnx_ir.

    A network of super-resolution makes frames ``scale`` times as high and wide: they are enlarged
    bicubically on the way into it. Tile, halo and blend are then in pixels of the enlarged frame.

    Calls from several threads wait for each other. On a TensorRT engine of three channels frames
    stay on the device from upload to download; see `mirnet_edge.device.path`.
    """

    @explained(EngineError)
    def __init__(
        self,
        model: ModelPath | Sequence[ModelPath] | Engine,
        *,
        tile: Tile = "auto",
        halo: int = DEFAULT_HALO_PX,
        blend: int = 0,
        statistics: Mode | Literal["auto"] | StatisticsSettings = "auto",
        noise: Noise = "auto",
        pixels: PixelFormat | str = "auto",
        frame_size: tuple[int, int] | None = None,
        memory_limit: int | None = None,
        threads: int | None = None,
        provider: str | None = None,
        tuned: bool = True,
        timeout: float | None = None,
        nan: Nan = "auto",
    ) -> None:
        self.tuned: Tuned | None = None
        is_left_to_it = (tile, memory_limit, threads, provider) == ("auto", None, None, None)
        if tuned and is_left_to_it and isinstance(model, (str, os.PathLike)):
            self.tuned = tuned_for(model)
            if self.tuned is not None:
                model, tile = self.tuned.engine_path(model), self.tuned.cut
                threads, provider = self.tuned.threads, self.tuned.provider
                statistics = self.tuned.statistics if statistics == "auto" else statistics
        self._closed = True  # until an engine is open: whatever fails before has nothing to close
        self._lock = threading.RLock()  # a progress callback may close
        self._deadline, self._nan = Deadline(timeout), nan
        self._halo, self._blend, self._asked_tile = halo, blend, tile
        self._memory_limit, self._frame_size = memory_limit, frame_size
        self._settings = asked_settings(statistics)
        checked_noise(noise)
        self._asked_noise = noise
        self._pixels = None if pixels == "auto" else pixel_format(pixels)
        self._choice = choice_of(model, memory_limit, threads, provider, self._require_tile)
        engine = model if self._choice is None else self._choice.open()
        self._open(engine)  # type: ignore[arg-type]

    def _require_tile(self, card: EngineCard) -> None:
        """Check that tiles of this engine can be cut as asked."""
        Cut.of(card.facts, self._asked_tile, card.tile, self._halo, self._blend)

    def _open(self, engine: Engine) -> None:
        """Settle all that depends on the engine; the next one where its memory does not suffice."""
        self.engine = engine
        self._closed = False
        self.facts: ModelFacts = facts_of_engine(engine)
        self._path: HostPath | DevicePath | None = None
        self._host_limit = None if works_on_device(engine) else self._memory_limit
        try:
            halo, blend, limit = self._halo, self._blend, self._memory_limit
            self._cut = cut_for_engine(engine, self.facts, self._asked_tile, halo, blend, limit)
            self._noise = NoiseLevel.for_network(self.facts, self._asked_noise)
            settings = self._settings
            if self._cut.tile is None and settings is None:
                settings = StatisticsSettings()  # whole frames share with none: no graphs for it
            self.statistics, self._unshared = shared_statistics(engine, self.facts, settings)
            self._path = path_to(
                engine,
                facts=self.facts,
                tiling=self.tiling,
                statistics=self.statistics,
                samples=(settings or StatisticsSettings()).samples,
                noise=self._noise,
                pixels=self._pixels,
                frame_size=self._frame_size,
                memory_limit=self._memory_limit,
                nan=self._nan,
            )
            if self._cut.tile is not None:
                require_memory(self.facts, self._cut.tile, self._host_limit)
        except DeviceMemoryError as error:
            self._open(self._next_engine(error))
        except MirnetEdgeError:
            self.close()
            raise

    def _next_engine(self, error: DeviceMemoryError) -> Engine:
        """Close this engine, whose memory did not suffice, and open the next one; ``error`` where
        there is none."""
        self.close()
        if self._choice is None:
            raise error
        return self._choice.open_next(error)

    @overload
    def __call__(
        self,
        frame: NDArray[Sample],
        out: NDArray[Sample] | None = None,
        progress: Progress | None = None,
    ) -> NDArray[Sample]: ...
    @overload
    def __call__(
        self, frame: object, out: object = None, progress: Progress | None = None
    ) -> Any: ...
    def __call__(
        self, frame: object, out: object = None, progress: Progress | None = None
    ) -> object:
        """Restore one frame.

        Args:
            frame: (H, W), (H, W, 1) gray, (H, W, 2) gray and alpha (of the host), (H, W, 3) RGB or
                (H, W, 4) RGBA, or as ``pixels`` says; uint8, uint16, or float32 in [0, 1]. Any size
                from 1x1. A numpy array; with a TensorRT engine any array with
                ``__cuda_array_interface__``, DLPack or the buffer protocol, on the host or the GPU.
            out: written to and returned; of the restored frame's shape and dtype, sharing no memory
                with the frame. None allocates where the frame is.
            progress: called with (tiles done, tiles) after each tile; on the device at the end.

        Returns:
            The restored frame, of the frame's shape, each side times ``scale``, and dtype; clamped;
            alpha copied, or enlarged bicubically. A network whose output channels differ from its
            input's returns (H, W, output channels). For a frame on the GPU a `DeviceArray`, which
            PyTorch and CuPy take without a copy. Its memory comes round: hold it until what reads
            it on another stream than the default is done.

        Raises:
            FrameError: the array is no such frame.
            EngineError: the engine failed, or this Restorer is closed.
            DeviceError: the GPU failed.
            TilingError: whole frames (``tile=None``) of which this one exceeds ``memory_limit``.

        A float32 frame of the host that holds NaN, or values that are not of [0, 1] and noise, is
        refused; not so on the GPU, where frames are not searched: what is beyond the range is cut.
        """
        with self._deadline.entering(self._lock):
            path, ticket = self._submit(frame, out, progress)
            return self._deadline.call(path.collect, ticket)

    def _submit(
        self,
        frame: object,
        out: object = None,
        progress: Progress | None = None,
        stream: object = None,
    ) -> tuple[Any, Any]:
        """Start on a frame, on the first engine that is left whose memory suffices; ``stream`` is
        an object of the stream that it is of."""
        with self._deadline.entering(self._lock):
            while True:
                path = self._require_path()
                if self._noise is not None:
                    self._noise.begin(stream)
                if self.statistics is not None:
                    self.statistics.begin(stream)
                try:
                    return path, self._deadline.call(path.submit, frame, out, progress=progress)
                except DeviceMemoryError as error:
                    if self._choice is None or not self._choice.left:
                        raise  # smaller frames may still fit
                    self._open(self._next_engine(error))

    @explained(StreamError)
    def stream(
        self,
        frames: object,
        *,
        queue: int = 2,
        drop: Drop = "never",
        timestamps: Iterable[float] | None = None,
        pace: Pace = "free",
        timeout: float | None = None,
        reconnect: int = 0,
        latency: Wait = "throughput",
    ) -> FrameStream:
        """Restore frames one after another, in their order; on the device the copies of one
        overlap the engine on another. What was gathered from frames before is forgotten, so that
        equal streams have equal results.

        Args:
            frames: an iterable of arrays, a queue, a folder or pattern of images, a video file or
                URL, the number of a camera, a `Camera`, a GStreamer string, a ``cv2.VideoCapture``;
                with ``async for`` an async iterable as well. Arrays lie as ``pixels`` says; videos
                are converted to it, the colours of files and captures put in its order, RGB where
                it names none.
            queue: frames that may wait for the engine, at least 1.
            drop: "never" lets the source wait when the engine is busy; "oldest" throws the oldest
                waiting frame away, for a live camera.
            timestamps: of the frames, in seconds; None takes those of a video, else when they were
                read.
            pace: "free" reads as fast as frames are wanted, "source" plays a video at its own rate.
            timeout: seconds after which a source that gives nothing is an error.
            reconnect: how often in a row a live source that stops is opened again.
            latency: "low" restores the newest frame alone, once the one before was taken.

        Returns:
            To iterate over, with ``for`` or ``async for``; its ``frames()`` have numbers,
            timestamps and latencies, its ``to()`` drains it into a sink. Close it, or leave its
            with block, before this Restorer.

        Raises:
            StreamError: frames that cannot be read.
        """
        submit, depth = partial(self._submit, stream=object()), self._require_path().depth
        path = StreamedPath(submit, depth, self._deadline.call)
        return FrameStream(
            path,
            frames,
            queue=queue,
            drop=drop,
            timestamps=timestamps,
            pace=pace,
            timeout=timeout,
            reconnect=reconnect,
            pixels=self._pixels,
            latency=latency,
        )

    def buffers(self, shape: tuple[int, ...], dtype: DTypeLike = np.uint8) -> FrameBuffers:
        """Memory for a frame of that shape and its restored one, which a GPU copies by itself."""
        return self._require_path().buffers(shape, dtype)

    @property
    def noise(self) -> Noise:
        """How noisy frames are said to be, as ``Restorer(noise=…)`` takes it; may be changed from
        one frame to the next, in a stream too."""
        return self._asked_noise

    @noise.setter
    def noise(self, noise: Noise) -> None:
        with self._lock:
            if self._noise is not None:
                self._noise.tell(noise)
            else:
                NoiseLevel.for_network(self.facts, noise)  # says why a number is of no use
            self._asked_noise = noise

    @property
    def scale(self) -> int:
        """How many times as high and wide as a frame its restored one is."""
        return self.facts.scale

    @property
    def timings(self) -> Timings:
        """Of the last frame."""
        return self._path.timings if self._path is not None else Timings()

    @explained(EngineError)
    def latency(self, frames: int | None = None) -> Latency:
        """Where the time of the last frames went: p50, p90 and p99 of each part.

        Args:
            frames: how many, 1000 at most; None for all that are kept.
        """
        return self._require_path().latency(frames)

    def tiling(self, height: int, width: int) -> Tiling:
        """How a frame that is restored to ``height`` x ``width`` pixels is cut into tiles."""
        tiling = self._cut.tiling(height, width)
        self._unshared.tell(tiling, height, width)
        return tiling

    def _require_path(self) -> HostPath | DevicePath:
        if self._closed or self._path is None:
            raise EngineError("this Restorer is closed; make a new one")
        return self._path

    def reopen(self) -> None:
        """Close the engine as far as it can be, and open its file again, as all was asked for:
        after a `DeviceError` that lost the GPU (see `cuda.device.revive`), or an engine that hung.

        Raises:
            EngineError: the engine was given open, or cannot be loaded again.
            DeviceError: the GPU does not come back, or its memory does not suffice.
        """
        if self._choice is None:
            raise EngineError("this Restorer was given an open engine; open both again")
        with self._deadline.entering(self._lock):
            with suppress(MirnetEdgeError):  # of what is lost, not all can be given back
                self.close()
            self._deadline = Deadline(self._deadline.limit_s)
            self._open(self._choice.open_again(self.engine))

    def close(self, timeout: float | None = None) -> None:
        """Wait for what runs, for ``timeout`` seconds if that is given (and then raise an
        `EngineError`), and close the engine if it was opened here. A second call does nothing, nor
        does one in a forked process; an engine that hangs is left as it is."""
        if self._deadline.is_elsewhere:
            return
        with self._deadline.entering(self._lock, timeout):
            if self._closed:
                return
            self._closed = True
            self._deadline.close()
            if self._deadline.missed:
                return
            with ExitStack() as last:  # the engine too where the path fails to close
                if self._choice is not None and hasattr(self.engine, "close"):
                    last.callback(self.engine.close)
                if self._path is not None:
                    self._path.close()

    def __enter__(self) -> Restorer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
