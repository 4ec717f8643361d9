"""The GStreamer element ``mirnetrestore``: raw video in, the same video restored.

GStreamer's loader of Python plugins finds this file where ``GST_PLUGIN_PATH`` names the folder
above it, which ``mirnet-edge gst-path`` prints. Caps, timestamps and metadata pass as they are.

Every second, and at the end, an element message ``mirnet-statistics`` tells ``frames`` (restored),
``late`` (dropped because of ``max-latency``, each with a QoS message too), ``bypassed``,
``nonfinite`` (values of the network that were NaN or infinite), and ``milliseconds`` and ``tiles``
of the last frame. The first value that is not finite is a warning message too.
"""

from __future__ import annotations

import os
import queue
import sys
import time

# GStreamer brings libunwind. C++ libraries that were there before it, as with NumPy, throw by
# another unwinder than those that come later, and a process ends where OpenVINO throws (seen on
# Debian 12); ONNX Runtime does not on its way.
if "numpy" in sys.modules:
    os.environ.setdefault("MIRNET_EDGE_CPU_ENGINE", "onnxruntime")

import click
import gi

for namespace in ("Gst", "GstBase", "GstVideo"):
    gi.require_version(namespace, "1.0")

from gi.repository import GLib, GObject, Gst, GstBase, GstVideo  # noqa: E402

from mirnet_edge.cli.console import read_tile  # noqa: E402
from mirnet_edge.cli.restore import DEFAULT_MODEL  # noqa: E402
from mirnet_edge.errors import MirnetEdgeError  # noqa: E402
from mirnet_edge.frame_path import told_nonfinite  # noqa: E402
from mirnet_edge.frames.pixel_formats import pixel_format  # noqa: E402
from mirnet_edge.stream.raw_frames import RawLayout, blended  # noqa: E402

FORMATS = {"RGB": "rgb", "BGR": "bgr", "RGBx": "rgba", "NV12": "nv12", "I420": "i420"}
CAPS = Gst.Caps.from_string(
    f"video/x-raw, format=(string){{ {', '.join(FORMATS)} }}, width=[1,max], height=[1,max], "
    "framerate=[0/1,2147483647/1]"
)
MESSAGE_S = 1.0
FULL_QUALITY = 1_000_000
DROPPED = Gst.FlowReturn.CUSTOM_SUCCESS
"""GST_BASE_TRANSFORM_FLOW_DROPPED, which PyGObject does not have by that name."""
READ_WRITE = GObject.ParamFlags.READWRITE
PROPERTIES = {
    "model": (str, "model", "a bundled model's name, or a file", DEFAULT_MODEL, READ_WRITE),
    "tile": (str, "tile", "auto, none, or pixels as 512 or 384x640 (height x width)", "auto",
             READ_WRITE),
    "halo": (int, "halo", "pixels at each inner edge of a tile that are thrown away", 0, 4096, 16,
             READ_WRITE),
    "statistics": (str, "statistics", "auto (by the model's task), tile, frame, frame-fast or "
                   "stream", "auto", READ_WRITE),
    "noise": (str, "noise", "auto, or the noise level in units of 1/255", "auto", READ_WRITE),
    "strength": (float, "strength", "0 leaves frames as they are, 1 restores them", 0.0, 1.0, 1.0,
                 READ_WRITE),
    "bypass": (bool, "bypass", "pass frames as they are", False, READ_WRITE),
    "max-latency": (int, "max-latency", "milliseconds that a frame may be late for its clock; "
                    "later ones are dropped; 0 is never", 0, 2**31 - 1, 0, READ_WRITE),
}  # fmt: skip
"""The last three count from the next frame, the others when the element starts."""


class MirnetRestore(GstBase.BaseTransform):
    """See the module."""

    __gstmetadata__ = (
        "MIRNet restoration",
        "Filter/Effect/Video",
        "Removes noise from video with a MIRNet",
        "mirnet_edge",
    )
    __gsttemplates__ = (
        Gst.PadTemplate.new("sink", Gst.PadDirection.SINK, Gst.PadPresence.ALWAYS, CAPS),
        Gst.PadTemplate.new("src", Gst.PadDirection.SRC, Gst.PadPresence.ALWAYS, CAPS),
    )
    __gproperties__ = PROPERTIES

    def __init__(self):
        super().__init__()
        self._set = {name: spec[-2] for name, spec in PROPERTIES.items()}
        self._restorer = self._stream = self._restored = self._pixels = self._layout = None
        self._frames = self._late = self._bypassed = self._nonfinite = 0
        self._told_s = 0.0
        self.set_in_place(True)

    def do_get_property(self, prop):
        return self._set[prop.name]

    def do_set_property(self, prop, value):
        self._set[prop.name] = value

    # What BaseTransform asks for

    def do_set_caps(self, incaps, outcaps):
        del outcaps  # the same
        info = GstVideo.VideoInfo.new_from_caps(incaps)
        name = FORMATS[info.finfo.name]
        planes = info.finfo.n_planes
        self._layout = RawLayout(
            name, info.height, info.width, tuple(info.offset[:planes]), tuple(info.stride[:planes])
        )
        try:
            self._open(self._pixels_of(name, info))
        except MirnetEdgeError as error:
            self._fail(Gst.LibraryError.quark(), Gst.LibraryError.INIT, str(error))
            return False
        self._begin()
        return True

    def do_transform_ip(self, buffer):
        if self._set["bypass"] or not self._set["strength"]:
            self._bypassed += 1
            return Gst.FlowReturn.OK
        if (late_ns := self._late_by(buffer)) is not None:
            self._late += 1
            self._tell_late(buffer, late_ns)
            self._tell()
            return DROPPED
        layout = self._layout_of(buffer)
        try:
            with buffer.map(Gst.MapFlags.READ | Gst.MapFlags.WRITE) as memory:
                frame = layout.read(memory.data)
                self._given.put(frame)
                restored = next(self._restored)
                layout.write(blended(frame, restored.image, self._set["strength"]), memory.data)
        except Exception as error:  # PyGObject would print it, and pass the frame on as it came
            ours = isinstance(error, MirnetEdgeError)
            text = str(error) if ours else f"{type(error).__name__}: {error}"
            self._fail(Gst.StreamError.quark(), Gst.StreamError.FAILED, text)
            return Gst.FlowReturn.ERROR
        self._frames += 1
        if restored.nonfinite and not self._nonfinite:
            self._warn(told_nonfinite(restored.nonfinite))
        self._nonfinite += restored.nonfinite
        self._tell()
        return Gst.FlowReturn.OK

    def do_sink_event(self, event):
        if event.type == Gst.EventType.EOS:
            self._tell(now=True)
        # Behind a seek frames are others: nothing that was gathered before serves them.
        elif event.type == Gst.EventType.FLUSH_STOP and self._restorer is not None:
            self._begin()
        return GstBase.BaseTransform.do_sink_event(self, event)

    def do_stop(self):
        self._close()
        return True

    # The restorer

    def _open(self, pixels):
        """A restorer of frames of this format; the one that is there, if it is of them."""
        if self._restorer is not None and pixels == self._pixels:
            return
        from mirnet_edge.restore import Restorer  # only here: it loads the runtime

        self._close()
        restorer = Restorer(
            self._set["model"],
            tile=self._tile(),
            halo=self._set["halo"],
            statistics=self._set["statistics"],
            noise=self._noise(),
            pixels=pixels,
            nan="zero",
        )
        if restorer.facts.scale != 1:
            restorer.close()
            raise MirnetEdgeError(
                f"{self._set['model']} enlarges frames {restorer.facts.scale} times; this element "
                "keeps their size: give a network that does"
            )
        self._restorer, self._pixels = restorer, pixels

    def _tile(self):
        try:
            return read_tile(self._set["tile"])
        except click.BadParameter as error:
            raise MirnetEdgeError(f"tile={error.message}") from error

    def _noise(self):
        text = self._set["noise"]
        try:
            return text if text == "auto" else float(text)
        except ValueError as error:
            raise MirnetEdgeError(f"noise={text}: need auto, or a number") from error

    def _begin(self):
        """Start a stream of frames, without what was gathered from others."""
        if self._stream is not None:
            self._given.put(None)
            self._stream.close()
        self._given = queue.Queue()
        self._stream = self._restorer.stream(self._given, queue=1)
        self._restored = iter(self._stream.frames())

    def _close(self):
        if self._stream is not None:
            self._given.put(None)
            self._stream.close()
        if self._restorer is not None:
            self._restorer.close()
        self._restorer = self._stream = self._restored = self._pixels = None

    @staticmethod
    def _pixels_of(name, info):
        colours = info.colorimetry
        is_hd = colours.matrix == GstVideo.VideoColorMatrix.BT709
        return pixel_format(
            name,
            standard="bt709" if is_hd else "bt601",
            full_range=colours.range == getattr(GstVideo.VideoColorRange, "0_255"),
        )

    def _layout_of(self, buffer):
        """Where the pixels of this buffer lie: decoders and cameras may pad rows as they like."""
        meta = GstVideo.buffer_get_video_meta(buffer)
        layout = self._layout
        if meta is None:
            return layout
        planes = len(layout.offsets)
        return RawLayout(
            layout.name,
            layout.height,
            layout.width,
            tuple(meta.offset[:planes]),
            tuple(meta.stride[:planes]),
        )

    # Clock and bus

    def _late_by(self, buffer):
        """How late a buffer is, in nanoseconds, where that is too much; else None."""
        most_ms, clock = self._set["max-latency"], self.get_clock()
        if not most_ms or clock is None or buffer.pts == Gst.CLOCK_TIME_NONE:
            return None
        due = self.segment.to_running_time(Gst.Format.TIME, buffer.pts)
        if due == Gst.CLOCK_TIME_NONE:
            return None
        late = clock.get_time() - self.get_base_time() - due
        return late if late > most_ms * Gst.MSECOND else None

    def _tell_late(self, buffer, late_ns):
        """Say, as every element that drops buffers for their lateness does, which one it was."""
        form, pts = Gst.Format.TIME, buffer.pts
        times = self.segment.to_running_time(form, pts), self.segment.to_stream_time(form, pts)
        message = Gst.Message.new_qos(self, True, *times, pts, buffer.duration)
        message.set_qos_values(late_ns, 1.0, FULL_QUALITY)
        message.set_qos_stats(Gst.Format.BUFFERS, self._frames, self._late)
        self.post_message(message)

    def _tell(self, now=False):
        if not now and time.monotonic() - self._told_s < MESSAGE_S:
            return
        self._told_s = time.monotonic()
        timings = self._restorer.timings if self._restorer is not None else None
        milliseconds = timings.total_ms if timings is not None else 0.0
        structure = Gst.Structure.new_from_string(
            f"mirnet-statistics, frames=(guint64){self._frames}, late=(guint64){self._late}, "
            f"bypassed=(guint64){self._bypassed}, nonfinite=(guint64){self._nonfinite}, "
            f"milliseconds=(double){milliseconds:.3f}, "
            f"tiles=(int){timings.tiles if timings is not None else 0}"
        )
        self.post_message(Gst.Message.new_element(self, structure))

    def _warn(self, text):
        error = GLib.Error.new_literal(Gst.StreamError.quark(), text, int(Gst.StreamError.FAILED))
        self.post_message(Gst.Message.new_warning(self, error, text))

    def _fail(self, domain, code, text):
        error = GLib.Error.new_literal(domain, text, int(code))
        self.post_message(Gst.Message.new_error(self, error, text))


GObject.type_register(MirnetRestore)
__gstelementfactory__ = ("mirnetrestore", Gst.Rank.NONE, MirnetRestore)
