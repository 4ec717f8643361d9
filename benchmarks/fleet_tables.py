"""The tables of a record of `fleet.py`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from markdown_tables import markdown

Json = dict[str, Any]
RECORD = Path(__file__).with_name("results") / "fleet.json"
PARTS = ("capital", "energy", "bandwidth", "failures", "people")
MOST = 10
"""Assumptions that the table of sensitivity names."""


def _read() -> Json:
    record: Json = json.loads(RECORD.read_text(encoding="utf-8"))
    return record


def assumptions_table(record: Json | None = None) -> str:
    """Every assumption with its range and source."""
    record = record or _read()
    rows = [["assumption", "value", "range", "of", "source"]]
    for name, row in record["assumptions"].items():
        value, low, high = (_short(row[key]) for key in ("value", "low", "high"))
        rows.append([f"`{name}`", value, f"{low} to {high}", row["unit"], row["source"]])
    return markdown(rows) + f"\nPrices as of {record['prices_as_of']}.\n"


def cost_table(record: Json | None = None) -> str:
    """Dollars a camera and year, by size and way, with what all ranges together leave of them."""
    record = record or _read()
    rows = [["cameras", "way", "units", "kW", *PARTS, "together", "10 to 90 % of samples"]]
    for cameras, fleet in record["fleets"].items():
        for way, unit in (("devices", "devices"), ("servers", "GPUs")):
            cost, spread = fleet[way], fleet["sampled"][way]
            if cost is None:
                rows.append([_count(cameras), way, "too slow", *[""] * 8])
                continue
            each = [cost[part] / int(cameras) for part in PARTS]
            rows.append([
                _count(cameras), way, f"{cost['units']:,} {unit}", _short(cost["kilowatts"]),
                *(f"{value:,.0f}" for value in each), f"**{sum(each):,.0f}**",
                f"{spread['p10']:,.0f} to {spread['p90']:,.0f}",
            ])  # fmt: skip
    said = [
        f"{_count(cameras)} cameras: devices are cheaper in "
        f"{100 * fleet['sampled']['devices_cheaper']:.0f} % of the samples, and in "
        f"{100 * fleet['sampled']['too_slow']:.0f} % too slow for one camera."
        for cameras, fleet in record["fleets"].items()
    ]
    return markdown(rows) + "\n" + " ".join(said) + "\n"


def limits_table(record: Json | None = None) -> str:
    """What is needed of what there is, by size; what breaks is bold."""
    record = record or _read()
    fleets = record["fleets"]
    rows = [["way", "what", *(f"{_count(cameras)} cameras" for cameras in fleets)]]
    first = next(iter(fleets.values()))["limits"]
    for index, limit in enumerate(first):
        cells = []
        for fleet in fleets.values():
            found = fleet["limits"][index]
            told = f"{_short(found['needed'])} of {_short(found['available'])} {found['unit']}"
            cells.append(f"**{told}**" if found["share"] > 1 else told)
        rows.append([limit["way"], limit["what"], *cells])
    said = []
    for cameras, fleet in fleets.items():
        for way in ("devices", "servers"):
            of_way = [limit for limit in fleet["limits"] if limit["way"] == way]
            if of_way:
                worst = max(of_way, key=lambda limit: float(limit["share"]))
                verb = "breaks first" if worst["share"] > 1 else "nothing breaks, nearest to it"
                said.append(
                    f"- {_count(cameras)} cameras on {way}: {verb} – {worst['what']}, at "
                    f"{100 * worst['share']:,.0f} %."
                )
    return markdown(rows) + "\n" + "\n".join(said) + "\n"


def sensitivity_table(record: Json | None = None) -> str:
    """Assumptions by how far they move the ratio of both ways, at the middle size."""
    record = record or _read()
    sizes = list(record["sensitivity"])
    cameras = sizes[len(sizes) // 2]
    rows = [["assumption", "from", "to", "devices, dollars", "servers, dollars", "ratio moves by"]]
    for row in record["sensitivity"][cameras][:MOST]:
        low, high = row["low"], row["high"]
        swing = "devices no longer keep up" if row["swing"] is None else f"× {row['swing']:.2f}"
        rows.append([f"`{row['name']}`", _short(low["value"]), _short(high["value"]),
                     _ends(low["devices"], high["devices"]), _ends(low["servers"], high["servers"]),
                     swing])  # fmt: skip
    return markdown(rows) + f"\nFor a camera and year, of {_count(cameras)} cameras.\n"


def queue_table(record: Json | None = None) -> str:
    """What was simulated of a server's queue."""
    record = record or _read()
    rows = [["GPU time used", "how", "cameras on GPUs", "p50", "p99", "p99.9", "frames lost"]]
    for row in record["queues"]:
        times = [f"{row[name]:.1f} ms" for name in ("p50", "p99", "p99.9")]
        rows.append([f"{100 * row['load']:.0f} %", row["what"], f"{row['cameras']} on "
                     f"{row['gpus']}", *times, f"{100 * row['lost']:.2f} %"])  # fmt: skip
    return markdown(rows) + f"\nSimulated with simpy {record['versions']['simpy']}.\n"


TABLES: dict[str, Callable[[], str]] = {
    "fleet-assumptions": assumptions_table,
    "fleet-cost": cost_table,
    "fleet-limits": limits_table,
    "fleet-sensitivity": sensitivity_table,
    "fleet-queue": queue_table,
}


def everything(record: Json) -> str:
    """All tables of a record."""
    tables = (cost_table, limits_table, sensitivity_table, queue_table, assumptions_table)
    return "\n".join(table(record) for table in tables)


def _short(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _count(cameras: str) -> str:
    return f"{int(cameras):,}"


def _ends(low: float | None, high: float | None) -> str:
    first, last = ("too slow" if end is None else f"{end:,.0f}" for end in (low, high))
    return first if first == last else f"{first} to {last}"
