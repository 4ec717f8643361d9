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
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from mirnet_edge._files import atomic_path
from mirnet_edge.build.device_facts import DEVICES, DeviceFacts
from mirnet_edge.build.estimate import CALIBRATION, Form, Network, Work, counted

RESULTS = Path(__file__).with_name("results")
KINDS = {"plain": "plain.json", "plugins": "race.json"}
"""Races of our engines without plugins, and with them."""
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


def points(networks: dict[str, Network], folder: Path, kind: str = "plain") -> list[Point]:
    """What one machine's records say of our engines of networks that can be counted: of one of
    `KINDS`."""
    device, found, form = device_of(folder), [], Form("fp16", plugins=kind == "plugins")
    for race in read(folder / KINDS[kind]).get("races", []):
        batch, height, width = race["shape"]
        times = [
            row["device_ms"]["p50"]
            for row in race["rows"]
            if race["peer"] == "ours" and row.get("device_ms") and row["form"].startswith("fp16")
        ]
        if "work" in race:  # of a network that is no preset any more
            work = Work(**race["work"])
        elif race["network"] in networks:
            work = networks[race["network"]].graph(form, device).of(batch * height * width)
        else:
            continue
        if times:
            what = f"{race['network']} {batch}x{height}x{width}"
            found.append(Point(f"{folder.name}/{KINDS[kind]}: {what}", device, work, min(times)))
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
    fits: dict[str, dict[str, Any]] = {}
    for kind in KINDS:
        found = [point for folder in folders for point in points(networks, folder, kind)]
        launch_us, share = fitted(found)
        ratios = {p.what: predicted_ms(p, launch_us, share) / p.ms for p in found}
        told = {"predicted_over_measured": {what: round(by, 3) for what, by in ratios.items()}}
        fits[kind] = {
            "launch_us": constant(launch_us, told),
            "share": constant(share, "of the same fit"),
            "spread": constant(max(abs(by - 1) for by in ratios.values()), "the worst of them"),
        }
    shares = [value for folder in folders for value in kernel_shares(folder).values()]
    copies = [copy_share(folder) for folder in folders if (folder / "kernels.json").exists()]
    return fits | {
        "clock_mhz": constant(CLOCK_MHZ, "of both cards under load, the records' own"),
        "best_share": constant(
            median(shares), "kernels.json of every machine: load and store kernels"
        ),
        "memory_factor": constant(
            median(copies) / OF_COPY_ON_JETSON,
            "kernels.json: copy; 0.73 of the sheet told of AGX Orin by users",
        ),
        "int8_factor": constant(INT8_MS / FP16_MS, "benchmarks/NOTES.md: 2.51 ms, FP16 2.07, H200"),
    }


def constant(value: float, source: Any) -> dict[str, Any]:
    """A constant, and where it is from."""
    return {"value": round(value, 4), "from": source}


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
            "graphs": {
                kind: {field: round(value, 3) for field, value in asdict(work).items()}
                for kind in ("plain", "plugins", "blocks")
                if (work := getattr(network, kind)) is not None
            },
        }
        for name, network in networks.items()
    }
    made = {"constants": constants(networks), "presets": presets}
    with atomic_path(CALIBRATION) as temporary:
        temporary.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
