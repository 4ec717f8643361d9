"""Out of memory at every allocation in turn, on the GPU in host memory: of opening a Restorer, of
its first frame, of a stream. The error is ours and has numbers, everything is given back, and the
next call works."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken_networks import write_broken
from device_faults import AllocationFaults
from device_frames import OnDevice, frame_of, held_of
from device_frames import network as network
from device_frames import write as write
from fake_gpu import FakeGpu
from noise_weights import random_estimator as random_estimator

import mirnet_edge as me
from mirnet_edge.cuda import Stream, open_device
from mirnet_edge.device.noise_samples import NoiseSamples
from mirnet_edge.device.tile_kernels import TileKernels

SIZE = (36, 44)  # four tiles
OPTIONS: dict[str, dict[str, Any]] = {
    "tiles": {"halo": 4},
    "known size": {"halo": 4, "frame_size": SIZE},
    "statistics": {"halo": 4, "blend": 4, "statistics": "stream"},
    "integrated": {"halo": 4},
}
SLOW = {"statistics": pytest.mark.slow}  # three engines each time
NUMBERS = re.compile(r"out of memory.*, [\d,]+ of [\d,]+ free; ")


@pytest.fixture
def faults(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> Iterator[AllocationFaults]:
    # Rubbish is collected after every fault: of what was there before, nothing is looked at.
    gc.collect()
    gc.freeze()
    yield AllocationFaults(gpu, monkeypatch)
    gc.unfreeze()


def assert_told(text: str) -> None:
    assert NUMBERS.search(text), text


def given_back(gpu: FakeGpu) -> dict[str, int]:
    """What is held once nothing refers to what failed."""
    with open_device().current():
        gc.collect()
    return held_of(gpu)


@pytest.fixture(params=[pytest.param(name, marks=SLOW.get(name, ())) for name in OPTIONS])
def opened(
    request: pytest.FixtureRequest, tmp_path: Path, gpu: FakeGpu
) -> Callable[[], me.Restorer]:
    """Open a Restorer in one of the ways."""
    if request.param == "statistics":
        request.getfixturevalue("network")  # torch, which exports it, looks for a TensorRT
        path = request.getfixturevalue("write")(2)
    else:
        request.getfixturevalue("trt")
        path = write_broken(tmp_path, "infinity", 2)
    gpu.integrated = request.param == "integrated"
    open_device()

    def open_it() -> me.Restorer:
        return me.Restorer(path, **OPTIONS[request.param])

    return open_it


def test_of_opening(
    opened: Callable[[], me.Restorer], gpu: FakeGpu, faults: AllocationFaults
) -> None:
    frame = frame_of(*SIZE)
    with faults.strike(), opened() as restore:
        count, expected = len(faults.seen), restore(frame)
    assert count >= 8
    before = given_back(gpu)
    for number in range(count):
        with faults.strike(number), pytest.raises(me.DeviceMemoryError) as raised:
            opened()
        assert_told(str(raised.value))
        del raised
        assert given_back(gpu) == before, f"allocation {number}, {faults.failed}"
    with opened() as restore:
        np.testing.assert_array_equal(restore(frame), expected)


@pytest.mark.parametrize("where", ["host", "device"])
def test_of_the_first_frame(
    where: str,
    opened: Callable[[], me.Restorer],
    gpu: FakeGpu,
    faults: AllocationFaults,
    request: pytest.FixtureRequest,
) -> None:
    if where == "device" and "statistics" in request.node.callspec.id:
        pytest.skip("the host's frames have had these allocations, and they take long")
    frame = frame_of(*SIZE)
    given = frame if where == "host" else OnDevice(frame)

    def restored(restore: me.Restorer) -> Any:
        found = restore(given)
        return found if where == "host" else found.copy_to_host()

    with opened() as restore, faults.strike():
        expected, count = restored(restore), len(faults.seen)
    before = given_back(gpu)
    failed = set()
    for number in range(count):
        with opened() as restore:
            with faults.strike(number), pytest.raises(me.DeviceMemoryError) as raised:
                restored(restore)
            assert_told(str(raised.value))
            failed.add(faults.failed)
            del raised
            np.testing.assert_array_equal(restored(restore), expected)
        assert given_back(gpu) == before, f"allocation {number}, {faults.failed}"
    assert not count or {"cuMemAlloc", "cuEventCreate"} & failed


def test_of_a_stream(
    opened: Callable[[], me.Restorer],
    gpu: FakeGpu,
    faults: AllocationFaults,
    request: pytest.FixtureRequest,
) -> None:
    frames = [frame_of(*SIZE, seed=seed) for seed in range(3)]
    with opened() as restore, faults.strike():
        expected = list(restore.stream(frames))
        count = len(faults.seen)
    before = given_back(gpu)
    # Those of the engines beside, which take long, are in the first frame, whose test has them.
    first = max(0, count - 15) if "statistics" in request.node.callspec.id else 0
    for number in range(first, count):
        with opened() as restore:
            found: list[np.ndarray] = []
            with faults.strike(number):
                try:
                    found.extend(restore.stream(frames))
                    told = ""
                except me.DeviceMemoryError as error:
                    told = str(error)
            # None where there was no room for a second frame in flight, and the first made some.
            assert faults.failed
            if told or len(found) < len(frames):
                assert_told(told)
                assert told.startswith(f"frame {len(found)}: ")
            # Where a frame had to wait for the one before, it knows of that one's means already.
            step = int("statistics" in request.node.callspec.id)
            np.testing.assert_allclose(found, expected[: len(found)], rtol=0, atol=step)
            np.testing.assert_array_equal(list(restore.stream(frames)), expected)
        assert given_back(gpu) == before, f"allocation {number}, {faults.failed}"


@pytest.mark.usefixtures("random_estimator")
def test_of_an_estimate_of_the_noise(gpu: FakeGpu, faults: AllocationFaults) -> None:
    device = open_device()
    before = held_of(gpu)

    def made() -> None:
        with (
            Stream(device) as stream,
            TileKernels(device) as kernels,
            NoiseSamples(kernels, uploads=stream, compute=stream) as samples,
        ):
            samples.prepare(*SIZE)

    with faults.strike():
        made()
    count = len(faults.seen)
    assert count > 5
    for number in range(count):
        with faults.strike(number), pytest.raises(me.DeviceMemoryError) as raised:
            made()
        assert_told(str(raised.value))
        del raised
        assert given_back(gpu) == before, f"allocation {number}, {faults.failed}"
