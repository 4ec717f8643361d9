"""Restored videos: how much a still scene flickers, and how many frames a second there are.

python benchmarks/video.py benchmarks/results/video.json

A still scene is the bundled photo with new noise in every frame, stored without loss; flicker is
the mean absolute difference of consecutive frames in luma, of 255. Rates are of a whole run, from
opening the video to the file that is whole: of PyAV with nothing between decoder and encoder, and,
in turn with it, of ours around a restorer that only copies, once with nothing encoded; and around
an engine that does nothing, with the portable engine's way from codes to RGB and back. They are
told by the clock, and by the processor's time, which what else runs on the machine moves less.
Needs the extra video.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
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
from mirnet_edge.stream.video.encoding import add_stream, choose_encoding
from mirnet_edge.stream.video.facts import VideoFacts
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
RUNS = 5
CASES: dict[str, tuple[int, dict[str, Any] | None]] = {
    "decoded, nothing encoded": (240, None),
    "H.264, preset ultrafast": (240, {"preset": "ultrafast"}),
    "H.264, preset medium": (72, {}),
    "MPEG-4 part 2": (240, {"codec": "mpeg4"}),
    "Motion JPEG": (120, {"codec": "mjpeg"}),
}
"""Frames, and how they are encoded."""
NOTHING = "FakeEngine"
FRAME, SMALL = (1080, 1920), (144, 256)


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


def restore(source: Path, target: Path, opened: Callable[[Pictures], Any], **encoding: Any) -> int:
    """Restore a clip as the command line does; how many frames."""
    reader = open_video(str(source))
    how = choose_encoding(reader.facts, target, **encoding)
    settings = VideoSettings()
    parts = Parts(target, settings_of_run(str(source), how, settings, {}))
    restorer = opened(Pictures(reader.facts, how.planes))
    outcome = VideoJob(reader, target, parts, how, settings).run(restorer, lambda *_: None)
    reader.close()
    return outcome.frames


def only_read(source: Path) -> int:
    """Let frames go the same way, and encode none."""
    reader = open_video(str(source))
    planes = reader.facts.planes
    assert planes is not None
    pictures = Pictures(reader.facts, planes)
    arrays = (pictures.array_of(frame.picture) for frame in reader.frames())
    count = sum(bool(pictures.picture_of(array)) for array in Copies().stream(arrays))
    reader.close()
    return count


def decode(source: Path) -> int:
    """Decode a clip by PyAV alone."""
    with av.open(str(source)) as container:
        container.streams.video[0].thread_type = "AUTO"
        return sum(1 for _ in container.decode(video=0))


def transcode(source: Path, target: Path, **encoding: Any) -> int:
    """Decode and encode by PyAV alone, with the settings that ours has."""
    with av.open(str(source)) as container, av.open(str(target), "w") as output:
        shown = container.streams.video[0]
        shown.thread_type = "AUTO"
        facts = VideoFacts.of(container, shown, next(container.decode(shown)))
        container.seek(0)
        how = choose_encoding(facts, target, **encoding)
        stream = add_stream(output, how, facts, (facts.height, facts.width))
        count = 0
        for frame in container.decode(shown):
            frame.pict_type = av.video.frame.PictureType.NONE  # else kinds are those of the source
            output.mux(stream.encode(frame))
            count += 1
        output.mux(stream.encode())
    return count


def rate_of(run: Callable[[], int]) -> tuple[float, float]:
    """Frames a second, by the clock and of a core."""
    began_s, cpu_began_s = time.perf_counter(), time.process_time()
    frames = run()
    return frames / (time.perf_counter() - began_s), frames / (time.process_time() - cpu_began_s)


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
    """Medians of some runs each; PyAV and ours in turn."""
    source = write_clip(folder / "small.mp4", panned(*SMALL, 96), "libx264")
    ways = {MODEL: lambda: restore(source, folder / "out.mp4", network())}
    found = [measured("H.264, preset medium", SMALL, 96, ways)]
    for case, (frames, encoding) in CASES.items():
        clip = write_clip(folder / "clip.mp4", panned(*FRAME, frames), "libx264")
        ways = {"PyAV": partial(decode, clip), "copies": partial(only_read, clip)}
        if encoding is not None:
            target = folder / "out.mkv"
            ways = {
                "PyAV": partial(transcode, clip, target, **encoding),
                "copies": partial(restore, clip, target, lambda _: Copies(), **encoding),
            }
        found.append(measured(case, FRAME, frames, ways))
    clip, target = (
        write_clip(folder / "clip.mp4", panned(*FRAME, 48), "libx264"),
        folder / "out.mkv",
    )
    ways = {NOTHING: lambda: restore(clip, target, does_nothing, preset="ultrafast")}
    found.append(measured("H.264, preset ultrafast", FRAME, 48, ways))
    return found


def does_nothing(pictures: Pictures) -> me.Restorer:
    """Take frames to RGB and back, as for a network of the portable engine, but run none."""
    return me.Restorer(me.FakeEngine(), pixels=pictures.pixels, tile=None)


def measured(
    case: str, size: tuple[int, int], frames: int, ways: Mapping[str, Callable[[], int]]
) -> dict[str, Any]:
    """One case of the record."""
    rates: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for _ in range(RUNS):
        for way, run in ways.items():
            rates[way].append(rate_of(run))
    medians = {way: np.median(rate, axis=0).round(1).tolist() for way, rate in rates.items()}
    names = ("frames_per_second", "frames_per_core_second")
    found = {
        "case": case,
        "size": size,
        "frames": frames,
        "ways": {way: dict(zip(names, pair)) for way, pair in medians.items()},
    }
    print(found, file=sys.stderr)
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
            "runs": RUNS,
            "versions": {name: version(name) for name in ("mirnet-edge", "av", "onnxruntime")},
            "flicker": measure_flicker(Path(folder)),
            "rates": measure_rates(Path(folder)),
        }
    with atomic_path(record) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
