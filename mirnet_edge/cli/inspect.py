"""``models``, ``info`` and ``doctor``: what there is, what a file is, what is missing."""

from __future__ import annotations

import math
from collections import Counter
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from mirnet_edge._files import file_sha256, resource_folder
from mirnet_edge._imports import require
from mirnet_edge.cli.console import json_option, print_facts, print_json, print_table, say
from mirnet_edge.engine_choice import CHECKPOINT_SUFFIXES, PLAN_SUFFIXES
from mirnet_edge.engines.card import EngineCard, LayerFacts, card_path, kind_path
from mirnet_edge.errors import MirnetEdgeError
from mirnet_edge.graph.file import load_graph
from mirnet_edge.trt.layer_info import convolutions

FLOATS = {1: "FP32", 10: "FP16"}
"""Names of onnx.TensorProto's FLOAT and FLOAT16; onnx is not there everywhere."""


@click.command()
@json_option
def models(as_json: bool) -> None:
    """List the bundled models with their measured figures."""
    from mirnet_edge.bundled import bundled_models

    found = bundled_models()
    if as_json:
        print_json([{"name": model.name, **model.card} for model in found])
        return
    for model in found:
        card = model.card
        size = f"{card['parameters'] / 1e6:.2f} M, {card['gmac_256']:.1f} GMAC at 256²"
        facts = {"model": model.name, "task": card["task"], "parameters": size}
        print_facts({**facts, "licence": card["weights_licence"]})
        rows = [
            [f"{figure['data']} ({figure['images']})", figure["protocol"], figure["noise"],
             *(f"{figure[kind]['psnr'] or math.inf:.2f}" for kind in ("given", "restored"))]
            for figure in card["figures"]
            if figure["method"] == "model"
        ]  # fmt: skip
        print_table(["data", "test", "level", "given dB", "restored dB"], rows)


@click.command()
@click.argument("file")
@json_option
def info(file: str, as_json: bool) -> None:
    """Say what FILE is: a checkpoint, an ONNX file, an engine, or a bundled model's name."""
    from mirnet_edge.bundled import bundled_model

    bundled = bundled_model(file)
    path = bundled.onnx if bundled else Path(file)
    if path.is_dir():
        raise MirnetEdgeError(f"{file}: no such file, but a folder; name a file in it")
    if not path.is_file():
        raise MirnetEdgeError(f"{file}: no such file, and no bundled model of that name")
    if path.suffix.lower() in PLAN_SUFFIXES and not as_json:
        print_card(path, EngineCard.load(card_path(path)))
        return
    show = print_json if as_json else print_facts
    show({"file": path, "size_bytes": path.stat().st_size, **_describe(path)})


def _describe(path: Path) -> dict[str, Any]:
    if path.suffix.lower() == ".onnx":
        from mirnet_edge.engines.onnx_engine import OnnxEngine

        with closing(OnnxEngine(path)) as engine:
            size = "{}x{}".format(*engine.fixed_size) if engine.fixed_size else "any"
        precision = _precision_of_graph(path)
        told = {"kind": "ONNX", "input_size": size, "precision": precision, **_on_this_cpu(path)}
        return {**told, **asdict(engine.facts)}
    if path.suffix.lower() in CHECKPOINT_SUFFIXES:
        require("torch", f"reading {path.name}")
        from mirnet_edge.model.checkpoints import load_model

        network = load_model(path)
        return {
            "kind": "checkpoint",
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            **asdict(network.config),
            **asdict(network.facts),
            "training": dict(network.training_facts),
        }
    if path.suffix.lower() in PLAN_SUFFIXES:
        card = EngineCard.load(card_path(path))
        return {
            "card_matches": card.engine_sha256 == file_sha256(path),
            "layers_by_precision": card.layers_by_precision(),
            "bytes_moved": card.bytes_moved,
            **vars(card),
            "kind": "TensorRT",
            "graph": card.kind,
        }
    known = ", ".join((".onnx", *CHECKPOINT_SUFFIXES, *PLAN_SUFFIXES))
    raise MirnetEdgeError(f"{path}: not one of {known}")


def _on_this_cpu(path: Path) -> dict[str, str]:
    """What the graph runs on here, where that was tried."""
    from mirnet_edge.engines.cpu_trial import is_wanted, kept_trial

    if not is_wanted():
        return {}
    trial = kept_trial(path)
    return {"on_this_cpu": trial.told if trial else "not tried yet; the first run tries it"}


def _precision_of_graph(path: Path) -> str:
    """In what a graph's convolutions are computed, most of them first."""
    try:
        graph = load_graph(path).graph
    except MirnetEdgeError as error:
        return f"not known here: {error}"
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    stored = {tensor.name: tensor.data_type for tensor in graph.initializer}
    found = Counter(
        "INT8"
        if made_by.get(node.input[1]) == "DequantizeLinear"
        else FLOATS.get(stored.get(node.input[1], 0), "another type")
        for node in graph.node
        if node.op_type in ("Conv", "ConvTranspose")
    )
    return ", ".join(f"{count} convolutions in {name}" for name, count in found.most_common())


def print_card(path: Path, card: EngineCard) -> None:
    """What a user wants to know of an engine, and a table of its layers by precision."""
    print_facts(_lines(path, card))
    if card.layers:
        print_table(["layers", "count", "convolutions", "MB moved"], _rows(card.layers))
    for note in card.notes:
        say(f"note: {note}")


def print_beside(path: Path) -> None:
    """Of the engines that take and gather statistics beside the plain one: what they are and how
    fast, a line each."""
    for kind in ("apply", "gather"):
        beside = kind_path(path, kind)
        card = EngineCard.load(card_path(beside))
        print_facts({f"{kind} engine": f"{beside}, {_measured_lines(card)['time']}"})


def _lines(path: Path, card: EngineCard) -> dict[str, str]:
    facts, versions = card.facts, card.versions
    # The tensors that follow are of pooled vectors, and there are dozens.
    images = (card.inputs[0], card.outputs[0])
    taken, given = (f"{of.name} {'x'.join(map(str, of.shape))} {of.dtype}" for of in images)
    lines = {
        "engine": f"{path}, {card.engine_bytes / 1e6:.1f} MB",
        "network": f"{facts.family} ({facts.preset}), {facts.task}, from {card.source}",
        **_frame_lines(card),
        **_kind_lines(card),
        "precision": card.precision + (", strongly typed" if card.strongly_typed else ", by flags"),
        "tile": f"{card.tile[0]}x{card.tile[1]}, batch {card.batch}",
        "input": taken,
        "output": given,
        "device memory": f"{card.activation_bytes / 1e6:.1f} MB of activations",
        "built for": f"{card.device['name']} (compute capability "
        f"{card.device['compute_capability']}), TensorRT {versions['tensorrt']}, CUDA "
        f"{versions['cuda']}, in {card.build_seconds:.0f} s",
    }
    if not path.is_file() or file_sha256(path) != card.engine_sha256:
        lines["damaged"] = "the card is of another engine; build it again"
    return {**lines, **_measured_lines(card)}


def _frame_lines(card: EngineCard) -> dict[str, str]:
    """What is special about the frames that a network takes or gives."""
    scale = card.facts.scale
    lines = {"scale": f"restored frames are {scale} times as high and wide"} if scale > 1 else {}
    if card.facts.noise_level:
        lines["noise level"] = "told with each frame (--noise)"
    return lines


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


@click.command()
@json_option
def doctor(as_json: bool) -> int:
    """Check this machine: libraries, GPU, TensorRT, JetPack; what is missing and how to get it."""
    from mirnet_edge.doctor import diagnose, healthy

    checks = diagnose()
    if as_json:
        print_json(checks)
    else:
        mark = {"ok": "ok", "missing": "MISSING", "optional": "not there", "warning": "warning"}
        for check in checks:
            say(f"{mark[check.status]:<10} {check.name:<22} {check.detail}")
            if check.fix:
                say(f"{'':<10} {'':<22} -> {check.fix}")
    return 0 if healthy(checks) else 1


@click.command("gst-path")
def gst_path() -> None:
    """Print the folder for GST_PLUGIN_PATH, in which GStreamer finds the element mirnetrestore."""
    say(str(resource_folder("gstreamer")))
