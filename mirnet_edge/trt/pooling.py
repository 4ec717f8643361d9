"""The device's engine given a frame's pooled vectors: the apply and the gather plan beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mirnet_edge.engines.card import BESIDE, EngineCard, Kind, kind_path
from mirnet_edge.engines.pooled_batches import PooledBatches
from mirnet_edge.engines.tile_buffers import TileBuffers
from mirnet_edge.errors import EngineError
from mirnet_edge.pooling.tensors import OWN
from mirnet_edge.pooling.vectors import Pool
from mirnet_edge.trt.activations import ActivationMemory
from mirnet_edge.trt.batches import PlanRunner
from mirnet_edge.trt.plan import LoadedPlan, PlanFile, read_plan

# What engines of one network must agree in, so that one frame may pass through all of them.
SHARED = ("graph_sha256", "tile", "batch")


class TensorRTPooling(PooledBatches):
    """Runs the apply and the gather plan of a network; made by ``TensorRTEngine.statistics``.

    Args:
        path, card: of the plain engine.
        tiles: of it.
        activations: shared with the plain engine; None makes memory for these two.
        graph: see `PooledBatches`.

    Attributes:
        plan_bytes: of both plans.
    """

    def __init__(
        self,
        path: Path,
        card: EngineCard | None,
        tiles: TileBuffers,
        activations: ActivationMemory | None,
        *,
        graph: bool,
    ) -> None:
        files, pools = read_siblings(path, card)
        super().__init__(pools, tiles, graph=graph)
        self.plan_bytes = sum(len(file.plan) for file in files)
        with self._making(), tiles.lock:
            addresses = self._prepare()
            self._apply, self._gather = self._load(files, activations, addresses)

    def _load(
        self,
        files: Sequence[PlanFile],
        activations: ActivationMemory | None,
        addresses: dict[str, int],
    ) -> list[PlanRunner]:
        own = self._own
        if activations is None:
            paths = (file.path for file in files)
            activations = own(ActivationMemory.for_engines(*paths, stream=self._stream))
        runners = []
        for kind, file in zip(BESIDE, files):
            plan = own(LoadedPlan(file, self.device, activations))
            self._check_tensors(plan, kind)
            runners.append(own(PlanRunner(plan, self._tiles, addresses)))
        return runners

    def _check_tensors(self, plan: LoadedPlan, kind: Kind) -> None:
        """Check that a plan takes and gives what its card and the plain engine say."""
        given, regions, gathered = self._shapes
        expected = given | regions | gathered
        if kind == "apply":
            expected = {name: shape for name, shape in given.items() if name != OWN}
        found = {facts.name: facts.shape for facts in (*plan.inputs[1:], *plan.outputs[1:])}
        images = [(facts.shape, facts.dtype) for facts in (plan.inputs[0], plan.outputs[0])]
        sides = (self._tiles.image, self._tiles.restored)
        wanted = [(side.shape, side.dtype) for side in sides]
        if images != wanted or found != expected:
            odd = sorted(set(found.items()) ^ set(expected.items()))
            raise EngineError(
                f"{plan.path}: takes and gives images {images}, the plain engine {wanted}; side "
                f"tensors that it lacks or has too many of: {odd or 'none'}. Build all three "
                "engines again, with --statistics"
            )


def read_siblings(plain: Path, card: EngineCard | None) -> tuple[list[PlanFile], tuple[Pool, ...]]:
    """Read the plans beside ``plain``, whose card is ``card``, in the order of `BESIDE`, and the
    pools that both have. All must be of one network, tile and batch."""
    command = f"mirnet-edge build {card.source if card else 'MODEL'} {plain} --statistics"
    paths = [kind_path(plain, kind) for kind in BESIDE]
    for path in paths:
        if not path.is_file():
            raise EngineError(
                f"{path}: no such file; statistics of the frame need it. Build it: {command}"
            )
    if card is None:
        raise EngineError(
            f"{plain} was loaded without its card, so nothing tells whether {paths[0].name} and "
            f"{paths[1].name} are of the same network. Build all three again: {command}"
        )
    files: list[PlanFile] = []
    pools: tuple[Pool, ...] = ()
    for kind, path in zip(BESIDE, paths):
        files.append(read_plan(path, trust=False))
        found = files[-1].card
        assert found is not None  # only a plan that is trusted may lack it
        pools = pools or found.pools
        wanted = {"kind": kind, **{name: getattr(card, name) for name in SHARED}}
        differing = [
            f"{name} {getattr(found, name)!r}, not {value!r}"
            for name, value in wanted.items()
            if getattr(found, name) != value
        ]
        if not found.pools or found.pools != pools:
            differing.append(f"{len(found.pools)} pools, and {paths[0].name} has {len(pools)}")
        if differing:
            raise EngineError(
                f"{path} does not belong to {plain.name}: its card says {'; '.join(differing)}. "
                f"Build all three again: {command}"
            )
    return files, pools
