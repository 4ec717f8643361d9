"""The part of a page that shows attention: fusions of scales, context blocks, gates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mirnet_edge.model.config import MIRNetConfig
from mirnet_edge.workstation.explain.drawing import (
    decibels,
    half_of_weight,
    heat,
    map_figure,
    maps,
    place_heat,
    text,
    warning,
)
from mirnet_edge.workstation.explain.explanation import Explanation
from mirnet_edge.workstation.explain.hooks import Fusion, Gate, Map
from mirnet_edge.workstation.html import axes, plot_image

MOST_MAPS = 12
"""Of one kind in a page; the last ones of the network are shown."""
DIVERGING = "coolwarm"
OCTAVES = 4.0
"""Of a context block's weights, above and below that of a plain mean, that colours tell apart."""


def attention_sections(found: Explanation) -> list[str]:
    """All kinds that the network has."""
    seen = found.frame.seen
    return [
        *(_fusions(found, seen.fusions) if seen.fusions else []),
        *(_contexts(found, seen.contexts) if seen.contexts else []),
        *(_channels(seen.channels) if seen.channels else []),
        *(_spatial(seen.spatial) if seen.spatial else []),
    ]


def _fusions(found: Explanation, fusions: Sequence[Fusion]) -> list[str]:
    coarse = [1 - fusion.gates[0] for fusion in fusions]
    rows = np.full((len(fusions), max(map(len, coarse))), np.nan)
    for row, weights in zip(rows, coarse, strict=True):
        row[: len(weights)] = weights
    means = [float(weights.mean()) for weights in coarse]
    least, most = int(np.argmin(means)), int(np.argmax(means))
    every = np.concatenate(coarse)
    shares = [1 - fusion.shares[0] for fusion in fusions]
    kept = list(zip(fusions, shares, strict=True))[-MOST_MAPS:]
    streams = (
        "all streams of the network" if isinstance(found.config, MIRNetConfig)
        else "a stream and what comes up from the one of half its size"
    )  # fmt: skip
    return [
        "<h2>Which scale is taken: selective-kernel fusion</h2>",
        text(
            f"A fusion adds {streams}, each channel with weights that sum to one. The weights are "
            "made of a mean over the frame, so that a channel has one weight for all places. "
            "Shown is the weight of everything coarser than the finest stream: red takes the "
            "coarse, blue the fine one."
        ),
        place_heat(rows, [str(fusion.place) for fusion in fusions], "channel", DIVERGING, 1),
        text(
            f"On average {100 * np.mean(means):.0f} % of the weight go to coarser scales; most in "
            f"{fusions[most].place} ({100 * means[most]:.0f} %), least in {fusions[least].place} "
            f"({100 * means[least]:.0f} %). {100 * np.mean((every < 0.1) | (every > 0.9)):.0f} % "
            "of the channels are decided (below 10 or above 90 %), the others mix."
        ),
        text(
            "What differs from place to place is what the weights are multiplied with. The maps "
            "show, of the size of what is added at a place (length over all channels), the part "
            f"that comes from coarser scales{_left_out(fusions)}."
        ),
        maps([
            map_figure(heat(share, 0, 1, DIVERGING), f"{fusion.place}: {100 * share.mean():.0f} % "
                       f"on average, {100 * np.percentile(share, 5):.0f} to "
                       f"{100 * np.percentile(share, 95):.0f} % at nine of ten places.",
                       ("0, fine", "1, coarse"), DIVERGING)
            for fusion, share in kept
        ]),
        warning(
            "No map says that the network chose a scale for a place: it cannot, its weights are "
            "those of channels. A large part in a place may also be undone by the next layer."
        ),
    ]  # fmt: skip


def _contexts(found: Explanation, contexts: Sequence[Map]) -> list[str]:
    halves = [half_of_weight(context.values) for context in contexts]
    narrow = int(np.argmin(halves))
    name = str(contexts[narrow].place)
    alone = next((part.db for part in found.tiles.alone if part.name == name), None)
    cost = "" if alone is None else f" Its mean alone leaves {decibels(alone)} (bars above)."
    return [
        "<h2>Where it looks for context</h2>",
        text(
            "A context block takes a mean of the frame in which places have weights (a softmax "
            "over all positions), and adds what it makes of it to every place. Shown are the "
            "weights, relative to a plain mean's: white is 1, each doubling a step of red, each "
            f"halving a step of blue{_left_out(contexts)}."
        ),
        maps([
            map_figure(heat(np.log2(context.values.clip(2.0**-OCTAVES)), -OCTAVES, OCTAVES,
                            DIVERGING),
                       f"{context.place}: half of the weight is on {100 * half:.2g} % of the "
                       f"places; the heaviest has {context.values.max():,.1f} times a plain "
                       "mean's.", (f"1/{2**OCTAVES:.0f}", f"{2**OCTAVES:.0f} times"), DIVERGING)
            for context, half in list(zip(contexts, halves, strict=True))[-MOST_MAPS:]
        ]),
        text(
            f"The most selective is {name}: {100 * halves[narrow]:.2g} % of the places carry half "
            "of its mean. A tile that does not hold them takes another mean, and one that holds "
            f"more of them, too.{cost}"
        ),
        warning(
            "A place with much weight is averaged more, and not restored more: every place gets "
            "the same vector."
        ),
    ]  # fmt: skip


def _channels(gates: Sequence[Gate]) -> list[str]:
    figure, plot = axes("share of the channels, by weight", "weight", (5.2, 3.4))
    for gate in gates:
        ordered = np.sort(gate.values)
        plot.plot(np.linspace(0, 1, len(ordered)), ordered, alpha=0.6,
                  linewidth=1)  # fmt: skip
    plot.set_ylim(0, 1)
    every = np.concatenate([gate.values for gate in gates])
    return [
        "<h2>Channel attention</h2>",
        text(
            f"{len(gates)} gates weigh channels from 0 to 1 by means over the frame; a line is a "
            "gate, its channels in rising order."
        ),
        plot_image(figure, "weights of channel attention"),
        text(
            f"{100 * np.mean(every < 0.1):.0f} % of the weights are below 0.1, "
            f"{100 * np.mean(every > 0.9):.0f} % above 0.9, half of them below "
            f"{np.median(every):.2f}. A flat line at one height chooses nothing on this picture."
        ),
        warning(
            "A channel with a small weight may be large before it: weights alone do not say what "
            "is passed on."
        ),
    ]


def _spatial(gates: Sequence[Map]) -> list[str]:
    return [
        "<h2>Spatial attention</h2>",
        text(
            "The other half of a dual attention unit weighs places from 0 to 1, by what is around "
            f"them{_left_out(gates)}."
        ),
        maps([
            map_figure(heat(gate.values, 0, 1), f"{gate.place}: {gate.values.mean():.2f} on "
                       f"average, {np.percentile(gate.values, 5):.2f} to "
                       f"{np.percentile(gate.values, 95):.2f} at nine of ten places.",
                       ("0", "1"))
            for gate in gates[-MOST_MAPS:]
        ]),
        warning(
            "A dark place is passed on by the unit's other ways too (channel attention, and "
            "around it): a low weight is no hole in the result."
        ),
    ]  # fmt: skip


def _left_out(found: Sequence[object]) -> str:
    """What to say where not all are shown."""
    if len(found) <= MOST_MAPS:
        return ""
    return f"; the last {MOST_MAPS} of {len(found)} are shown"
