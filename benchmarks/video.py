"""Restored videos: how much a still scene flickers, and how many frames a second there are.

python benchmarks/video.py benchmarks/results/video.json

A still scene is the bundled photo with new noise in every frame, stored without loss; flicker is
the mean absolute difference of consecutive frames in luma, of 255. Rates are of a whole run, from
opening the video to the file that is whole; around a restorer that only copies they are those of
decoding, conversion and encoding. They are told by the clock, and by the processor's time, which
what else runs on the machine moves less. Needs the extra video.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import cpuinfo
import numpy as np

import mirnet_edge as me
from mirnet_edge._files import atomic_path
from mirnet_edge.bundled import PHOTO
from mirnet_edge.frame_path import Timings
from mirnet_edge.frames.images import read_image
from mirnet_edge.frames.noise import add_gaussian_noise, to_uint8
from mirnet_edge.stream.frame_stream import FrameStream
from mirnet_edge.stream.video.encoding import choose_encoding
from mirnet_edge.stream.video.job import VideoJob, VideoSettings, settings_of_run
from mirnet_edge.stream.video.live import open_video
from mirnet_edge.stream.video.parts import Parts
from mirnet_edge.stream.video.pictures import Pictures
from mirnet_edge.system import usable_cores

MODEL, SIGMA, RATE = "edge-s-denoise", 25.0, 25
FLICKER_FRAMES, FLICKER_SIZE = 4, (192, 256)
STORED = {"RGB": "bgr0", "4:2:0": "yuv420p"}
"""In which noise of RGB keeps its three channels, and loses most of its colour."""
CUTS: dict[str, dict[str, Any]] = {
    "whole frames": {"tile": None},
    "tiles of 128, statistics tile": {"tile": 128},
    "tiles of 128, statistics stream": {"tile": 128, "statistics": "stream"},
}
RUNS = 3


class Copies:
    """A restorer that only copies, in place of a network."""

    depth, timings = 1, Timings()

    def stream(self, frames: object) -> FrameStream:
        return FrameStream(self, frames)

    def submit(self, frame: Any, *_: Any) -> Any:
        return frame

    def collect(self, ticket: Any) -> Any:
        return ticket


def write_clip(
    path: Path, pictures: Iterator[np.ndarray], codec: str, pix_fmt: str = "yuv420p"
) -> Path:
    """Write RGB pictures as a video."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=RATE)
        for number, picture in enumerate(pictures):
            if not number:
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = pix_fmt
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pix_fmt)
            frame.pts = number
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def scene(height: int, width: int) -> np.ndarray:
    """The photo, repeated where it is too small."""
    photo = read_image(PHOTO).pixels
    down, across = -(-height // photo.shape[0]), -(-width // photo.shape[1])
    return np.tile(photo, (down, across, 1))[:height, :width]


def noisy(height: int, width: int, frames: int) -> Iterator[np.ndarray]:
    clean = scene(height, width)
    return (to_uint8(add_gaussian_noise(clean, SIGMA, seed)) for seed in range(frames))


def panned(height: int, width: int, frames: int) -> Iterator[np.ndarray]:
    """Yield the clean scene, two pixels farther in each frame."""
    clean = scene(height, width)
    return (np.roll(clean, -2 * number, axis=1) for number in range(frames))


def restore(
    source: Path, target: Path, opened: Callable[[Pictures], Any], **encoding: Any
) -> tuple[float, float]:
    """Restore a clip as the command line does; seconds a frame, by the clock and of a core."""
    began_s, cpu_began_s = time.perf_counter(), time.process_time()
    reader = open_video(str(source))
    how = choose_encoding(reader.facts, target, **encoding)
    settings = VideoSettings()
    parts = Parts(target, settings_of_run(str(source), how, settings, {}))
    restorer = opened(Pictures(reader.facts, how.planes))
    outcome = VideoJob(reader, target, parts, how, settings).run(restorer, lambda *_: None)
    reader.close()
    spent = time.perf_counter() - began_s, time.process_time() - cpu_began_s
    return spent[0] / outcome.frames, spent[1] / outcome.frames


def network(**settings: Any) -> Callable[[Pictures], me.Restorer]:
    return lambda pictures: me.Restorer(MODEL, pixels=pictures.pixels, **settings)


def flicker_of(path: Path) -> float:
    """Mean absolute difference of consecutive frames in luma, of 255."""
    with av.open(str(path)) as container:
        luma = [
            frame.to_ndarray(format="gray").astype(np.float64)
            for frame in container.decode(video=0)
        ]
    return float(np.mean([np.abs(one - two).mean() for one, two in pairwise(luma)]))


def measure_flicker(folder: Path) -> dict[str, Any]:
    found = {}
    for stored, pix_fmt in STORED.items():
        pictures = noisy(*FLICKER_SIZE, FLICKER_FRAMES)
        source = write_clip(folder / "still.mkv", pictures, "ffv1", pix_fmt)
        after = {}
        for name, settings in CUTS.items():
            restore(source, folder / "clean.mkv", network(**settings), codec="ffv1")
            after[name] = round(flicker_of(folder / "clean.mkv"), 2)
        found[stored] = {"before": round(flicker_of(source), 2), "after": after}
    return {"model": MODEL, "size": FLICKER_SIZE, "sigma": SIGMA, "stored": found}


def measure_rates(folder: Path) -> list[dict[str, Any]]:
    """The median of some runs each."""
    found = []
    cases: tuple[tuple[str, tuple[int, int], int, Any, str | None], ...] = (
        (MODEL, (144, 256), 12, network(), None),
        ("copies", (1080, 1920), 24, lambda _: Copies(), None),
        ("copies", (1080, 1920), 24, lambda _: Copies(), "ultrafast"),
    )
    for name, (height, width), frames, opened, preset in cases:
        source = write_clip(folder / "clip.mp4", panned(height, width, frames), "libx264")
        spent = [restore(source, folder / "out.mp4", opened, preset=preset) for _ in range(RUNS)]
        clock_s, core_s = np.median(spent, axis=0)
        found.append(
            {
                "restorer": name,
                "size": (height, width),
                "frames": frames,
                "preset": preset or "medium",
                "frames_per_second": round(float(1 / clock_s), 2),
                "frames_per_core_second": round(float(1 / core_s), 2),
            }
        )
        print(found[-1], file=sys.stderr)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("record", type=Path)
    record = parser.parse_args().record
    with tempfile.TemporaryDirectory() as folder:
        found = {
            "cpu": cpuinfo.get_cpu_info()["brand_raw"],
            "usable_cores": usable_cores(),
            "busy_cores_before": round(os.getloadavg()[0], 1),
            "versions": {name: version(name) for name in ("mirnet-edge", "av", "onnxruntime")},
            "flicker": measure_flicker(Path(folder)),
            "rates": measure_rates(Path(folder)),
        }
    with atomic_path(record) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
