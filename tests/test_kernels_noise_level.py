"""The kernels of the noise estimator, run on the host one after the other, against PyTorch in
float64: each layer, and the whole against the estimator in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kernel_host import HostKernels, in_memory, pointer
from kernel_host import host_fixture as host_fixture
from noise_weights import random_weights
from torch.nn import functional

from mirnet_edge.device.noise_network import packed
from mirnet_edge.frames.noise_estimator import NoiseEstimator, levels_of

COUNT = 2
GUARD = 32  # numbers behind what a kernel writes


class Layers:
    """Runs each kernel as the device does, and checks that it writes nothing behind its end."""

    def __init__(self, host: HostKernels, seed: int = 0) -> None:
        self.host, self.weights = host, random_weights(seed)
        numbers, self._places = packed(self.weights)
        self._numbers = in_memory(numbers)

    def at(self, name: str) -> object:
        return pointer(self._numbers[self._places[name] :])

    def run(
        self, kernel: str, given: np.ndarray, shape: tuple[int, ...], *launch: object, names: str
    ) -> np.ndarray:
        grid, block = launch
        size = int(np.prod(shape))
        out = in_memory(np.full(size + GUARD, np.nan, np.float32))
        weights = [self.at(name) for name in names.split()]
        source = in_memory(given)
        self.host.launch(kernel, grid, block, pointer(source), *weights, pointer(out))
        assert np.isnan(out[size:]).all(), "wrote outside its array"
        return out[:size].reshape(shape).copy()

    def blocks(self, crops: np.ndarray) -> np.ndarray:
        shape, grid = (len(crops), 48, 16, 16), (5, len(crops), 1)
        return self.run("noise_blocks", crops, shape, grid, (96, 1, 1), names="")

    def convolved(self, index: int, features: np.ndarray) -> np.ndarray:
        """As the kernel writes it: the third as sums."""
        outputs = len(self.weights[f"conv{index}.bias"])
        shape = (len(features), *((outputs, 16, 16) if index < 3 else (64, outputs)))
        grid = (outputs // 8, len(features), 1)
        names = f"conv{index}.weight conv{index}.bias"
        return self.run(f"noise_convolve_{index}", features, shape, grid, (64, 1, 1), names=names)

    def pooled(self, sums: np.ndarray) -> np.ndarray:
        count = len(sums)
        return self.run("noise_pool", sums, (count, 64), (count, 1, 1), (64, 1, 1), names="")

    def outputs(self, means: np.ndarray) -> np.ndarray:
        count, names = len(means), "linear1.weight linear1.bias linear2.weight linear2.bias"
        return self.run("noise_head", means, (count,), (count, 1, 1), (1, 1, 1), names=names)

    def tensor(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.weights[name]).double()


@pytest.fixture
def layers(host: HostKernels) -> Layers:
    return Layers(host)


def random_of(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.3, 1, shape).astype(np.float32)


def test_pixels_become_channels(layers: Layers) -> None:
    crops = random_of(COUNT, 3, 64, 64)
    sane = np.where((crops < -2) | (crops > 3), (crops > 0).astype(np.float32), crops)
    crops[1, 1, 5, :4] = np.nan, np.inf, -np.inf, 3e38
    sane[1, 1, 5, :4] = 0, 1, 0, 1
    expected = functional.pixel_unshuffle(torch.from_numpy(sane), 4).numpy()
    np.testing.assert_array_equal(layers.blocks(crops), expected)


@pytest.mark.parametrize("index", [1, 2, 3])
def test_a_convolution(index: int, layers: Layers) -> None:
    features = random_of(COUNT, 48 if index == 1 else 32, 16, 16)
    weight, bias = (layers.tensor(f"conv{index}.{part}") for part in ("weight", "bias"))
    given = torch.from_numpy(features).double()
    wanted = functional.leaky_relu(functional.conv2d(given, weight, bias, padding=1), 0.1).numpy()
    if index == 3:  # four neighbours each, then channels
        wanted = wanted.reshape(COUNT, 64, 64, 4).sum(3).transpose(0, 2, 1)
    np.testing.assert_allclose(layers.convolved(index, features), wanted, atol=1e-5)


def test_the_mean_and_the_linear_layers(layers: Layers) -> None:
    sums = random_of(COUNT, 64, 64)
    means = layers.pooled(sums)
    np.testing.assert_allclose(means, sums.sum(1, dtype=np.float64) / 256, atol=1e-6)
    first, bias, second, last = (
        layers.tensor(f"linear{index}.{part}") for index in (1, 2) for part in ("weight", "bias")
    )
    given = torch.from_numpy(means).double()
    hidden = functional.leaky_relu(functional.linear(given, first, bias), 0.1)
    expected = functional.linear(hidden, second, last)[:, 0]
    np.testing.assert_allclose(layers.outputs(means), expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("seed", range(2))
def test_levels_equal_those_of_numpy(host: HostKernels, seed: int) -> None:
    layers = Layers(host, seed)
    crops = np.random.default_rng(seed).random((COUNT, 3, 64, 64), np.float32)
    features = layers.blocks(crops)
    for index in (1, 2, 3):
        features = layers.convolved(index, features)
    found = levels_of(layers.outputs(layers.pooled(features)))
    expected = NoiseEstimator(layers.weights).levels(crops)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert np.ptp(expected) > 1e-4
