"""What engines are compared with: frames, and what the graph as it came makes of them in FP32."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.build.graphs import SourceGraph, without_qdq
from mirnet_edge.engines.onnx_engine import OnnxEngine
from mirnet_edge.engines.protocol import Tiles
from mirnet_edge.errors import BuildError, CalibrationError
from mirnet_edge.metrics import psnr
from mirnet_edge.pooling.tensors import STATISTIC
from mirnet_edge.pooling.vectors import Weights
from mirnet_edge.quantize import DENOISING_SIGMA
from mirnet_edge.quantize.calibration import CalibrationSet
from mirnet_edge.quantize.calibration.sources import Source
from mirnet_edge.trt.network import PhaseProgress


@dataclass
class Comparison:
    """Calibration tiles, and their restoration on the CPU; both are made when first asked for.

    Attributes:
        source: the graph.
        calibration: frames, None for the bundled ones.
        sigma: of noise to add to them.
        count: how many tiles of them.
        statistics: whether each tile's pooled vectors are wanted too.
        progress: called as "FP32 reference" before each tile.
        notes: for the cards, of the calibration set.
    """

    source: SourceGraph
    calibration: Source
    sigma: float | None
    count: int
    statistics: bool
    progress: PhaseProgress | None
    notes: list[str] = field(default_factory=list)

    @property
    def is_bundled(self) -> bool:
        """Whether neither frames nor noise are the user's."""
        return self.calibration is None and self.sigma is None

    @cached_property
    def tiles(self) -> CalibrationSet | None:
        """What engines run; None where the bundled set does not fit the network."""
        facts = self.source.facts
        denoises = self.is_bundled and facts.task == "denoise"
        try:
            found = CalibrationSet.open(
                self.calibration,
                tile=self.source.tile,
                count=self.count,
                # As `quantize_onnx` chooses it: clean frames would leave a denoiser nothing to do.
                sigma=DENOISING_SIGMA if denoises else self.sigma,
                in_channels=facts.in_channels,
            )
        except CalibrationError as error:
            # The bundled frames are three-channel photos; a network of another kind is built too.
            if self.calibration is not None:
                raise
            self.notes.append(f"accuracy not measured: {error}")
            return None
        self.notes.extend(found.warnings)
        return found

    def require_tiles(self) -> CalibrationSet:
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
        tiles, graph = self.require_tiles().tiles, self.source.reference
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
