"""One build, step by step: graphs, the build process, proof, card, and both moved into place."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mirnet_edge._files import file_sha256, require_new
from mirnet_edge.build import process
from mirnet_edge.build.checks import prove_precision, reasons_against_int8
from mirnet_edge.build.comparison import Comparison, accuracy
from mirnet_edge.build.graphs import (
    SourceGraph,
    TypedGraphs,
    build_key,
    fewer_pairs,
    typed_graphs,
    without_qdq,
)
from mirnet_edge.build.pairs import Pairs
from mirnet_edge.build.process import BuildAnswer, BuildRequest
from mirnet_edge.build.settings import Settings
from mirnet_edge.build.target import Target
from mirnet_edge.engines.card import EngineCard, Kind, Measured, card_path
from mirnet_edge.errors import BuildError, EngineError, OutputError, RefusedPairsError
from mirnet_edge.interrupts import interrupts_deferred
from mirnet_edge.pooling.vectors import Pool
from mirnet_edge.trt.layer_info import read_layers
from mirnet_edge.trt.network import PhaseProgress

if TYPE_CHECKING:
    import onnx

Attempts = Iterable[tuple[TypedGraphs, str]]
"""Graphs to build in turn, until TensorRT takes one, each with a note for the card."""


@dataclass(frozen=True)
class Wanted:
    """One engine: where it will lie, what it is built by, and what its card says of it.

    Attributes:
        key, kind, pools: as the card has them.
        notes: for the card, of its graph.
    """

    engine: Path
    settings: Settings
    key: str
    kind: Kind = "plain"
    pools: tuple[Pool, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass
class BuildJob:
    """What the engines of one call of `build_engine` share.

    Attributes:
        source, target: the graph, and what it is built for.
        comparison, pairs: what engines are compared with; for INT8.
        timing_cache: file.
        progress: as `build_engine` takes it.
    """

    source: SourceGraph
    target: Target
    comparison: Comparison
    pairs: Pairs
    timing_cache: Path
    progress: PhaseProgress | None
    # How many attempts TensorRT has refused: a refusal takes minutes, and the engines beside the
    # plain one have the same pairs.
    _refused: int = field(default=0, init=False)

    def float_engine(self, engine: Path, settings: Settings, overwrite: bool) -> EngineCard:
        """Build in FP32 or FP16, unless it is there."""
        graphs = typed_graphs(self._float_graph, settings.precision, settings.io)
        key = build_key(graphs.strong, settings.decisive(), self.target.identity)
        found = cached(engine, key)
        if found is not None:
            return found
        require_new(engine, overwrite)
        return self.build([(graphs, "")], Wanted(engine, settings, key))

    def build(self, attempts: Attempts, wanted: Wanted) -> EngineCard:
        """Build what needs no comparison; the card of what was put into place."""
        with work_folder(wanted.engine) as folder:
            card = self._built(attempts, wanted, folder)
            place(folder / process.PLAN, wanted.engine, card)
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
        # FP16 first: what INT8 is worth is known only beside it, and it is kept whatever INT8 is.
        fp16 = self.float_engine(plain, replace(settings, precision="fp16"), overwrite)
        proto, said = self.source.rewritten, {}
        if not self.source.quantized:
            (proto, _), said = self.pairs.put_into(proto), self.pairs.said()
        with work_folder(engine) as folder:
            wanted = Wanted(engine, settings, key)
            card = self._built(self.attempts(proto, settings), wanted, folder)
            if card.measured is not None and fp16.measured is not None:
                measured = replace(card.measured, fp16_graph_ms=fp16.measured.graph_ms)
                card = replace(card, measured=measured)
            if said:
                card = replace(card, options={**card.options, "quantization": said})
            reasons = reasons_against_int8(card.measured, settings.budget_db)
            if reasons and not force:
                raise BuildError(
                    f"the INT8 engine is not kept: {'; and '.join(reasons)}. Use the FP16 engine, "
                    f"{plain}; or keep INT8 all the same with force (--force)"
                )
            if reasons:
                note = f"kept by force: {'; and '.join(reasons)}"
                card = replace(card, notes=(*card.notes, note))
            place(folder / process.PLAN, engine, card)
        return card

    @cached_property
    def _float_graph(self) -> onnx.ModelProto:
        proto: onnx.ModelProto = self.source.rewritten
        return without_qdq(proto) if self.source.quantized else proto

    def decisive(self, settings: Settings) -> dict[str, Any]:
        """List what makes an engine another one; of INT8, what chooses its pairs too."""
        chooses = settings.precision == "int8" and not self.source.quantized
        return {**settings.decisive(), **(self.pairs.decisive() if chooses else {})}

    def attempts(self, proto: onnx.ModelProto, settings: Settings) -> Attempts:
        """Type what to build of a sized graph, in turn (see `graphs.fewer_pairs`), less what
        TensorRT refused before. Where it does not fit, iterating raises a `GraphError`."""
        every = list(fewer_pairs(proto))
        for fewer, note in every[min(self._refused, len(every) - 1) :]:
            yield typed_graphs(fewer, settings.precision, settings.io), note

    def _built(self, attempts: Attempts, wanted: Wanted, folder: Path) -> EngineCard:
        """Build the first in the folder whose Q/DQ pairs TensorRT does not refuse; its card."""
        refusal: RefusedPairsError | None = None
        for graphs, note in attempts:
            try:
                card = self._build(graphs, wanted, folder)
            except RefusedPairsError as error:
                refusal = error
                self._refused += 1
            else:
                return replace(card, notes=(*card.notes, note)) if note else card
        assert refusal is not None  # there is one attempt at least
        raise refusal

    def _build(self, graphs: TypedGraphs, wanted: Wanted, folder: Path) -> EngineCard:
        """Build in the folder, prove, measure; the card of what lies there."""
        settings, tiles = wanted.settings, self.comparison.tiles
        graphs.save(folder)
        if tiles is not None:
            np.save(folder / process.TILES, tiles.tiles)
            if wanted.kind == "apply":
                vectors: dict[str, Any] = {**self.comparison.restored[1]}
                np.savez(folder / process.VECTORS, **vectors)
        BuildRequest(
            precision=settings.precision,
            islands=sorted(graphs.islands),
            halves=sorted(graphs.halves),
            half_io=graphs.images if settings.io == "float16" else [],
            workspace=settings.workspace,
            optimization_level=settings.optimization_level,
            timing_cache=str(self.timing_cache.resolve()),
        ).save(folder)
        answer = process.run_build(folder, self.progress)
        layers = read_layers(answer.layers)
        notes = prove_precision(layers, settings.precision, graphs.islands, graphs.quantized)
        measured = self._measured(answer, folder)
        of_job = (*self.comparison.notes, *self.pairs.notes)
        return EngineCard(
            key=wanted.key,
            engine_sha256=file_sha256(folder / process.PLAN),
            engine_bytes=(folder / process.PLAN).stat().st_size,
            source=self.source.path.name,
            graph_sha256=self.source.sha256,
            facts=self.source.facts,
            precision=settings.precision,
            strongly_typed=answer.strongly_typed,
            tile=settings.tile,
            batch=settings.batch,
            inputs=answer.inputs,
            outputs=answer.outputs,
            layers=layers,
            activation_bytes=answer.activation_bytes,
            options=settings.options(),
            versions=self.target.versions,
            device=self.target.device,
            measured=measured,
            notes=(*answer.notes, *notes, *of_job, *wanted.notes),
            build_seconds=round(answer.build_seconds, 1),
            kind=wanted.kind,
            pools=wanted.pools,
        )

    def _measured(self, answer: BuildAnswer, folder: Path) -> Measured | None:
        if answer.enqueue_ms is None or answer.graph_ms is None:
            return None
        measured, tiles = Measured(answer.enqueue_ms, answer.graph_ms), self.comparison.tiles
        if tiles is None or not (folder / process.OUTPUTS).is_file():
            return measured
        outputs = np.load(folder / process.OUTPUTS)
        least, loss = accuracy(outputs, self.comparison.restored[0], tiles.targets)
        return replace(measured, psnr_vs_fp32_db=least, task_loss_db=loss, tiles=len(tiles.tiles))


@contextmanager
def work_folder(engine: Path) -> Iterator[Path]:
    """Make a folder beside the engine, so that what is finished can be moved into place; removed
    at the end."""
    try:
        with tempfile.TemporaryDirectory(prefix=f".{engine.stem}.", dir=engine.parent) as folder:
            yield Path(folder)
    except OSError as error:
        raise OutputError(f"cannot write into {engine.parent}: {error}") from error


def cached(engine: Path, key: str) -> EngineCard | None:
    """Load the card, where the engine is there and is what it says."""
    try:
        card = EngineCard.load(card_path(engine))
        whole = card.key == key and card.engine_sha256 == file_sha256(engine)
    except (EngineError, OSError):
        return None
    return card if whole else None


def place(plan: Path, engine: Path, card: EngineCard) -> None:
    """Move both into place, undisturbed by Ctrl-C."""
    with interrupts_deferred() as interrupted:
        # The old engine goes first and the new one comes last, so that at no moment, even of a
        # process that is killed, an engine lies beside the card of another.
        engine.unlink(missing_ok=True)
        card.save(card_path(engine))
        plan.replace(engine)
    if interrupted():
        raise KeyboardInterrupt
