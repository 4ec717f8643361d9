"""The tables of docs/estimate.md: what is said of devices, and what it is made of."""

from __future__ import annotations

import json

from markdown_tables import markdown

from mirnet_edge.build.device_facts import DEVICES, GIB
from mirnet_edge.build.estimate import (
    CALIBRATION,
    FORMS,
    Range,
    estimate_frame,
    preset_networks,
)

SHOWN, SIZES, FPS = ("orin-nano", "agx-orin"), ((1080, 1920), (720, 1280)), 30
KINDS = {"plugins": "with plugins", "plain": "without"}


def frames_table() -> str:
    """Milliseconds a frame of each preset, with plugins and without, and whether that will do."""
    devices = [DEVICES[name] for name in SHOWN]
    heads = [f"{device.title}, {height}p" for device in devices for height, _ in SIZES]
    rows = [["", *heads]]
    for name, network in preset_networks().items():
        for form in FORMS[:2]:
            cells = [
                _cell(estimate_frame(network, device, size, form).ms)
                for device in devices
                for size in SIZES
            ]
            rows.append([f"`{name}` {'' if form.plugins else '`--no-plugins`'}".strip(), *cells])
    return markdown(rows)


def _cell(ms: Range) -> str:
    return f"{ms.expected:.1f} ({ms.low:.1f} to {ms.high:.1f}): {ms.verdict(1000 / FPS)}"


def fit_table() -> str:
    """The constants of both kinds of engines, and how far they are off."""
    constants = json.loads(CALIBRATION.read_text(encoding="utf-8"))["constants"]
    rows = [["engines", "a launch", "share of the sheet", "records", "predicted over measured"]]
    for kind, title in KINDS.items():
        fit = constants[kind]
        ratios = fit["launch_us"]["from"]["predicted_over_measured"].values()
        rows.append([
            title,
            f"{fit['launch_us']['value']:.1f} µs",
            f"{fit['share']['value']:.2f}",
            str(len(ratios)),
            f"{min(ratios):.2f} to {max(ratios):.2f}",
        ])  # fmt: skip
    return markdown(rows)


def devices_table() -> str:
    """What the sheets say."""
    rows = [["device", "", "mode", "memory", "FP16, dense", "memory to use"]]
    for name, device in DEVICES.items():
        rows.append([
            f"`{name}`",
            device.title,
            device.mode,
            f"{device.bytes_per_second / 1e9:,.0f} GB/s",
            f"{device.flops_per_second['fp16'] / 1e12:,.4g} TFLOPS",
            f"{device.usable_bytes / GIB:.1f} GiB",
        ])  # fmt: skip
    return markdown(rows)


TABLES = {
    "estimate": frames_table,
    "estimate-fit": fit_table,
    "estimate-devices": devices_table,
}
