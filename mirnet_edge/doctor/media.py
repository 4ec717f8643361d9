"""What reads cameras and runs pipelines: OpenCV and GStreamer, and what each lacks."""

from __future__ import annotations

import ctypes
import re
from typing import Any

from mirnet_edge.doctor.check import Check
from mirnet_edge.doctor.system import System

OPENCV = (
    "opencv-python-headless",
    "opencv-python",
    "opencv-contrib-python-headless",
    "opencv-contrib-python",
)
"""Distributions that bring the module cv2; JetPack's and Debian's own have no metadata."""
GSTREAMER_PACKAGES = (
    "sudo apt install gstreamer1.0-tools gstreamer1.0-plugins-base "
    "python3-gst-1.0 gstreamer1.0-python3-plugin-loader"
)


def opencv(system: System) -> list[Check]:
    """Say which OpenCV there is, and whether it shows windows and reads GStreamer pipelines."""
    installed = list(system.installed(OPENCV))
    if not installed and not system.has_module("cv2"):
        detail = "not installed; used to read cameras"
        return [Check("OpenCV", "optional", detail, 'pip install "mirnet-edge[video]"')]
    try:
        cv2 = system.import_module("cv2")
        build = cv2.getBuildInformation()
    except Exception as error:
        # What needs a desktop's libraries does not load in a container or on a server.
        detail = f"installed, but cannot be used: {type(error).__name__}: {error}"
        fix = f"pip uninstall -y {' '.join(installed)}; pip install opencv-python-headless"
        return [Check("OpenCV", "warning", detail, fix if installed else None)]
    windows = _feature(build, "GUI") not in ("", "NO", "NONE")
    pipelines = _feature(build, "GStreamer").startswith("YES")
    parts = [f"{cv2.__version__} ({', '.join(installed) or 'of the system'})"]
    parts.append("windows" if windows else "headless: no window for `play`")
    parts.append("GStreamer" if pipelines else "no GStreamer pipelines as a source")
    return [Check("OpenCV", "ok", "; ".join(parts))]


def _feature(build: str, name: str) -> str:
    """What OpenCV's build information says of a feature; "" where it does not speak of it."""
    found = re.search(rf"^\s*{name}:[^\S\n]*(\S*)", build, re.MULTILINE)
    return found[1] if found else ""


def gstreamer(system: System) -> list[Check]:
    """Say which GStreamer there is, and whether it can load the element ``mirnetrestore``."""
    version = _gstreamer_version(system)
    if version is None:
        detail = "not found; used for pipelines with mirnetrestore"
        return [Check("GStreamer", "optional", detail, GSTREAMER_PACKAGES)]
    has_loader = any(system.root.glob("usr/lib/*/gstreamer-1.0/libgstpython*.so"))
    if not has_loader:
        detail = f"{version}, without its loader of elements in Python, which mirnetrestore is"
        return [Check("GStreamer", "optional", detail, GSTREAMER_PACKAGES)]
    if not system.has_module("gi"):
        detail = f"{version}; its Python is the system's, whose packages this environment lacks"
        fix = "/usr/bin/python3 -m venv --system-site-packages .venv"
        return [Check("GStreamer", "optional", detail, fix)]
    return [Check("GStreamer", "ok", f"{version}, with its loader of elements in Python")]


def _gstreamer_version(system: System) -> str | None:
    """Ask the library itself: its command-line tools are another package."""
    try:
        library: Any = system.load_library("libgstreamer-1.0.so.0")
    except OSError:
        return None
    numbers = [ctypes.c_uint() for _ in range(4)]
    library.gst_version(*map(ctypes.byref, numbers))
    return ".".join(str(number.value) for number in numbers[:3])
