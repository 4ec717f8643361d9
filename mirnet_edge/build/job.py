"""One build, step by step: graphs, the build process, proof, card, and both moved into place."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mirnet_edge._files import file_sha256, move_into_place, require_new
from mirnet_edge.build import process
from mirnet_edge.build.calibration import Calibration, accuracy
from mirnet_edge.build.checks import prove_precision, reasons_against_int8
from mirnet_edge.build.graphs import (
    MAKERS,
    SourceGraph,
    fewer_pairs,
    pairs_put,
    typed_for_tensorrt,
    without_qdq,
)
from mirnet_edge.build.operators import own_graph
from mirnet_edge.build.origins import with_origins
from mirnet_edge.build.plugins import Plugins
from mirnet_edge.build.process import BuildAnswer, BuildRequest
from mirnet_edge.build.settings import Settings
from mirnet_edge.build.target import Target
from mirnet_edge.engines.card import EngineCard, Kind, Measured, card_path, kind_path
from mirnet_edge.errors import (
    BuildDiedError,
    BuildError,
    DeviceError,
    DeviceMemoryError,
    EngineError,
    GraphError,
    OutputError,
    RefusedPairsError,
)
from mirnet_edge.frame_path import StageProgress
from mirnet_edge.graph.file import graph_sha256, has_qdq
from mirnet_edge.graph.pooling import pools_of
from mirnet_edge.interrupts import interrupts_deferred
from mirnet_edge.pooling.vectors import Pool
from mirnet_edge.trt.layer_info import read_layers
from mirnet_edge.trt.plugins import sources_sha256

if TYPE_CHECKING:
    from onnx import ModelProto


log = logging.getLogger(__name__)

SCALES = 3
LEAST_WITH_PLUGINS_DB = 40.0
"""Between engines with plugins and FP32: they come to 60 and more where their kernels are right."""
MOST_BUSY = 4000
"""Pixels of a batch for each multiprocessor, up to which a scale of the network leaves some of them
idle, so that the other scales' layers fit beside it: measured to pay at 500 and 2,000."""


@dataclass(frozen=True)
class Wanted:
    """One engine: where it will lie, what it is built of, and what its card says of it.

    Attributes:
        proto: sized; still without pairs where these are chosen for INT8.
        key, kind, pools, notes: as the card has them.
    """

    engine: Path
    settings: Settings
    proto: ModelProto
    key: str
    kind: Kind = "plain"
    pools: tuple[Pool, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass
class BuildJob:
    """What the engines of one call of `build_engine` share; options as that takes them."""

    source: SourceGraph
    target: Target
    calibration: Calibration
    timing_cache: Path
    force: bool
    overwrite: bool
    progress: StageProgress | None
    plugins: Plugins
    # How many attempts TensorRT has refused: a refusal takes minutes, and the engines beside the
    # plain one have the same pairs.
    _refused: int = field(default=0, init=False)

    def engines(self, engine: Path, settings: Settings, statistics: bool) -> EngineCard:
        """Build the plain engine and those that statistics need; the card of the plain one."""
        beside = self.wanted_beside(engine, settings) if statistics else []
        build_plain = self.int8_engine if settings.precision == "int8" else self.float_engine
        card = build_plain(engine, settings)
        for wanted in beside:  # after the plain engine, whose pairs they take
            self.build(wanted)
        return card

    def float_engine(self, engine: Path, settings: Settings) -> EngineCard:
        """Build in FP32 or FP16, unless it is there."""
        proto = self.source.rewritten
        if self.source.quantized:
            proto = without_qdq(proto)
        wanted = self._wanted(engine, settings, proto)
        return self._found(wanted) or self.build(wanted)

    def int8_engine(self, engine: Path, settings: Settings) -> EngineCard:
        """Build in INT8, and in FP16 to compare with, unless they are there.

        Raises:
            BuildError: it is not worth keeping, and not forced.
        """
        wanted = self._wanted(engine, settings, self.source.rewritten)
        found = self._found(wanted)
        if found is not None:
            if self.force or not reasons_against_int8(found.measured, settings.budget_db):
                return found
            require_new(engine, self.overwrite)
        # FP16 first: what INT8 is worth is known only beside it, and it is kept whatever INT8 is.
        plain = engine.with_name(f"{engine.stem}.fp16{engine.suffix}")
        fp16 = self.float_engine(plain, replace(settings, precision="fp16"))
        wanted = self._with_pairs(wanted)
        log.info("building %s, %s", wanted.engine, wanted.settings.precision)
        with work_folder(engine) as folder:
            card = self._judged(self._built(wanted, folder), fp16.measured, plain)
            place(folder / process.PLAN, engine, card)
        return card

    def wanted_beside(self, engine: Path, settings: Settings) -> list[Wanted]:
        """Choose what is missing beside a plain engine. What cannot be is known before minutes are
        spent on the plain one.

        Raises:
            GraphError: the network's pools are not known, or the graph is quantized already.
            OutputError: an engine must not be replaced.
        """
        source = self.source
        if source.quantized:
            raise GraphError(
                f"{source.path} is quantized and so rewritten for TensorRT, from which no apply or "
                "gather graph is made; build with statistics from the float graph, with "
                "precision='int8' for INT8"
            )
        pools, wanted = pools_of(source.sized), []
        for kind, make in MAKERS.items():
            path, proto = kind_path(engine, kind), source.fitted(make(source.sized), source.batch)
            wanted.append(self._wanted(path, settings, proto, kind, pools))
        return [one for one in wanted if self._found(one) is None]

    def build(self, wanted: Wanted) -> EngineCard:
        """Build what needs no comparison; the card of what was put into place."""
        wanted = self._with_pairs(wanted)
        with work_folder(wanted.engine) as folder:
            card = self._built(wanted, folder)
            place(folder / process.PLAN, wanted.engine, card)
        return card

    def _wanted(
        self,
        engine: Path,
        settings: Settings,
        proto: ModelProto,
        kind: Kind = "plain",
        pools: tuple[Pool, ...] = (),
    ) -> Wanted:
        """Name an engine by all that decides what it is."""
        decisive, keyed = settings.decisive(), proto
        if settings.precision != "int8":
            keyed = typed_for_tensorrt(proto, settings.precision, settings.io).strong
        elif not self.source.quantized:
            # What chooses the pairs, as they come later, and cost minutes.
            decisive |= self.calibration.decisive()
        if kind != "plain":
            decisive["kind"] = kind
        if self.plugins.library and settings.takes_plugins:
            decisive["plugins"] = sources_sha256()
        graph, target = graph_sha256(keyed), self.target.identity
        decided = {"graph": graph, "settings": decisive, "target": target}
        key = hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()
        return Wanted(engine, settings, proto, key, kind, pools)

    def _found(self, wanted: Wanted) -> EngineCard | None:
        """Load the card, where the engine is there and is what it says; where another one is there,
        it must be allowed to go."""
        with suppress(EngineError, OSError):
            card = EngineCard.load(card_path(wanted.engine))
            if card.key == wanted.key and card.engine_sha256 == file_sha256(wanted.engine):
                log.info("%s is there already, of the same graph and settings", wanted.engine)
                return card
        require_new(wanted.engine, self.overwrite)
        return None

    def _with_pairs(self, wanted: Wanted) -> Wanted:
        """Put in the Q/DQ pairs that were chosen for the plain graph, where there are none yet."""
        settings, source = wanted.settings, self.source
        if settings.precision != "int8" or source.quantized:
            return wanted
        chosen = self.calibration.pairs
        nodes = chosen.plan.int8_nodes
        proto, notes = pairs_put(wanted.proto, source.rewritten, chosen.ranges, nodes)
        if not has_qdq(proto):
            settings = replace(settings, precision="fp16")
        return replace(wanted, proto=proto, notes=notes, settings=settings)

    def _judged(self, card: EngineCard, fp16: Measured | None, plain: Path) -> EngineCard:
        """Add to an INT8 engine's card what it is worth beside FP16; refuse it where that is not
        enough."""
        if card.measured is not None and fp16 is not None:
            card = replace(card, measured=replace(card.measured, fp16_graph_ms=fp16.graph_ms))
        if not self.source.quantized:
            card = replace(card, options={**card.options, "quantization": self.calibration.said()})
        reasons = "; and ".join(reasons_against_int8(card.measured, card.options["budget_db"]))
        if reasons and not self.force:
            raise BuildError(
                f"the INT8 engine is not kept: {reasons}. Use the FP16 engine, {plain}; or keep "
                "INT8 all the same with force (--force)"
            )
        return replace(card, notes=(*card.notes, f"kept by force: {reasons}")) if reasons else card

    def _built(self, wanted: Wanted, folder: Path) -> EngineCard:
        """Build the first in the folder whose Q/DQ pairs TensorRT does not refuse; its card."""
        attempts = list(fewer_pairs(wanted.proto))
        del attempts[: min(self._refused, len(attempts) - 1)]
        while True:
            proto, note = attempts.pop(0)
            try:
                card = self._build(proto, wanted, folder)
            except RefusedPairsError:
                self._refused += 1
                if not attempts:
                    raise
            else:
                return replace(card, notes=(*card.notes, note)) if note else card

    def _build(self, proto: ModelProto, wanted: Wanted, folder: Path) -> EngineCard:
        """Build in the folder, prove, measure; the card of what lies there."""
        settings, tiles = wanted.settings, self.calibration.tiles
        graph = typed_for_tensorrt(proto, settings.precision, settings.io)
        could = settings.takes_plugins and self.plugins != Plugins()
        own = own_graph(proto, self.target.device["shared_bytes"]) if could else None
        library = self.plugins.library if own else None
        (folder / process.STRONG).write_bytes(graph.strong.SerializeToString())
        (folder / process.WEAK).write_bytes(proto.SerializeToString())
        if own and library:
            (folder / process.OWN).write_bytes(own.proto.SerializeToString())
        if tiles is not None:
            np.save(folder / process.TILES, tiles.tiles)
            if wanted.kind == "apply":
                vectors: dict[str, Any] = {**self.calibration.restored[1]}
                np.savez(folder / process.VECTORS, **vectors)
        images = [proto.graph.input[0].name, proto.graph.output[0].name]
        streams = aux_streams(settings, self.target.device["multiprocessors"])
        request = BuildRequest(
            precision=settings.precision,
            islands=sorted(graph.islands),
            halves=sorted(graph.halves),
            half_io=images if settings.io == "float16" else [],
            workspace=settings.workspace,
            optimization_level=settings.optimization_level,
            timing_cache=str(self.timing_cache.resolve()),
            aux_streams=streams,
            plugins=str(library) if library else None,
            own_halves=sorted(own.halves) if own else [],
        )
        answer, measured = self._compared(request, folder)
        built = own.proto if own and answer.plugins else proto
        layers = with_origins(read_layers(answer.layers), built)
        notes = prove_precision(layers, settings.precision, graph.islands, graph.quantized)
        if own and self.plugins.lack:
            notes.append(f"built without plugins, which costs time: {self.plugins.lack}")
        used = {"plugins": own.operators} if own and answer.plugins else {}
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
            options={**settings.options(), "aux_streams": streams, **used},
            versions=self.target.versions,
            device=self.target.device,
            measured=measured,
            notes=(*answer.notes, *notes, *self.calibration.notes, *wanted.notes),
            build_seconds=round(answer.build_seconds, 1),
            kind=wanted.kind,
            pools=wanted.pools,
        )

    def _compared(self, request: BuildRequest, folder: Path) -> tuple[BuildAnswer, Measured | None]:
        """Build and compare with FP32; without plugins where they end the process that builds, fail
        when they run, or compute something else."""
        request.save(folder)
        try:
            answer = process.run_build(folder, self.progress)
        except DeviceMemoryError:
            raise
        except (BuildDiedError, EngineError, DeviceError) as error:
            if request.plugins is None:
                raise
            reason = str(error)
        else:
            try:
                measured = self._measured(answer, folder)
            except BuildError:
                if not answer.plugins:
                    raise
                reason = "with them the output is not finite"
            else:
                found_db = measured.psnr_vs_fp32_db if measured and answer.plugins else None
                if found_db is None or found_db >= LEAST_WITH_PLUGINS_DB:
                    return answer, measured
                reason = f"with them the output is {found_db:.1f} dB from that of FP32"
        # In another process: an error of a kernel is the end of all that its process does.
        answer, measured = self._compared(replace(request, plugins=None), folder)
        answer.notes.append(f"built without plugins, which costs time: {reason}")
        return answer, measured

    def _measured(self, answer: BuildAnswer, folder: Path) -> Measured | None:
        if answer.enqueue_ms is None or answer.graph_ms is None:
            return None
        measured, tiles = Measured(answer.enqueue_ms, answer.graph_ms), self.calibration.tiles
        if tiles is None or not (folder / process.OUTPUTS).is_file():
            return measured
        outputs = np.load(folder / process.OUTPUTS)
        least, loss = accuracy(outputs, self.calibration.restored[0], tiles.targets)
        return replace(measured, psnr_vs_fp32_db=least, task_loss_db=loss, tiles=len(tiles.tiles))


@contextmanager
def work_folder(engine: Path) -> Iterator[Path]:
    """Make a folder beside the engine, removed at the end: what is finished in it can be moved into
    place, which across file systems would be a copy."""
    try:
        with tempfile.TemporaryDirectory(prefix=f".{engine.stem}.", dir=engine.parent) as folder:
            yield Path(folder)
    except OSError as error:
        raise OutputError(f"cannot write into {engine.parent}: {error}") from error


def place(plan: Path, engine: Path, card: EngineCard) -> None:
    """Move both into place, undisturbed by Ctrl-C."""
    with interrupts_deferred() as interrupted:
        # The old engine goes first and the new one comes last, so that at no moment, even of a
        # process that is killed, an engine lies beside the card of another.
        engine.unlink(missing_ok=True)
        card.save(card_path(engine))
        move_into_place(plan, engine)
    if interrupted():
        raise KeyboardInterrupt


def aux_streams(settings: Settings, multiprocessors: int) -> int | None:
    """As asked for; else one for each further scale of the network where a batch is too small to
    fill the GPU with one, and None, which leaves it to TensorRT, where it is not."""
    if settings.aux_streams is not None:
        return settings.aux_streams
    height, width = settings.tile
    busy = settings.batch * height * width / multiprocessors
    return SCALES - 1 if busy <= MOST_BUSY else None
