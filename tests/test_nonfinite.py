"""NaN and infinity out of an engine: counted by the kernels that store, as by NumPy; an error where
that is asked for."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from broken_networks import write_broken
from command_line import run
from device_frames import OnDevice, Write, frame_of
from device_frames import network as network
from device_frames import write as write
from fake_gpu import FakeGpu
from PIL import Image

import mirnet_edge as me
from mirnet_edge.frames.pixel_formats import pixel_format

KINDS = ("nan", "infinity")
RAISED = r"(broken\.engine|the engine) returned .*NaN or infini.*; an FP16 overflow\?"


def dark_frame(height: int = 75, width: int = 90, channels: int = 3, **kind: Any) -> np.ndarray:
    """Of which the left is dark, and some of it black."""
    frame = frame_of(height, width, channels, **kind)
    frame[:, : width // 3] //= 5
    frame[3:40, 7:50] = 0
    return frame


def expected_count(frame: np.ndarray, kind: str) -> int:
    values = frame[..., :3] / np.float32(np.iinfo(frame.dtype).max)
    wrong = values < 0.25 if kind == "nan" else values == 0
    return int(np.count_nonzero(wrong)) * (3 if frame.ndim == 2 else 1)


@pytest.mark.parametrize("channels", [0, 1, 3, 4])
@pytest.mark.parametrize("image", ["FLOAT", "HALF"])
@pytest.mark.parametrize("kind", KINDS)
def test_both_ways_count_what_is_not_finite(
    kind: str, image: str, channels: int, trt: ModuleType, tmp_path: Path
) -> None:
    path = write_broken(tmp_path, kind, batch=2, image=image)
    frame = dark_frame(channels=channels) if channels else dark_frame()[..., 0].copy()
    expected = 3 * np.count_nonzero(frame < 63.75) if kind == "nan" else 3 * (frame == 0).sum()
    expected = expected if channels < 2 else expected_count(frame, kind)
    found = {}
    for model in (path, tmp_path / "broken.onnx"):
        with me.Restorer(model, halo=4, nan="zero") as restore:
            for _ in range(2):  # with the kernels' first run, and without
                found[model] = restore(frame)
                assert restore.timings.nonfinite == expected
    one, other = found.values()
    assert np.abs(one.astype(int) - other).max() <= 1


@pytest.mark.parametrize("name", ["nv12", "i420", "yuyv"])
def test_of_formats_that_share_chroma_too(name: str, trt: ModuleType, tmp_path: Path) -> None:
    path = write_broken(tmp_path)
    shape = {"nv12": (90, 82), "i420": (90, 82), "yuyv": (41, 82, 2)}[name]
    frame = np.random.default_rng(0).integers(16, 236, shape, np.uint8)
    options = {"halo": 4, "pixels": pixel_format(name, standard="bt601"), "nan": "zero"}
    found = []
    for model in (path, tmp_path / "broken.onnx"):
        with me.Restorer(model, **options) as restore:
            found.append(restore(frame).astype(int))
            assert 0 < restore.timings.nonfinite < frame.size
            found.append(restore.timings.nonfinite)
    assert found[1] == found[3]
    assert np.abs(found[0] - found[2]).max() <= 1


def test_what_fades_into_others_is_counted_once(trt: ModuleType, tmp_path: Path) -> None:
    path, frame = write_broken(tmp_path, batch=2), dark_frame()
    counts = []
    for model in (path, tmp_path / "broken.onnx"):
        with me.Restorer(model, halo=4, blend=4, nan="zero") as restore:
            restore(frame)
            counts.append(restore.timings.nonfinite)
    assert counts[0] == counts[1] == expected_count(frame, "nan")


def test_what_stays_on_the_device_is_counted(trt: ModuleType, tmp_path: Path) -> None:
    path, frame = write_broken(tmp_path), dark_frame()
    with me.Restorer(path, halo=4) as restore:
        restored = restore(OnDevice(frame))
        assert restore.timings.nonfinite == expected_count(frame, "nan")
        assert (restored.copy_to_host()[frame < 63] == 0).all()


def test_an_engine_that_works_counts_none(write: Write, trt: ModuleType) -> None:
    for mode in ("tile", "frame", "stream"):
        with me.Restorer(write(), halo=4, statistics=mode, nan="raise") as restore:
            restore(frame_of(75, 90))
            assert restore.timings.nonfinite == 0


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_where_asked(kind: str, trt: ModuleType, gpu: FakeGpu, tmp_path: Path) -> None:
    path = write_broken(tmp_path, kind)
    good, bad = np.full((75, 90, 3), 200, np.uint8), dark_frame()
    for model in (path, tmp_path / "broken.onnx"):
        with me.Restorer(model, halo=4, nan="raise") as restore:
            expected = restore(good)
            with pytest.raises(me.EngineError, match=RAISED):
                restore(bad)
            np.testing.assert_array_equal(restore(good), expected)
            restored = []
            with pytest.raises(me.EngineError, match=f"^frame 2: {RAISED}"):
                restored.extend(restore.stream([good, good, bad, good]))
            assert len(restored) == 2
            np.testing.assert_array_equal(next(iter(restore.stream([good]))), expected)
    assert not gpu.stray


def test_left_alone_the_device_counts_and_the_host_raises(trt: ModuleType, tmp_path: Path) -> None:
    path, frame = write_broken(tmp_path), dark_frame()
    with me.Restorer(path, halo=4) as restore:
        restore(frame)
        assert restore.timings.nonfinite > 0
    with (
        me.Restorer(tmp_path / "broken.onnx", halo=4) as restore,
        pytest.raises(me.EngineError, match=RAISED),
    ):
        restore(frame)


def test_float_frames_take_no_nan(trt: ModuleType, tmp_path: Path) -> None:
    path = write_broken(tmp_path, "infinity")
    frame = (dark_frame() / np.float32(255)).astype(np.float32)
    found = []
    for model in (path, tmp_path / "broken.onnx"):
        with me.Restorer(model, halo=4, nan="zero") as restore:
            found.append(restore(frame))
            assert restore.timings.nonfinite == np.count_nonzero(frame == 0)
    np.testing.assert_allclose(*found, atol=1e-6)
    assert np.isfinite(found).all()


def test_no_more_is_launched_copied_or_allocated_for_it(
    trt: ModuleType, gpu: FakeGpu, tmp_path: Path
) -> None:
    path, frame = write_broken(tmp_path), dark_frame()
    done = []
    for nan in ("zero", "raise"):
        with me.Restorer(path, halo=4, nan=nan) as restore:
            for value in (200, 210):
                frame[...] = value
                restore(frame)
            launches, made = gpu.launches, dict(gpu.made)
            restore(frame)
            done.append((gpu.launches - launches, gpu.made == made))
    assert done[0] == done[1] == (restore.timings.tiles, True)


def test_the_command_line_writes_no_such_picture(
    trt: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path, given = write_broken(tmp_path), tmp_path / "in"
    given.mkdir()
    Image.fromarray(dark_frame()).save(given / "a.png")
    Image.fromarray(np.full((75, 90, 3), 200, np.uint8)).save(given / "b.png")
    outcome = run(capfd, "restore", given, "-m", path, "-o", f"{tmp_path / 'out'}/", "--halo", 4)
    assert outcome.code == 1
    assert re.search(RAISED, " ".join(outcome.err.split())), outcome.err
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["b_restored.png"]


def test_there_are_three_choices() -> None:
    with pytest.raises(me.ConfigError, match=r"nan='ignore': need \"auto\", \"raise\" or \"zero\""):
        me.Restorer(me.FakeEngine(), nan="ignore")  # type: ignore[arg-type]
