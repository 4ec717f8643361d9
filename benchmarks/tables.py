"""Write the figures of model cards and benchmark records into README.md and docs/, between markers.

python benchmarks/tables.py            rewrites them
python benchmarks/tables.py --check    exits 1 where one is out of date
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import torch
from compared_table import markdown as all_compared
from compared_table import published_table
from cpu import table as all_cpu
from estimate_tables import TABLES as ESTIMATE_TABLES
from fleet_tables import TABLES as FLEET_TABLES
from gpu_tables import RESULTS, gpu_table, plugins_table
from markdown_tables import markdown
from summary_table import PUBLISHED, quality, summary_table

from mirnet_edge._files import atomic_path
from mirnet_edge.bundled import bundled_models
from mirnet_edge.model.create import create_model
from mirnet_edge.workstation.ablation.page import sections
from mirnet_edge.workstation.ablation.record import Ablation
from mirnet_edge.workstation.arithmetic import multiply_accumulates

ROOT = Path(__file__).resolve().parents[1]
VIDEO = RESULTS / "video.json"
AROUND = {
    "copies": "a restorer that only copies",
    "FakeEngine": "an engine that does nothing, to RGB and back in NumPy",
}
GSTREAMER, LIVE = RESULTS / "gstreamer.json", RESULTS / "live.json"
RAY = RESULTS / "ray.json"
PORTABLE = RESULTS / "portable.json"
CPU = RESULTS / "cpu.json"
ABLATION = RESULTS / "ablation.json"


ABOUT = {
    "edge-xs": "on blocks of 4×4 pixels, for small devices",
    "edge-s": "on blocks of 2×2 pixels",
    "edge-m": "the same, twice as wide at full size",
    "mirnet-v2": "as published",
    "mirnet": "as published",
}
"""What is said of each preset."""


def presets_table() -> str:
    """Size and arithmetic of the networks that can be trained by name."""
    rows = [["preset", "parameters", "GMAC at 256²", ""]]
    for name, about in ABOUT.items():
        network = create_model(name)
        count = sum(parameter.numel() for parameter in network.parameters())
        with torch.device("meta"):  # shapes without numbers: nothing is computed
            work = multiply_accumulates(network.to("meta"))
        rows.append([f"`{name}`", f"{count / 1e6:.2f} M", f"{work / 1e9:.1f}", about])
    return markdown(rows)


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
                 quality(figure["given"]), quality(figure["restored"])]
            )  # fmt: skip
            head = [""] * len(head)
    return markdown(rows)


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
    ]
    halos = list(next(iter(next(iter(tiles.values())).values())))
    agreement = [
        ["PSNR of tiles against the untiled output", "tile", "`statistics`", *halos],
        *_agreement_rows("`edge-s-denoise`, a photo, σ 25", tiles),
        *(
            row
            for name in ("mirnet", "mirnet-v2")
            for row in _agreement_rows(
                f"{name} of full depth, narrow, random weights", _random_network(info, name)
            )
        ),
    ]
    where = (
        f"\n{machine['cpu']['brand_raw']}, {machine['usable_cores']} cores, Python "
        f"{machine['python_version']}, onnxruntime {versions['onnxruntime']}, torch "
        f"{versions['torch']}. Record: `benchmarks/results/portable.json`; `make bench` repeats it."
    )
    return markdown(rows) + "\n" + markdown(agreement) + where + "\n"


def _agreement_rows(network: str, tiles: dict[str, Any]) -> list[list[str]]:
    """Those of one network, by tile and mode."""
    sizes = list(next(iter(tiles.values())))
    return [
        [
            network,
            size.removeprefix("tile "),
            mode,
            *(f"{db:.1f} dB" for db in tiles[mode][size].values()),
        ]
        for size in sizes
        for mode in tiles
    ]


def _random_network(info: dict[str, Any], network: str) -> dict[str, Any]:
    found = info[f"test_tiles_of_a_random_network[{network}]"]
    return dict(found["psnr_against_untiled_db"])


def cpu_table() -> str:
    """The engines of a CPU beside the portable one, from the record."""
    return all_cpu(json.loads(CPU.read_text(encoding="utf-8"))) + "\n"


def compared_tables() -> str:
    """Other systems beside ours by one protocol, from the records; what was published alone where
    there is none."""
    published = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    records = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(RESULTS.rglob("compared.json"))
    ]
    if not records:
        return published_table(published) + "\n"
    systems = [
        {**system, "of": f"{system['of']}, {record['machine']}"}
        for record in records
        for system in record["systems"]
    ]
    together = {
        "systems": systems,
        "figures": [figure for record in records for figure in record["figures"]],
        "machine": ", ".join(sorted({record["machine"] for record in records})),
        "versions": records[0]["versions"],
    }
    return all_compared(together, published) + "\n"


def video_table() -> str:
    """Frames a second of whole runs over a video, and flicker of a still scene, from the record."""
    record = json.loads(VIDEO.read_text(encoding="utf-8"))
    rates = [["frames a second, and of a core", "PyAV alone", "`mirnet-edge restore`"]]
    for rate in record["rates"]:
        height, width = rate["size"]
        told = {
            way: f"{found['frames_per_second']:.0f} ({found['frames_per_core_second']:.0f})"
            for way, found in rate["ways"].items()
        }
        plain = told.pop("PyAV", "–")
        ((way, ours),) = told.items()
        around = AROUND.get(way, f"`{way}`")
        rates.append([f"{width}x{height}, {rate['case']}, around {around}", plain, ours])
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
        "\nMedians of whole runs, by the clock and, in brackets, of the processor's time. PyAV "
        "alone decodes and encodes with the same settings and nothing between, in one thread "
        "beside FFmpeg's own.\n\nFlicker is the mean absolute difference of consecutive frames in "
        "luma, "
        f"`{found['model']}`, {width}x{height}. In 4:2:0, noise loses most of its colour. "
        f"{record['cpu']}, {record['usable_cores']} cores, PyAV {versions['av']}, onnxruntime "
        f"{versions['onnxruntime']}. Record: `benchmarks/results/video.json`."
    )
    return markdown(rates) + "\n" + markdown(rows) + where + "\n"


def gstreamer_table() -> str:
    """Frames a second through the GStreamer element, from the record."""
    record = json.loads(GSTREAMER.read_text(encoding="utf-8"))
    height, width = record["size"]
    forms = list(dict.fromkeys(rate["format"] for rate in record["rates"]))
    told: dict[str, list[str]] = {}
    for rate in record["rates"]:
        both = f"{rate['frames_per_second']:,} ({rate['frames_per_core_second']:,})"
        told.setdefault(f"`{rate['way']}`" if "=" in rate["way"] else rate["way"], []).append(both)
    rows = [[f"{width}x{height}, frames a second, and of a core", *forms]]
    rows += [[way, *rates] for way, rates in told.items()]
    where = (
        f"\nMedians of {record['runs']} runs of {record['frames']} frames, each in its place and "
        "with its time, from a `videotestsrc` of one black picture to a `fakesink`; in place of "
        "the model is one that only copies, and `identity` is no element of ours. "
        f"{record['cpu']}, {record['usable_cores']} cores, GStreamer {record['gstreamer']}. "
        "Record: `benchmarks/results/gstreamer.json`."
    )
    return markdown(rows) + where + "\n"


def live_table() -> str:
    """How late a live view is through a model that is too slow, from the record."""
    record = json.loads(LIVE.read_text(encoding="utf-8"))
    height, width = record["size"]
    rows = [["milliseconds", "median", *(f"p{p}" for p in record["percentiles"][1:-1]), "longest"]]
    for name, key in (
        ("the model, a frame", "model_ms"),
        ("from a frame's moment to its restored picture", "latency_ms"),
        ("between the two", "between_ms"),
    ):
        rows.append([name, *(f"{value:.0f}" for value in record[key])])
    frames = record["frames"]
    where = (
        f"\n`{record['model']}` on {record['seconds']:.0f} s of {width}x{height} at "
        f"{record['rate']:.0f} frames/s, one every {1000 / record['rate']:.0f} ms: of "
        f"{frames['read']} frames {frames['dropped']} were dropped and {frames['restored']} "
        "restored, the others shown as they came while the model was loaded; memory grew by "
        f"{record['grown_bytes'] / 1e6:.1f} MB in the last 20 s. {record['cpu']}, "
        f"{record['usable_cores']} cores with other work, onnxruntime "
        f"{record['versions']['onnxruntime']}. Record: `benchmarks/results/live.json`."
    )
    return markdown(rows) + where + "\n"


def ray_table() -> str:
    """Files a second on a cluster of one machine, and what became of lost workers."""
    record = json.loads(RAY.read_text(encoding="utf-8"))
    ways = list(record["rates"][0]["ways"])
    rows = [["photos of", *(f"{way}, files/s" for way in ways), *(f"{way}, all" for way in ways)]]
    for rate in record["rates"]:
        told = [rate["ways"][way] for way in ways]
        rows.append([
            f"{rate['side']} pixels",
            *(f"{each['files_per_s']:.1f}" for each in told),
            *(f"{each['all_s']:.1f} s" for each in told),
        ])  # fmt: skip
    lost, added = record["killed"], record["added"]
    files = [*(rate["same_files"] for rate in record["rates"])]
    files += [lost["same_files"], added["same_files"]]
    where = (
        f"\nMedians of {record['runs']} runs of {record['photos']} photos; one process has two "
        "threads, each worker one; the rate is between the first file and the last, *all* the "
        f"whole command. With {lost['killed']} workers killed on the way "
        f"{lost['summary']['restored']} were restored, {lost['twice']} of them twice; with a node "
        f"added, {added['workers_before']} worker became {added['workers_after']}. Files are "
        f"{'the same, byte for byte, in all runs' if all(files) else '**not** the same'}. "
        f"{record['cpu']}, {record['usable_cores']} cores, Ray {record['versions']['ray']}. "
        "Record: `benchmarks/results/ray.json`."
    )
    return markdown(rows) + where + "\n"


def ablation_tables() -> str:
    """What each part of the networks is worth, from the record."""
    found = Ablation.of_json(json.loads(ABLATION.read_text(encoding="utf-8")))
    run = next(iter(found.comparisons[0].rows.values())).runs[0]
    where = f"{run['device']}, torch {run['torch']}. Record: `{ABLATION.relative_to(ROOT)}`."
    return "\n\n".join((*sections(found, "####"), where)) + "\n"


TABLES = {
    "summary": summary_table,
    "presets": presets_table,
    "models": models_table,
    "portable": portable_table,
    "cpu": cpu_table,
    "video": video_table,
    "gstreamer": gstreamer_table,
    "live": live_table,
    "ray": ray_table,
    "ablation": ablation_tables,
    "gpu": gpu_table,
    "plugins": plugins_table,
    "compared": compared_tables,
    **ESTIMATE_TABLES,
    **FLEET_TABLES,
}
MARKED = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def pages() -> dict[Path, str]:
    """README.md and the pages of docs/, with what stands between each pair of markers made anew;
    every table stands in one of them."""
    found = {
        path: path.read_text(encoding="utf-8")
        for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    }
    names = [name for text in found.values() for _, name, _ in MARKED.findall(text)]
    if sorted(names) != sorted(TABLES):
        wanted = sorted(TABLES)
        raise SystemExit(f"README.md and docs/ have the tables {sorted(names)}; need {wanted}")
    return {path: MARKED.sub(_made, text) for path, text in found.items()}


def _made(match: re.Match[str]) -> str:
    return match[1] + TABLES[match[2]]() + match[3]


def main() -> None:
    stale = {
        path: wanted
        for path, wanted in pages().items()
        if wanted != path.read_text(encoding="utf-8")
    }
    if "--check" in sys.argv:
        named = ", ".join(str(path.relative_to(ROOT)) for path in stale)
        raise SystemExit(f"out of date: {named}: make tables" if stale else 0)
    for path, wanted in stale.items():
        with atomic_path(path) as temporary:
            temporary.write_text(wanted, encoding="utf-8")


if __name__ == "__main__":
    main()
