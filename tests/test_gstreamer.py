"""The GStreamer element in real pipelines, and the memory layouts that it reads and writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import run as command

from mirnet_edge._files import resource_folder
from mirnet_edge.errors import FrameError
from mirnet_edge.stream.raw_frames import RawLayout, blended

SYSTEM_PYTHON = "/usr/bin/python3"
RUNS = Path(__file__).with_name("gstreamer_runs.py")
PROBE = """
import sys, gi
for name in ("Gst", "GstBase", "GstVideo", "GstApp"):
    gi.require_version(name, "1.0")
from gi.repository import Gst
Gst.init(None)
assert Gst.Registry.get().find_plugin("python"), "no loader for Python plugins"
assert Gst.ElementFactory.find("videotestsrc"), "no base plugins"
assert sys.version_info[:2] == tuple(map(int, sys.argv[1:])), "another Python than the tests'"
"""


def environment(folder: Path) -> dict[str, str]:
    """In which the system's Python sees this checkout, and the packages of this one."""
    packages = [path for path in sys.path if path.endswith("-packages")]
    root = str(resource_folder("gstreamer").parent)
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([root, *packages]),
        "GST_PLUGIN_PATH": str(resource_folder("gstreamer")),
        "GST_REGISTRY": str(folder / "registry.bin"),
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="session")
def gstreamer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment for pipelines; skips where GStreamer or its Python is not there."""
    found = environment(tmp_path_factory.mktemp("gstreamer"))
    version = [str(part) for part in sys.version_info[:2]]
    if not Path(SYSTEM_PYTHON).exists():
        pytest.skip(f"no {SYSTEM_PYTHON}")
    probe = subprocess.run(
        [SYSTEM_PYTHON, "-c", PROBE, *version], env=found, capture_output=True, text=True
    )
    if probe.returncode:
        pytest.skip(f"GStreamer: {probe.stderr.strip().splitlines()[-1]}")
    return found


def pipeline(environment: dict[str, str], *arguments: object, script: Any = (RUNS,)) -> Any:
    done = subprocess.run(
        [SYSTEM_PYTHON, *map(str, (*script, *arguments))],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, "PyGObject prints what a method raises, and goes on"
    return json.loads(done.stdout)


# Pipelines


def each(environment: dict[str, str], name: str, arguments: list[str]) -> dict[str, Any]:
    """What pipelines of one name gave, by their arguments: one process loads all they need."""
    return dict(zip(arguments, pipeline(environment, name, "each", *arguments), strict=True))


FORMATS = ["RGB", "BGR", "RGBx", "NV12", "I420"]
SIZES = ["64,48", "63,47"]
SETTINGS = {
    "bypass=true": True,
    "strength=0": True,
    "strength=0.5": False,
    "tile=32 halo=4": False,
}
"""And whether frames stay as they are."""
FAILING = {
    "": (3, "RuntimeError: no power"),
    "model=none-such.onnx": (0, "none-such.onnx"),
    "statistics=mean": (0, "statistics='mean': need one of tile, frame"),
    "noise=101": (0, "noise=101.0: need"),
    "noise=much": (0, "noise=much: need auto, or a number"),
    "tile=wide": (0, "'wide': give pixels"),
}
"""How many frames come, and what is said."""


@pytest.fixture(scope="module")
def compared(gstreamer: dict[str, str]) -> dict[str, Any]:
    formats = [f"{form},{size}," for form in FORMATS for size in SIZES]
    return each(gstreamer, "compare", [*formats, *(f"RGB,64,48,{text}" for text in SETTINGS)])


@pytest.fixture(scope="module")
def failed(gstreamer: dict[str, str]) -> dict[str, Any]:
    return each(gstreamer, "fail", list(FAILING))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("size", SIZES)
def test_frames_of_every_format_are_restored_in_place(
    form: str, size: str, compared: dict[str, Any]
) -> None:
    found = compared[f"{form},{size},"]
    assert found["same"] == [False] * 5
    assert found["same times"]
    assert found["times"] == [40_000_000 * number for number in range(5)]
    told = found["statistics"]
    assert (told["frames"], told["late"], told["bypassed"], told["tiles"]) == (5, 0, 0, 1)
    assert told["milliseconds"] > 0
    if (size, form) == ("64,48", "RGB"):
        assert found["mean of both"] == pytest.approx(127.5, abs=0.6), "each code and its inverse"


@pytest.mark.parametrize(("settings", "same"), SETTINGS.items())
def test_properties(settings: str, same: bool, compared: dict[str, Any]) -> None:
    found = compared[f"RGB,64,48,{settings}"]
    assert found["same"] == [same] * 5
    assert found["statistics"]["bypassed"] == (5 if same else 0)
    assert found["statistics"]["tiles"] == (6 if "tile" in settings else 0 if same else 1)


def test_caps_may_change(gstreamer: dict[str, str]) -> None:
    found = pipeline(gstreamer, "renegotiate")
    assert found["sizes"] == ["32x24"] * 3 + ["64x48"] * 3 + ["32x24"] * 6
    assert found["bytes"] == [2304] * 3 + [4608] * 3 + [1152] * 3 + [2304] * 3
    assert found["first"] == [40 * n + step + 16 for n in range(4) for step in range(3)]
    assert found["times"] == [40 * number for number in range(12)]


def test_a_seek_goes_on_at_its_time(gstreamer: dict[str, str]) -> None:
    found = pipeline(gstreamer, "seek")
    assert found["before"] == [40_000_000 * number for number in range(5)]
    assert found["after"] == [2_000_000_000 + 40_000_000 * number for number in range(5)]


@pytest.mark.parametrize("settings", FAILING)
def test_an_error_ends_the_pipeline_and_says_why(settings: str, failed: dict[str, Any]) -> None:
    (frames, message), found = FAILING[settings], failed[settings]
    assert found["frames"] == frames
    assert message in found["errors"][0]
    assert ("frame 3: " in found["errors"][0]) == (frames == 3)


def test_nan_is_a_warning_and_counted(gstreamer: dict[str, str]) -> None:
    found = pipeline(gstreamer, "break_down")
    assert (found["frames"], found["nonfinite"]) == (5, 35)
    assert found["warning"].startswith("7 of the network's values are NaN or infinite")
    assert set(found["kinds"]) == {"mirnet-statistics"}


@pytest.mark.parametrize(("first", "engine"), [("pass", None), ("import numpy", "onnxruntime")])
def test_behind_numpy_openvino_is_left_out(
    first: str, engine: str | None, gstreamer: dict[str, str]
) -> None:
    run = "runpy.run_path(sys.argv[0], run_name='__main__')"
    start = f"import runpy, sys; sys.argv.pop(0); {first}; {run}"
    free = {name: value for name, value in gstreamer.items() if name != "MIRNET_EDGE_CPU_ENGINE"}
    assert pipeline(free, RUNS, "choose", script=("-c", start)) == {"engine": engine}


def test_frames_that_are_too_late_are_dropped(gstreamer: dict[str, str]) -> None:
    found = pipeline(gstreamer, "late")
    assert found["late"] > 20
    assert found["frames"] + found["late"] == 50
    assert found["told"] == found["dropped"] == found["late"]
    assert found["least late"] > 60_000_000


def test_from_file_to_file(gstreamer: dict[str, str], tmp_path: Path) -> None:
    found = pipeline(gstreamer, "files", tmp_path)
    assert found["same times"]
    assert len(found["times"]) == 12
    assert found["mean of both"] == pytest.approx(16 + 235, abs=1.5), "luma and its inverse"


def test_a_thousand_buffers_do_not_grow(gstreamer: dict[str, str]) -> None:
    found = pipeline(gstreamer, "grow")
    assert found["frames"] == 1000
    before, after = found["memory"]
    assert after - before < 4 * 2**20


def test_the_command_line_says_where_the_element_is(capfd: pytest.CaptureFixture[str]) -> None:
    folder = Path(command(capfd, "gst-path").out.strip())
    assert (folder / "python" / "mirnetrestore.py").is_file()


# Memory


@pytest.mark.parametrize("name", ["gray", "rgb", "bgr", "rgba", "nv12", "i420"])
@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 7), (1, 1)])
def test_padded_rows_are_read_and_written(name: Any, height: int, width: int) -> None:
    half = (height + 1) // 2, (width + 1) // 2
    sizes = {
        "gray": [(height, width)],
        "nv12": [(height, width), (half[0], 2 * half[1])],
        "i420": [(height, width), half, half],
    }.get(name, [(height, (4 if name == "rgba" else 3) * width)])
    pitches = tuple(columns + 5 for _, columns in sizes)
    offsets = [3]
    for (rows, _), pitch in zip(sizes, pitches):
        offsets.append(offsets[-1] + rows * pitch + 2)
    memory = np.random.default_rng(0).integers(0, 256, offsets.pop() + 9).astype(np.uint8)
    layout = RawLayout(name, height, width, tuple(offsets), pitches)
    array = layout.read(memory)
    even = height + height % 2, width + width % 2
    planar = name in ("nv12", "i420")
    assert array.shape[:2] == ((even[0] * 3 // 2, even[1]) if planar else (height, width))
    assert array[0, 0].ravel()[0] == memory[3]
    assert (
        array[height - 1, width - 1].ravel()[0]
        == (memory[3 + (height - 1) * pitches[0] + (width - 1) * (sizes[0][1] // width)])
    )
    if name == "i420":
        v = array[even[0] :].reshape(2, *half)[1]
        assert v[0, 0] == memory[offsets[2]]
    other = memory.copy()
    layout.write(255 - array, other)
    inside = np.zeros(len(memory), bool)
    for (rows, columns), offset, pitch in zip(sizes, offsets, pitches):
        for row in range(rows):
            inside[offset + row * pitch : offset + row * pitch + columns] = True
    np.testing.assert_array_equal(other[inside], 255 - memory[inside])
    np.testing.assert_array_equal(other[~inside], memory[~inside])


def test_layouts_that_are_none() -> None:
    with pytest.raises(FrameError, match="need 2 of each"):
        RawLayout("nv12", 4, 4, (0,), (4,))
    with pytest.raises(FrameError, match="and no yuyv"):
        RawLayout("yuyv", 4, 4, (0,), (8,))


def test_something_between_two_frames() -> None:
    before, after = np.uint8([0, 100, 255]), np.uint8([255, 100, 0])
    assert blended(before, after, 1) is after
    np.testing.assert_array_equal(blended(before, after, 0.5), [128, 100, 128])
    np.testing.assert_array_equal(blended(before, after, 0.25), [64, 100, 191])
