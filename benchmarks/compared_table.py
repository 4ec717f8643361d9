"""The table of a record of `compared.py`, as Markdown: systems with their size, work and time, then
a table of PSNR a task; what was published stands in italics beside what was measured."""

from __future__ import annotations

from typing import Any

TASKS = (
    ("Denoising, colour", ("cbsd68",)),
    ("Real noise, pairs", ("polyu",)),
    ("Super-resolution, luma", ("set5", "set14")),
    ("Low light, pairs", ("lol_train4",)),
)
Rows = list[list[str]]


def markdown(record: dict[str, Any], published: dict[str, Any]) -> str:
    """All tables, the machine, and how published figures are marked."""
    parts = [_lines(_systems(record))]
    for title, sets in TASKS:
        rows = _figures(record, published, sets)
        if len(rows) > 2:
            parts += [f"{title}:", _lines(rows)]
    parts += ["As published, and where the figure was read:", published_table(published)]
    versions = record["versions"]
    parts += [
        f"{record['machine']}, torch {versions['torch']}. PSNR in dB. *Italics*: as published, not "
        f"measured here; in brackets how many pictures where not all. {published['keras_example']}"
    ]
    return "\n\n".join(parts)


def _systems(record: dict[str, Any]) -> Rows:
    rows = [["system", "parameters", "GMAC at 256²", "ms", "of"]]
    for system in record["systems"]:
        rows.append(
            [system["system"], f"{system['parameters'] / 1e6:.2f} M", f"{system['gmac_256']:.1f}",
             f"{system['ms']:.2f}", system["of"]]
        )  # fmt: skip
    return rows


def _figures(record: dict[str, Any], published: dict[str, Any], sets: tuple[str, ...]) -> Rows:
    """One row a system, one column a set and test; the given pictures are the first row."""
    columns: dict[str, dict[str, str]] = {}
    given: dict[str, str] = {}
    for row in record["figures"]:
        if row["data"] not in sets:
            continue
        told = row["noise"] if isinstance(row["noise"], str) else ""
        told = f"told {row['noise']:g}" if isinstance(row["noise"], float) else told
        told = told if row["data"] == "polyu" else ""
        column = f"{row['data']}, {row['test']}"
        name = ", ".join(part for part in (row["system"], told) if part)
        some = f" ({row['images']})" if row["every"] > 1 else ""
        columns.setdefault(column, {})[name] = f"{row['restored']['psnr']:.2f}{some}"
        if row["every"] == 1 or column not in given:
            given[column] = f"{row['given']['psnr']:.2f}{some}"
    for row in published["figures"]:
        for test, psnr in row["psnr"].items():
            column = f"{row['data']}, {test}"
            if column in columns:
                columns[column][f"*{row['system']}*"] = f"*{psnr:.2f}*"
    names = dict.fromkeys(name for values in columns.values() for name in values)
    body = [[name, *(values.get(name, "") for values in columns.values())] for name in names]
    return [["", *columns], ["as given", *given.values()], *body]


def published_table(published: dict[str, Any]) -> str:
    """What papers print, as Markdown."""
    rows = [["system", "data", "PSNR", "paper", "read in"]]
    for row in published["figures"]:
        psnr = ", ".join(f"{test} {value:.2f}" for test, value in row["psnr"].items())
        rows.append([row["system"], row["data"], psnr, row["paper"], row["seen"] or "from memory"])
    return _lines(rows)


def _lines(rows: Rows) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return "\n".join(lines)
