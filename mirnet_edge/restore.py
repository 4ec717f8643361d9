"""A frame in, a restored frame out: `Restorer` owns the engine and the way through it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal, TypeVar, overload
from weakref import WeakSet

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mirnet_edge._arguments import explained
from mirnet_edge.engine_choice import ModelPath
from mirnet_edge.engine_choice.opening import Opening
from mirnet_edge.engines.gpu_there import Devices
from mirnet_edge.engines.protocol import Engine
from mirnet_edge.engines.shared import Continuity
from mirnet_edge.engines.tuned import Tuned
from mirnet_edge.errors import DeviceMemoryError, EngineError, StreamError, placed
from mirnet_edge.facts import ModelFacts
from mirnet_edge.frame_path import DeviceWork, FrameBuffers, Latency, Nan, Progress, Timings
from mirnet_edge.frames.noise_level import Noise, NoiseLevel
from mirnet_edge.frames.pixel_formats import PixelFormat
from mirnet_edge.pooling import Mode
from mirnet_edge.pooling.passes import FrameStatistics, StatisticsSettings
from mirnet_edge.stream.frame_stream import Drop, FrameStream, Pace, Wait
from mirnet_edge.stream.lanes import EnginePath, Lane, Lanes, LaneStream, gpu_of
from mirnet_edge.stream.parallel import ParallelPath
from mirnet_edge.tiling.choice import Tile
from mirnet_edge.tiling.geometry import Tiling

DEFAULT_HALO_PX = 16
Sample = TypeVar("Sample", bound=np.generic)


class Restorer:
    """Restores frames of any size with one model.

    Args:
        model: an ``.onnx`` file, a checkpoint, an ``.engine`` file, a bundled model's name, or any
            object with ``run()`` (see `Engine`), which the caller closes. Of several files the
            first that fits into memory is taken: engines of one network with smaller and smaller
            tiles or batches. Later ones whose tiles cannot be cut as asked are left out.
        devices: the GPUs that the model is opened on, by their numbers, as [0, 1], or "all"; None
            is the first. Frames of a stream go to the first that has room, and come in their order;
            a single frame goes to one that is free, so that calls from several threads run at once.
            A frame that lies on a GPU stays there. Of an engine of the CPU "all" is that one, and a
            list an error.
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

    Raises:
        EngineError, CheckpointError: the model cannot be loaded, or not be given statistics.
        TilingError: a tile that is no multiple of 4, or too small for halo and blend; no tile fits
            into ``memory_limit``, or this one does not; a mode that there is not.
        ConfigError: ``noise`` is neither "auto" nor such a number, or is one for a network that
            takes none.
        FrameError: no such pixel format.
        DeviceError: a GPU is needed and missing, or its memory does not suffice. Where there are
            several, messages begin with the one that failed.
        MissingDependencyError: statistics of the frame need the packages onnx and onnx_ir.

    A network of super-resolution makes frames ``scale`` times as high and wide: they are enlarged
    bicubically on the way into it. Tile, halo and blend are then in pixels of the enlarged frame.

    Calls from several threads wait for each other, where there is one device. On a TensorRT engine
    of three channels frames stay on the device from upload to download; see
    `mirnet_edge.device.path`.
    """

    @explained(EngineError)
    def __init__(
        self,
        model: ModelPath | Sequence[ModelPath] | Engine,
        *,
        devices: Devices | None = None,
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
        self._noises: WeakSet[NoiseLevel] = WeakSet()  # of streams over several devices
        self._opening = Opening(
            model,
            devices=devices,
            tile=tile,
            halo=halo,
            blend=blend,
            statistics=statistics,
            noise=noise,
            pixels=pixels,
            frame_size=frame_size,
            memory_limit=memory_limit,
            threads=threads,
            provider=provider,
            tuned=tuned,
            timeout=timeout,
            nan=nan,
        )

    @property
    def engine(self) -> Engine:
        """In use; the first of several devices."""
        return self._opening.engines[0]

    @property
    def engines(self) -> tuple[Engine, ...]:
        """In use, one for each device."""
        return self._opening.engines

    @property
    def tuned(self) -> Tuned | None:
        """The answer of ``mirnet-edge tune``; None where there is none or none was wanted."""
        return self._opening.tuned

    @property
    def facts(self) -> ModelFacts:
        """What the model says of itself."""
        return self._opening.facts

    @property
    def statistics(self) -> FrameStatistics | None:
        """What the tiles of a frame share, None where each has its own; of the first device."""
        return self._opening.statistics

    @property
    def _lanes(self) -> Lanes:
        return self._opening.lanes

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
        home = gpu_of(frame) if len(self._lanes) > 1 else None
        with self._lanes.free(home) as lane:
            return lane.collect(*self._submit(lane, frame, out, progress))

    def _submit(
        self,
        lane: Lane,
        frame: object,
        out: object = None,
        progress: Progress | None = None,
        stream: object = None,
        continuity: Continuity | None = None,
    ) -> tuple[EnginePath, Any]:
        """Start on a frame, on the first engine that is left whose memory suffices; ``stream`` is
        an object of the stream that it is of, ``continuity`` is of one over several lanes."""
        with placed(lane.name), lane.deadline.entering(lane.lock):
            while True:
                path = lane.open_path()
                submit: Callable[..., Any] = path.submit
                own = continuity is None or continuity.statistics is lane.statistics
                if lane.statistics is not None and own:
                    lane.statistics.begin(stream)
                if continuity is not None:
                    submit = partial(submit, continuity=continuity)
                elif lane.noise is not None:
                    lane.noise.begin(stream)
                try:
                    return path, lane.deadline.call(submit, frame, out, progress=progress)
                except DeviceMemoryError as error:
                    if not self._opening.has_next:
                        raise  # smaller frames may still fit
                    self._opening.open_next(error)

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
        return FrameStream(
            self._parallel() if len(self._lanes) > 1 else self._streamed(self._lanes[0]),
            frames,
            queue=queue,
            drop=drop,
            timestamps=timestamps,
            pace=pace,
            timeout=timeout,
            reconnect=reconnect,
            pixels=self._opening.pixels,
            latency=latency,
        )

    def _streamed(self, lane: Lane, continuity: Continuity | None = None) -> LaneStream:
        depth = lane.open_path().depth
        begin = partial(self._submit, lane, stream=object())
        return LaneStream(lane, begin, depth, continuity)

    def _parallel(self) -> ParallelPath:
        """All lanes as one path. What a frame leaves for the next goes on with it, in their
        order."""
        lag, shared = 0, None
        if self.statistics is not None and self.statistics.mode_in_streams == "stream":
            lag = sum(lane.open_path().depth for lane in self._lanes)
            shared = self.statistics.of_stream(lag)
        noise = NoiseLevel.for_network(self.facts, self.noise)
        if noise is not None:
            noise.begin(object())
            self._noises.add(noise)
        paths = [
            self._streamed(lane, Continuity(shared or lane.statistics, noise))
            for lane in self._lanes
        ]
        in_turn = shared is not None or noise is not None
        return ParallelPath(paths, gpu_of, in_turn=in_turn, lag=lag)

    def buffers(self, shape: tuple[int, ...], dtype: DTypeLike = np.uint8) -> FrameBuffers:
        """Memory for a frame of that shape and its restored one, which a GPU copies by itself."""
        return self._lanes[0].open_path().buffers(shape, dtype)

    @property
    def noise(self) -> Noise:
        """How noisy frames are said to be, as ``Restorer(noise=…)`` takes it; may be changed from
        one frame to the next, in a stream too."""
        return self._opening.noise

    @noise.setter
    def noise(self, noise: Noise) -> None:
        NoiseLevel.for_network(self.facts, noise)  # says why it is of no use
        for told in (*(lane.noise for lane in self._lanes), *self._noises):
            if told is not None:
                told.tell(noise)
        self._opening.noise = noise

    @property
    def scale(self) -> int:
        """How many times as high and wide as a frame its restored one is."""
        return self.facts.scale

    @property
    def timings(self) -> Timings:
        """Of the last frame."""
        return self._lanes.timings

    @property
    def devices(self) -> tuple[DeviceWork, ...]:
        """What each GPU did; none where the model runs on the CPU."""
        return tuple(work for lane in self._lanes if (work := lane.work()) is not None)

    @explained(EngineError)
    def latency(self, frames: int | None = None) -> Latency:
        """Where the time of the last frames went: p50, p90 and p99 of each part.

        Args:
            frames: how many, 1000 at most; None for all that are kept.
        """
        return self._lanes.latency(frames)

    def tiling(self, height: int, width: int) -> Tiling:
        """How a frame that is restored to ``height`` x ``width`` pixels is cut into tiles."""
        return self._opening.tiling(height, width)

    def reopen(self) -> None:
        """Close the engine as far as it can be, and open its file again, as all was asked for:
        after a `DeviceError` that lost the GPU (see `cuda.device.revive`), or an engine that hung.

        Raises:
            EngineError: the engine was given open, or cannot be loaded again.
            DeviceLostError: the GPU does not come back to this process.
            DeviceError: its memory does not suffice.
        """
        with self._lanes.all():
            self._opening.open_again()

    def close(self, timeout: float | None = None) -> None:
        """Wait for what runs, for ``timeout`` seconds if that is given (and then raise an
        `EngineError`), and close the engine if it was opened here. A second call does nothing, nor
        does one in a forked process; an engine that hangs is left as it is."""
        self._lanes.close(timeout)

    def __enter__(self) -> Restorer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
