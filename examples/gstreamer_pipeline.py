"""A GStreamer pipeline with `mirnetrestore`, and what the element says of itself:
python3 gstreamer_pipeline.py [SOURCE…], with GST_PLUGIN_PATH from `mirnet-edge gst-path`."""

import sys

import gi

gi.require_version("Gst", "1.0")
from gi.repository import Gst  # noqa: E402

SIZE = "video/x-raw,width=160,height=120"
source = " ".join(sys.argv[1:]) or f"videotestsrc num-buffers=10 ! {SIZE}"
Gst.init(None)
pipeline = Gst.parse_launch(f"{source} ! videoconvert ! mirnetrestore ! videoconvert ! fakesink")
pipeline.set_state(Gst.State.PLAYING)
try:
    while (message := pipeline.get_bus().timed_pop(Gst.CLOCK_TIME_NONE)) is not None:
        if message.type == Gst.MessageType.ERROR:
            raise SystemExit(message.parse_error()[0].message)
        if message.type == Gst.MessageType.ELEMENT:
            print(message.get_structure().to_string())
        if message.type == Gst.MessageType.EOS:
            break
finally:
    pipeline.set_state(Gst.State.NULL)
