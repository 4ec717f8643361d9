"""Write the figures of model cards and benchmark records into README.md, between its markers.

python benchmarks/tables.py            rewrites README.md
python benchmarks/tables.py --check    exits 1 where README.md is out of date
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from mirnet_edge._files import atomic_path
from mirnet_edge.bundled import bundled_models
from mirnet_edge.pooling.passes import MODES

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results"
VIDEO = RESULTS / "video.json"
PORTABLE = RESULTS / "portable.json"
GPU = RESULTS / "h200-tensorrt-8.6.0"
"""Of the runtime around an engine of the network that was bundled first."""
LATER_GPU = RESULTS / "h100-tensorrt-8.6.0"
"""Of the kernels, and of an engine as large as the frame."""
FIRST = "full-size network of 0.47 M parameters, FP16"


def models_table() -> str:
    """Bundled models and their measured figures, from their cards, but for those of noise levels
    other than the model's own estimate and the truth."""
    rows = [["model", "task", "parameters", "GMAC at 256²", "data", "test", "given", "restored"]]
    for model in bundled_models():
        card = model.card
        head = [
            f"`{model.name}`",
            card["task"],
            f"{card['parameters'] / 1e6:.2f} M",
            f"{card['gmac_256']:.1f}",
        ]
        for figure in card["figures"]:
            if figure["noise"] not in ("", "auto", "told"):
                continue
            test = figure["protocol"] + (", told" if figure["noise"] == "told" else "")
            if figure["method"] != "model":
                test += f": {figure['method']} instead"
            rows.append(
                [*head, f"{figure['data']} ({figure['images']})", test,
                 _quality(figure["given"]), _quality(figure["restored"])]
            )  # fmt: skip
            head = [""] * len(head)
    return _markdown(rows)


def _quality(figures: dict[str, Any]) -> str:
    psnr = figures["psnr"]  # null for equal pictures
    return f"{'∞' if psnr is None else f'{psnr:.2f}'} dB / {figures['ssim']:.3f}"


def portable_table() -> str:
    """Speed, memory and tiles of the portable engine, from the record."""
    record = json.loads(PORTABLE.read_text(encoding="utf-8"))
    info = {entry["name"]: entry["extra_info"] for entry in record["benchmarks"]}
    machine, versions = record["machine_info"], record["machine_info"]["versions"]
    raced = next(found for name, found in info.items() if name.startswith("test_edge_s_512"))
    network, peers = raced.get("network", "edge-s-denoise"), raced["median_ms"]
    own = info["test_own_time_of_restorer_at_24_megapixels[cut]"]["ms_per_megapixel"]
    memory = info["test_peak_memory_of_photos"]
    tiles = info["test_tiles_against_the_untiled_frame"]["psnr_against_untiled_db"]
    rows = [
        ["what", "measured"],
        *([f"`{network}`, one 512² tile, {peer}", f"{ms:.0f} ms"] for peer, ms in peers.items()),
        ["Restorer's own time, 24 MP frame", f"{own:.1f} ms a megapixel"],
        *(
            [f"peak memory beyond input and output, {size} photo", f"{value['megabytes']:.0f} MB"]
            for size, value in memory.items()
        ),
        *(
            [f"`statistics` {mode}, {name} px, PSNR against the untiled output", _by_halo(row)]
            for mode, by_tile in tiles.items()
            for name, row in by_tile.items()
        ),
        *(
            [f"{network} of full depth, narrow, random weights: `statistics` {mode}, tile 128 px",
             _by_halo(by_tile["tile 128"])]
            for network in ("mirnet", "mirnet-v2")
            for mode, by_tile in _random_network(info, network).items()
        ),
    ]  # fmt: skip
    where = (
        f"\n{machine['cpu']['brand_raw']}, {machine['usable_cores']} cores, Python "
        f"{machine['python_version']}, onnxruntime {versions['onnxruntime']}, torch "
        f"{versions['torch']}. Record: `benchmarks/results/portable.json`; `make bench` repeats it."
    )
    return _markdown(rows) + where + "\n"


def _random_network(info: dict[str, Any], network: str) -> dict[str, Any]:
    found = info[f"test_tiles_of_a_random_network[{network}]"]
    return dict(found["psnr_against_untiled_db"])


KINDS = {
    "ours": ("ours",),
    "TensorRT of `torch.onnx.export`": ("tensorrt",),
    "PyTorch compiled, graph": ("torch-max-autotune", "torch-compile"),
    "PyTorch graph": ("torch-graph",),
    "PyTorch eager": ("torch-eager",),
    "ONNX Runtime": ("onnxruntime-tensorrt", "onnxruntime-cuda"),
}
"""Columns of a race, and the peers that each shows the best of."""
BESIDE = "ours, of the fastest PyTorch"
Place = tuple[str, tuple[int, ...]]
"""A network, and batch, height and width."""
Time = tuple[float, str]
"""Milliseconds, and the form that took them."""
PYTORCH = ("torch-max-autotune", "torch-compile", "torch-graph", "torch-eager")


def video_table() -> str:
    """Frames a second of whole runs over a video, and flicker of a still scene, from the record."""
    record = json.loads(VIDEO.read_text(encoding="utf-8"))
    rates = [["frames a second of a core", "measured"]]
    for rate in record["rates"]:
        height, width = rate["size"]
        what = "decoding and encoding alone"
        if rate["restorer"] != "copies":
            what = f"`{rate['restorer']}`"
        case = f"{what}, {width}x{height} H.264, preset {rate['preset']}"
        rates.append([case, f"{rate['frames_per_core_second']:.1f}"])
    found = record["flicker"]
    height, width = found["size"]
    rows = [
        [
            "flicker of a still scene, of 255",
            "before",
            *next(iter(found["stored"].values()))["after"],
        ]
    ]
    for stored, flicker in found["stored"].items():
        after = [f"{value:.2f}" for value in flicker["after"].values()]
        rows.append(
            [
                f"noise of σ = {found['sigma']:g}, stored as {stored}",
                f"{flicker['before']:.2f}",
                *after,
            ]
        )
    versions = record["versions"]
    where = (
        "\nFlicker is the mean absolute difference of consecutive frames in luma, "
        f"`{found['model']}`, {width}x{height}. In 4:2:0, noise loses most of its colour. "
        f"{record['cpu']}, {record['usable_cores']} cores, PyAV {versions['av']}, onnxruntime "
        f"{versions['onnxruntime']}. Record: `benchmarks/results/video.json`."
    )
    return _markdown(rates) + "\n" + _markdown(rows) + where + "\n"


def gpu_table() -> str:
    """Races of engines and their peers, the runtime around them and its kernels, from the
    records."""
    device, later = (
        json.loads((GPU / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("device", "device-more")
    )
    kernels, frame = (
        json.loads((LATER_GPU / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("kernels", "frame")
    )
    races = [
        race_table(json.loads(path.read_text(encoding="utf-8")))
        for path in sorted(RESULTS.glob("*/race.json"))
    ]
    tensorrt = frame["frames"]["rgb"]["versions"]["tensorrt"]
    new = _markdown([["a 1080p frame, one engine as large", *FRAME_PARTS], *_frame_rows(frame)])
    new += "\n" + _markdown([["kernel, 3840x2160", "measured"], *_kernel_rows(kernels)])
    new += (
        f"\n{kernels['device']}, TensorRT {tensorrt}. {frame['note']} Records: "
        f"`benchmarks/results/{LATER_GPU.name}/`.\n"
    )
    where = (
        f"\n{device['device']['name']}, TensorRT {device['versions']['tensorrt']}, driver "
        f"{device['versions']['driver']}. Records: `benchmarks/results/{GPU.name}/`."
    )
    tables = _runtime_rows(device), _later_rows(later)
    runtime = "\n".join(_markdown(table) for table in tables) + where + "\n"
    return "\n".join([*races, new, runtime])


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
        times = [((row.get("device_ms") or row["wall_ms"])["p50"], row["form"]) for row in measured]
        whole = [(row["frame_ms"]["p50"], row["form"]) for row in measured if "frame_ms" in row]
        if times:
            cells.setdefault(place, {})[race["peer"]] = min(times)
        if whole:
            frames.setdefault(place, {})[race["peer"]] = min(whole)
    kinds = {
        name: peers
        for name, peers in KINDS.items()
        if any(peer in row for row in cells.values() for peer in peers)
    }
    tables = [
        _markdown(
            [
                [what, *kinds, *([BESIDE] if "ours" in kinds else [])],
                *(_race_row(place, found, kinds) for place, found in sorted(table.items())),
            ]
        )
        for what, table in (("one run", cells), ("a 1080p frame, host to host", frames))
        if table
    ]
    return "\n".join([*tables, _race_facts(record)])


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
    both = "ours" in found and torch is not None
    return [*row, f"{found['ours'][0] / torch:.2f}" if both else ""]


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
    many, modes = device["many_720p"]["blocks"], _measured(device, "modes_1080p")
    return [
        ["the runtime", "measured"],
        *_overhead_rows(device["overhead_1080p"], f"a {FIRST}, one by one"),
        *(
            [f"1920x1080 frame that repeats, {modes[mode]['tiles']} tiles of "
             f"a {FIRST}, halo 32 px, `statistics` {mode}",
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
        *_agreement_rows(_measured(device, "agreement"), FIRST),
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


TABLES = {
    "models": models_table,
    "portable": portable_table,
    "video": video_table,
    "gpu": gpu_table,
}


def with_tables(text: str) -> str:
    """``text`` with what stands between each pair of markers made anew."""
    for name, make in TABLES.items():
        pattern = rf"(<!-- table: {name} -->\n).*?(<!-- end -->)"
        text, found = re.subn(
            pattern,
            lambda match, make=make: match[1] + make() + match[2],  # type: ignore[misc]
            text,
            flags=re.DOTALL,
        )
        if found != 1:
            raise SystemExit(f"README.md has {found} places for the table {name!r}; need 1")
    return text


def _spread(blocks: list[dict[str, float]], name: str) -> float:
    """The most less the least of all blocks."""
    values = [block[name] for block in blocks]
    return max(values) - min(values)


def _by_halo(row: dict[str, float]) -> str:
    return ", ".join(f"{value:.1f} dB ({halo})" for halo, value in row.items())


def _markdown(rows: list[list[Any]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return "\n".join(lines) + "\n"


def main() -> None:
    current = README.read_text(encoding="utf-8")
    wanted = with_tables(current)
    if "--check" in sys.argv:
        raise SystemExit("README.md is out of date: make tables" if current != wanted else 0)
    with atomic_path(README) as temporary:
        temporary.write_text(wanted, encoding="utf-8")


if __name__ == "__main__":
    main()
