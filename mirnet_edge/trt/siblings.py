"""The apply and the gather plan beside a plain one: whether they are of the same network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mirnet_edge.engines.card import EngineCard, Kind, kind_path
from mirnet_edge.errors import EngineError
from mirnet_edge.pooling.tensors import COLUMNS, GATHERED, LOG_MASS, OWN, ROWS, STATISTIC
from mirnet_edge.pooling.vectors import Pool
from mirnet_edge.trt.plan import LoadedPlan, read_plan
from mirnet_edge.trt.tile_buffers import TileBuffers

KINDS: tuple[Kind, Kind] = ("apply", "gather")
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Siblings:
    """Two plans, apply and gather in this order, each vouched for by its card; nothing loaded."""

    paths: tuple[Path, ...]
    plans: tuple[bytes, ...]
    cards: tuple[EngineCard, ...]

    @property
    def pools(self) -> tuple[Pool, ...]:
        """Of the network."""
        return self.cards[0].pools


def read_siblings(plain: Path, card: EngineCard | None) -> Siblings:
    """The plans beside ``plain``, whose card is ``card``.

    Raises:
        EngineError: one is missing, has no card, or is of another network, tile or batch.
    """
    command = f"mirnet-edge build {card.source if card else 'MODEL'} {plain} --statistics"
    paths = tuple(kind_path(plain, kind) for kind in KINDS)
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
    read = [read_plan(path, trust=False) for path in paths]
    plans, cards = tuple(plan for plan, _ in read), tuple(found for _, found in read if found)
    wanted = _identity(card)
    for kind, path, found in zip(KINDS, paths, cards):
        differing = [
            f"{name} {value!r}, not {wanted[name]!r}"
            for name, value in _identity(found).items()
            if value != wanted[name]
        ]
        if found.kind != kind:
            differing.append(f"kind {found.kind!r}, not {kind!r}")
        if not found.pools or found.pools != cards[0].pools:
            differing.append(
                f"{len(found.pools)} pools, and {paths[0].name} has {len(cards[0].pools)}"
            )
        if differing:
            raise EngineError(
                f"{path} does not belong to {plain.name}: its card says {'; '.join(differing)}. "
                f"Build all three again: {command}"
            )
    return Siblings(paths, plans, cards)


def _identity(card: EngineCard) -> dict[str, object]:
    return {"graph_sha256": card.graph_sha256, "tile": card.tile, "batch": card.batch}


def side_shapes(pools: Sequence[Pool], image: tuple[int, ...]) -> tuple[Shapes, Shapes, Shapes]:
    """Of the side tensors by name: what is given (each statistic and ``own``), the kept regions,
    and what is gathered, for an image (N, C, H, W)."""
    batch, _, height, width = image
    given: Shapes = {
        f"{STATISTIC}.{index}": (1, pool.channels, 1, 1) for index, pool in enumerate(pools)
    }
    given[OWN] = (1, 1, 1, 1)
    regions: Shapes = {ROWS: (batch, 1, height, 1), COLUMNS: (batch, 1, 1, width)}
    gathered: Shapes = {}
    for index, pool in enumerate(pools):
        gathered[f"{GATHERED}.{index}"] = (batch, pool.channels, 1, 1)
        if pool.kind == "softmax":
            gathered[f"{LOG_MASS}.{index}"] = (batch, 1, 1, 1)
    return given, regions, gathered


def check_tensors(plan: LoadedPlan, kind: Kind, pools: Sequence[Pool], tiles: TileBuffers) -> None:
    """That a plan takes and gives what its card and the plain engine say.

    Raises:
        EngineError: it does not.
    """
    given, regions, gathered = side_shapes(pools, tiles.image.shape)
    if kind == "gather":
        expected = {**given, **regions, **gathered}
    else:
        expected = {name: shape for name, shape in given.items() if name != OWN}
    found = {facts.name: facts.shape for facts in (*plan.inputs[1:], *plan.outputs[1:])}
    images = [(facts.shape, facts.dtype) for facts in (plan.inputs[0], plan.outputs[0])]
    wanted = [(side.shape, side.dtype) for side in (tiles.image, tiles.restored)]
    if images != wanted or found != expected:
        odd = sorted(set(found.items()) ^ set(expected.items()))
        raise EngineError(
            f"{plan.path}: takes and gives images {images}, the plain engine {wanted}; side "
            f"tensors that it lacks or has too many of: {odd or 'none'}. Build all three engines "
            "again, with --statistics"
        )
