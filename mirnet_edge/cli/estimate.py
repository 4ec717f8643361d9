"""``estimate``: how long a device would take, by its data sheet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mirnet_edge.cli.console import (
    json_option,
    option_group,
    print_json,
    print_table,
    read_frame_size,
    say,
)

if TYPE_CHECKING:
    from mirnet_edge.build.device_facts import DeviceFacts
    from mirnet_edge.build.estimate import FrameEstimate

GIB = 2**30
MOST_FPS = 1000.0
estimate_options = option_group(
    click.option("--device", required=True, metavar="NAME",
                 help="orin-nano, orin-nano-15w, orin-nx, agx-orin, thor, h100 or h200."),
    click.option("--frame", type=read_frame_size, metavar="WxH", required=True,
                 help="Width x height of the frames to restore."),
    click.option("--fps", type=click.FloatRange(0, MOST_FPS, min_open=True),
                 help="Frames per second that are wanted: which network, precision and size of "
                 "frame reach them."),
    json_option,
)  # fmt: skip


@click.command()
@click.argument("model")
@estimate_options
def estimate(
    model: str, device: str, frame: tuple[int, int], fps: float | None, as_json: bool
) -> None:
    """Estimate what a DEVICE that is not here would take for a frame with MODEL (an .onnx file, a
    bundled model's name, or edge-xs, edge-s, edge-m), by its data sheet and by what other devices
    were measured to reach of theirs."""
    from mirnet_edge.build.device_facts import device_facts
    from mirnet_edge.build.estimate import (
        estimates,
        network_of,
        preset_networks,
        smaller_frames,
    )

    facts = device_facts(device)
    network = network_of(model)
    own = estimates([network], facts, [frame])
    if fps is None:
        reached = []
    else:
        others = [other for other in preset_networks().values() if other.name != network.name]
        sizes = smaller_frames(frame)
        reached = estimates([network, *others], facts, sizes, most_forms=2)
    if as_json:
        print_json({"device": facts, "estimates": own, "fps": fps, "reached": reached})
        return
    _print_own(own, facts)
    if fps is not None:
        _print_reached(reached, fps)


def _print_own(own: list[FrameEstimate], device: DeviceFacts) -> None:
    frame = "{1}x{0}".format(*own[0].frame)
    rows = [
        [
            str(made.form),
            f"{made.ms.expected:.1f}",
            f"{made.ms.low:.1f} to {made.ms.high:.1f}",
            f"{1e3 / made.ms.expected:.1f}",
            "{} of {}x{}".format(made.tiles, *made.tile),
            f"{made.memory_bytes / GIB:.2f}",
        ]
        for made in own
    ]
    columns = ["engine", "ms", "range", "fps", "tiles", "GiB"]
    print_table(columns, rows, f"{own[0].network}, {frame}, on {device.title}, {device.mode}")
    known = (
        "the constants were fitted to records of this device"
        if device.is_measured
        else "none of these networks was measured on this device, the constants are an H100's"
    )
    slower = f"; slower: {', '.join(device.others)}" if device.others else ""
    say(
        f"an estimate, not a measurement; {known}. Without camera, codec and host.\n"
        f"{device.bytes_per_second / 1e9:.0f} GB/s, "
        f"{device.flops_per_second['fp16'] / 1e12:.1f} TFLOPS in FP16 (dense), "
        f"{device.usable_bytes / GIB:.1f} GiB to use, by {device.source}{slower}"
    )


def _print_reached(reached: list[FrameEstimate], fps: float) -> None:
    """Print a row a network and precision, a column a size of frame."""
    budget_ms = 1e3 / fps
    rows: dict[tuple[str, str], list[str]] = {}
    for made in reached:
        verdict = made.ms.verdict(budget_ms)
        row = rows.setdefault((made.network, str(made.form)), [])
        row.append(f"{made.ms.expected:.1f} {verdict}")
    sizes = dict.fromkeys("{1}x{0}".format(*made.frame) for made in reached)
    print_table(
        ["", *sizes],
        [[" ".join(name), *cells] for name, cells in rows.items()],
        f"\n{fps:g} frames per second, {budget_ms:.1f} ms each (yes: at worst too; likely: as "
        "expected; unlikely: at best; no)",
    )
