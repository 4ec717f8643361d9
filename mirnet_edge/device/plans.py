"""Which plan serves the frames of a layout: the one at hand, or a new one, within memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from mirnet_edge.device.array_layout import ArrayLayout
from mirnet_edge.device.batch_loop import Machine
from mirnet_edge.device.frame_plan import SLOTS, FramePlan
from mirnet_edge.engines.protocol import fit_engine
from mirnet_edge.errors import DeviceMemoryError, TilingError
from mirnet_edge.facts import ModelFacts
from mirnet_edge.frame_path import check_size
from mirnet_edge.pooling.samples import kept_regions, sample_tiles
from mirnet_edge.tiling.geometry import Cover, Tiling


class Plans:
    """Makes plans, and closes each with the last of its frames.

    Args:
        machine: runs them.
        tiling: how a frame that is restored to (height, width) is cut.
        shares: whether the tiles of a frame share something.
        samples: about how many tiles make a sample.
        frame_size, memory_limit: see `Restorer`.
    """

    def __init__(
        self,
        machine: Machine,
        facts: ModelFacts,
        tiling: Callable[[int, int], Tiling],
        *,
        shares: bool,
        samples: int,
        frame_size: tuple[int, int] | None,
        memory_limit: int | None,
    ) -> None:
        self.current: FramePlan | None = None
        self._machine, self._facts, self._tiling = machine, facts, tiling
        self._shares, self._samples = shares, samples
        self._frame_size, self._memory_limit = frame_size, memory_limit
        self._fitted = 0
        self._retired: list[FramePlan] = []

    def of(self, layout: ArrayLayout, beside_bytes: int = 0) -> FramePlan:
        """The plan for frames of a layout; ``beside_bytes`` are what else is held for them.

        Raises:
            FrameError: frames of another size than the only one.
            TilingError: such a frame cannot be cut.
            DeviceMemoryError: more than there is, or than ``memory_limit``.
        """
        plan = self.current
        if plan is not None and plan.layout == layout and self._fit(plan.cover) == self._fitted:
            return plan
        size = layout.height, layout.width
        check_size(size, self._frame_size)
        restored = self._facts.scale * layout.height, self._facts.scale * layout.width
        cover = self._tiling(*restored).cover(*restored)
        if layout.pixels.is_yuv and cover.blend % 4:
            raise TilingError(
                f"blend={cover.blend} with {layout.pixels.name}: tiles of frames whose pixels "
                "share chroma fade over multiples of 4 pixels"
            )
        rule = self._facts.size_rule
        shares = self._shares and len(cover) > 1
        # The old plan goes before the new one is made, since memory need not hold both; one with a
        # frame in flight goes with that frame.
        if self.current is not None:
            self._retired.append(self.current)
            self.current = None
            self.close_retired()
        self._fitted = self._fit(cover)
        regions = kept_regions(cover, rule) if shares else ()
        samples = sample_tiles(cover, self._samples, rule) if shares else ()
        plan = FramePlan(self._machine, layout, cover, regions, samples)
        try:
            self._check_memory(plan, beside_bytes)
        except DeviceMemoryError:
            plan.close()
            raise
        self.current = plan
        return plan

    def _fit(self, cover: Cover) -> int:
        """Have the engine take these tiles; what it returns, see `fit_engine`."""
        size = cover.rows[0].size, cover.columns[0].size
        return fit_engine(self._machine.engine, size, steady=self._frame_size is not None)

    def _check_memory(self, plan: FramePlan, beside_bytes: int) -> None:
        """Of the engine, the plan, and the frames in flight on both sides, which come next."""
        engine, layout = self._machine.engine, plan.layout
        held = engine.device_bytes
        frames = SLOTS * (layout.size_bytes + plan.target_layout.size_bytes)
        tables = plan.size_bytes + beside_bytes
        needed = held.total + tables + frames
        if self._memory_limit is not None and needed > self._memory_limit:
            raise DeviceMemoryError(
                f"{engine.path.name} with frames of {layout.height}x{layout.width} takes "
                f"{needed:,} bytes of device memory (weights {held.weights:,}, activations "
                f"{held.activations:,}, tiles {held.tiles:,}, tables and waiting tiles "
                f"{tables:,}, frames {frames:,}), more than "
                f"memory_limit={self._memory_limit:,}; give an engine of a smaller tile or batch"
            )

    def close_retired(self) -> None:
        """Close the plans of earlier layouts that no frame uses any more."""
        for plan in [plan for plan in self._retired if not plan.busy]:
            self._retired.remove(plan)
            plan.close()

    def close(self) -> None:
        """Close all of them, whatever fails on the way."""
        with ExitStack() as last:
            for plan in (*self._retired, self.current):
                if plan is not None:
                    last.callback(plan.close)
