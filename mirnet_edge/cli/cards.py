"""An engine's card, as ``build`` and ``info`` print it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mirnet_edge._files import file_sha256
from mirnet_edge.cli.console import out, print_facts, print_table
from mirnet_edge.engines.card import EngineCard, LayerFacts, TensorFacts, card_path, kind_path
from mirnet_edge.trt.layer_info import convolutions


def describe_plan(path: Path) -> dict[str, Any]:
    """What ``info --json`` says of an engine file: its card, and whether the card is its own."""
    card = EngineCard.load(card_path(path))
    return {
        "card_matches": card.engine_sha256 == file_sha256(path),
        "layers_by_precision": card.layers_by_precision(),
        "bytes_moved": card.bytes_moved,
        **vars(card),
        "kind": "TensorRT",
        "graph": card.kind,
    }


def print_card(path: Path, card: EngineCard) -> None:
    """What a user wants to know of an engine, and a table of its layers by precision."""
    print_facts(_lines(path, card))
    if card.layers:
        print_table(["layers", "count", "convolutions", "MB moved"], _rows(card.layers))
    for note in card.notes:
        out().print(f"note: {note}")


def print_beside(path: Path) -> None:
    """Of the engines that take and gather statistics beside the plain one: what they are and how
    fast, a line each."""
    for kind in ("apply", "gather"):
        beside = kind_path(path, kind)
        card = EngineCard.load(card_path(beside))
        print_facts({f"{kind} engine": f"{beside}, {_measured_lines(card)['time']}"})


def _lines(path: Path, card: EngineCard) -> dict[str, str]:
    facts, versions = card.facts, card.versions
    lines = {
        "engine": f"{path}, {card.engine_bytes / 1e6:.1f} MB",
        "network": f"{facts.family} ({facts.preset}), {facts.task}, from {card.source}",
        **_kind_lines(card),
        "precision": card.precision + (", strongly typed" if card.strongly_typed else ", by flags"),
        "tile": f"{card.tile[0]}x{card.tile[1]}, batch {card.batch}",
        "input": _images(card.inputs),
        "output": _images(card.outputs),
        "device memory": f"{card.activation_bytes / 1e6:.1f} MB of activations",
        "built for": f"{card.device['name']} (compute capability "
        f"{card.device['compute_capability']}), TensorRT {versions['tensorrt']}, CUDA "
        f"{versions['cuda']}, in {card.build_seconds:.0f} s",
    }
    if not path.is_file() or file_sha256(path) != card.engine_sha256:
        lines["damaged"] = "the card is of another engine; build it again"
    return {**lines, **_measured_lines(card)}


def _kind_lines(card: EngineCard) -> dict[str, str]:
    if card.kind == "plain":
        return {}
    does = {
        "apply": "restores with statistics that it is given",
        "gather": "restores, and gathers the statistics of a frame",
    }[card.kind]
    kinds = [pool.kind for pool in card.pools]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
    return {"kind": f"{card.kind}: {does}", "pools": f"{len(kinds)} ({counts})"}


def _images(tensors: tuple[TensorFacts, ...]) -> str:
    """Name the tensors but those of pooled vectors, of which there are dozens."""
    from mirnet_edge.pooling.tensors import COLUMNS, GATHERED, LOG_MASS, OWN, ROWS, STATISTIC

    sides = (COLUMNS, GATHERED, LOG_MASS, OWN, ROWS, STATISTIC)
    return ", ".join(
        f"{facts.name} {'x'.join(map(str, facts.shape))} {facts.dtype}"
        for facts in tensors
        if facts.name.partition(".")[0] not in sides
    )


def _measured_lines(card: EngineCard) -> dict[str, str]:
    measured = card.measured
    if measured is None:
        return {"time": "not measured"}
    graph, layers = f"{measured.graph_ms:.3f} ms", f"{measured.enqueue_ms:.3f} ms"
    lines = {"time": f"{graph} as a CUDA graph, {layers} layer by layer"}
    if measured.fp16_graph_ms is not None:
        ratio = measured.fp16_graph_ms / measured.graph_ms
        lines["against FP16"] = f"{ratio:.2f} times as fast ({measured.fp16_graph_ms:.3f} ms)"
    if measured.psnr_vs_fp32_db is not None:
        least = f"{measured.psnr_vs_fp32_db:.1f} dB, the least of {measured.tiles} tiles"
        lines["PSNR to FP32"] = least
    if measured.task_loss_db is not None:
        lines["PSNR lost"] = f"{measured.task_loss_db:.3f} dB, the mean over those tiles"
    return lines


def _rows(layers: tuple[LayerFacts, ...]) -> list[list[str]]:
    names = sorted({layer.precision for layer in layers})
    groups = {name: [layer for layer in layers if layer.precision == name] for name in names}
    return [
        [name, *map(str, (len(group), len(convolutions(group)))),
         f"{sum(layer.bytes_moved for layer in group) / 1e6:.1f}"]
        for name, group in {**groups, "all": list(layers)}.items()
    ]  # fmt: skip
