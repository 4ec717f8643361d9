"""The page of an `Explanation`: pictures, each with what may be concluded from it and what not, in
one file that needs no other."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mirnet_edge._files import atomic_path, require_new
from mirnet_edge._version import __version__
from mirnet_edge.restore import DEFAULT_HALO_PX
from mirnet_edge.workstation.explain.attention_page import attention_sections
from mirnet_edge.workstation.explain.drawing import (
    STYLE,
    decibels,
    half_of_weight,
    heat,
    map_figure,
    maps,
    place_heat,
    ruled,
    shown,
    squared,
    text,
    warning,
)
from mirnet_edge.workstation.explain.explanation import Explanation
from mirnet_edge.workstation.html import axes, page, plot_image, slider, table

SIZE = (5.2, 3.4)
"""Inches: letters of a plot keep the size of the page's on a phone's width."""
FAINTEST = -6.0
"""Decades below the largest gradient that a map still tells apart."""


def write_explanation(
    explanation: Explanation,
    path: str | os.PathLike[str],
    title: str,
    *,
    overwrite: bool = False,
) -> None:
    """Write the page.

    Raises:
        OutputError: it cannot be written, or is there already.
        MissingDependencyError: matplotlib is not installed.
    """
    require_new(Path(path), overwrite)
    sections = [
        *_head(explanation),
        *_before_after(explanation),
        *_tiles(explanation),
        *_vectors(explanation),
        *_field(explanation),
        *attention_sections(explanation),
        *_made(explanation),
    ]
    with atomic_path(Path(path)) as temporary:
        temporary.write_text(page(title, sections, STYLE), encoding="utf-8")


def _head(found: Explanation) -> list[str]:
    frame, tiles, field = found.frame, found.tiles, found.field
    cut, pools = tiles.cut, frame.seen.pools
    worst = min(tiles.alone, key=lambda alone: alone.db)
    height, width = frame.after.shape[:2]
    rows = [
        ["what", "measured"],
        ["network", f"{found.config.family}, {found.facts.preset}, for {found.facts.task}"],
        ["parameters", f"{found.parameters:,}"],
        ["means over the frame", str(len(pools))],
        ["picture", found.said],
        ["restored picture", f"{width}x{height}"],
        ["noise level it was told", "none" if frame.level is None else f"{frame.level:.1f} / 255"],
        ["tiles", f"{len(cut.rows) * len(cut.columns)} of {cut.tile}x{cut.tile}, halo {cut.halo}"],
        ["tiles against the frame, own means", decibels(tiles.own_db)],
        ["the same, the frame's means", decibels(tiles.shared_db)],
        ["the means that cost most", f"{worst.name}: {decibels(worst.db)} alone"],
        ["90, 99 % of what is seen nearby", " and ".join(
            f"{field.radius(share)}" for share in (0.9, 0.99)) + " pixels away at most"],
        ["farthest it can see", f"{max(field.reach)} pixels; exact halo "
                                f"{found.facts.local_support_px}"],
    ]  # fmt: skip
    return [table(rows), text(
        "One network and one picture: what follows is true of these two. dB are PSNR of the 8-bit "
        "range: 50 dB is a typical difference of 0.8 of 255, 60 dB of 0.25, beyond that nobody "
        "sees it in 8 bits. Pixels are those of the restored picture. Block 1.2 is the second "
        "of the first group; at 1/4 is where four of them along each axis are one position; a "
        "turn is one of the uses of a module that serves several times."
    )]  # fmt: skip


def _before_after(found: Explanation) -> list[str]:
    frame = found.frame
    before = frame.tensor[0, : found.config.in_channels].transpose(1, 2, 0)
    change = 255 * np.abs(frame.after - before).mean(2)
    high = max(float(np.percentile(change, 99.5)), 1e-6)
    enlarged = " (enlarged bicubically, as the network is given it)" * (found.facts.scale > 1)
    return [
        f"<h2>Before | after</h2>{text('What was given' + enlarged + ', and restored whole.')}",
        slider(shown(before), shown(frame.after)),
        maps([map_figure(heat(change, 0, high), "How much each pixel was changed, mean of its "
                         f"colours: {change.mean():.1f} of 255 on average.",
                         ("0", f"{high:.1f} of 255"))]),
        warning("Much change is not much gain: without the true picture nothing here says "
                "whether a change is right; mirnet-edge evaluate measures that."),
    ]  # fmt: skip


def _tiles(found: Explanation) -> list[str]:
    tiles, cut = found.tiles, found.tiles.cut
    errors = [255 * np.abs(error).max(2) for error in (tiles.own, tiles.shared)]
    high = max(float(np.percentile(errors[0], 99.9)), 1e-3)
    told = (("with each its own means (statistics=\"tile\")", tiles.own_db),
            ("with the frame's means (statistics=\"frame\")", tiles.shared_db))  # fmt: skip
    pictures = [
        map_figure(ruled(heat(error, 0, high), cut.rows[1:], cut.columns[1:]),
                   f"Tiles {how}: {decibels(db)} from the whole; at worst {error.max():.2f} of "
                   f"255, {np.median(error):.3f} at half of the pixels.",
                   ("0", f"{high:.2f} of 255"))
        for error, (how, db) in zip(errors, told, strict=True)
    ]  # fmt: skip
    shift = 255 * tiles.shift
    worst = min(tiles.alone, key=lambda alone: alone.db)
    return [
        "<h2>Tiles against the frame</h2>",
        text(
            f"The picture once whole, and twice in tiles of {cut.tile} with a halo of {cut.halo}. "
            "Shown is the largest difference of a pixel's colours; gray lines are seams; both maps "
            "have one scale. An error that fills a tile evenly, or follows its content, comes of "
            "its means; one along the seams of what the tile does not see beyond its halo."
        ),
        maps(pictures),
        text(
            f"The mean brightness of a tile differs from the whole by {np.abs(shift).max():.3f} "
            f"of 255 at most ({shift.min():+.3f} to {shift.max():+.3f}); a step of half a level "
            "and more between two tiles is what an eye finds first in an even sky. The worst tile "
            f"is number {tiles.tile_db.argmin()} in reading order, from 0, with "
            f"{decibels(tiles.tile_db.min())}; the best has {decibels(tiles.tile_db.max())}."
        ),
        *_halos(found),
        _alone(found),
        text(
            "Every bar: all means are the frame's, but these are each tile's own. The shorter the "
            f"bar, the more of the disagreement is theirs. {worst.name} alone leaves "
            f"{decibels(worst.db)}; all together leave {decibels(tiles.own_db)}."
        ),
        warning("The bars do not add up: means feed later means, and their errors may cancel. "
                "Tiles are smaller here than a device would take, which makes them differ more."),
    ]  # fmt: skip


def _halos(found: Explanation) -> list[str]:
    halos, exact = found.tiles.halos, found.facts.local_support_px
    figure, plot = axes("halo, pixels", "PSNR against the whole, dB", SIZE)
    pixels = [halo.pixels for halo in halos]
    plot.plot(pixels, [halo.own_db for halo in halos], "o-", label="own means")
    plot.plot(pixels, [halo.shared_db for halo in halos], "s-", label="the frame's means")
    plot.legend()
    first, last = halos[0], halos[-1]
    return [
        plot_image(figure, "halo against agreement"),
        text(
            f"From a halo of {first.pixels} to {last.pixels} pixels tiles with their own means go "
            f"from {decibels(first.own_db)} to {decibels(last.own_db)}, those with the frame's "
            f"from {decibels(first.shared_db)} to {decibels(last.shared_db)}. Where the first "
            "curve is flat, a larger halo buys nothing: means are the cause. The second ends in "
            f"exact agreement at {exact} pixels, the exact halo. The SDK takes {DEFAULT_HALO_PX} "
            "where it is not told."
        ),
    ]


def _alone(found: Explanation) -> str:
    alone = found.tiles.alone[::-1]
    figure, plot = axes("PSNR against the whole, dB", "", (5.2, 0.8 + 0.24 * len(alone)))
    plot.barh([part.name for part in alone],
              [part.db if np.isfinite(part.db) else 0 for part in alone])  # fmt: skip
    for db, line in ((found.tiles.shared_db, ":"), (found.tiles.own_db, "--")):
        if np.isfinite(db):
            plot.axvline(db, color="gray", linestyle=line)
    if np.isfinite(found.tiles.own_db):  # else nothing differs
        plot.set_xlim(left=max(0, found.tiles.own_db - 10))
    plot.set_title("dashed: all own; dotted: all the frame's", fontsize="small")
    return plot_image(figure, "what the means of each place cost")


def _vectors(found: Explanation) -> list[str]:
    tiles, pools = found.tiles, found.frame.seen.pools
    distances, names = tiles.distances, [str(pool.place) for pool in pools]
    number, (pool, tile) = int(distances.mean(1).argmax()), _largest(distances)
    return [
        "<h2>Pooled vectors</h2>",
        text(
            f"The network takes {len(pools)} means over the frame, one vector of channels each. "
            "Shown is how far each tile's own vector is from the frame's: the largest difference "
            "of an element, as a share of the vector's largest."
        ),
        place_heat(distances, names, "tile, in reading order"),
        text(
            f"On average they are {100 * distances.mean():.0f} % off; farthest is tile {tile}, "
            f"{names[pool]}, with {100 * distances.max():.0f} %. A mean of what earlier means have "
            "changed differs by both: by the tile's content, and by theirs."
        ),
        _vector_plot(found, number),
        text(
            f"{names[number]}, where tiles are farthest off on average: the frame's vector, and "
            f"the range of those of the {len(tiles.vectors[number])} tiles."
        ),
        *_gates(found),
        warning(
            "A far vector need not cost much: what counts is what the weights make of it, which "
            "is in the bars above."
        ),
    ]


def _gates(found: Explanation) -> list[str]:
    gates = found.tiles.gates
    names = [str(fusion.place) for fusion in found.frame.seen.fusions]
    fusion, tile = _largest(gates)
    return [
        text(
            "What the fusions make of them: by how much the weight of a channel moves at most, of "
            "0 to 1, where a tile weighs by its own mean."
        ),
        place_heat(gates, names, "tile, in reading order"),
        text(
            f"At most by {gates.max():.2f}, in tile {tile}, {names[fusion]}; by "
            f"{np.median(gates):.2f} at half of them. A weight that moves far turns a channel from "
            "the fine scale to the coarse one, or back, over the whole tile."
        ),
    ]


def _largest(values: NDArray[np.float64]) -> tuple[int, int]:
    """Where it is."""
    row, column = divmod(int(values.argmax()), values.shape[1])
    return row, column


def _vector_plot(found: Explanation, number: int) -> str:
    pool, tiles = found.frame.seen.pools[number], found.tiles.vectors[number]
    figure, plot = axes("channel", "mean", SIZE)
    channels = np.arange(len(pool.vector))
    plot.fill_between(channels, tiles.min(0), tiles.max(0), alpha=0.4, step="mid", label="tiles")
    plot.step(channels, pool.vector, where="mid", color="black", linewidth=1, label="frame")
    plot.legend()
    return plot_image(figure, "a pooled vector of the frame and of tiles")


def _field(found: Explanation) -> list[str]:
    field, exact = found.field, found.facts.local_support_px
    halo, largest = found.tiles.cut.halo, max(float(field.local.max()), 1e-300)
    near = np.log10(np.maximum(field.local / largest, 10**FAINTEST))
    radius = field.local.shape[0] // 2
    means = field.through_means
    high = max(float(np.percentile(means, 99.5)), 1e-300)
    direct, pooled = field.brightening
    figure, plot = axes("distance, pixels", "share that is farther away", SIZE)
    within = field.within
    plot.semilogy(np.maximum(1 - within[:-1], 1e-9))
    for pixels, name in ((halo, f"halo {halo}"), (exact, f"exact {exact}")):
        plot.axvline(pixels, color="gray", linestyle=":")
        plot.text(pixels, plot.get_ylim()[1], f" {name}", va="top", fontsize="small")
    return [
        "<h2>Receptive field</h2>",
        text(
            "By how much one pixel of the output, in the middle, would move if a pixel of the "
            "input did: the gradient, averaged over four output pixels. It has two ways: through "
            "the convolutions nearby, and through the means over the frame."
        ),
        maps([
            map_figure(squared(heat(near, FAINTEST, 0), (halo, max(field.reach))),
                       f"Through the convolutions, {2 * radius + 1} pixels wide. Squares: the "
                       f"halo of {halo}, and {max(field.reach)}, the farthest that the "
                       "architecture allows"
                       + (f"; a gradient was found {field.farthest} away." if radius >= max(
                           field.reach) else ", which the picture is too small to show."),
                       ("a millionth", "largest")),
            map_figure(heat(means, 0, high), "Through the means: what each pixel of the frame "
                       "moves it by, "
                f"{100 * field.share_of_means:.0f} % of the sum of both maps; half of it comes "
                f"from {100 * half_of_weight(means):.2g} % of the pixels.",
                ("0", f"{high / largest:.1e} of the largest")),
        ]),
        plot_image(figure, "share of the gradient beyond a distance"),
        text(
            f"Half of what is seen nearby is within {field.radius(0.5)} pixels, 90 % within "
            f"{field.radius(0.9)}, 99 % within {field.radius(0.99)}; beyond the halo of {halo} is "
            f"{100 * field.beyond(halo):.1f} %. Of a pixel at the edge of what a tile keeps this "
            "share, on one side, is missing, which is the error along seams.",
            f"Where the whole input gets brighter by 1, the pixel rises by {direct:.3f} through "
            f"the convolutions and by {pooled:+.3f} through the means, {direct + pooled:+.3f} "
            "together.",
        ),
        warning(
            "A gradient is the answer to a small change of this picture, and no share of the "
            "result: a pixel far away may matter more in another. The maps add sizes without their "
            "signs, which cancel in part; the sentence above has the signs."
        ),
    ]  # fmt: skip


def _made(found: Explanation) -> list[str]:
    return [
        "<h2>How this was made</h2>",
        text(
            f"mirnet-edge {__version__}, the network in PyTorch, FP32, on the CPU, weights "
            f"{found.facts.weights_sha256[:12]}; tiles are cut and joined by the SDK's own "
            "Restorer. An engine of FP16 or INT8 rounds on top of this. Attention is recorded by "
            "hooks; the frame's means are given to tiles by hooks, which is what "
            'statistics="frame" converges to.'
        ),
    ]
