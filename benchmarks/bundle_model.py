"""Make a bundled model from a training run: weights, ONNX graph, measured figures, card, and its
INT8 ranges and plan in ``calibration/``.

    python benchmarks/bundle_model.py TRAINING_FOLDER NAME --set cbsd68=FOLDER --set set5=FOLDER

Every figure in the card is measured here, by the exported graph on the portable engine; README
tables are made from the card.
"""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import onnxruntime
import torch
from record_ranges import record

import mirnet_edge as me
from mirnet_edge._files import atomic_path
from mirnet_edge.bundled import MODELS_FOLDER, BundledModel
from mirnet_edge.workstation.tasks import TRAINABLE

SIGMAS = (15.0, 25.0, 50.0)
WEIGHTS_LICENCE = "research only"
DATA = {
    "name": "BSDS500, train and test images (400; val left out: CBSD68 comes from it)",
    "source": "Berkeley Segmentation Data Set and Benchmarks 500 (Arbelaez et al., TPAMI 2011)",
    "licence": "non-commercial research and educational use",
}


def multiply_accumulates(network: torch.nn.Module, size: int = 256) -> int:
    """Of all convolutions for one ``size`` x ``size`` image."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, size, size))
    return counter.get_total_flops() // 2


def measure(onnx: Path, sets: dict[str, Path]) -> list[dict[str, Any]]:
    """Mean PSNR and SSIM of the exported graph, whole frames, seed 0."""
    figures = []
    with me.Restorer(onnx, tile=None) as restorer:
        for name, folder in sets.items():
            for sigma in SIGMAS:
                evaluation = me.evaluate_model(restorer, folder, sigma=sigma, seed=0)
                if evaluation.note:  # a card without SSIM would leave holes in the README's table
                    raise click.ClickException(evaluation.note)
                mean = {
                    key: value for key, value in asdict(evaluation.mean).items() if key != "name"
                }
                rounded = {key: round(value, 4) for key, value in mean.items()}
                images = len(evaluation.scores)
                figures.append({"data": name, "images": images, "sigma": sigma, **rounded})
                click.echo(
                    f"{name} sigma {sigma:g}: {mean['noisy_psnr']:.2f} -> {mean['psnr']:.2f}"
                )
    return figures


def initial_weights(card_path: Path, data_facts: dict[str, Any]) -> dict[str, Any] | None:
    """How the weights that the training began with were trained themselves, from the card that the
    new one replaces; None for a training that drew its own."""
    sha256 = data_facts.get("initial_weights_sha256")
    if sha256 is None:
        return None
    card = json.loads(card_path.read_text(encoding="utf-8")) if card_path.exists() else {}
    if card.get("weights_sha256") != sha256:
        raise click.ClickException(
            f"the training began with weights {sha256}, of which {card_path} tells nothing: it is "
            f"of {card.get('weights_sha256')}. Bundle those weights first"
        )
    return {key: card[key] for key in ("weights_sha256", "recipe", "curve")}


@click.command()
@click.argument("training", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("name")
@click.option("--set", "sets", multiple=True, required=True, metavar="NAME=FOLDER")
def main(training: Path, name: str, sets: tuple[str, ...]) -> None:
    """Bundle the model in TRAINING under NAME."""
    folder = MODELS_FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    network = me.load_model(training / "model.safetensors")
    task = network.facts.task
    facts = network.training_facts
    recipe = {**facts, "task_settings": asdict(TRAINABLE[task]), "data": DATA}
    if initial := initial_weights(folder / "card.json", facts["data"]):
        recipe["initial"] = initial
    me.save_model(network, folder / "model.safetensors", task=task, training=recipe)
    report = me.export_onnx(network, folder / "model.onnx")
    folders = {key: Path(value) for key, _, value in (item.partition("=") for item in sets)}
    card = {
        "task": task,
        "preset": network.facts.preset,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "gmac_256": round(multiply_accumulates(network) / 1e9, 2),
        "weights_sha256": report.facts.weights_sha256,
        "weights_licence": WEIGHTS_LICENCE,
        "weights_licence_note": "Trained on images licensed for research; use these weights for "
        "research and evaluation, and train your own for a product.",
        "recipe": recipe,
        "protocol": "additive white Gaussian noise, neither clamped nor rounded, seed 0 + index; "
        "whole frames; restored images clamped, not rounded; PSNR and SSIM over RGB, mean of the "
        "images; a picture without colour is a gray frame, and so is its noise",
        "figures": measure(folder / "model.onnx", folders),
        "measured_with": {
            "mirnet_edge": me.__version__,
            "onnxruntime": onnxruntime.__version__,
            "python": platform.python_version(),
        },
    }
    curve = json.loads((training / "curve.json").read_text(encoding="utf-8"))
    card["curve_is"] = "[step, mean PSNR of each validation set, its images cut to 512 px]"
    card["curve"] = [
        [point["step"], {name: round(psnr, 3) for name, psnr in point["psnr"].items()}]
        for point in curve
        if point["psnr"]
    ]
    with atomic_path(folder / "card.json") as temporary:
        temporary.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    record(BundledModel(name=name, folder=folder, card=card))


if __name__ == "__main__":
    main()
