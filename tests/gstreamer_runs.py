"""Pipelines with the element ``mirnetrestore``, run by the system's Python, which has GStreamer.

python3 gstreamer_runs.py NAME [ARGUMENT…] prints what the pipeline of that name gave, as JSON;
NAME each ARGUMENT,ARGUMENT… what several of that name gave, one after another.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")
from gi.repository import Gst, GstApp  # noqa: E402, F401

WAIT = 20 * Gst.SECOND
Gst.init(None)


def engine(run: Any) -> None:
    """Put a function of tiles in place of what ONNX Runtime does."""
    from mirnet_edge.engines.onnx_engine import OnnxEngine

    OnnxEngine.run = run  # type: ignore[method-assign]


def copies(self: Any, tiles: Any, *_: Any) -> Any:
    return tiles[:, :3].copy()


def inverts(self: Any, tiles: Any, *_: Any) -> Any:
    return 1 - tiles[:, :3]


def start(text: str) -> tuple[Any, Any]:
    pipeline = Gst.parse_launch(text)
    pipeline.set_state(Gst.State.PLAYING)
    return pipeline, pipeline.get_by_name("out")


def pulled(sink: Any) -> list[tuple[int, bytes, str]]:
    """(PTS, bytes, size) of all buffers that a sink gets."""
    found = []
    while (sample := sink.try_pull_sample(WAIT)) is not None:
        buffer, caps = sample.get_buffer(), sample.get_caps().get_structure(0)
        size = f"{caps.get_int('width').value}x{caps.get_int('height').value}"
        found.append((buffer.pts, buffer.extract_dup(0, buffer.get_size()), size))
    return found


def messages(pipeline: Any, kind: Any) -> list[Any]:
    bus, found = pipeline.get_bus(), []
    while (message := bus.pop_filtered(kind)) is not None:
        found.append(message)
    return found


def statistics(pipeline: Any) -> dict[str, Any]:
    """Of the last message."""
    *_, last = messages(pipeline, Gst.MessageType.ELEMENT)
    structure = last.get_structure()
    assert structure.get_name() == "mirnet-statistics"
    names = ("frames", "late", "bypassed", "nonfinite", "milliseconds", "tiles")
    return {name: structure.get_value(name) for name in names}


def compare(form: str, width: str, height: str, settings: str) -> dict[str, Any]:
    """The same frames with and without the element; how far apart, and which times they have."""
    engine(inverts)
    pipeline, out = start(
        f"videotestsrc num-buffers=5 pattern=ball ! video/x-raw,format={form},width={width},"
        f"height={height},framerate=25/1 ! tee name=t ! queue ! mirnetrestore {settings} ! "
        "appsink name=out sync=false t. ! queue ! appsink name=raw sync=false"
    )
    after, before = pulled(out), pulled(pipeline.get_by_name("raw"))
    told = statistics(pipeline)
    pipeline.set_state(Gst.State.NULL)
    sums = [sum(one) + sum(two) for (_, one, _), (_, two, _) in zip(before, after)]
    return {
        "times": [pts for pts, _, _ in after],
        "same times": [pts for pts, _, _ in before] == [pts for pts, _, _ in after],
        "same": [one == two for (_, one, _), (_, two, _) in zip(before, after)],
        "mean of both": sum(sums) / sum(len(one) + len(two) for (_, one, _), (_, two, _)
                                        in zip(before, after)),
        "sizes": [len(data) for _, data, _ in after],
        "statistics": told,
    }  # fmt: skip


def renegotiate() -> dict[str, Any]:
    """Frames of one size and format, then of others."""
    engine(copies)
    pipeline, out = start(
        "appsrc name=in format=time ! mirnetrestore ! appsink name=out sync=false"
    )
    source = pipeline.get_by_name("in")
    for number, (form, width, height, size) in enumerate(
        [("RGB", 32, 24, 32 * 24 * 3), ("NV12", 64, 48, 64 * 48 * 3 // 2),
         ("NV12", 32, 24, 32 * 24 * 3 // 2), ("RGB", 32, 24, 32 * 24 * 3)]
    ):  # fmt: skip
        source.set_caps(
            Gst.Caps.from_string(
                f"video/x-raw,format={form},width={width},height={height},framerate=25/1"
            )
        )
        for step in range(3):
            buffer = Gst.Buffer.new_wrapped(bytes([40 * number + step + 16]) * size)
            buffer.pts = (3 * number + step) * 40 * Gst.MSECOND
            source.push_buffer(buffer)
    source.end_of_stream()
    found = pulled(out)
    pipeline.set_state(Gst.State.NULL)
    return {
        "sizes": [size for _, _, size in found],
        "bytes": [len(data) for _, data, _ in found],
        "first": [data[0] for _, data, _ in found],
        "times": [pts // Gst.MSECOND for pts, _, _ in found],
    }


def seek() -> dict[str, Any]:
    """A flushing seek in the middle."""
    engine(copies)
    pipeline, out = start(
        "videotestsrc num-buffers=100 ! "
        "video/x-raw,format=I420,width=32,height=24,framerate=25/1 ! "
        "mirnetrestore statistics=tile ! appsink name=out sync=false max-buffers=2"
    )
    before = [out.try_pull_sample(WAIT).get_buffer().pts for _ in range(5)]
    pipeline.seek_simple(
        Gst.Format.TIME, Gst.SeekFlags.FLUSH | Gst.SeekFlags.ACCURATE, 2 * Gst.SECOND
    )
    pipeline.get_state(WAIT)
    after = [out.try_pull_sample(WAIT).get_buffer().pts for _ in range(5)]
    pipeline.set_state(Gst.State.NULL)
    return {"before": before, "after": after}


def fail(settings: str) -> dict[str, Any]:
    """What a pipeline says that cannot go on; the engine fails at the fourth frame."""
    count = 0

    def run(self: Any, tiles: Any, *_: Any) -> Any:
        nonlocal count
        count += 1
        if count == 4:
            raise RuntimeError("no power")
        return copies(self, tiles)

    engine(run)
    pipeline, out = start(
        "videotestsrc num-buffers=10 ! video/x-raw,format=I420,width=32,height=24 ! "
        f"mirnetrestore {settings} ! appsink name=out sync=false"
    )
    found = len(pulled(out))
    errors = [message.parse_error() for message in messages(pipeline, Gst.MessageType.ERROR)]
    pipeline.set_state(Gst.State.NULL)
    return {"frames": found, "errors": [error.message for error, _ in errors]}


def break_down() -> dict[str, Any]:
    """An engine of which values are not finite."""

    def run(self: Any, tiles: Any, *_: Any) -> Any:
        restored = copies(self, tiles)
        restored[0, 0, 0, :7] = float("nan")
        return restored

    engine(run)
    pipeline, out = start(
        "videotestsrc num-buffers=5 ! video/x-raw,format=RGB,width=32,height=24 ! "
        "mirnetrestore ! appsink name=out sync=false"
    )
    found = len(pulled(out))
    warning, *others = messages(pipeline, Gst.MessageType.WARNING | Gst.MessageType.ELEMENT)
    pipeline.set_state(Gst.State.NULL)
    told = [message.get_structure() for message in others]
    return {
        "frames": found,
        "warning": warning.parse_warning()[0].message,
        "kinds": [structure.get_name() for structure in told],
        "nonfinite": told[-1].get_value("nonfinite"),
    }


def choose() -> dict[str, Any]:
    """Which engines of the CPU are chosen from once the element is there."""
    Gst.ElementFactory.make("mirnetrestore")
    return {"engine": os.environ.get("MIRNET_EDGE_CPU_ENGINE")}


def late() -> dict[str, Any]:
    """A live source of 50 frames a second, and an engine for 10."""

    def run(self: Any, tiles: Any, *_: Any) -> Any:
        time.sleep(0.1)
        return copies(self, tiles)

    engine(run)
    pipeline, out = start(
        "videotestsrc is-live=true num-buffers=50 ! video/x-raw,format=I420,width=32,height=24,"
        "framerate=50/1 ! queue max-size-buffers=0 ! mirnetrestore max-latency=60 ! "
        "appsink name=out sync=false"
    )
    found = len(pulled(out))
    wanted = messages(pipeline, Gst.MessageType.QOS | Gst.MessageType.ELEMENT)
    pipeline.set_state(Gst.State.NULL)
    told = [one for one in wanted if one.type == Gst.MessageType.QOS]
    return {
        "frames": found,
        "late": wanted[-1].get_structure().get_value("late"),
        "told": len(told),
        "dropped": told[-1].parse_qos_stats().dropped,
        "least late": min(one.parse_qos_values().jitter for one in told),
    }


def files(folder: str) -> dict[str, Any]:
    """From a video file to another one; what a player finds in both."""

    def done(text: str) -> None:
        pipeline, _ = start(text)
        message = pipeline.get_bus().timed_pop_filtered(
            3 * WAIT, Gst.MessageType.EOS | Gst.MessageType.ERROR
        )
        pipeline.set_state(Gst.State.NULL)
        assert message is not None, text
        assert message.type == Gst.MessageType.EOS, message.parse_error()

    def played(name: str) -> list[tuple[int, bytes, str]]:
        pipeline, out = start(f"{read.format(name)} ! appsink name=out sync=false")
        found = pulled(out)
        pipeline.set_state(Gst.State.NULL)
        return found

    engine(inverts)
    read = f"filesrc location={folder}/{{}} ! oggdemux ! theoradec"
    write = f"theoraenc quality=63 ! oggmux ! filesink location={folder}/{{}}"
    done(
        "videotestsrc num-buffers=12 pattern=ball ! video/x-raw,format=I420,width=64,height=48,"
        f"framerate=25/1 ! {write.format('in.ogg')}"
    )
    done(f"{read.format('in.ogg')} ! mirnetrestore ! {write.format('out.ogg')}")
    before, after = played("in.ogg"), played("out.ogg")
    luma = 64 * 48
    both = [sum(one[:luma]) + sum(two[:luma]) for (_, one, _), (_, two, _) in zip(before, after)]
    return {
        "times": [pts for pts, *_ in after],
        "same times": [pts for pts, *_ in before] == [pts for pts, *_ in after],
        "mean of both": sum(both) / (len(both) * luma),
    }


def grow() -> dict[str, Any]:
    """Memory in use after 200 and after 1,000 buffers, in bytes."""
    engine(copies)
    pipeline, out = start(
        "videotestsrc num-buffers=1000 ! video/x-raw,format=NV12,width=32,height=24 ! "
        "mirnetrestore ! appsink name=out sync=false max-buffers=4"
    )
    memory = {}
    for number in range(1, 1001):
        if out.try_pull_sample(WAIT) is None:
            break
        if number in (200, 1000):
            with open("/proc/self/statm") as file:
                memory[number] = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    assert out.try_pull_sample(WAIT) is None, "more than there were"
    told = statistics(pipeline)
    pipeline.set_state(Gst.State.NULL)
    return {"memory": [memory[200], memory[1000]], **told}


if __name__ == "__main__":
    runs = {
        run.__name__: run
        for run in (compare, renegotiate, seek, fail, break_down, choose, late, files, grow)
    }
    name, *arguments = sys.argv[1:]
    if arguments[:1] == ["each"]:
        print(json.dumps([runs[name](*several.split(",")) for several in arguments[1:]]))
    else:
        print(json.dumps(runs[name](*arguments)))
