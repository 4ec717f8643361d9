"""Names of the tensors beside the image through which a graph and its runtime exchange pooled
vectors (see `mirnet_edge.graph.pooling`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.pooling.vectors import Partial, Pool

ROWS, COLUMNS, OWN, STATISTIC = "rows", "columns", "own", "statistic"
GATHERED, LOG_MASS = "gathered", "log_mass"


def gathered_partial(
    tensors: Mapping[str, NDArray[np.float32]], pools: Sequence[Pool], area: int
) -> Partial:
    """What a tile with ``area`` kept pixels contributes, of what a gather graph returned for it
    alone: tensors (1, C, 1, 1), and (1, 1, 1, 1) for logarithms, by name."""
    log_masses = (
        tensors[f"{LOG_MASS}.{index}"].item() if pool.kind == "softmax" else 0.0
        for index, pool in enumerate(pools)
    )
    vectors = tuple(tensors[f"{GATHERED}.{index}"] for index in range(len(pools)))
    return Partial(vectors, tuple(log_masses), area)
