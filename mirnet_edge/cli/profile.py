"""``bench --profile``: where an engine's time goes."""

from __future__ import annotations

from mirnet_edge.cli.console import print_table
from mirnet_edge.trt.profile import EngineProfile, Part

COLUMNS = ["", "layers", "ms", "share", "MB", "GMAC", "floor ms", "of floor"]


def profile_of(model: str, runs: int) -> EngineProfile:
    """Profile an engine; the device's arithmetic is measured in a build process beside it.

    Raises:
        EngineError: it is no TensorRT engine, or has no card.
        DeviceError, BuildError, MissingDependencyError: as `build_engine` and `open_engine`.
    """
    from pathlib import Path

    from mirnet_edge.build.rates import multiplications_per_second
    from mirnet_edge.build.target import find_target
    from mirnet_edge.trt.engine import TensorRTEngine
    from mirnet_edge.trt.profile import profile_engine
    from mirnet_edge.trt.timing_cache import timing_cache_name

    path = Path(model)
    target = find_target()
    cache = timing_cache_name(target.device["name"], target.versions["tensorrt"])
    with TensorRTEngine(path) as engine:
        precision = engine.card.precision if engine.card else "fp16"
        rate = multiplications_per_second(precision, path.parent / cache)
        return profile_engine(engine, rate, runs)


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
