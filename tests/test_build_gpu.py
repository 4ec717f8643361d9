"""Building with the real TensorRT, on a GPU."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from mirnet_edge.build import build_engine
from mirnet_edge.build.checks import reasons_against_int8
from mirnet_edge.engines.card import EngineCard, card_path
from mirnet_edge.errors import BuildError
from mirnet_edge.trt.layer_info import UNKNOWN, convolutions

pytestmark = [pytest.mark.gpu, pytest.mark.slow]
QUICK = {"tile": 64, "optimization_level": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Engines of the bundled model and their timings, shared: builds take minutes."""
    pytest.importorskip("tensorrt", reason="TensorRT is not installed")
    return tmp_path_factory.mktemp("engines")


def test_fp16_is_what_its_card_says(folder: Path) -> None:
    phases = set()
    card = build_engine(
        "edge-s-denoise", folder / "net.engine", **QUICK, progress=lambda *e: phases.add(e[0])
    )
    assert EngineCard.load(card_path(folder / "net.engine")) == card
    found = convolutions(card.layers)
    assert found
    assert sum(layer.precision == "FP16" for layer in found) > len(found) / 2, found
    assert UNKNOWN not in {layer.precision for layer in found}
    assert card.bytes_moved > 1e6
    assert card.activation_bytes > 0
    assert card.measured is not None
    assert card.measured.graph_ms > 0
    assert card.measured.psnr_vs_fp32_db is not None
    assert card.measured.psnr_vs_fp32_db >= 60
    assert "building" in phases
    assert list(folder.glob("*.timing_cache"))
    assert build_engine("edge-s-denoise", folder / "net.engine", **QUICK) == card


def test_restorer_runs_what_was_built(folder: Path) -> None:
    from mirnet_edge import Restorer

    build_engine("edge-s-denoise", folder / "net.engine", **QUICK)
    frame = np.random.default_rng(0).integers(0, 256, (100, 130, 3), np.uint8)
    with Restorer(folder / "net.engine") as built, Restorer("edge-s-denoise", tile=64) as portable:
        difference = built(frame).astype(int) - portable(frame)
    assert np.abs(difference).max() <= 2


def test_int8_is_kept_only_where_it_pays(folder: Path) -> None:
    options = {**QUICK, "precision": "int8", "method": "minmax"}
    engine = folder / "net8.engine"
    card = build_engine("edge-s-denoise", engine, **options, force=True)
    assert any(layer.precision == "INT8" for layer in convolutions(card.layers))
    assert card.measured is not None
    assert card.measured.fp16_graph_ms is not None
    if reasons := reasons_against_int8(card.measured, budget_db=0.1):
        assert card.notes[-1].startswith("kept by force")
        with pytest.raises(BuildError, match=re.escape(reasons[0].partition(" (")[0])):
            build_engine("edge-s-denoise", engine, **options)
    else:
        assert build_engine("edge-s-denoise", engine, **options) == card
