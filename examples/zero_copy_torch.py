"""Frames that never leave the GPU, with PyTorch: python zero_copy_torch.py NAME.engine."""

import sys

import torch

import mirnet_edge as me

frame = torch.full((480, 640, 3), 128, dtype=torch.uint8, device="cuda")  # as a decoder gives it
with me.Restorer(sys.argv[1]) as restore:
    clean = torch.from_dlpack(restore(frame))  # the array of the result, not a copy of it
    out = torch.empty_like(frame)
    restore(frame, out=out)  # or into memory of your own
    print(clean.shape, clean.device, torch.equal(clean, out))
