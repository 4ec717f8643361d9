"""Records of what was measured, read and told apart by what they hold."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mirnet_edge.errors import DataError, first_line

RACE_SCHEMA = 1
PARTS = ("upload", "queue", "pre", "engine", "post", "download", "total")
Json = dict[str, Any]


@dataclass
class Records:
    """What was read, each with the name it is shown by.

    Attributes:
        races: a peer on a network and a shape, as `benchmarks/race.py` writes them.
        frames: times of whole frames, as ``bench --frame --json`` writes them.
        profiles: times by layer, as ``bench --profile --json`` writes them.
    """

    races: list[Json] = field(default_factory=list)
    frames: dict[str, Json] = field(default_factory=dict)
    profiles: dict[str, Json] = field(default_factory=dict)


def read_records(paths: Iterable[str | os.PathLike[str]]) -> Records:
    """Read files.

    Raises:
        DataError: a file is not there, is no JSON, or is a record of another schema.
    """
    found = Records()
    for path in map(Path, paths):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: no record ({first_line(error)})") from error
        try:
            _add(found, path, record)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise _refused(path, f"{type(error).__name__}: {first_line(error)}") from error
    return found


def _refused(path: Path, why: str) -> DataError:
    return DataError(
        f"{path}: a record of another schema ({why}); need a race of schema {RACE_SCHEMA} "
        "(benchmarks/race.py), or what bench --frame --json or bench --profile --json wrote"
    )


def _add(found: Records, path: Path, record: Json) -> None:
    """Keep what a file holds; whatever it lacks is a KeyError."""
    if "races" in record:
        if record["schema"] != RACE_SCHEMA:
            raise _refused(path, f"schema {record['schema']}")
        for race in record["races"]:
            batch, height, width = race["shape"]
            shape = f"{batch} × {height}x{width}"
            rows = [(row["form"], _time(row)) for row in race["rows"]]
            found.races.append(
                {"network": race["network"], "peer": race["peer"], "shape": shape, "rows": rows,
                 "gpu": race.get("gpu", race.get("device", ""))}
            )  # fmt: skip
    elif "frames" in record and isinstance(record["frames"], dict):
        for pixels, frame in record["frames"].items():
            found.frames[f"{_frame_name(frame)}, {pixels}"] = _checked_frame(frame)
    elif "one_by_one" in record:
        found.frames[_frame_name(record)] = _checked_frame(record)
    else:
        for kind in ("kinds", "modules"):
            for part in record[kind]:
                float(part["time_ms"]), float(part["floor_ms"]), int(part["bytes_moved"])
                str(part["name"])
        found.profiles[path.stem] = record


def _time(row: Json) -> Json | None:
    """Percentiles of a row of a race, None of one that failed."""
    times = row.get("device_ms") or row.get("wall_ms")
    if times is None:
        str(row["error"])
        return None
    return {name: float(times[name]) for name in ("p50", "p90", "p99")}


def _frame_name(frame: Json) -> str:
    height, width = frame["frame_size"]
    return f"{frame['model']}, {width}x{height} on {frame['device']}"


def _checked_frame(frame: Json) -> Json:
    for way in ("one_by_one", "stream"):
        float(frame[way]["frames_per_second"])
        for part in PARTS:
            for percentile in ("p50", "p90", "p99"):
                float(frame[way]["latency"][part][percentile])
    return frame
