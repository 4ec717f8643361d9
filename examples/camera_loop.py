"""A camera's frames, restored as they come: python camera_loop.py [SOURCE]."""

import sys

import mirnet_edge as me

source = sys.argv[1] if len(sys.argv) > 1 else "0"  # a camera's number, "rtsp://…", a file
with me.Restorer("edge-s-denoise") as restore:
    camera = int(source) if source.isdecimal() else source
    with restore.stream(camera, drop="oldest", pace="source") as stream:
        for frame in stream.frames():
            print(frame.index, frame.image.shape, f"{frame.latency_ms:.0f} ms")
