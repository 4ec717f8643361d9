"""The short table of README.md: what the bundled models reach, and the strongest that is known
beside each figure, whether it is measured by us or printed in a paper."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_tables import FRAME, RESULTS
from markdown_tables import markdown

from mirnet_edge.bundled import bundled_model, bundled_models
from mirnet_edge.cli.restore import DEFAULT_MODEL

PUBLISHED = Path(__file__).with_name("published.json")


@dataclass(frozen=True)
class Trial:
    """A test of the table: its words, its name in cards and records, and where papers test on
    other pictures, what they call those."""

    words: str
    data: str
    protocol: str
    elsewhere: str = ""


TRIALS = (
    Trial("real noise, PolyU", "polyu", "pairs"),
    Trial("white noise σ 25, CBSD68", "cbsd68", "σ 25"),
    Trial("twice the size, Set5, luma", "set5", "×2"),
    Trial("low light, 4 pairs of LOL", "lol_train4", "pairs", "LOL (15)"),
)
PEER_NAMES = {
    "ours": "TensorRT",
    "tensorrt": "TensorRT of `torch.onnx.export`",
    "torch-max-autotune": "PyTorch compiled in a CUDA graph",
    "torch-compile": "PyTorch compiled",
    "torch-graph": "PyTorch in a CUDA graph",
    "torch-eager": "PyTorch eager",
}
"""What those of a race are called here."""
Rival = tuple[float, str]
"""A figure, and whose it is."""


def quality(figures: dict[str, Any]) -> str:
    """PSNR and SSIM."""
    return f"{_db(figures['psnr'])} / {figures['ssim']:.3f}"


def _db(psnr: float | None) -> str:
    return f"{'∞' if psnr is None else f'{psnr:.2f}'} dB"  # null for equal pictures


def summary_table() -> str:
    """PSNR of each task, and the time of a 1080p frame, with the strongest peer beside them."""
    rows = [["test", "given", "ours", "the strongest we know of"]]
    for trial in TRIALS:
        ours, rivals = _of_cards(trial)
        strongest = max([*rivals, *_measured(trial), *_published(trial)], default=None)
        rival = "none measured yet" if strongest is None else f"{_db(strongest[0])}, {strongest[1]}"
        rows.append([trial.words, *ours, rival])
    return markdown([*rows, _speed()])


def _of_cards(trial: Trial) -> tuple[list[str], list[Rival]]:
    """What was given and what our best model makes of it; and methods without a network."""
    best: tuple[float, list[str]] = (0.0, ["", ""])
    rivals: list[Rival] = []
    for model in bundled_models():
        for figure in model.card["figures"]:
            if (figure["data"], figure["protocol"]) != (trial.data, trial.protocol):
                continue
            psnr = figure["restored"]["psnr"]
            if figure["method"] != "model":
                rivals.append((psnr, figure["method"]))
            elif figure["noise"] in ("", "auto") and psnr > best[0]:
                size = f"`{model.name}`, {model.card['parameters'] / 1e6:.2f} M parameters"
                best = psnr, [_db(figure["given"]["psnr"]), f"**{_db(psnr)}** ({size})"]
    return best[1], rivals


def _measured(trial: Trial) -> list[Rival]:
    """Other systems, measured by us on whole sets, by the same protocol."""
    ours = {model.name for model in bundled_models()}
    rivals = []
    for path in RESULTS.rglob("compared.json"):
        for row in json.loads(path.read_text(encoding="utf-8"))["figures"]:
            is_it = (row["data"], row["test"]) == (trial.data, trial.protocol)
            if is_it and row["every"] == 1 and row["system"] not in ours:
                told = isinstance(row["noise"], float)
                name = row["system"] + (f" told {row['noise']:g}" if told else "")
                rivals.append((row["restored"]["psnr"], name))
    return rivals


def _published(trial: Trial) -> list[Rival]:
    """Other systems as published, where the figure itself was read."""
    rivals = []
    for row in json.loads(PUBLISHED.read_text(encoding="utf-8"))["figures"]:
        if row["seen"] and row["data"] in (trial.data, trial.elsewhere):
            other = row["data"] if row["data"] == trial.elsewhere else ""
            where = f"as published, on {other}" if other else "as published"
            psnr = row["psnr"].get(trial.protocol)
            rivals += [] if psnr is None else [(psnr, f"{row['system']} {where}")]
    return rivals


def _speed() -> list[str]:
    """The network alone on a 1080p frame: ours and the fastest peer on the same kind of GPU."""
    model = bundled_model(DEFAULT_MODEL)
    assert model is not None, DEFAULT_MODEL
    network = model.card["preset"]
    ours, peers = _raced(network)
    gpu = min(ours.keys() & peers.keys())
    own, peer = min(ours[gpu]), min(peers[gpu])
    return [
        f"1080p, the network alone, {gpu.removeprefix('NVIDIA ')}",
        "",
        f"**{own[0]:.2f} ms** (`{network}`, {own[1]})",
        f"{peer[0]:.2f} ms, {peer[1]}",
    ]


def _raced(network: str) -> tuple[dict[str, list[Rival]], dict[str, list[Rival]]]:
    """Milliseconds and forms by GPU, of ours and of all others."""
    ours: dict[str, list[Rival]] = {}
    peers: dict[str, list[Rival]] = {}
    for path in sorted(RESULTS.glob("*/race.json")):
        for race in json.loads(path.read_text(encoding="utf-8"))["races"]:
            if (race["network"], race["shape"]) != (network, FRAME):
                continue
            name = PEER_NAMES.get(race["peer"], race["peer"])
            side = ours if race["peer"] == "ours" else peers
            side.setdefault(race["gpu"], []).extend(
                ((row.get("device_ms") or row["wall_ms"])["p50"], f"{name}, {row['form']}")
                for row in race["rows"]
                if "wall_ms" in row
            )
    return ours, peers
