"""``--devices`` of restore, serve and bench, on several GPUs in host memory."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import devices as scaling
import numpy as np
import pytest
from command_line import run
from device_frames import frame_of, held_of
from PIL import Image
from several_gpus import Gpus
from several_gpus import gpus as gpus
from several_gpus import halving as halving

import mirnet_edge as me
from mirnet_edge.bench import bench_frames
from mirnet_edge.device.path import DevicePath
from mirnet_edge.serve.models import ModelSpec, ServedModel
from mirnet_edge.serve.options import Options

LONG_S = 60
Capture = pytest.CaptureFixture[str]


def animation(path: Path, count: int = 9) -> Path:
    """Frames that are restored as a stream."""
    first, *others = (Image.fromarray(frame_of(20, 30, seed=seed)) for seed in range(count))
    first.save(path, save_all=True, append_images=others, duration=50, lossless=True)
    return path


def test_restore_gives_frames_to_all_devices(
    halving: Path, gpus: Gpus, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, used = animation(tmp_path / "in.webp"), set()
    collect = DevicePath.collect

    def noted(self: DevicePath, ticket: Any) -> object:
        used.add(self.device.facts.index)
        return collect(self, ticket)

    monkeypatch.setattr(DevicePath, "collect", noted)
    command = ("restore", source, "-m", halving, "--halo", 2, "--quality", 100)
    assert run(capsys, *command, "-o", tmp_path / "one.webp").code == 0
    assert used == {0}
    for devices, wanted in (("all", {0, 1, 2}), ("2", {2})):
        used.clear()
        target = tmp_path / f"{devices}.webp"
        assert run(capsys, *command, "-o", target, "--devices", devices).code == 0
        assert used <= wanted
        assert target.read_bytes() == (tmp_path / "one.webp").read_bytes()
    error = run(capsys, *command, "-o", tmp_path / "no.webp", "--devices", "0,9").errors[0]
    assert "GPU 9 was asked for, but the NVIDIA driver reports 3" in error
    refused = run(capsys, *command, "--devices", "first")
    assert (refused.code, "'first': need numbers of GPUs" in refused.err) == (2, True)
    both = run(capsys, *command, "-o", tmp_path, "--devices", "all", "--ray", "local")
    assert (both.code, "--devices or --ray, not both" in both.err) == (2, True)


def test_bench_tells_what_each_device_did(halving: Path, gpus: Gpus, capsys: Capture) -> None:
    found = bench_frames(halving, (20, 30), frames=12, halo=2, devices=[0, 2])
    assert list(found.devices) == ["GPU 0 (Fake A)", "GPU 2 (Fake C)"]
    assert sum(found.devices.values()) == 12 + 2 * 3
    command = ("bench", halving, "--frame", "30x20", "--frames", 4, "--halo", 2)
    out = run(capsys, *command, "--devices", "0,1").out
    assert "of the stream: " in out
    assert "on GPU 1 (Fake B)" in out
    assert "of the stream: " not in run(capsys, *command).out
    assert "--devices needs --frame" in run(capsys, "bench", halving, "--devices", "all").err


def test_a_service_restores_on_all_devices_at_once(halving: Path, gpus: Gpus) -> None:
    frames = [frame_of(20, 30, seed=seed) for seed in range(12)]
    with me.Restorer(halving, halo=2) as restore:
        expected = [restore(frame) for frame in frames]
    model = ServedModel(ModelSpec("m", halving), seats=2, batch=1, devices="all", halo=2)
    try:
        assert len(model._all) == 3
        together = threading.Barrier(3)
        restorers = [seat.restorer("auto", None) for seat in model._all]
        assert [work.index for one in restorers for work in one.devices] == [0, 1, 2]

        def one(frame: np.ndarray) -> np.ndarray:
            with model._seat():
                together.wait(LONG_S)  # three are at work
            return model.restore(frame, Options()).pixels

        with ThreadPoolExecutor(3) as pool:
            np.testing.assert_array_equal(list(pool.map(one, frames)), expected)
    finally:
        model.close()
    assert [held_of(gpu) for gpu in gpus] == [{}, {}, {}]
    shared = ServedModel(ModelSpec("m", halving), seats=2, batch=2, devices=[0, 1], halo=2)
    assert [one.engine.device.facts.index for one in shared.shared] == [0, 1]
    shared.close()


def test_the_benchmark_of_scaling_measures_each_gpu_and_all(
    halving: Path, gpus: Gpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"ROUNDS": 2, "WARM_UP_FRAMES": 2, "FRAMES": 3}.items():
        monkeypatch.setattr(scaling, name, value)
    record = tmp_path / "devices.json"
    options = ("--devices", "0,2", "--frame", "30x20", "--halo", "2", "--seconds", "0.05")
    monkeypatch.setattr("sys.argv", ["devices.py", str(record), "--model", str(halving), *options])
    scaling.main()
    found = json.loads(record.read_text("utf-8"))
    assert list(found["runs"]) == ["[0]", "[2]", "[0, 2]"]
    alone, other, both = found["runs"].values()
    assert [set(runs[1]["of_each"]) for runs in (alone, other, both)] == [{"0"}, {"2"}, {"0", "2"}]
    rates = found["frames_per_second"]
    assert found["gain"] == pytest.approx(2 * rates["[0, 2]"] / (rates["[0]"] + rates["[2]"]))
    assert found["gpus"] == {"0": "Fake A", "2": "Fake C"}
