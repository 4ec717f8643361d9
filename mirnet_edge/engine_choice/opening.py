"""What a `Restorer` is asked for, and the engines with their paths that serve it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal

from mirnet_edge.deadline import Deadline
from mirnet_edge.engine_choice import ModelPath, choice_of, path_to
from mirnet_edge.engines.card import EngineCard
from mirnet_edge.engines.cutting import cut_for_engine
from mirnet_edge.engines.gpu_there import Devices, asked_devices
from mirnet_edge.engines.protocol import Engine, facts_of_engine, works_on_device
from mirnet_edge.engines.shared import asked_settings, shared_statistics
from mirnet_edge.engines.tuned import Tuned, tuned_for
from mirnet_edge.errors import DeviceMemoryError, EngineError, MirnetEdgeError, placed
from mirnet_edge.facts import ModelFacts
from mirnet_edge.frame_path import Nan
from mirnet_edge.frames.noise_level import Noise, NoiseLevel, checked_noise
from mirnet_edge.frames.pixel_formats import PixelFormat, pixel_format
from mirnet_edge.pooling import Mode
from mirnet_edge.pooling.passes import FrameStatistics, StatisticsSettings
from mirnet_edge.stream.lanes import Lane, Lanes
from mirnet_edge.tiling.choice import Cut, Tile, require_memory
from mirnet_edge.tiling.geometry import Tiling


class Opening:
    """Opens the engines, and makes the way of frames through each; see `Restorer` for the arguments
    and errors.

    Attributes:
        tuned: the answer of ``mirnet-edge tune`` that is followed; None without.
        noise: as asked for last.
        pixels: the only format of frames; None where there is none.
        lanes: one for each device; empty until something is open.
        engines: of them.
        facts: of the model.
        statistics: of the first lane.
    """

    engines: tuple[Engine, ...]
    facts: ModelFacts
    statistics: FrameStatistics | None

    def __init__(
        self,
        model: ModelPath | Sequence[ModelPath] | Engine,
        *,
        devices: Devices | None,
        tile: Tile,
        halo: int,
        blend: int,
        statistics: Mode | Literal["auto"] | StatisticsSettings,
        noise: Noise,
        pixels: PixelFormat | str,
        frame_size: tuple[int, int] | None,
        memory_limit: int | None,
        threads: int | None,
        provider: str | None,
        tuned: bool,
        timeout: float | None,
        nan: Nan,
    ) -> None:
        self.tuned: Tuned | None = None
        self.lanes = Lanes(())
        is_left_to_it = (tile, memory_limit, threads, provider) == ("auto", None, None, None)
        if tuned and is_left_to_it and isinstance(model, (str, os.PathLike)):
            self.tuned = tuned_for(model, asked_devices(devices)[0])
            if self.tuned is not None:
                model, tile = self.tuned.engine_path(model), self.tuned.cut
                threads, provider = self.tuned.threads, self.tuned.provider
                statistics = self.tuned.statistics if statistics == "auto" else statistics
        Deadline(timeout)  # said now if it cannot be
        self._timeout, self._nan = timeout, nan
        self._halo, self._blend, self._tile = halo, blend, tile
        self._memory_limit, self._frame_size = memory_limit, frame_size
        self._settings = asked_settings(statistics)
        checked_noise(noise)
        self.noise = noise
        self.pixels = None if pixels == "auto" else pixel_format(pixels)
        self._choice = choice_of(
            model, memory_limit, threads, provider, devices, self._require_tile
        )
        self._open([model] if self._choice is None else self._choice.open())  # type: ignore[list-item]

    def _require_tile(self, card: EngineCard) -> None:
        """Check that tiles of this engine can be cut as asked."""
        Cut.of(card.facts, self._tile, card.tile, self._halo, self._blend)

    def _open(self, engines: Sequence[Engine]) -> None:
        """Settle all that depends on the engines, which are equal; the next ones where their memory
        does not suffice."""
        if len(self.lanes) == len(engines):
            for lane, engine in zip(self.lanes, engines):
                lane.take(engine)
        else:
            ours, several = self._choice is not None, len(engines) > 1
            self.lanes = Lanes(
                Lane(engine, is_ours=ours, timeout_s=self._timeout, is_named=several)
                for engine in engines
            )
        self.engines, self.facts = tuple(engines), facts_of_engine(engines[0])
        try:
            self._cut = self._cut_for_all()
            settings = self._settings
            if self._cut.tile is None and settings is None:
                settings = StatisticsSettings()  # whole frames share with none: no graphs for it
            for lane in self.lanes:
                with placed(lane.name):
                    self._make_path(lane, settings)
            self.statistics = self.lanes[0].statistics
            if self._cut.tile is not None and not works_on_device(engines[0]):
                require_memory(self.facts, self._cut.tile, self._memory_limit)
        except DeviceMemoryError as error:
            self.open_next(error)
        except MirnetEdgeError:
            self.lanes.close()
            raise

    def _cut_for_all(self) -> Cut:
        """How frames are cut: by the device that has the least memory, so that it does not matter
        to which one a frame goes."""
        asked = self.facts, self._tile, self._halo, self._blend, self._memory_limit
        cuts = [cut_for_engine(engine, *asked) for engine in self.engines]
        return min(cuts, key=lambda cut: cut.whole_px)

    def _make_path(self, lane: Lane, settings: StatisticsSettings | None) -> None:
        lane.noise = NoiseLevel.for_network(self.facts, self.noise)
        lane.statistics, self._unshared = shared_statistics(lane.engine, self.facts, settings)
        lane.path = path_to(
            lane.engine,
            facts=self.facts,
            tiling=self.tiling,
            statistics=lane.statistics,
            samples=(settings or StatisticsSettings()).samples,
            noise=lane.noise,
            pixels=self.pixels,
            frame_size=self._frame_size,
            memory_limit=self._memory_limit,
            nan=self._nan,
        )

    def tiling(self, height: int, width: int) -> Tiling:
        """How a frame that is restored to ``height`` x ``width`` pixels is cut into tiles."""
        tiling = self._cut.tiling(height, width)
        self._unshared.tell(tiling, height, width)
        return tiling

    def open_next(self, error: DeviceMemoryError) -> None:
        """Close these engines, whose memory did not suffice, and open the next of the files that
        were given; ``error`` where there is none."""
        self.lanes.close()
        if self._choice is None:
            raise error
        self._open(self._choice.open_next(error))

    @property
    def has_next(self) -> bool:
        """Whether there is a smaller engine to go on with while frames are restored: of one device,
        as those of several would have to change at once."""
        return self._choice is not None and bool(self._choice.left) and len(self.lanes) == 1

    def open_again(self) -> None:
        """See `Restorer.reopen`."""
        if self._choice is None:
            raise EngineError("this Restorer was given an open engine; open both again")
        with suppress(MirnetEdgeError):  # of what is lost, not all can be given back
            self.lanes.close()
        self._open(self._choice.open_again(self.engines))
