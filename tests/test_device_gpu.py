"""Networks that are told a noise level, and networks of super-resolution, on a real GPU with the
real TensorRT: what stays on the device against what goes by way of the host, on the same engine.

The networks are tiny ones, made here; the environment's ``MIRNET_EDGE_NOISE_ONNX`` and
``MIRNET_EDGE_SCALE_ONNX`` name exported ones to take instead.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from device_frames import OnDevice, assert_near, frame_of
from edge_networks import edge_network
from edge_restorers import FORMATS, frame_in
from noise_weights import random_estimator as random_estimator

import mirnet_edge as me
from mirnet_edge.build import build_engine
from mirnet_edge.device.layouts import DeviceFrame
from mirnet_edge.device.noise_samples import NoiseSamples
from mirnet_edge.frames.noise_level import EVERY, Estimate, NoiseLevel, estimate_noise
from mirnet_edge.host.path import HostPath

pytestmark = [pytest.mark.gpu, pytest.mark.slow]
SOURCES = {
    "noise": ("MIRNET_EDGE_NOISE_ONNX", {"noise_level": True}),
    "scale": ("MIRNET_EDGE_SCALE_ONNX", {"scale": 2}),
}
TILE = (96, 144)
SIZE = (150, 250)
HALF = 5e-3
"""Error of float16 against float32 tiles, as a share of the range."""


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Engines of either, in FP16 and with float16 tiles, two to a batch."""
    pytest.importorskip("tensorrt", exc_type=ImportError)
    folder = tmp_path_factory.mktemp("plans")
    made = {}
    for name, (variable, network) in SOURCES.items():
        source = Path(os.environ.get(variable, folder / f"{name}.onnx"))
        if variable not in os.environ:
            onnx.save(edge_network(**network), source)
        made[name] = folder / f"{name}.engine"
        quick = {"tile": TILE, "batch": 2, "io": "float16", "optimization_level": 0}
        build_engine(source, made[name], precision="fp16", **quick)
    return made


@pytest.fixture(params=SOURCES)
def plan(request: pytest.FixtureRequest, plans: dict[str, Path]) -> Path:
    return plans[request.param]


def by_the_host(restore: me.Restorer, pixels: Any = None, noise: Any = None) -> Callable[..., Any]:
    """The way of a frame through NumPy, on the same engine."""
    settles = noise if noise is None or isinstance(noise, NoiseLevel) else NoiseLevel(noise)
    path = HostPath(restore.engine, restore.facts, restore.tiling, noise=settles, pixels=pixels)

    def restored(frame: np.ndarray) -> Any:
        return path.collect(path.submit(frame))

    return restored


def noise_for(plan: Path, level: float) -> dict[str, Any]:
    return {"noise": level} if plan.stem == "noise" else {}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format(name: str, plan: Path) -> None:
    frame, pixels = frame_in(name, *SIZE)
    told = noise_for(plan, 25)
    with me.Restorer(plan, halo=8, blend=4, pixels=pixels, **told) as restore:
        assert type(restore._lanes[0].path).__name__ == "DevicePath"
        expected = by_the_host(restore, pixels, told.get("noise"))(frame)
        for _ in range(2):
            found = restore(frame)
            assert_near(found, expected, HALF)
        assert found.shape[:2] == tuple(restore.scale * side for side in frame.shape[:2])
        there = restore(OnDevice(frame))
        np.testing.assert_array_equal(there.copy_to_host(), found)


@pytest.mark.parametrize("channels", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_other_samples(dtype: Any, channels: int, plan: Path) -> None:
    frame, told = frame_of(*SIZE, channels, dtype), noise_for(plan, 10)
    with me.Restorer(plan, halo=8, **told) as restore:
        found = restore(frame)
        assert_near(found, by_the_host(restore, None, told.get("noise"))(frame), HALF)


@pytest.mark.parametrize("size", [(1, 1), (47, 71), (48, 72), (211, 319)])
def test_every_size(size: tuple[int, int], plan: Path) -> None:
    frame, told = frame_of(*size), noise_for(plan, 40)
    with me.Restorer(plan, halo=8, **told) as restore:
        assert_near(restore(frame), by_the_host(restore, None, told.get("noise"))(frame), HALF)


class InTurn:
    """In place of what settles levels: one after the other."""

    def __init__(self, *levels: float) -> None:
        self.levels = list(levels)

    def __call__(self, *_: Any, **__: Any) -> float:
        return self.levels.pop(0)


def test_graphs_serve_every_level(plans: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    levels = (5.0, 60.0, 20.0, 90.0, 0.0, 60.0) * 3
    frames = [frame_of(*SIZE, seed=seed) for seed in range(len(levels))]
    expected = []
    for frame, level in zip(frames[:6], levels):
        with me.Restorer(plans["noise"], halo=8, noise=level) as restore:
            expected.append(restore(frame))
    monkeypatch.setattr(NoiseLevel, "of", InTurn(*levels))
    with me.Restorer(plans["noise"], halo=8, noise=1, frame_size=SIZE) as restore:
        found = list(restore.stream(frames))
        for index, wanted in enumerate(expected):
            np.testing.assert_array_equal(found[index], wanted)
        assert restore.timings.noise == levels[-1]
        assert restore.latency().frames == len(levels)


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The levels that the device found, in the order in which they were waited for."""
    found: list[float] = []
    begin = NoiseSamples.begin

    def noted(self: NoiseSamples, frame: DeviceFrame) -> Estimate:
        wait = begin(self, frame)

        def waited() -> float:
            found.append(wait())
            return found[-1]

        return waited

    monkeypatch.setattr(NoiseSamples, "begin", noted)
    return found


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.usefixtures("random_estimator")
def test_a_level_is_estimated_as_on_the_host(
    name: str, plans: dict[str, Path], begun: list[float]
) -> None:
    frame, pixels = frame_in(name, *SIZE)
    settles = NoiseLevel("auto")
    with me.Restorer(plans["noise"], halo=8, pixels=pixels) as restore:
        expected = by_the_host(restore, pixels, settles)(frame)
        for given in (frame, OnDevice(frame)):
            found = restore(given)
            found = found if isinstance(found, np.ndarray) else found.copy_to_host()
            assert restore.timings.noise == pytest.approx(settles._level, rel=1e-3)
            assert_near(found, expected, HALF)
        assert len(begun) == 2


@pytest.mark.usefixtures("random_estimator")
def test_a_level_of_a_frame_that_is_not_finite(plans: dict[str, Path]) -> None:
    frame = frame_of(*SIZE, dtype=np.float32)
    frame[30:40, 60:70], frame[50:, 100:] = np.nan, np.inf
    frame[:9, :9], frame[60:, :40] = -np.inf, -1e30
    planes = np.nan_to_num(frame, posinf=1.0, neginf=0.0).clip(0, 1).transpose(2, 0, 1)
    with me.Restorer(plans["noise"], halo=8) as restore:
        restore(OnDevice(frame)).copy_to_host()
        assert restore.timings.noise == pytest.approx(estimate_noise(planes), rel=1e-3)


@pytest.mark.parametrize("put", [np.asarray, OnDevice])
@pytest.mark.usefixtures("random_estimator")
def test_a_stream_has_the_same_levels_in_every_run(
    put: Callable[..., Any], plans: dict[str, Path], begun: list[float]
) -> None:
    frames = [frame_of(*SIZE, seed=seed) for seed in range(3 * EVERY)]
    runs = []
    with me.Restorer(plans["noise"], halo=8, frame_size=SIZE) as restore:
        for _ in range(3):
            begun.clear()
            assert len(list(restore.stream(map(put, frames)))) == len(frames)
            runs.append(begun.copy())
    planes = [(frames[k] / np.float32(255)).transpose(2, 0, 1) for k in (0, EVERY, 2 * EVERY)]
    assert runs[0] == pytest.approx([estimate_noise(each) for each in planes], rel=1e-3)
    assert runs[1] == runs[0]
    assert runs[2] == runs[0]
