"""The tables of GPUs: races of engines and their peers, the runtime around them, its kernels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from markdown_tables import markdown

from mirnet_edge.pooling.passes import MODES

RESULTS = Path(__file__).with_name("results")
FIRST = "full-size network of 0.47 M parameters, FP16"
"""What the runtime was measured around, where the record does not say: the network that was bundled
first."""
FASTEST = "torch-max-autotune"
"""The peer that is the fastest PyTorch wherever both were measured."""
KINDS = {
    "ours": ("ours",),
    "TensorRT of `torch.onnx.export`": ("tensorrt",),
    "PyTorch compiled, graph": (FASTEST, "torch-compile"),
    "PyTorch graph": ("torch-graph",),
    "PyTorch eager": ("torch-eager",),
    "ONNX Runtime": ("onnxruntime-tensorrt", "onnxruntime-cuda"),
}
"""Columns of a race, and the peers that each shows the best of."""
BESIDE = "ours, of the fastest PyTorch"
FRAME = [1, 1088, 1920]
"""The shape of a whole 1080p frame, padded."""
Place = tuple[str, tuple[int, ...]]
"""A network, and batch, height and width."""
Time = tuple[float, str]
"""Milliseconds, and the form that took them."""
PYTORCH = (FASTEST, "torch-compile", "torch-graph", "torch-eager")


def gpu_table() -> str:
    """Races of engines and their peers, the runtime around them and its kernels, from the records
    of every machine."""
    records = [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*/race.json"))
    ]
    races = [race_table(record) for record in records]
    folders = [path for path in sorted(RESULTS.iterdir()) if path.is_dir()]
    return "\n".join([*races, *filter(None, map(_machine_tables, folders))])


def plugins_table() -> str:
    """A whole 1080p frame on an H100 in an engine with plugins, in a plain one, and in PyTorch."""
    folder = RESULTS / "h100-tensorrt-8.6.0"
    columns = (("plain", "plain", "ours"), ("with plugins", "race", "ours"),
               ("PyTorch, compiled", "race", FASTEST))  # fmt: skip
    found: dict[str, dict[str, float]] = {}
    for title, name, peer in columns:
        races = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["races"]
        for race in races:
            times = [row["device_ms"]["p50"] for row in race["rows"] if row.get("device_ms")]
            if race["peer"] == peer and race["shape"] == FRAME and times:
                found.setdefault(race["network"], {})[title] = min(times)
    titles = [title for title, _, _ in columns]
    rows = [["", *titles]]
    for network, of_kinds in sorted(found.items(), key=lambda item: min(item[1].values())):
        if "with plugins" in of_kinds:
            cells = (f"{of_kinds[title]:.2f} ms" if title in of_kinds else "" for title in titles)
            rows.append([f"`{network}`", *cells])
    return markdown(rows)


def _machine_tables(folder: Path) -> str:
    """What one machine measured, and where it is recorded; empty where that is but a race."""
    frame, kernels, device, more = (
        json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        for path in (
            folder / f"{name}.json" for name in ("frame", "kernels", "device", "device-more")
        )
    )
    tables, about = [], ""
    if frame:
        bench = next(iter(frame["frames"].values()))
        tables.append([["a 1080p frame, one engine as large", *FRAME_PARTS], *_frame_rows(frame)])
        about = f"{bench['device']}, TensorRT {bench['versions']['tensorrt']}. {frame['note']}"
    if kernels:
        tables.append([["kernel, 3840x2160", "measured"], *_kernel_rows(kernels)])
        about = about or f"{kernels['device']}."
    if device:
        tables += [_runtime_rows(device), *([_later_rows(more)] if more else [])]
        versions = device["versions"]
        about = (
            f"{device['device']['name']}, TensorRT {versions['tensorrt']}, driver "
            f"{versions['driver']}."
        )
    if not tables:
        return ""
    where = f"\n{about} Records: `benchmarks/results/{folder.name}/`.\n"
    return "\n".join(map(markdown, tables)) + where


FRAME_PARTS = ("upload", "pre", "engine", "post", "download")


def _frame_rows(record: dict[str, Any]) -> list[list[str]]:
    """Where the time of a frame goes, by pixel format."""
    rows = []
    for pixels, bench in record["frames"].items():
        latency = bench["one_by_one"]["latency"]
        times = [f"{latency[part]['p50']:.2f} ms" for part in FRAME_PARTS]
        rows.append([f"{bench['model']}, {pixels}", *times])
    return rows


def _kernel_rows(kernels: dict[str, Any]) -> list[list[str]]:
    """How near each kernel comes to the device's copy bandwidth."""
    return [
        [f"`{name}`, of the device's copy bandwidth",
         f"{100 * kernel['share_of_copy_bandwidth']:.0f} %, launches in a row "
         f"{100 * kernel['in_groups']['share_of_copy_bandwidth']:.0f} %"]
        for name, kernel in kernels["kernels"].items()
        if name.endswith(("_rgb_u8", "_nv12_u8")) or name.startswith(("enlarge", "fill"))
    ]  # fmt: skip


def race_table(record: dict[str, Any]) -> str:
    """Medians of a race: the best form of each kind of peer, for every network and shape."""
    cells: dict[Place, dict[str, Time]] = {}
    frames: dict[Place, dict[str, Time]] = {}
    for race in record["races"]:
        place = race["network"], tuple(race["shape"])
        measured = [row for row in race["rows"] if "wall_ms" in row]
        # What has no events was waited for on the wall.
        mode = ", default mode" if race["peer"] == "torch-compile" else ""
        times = [
            ((row.get("device_ms") or row["wall_ms"])["p50"], row["form"] + mode)
            for row in measured
        ]
        whole = [
            (row["frame_ms"]["p50"], row["form"] + mode) for row in measured if "frame_ms" in row
        ]
        if times:
            cells.setdefault(place, {})[race["peer"]] = min(times)
        if whole:
            frames.setdefault(place, {})[race["peer"]] = min(whole)
    tables = [
        _race_rows(what, table)
        for what, table in (("one run", cells), ("a 1080p frame, host to host", frames))
        if table
    ]
    return "\n".join([*tables, _race_facts(record)])


def _race_rows(what: str, table: dict[Place, dict[str, Time]]) -> str:
    """The table of one thing that was timed, with the kinds of peers that have times in it."""
    kinds = {
        name: peers
        for name, peers in KINDS.items()
        if any(peer in row for row in table.values() for peer in peers)
    }
    heads = [what, *kinds, *([BESIDE] if "ours" in kinds else [])]
    return markdown(
        [heads, *(_race_row(place, row, kinds) for place, row in sorted(table.items()))]
    )


def _race_row(place: Place, found: dict[str, Time], kinds: dict[str, tuple[str, ...]]) -> list[str]:
    """A network and a shape, with the best of each kind."""
    name, (batch, height, width) = place
    row = [f"`{name}`, {batch} × {height}x{width}"]
    for peers in kinds.values():
        best = min((found[peer] for peer in peers if peer in found), default=None)
        row.append("" if best is None else f"{best[0]:.2f} ms ({best[1]})")
    if "ours" not in kinds:
        return row
    torch = min((found[peer][0] for peer in PYTORCH if peer in found), default=None)
    if "ours" not in found or torch is None:
        return [*row, ""]
    least = "" if FASTEST in found else ", which lacks max-autotune"
    return [*row, f"{found['ours'][0] / torch:.2f}{least}"]


def _race_facts(record: dict[str, Any]) -> str:
    """What ran it."""
    races = [race for race in record["races"] if race["rows"]]
    versions: dict[str, str] = {}
    for race in races:
        versions |= {name: text for name, text in race.get("versions", {}).items() if text}
    gpus = sorted({race["gpu"] for race in races if "gpu" in race})
    drivers = sorted({race["driver"] for race in races if "driver" in race})
    clocks = [int(row["gpu"]["sm_mhz"]) for race in races for row in race["rows"]
              if row.get("gpu")]  # fmt: skip
    failed = sum("error" in row for race in races for row in race["rows"])
    told = ", ".join(f"{name} {text}" for name, text in sorted(versions.items()))
    clocked = f", {min(clocks)} to {max(clocks)} MHz under load" if clocks else ""
    return (
        f"{', '.join(gpus)}{clocked}, driver {', '.join(drivers)}; {told}. Medians by events, "
        f"random weights, the best form of each kind; {failed} rows of the record say why there is "
        "none.\n"
    )


def _runtime_rows(device: dict[str, Any]) -> list[list[str]]:
    many, modes = _measured(device, "many_720p").get("blocks"), _measured(device, "modes_1080p")
    network = device.get("network", FIRST)
    return [
        ["the runtime", "measured"],
        *_overhead_rows(_measured(device, "overhead_1080p"), f"a {network}, one by one"),
        *(
            [f"1920x1080 frame that repeats, {modes[mode]['tiles']} tiles of "
             f"a {network}, halo 32 px, `statistics` {mode}",
             f"{modes[mode]['ms']:.1f} ms"]
            for mode in MODES
            if modes
        ),
        *(
            [f"one tile of it{', ' if kind else ''}{kind.strip('.')}",
             f"{modes[f'batch{kind}']['graph_ms']:.2f} ms"]
            for kind in ("", ".apply", ".gather")
            if modes
        ),
        *_agreement_rows(_measured(device, "agreement"), network),
        *(_endurance_rows(many) if many else []),
    ]  # fmt: skip


def _endurance_rows(many: list[dict[str, float]]) -> list[list[str]]:
    """Frames without end."""
    return [
        [f"{many[-1]['frames']:,} frames of 1280x720 in a row, p99 in the first and last thousand",
         f"{many[0]['p99_ms']:.2f}, {many[-1]['p99_ms']:.2f} ms"],
        ["spread of the memory in use meanwhile, of the device and of the process",
         f"{_spread(many, 'device_used_bytes') / 2**10:.0f}, "
         f"{_spread(many, 'host_bytes') / 2**10:.0f} KiB"],
    ]  # fmt: skip


def _later_rows(device: dict[str, Any]) -> list[list[str]]:
    """Of a run that came after."""
    return [
        ["in another run", "measured"],
        *_overhead_rows(
            _measured(device, "overhead_1080p_batch_4"), f"a {FIRST}, four by four"
        ),
        *_agreement_rows(_measured(device, "agreement_fp32"), "the same, FP32"),
    ]  # fmt: skip


def _agreement_rows(found: dict[str, Any], engine: str) -> list[list[str]]:
    """Each kind of statistics beside the portable engine; none where that was not measured."""
    return [
        [f"{engine}: from the portable engine in FP32, of a range of 1, `statistics` {mode}",
         f"at most {error['largest']:.1e}, p99.9 {error['p99.9']:.1e}"]
        for mode, error in found.get("device_against_portable", {}).items()
    ]  # fmt: skip


def _overhead_rows(found: dict[str, Any], engine: str) -> list[list[str]]:
    """A frame and a stream of them through an engine; none where that was not measured."""
    if not found:
        return []
    return [
        [f"1920x1080 frame, {found['tiles']} tiles of {engine}",
         f"{found['latency_ms']['total']['p50']:.1f} ms (the engine alone "
         f"{found['engine_alone_ms']:.1f} ms)"],
        ["upload, tiles, joining and download together, of the engine's time",
         f"{100 * found['share_of_engine']:.1f} %"],
        ["a stream of them, of the engine's own rate",
         f"{100 * found['stream_rate_of_engine']:.1f} %"],
    ]  # fmt: skip


def _measured(record: dict[str, Any], name: str) -> dict[str, Any]:
    """A part of a record; empty where it was not measured, or failed."""
    found = record.get(name, {})
    return {} if "error" in found else found


def _spread(blocks: list[dict[str, float]], name: str) -> float:
    """The most less the least of all blocks."""
    values = [block[name] for block in blocks]
    return max(values) - min(values)
