"""PyTorch as a peer: eager, as a CUDA graph, and compiled, which is a CUDA graph too."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import torch
from networks import network_of
from peer_case import FRAME, TOLD, Case, Form, Open, Step, clock

from mirnet_edge.facts import NOISE_UNIT
from mirnet_edge.system import usable_cores

MODES = {
    "torch-eager": None,
    "torch-graph": None,
    "torch-compile": "default",
    "torch-max-autotune": "max-autotune-no-cudagraphs",
}
DTYPES = {"fp16": torch.half, "bf16": torch.bfloat16, "tf32": torch.float, "fp32": torch.float}
PRECISIONS = {"cuda": ("fp16", "tf32", "fp32"), "cpu": ("fp32", "bf16")}
LAYOUTS = {"channels-last": torch.channels_last, "channels-first": torch.contiguous_format}
WARM_UP_RUNS = 3


def forms(peer: str) -> dict[str, Open]:
    """Every precision in both layouts."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return {
        f"{precision} {layout}": partial(opened, peer, precision, layout)
        for precision in PRECISIONS[device]
        for layout in LAYOUTS
    }


def opened(peer: str, precision: str, layout: str, case: Case, stack: ExitStack) -> Form:
    """The network, ready to run."""
    torch.set_num_threads(usable_cores())
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    stack.enter_context(torch.no_grad())
    stack.callback(torch._dynamo.reset)
    place = {"dtype": DTYPES[precision], "memory_format": LAYOUTS[layout]}
    network = network_of(case.network).to(case.device, **place)
    planes = network.config.in_planes
    mode = MODES[peer]
    run: Callable[[torch.Tensor], torch.Tensor] = network
    if mode is not None:
        # Of one shape: without this the second would be compiled for any.
        run = torch.compile(network, mode=mode, dynamic=False)
    tiles = torch.from_numpy(case.tiles(planes)).to(case.device, **place)
    if case.device == "cpu":
        return Form(clock(lambda: run(tiles)), None, {})
    stack.callback(torch.cuda.empty_cache)
    torch.cuda.reset_peak_memory_stats()
    if peer == "torch-eager":
        step, frame = timed(lambda: run(tiles)), None
    else:
        step = timed(captured(lambda: run(tiles)).replay)
        frame = frame_of(run, planes, place) if case.is_frame else None
    said = {"finite": bool(torch.isfinite(run(tiles)).all())}
    return Form(step, frame, said | {"memory_bytes": torch.cuda.max_memory_allocated()})


def captured(work: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """A CUDA graph of what runs by itself by then: compiled, tuned and allocated."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP_RUNS):
            work()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph


def timed(run: Callable[[], object]) -> Step:
    """Time a run by two events, and on the wall until the second is there."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def step() -> tuple[float, float]:
        began = time.perf_counter()
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end), 1e3 * (time.perf_counter() - began)

    return step


def frame_of(
    run: Callable[[torch.Tensor], torch.Tensor], planes: int, place: dict[str, Any]
) -> Callable[[], object]:
    """Restore a frame of uint8 from host memory to host memory, with everything on the device in
    one CUDA graph and page-locked memory on the way, as a careful user of PyTorch would."""
    height, width = FRAME
    frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    result = np.empty_like(frame)
    upload, download = (
        torch.empty((height, width, 3), dtype=torch.uint8, pin_memory=True) for _ in range(2)
    )
    there = torch.zeros((height, width, 3), dtype=torch.uint8, device="cuda")
    size = (1, planes - 3, height, width)
    level = torch.full(size, TOLD / NOISE_UNIT, device="cuda", dtype=place["dtype"])

    def restored() -> torch.Tensor:
        image = torch.cat([there.permute(2, 0, 1)[None].to(place["dtype"]) / 255, level], 1)
        image = torch.nn.functional.pad(image, (0, 0, 0, -height % 32), mode="reflect")
        output = run(image.contiguous(memory_format=place["memory_format"]))
        codes = (output[0, :, :height].clamp(0, 1) * 255).round().to(torch.uint8)
        return codes.permute(1, 2, 0).contiguous()

    codes = torch.empty_like(there)
    graph = captured(lambda: codes.copy_(restored()))

    def whole() -> None:
        np.copyto(upload.numpy(), frame)
        there.copy_(upload, non_blocking=True)
        graph.replay()
        download.copy_(codes, non_blocking=True)
        torch.cuda.synchronize()
        np.copyto(result, download.numpy())

    return whole
