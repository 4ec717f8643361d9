"""``models``, ``info`` and ``doctor``: what there is, what a file is, what is missing."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from mirnet_edge._imports import require
from mirnet_edge.cli.cards import describe_plan, print_card
from mirnet_edge.cli.console import json_option, out, print_facts, print_json, print_table
from mirnet_edge.engine_choice import CHECKPOINT_SUFFIXES, PLAN_SUFFIXES
from mirnet_edge.engines.card import EngineCard, card_path
from mirnet_edge.errors import MirnetEdgeError
from mirnet_edge.graph.file import load_graph

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
            [figure["data"], *(f"{figure[name]:g}" for name in ("images", "sigma")),
             *(f"{figure[name]:.2f}" for name in ("noisy_psnr", "psnr"))]
            for figure in card["figures"]
        ]  # fmt: skip
        print_table(["data", "images", "sigma", "noisy dB", "restored dB"], rows)


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
    described = {"file": path, "size_bytes": path.stat().st_size, **_describe(path)}
    if as_json:
        print_json(described)
        return
    print_facts(described)


def _describe(path: Path) -> dict[str, Any]:
    if path.suffix.lower() == ".onnx":
        from mirnet_edge.engines.onnx_engine import OnnxEngine

        engine = OnnxEngine(path)
        size = "any" if engine.fixed_size is None else "{}x{}".format(*engine.fixed_size)
        engine.close()
        precision = _precision_of_graph(path)
        return {"kind": "ONNX", "input_size": size, "precision": precision, **asdict(engine.facts)}
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
        return describe_plan(path)
    known = ", ".join((".onnx", *CHECKPOINT_SUFFIXES, *PLAN_SUFFIXES))
    raise MirnetEdgeError(f"{path}: not one of {known}")


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
            out().print(f"{mark[check.status]:<10} {check.name:<22} {check.detail}")
            if check.fix:
                out().print(f"{'':<10} {'':<22} -> {check.fix}")
    return 0 if healthy(checks) else 1
