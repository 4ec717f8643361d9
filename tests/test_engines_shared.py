"""Which statistics tiles share where the caller names none."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import TINY

import mirnet_edge as me
from mirnet_edge.engines.shared import shared_statistics
from mirnet_edge.graph.file import read_facts
from mirnet_edge.pooling.passes import MODES, StatisticsSettings


@pytest.fixture(scope="module")
def low_light(tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network of low light."""
    path = tmp_path_factory.mktemp("models") / "enhance.onnx"
    proto = onnx.load(tiny_onnx)
    onnx.helper.set_model_props(proto, replace(read_facts(proto), task="enhance").to_metadata())
    onnx.save(proto, path)
    return path


def test_low_light_takes_the_means_of_the_frame(low_light: Path, tiny_onnx: Path) -> None:
    frame = np.random.default_rng(0).integers(0, 255, (96, 160, 3), np.uint8)
    with me.Restorer(low_light, tile=64) as restore:
        assert restore.statistics is not None
        assert restore.statistics.mode == "frame"
        auto = restore(frame)
        assert restore.timings.samples > 0
    with me.Restorer(low_light, tile=64, statistics="frame") as restore:
        assert np.array_equal(restore(frame), auto)
    with me.Restorer(low_light, tile=64, statistics="tile") as restore:
        assert restore.statistics is None
        assert not np.array_equal(restore(frame), auto)
    with me.Restorer(tiny_onnx, tile=64) as restore:  # a denoiser
        assert restore.statistics is None


def test_a_stream_takes_what_its_earlier_frames_gathered(low_light: Path) -> None:
    frames = list(np.random.default_rng(0).integers(0, 255, (3, 96, 160, 3), np.uint8))
    with (
        me.Restorer(low_light, tile=64) as restore,
        me.Restorer(low_light, tile=64, statistics="stream") as other,
        me.Restorer(low_light, tile=64, statistics="frame") as exact,
    ):
        alone = restore(frames[0])
        assert np.array_equal(list(restore.stream(frames)), list(other.stream(frames)))
        assert restore.timings.passes == 1
        assert np.array_equal(restore(frames[0]), alone), "what the stream gathered is forgotten"
        list(exact.stream(frames))
        assert exact.timings.passes > 1, "a mode that is named is taken"


def test_what_cannot_have_them_says_so_and_goes_on() -> None:
    network = me.create_model(TINY["mirnet-v2"], seed=0)
    network.facts = replace(network.facts, task="enhance")
    frame = np.zeros((96, 160, 3), np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        me.Restorer(me.TorchEngine(network), tile=None)(frame)
        me.Restorer(me.TorchEngine(network), tile=64, statistics="tile")(frame)
        restore = me.Restorer(me.TorchEngine(network), tile=64)
        assert restore(frame[:64, :64]).shape == (64, 64, 3), "one tile shares with none"
    with pytest.warns(UserWarning, match="may differ in brightness.*tile=None restores it whole"):
        assert restore(frame).shape == frame.shape
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        restore(frame)  # said once
    with pytest.raises(me.EngineError, match="computes the statistics of each tile itself"):
        me.Restorer(me.TorchEngine(network), tile=64, statistics="frame")


def test_a_mode_that_is_named_is_taken(tiny_onnx: Path) -> None:
    engine = me.OnnxEngine(tiny_onnx)
    for mode in MODES[1:]:
        found, _ = shared_statistics(engine, engine.facts, StatisticsSettings(mode))
        assert found is not None
        assert found.mode == mode
    assert shared_statistics(engine, engine.facts, StatisticsSettings("tile"))[0] is None
    engine.close()
