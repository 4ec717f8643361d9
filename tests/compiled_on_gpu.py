"""What tests of the compiled engine on a real GPU share: fixtures that every test there uses, tiny
networks, and how far off an engine is."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, lively

import mirnet_edge as me
from mirnet_edge.engines.compiled.torch_device import why_no_cuda

USED = pytest.mark.usefixtures("usable_torch", "caches", "freed")
EDGE = "edge-s-denoise"
ERRORS = {"fp32": 2e-4, "tf32": 1e-2, "fp16": 2e-2}
"""Of tiny networks whose layers all matter, restored values being up to some units."""


@pytest.fixture(scope="module")
def usable_torch() -> None:
    if reason := why_no_cuda():
        pytest.skip(reason)


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Kernels of the package go to a cache of these tests' own; what PyTorch compiles stays in
    its own, so that a second run is quick."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIRNET_EDGE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def freed() -> Iterator[None]:
    yield
    gc.collect()
    torch.cuda.empty_cache()


def tiny(name: str) -> Any:
    return lively(me.create_model(TINY[name], seed=0))


def tiles_for(network: Any, count: int = 2, size: tuple[int, int] = (48, 72)) -> np.ndarray:
    shape = (count, network.config.in_planes, *size)
    return np.random.default_rng(0).random(shape, np.float32)


def reference_of(network: Any, tiles: np.ndarray) -> np.ndarray:
    return me.TorchEngine(network, "cpu").run(tiles).copy()


def error_of(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest, against the largest value."""
    assert np.isfinite(found).all(), f"{(~np.isfinite(found)).sum()} values are not finite"
    return float(np.abs(found - expected).max() / max(1.0, float(np.abs(expected).max())))
