"""Calibration tiles: what engines are compared on, and what INT8 is chosen by."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from mirnet_edge.build.graphs import SourceGraph, without_qdq
from mirnet_edge.build.settings import Settings
from mirnet_edge.engines.onnx_engine import OnnxEngine
from mirnet_edge.engines.protocol import Tiles
from mirnet_edge.errors import BuildError, CalibrationError
from mirnet_edge.frame_path import StageProgress
from mirnet_edge.metrics import psnr
from mirnet_edge.pooling.tensors import STATISTIC
from mirnet_edge.pooling.vectors import Weights
from mirnet_edge.quantize import sigma_for
from mirnet_edge.quantize.calibration import CalibrationSet
from mirnet_edge.quantize.calibration.sources import Source
from mirnet_edge.quantize.recorded import QuantizedGraph, quantized_graph, record_sha256
from mirnet_edge.tiling.choice import tile_bytes

# Of an engine without and with INT8. The FP32 reference runs on the CPU: MIRNet-v2 takes seconds
# for each tile of 256x256.
TILES_COMPARED, TILES_CALIBRATED = 8, 16
# Of pixels, those of as many tiles of 512x512, which for a tile as large as a frame is one; but a
# quarter of the tiles at least.
COMPARED_TILE_PX = 512 * 512


@dataclass
class Calibration:
    """Calibration tiles, their restoration on the CPU, and the pairs chosen on them; each is made
    when first asked for.

    Attributes:
        source, settings: of the plain engine.
        frames: None for the bundled ones.
        statistics: whether each tile's pooled vectors are wanted too.
        notes: for the cards: of the calibration set, and of what was chosen by it.
    """

    source: SourceGraph
    settings: Settings
    frames: Source
    statistics: bool
    progress: StageProgress | None
    notes: list[str] = field(default_factory=list)

    @property
    def _is_bundled(self) -> bool:
        """Whether neither frames nor noise are the user's."""
        return self.frames is None and self.settings.sigma is None

    @cached_property
    def tiles(self) -> CalibrationSet | None:
        """What engines run; None where the bundled set does not fit the network."""
        facts, settings = self.source.facts, self.settings
        if self._lacks_memory():
            return None
        count = TILES_CALIBRATED if settings.precision == "int8" else TILES_COMPARED
        most = count * COMPARED_TILE_PX // math.prod(settings.tile)
        try:
            found = CalibrationSet.open(
                self.frames,
                tile=settings.tile,
                count=min(count, max(most, count // 4)),
                # As `quantize_onnx` chooses it.
                sigma=sigma_for(facts) if self._is_bundled else settings.sigma,
                in_channels=facts.in_channels,
                noise_level=facts.noise_level,
                scale=facts.scale,
            )
        except CalibrationError as error:
            # The bundled frames are three-channel photos; a network of another kind is built too.
            if self.frames is not None:
                raise
            self.notes.append(f"accuracy not measured: {error}")
            return None
        self.notes.extend(found.warnings)
        return found

    def _lacks_memory(self) -> bool:
        """Whether the FP32 reference of a tile, on the CPU, would take half of the memory that is
        free, which then is noted. INT8 cannot do without."""
        needed = tile_bytes(self.source.facts, self.settings.tile)
        free = psutil.virtual_memory().available
        lacks = self.settings.precision != "int8" and needed > free // 2
        if lacks:
            self.notes.append(
                f"accuracy not measured: the FP32 reference of a tile takes about {needed:,} bytes "
                f"on the CPU, and {free:,} are free"
            )
        return lacks

    def _require_tiles(self) -> CalibrationSet:
        """Return `tiles`; where there are none, a `CalibrationError` is raised."""
        if self.tiles is None:
            raise CalibrationError(
                "no tiles to calibrate INT8 with; name a folder of frames that fit the network"
            )
        return self.tiles

    @cached_property
    def restored(self) -> tuple[Tiles, dict[str, NDArray[np.float32]]]:
        """The tiles restored; and with ``statistics`` the pooled vectors of each, (count, C, 1, 1)
        by the names that an apply graph's inputs have."""
        tiles, graph = self._require_tiles().tiles, self.source.reference
        if self.source.quantized:
            graph = without_qdq(graph)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "reference.onnx"
            path.write_bytes(graph.SerializeToString())
            engine = OnnxEngine(path, provider="CPUExecutionProvider")
            # While the file is there: the graphs that gather are made of it.
            pooling = engine.statistics if self.statistics else None
        height, width = tiles.shape[2:]
        whole = Weights.of((height, width), slice(0, height), slice(0, width))
        outputs, vectors = [], []
        for index, tile in enumerate(tiles):
            if self.progress is not None:
                self.progress("FP32 reference", index, len(tiles))
            if pooling is None:
                outputs.append(engine.run(tile[None])[0])
            else:
                restored, partial = pooling.gather(tile[None], whole, None)
                outputs.append(restored[0])
                vectors.append(partial.vectors)
        engine.close()
        stacks = (np.concatenate(column) for column in zip(*vectors))
        return np.stack(outputs), {f"{STATISTIC}.{index}": s for index, s in enumerate(stacks)}

    @property
    def _takes_record(self) -> bool:
        """As `quantize_onnx` does; records are of rewritten graphs."""
        return self._is_bundled and self.source.rewrites

    def decisive(self) -> dict[str, str]:
        """List what the pairs are chosen by: the calibration set, and the record."""
        decisive = {"calibration": self.tiles.sha256} if self.tiles is not None else {}
        if self._takes_record and (record := record_sha256(self.source.sha256)):
            decisive["record"] = record
        return decisive

    @cached_property
    def pairs(self) -> QuantizedGraph:
        """The graph of one tile, whatever the batch, with the pairs that were chosen.

        Raises:
            BuildError: no convolution can be INT8 within the budget.
        """
        source, settings = self.source, self.settings
        pairs = quantized_graph(
            source.proto,
            source.fitted(source.reference, 1),
            self._require_tiles,
            use_record=self._takes_record,
            method=settings.method,
            budget_db=settings.budget_db,
            progress=self.progress,
        )
        self.notes.extend(pairs.notes)
        if not pairs.plan.int8_nodes:
            least = min(pairs.plan.all_int8_loss_db.values())
            raise BuildError(
                f"no group of layers can be INT8 within a budget of {settings.budget_db:g} dB (all "
                f"of them cost {least:.3f} dB); allow more, or build it in fp16"
            )
        return pairs

    def said(self) -> dict[str, str | float]:
        """What a card tells of the pairs."""
        plan = self.pairs.plan
        return {
            "recorded": self.pairs.images is None,
            "method": plan.method,
            "simulated_loss_db": round(plan.loss_db, 4),
            "against": plan.against,
            "int8_share_of_macs": round(plan.int8_share, 4),
            "int8_nodes": len(plan.int8_nodes),
        }


def accuracy(
    outputs: Tiles, references: Tiles, targets: Tiles | None
) -> tuple[float, float | None]:
    """Measure the least PSNR of the outputs against the references, and the mean PSNR that they
    lose on the targets, both clamped to [0, 1]; in dB.

    Raises:
        BuildError: an output is not finite.
    """
    if not np.isfinite(outputs).all():
        raise BuildError(
            "the engine's output is not finite on the calibration tiles: a value exceeds FP16's "
            "range of 65504. Build it in fp32, and please report this network"
        )
    least = min(psnr(output, reference) for output, reference in zip(outputs, references))
    if targets is None:
        return least, None
    losses = [
        psnr(reference.clip(0, 1), target) - psnr(output.clip(0, 1), target)
        for output, reference, target in zip(outputs, references, targets)
    ]
    return least, float(np.mean(losses))
