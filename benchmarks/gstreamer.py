"""The GStreamer element around a restorer that only copies: frames a second of 1080p.

GST_PLUGIN_PATH=gstreamer PYTHONPATH=.:.venv/lib/python3.11/site-packages \\
    /usr/bin/python3 benchmarks/gstreamer.py benchmarks/results/gstreamer.json

With the system's Python, which has GStreamer. The source repeats one black picture, which takes
hardly any time, and the sink throws it away; ``identity`` in place of the element tells what is
left. Rates are from the 20th frame on, as the first waits for the model.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import cpuinfo
import gi
import numpy as np

gi.require_version("Gst", "1.0")
from gi.repository import Gst  # noqa: E402

from mirnet_edge._files import atomic_path  # noqa: E402
from mirnet_edge.host.path import HostPath  # noqa: E402
from mirnet_edge.system import usable_cores  # noqa: E402

WIDTH, HEIGHT, FRAMES, RUNS, FIRST = 1920, 1080, 600, 5, 20
STEP = Gst.SECOND // 25
WAYS = {
    "identity": "identity",
    "bypass=true": "mirnetrestore bypass=true",
    "restoring": "mirnetrestore",
    "restoring, between queues": "queue max-size-buffers=3 ! mirnetrestore ! queue "
    "max-size-buffers=3",
}
FORMATS = ("I420", "NV12", "RGB")


class Buffers:
    """What comes to a sink: when, after how much of the processor's time, and its PTS."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, float, int]] = []

    def __call__(self, _: Any, info: Any) -> Any:
        pts = info.get_buffer().pts
        self.seen.append((time.perf_counter(), time.process_time(), pts))
        return Gst.PadProbeReturn.OK

    def rates(self) -> tuple[float, float]:
        """Frames a second, by the clock and of a core; an error unless each came in its place."""
        if [pts for *_, pts in self.seen] != [number * STEP for number in range(FRAMES)]:
            raise SystemExit(f"{len(self.seen)} of {FRAMES} buffers, or others, or out of order")
        first, last = self.seen[FIRST], self.seen[-1]
        frames = len(self.seen) - 1 - FIRST
        return frames / (last[0] - first[0]), frames / (last[1] - first[1])


def run(way: str, form: str) -> tuple[float, float]:
    """One pipeline, from its start to its end."""
    pipeline = Gst.parse_launch(
        f"videotestsrc num-buffers={FRAMES} pattern=black ! video/x-raw,format={form},"
        f"width={WIDTH},height={HEIGHT},framerate=25/1 ! {way} ! fakesink name=out sync=false"
    )
    buffers = Buffers()
    pad = pipeline.get_by_name("out").get_static_pad("sink")
    pad.add_probe(Gst.PadProbeType.BUFFER, buffers)
    pipeline.set_state(Gst.State.PLAYING)
    ends = Gst.MessageType.EOS | Gst.MessageType.ERROR
    message = pipeline.get_bus().timed_pop_filtered(120 * Gst.SECOND, ends)
    pipeline.set_state(Gst.State.NULL)
    if message is None or message.type == Gst.MessageType.ERROR:
        raise SystemExit(message.parse_error() if message else "it does not end")
    return buffers.rates()


def given_back(path: HostPath, frame: Any, *_: object, **__: object) -> Any:
    """Stand in for what cuts tiles and runs the network."""
    del path
    return frame


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("record", type=Path)
    record = parser.parse_args().record
    Gst.init(None)
    HostPath.submit = given_back  # type: ignore[method-assign]
    rates = []
    for form in FORMATS:
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
        for _ in range(RUNS):
            for name, way in WAYS.items():
                found[name].append(run(way, form))
        for name, pairs in found.items():
            clock, core = np.median(pairs, axis=0).round().astype(int).tolist()
            rates.append(
                {
                    "format": form,
                    "way": name,
                    "frames_per_second": clock,
                    "frames_per_core_second": core,
                }
            )
            print(rates[-1], file=sys.stderr)
    written = {
        "cpu": cpuinfo.get_cpu_info()["brand_raw"],
        "usable_cores": usable_cores(),
        "busy_cores_before": round(os.getloadavg()[0], 1),
        "gstreamer": ".".join(map(str, Gst.version()[:3])),
        "size": (HEIGHT, WIDTH),
        "frames": FRAMES,
        "runs": RUNS,
        "rates": rates,
    }
    with atomic_path(record) as temporary:
        temporary.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
