"""How near the tile kernels come to the device's copy bandwidth: time, bytes, share.

python benchmarks/kernels.py RESULT.json

A frame of 3840 x 2160 is cut into tiles of 256 x 256 with a halo of 16, float16 planes, in one
launch, and stored from them in another. Planes of a half, a third and a quarter of its size are
enlarged into such tiles of it (252 x 252 where they are multiples of 12), and a plane of as many
tiles is filled with a noise level. Each launch is timed by two events on the device; the time is
the median of 200 after warm-up. The noise estimate of 16 crops is timed alike, with nothing to
compare it with. What makes the numbers comparable:

* Launches rotate over frames and batches of tiles that are four times the L2 cache each, so that
  none finds its data there (an H100's holds 50 MB, a frame of uint8 RGB has 25).
* Launches are queued in groups behind copies that keep the device busy meanwhile, so that no event
  waits for the CPU; the first of each group, which run into the copies' writes, are left out.
* Bytes are those that must move, as the head comments of kernels/ count them: a frame's pixels once
  and the tiles' once. Halos that are read again come from the cache and are not counted.
* The copy is memcpy_dtod of 256 MiB, timed the same way, its bytes read and written.
* A launch and its events take 1.3 to 2.9 us on one host and another of the same GPU, which a kernel
  of 20 us feels and a copy of 130 does not: groups of launches are timed as well, as they follow
  each other in a CUDA graph.
"""

from __future__ import annotations

import json
import math
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np

from mirnet_edge import __version__
from mirnet_edge._files import atomic_path
from mirnet_edge.cuda import Device, DeviceBuffer, Event, Stream, open_device
from mirnet_edge.cuda.compiler import find_compiler
from mirnet_edge.cuda.native import NativeDriver
from mirnet_edge.device.layouts import DeviceFrame, DeviceTiles, Plane
from mirnet_edge.device.noise_network import NoiseNetwork
from mirnet_edge.device.tile_kernels import TileKernels
from mirnet_edge.frames.noise_estimator import WEIGHTS, load_estimator
from mirnet_edge.frames.noise_level import MOST_CROPS
from mirnet_edge.frames.pixel_formats import rgb_to_yuv_matrix, yuv_to_rgb_matrix
from mirnet_edge.tiling.geometry import Tiling

HEIGHT, WIDTH = 2160, 3840
TILE_PX, HALO_PX = 256, 16
VALUE, VALUE_BYTES = "float16", 2  # of the tiles
FORMATS = {"rgb_u8": 3.0, "nv12_u8": 1.5, "rgba_u8": 4.0, "rgb_u16": 6.0}
"""Bytes of a pixel."""
ENLARGED_MULTIPLE = {2: 8, 3: 12, 4: 16}
"""What origins and sides of tiles are multiples of, by the scale."""
BT709_LOAD, BT709_STORE = yuv_to_rgb_matrix("bt709", False), rgb_to_yuv_matrix("bt709", False)

CACHES = 4  # times the L2 cache that the buffers of one kind fill
COPY_BYTES = 1 << 28
AHEAD = 8  # copies in front of a group: 1.4 ms at 3 TB/s, longer than queuing it takes
WARM_UP, GROUP, GROUPS = 3, 20, 10


class Bench:
    """Buffers that are larger than the caches, and a way to time what uses them."""

    def __init__(self, device: Device, owned: ExitStack) -> None:
        self.device, self._owned = device, owned
        self.stream = owned.enter_context(Stream(device))
        self.kernels = owned.enter_context(TileKernels(device))
        attribute = device.driver.device_attribute.L2_CACHE_SIZE
        self.l2_bytes = int(device.driver.Device(device.facts.index).get_attribute(attribute))
        events = (Event(device) for _ in range(2 * (WARM_UP + GROUP)))
        self._events = [owned.enter_context(event) for event in events]
        self._copies = [self.buffer(COPY_BYTES) for _ in range(2)]

    def buffer(self, size_bytes: int) -> DeviceBuffer:
        """Memory that holds zeros."""
        buffer = self._owned.enter_context(DeviceBuffer(self.device, size_bytes))
        buffer.fill(0, stream=self.stream)
        return buffer

    def table(self, rows: list[tuple[int, ...]]) -> int:
        """The address of a table of int32."""
        table = np.array(rows, np.int32)
        buffer = self._owned.enter_context(DeviceBuffer(self.device, table.nbytes))
        buffer.upload(table, stream=self.stream)
        self.stream.synchronize()
        return buffer.address

    def copies_of(self, size_bytes: int) -> list[int]:
        """Addresses of as many buffers as fill the cache `CACHES` times, two at least."""
        count = max(2, -(-CACHES * self.l2_bytes // size_bytes))
        return [self.buffer(size_bytes).address for _ in range(count)]

    def copy(self, _: int = 0) -> None:
        source, target = self._copies
        target.copy_from(source.address, COPY_BYTES, stream=self.stream)

    def times_us(self, launch: Callable[[int], None]) -> list[float]:
        """Of launch(0), launch(1), ...: microseconds each on the device."""
        times: list[float] = []
        number = 0
        pairs = list(zip(self._events[::2], self._events[1::2], strict=True))
        for group in range(-1, GROUPS):
            for _ in range(AHEAD):
                self.copy()
            for start, end in pairs:
                start.record(self.stream)
                launch(number)
                end.record(self.stream)
                number += 1
            self.stream.synchronize()
            if group >= 0:
                times += [1e3 * end.elapsed_ms(start) for start, end in pairs[WARM_UP:]]
        return times

    def queued_us(self, launch: Callable[[int], None]) -> list[float]:
        """Of launch(0), launch(1), ... with nothing between them: microseconds each, a group."""
        start, end = self._events[:2]
        times: list[float] = []
        for group in range(-1, GROUPS):
            for _ in range(2 * AHEAD):
                self.copy()
            start.record(self.stream)
            for number in range(GROUP):
                launch(number)
            end.record(self.stream)
            self.stream.synchronize()
            if group >= 0:
                times.append(1e3 * end.elapsed_ms(start) / GROUP)
        return times


def frame_at(address: int, name: str) -> DeviceFrame:
    """A frame without gaps."""
    if name == "nv12_u8":
        planes = (Plane(address, WIDTH), Plane(address + HEIGHT * WIDTH, WIDTH))
        return DeviceFrame(name, HEIGHT, WIDTH, planes, BT709_LOAD, BT709_STORE)
    return DeviceFrame(name, HEIGHT, WIDTH, (Plane(address, int(FORMATS[name]) * WIDTH),))


def measure_format(bench: Bench, name: str, batches: list[DeviceTiles], tables: list[int]) -> Any:
    """Load and store of one format."""
    frame_bytes = int(FORMATS[name] * HEIGHT * WIDTH)
    frames = [frame_at(address, name) for address in bench.copies_of(frame_bytes)]
    origins, kept = tables
    stream = bench.stream

    def load(number: int) -> None:
        frame, tiles = frames[number % len(frames)], batches[number % len(batches)]
        bench.kernels.load(frame, origins, tiles, stream=stream)

    def store(number: int) -> None:
        frame, tiles = frames[number % len(frames)], batches[number % len(batches)]
        bench.kernels.store(tiles, origins, kept, frame, stream=stream)

    kept_bytes = 3 * VALUE_BYTES * HEIGHT * WIDTH
    return {
        f"load_{name}": timed(bench, load, frame_bytes + batches[0].size_bytes),
        f"store_{name}": timed(bench, store, kept_bytes + frame_bytes),
    }


def measure_enlarge(bench: Bench, scale: int) -> Any:
    """The same frame, enlarged from its planes at a smaller size."""
    multiple = ENLARGED_MULTIPLE[scale]
    side = TILE_PX // multiple * multiple
    cover = Tiling((side, side), HALO_PX, multiple=multiple, least=multiple).cover(HEIGHT, WIDTH)
    origins = bench.table([(column.origin, row.origin) for row, column in cover])
    shape = (len(cover), 3, side, side)
    height, width = HEIGHT // scale, WIDTH // scale
    frame_bytes, size_bytes = 3 * height * width * VALUE_BYTES, math.prod(shape) * VALUE_BYTES
    frames = [
        DeviceTiles(address, (1, 3, height, width), VALUE)
        for address in bench.copies_of(frame_bytes)
    ]
    batches = [DeviceTiles(address, shape, VALUE) for address in bench.copies_of(size_bytes)]

    def enlarge(number: int) -> None:
        frame, tiles = frames[number % len(frames)], batches[number % len(batches)]
        size = (height, width)
        bench.kernels.enlarge(frame, size, origins, tiles, scale, stream=bench.stream)

    return timed(bench, enlarge, frame_bytes + size_bytes)


def measure_fill(bench: Bench, count: int) -> Any:
    """One plane of four."""
    shape = (count, 4, TILE_PX, TILE_PX)
    batches = [
        DeviceTiles(address, shape, VALUE)
        for address in bench.copies_of(math.prod(shape) * VALUE_BYTES)
    ]

    def fill(number: int) -> None:
        bench.kernels.fill_plane(batches[number % len(batches)], 0.3, stream=bench.stream)

    return timed(bench, fill, count * TILE_PX**2 * VALUE_BYTES)


def measure_noise(bench: Bench, owned: ExitStack) -> dict[str, Any]:
    """An estimate of all crops a frame may have, from when they are cut until the host can read it:
    a graph of six kernels, which compute rather than move bytes."""
    network = owned.enter_context(NoiseNetwork(load_estimator(WEIGHTS), stream=bench.stream))
    network.prepare(MOST_CROPS)
    times_us = bench.times_us(lambda _: network.run(MOST_CROPS))
    grouped_us = bench.queued_us(lambda _: network.run(MOST_CROPS))
    return {
        "crops": MOST_CROPS,
        "microseconds": median(times_us),
        "in_groups": {"microseconds": median(grouped_us)},
    }


def timed(bench: Bench, launch: Callable[[int], None], size_bytes: int) -> dict[str, Any]:
    """One by one, and in groups."""
    return {
        **summary(bench.times_us(launch), size_bytes),
        "in_groups": summary(bench.queued_us(launch), size_bytes),
    }


def summary(times_us: list[float], size_bytes: int) -> dict[str, float]:
    """The median, and what it makes of the bytes."""
    tenths = quantiles(times_us, n=10)
    return {
        "microseconds": median(times_us),
        "p10_microseconds": tenths[0],
        "p90_microseconds": tenths[-1],
        "launches": len(times_us),
        "bytes": size_bytes,
        "gigabytes_per_second": size_bytes / median(times_us) / 1e3,
    }


def measure(device: Device) -> dict[str, Any]:
    """Everything, as it is recorded."""
    cover = Tiling((TILE_PX, TILE_PX), halo=HALO_PX).cover(HEIGHT, WIDTH)
    origins = [(column.origin, row.origin) for row, column in cover]
    kept = [
        (row.settled.start, column.settled.start, row.settled.stop, column.settled.stop)
        for row, column in cover
    ]
    size_bytes = len(cover) * 3 * TILE_PX * TILE_PX * VALUE_BYTES
    with ExitStack() as owned:
        bench = Bench(device, owned)
        tables = [bench.table(rows) for rows in (origins, kept)]
        batches = [
            DeviceTiles(address, (len(cover), 3, TILE_PX, TILE_PX), VALUE)
            for address in bench.copies_of(size_bytes)
        ]
        copy = timed(bench, bench.copy, 2 * COPY_BYTES)
        results: dict[str, Any] = {}
        for name in FORMATS:
            results.update(measure_format(bench, name, batches, tables))
        for scale in ENLARGED_MULTIPLE:
            results[f"enlarge_x{scale}"] = measure_enlarge(bench, scale)
        results["fill_plane"] = measure_fill(bench, len(cover))
        noise = measure_noise(bench, owned)
        l2_bytes = bench.l2_bytes
    for result in results.values():
        for found, peer in ((result, copy), (result["in_groups"], copy["in_groups"])):
            share = found["gigabytes_per_second"] / peer["gigabytes_per_second"]
            found["share_of_copy_bandwidth"] = share
    return {
        **facts(device),
        "l2_bytes": l2_bytes,
        "frame": [HEIGHT, WIDTH],
        "tile": TILE_PX,
        "halo": HALO_PX,
        "tiles": len(cover),
        "copy": copy,
        "kernels": results,
        "noise_level": noise,
    }


def facts(device: Device) -> dict[str, Any]:
    """Device, driver, clocks and versions."""
    target = device.facts
    return {
        "device": device.facts.name,
        "architecture": target.architecture,
        "cuda": device.facts.driver_version,
        "driver_and_clocks": nvidia_smi("driver_version,clocks.sm,clocks.mem,power.limit"),
        "versions": {
            "mirnet_edge": __version__,
            "compiler": find_compiler(target).identity,
            "driver": calls_by(device),
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def calls_by(device: Device) -> str:
    """What calls the driver: pycuda and its version, or ctypes where it is not installed."""
    return "ctypes" if isinstance(device.driver, NativeDriver) else f"pycuda {version('pycuda')}"


def nvidia_smi(query: str) -> str | None:
    """What it says; None where there is none, as on a Jetson."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, f"--query-gpu={query}", "--format=csv,noheader", "--id=0"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def main(result: Path) -> None:
    found = measure(open_device())
    with atomic_path(result) as path:
        path.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{found['device']}: copy {found['copy']['gigabytes_per_second']:.0f} GB/s")
    for name, each in found["kernels"].items():
        print(
            f"{name:14} {each['microseconds']:8.1f} us  {each['bytes'] / 1e6:6.1f} MB  "
            f"{each['gigabytes_per_second']:6.0f} GB/s  {each['share_of_copy_bandwidth']:.0%}, in "
            f"groups {each['in_groups']['share_of_copy_bandwidth']:.0%}"
        )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
