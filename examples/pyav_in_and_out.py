"""A video through PyAV, with its timestamps: python pyav_in_and_out.py IN.mp4 OUT.mp4."""

import sys
from collections.abc import Iterator

import av
import numpy as np

import mirnet_edge as me

source, target = sys.argv[1:]
with (
    av.open(source) as given,
    av.open(target, "w") as made,
    me.Restorer("edge-s-denoise") as restore,
):
    video = given.streams.video[0]
    restored = made.add_stream("libx264", rate=video.average_rate)
    restored.width, restored.height, restored.pix_fmt = video.width, video.height, "yuv420p"

    def frames() -> Iterator[tuple[float, np.ndarray]]:
        for frame in given.decode(video):
            yield frame.time, frame.to_ndarray(format="rgb24")

    # Decoding, restoring and encoding overlap: the stream reads ahead in a thread of its own.
    for frame in restore.stream(frames()).frames():
        picture = av.VideoFrame.from_ndarray(frame.image, format="rgb24")
        picture.time_base = video.time_base
        picture.pts = round(frame.timestamp / video.time_base)
        made.mux(restored.encode(picture))
    made.mux(restored.encode())
