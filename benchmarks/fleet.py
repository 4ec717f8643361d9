"""What N cameras cost, restored on devices beside them or on servers: money, power, bandwidth,
people; which assumption moves the result most; and what breaks first.

python benchmarks/fleet.py                               writes benchmarks/results/fleet.json
python benchmarks/fleet.py mine.json --set fps=15 --set device_dollars=900
python benchmarks/fleet.py mine.json --assumptions my_assumptions.json --cameras 50 500

Both ways run edge-s on whole 1080p frames, in FP16, so that the pictures are the same. The GPU's
time is measured, the device's an estimate, the rest are assumptions: `fleet_assumptions.json` has
each with a range and where it is from. Only numbers of the file are read, so that yours are an
edited copy. Storage, cameras and what becomes of the pictures cost the same both ways, and are
left out.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from fleet_queue import Load, simulate

from mirnet_edge._files import atomic_path
from mirnet_edge.build.device_facts import device_facts
from mirnet_edge.build.estimate import estimate_frame, network_of

HERE = Path(__file__).parent
ASSUMPTIONS = HERE / "fleet_assumptions.json"
MEASURED = HERE / "results" / "h100-tensorrt-8.6.0" / "frame.json"
RACE = MEASURED.with_name("race.json")
"""Of the kind of engine that `MEASURED` is of: with plugins."""
RECORD = HERE / "results" / "fleet.json"
NETWORK, DEVICE, FRAME = "edge-s", "agx-orin", (1080, 1920)
SIZES = (10, 1000, 100_000)
SAMPLES = 4000
HOURS, GIB = 8.76, 2**30
"""Thousands of hours of a year."""
GPU_GIB = 80.0
LOADS = (0.5, 0.7, 0.8, 0.9, 0.95)
Values = Mapping[str, float]
Json = dict[str, Any]


@dataclass(frozen=True)
class Cost:
    """Of one way, for a year.

    Attributes:
        units: devices, or GPUs with their share of a server.
        capital, energy, bandwidth, failures, people: dollars.
        kilowatts: drawn, cooling included.
    """

    units: int
    capital: float
    energy: float
    bandwidth: float
    failures: float
    people: float
    kilowatts: float

    @property
    def total(self) -> float:
        """Dollars a year."""
        return self.capital + self.energy + self.bandwidth + self.failures + self.people


@dataclass(frozen=True)
class Limit:
    """What something would need, of what there is of it."""

    way: str
    what: str
    needed: float
    available: float
    unit: str

    @property
    def share(self) -> float:
        """Above 1 it breaks."""
        return self.needed / self.available


def read_assumptions(path: Path = ASSUMPTIONS) -> Json:
    """The file, with the measured and the estimated figures put in.

    Raises:
        SystemExit: an assumption is missing, unknown, or out of its own range.
    """
    found: Json = json.loads(path.read_text(encoding="utf-8"))
    known = json.loads(ASSUMPTIONS.read_text(encoding="utf-8"))["assumptions"].keys()
    rows = found["assumptions"]
    if rows.keys() != known:
        raise SystemExit(f"{path}: missing or unknown: {', '.join(sorted(rows.keys() ^ known))}")
    for name, (low, value, high) in (("gpu_ms", gpu_ms()), ("edge_ms", edge_ms())):
        if isinstance(rows[name]["value"], str):  # a number in the file is the reader's own
            rows[name] |= {"low": low, "value": value, "high": high}
    for name, row in rows.items():
        if not row["low"] <= row["value"] <= row["high"]:
            raise SystemExit(f"{path}: {name}: need low <= value <= high, have {row}")
    return found


def gpu_ms() -> tuple[float, float, float]:
    """Of a frame on an H100: the engine alone; with the kernels around it; a whole stream."""
    stream = json.loads(MEASURED.read_text(encoding="utf-8"))["frames"]["rgb"]["stream"]
    engine, pre, post = (stream["latency"][part]["p50"] for part in ("engine", "pre", "post"))
    return engine, engine + pre + post, 1000 / stream["frames_per_second"]


def edge_ms() -> tuple[float, float, float]:
    """Of a frame on the device, on paper."""
    ms = estimate_frame(network_of(NETWORK), device_facts(DEVICE), FRAME).ms
    return ms.low, ms.expected, ms.high


def fixed_ms() -> float:
    """Of a batch, whatever its size: from small tiles alone and by four, as they were measured."""
    races = json.loads(RACE.read_text(encoding="utf-8"))["races"]
    times = {
        race["shape"][0]: race["rows"][0]["device_ms"]["p50"]
        for race in races
        if race["network"] == NETWORK and race["shape"][1:] == [256, 256]
    }
    return float(times[1] - (times[4] - times[1]) / 3)


def cameras_a_device(values: Values) -> int:
    """How many a device keeps up with; 0 where not even one."""
    return int(1000 * values["load_ceiling"] / (values["edge_ms"] * values["fps"]))


def on_devices(cameras: int, values: Values) -> Cost | None:
    """Restored where the cameras are; None where a device is too slow for one."""
    each = cameras_a_device(values)
    if not each:
        return None
    devices = math.ceil(cameras / each)
    kilowatts = devices * values["device_watts"] / 1000
    engineers = max(values["least_engineers"], devices / values["devices_per_engineer"])
    return Cost(
        units=devices,
        capital=devices
        * (values["device_dollars"] + values["installing_dollars"])
        / values["years"],
        energy=1000 * kilowatts * HOURS * values["kwh_dollars"],
        bandwidth=0.0,
        failures=devices
        * values["failures"]
        * (values["device_dollars"] + values["visit_dollars"]),
        people=engineers * values["engineer_dollars"],
        kilowatts=kilowatts,
    )


def on_servers(cameras: int, values: Values) -> Cost:
    """Restored in a data centre."""
    frames = cameras * values["fps"]
    busy = max(
        frames * values["gpu_ms"] / 1000 / values["load_ceiling"], frames / values["decoded_fps"]
    )
    gpus = math.ceil(busy) + max(1, math.ceil(values["spare"] * busy))
    kilowatts = gpus * values["gpu_watts"] * values["cooling"] / 1000
    engineers = max(values["least_engineers"], gpus / values["gpus_per_engineer"])
    return Cost(
        units=gpus,
        capital=gpus * values["gpu_dollars"] / values["years"],
        energy=1000 * kilowatts * HOURS * values["kwh_dollars"],
        bandwidth=12 * cameras * values["stream_mbit"] * values["mbit_dollars"],
        failures=gpus * values["failures"] * values["gpu_dollars"],
        people=engineers * values["engineer_dollars"],
        kilowatts=kilowatts,
    )


def limits(cameras: int, values: Values, p99_ms: float) -> list[Limit]:
    """What each way needs of what may run out; ``p99_ms`` is a frame's latency at the ceiling."""
    servers, devices = on_servers(cameras, values), on_devices(cameras, values)
    at_site = min(cameras, values["site_cameras"])
    # All GPUs share the cameras; those that are spare wait with them.
    streams = cameras / servers.units
    engine = estimate_frame(network_of(NETWORK), device_facts("h100"), FRAME).memory_bytes / GIB
    found = [
        Limit("servers", "uplink of a site", at_site * values["stream_mbit"],
              values["site_mbit"], "Mbit/s"),
        Limit("servers", "link of the data centre", cameras * values["stream_mbit"] / 1000,
              values["centre_gbit"], "Gbit/s"),
        Limit("servers", "decoders of a GPU", streams * values["fps"], values["decoded_fps"],
              "frames/s"),
        Limit("servers", "queue of a GPU, p99", p99_ms, values["latency_budget_ms"], "ms"),
        Limit("servers", "memory of a GPU", engine + streams * values["stream_mib"] / 1024,
              GPU_GIB, "GiB"),
        Limit("servers", "power of the data centre", servers.kilowatts, values["centre_kw"], "kW"),
        Limit("servers", "engineers", servers.people / values["engineer_dollars"],
              values["engineers"], "people"),
    ]  # fmt: skip
    if devices is not None:
        here = math.ceil(at_site / cameras_a_device(values))
        found += [
            Limit("devices", "power of a site", here * values["device_watts"],
                  values["site_watts"], "W"),
            Limit("devices", "visits a year", devices.units * values["failures"],
                  values["technicians"] * values["visits_per_technician"], "visits"),
            Limit("devices", "engineers", devices.people / values["engineer_dollars"],
                  values["engineers"], "people"),
            Limit("devices", "time of a device", values["edge_ms"] * values["fps"]
                  * cameras_a_device(values) / 1000, 1.0, "of it"),
        ]  # fmt: skip
    return found


def sensitivity(cameras: int, rows: Json) -> list[Json]:
    """One assumption at a time at the ends of its range: dollars a camera and year both ways, the
    one that moves their ratio most first. ``devices`` is None where none keeps up."""
    middle = {name: row["value"] for name, row in rows.items()}
    found = []
    for name, row in rows.items():
        ends = {}
        for end in ("low", "high"):
            values = {**middle, name: row[end]}
            devices = on_devices(cameras, values)
            ends[end] = {
                "value": row[end],
                "devices": devices and devices.total / cameras,
                "servers": on_servers(cameras, values).total / cameras,
            }
        ratios = [
            end["devices"] / end["servers"] if end["devices"] else math.inf for end in ends.values()
        ]
        swing = max(ratios) / min(ratios)
        found.append({"name": name, **ends, "swing": swing if math.isfinite(swing) else None})
    return sorted(found, key=lambda row: -(row["swing"] or math.inf))


def sampled(cameras: int, rows: Json, samples: int = SAMPLES) -> Json:
    """All assumptions at once, each drawn from a triangle over its range with its peak at the value
    (logarithmic where the range allows): percentiles of dollars a camera and year, and how often
    devices are cheaper, or too slow for one camera."""
    random = np.random.default_rng(0)
    drawn = {}
    for name, row in rows.items():
        low, value, high = row["low"], row["value"], row["high"]
        if low == high:
            drawn[name] = np.full(samples, value)
        elif low > 0:
            drawn[name] = np.exp(random.triangular(*np.log([low, value, high]), samples))
        else:
            drawn[name] = random.triangular(low, value, high, samples)
    devices, servers = [], []
    for index in range(samples):
        values = {name: float(column[index]) for name, column in drawn.items()}
        cost = on_devices(cameras, values)
        devices.append(math.inf if cost is None else cost.total / cameras)
        servers.append(on_servers(cameras, values).total / cameras)
    possible = np.isfinite(devices)
    return {
        "devices": percentiles(np.array(devices)[possible]),
        "servers": percentiles(np.array(servers)),
        "too_slow": float(1 - possible.mean()),
        "devices_cheaper": float(np.mean(np.array(devices) < servers)),
    }


def percentiles(values: np.ndarray[Any, np.dtype[np.float64]]) -> Json:
    """The 10th, 50th and 90th; None where there is none."""
    if not len(values):
        return {"p10": None, "p50": None, "p90": None}
    found = np.percentile(values, [10, 50, 90])
    return {f"p{share}": float(value) for share, value in zip((10, 50, 90), found, strict=True)}


def queues(values: Values, seconds: float = 30.0) -> list[Json]:
    """Latency by load, with and without batches, all cameras in one phase, and a server's death."""
    alone, fixed = values["gpu_ms"], fixed_ms()

    def load(share: float, gpus: int = 4, **more: Any) -> Load:
        cameras = round(1000 * share * gpus / (alone * values["fps"]))
        return Load(gpus=gpus, cameras=cameras, fps=values["fps"], frame_ms=alone - fixed,
                    fixed_ms=fixed, seconds=seconds, **more)  # fmt: skip

    rows = [(share, "one by one", load(share)) for share in LOADS]
    rows += [(share, "batches of up to 8", load(share, batch=8)) for share in (0.8, 0.95)]
    rows.append((0.8, "all cameras at one moment", load(0.8, together=True)))
    rows += [(share, "one of 8 GPUs dies", load(share, gpus=8, dies_s=seconds / 3))
             for share in (0.7, 0.8, 0.9)]  # fmt: skip
    found = []
    for share, what, given in rows:
        outcome = simulate(given)
        shares = {f"p{p:g}": outcome.percentile(p) for p in (50, 99, 99.9)}
        found.append({"load": share, "what": what, "cameras": given.cameras, "gpus": given.gpus,
                      **shares, "lost": outcome.lost_share})  # fmt: skip
    return found


def calculated(found: Json, sizes: tuple[int, ...] = SIZES, seconds: float = 30.0) -> Json:
    """All of it, as the record has it."""
    rows = found["assumptions"]
    values = {name: row["value"] for name, row in rows.items()}
    waiting = queues(values, seconds)
    p99_ms = next(row["p99"] for row in waiting if row["load"] >= min(values["load_ceiling"], 0.95))
    fleets = {}
    for cameras in sizes:
        devices, servers = on_devices(cameras, values), on_servers(cameras, values)
        fleets[str(cameras)] = {
            "devices": devices and asdict(devices),
            "servers": asdict(servers),
            "sampled": sampled(cameras, rows),
            "limits": [{**asdict(limit), "share": limit.share}
                       for limit in limits(cameras, values, p99_ms)],
        }  # fmt: skip
    return {
        "prices_as_of": found["prices_as_of"],
        "assumptions": rows,
        "cameras_a_device": cameras_a_device(values),
        "fixed_ms": fixed_ms(),
        "fleets": fleets,
        "sensitivity": {str(cameras): sensitivity(cameras, rows) for cameras in sizes},
        "queues": waiting,
        "versions": {name: version(name) for name in ("mirnet-edge", "simpy")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("record", type=Path, nargs="?", default=RECORD)
    parser.add_argument("--assumptions", type=Path, default=ASSUMPTIONS)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=NUMBER")
    parser.add_argument("--cameras", type=int, nargs="+", default=list(SIZES))
    given = parser.parse_args()
    found = read_assumptions(given.assumptions)
    for text in given.set:
        name, _, number = text.partition("=")
        if name not in found["assumptions"]:
            parser.error(f"{name}: no such assumption; there are: "
                         f"{', '.join(found['assumptions'])}")  # fmt: skip
        row = found["assumptions"][name]
        row["value"] = float(number)
        row |= {"low": min(row["low"], row["value"]), "high": max(row["high"], row["value"])}
    record = calculated(found, tuple(given.cameras))
    with atomic_path(given.record) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    from fleet_tables import everything

    print(everything(record))


if __name__ == "__main__":
    main()
