"""The noise estimator in NumPy: as its twin in PyTorch, from a file that is what it must be."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from noise_weights import random_weights, write_weights

import mirnet_edge as me
from mirnet_edge.frames.noise_estimator import (
    CROP_PX,
    MOST_LEVEL,
    SHAPES,
    WEIGHTS,
    NoiseEstimator,
    load_estimator,
)
from mirnet_edge.workstation.noise_level import NoiseLevelNet, save


def crops_of(count: int, seed: int = 0) -> np.ndarray:
    shape = (count, 3, CROP_PX, CROP_PX)
    return np.random.default_rng(seed).random(shape, np.float32)


@pytest.mark.parametrize("seed", range(3))
def test_numpy_equals_pytorch(seed: int, tmp_path: Path) -> None:
    net = NoiseLevelNet()
    net.load_state_dict(
        {name: torch.from_numpy(array) for name, array in random_weights(seed).items()}
    )
    save(net, tmp_path / "net.npz")
    crops = crops_of(5, seed)
    with torch.inference_mode():
        expected = 50 * net(torch.from_numpy(crops)).numpy()
    found = load_estimator(tmp_path / "net.npz").levels(crops)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert np.ptp(found) > 1e-3, "all the same, whatever the crop"


def test_a_level_is_never_beyond_what_a_network_may_be_told() -> None:
    loud = random_weights()
    loud["linear2.bias"] += 30
    found = NoiseEstimator(loud).levels(crops_of(2))
    assert found.tolist() == [MOST_LEVEL, MOST_LEVEL]


def test_sixteen_crops_take_milliseconds() -> None:
    estimator, crops = NoiseEstimator(random_weights()), crops_of(16)
    spent = []
    for _ in range(8):
        began = time.perf_counter()
        estimator.levels(crops)
        spent.append(1000 * (time.perf_counter() - began))
    assert min(spent) < 60, spent  # 5 ms on one core of a server that is not busy


def test_the_network_has_what_the_file_has() -> None:
    shapes = {name: tuple(value.shape) for name, value in NoiseLevelNet().state_dict().items()}
    assert shapes == SHAPES


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(me.MirnetEdgeError, match=r"no such file.*reinstall.*noise=10"):
        load_estimator(tmp_path / "weights.npz")


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    whole, alone = write_weights(tmp_path).read_bytes(), io.BytesIO()
    np.save(alone, np.zeros(3, np.float32))
    damaged = (b"", b"no archive at all", whole[: len(whole) // 2], alone.getvalue())
    for number, content in enumerate(damaged):
        path = tmp_path / f"{number}.npz"
        path.write_bytes(content)
        with pytest.raises(me.CheckpointError, match=r"cannot be read.*reinstall"):
            load_estimator(path)


def test_pickled_arrays_are_not_loaded(tmp_path: Path) -> None:
    weights: dict[str, np.ndarray] = random_weights()
    weights["conv1.bias"] = np.array([None] * 32)
    with pytest.raises(me.CheckpointError, match="cannot be read"):
        load_estimator(write_weights(tmp_path, weights))


@pytest.mark.parametrize(
    ("name", "array", "said"),
    [
        ("conv2.bias", np.zeros(31, np.float32), r"conv2.bias is .*\(31,\).*need float32 \(32,\)"),
        ("conv2.bias", np.zeros(32), r"conv2.bias is .*float64"),
        ("conv2.bias", np.full(32, np.nan, np.float32), "conv2.bias holds NaN"),
        ("conv2.bias", None, "conv2.bias is None"),
        ("conv9.bias", np.zeros(3, np.float32), "unknown arrays conv9.bias"),
    ],
)
def test_other_weights_are_refused(
    name: str, array: np.ndarray | None, said: str, tmp_path: Path
) -> None:
    weights = random_weights()
    weights.pop(name, None)
    if array is not None:
        weights[name] = array
    with pytest.raises(me.CheckpointError, match=f"holds no noise estimator: {said}"):
        load_estimator(write_weights(tmp_path, weights))


def test_its_folder_is_no_bundled_model() -> None:
    assert WEIGHTS.parent.parent == me.bundled_models()[0].folder.parent
    assert WEIGHTS.parent.name not in {model.name for model in me.bundled_models()}
