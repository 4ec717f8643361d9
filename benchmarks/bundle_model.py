"""Make a bundled model from a training run: ONNX graph, measured figures, card, and, where asked,
its INT8 ranges and plan in ``calibration/``.

    python benchmarks/bundle_model.py TRAINING_FOLDER NAME --sets FOLDER_OF_SETS [--record]

Weights are rounded to half precision, and the graph stores them so; `load_model` reads them there.
Every figure in the card is measured here, by the exported graph on the portable engine; the tables
of the documentation are made from the card.
"""

from __future__ import annotations

import json
import math
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import onnxruntime
from record_ranges import record

import mirnet_edge as me
from mirnet_edge._files import atomic_path
from mirnet_edge.bundled import MODELS_FOLDER, BundledModel
from mirnet_edge.model.checkpoints import facts_of
from mirnet_edge.model.exported import with_differences
from mirnet_edge.workstation.arithmetic import multiply_accumulates
from mirnet_edge.workstation.sets import card_figures

WEIGHTS_LICENCE = "Apache-2.0"
WEIGHTS_LICENCE_NOTE = (
    "Trained on photos under open licences alone (CC0, CC BY, CC BY-SA, Unsplash, Pexels and other "
    "free ones): they may be used in a product."
)
DATA = {
    "name": "147 photos of free desktop wallpapers, 183 megapixels, made smaller at least twice",
    "source": "the wallpaper collections of elementary, Budgie and others; each photo's author "
    "allows use, change and sale",
    "licence": "CC0-1.0 (38), CC BY 4.0 (30), CC0, CC BY-SA, Unsplash or Pexels (29), free by "
    "Debian's guidelines (28), Unsplash (18), Pexels (3), CC BY-SA 4.0 (1)",
    "cost": "trained for two minutes on BSDS500 instead, whose pictures are like CBSD68's, edge-s "
    "for white noise reaches 31.08 dB there at σ 25; on these photos 30.86",
}


def measure(onnx: Path, sets: Path) -> list[dict[str, Any]]:
    """Figures of the exported graph on all sets of its task, whole frames, seed 0."""
    with me.Restorer(onnx, tile=None, provider="CPUExecutionProvider") as restorer:
        rows = card_figures(restorer, sets)
    for row in rows:
        if row.note:  # a card without SSIM, or without a codec, would leave holes in tables
            raise click.ClickException(f"{row.data}, {row.protocol}: {row.note}")
        given, restored = row.given["psnr"], row.restored["psnr"]
        click.echo(f"{row.data}, {row.protocol}, {row.noise}: {given:.2f} -> {restored:.2f}")
    return [rounded(asdict(row)) for row in rows]


def rounded(value: Any) -> Any:
    """All numbers of a row to four places; infinite ones, of equal pictures, become null."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items() if key != "note"}
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    return value


def initial_weights(
    data_facts: dict[str, Any], earlier: dict[str, dict[str, Any]]
) -> dict[str, Any] | None:
    """How the weights were trained that this training began with; None for one that drew its own.

    Args:
        earlier: what trainings say of themselves that are not bundled, by the hash of the weights.
    """
    sha256 = data_facts.get("initial_weights_sha256")
    if sha256 is None:
        return None
    for model in me.bundled_models():
        if sha256 in (model.card.get("trained_sha256"), model.card["weights_sha256"]):
            return {"model": model.name, "recipe": model.card["recipe"]}
    if sha256 in earlier:
        recipe = {**earlier[sha256], "initial": initial_weights(earlier[sha256]["data"], earlier)}
        return {"trained_sha256": sha256, "recipe": recipe}
    raise click.ClickException(
        f"the training began with weights {sha256}, of which no card tells; bundle those first, or "
        "name their file with --initial"
    )


def curve_of(training: Path) -> list[Any]:
    """The points of a training's curve that were validated: step, and PSNR of each set."""
    curve = json.loads((training / "curve.json").read_text(encoding="utf-8"))
    return [
        [point["step"], {name: round(psnr, 3) for name, psnr in point["psnr"].items()}]
        for point in curve
        if point["psnr"]
    ]


@click.command()
@click.argument("training", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("name")
@click.option(
    "--sets",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Holds cbsd68, set5, set14, polyu, lol_train4.",
)
@click.option("--record", "is_recorded", is_flag=True, help="With a record of INT8 ranges.")
@click.option(
    "--initial",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="Weights that a training began with and that are not bundled, in the folder of theirs.",
)
def main(
    training: Path, name: str, sets: Path, is_recorded: bool, initial: tuple[Path, ...]
) -> None:
    """Bundle the model in TRAINING under NAME."""
    folder = MODELS_FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    network = me.load_model(training / "model.safetensors")
    trained_sha256 = network.facts.weights_sha256
    network = with_differences(network).half().float()
    facts = network.training_facts
    recipe = {**facts, "data": DATA}
    earlier = {
        each.facts.weights_sha256: {**each.training_facts, "curve": curve_of(path.parent)}
        for path, each in zip(initial, map(me.load_model, initial))
    }
    if began_with := initial_weights(facts["data"], earlier):
        recipe["initial"] = began_with
    network.facts = facts_of(network, network.facts.task, network.facts.scale)
    report = me.export_onnx(network, folder / "model.onnx", half_weights=True)
    card = {
        "task": network.facts.task,
        "preset": network.facts.preset,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "gmac_256": round(multiply_accumulates(network, network.facts.in_planes) / 1e9, 2),
        "weights_sha256": report.facts.weights_sha256,
        "trained_sha256": trained_sha256,
        "weights_licence": WEIGHTS_LICENCE,
        "weights_licence_note": WEIGHTS_LICENCE_NOTE,
        "recipe": recipe,
        "protocol": "each row's own sentence; seed 0 + index; whole frames; restored images "
        "clamped, not rounded, but for super-resolution, whose luma is of 8 bits; mean of the "
        "images; a picture without colour is a gray frame, and so is its noise",
        "figures": measure(folder / "model.onnx", sets),
        "measured_with": {
            "mirnet_edge": me.__version__,
            "onnxruntime": onnxruntime.__version__,
            "python": platform.python_version(),
        },
        "curve_is": "[step, mean PSNR of each validation set, its images cut to 512 px]",
        "curve": curve_of(training),
    }
    with atomic_path(folder / "card.json") as temporary:
        temporary.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    if is_recorded:
        record(BundledModel(name=name, folder=folder, card=card))


if __name__ == "__main__":
    main()
