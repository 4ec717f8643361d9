"""Engines with plugins, built by the real TensorRT and run on a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mirnet_edge.build import build_engine
from mirnet_edge.build.plugins import compile_plugins
from mirnet_edge.errors import BuildError, MissingDependencyError
from mirnet_edge.trt.engine import TensorRTEngine
from mirnet_edge.trt.network import has_precision_flags
from mirnet_edge.trt.plugins import VARIABLE

pytestmark = [pytest.mark.gpu, pytest.mark.slow]
OPTIONS: dict[str, Any] = {"tile": (96, 136), "batch": 2, "optimization_level": 1}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled once: a process loads one."""
    trt = pytest.importorskip("tensorrt", reason="TensorRT is not installed")
    if not has_precision_flags(trt):
        pytest.skip(f"TensorRT {trt.__version__} has no precision flags, which plugins go with")
    try:
        return compile_plugins(tmp_path_factory.mktemp("plugins") / "plugins.so")
    except (BuildError, MissingDependencyError) as error:
        pytest.skip(str(error))


@pytest.fixture
def folder(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where engines go."""
    monkeypatch.setenv(VARIABLE, str(library))
    return tmp_path


@pytest.mark.parametrize(
    ("model", "io", "operator", "count"),
    [
        ("edge-s-denoise", "float32", "MirnetGatedSum", 8),
        ("edge-s-denoise", "float16", "MirnetGatedSum", 8),
        ("edge-m-enhance", "float16", "MirnetContextSum", 12),
    ],
)
def test_it_computes_what_the_plain_engine_does(
    folder: Path, model: str, io: Any, operator: str, count: int
) -> None:
    path = folder / "with.engine"
    card = build_engine(model, path, io=io, plugins=True, **OPTIONS)
    assert card.options["plugins"][operator] == count
    assert card.measured is not None
    assert card.measured.psnr_vs_fp32_db is not None
    assert card.measured.psnr_vs_fp32_db >= 60
    plain = build_engine(model, folder / "plain.engine", io=io, **OPTIONS)
    assert plain.measured is not None
    assert plain.measured.psnr_vs_fp32_db is not None
    # Fewer roundings: nearer to FP32, or as near.
    assert card.measured.psnr_vs_fp32_db > plain.measured.psnr_vs_fp32_db - 1
    tiles = np.random.default_rng(0).random((2, *card.inputs[0].shape[1:]), np.float32)
    with TensorRTEngine(path) as engine:
        assert np.isfinite(engine.run(tiles)).all()
        assert engine.graph, engine.graph_note
        assert (engine.run(tiles) == engine.run(tiles)).all(), "the same tiles give the same bits"
