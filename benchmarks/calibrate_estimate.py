"""Fit what `mirnet_edge.build.estimate` knows to the records, and count the presets' graphs.

python benchmarks/calibrate_estimate.py FOLDER      writes mirnet_edge/data/estimate.json

FOLDER gets NETWORK.onnx where it is not there. A record is a point where its graph can be counted,
or was: a network of today's presets, or one whose record holds its `Work`, in FP16. Time =
launches x launch_us + (bytes / bandwidth + 2 x MACs / rate) / share, least squares of the relative
errors.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from mirnet_edge._files import atomic_path
from mirnet_edge.build.device_facts import DEVICES, DeviceFacts
from mirnet_edge.build.estimate import CALIBRATION, Network, Work, counted

RESULTS = Path(__file__).with_name("results")
PLAIN = "plain.json"
"""A race of engines without plugins."""
NETWORKS = ("edge-xs", "edge-s", "edge-m")
CLOCK_MHZ = 1980.0
FACTS = ("size_multiple", "min_size_px", "in_channels", "out_channels", "scale", "noise_level",
         "bytes_per_pixel", "preset", "family")  # fmt: skip
OF_COPY_ON_JETSON = 0.73
"""Copies on an AGX Orin at 150 of 204.8 GB/s, told by users; NVIDIA names no figure."""
INT8_MS, FP16_MS = 2.51, 2.07
"""`benchmarks/NOTES.md`, "INT8, all convolutions that may": H200, TensorRT 8.6.0, level 1."""


@dataclass(frozen=True)
class Point:
    """A measured time and the work that it was of."""

    what: str
    device: DeviceFacts
    work: Work
    ms: float

    @property
    def row(self) -> tuple[float, float]:
        """What the constants are multiplied with, in milliseconds: launches and floor."""
        return self.work.launches / 1e3, 1e3 * self.floor_s

    @property
    def floor_s(self) -> float:
        """At the published rates."""
        moved = self.work.bytes_moved / self.device.bytes_per_second
        return moved + 2 * self.work.macs / self.device.flops_per_second["fp16"]


def read(path: Path) -> dict[str, Any]:
    """A record; empty where there is none."""
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return found


def device_of(folder: Path) -> DeviceFacts:
    """The device that a folder of records is of, by its name."""
    return DEVICES[folder.name.partition("-")[0]]


def of_a_known_device(folder: Path) -> bool:
    """Not a record beside the folders, nor the records of a processor."""
    return folder.is_dir() and folder.name.partition("-")[0] in DEVICES


def points(networks: dict[str, Network], folder: Path) -> list[Point]:
    """What one machine's records say of our engines of networks that can be counted, without
    plugins, which no Jetson has run yet."""
    device, found = device_of(folder), []
    for race in read(folder / PLAIN).get("races", []):
        batch, height, width = race["shape"]
        times = [
            row["device_ms"]["p50"]
            for row in race["rows"]
            if row.get("device_ms") and row["form"].startswith("fp16")
        ]
        if "work" in race:  # of a network that is no preset any more
            work = Work(**race["work"])
        elif race["network"] in networks:
            work = networks[race["network"]].work(batch * height * width)
        else:
            continue
        if times:
            what = f"{race['network']} {batch}x{height}x{width}"
            found.append(Point(f"{folder.name}/{PLAIN}: {what}", device, work, min(times)))
    for pixels, frame in read(folder / "frame.json").get("frames", {}).items():
        name = next((name for name in networks if frame["model"].startswith(name)), None)
        if name and pixels == "rgb":
            height, width = frame["tile"]
            ms = frame["one_by_one"]["latency"]["engine"]["p50"]
            work = networks[name].work(height * width)
            found.append(Point(f"{folder.name}/frame.json: {name}", device, work, ms))
    return found


def kernel_shares(folder: Path) -> dict[str, float]:
    """Of the published bandwidth, what the kernels that only read and write reached."""
    bandwidth = device_of(folder).bytes_per_second
    return {
        name: kernel["in_groups"]["gigabytes_per_second"] * 1e9 / bandwidth
        for name, kernel in read(folder / "kernels.json").get("kernels", {}).items()
        if name.startswith(("load", "store"))
    }


def copy_share(folder: Path) -> float:
    """Of the published bandwidth, what a copy reached."""
    rate = read(folder / "kernels.json")["copy"]["in_groups"]["gigabytes_per_second"]
    return float(rate * 1e9 / device_of(folder).bytes_per_second)


def fitted(found: list[Point]) -> tuple[float, float]:
    """Microseconds of a launch, and the share of the published rates."""
    rows = np.array([point.row for point in found]) / np.array([[point.ms] for point in found])
    launch_us, inverse = np.linalg.lstsq(rows, np.ones(len(found)), rcond=None)[0]
    return float(launch_us), float(1 / inverse)


def predicted_ms(point: Point, launch_us: float, share: float) -> float:
    """What constants say of a point."""
    launches, floor = point.row
    return launches * launch_us * CLOCK_MHZ / point.device.clock_mhz + floor / share


def constants(networks: dict[str, Network]) -> dict[str, dict[str, Any]]:
    """All constants, each with where it is from."""
    folders = [path for path in sorted(RESULTS.iterdir()) if of_a_known_device(path)]
    found = [point for folder in folders for point in points(networks, folder)]
    launch_us, share = fitted(found)
    off = {point.what: predicted_ms(point, launch_us, share) / point.ms - 1 for point in found}
    shares = [value for folder in folders for value in kernel_shares(folder).values()]
    copies = [copy_share(folder) for folder in folders if (folder / "kernels.json").exists()]
    fit = {"predicted_over_measured": {what: round(1 + value, 3) for what, value in off.items()}}
    made = {
        "launch_us": (launch_us, fit),
        "clock_mhz": (CLOCK_MHZ, "of both cards under load, the records' own"),
        "share": (share, "of the same fit"),
        "best_share": (median(shares), "kernels.json of every machine: load and store kernels"),
        "spread": (max(map(abs, off.values())), "of the same fit, the worst"),
        "memory_factor": (median(copies) / OF_COPY_ON_JETSON,
                          "kernels.json: copy; 0.73 of the sheet told of AGX Orin by users"),
        "int8_factor": (INT8_MS / FP16_MS, "benchmarks/NOTES.md: 2.51 ms, FP16 2.07, H200"),
    }  # fmt: skip
    return {
        name: {"value": round(value, 4), "from": source} for name, (value, source) in made.items()
    }


def main(folder: Path) -> None:
    """Write the file."""
    import networks as exported

    import mirnet_edge as me

    folder.mkdir(parents=True, exist_ok=True)
    networks = {}
    for name in NETWORKS:
        path = folder / f"{name}.onnx"
        if not path.exists():
            me.export_onnx(exported.network_of(name), path, task="denoise")
        networks[name] = counted(path, name)
    presets = {
        name: {
            "facts": {field: getattr(network.facts, field) for field in FACTS},
            "launches": network.launches,
            "bytes_per_pixel": round(network.bytes_per_pixel, 3),
            "fixed_bytes": network.fixed_bytes,
            "macs_per_pixel": round(network.macs_per_pixel, 3),
        }
        for name, network in networks.items()
    }
    made = {"constants": constants(networks), "presets": presets}
    with atomic_path(CALIBRATION) as temporary:
        temporary.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
