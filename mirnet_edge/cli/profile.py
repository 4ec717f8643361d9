"""``bench --profile``: where an engine's time goes."""

from __future__ import annotations

from mirnet_edge.cli.console import print_table
from mirnet_edge.trt.profile import EngineProfile, Part

COLUMNS = ["", "layers", "ms", "share", "MB", "GMAC", "floor ms", "of floor"]


def print_profile(profile: EngineProfile) -> str:
    """Print both tables; what is returned sums them up."""
    for title, parts in (("by kind of layer", profile.kinds), ("by module", profile.modules)):
        rows = [_row(part, profile.all.time_ms) for part in (*parts, profile.all)]
        print_table([title, *COLUMNS[1:]], rows)
    rates, floor_ms = profile.rates, profile.all.floor_ms
    return (
        f"{profile.graph_ms:.3f} ms a run, {profile.graph_ms / max(floor_ms, 1e-9):.2f} times the "
        f"floor of {floor_ms:.3f} ms; measured: {rates.bytes_per_second / 1e9:.0f} GB/s, "
        f"{rates.macs_per_second / 1e12:.1f} TMAC/s"
    )


def _row(part: Part, all_ms: float) -> list[str]:
    times = part.time_ms / part.floor_ms if part.floor_ms else 0.0
    return [
        part.name,
        str(part.layers),
        f"{part.time_ms:.3f}",
        f"{part.time_ms / max(all_ms, 1e-9):.0%}",
        f"{part.bytes_moved / 1e6:.1f}",
        f"{part.macs / 1e9:.2f}",
        f"{part.floor_ms:.3f}",
        f"{times:.1f}x" if times else "",
    ]
