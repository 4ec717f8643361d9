"""The Jetson board, its JetPack and its power mode; no lines on another machine."""

from __future__ import annotations

import re

from mirnet_edge.doctor.checks import Check
from mirnet_edge.doctor.probe import Probe
from mirnet_edge.doctor.system import System

OLDEST_L4T = 36  # JetPack 6; JetPack 5 ends at Python 3.8 and TensorRT 8.5


def _jetson(system: System) -> list[Check]:
    model = system.jetson_model()
    return [] if model is None else [Check("Jetson", "ok", model)]


def _jetpack(system: System) -> list[Check]:
    if system.jetson_model() is None:
        return []
    query = ["dpkg-query", "--show", "--showformat=${Version}", "nvidia-jetpack"]
    version = (system.run(query) or "").strip()
    release = re.search(
        r"R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", system.text("etc/nv_tegra_release") or ""
    )
    l4t = f"L4T R{release[1]}.{release[2]}" if release else ""
    detail = " on ".join(part for part in (version, l4t) if part)
    if release and int(release[1]) < OLDEST_L4T:
        return [Check("JetPack", "warning", f"{detail}; JetPack 6 or later is needed")]
    if version:
        return [Check("JetPack", "ok", detail)]
    detail = f"{l4t or 'release unknown'}; the package nvidia-jetpack is not installed"
    return [Check("JetPack", "warning", detail, "sudo apt install nvidia-jetpack")]


def _power_mode(system: System) -> list[Check]:
    if system.jetson_model() is None:
        return []
    mode = re.search(r"NV Power Mode:\s*(\S+)", system.run(["nvpmodel", "-q"]) or "")
    if mode is None:
        return [Check("power mode", "warning", "nvpmodel gave no answer", "sudo nvpmodel -q")]
    modes = re.findall(
        r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", system.text("etc/nvpmodel.conf") or ""
    )
    fastest = next(((number, name) for number, name in modes if name.startswith("MAXN")), None)
    if fastest is None or mode[1].startswith("MAXN"):
        return [Check("power mode", "ok", mode[1])]
    detail = f"{mode[1]}; {fastest[1]} is faster"
    return [Check("power mode", "warning", detail, f"sudo nvpmodel -m {fastest[0]}")]


PROBES = (
    Probe("Jetson", _jetson),
    Probe("JetPack", _jetpack),
    Probe("power mode", _power_mode),
)
