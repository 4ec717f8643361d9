"""What engines are compared with: the graph as it came, in FP32 on the CPU."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.engines.onnx_engine import OnnxEngine
from mirnet_edge.pooling.tensors import STATISTIC
from mirnet_edge.pooling.vectors import Weights
from mirnet_edge.trt.network import Progress


def restored_tiles(
    proto: Any, tiles: NDArray[np.float32], statistics: bool, progress: Progress | None
) -> tuple[NDArray[np.float32], dict[str, NDArray[np.float32]]]:
    """The tiles restored; and with ``statistics`` those of each tile, (count, C, 1, 1) by the names
    that an apply graph's inputs have.

    Args:
        proto: plain, for one tile.
        tiles: (count, C, H, W) float32 in [0, 1].
        progress: called as "FP32 reference" before each tile.

    Raises:
        EngineError: ONNX Runtime fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "reference.onnx"
        path.write_bytes(proto.SerializeToString())
        engine = OnnxEngine(path, provider="CPUExecutionProvider")
        pooled = engine.statistics if statistics else None
    size = tiles.shape[2:]
    whole = Weights.of((size[0], size[1]), slice(0, size[0]), slice(0, size[1]))
    outputs, vectors = [], []
    for index, tile in enumerate(tiles):
        if progress is not None:
            progress("FP32 reference", index, len(tiles))
        if pooled is None:
            outputs.append(engine.run(tile[None])[0])
            continue
        restored, partial = pooled.gather(tile[None], whole, None)
        outputs.append(restored[0])
        vectors.append(partial.vectors)
    engine.close()
    stacks = (np.concatenate(column) for column in zip(*vectors))
    return np.stack(outputs), {f"{STATISTIC}.{index}": s for index, s in enumerate(stacks)}
