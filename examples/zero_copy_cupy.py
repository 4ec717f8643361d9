"""Frames that never leave the GPU, with CuPy: python zero_copy_cupy.py NAME.engine."""

import sys

import cupy

import mirnet_edge as me

frame = cupy.full((480, 640, 3), 128, cupy.uint8)
with me.Restorer(sys.argv[1]) as restore:
    clean = cupy.asarray(restore(frame))  # the array of the result, not a copy of it
    out = cupy.empty_like(frame)
    restore(frame, out=out)  # or into memory of your own
    print(clean.shape, clean.dtype, bool((clean == out).all()))
