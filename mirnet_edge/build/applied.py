"""Run a plan that is given its statistics, to learn how well it restores."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.cuda import MirroredBuffer, Stream, open_device
from mirnet_edge.trt.plan import LoadedPlan, read_plan
from mirnet_edge.trt.runner import PlanRunner


def run_applied(
    path: Path, tiles: NDArray[np.float32], vectors: Mapping[str, NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Tiles, each restored with statistics of its own; so each fills a batch by itself.

    Args:
        path: of the plan, which is trusted.
        tiles: (count, C, H, W) float32 in [0, 1].
        vectors: (count, C, 1, 1) float32 for each statistic, by the name of the input.

    Raises:
        EngineError: TensorRT cannot load or run the plan.
        DeviceError: no GPU, or not enough memory.
        MissingDependencyError: TensorRT or pycuda is not installed.
    """
    data, _ = read_plan(path, trust=True)
    restored = []
    with ExitStack() as owned:
        stream = owned.enter_context(Stream(open_device()))
        plan = owned.enter_context(LoadedPlan(path, data, None, stream.device))
        buffers = {
            facts.name: owned.enter_context(MirroredBuffer(stream.device, facts.shape, facts.dtype))
            for facts in (*plan.inputs, *plan.outputs)
        }
        addresses = {name: buffer.address for name, buffer in buffers.items()}
        runner = owned.enter_context(PlanRunner(plan, addresses, stream=stream))
        image, output = buffers[plan.inputs[0].name], buffers[plan.outputs[0].name]
        for index, tile in enumerate(tiles):
            image.array[...] = tile
            for name, stack in vectors.items():
                buffers[name].array[...] = stack[index]
            for facts in plan.inputs:
                buffers[facts.name].upload(stream=stream)
            runner.enqueue()
            output.download(stream=stream)
            stream.synchronize()
            restored.append(output.array[0].astype(np.float32))
    return np.stack(restored)
