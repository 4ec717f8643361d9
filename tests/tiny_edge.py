"""Tiny random networks that are told a noise level, or enlarge, and files of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY
from exports import made_once

import mirnet_edge as me
from mirnet_edge.model.checkpoints import facts_of

DENOISER = TINY["edge"]


def enlarger(scale: int) -> Any:
    """A network of super-resolution, in PyTorch."""
    # A network is given the enlarged frame: one of any scale is followed to ONNX as one of four.
    network = me.create_model(TINY["edge-x3" if scale == 3 else "edge-x4"], seed=scale)
    network.facts = facts_of(network, "super-resolution", scale)
    return network


@pytest.fixture(scope="session")
def tiny_denoiser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The denoiser as ONNX, of open size."""

    def make(path: Path) -> None:
        me.export_onnx(me.create_model(DENOISER, seed=0), path, task="denoise")

    return made_once(tmp_path_factory, "tiny-denoiser.onnx", make)


@pytest.fixture(scope="session")
def tiny_enlarger(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Networks of super-resolution as ONNX, by their scale."""

    def of(scale: int) -> Path:
        def make(path: Path) -> None:
            me.export_onnx(enlarger(scale), path)

        return made_once(tmp_path_factory, f"tiny-x{scale}.onnx", make)

    return of
