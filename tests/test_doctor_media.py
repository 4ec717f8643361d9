"""What the doctor says of OpenCV and GStreamer, on machines made up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from machines import CORE, onnxruntime, report, write
from machines import laptop as laptop

from mirnet_edge.doctor import Check, System, healthy

BUILD = """
  GUI:                           {gui}
    GTK+:                        YES (ver 3.24.24)

  Video I/O:
    FFMPEG:                      YES
    GStreamer:                   {gstreamer}
    v4l/v4l2:                    YES (linux/videodev2.h)
"""
LOADER = "usr/lib/aarch64-linux-gnu/gstreamer-1.0/libgstpython.so"


def imports(gui: str, gstreamer: str) -> Callable[[str], Any]:
    build = BUILD.format(gui=gui, gstreamer=gstreamer)
    cv2 = SimpleNamespace(__version__="4.10.0", getBuildInformation=lambda: build)
    return lambda name: cv2 if name == "cv2" else onnxruntime(name)


def with_gstreamer(system: System) -> System:
    def gst_version(*numbers: Any) -> None:
        for pointer, number in zip(numbers, (1, 22, 5, 0), strict=True):
            pointer._obj.value = number

    def load(name: str) -> object:
        if name != "libgstreamer-1.0.so.0":
            raise OSError(name)
        return SimpleNamespace(gst_version=gst_version)

    return replace(system, load_library=load)


def test_headless_opencv_says_what_it_lacks(laptop: System) -> None:
    versions = {**CORE, "opencv-python-headless": "4.10.0.84"}
    found = replace(laptop, version_of=versions.get, import_module=imports("NONE", "NO"))
    check = report(found)["OpenCV"]
    assert check.status == "ok"
    assert check.detail == (
        "4.10.0 (opencv-python-headless); headless: no window for `play`; "
        "no GStreamer pipelines as a source"
    )


def test_opencv_of_jetpack_has_windows_and_pipelines(laptop: System) -> None:
    found = replace(
        laptop, has_module=lambda name: name == "cv2", import_module=imports("GTK3", "YES (1.20.3)")
    )
    assert report(found)["OpenCV"].detail == "4.10.0 (of the system); windows; GStreamer"


def test_opencv_that_does_not_load_is_told_and_replaced(laptop: System) -> None:
    def fails(name: str) -> Any:
        if name == "cv2":
            raise ImportError("libGL.so.1: cannot open shared object file")
        return onnxruntime(name)

    versions = {**CORE, "opencv-python": "4.10.0.84"}
    checks = report(replace(laptop, version_of=versions.get, import_module=fails))
    assert checks["OpenCV"].status == "warning"
    assert "libGL.so.1" in checks["OpenCV"].detail
    fix = "pip uninstall -y opencv-python; pip install opencv-python-headless"
    assert checks["OpenCV"].fix == fix
    assert healthy(list(checks.values()))


def test_no_gstreamer(laptop: System) -> None:
    check = report(laptop)["GStreamer"]
    assert check.status == "optional"
    assert "gstreamer1.0-python3-plugin-loader" in (check.fix or "")


@pytest.mark.parametrize("has_loader", [False, True])
@pytest.mark.parametrize("has_gi", [False, True])
def test_gstreamer_and_what_python_elements_need(
    laptop: System, has_loader: bool, has_gi: bool
) -> None:
    if has_loader:
        write(laptop.root, {LOADER: ""})
    found = replace(with_gstreamer(laptop), has_module=lambda name: has_gi and name == "gi")
    check = report(found)["GStreamer"]
    assert check.detail.startswith("1.22.5")
    if not has_loader:
        assert "without its loader" in check.detail
        assert "plugin-loader" in (check.fix or "")
    elif not has_gi:
        assert check.fix == "/usr/bin/python3 -m venv --system-site-packages .venv"
    else:
        detail = "1.22.5, with its loader of elements in Python"
        assert check == Check("GStreamer", "ok", detail)
