"""How far a frame that is restored in tiles is from the one restored whole, and by which of the
two causes: the tiles' own pooled vectors, or what they do not see beyond their halo."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.engines.protocol import Tiles
from mirnet_edge.engines.torch_engine import TorchEngine
from mirnet_edge.frames.noise_level import Noise
from mirnet_edge.metrics import psnr
from mirnet_edge.model.layers import Network
from mirnet_edge.restore import Restorer
from mirnet_edge.tiling.geometry import Cover
from mirnet_edge.workstation.explain.hooks import Array, Pooled, Seen, given, seen

HALOS = (0, 8, 16, 32)
MOST_KEPT = 8
"""A halo is tried as long as the tiles compute at most so many times the frame's pixels."""
MOST_ALONE = 24
"""Pools that are looked at one by one; of more, all of one block together."""
Step = Callable[[], None]


@dataclass(frozen=True)
class Frame:
    """A picture as the network sees it whole.

    Attributes:
        before, after: (H, W, 3) float32 in [0, 1], as given and as restored.
        tensor: (1, planes, H', W') float32: what the network was given.
        level: of noise, of 255, that it was told; None where it asks for none.
        seen: what was recorded meanwhile.
    """

    before: Array
    after: Array
    tensor: Array
    level: float | None
    seen: Seen


@dataclass(frozen=True)
class Cut:
    """Tiles and halo in pixels of the restored frame, and the first row and column that is kept of
    each tile."""

    tile: int
    halo: int
    rows: tuple[int, ...]
    columns: tuple[int, ...]


@dataclass(frozen=True)
class Halo:
    """PSNR of tiles against the frame with one halo: with their own vectors, and the frame's."""

    pixels: int
    own_db: float
    shared_db: float


@dataclass(frozen=True)
class Alone:
    """PSNR where all pooled vectors are the frame's but those of these pools, which are the tiles'
    own."""

    name: str
    db: float


@dataclass(frozen=True)
class TileStudy:
    """Tiles against the frame.

    Attributes:
        own, shared: (H, W, 3) float32: tiles minus frame, with the tiles' own vectors, and with
            the frame's.
        own_db, shared_db: the same as PSNR; infinite where they are equal.
        vectors: of each pool (tiles, C): what each tile pooled with vectors of its own.
        distances: (pools, tiles): the largest difference of an element from the frame's vector,
            relative to the largest element of either.
        gates: (fusions, tiles): by how much the weight of a channel moves at most, where a tile
            makes it of its own vector instead of the frame's.
        shift, tile_db: of each tile, the mean of ``own`` over what is kept of it, and its PSNR.
        halos: in rising order.
        alone: in the order of the pools.
    """

    cut: Cut
    own: Array
    shared: Array
    own_db: float
    shared_db: float
    vectors: list[Array]
    distances: NDArray[np.float64]
    gates: NDArray[np.float64]
    shift: NDArray[np.float64]
    tile_db: NDArray[np.float64]
    halos: list[Halo]
    alone: list[Alone]


class _Keeping(TorchEngine):
    """Keeps what it was given last."""

    given: Tiles

    def run(self, tiles: Tiles) -> Tiles:
        """Restore, as `TorchEngine.run`."""
        self.given = tiles.copy()
        return super().run(tiles)


def whole_frame(network: Network, picture: Array, noise: Noise) -> Frame:
    """Restore a (H, W, 3) float32 picture as one tile, and record what happens in the network."""
    engine = _Keeping(network)
    width = network.facts.scale * picture.shape[1]
    with Restorer(engine, tile=None, noise=noise) as restore, seen(network, width) as found:
        after = restore(picture)
        level = restore.timings.noise
    return Frame(picture, after, engine.given, level, found)


def study_tiles(
    network: Network, frame: Frame, tile: int, halo: int, step: Step = lambda: None
) -> TileStudy:
    """Restore a frame in tiles in several ways, each compared with the whole; ``step`` is called
    after each.

    Raises:
        TilingError: no such tile, see `Tiling`.
    """
    pools = frame.seen.pools
    vectors = [pool.vector for pool in pools]
    run = partial(_restored, network, frame, tile)

    def shared(halo: int, own: Collection[int] = ()) -> Array:
        restored = run(halo, given(network, vectors, own))[0]
        step()
        return restored

    def decibels(restored: Array) -> float:
        return psnr(restored, frame.after)

    with seen(network, tile) as found:
        own, cover = run(halo, nullcontext())
    step()
    starts = (tuple(span.start for span in spans) for spans in (cover.rows, cover.columns))
    cut = Cut(tile, halo, *starts)
    by_pool = _by_place([pool.vector for pool in found.pools], len(pools))
    whole_gates = [fusion.gates for fusion in frame.seen.fusions]
    tile_gates = _by_place([fusion.gates for fusion in found.fusions], len(whole_gates))
    kept = [(row.settled, column.settled) for row, column in cover]
    with_frames = shared(halo)
    halos = [Halo(halo, decibels(own), decibels(with_frames))]
    for pixels in other_halos(network.facts.size_multiple, tile, halo):
        with_own = run(pixels, nullcontext())[0]
        step()
        halos.append(Halo(pixels, decibels(with_own), decibels(shared(pixels))))
    difference = own - frame.after
    return TileStudy(
        cut=cut,
        own=difference,
        shared=with_frames - frame.after,
        own_db=decibels(own),
        shared_db=decibels(with_frames),
        vectors=by_pool,
        distances=np.stack(
            [_distances(tiles, whole) for tiles, whole in zip(by_pool, vectors, strict=True)]
        ),
        gates=np.array(
            [
                np.abs(tiles - whole).max((1, 2))
                for tiles, whole in zip(tile_gates, whole_gates, strict=True)
            ]
        ),
        shift=np.array([float(difference[where].mean()) for where in kept]),
        tile_db=np.array([psnr(own[where], frame.after[where]) for where in kept]),
        halos=sorted(halos, key=lambda found: found.pixels),
        alone=[
            Alone(name, decibels(shared(halo, own=numbers)))
            for name, numbers in groups_of(pools).items()
        ],
    )


def other_halos(multiple: int, tile: int, known: int) -> list[int]:
    """Those of `HALOS` but one that a tile of this side has room for."""
    strides = {halo: (tile - 2 * halo) // multiple * multiple for halo in HALOS if halo != known}
    return [halo for halo, stride in strides.items()
            if stride > 0 and (tile / stride) ** 2 <= MOST_KEPT]  # fmt: skip


def groups_of(pools: list[Pooled]) -> dict[str, list[int]]:
    """Numbers of pools by the name under which they are looked at together."""
    one_by_one = len(pools) <= MOST_ALONE
    found: dict[str, list[int]] = {}
    for number, pool in enumerate(pools):
        place = pool.place
        name = str(place) if one_by_one else f"block {place.group}.{place.block}, all {place.kind}s"
        found.setdefault(name, []).append(number)
    return found


def steps_of(network: Network, pools: list[Pooled], tile: int, halo: int) -> int:
    """How often `study_tiles` calls ``step``."""
    halos = other_halos(network.facts.size_multiple, tile, halo)
    return 2 + 2 * len(halos) + len(groups_of(pools))


def _restored(
    network: Network, frame: Frame, tile: int, halo: int, pools: AbstractContextManager[None]
) -> tuple[Array, Cover]:
    """The frame in tiles, by the way of the SDK."""
    noise: Noise = "auto" if frame.level is None else frame.level
    engine = TorchEngine(network)
    with Restorer(engine, tile=tile, halo=halo, statistics="tile", noise=noise) as restore, pools:
        cover = restore.tiling(*frame.after.shape[:2]).cover(*frame.after.shape[:2])
        return restore(frame.before), cover


def _by_place(found: list[Array], places: int) -> list[Array]:
    """What one tile after another left at each place, as (tiles, …) arrays."""
    return [np.stack(found[index::places]) for index in range(places)]


def _distances(tiles: Array, whole: Array) -> NDArray[np.float64]:
    """Of each row from one vector, as `Statistics.distance` of one pool."""
    largest = np.maximum(np.abs(tiles).max(1), np.abs(whole).max()).clip(1e-30)
    distances: NDArray[np.float64] = (np.abs(tiles - whole).max(1) / largest).astype(np.float64)
    return distances
