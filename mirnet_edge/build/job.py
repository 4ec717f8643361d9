"""One build, step by step: graphs, the build process, proof, card, and both moved into place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirnet_edge._files import file_sha256, require_new
from mirnet_edge.build.checks import accuracy, prove_precision, reasons_against_int8
from mirnet_edge.build.graphs import (
    SourceGraph,
    TypedGraphs,
    build_key,
    fewer_pairs,
    typed_graphs,
    without_qdq,
)
from mirnet_edge.build.placing import cached, place, work_folder
from mirnet_edge.build.process import (
    OUTPUTS,
    PLAN,
    TILES,
    VECTORS,
    BuildAnswer,
    BuildRequest,
    run_build,
)
from mirnet_edge.build.reference import restored_tiles
from mirnet_edge.build.settings import Settings
from mirnet_edge.build.target import Target
from mirnet_edge.engines.card import EngineCard, Kind, Measured, TensorFacts
from mirnet_edge.errors import BuildError, CalibrationError, RefusedPairsError
from mirnet_edge.graph.file import graph_sha256, load_graph, with_shape
from mirnet_edge.graph.rewrite import rewritten_for_tensorrt
from mirnet_edge.pooling.vectors import Pool
from mirnet_edge.quantize import DENOISING_SIGMA
from mirnet_edge.quantize.calibration import CalibrationSet
from mirnet_edge.quantize.calibration.sources import Source
from mirnet_edge.quantize.qdq import insert_qdq
from mirnet_edge.quantize.recorded import quantized_graph, record_sha256
from mirnet_edge.trt.layer_info import read_layers
from mirnet_edge.trt.network import Progress

TILES_COMPARED, TILES_CALIBRATED = 8, 16
"""Tiles of an engine without and with INT8. The FP32 reference runs on the CPU: MIRNet-v2 takes
seconds for each of 256x256."""
RUNS = 200
"""Timed, for medians."""

Attempts = Iterable[tuple[TypedGraphs, str]]
"""Graphs to build in turn, until TensorRT takes one, each with a note for the card."""


@dataclass
class BuildJob:
    """What the engines of one call of `build_engine` share.

    Attributes:
        source: the graph.
        target: what is built for.
        calibration: frames, None for the bundled ones.
        sigma: of noise to add to them.
        tile_count: how many tiles of them.
        timing_cache: file.
        progress: as `build_engine` takes it.
        statistics: whether apply and gather engines are built as well.
        notes: for the cards, of the calibration set and the record.
    """

    source: SourceGraph
    target: Target
    calibration: Source
    sigma: float | None
    tile_count: int
    timing_cache: Path
    progress: Progress | None
    statistics: bool = False
    notes: list[str] = field(default_factory=list)
    _with_pairs: tuple[Any, dict[str, Any]] | None = field(default=None, init=False)
    _refused: int = field(default=0, init=False)

    def float_engine(self, engine: Path, settings: Settings, overwrite: bool) -> EngineCard:
        """Build in FP32 or FP16, unless it is there."""
        graphs = typed_graphs(self.float_graph, settings.precision, settings.io)
        key = build_key(graphs.strong, settings.decisive(), self.target.identity)
        found = cached(engine, key)
        if found is not None:
            return found
        require_new(engine, overwrite)
        return self.place([(graphs, "")], settings, key, engine)

    def place(
        self,
        attempts: Attempts,
        settings: Settings,
        key: str,
        engine: Path,
        kind: Kind = "plain",
        pools: tuple[Pool, ...] = (),
        notes: tuple[str, ...] = (),
    ) -> EngineCard:
        """Build what needs no comparison; the card of what was put into place."""
        with work_folder(engine) as folder:
            card = self._built(attempts, settings, key, folder, kind)
            card = replace(card, pools=pools, notes=(*card.notes, *notes))
            place(folder / PLAN, engine, card)
        return card

    def int8_engine(
        self, engine: Path, settings: Settings, overwrite: bool, force: bool
    ) -> EngineCard:
        """Build in INT8, and in FP16 to compare with, unless they are there.

        Raises:
            BuildError: it is not worth keeping, and not forced.
        """
        key = build_key(self.source.rewritten, self.decisive(settings), self.target.identity)
        found = cached(engine, key)
        if found is not None and (
            force or not reasons_against_int8(found.measured, settings.budget_db)
        ):
            return found
        require_new(engine, overwrite)
        plain = engine.with_name(f"{engine.stem}.fp16{engine.suffix}")
        fp16 = self.float_engine(plain, replace(settings, precision="fp16"), overwrite)
        proto, quantization = self.quantized(settings)
        with work_folder(engine) as folder:
            card = self._built(self.attempts(proto, settings), settings, key, folder)
            card = _compared(card, fp16, quantization)
            reasons = reasons_against_int8(card.measured, settings.budget_db)
            if reasons and not force:
                raise BuildError(
                    f"the INT8 engine is not kept: {'; and '.join(reasons)}. Use the FP16 engine, "
                    f"{plain}; or keep INT8 all the same with force (--force)"
                )
            if reasons:
                card = replace(
                    card, notes=(*card.notes, f"kept by force: {'; and '.join(reasons)}")
                )
            place(folder / PLAN, engine, card)
        return card

    @cached_property
    def float_graph(self) -> Any:
        """Sized, rewritten, without Q/DQ pairs."""
        return (
            without_qdq(self.source.rewritten) if self.source.quantized else self.source.rewritten
        )

    def decisive(self, settings: Settings) -> dict[str, Any]:
        """What makes an engine another one; of INT8, the calibration set and the record too."""
        decisive = settings.decisive()
        if settings.precision == "int8" and not self.source.quantized:
            if self.tiles is not None:
                decisive["calibration"] = self.tiles.sha256
            if self._takes_record and (record := record_sha256(self.source.sha256)):
                decisive["record"] = record
        return decisive

    def quantized(self, settings: Settings) -> tuple[Any, dict[str, Any]]:
        """The graph with Q/DQ pairs, made once, and what is to be said of them."""
        if self._with_pairs is None:
            self._with_pairs = self._quantize(settings)
        return self._with_pairs

    def _quantize(self, settings: Settings) -> tuple[Any, dict[str, Any]]:
        if self.source.quantized:
            return self.source.rewritten, {}
        found = quantized_graph(
            load_graph(self.source.path),
            self._for_one_tile(settings.tile),
            self._calibration_tiles,
            use_record=self._takes_record,
            method=settings.method,
            budget_db=settings.budget_db,
            progress=self.progress,
        )
        self.notes.extend(found.notes)
        plan, quantized = found.plan, found.proto
        if not plan.int8_nodes:
            least = min(plan.all_int8_loss_db.values())
            raise BuildError(
                f"no group of layers can be INT8 within a budget of {settings.budget_db:g} dB (all "
                f"of them cost {least:.3f} dB); allow more, or build it in fp16"
            )
        said = {
            "recorded": found.images is None,
            "method": plan.method,
            "simulated_loss_db": round(plan.loss_db, 4),
            "against": plan.against,
            "int8_share_of_macs": round(plan.int8_share, 4),
            "int8_nodes": len(plan.int8_nodes),
        }
        if settings.batch > 1:  # rewrites count on the batch, but name all they make alike
            proto = self.source.rewritten
            same = replace(found.ranges, graph_sha256=graph_sha256(proto))
            quantized = insert_qdq(proto, same, plan.int8_nodes)
        return with_shape(quantized, settings.batch, *settings.tile), said

    @property
    def _takes_record(self) -> bool:
        """As `quantize_onnx` does; records are of rewritten graphs."""
        return self.calibration is None and self.sigma is None and self.source.rewrites

    def _calibration_tiles(self) -> CalibrationSet:
        if self.tiles is None:
            raise CalibrationError(
                "no tiles to calibrate INT8 with; name a folder of frames that fit the network"
            )
        return self.tiles

    def _for_one_tile(self, tile: tuple[int, int]) -> Any:
        """What is planned on, whatever the batch."""
        proto = self.source.reference
        return rewritten_for_tensorrt(proto, 1, tile) if self.source.rewrites else proto

    def attempts(self, proto: Any, settings: Settings) -> Attempts:
        """What to build of a sized graph, in turn (see `graphs.fewer_pairs`), less what TensorRT
        refused of the engines before: a refusal takes minutes, and they have the same pairs.

        Raises:
            GraphError: when iterated over: it does not fit the precision.
        """
        every = list(fewer_pairs(proto))
        for fewer, note in every[min(self._refused, len(every) - 1) :]:
            yield typed_graphs(fewer, settings.precision, settings.io), note

    def _built(
        self,
        attempts: Attempts,
        settings: Settings,
        key: str,
        folder: Path,
        kind: Kind = "plain",
    ) -> EngineCard:
        """Build the first in the folder whose Q/DQ pairs TensorRT does not refuse; its card."""
        refusal: RefusedPairsError | None = None
        for graphs, note in attempts:
            try:
                card = self._build(graphs, settings, key, folder, kind)
            except RefusedPairsError as error:
                refusal = error
                self._refused += 1
            else:
                return replace(card, notes=(*card.notes, note)) if note else card
        assert refusal is not None  # there is one attempt at least
        raise refusal

    def _build(
        self,
        graphs: TypedGraphs,
        settings: Settings,
        key: str,
        folder: Path,
        kind: Kind = "plain",
    ) -> EngineCard:
        """Build in the folder, prove, measure; the card of what lies there."""
        graphs.save(folder)
        if self.tiles is not None:
            np.save(folder / TILES, self.tiles.tiles)
            if kind == "apply":
                vectors: dict[str, Any] = {**self._restored[1]}
                np.savez(folder / VECTORS, **vectors)
        BuildRequest(
            precision=settings.precision,
            islands=sorted(graphs.islands),
            halves=sorted(graphs.halves),
            half_io=graphs.images if settings.io == "float16" else [],
            workspace=settings.workspace,
            optimization_level=settings.optimization_level,
            timing_cache=str(self.timing_cache.resolve()),
            runs=RUNS,
        ).save(folder)
        answer = run_build(folder, self.progress)
        layers = read_layers(answer.layers)
        notes = prove_precision(layers, settings.precision, graphs.islands, graphs.quantized)
        return EngineCard(
            key=key,
            engine_sha256=file_sha256(folder / PLAN),
            engine_bytes=(folder / PLAN).stat().st_size,
            source=self.source.path.name,
            graph_sha256=self.source.sha256,
            facts=self.source.facts,
            precision=settings.precision,
            strongly_typed=answer.strongly_typed,
            tile=settings.tile,
            batch=settings.batch,
            inputs=tuple(_tensor(item) for item in answer.inputs),
            outputs=tuple(_tensor(item) for item in answer.outputs),
            layers=layers,
            activation_bytes=answer.activation_bytes,
            options=settings.options(),
            versions=self.target.versions,
            device=self.target.device,
            measured=self._measured(answer, folder),
            notes=(*answer.notes, *notes, *self.notes),
            build_seconds=round(answer.build_seconds, 1),
            kind=kind,
        )

    def _measured(self, answer: BuildAnswer, folder: Path) -> Measured | None:
        if answer.enqueue_ms is None or answer.graph_ms is None:
            return None
        measured = Measured(answer.enqueue_ms, answer.graph_ms)
        if self.tiles is None or not (folder / OUTPUTS).is_file():
            return measured
        outputs = np.load(folder / OUTPUTS)
        least, loss = accuracy(outputs, self._restored[0], self.tiles.targets)
        return replace(
            measured, psnr_vs_fp32_db=least, task_loss_db=loss, tiles=len(self.tiles.tiles)
        )

    @cached_property
    def tiles(self) -> CalibrationSet | None:
        """What engines are compared on; None where the bundled set does not fit the network."""
        try:
            found = CalibrationSet.open(
                self.calibration,
                tile=self.source.tile,
                count=self.tile_count,
                sigma=self._sigma,
                in_channels=self.source.facts.in_channels,
            )
        except CalibrationError as error:
            if self.calibration is not None:
                raise
            self.notes.append(f"accuracy not measured: {error}")
            return None
        self.notes.extend(found.warnings)
        return found

    @property
    def _sigma(self) -> float | None:
        """As `quantize_onnx` chooses it."""
        bundled = self.sigma is None and self.calibration is None
        return DENOISING_SIGMA if bundled and self.source.facts.task == "denoise" else self.sigma

    @cached_property
    def _restored(self) -> tuple[NDArray[np.float32], dict[str, NDArray[np.float32]]]:
        """What engines are compared with; see `restored_tiles`."""
        assert self.tiles is not None
        proto = self.source.reference
        plain = without_qdq(proto) if self.source.quantized else proto
        return restored_tiles(plain, self.tiles.tiles, self.statistics, self.progress)


def _compared(card: EngineCard, fp16: EngineCard, quantization: dict[str, Any]) -> EngineCard:
    """The card of an INT8 engine, with what it was compared with."""
    measured = card.measured
    if measured is not None and fp16.measured is not None:
        measured = replace(measured, fp16_graph_ms=fp16.measured.graph_ms)
    options = {**card.options, "quantization": quantization} if quantization else card.options
    return replace(card, measured=measured, options=options)


def _tensor(described: dict[str, Any]) -> TensorFacts:
    return TensorFacts(**{**described, "shape": tuple(described["shape"])})
