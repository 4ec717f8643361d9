"""How noisy a picture is: a small convolutional network, run in NumPy alone, so that a device that
has nothing but TensorRT has it too.

    crop (3, 64, 64) → 4 x 4 pixels as channels (48, 16, 16) → three 3x3 convolutions (32, 32, 64)
    → mean over positions (64) → two linear layers (32, 1) → softplus: the level / NOISE_UNIT

`workstation.noise_level` has its twin in PyTorch, which is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from mirnet_edge._files import PACKAGE
from mirnet_edge.errors import CheckpointError, first_line
from mirnet_edge.facts import NOISE_UNIT

CROP_PX = 64
BLOCK_PX = 4
SLOPE = 0.1
"""Of the leaky rectifiers, where they are negative."""
ALONE = 1 << 18
"""Products of a matrix multiplication up to which OpenBLAS does it in the thread that asks. On many
cores its threads cost more than they spare here: an estimate took 28 ms on 64 cores."""
MOST_LEVEL = 100.0
"""The noisiest that a frame is told to be, in units of 1/255."""
WEIGHTS = PACKAGE / "models" / "noise-level" / "weights.npz"
SHAPES: dict[str, tuple[int, ...]] = {
    "conv1.weight": (32, 3 * BLOCK_PX**2, 3, 3),
    "conv1.bias": (32,),
    "conv2.weight": (32, 32, 3, 3),
    "conv2.bias": (32,),
    "conv3.weight": (64, 32, 3, 3),
    "conv3.bias": (64,),
    "linear1.weight": (32, 64),
    "linear1.bias": (32,),
    "linear2.weight": (1, 32),
    "linear2.bias": (1,),
}
CONVOLUTIONS = "conv1", "conv2", "conv3"
Array = NDArray[np.float32]


class NoiseEstimator:
    """Estimates the noise level of crops.

    Args:
        weights: float32 arrays of the names and shapes in `SHAPES`.

    Raises:
        CheckpointError: other names, shapes or types, or NaN.
    """

    def __init__(self, weights: Mapping[str, NDArray[np.generic]]) -> None:
        found = {name: (array.dtype, array.shape) for name, array in weights.items()}
        for name, shape in SHAPES.items():
            if found.get(name) != (np.dtype(np.float32), shape):
                raise CheckpointError(f"{name} is {found.get(name)}; need float32 {shape}")
            if not np.isfinite(weights[name].astype(np.float32)).all():
                raise CheckpointError(f"{name} holds NaN or infinity")
        if unknown := sorted(found.keys() - SHAPES):
            raise CheckpointError(f"unknown arrays {', '.join(unknown)}")
        self.weights = {name: np.asarray(array, np.float32) for name, array in weights.items()}
        # As the columns of `_convolved` lie: (row, column, channel) of the kernel, then outputs.
        self._kernels = {
            name: np.ascontiguousarray(kernel.transpose(2, 3, 1, 0)).reshape(-1, len(kernel))
            for name in CONVOLUTIONS
            for kernel in (self.weights[f"{name}.weight"],)
        }

    def levels(self, crops: Array) -> NDArray[np.float64]:
        """Estimate the level of each of (n, 3, 64, 64) float32 crops in [0, 1]: RMS of the noise in
        units of 1/255, from 0 to `MOST_LEVEL`."""
        count, cells = len(crops), CROP_PX // BLOCK_PX
        blocks = crops.reshape(count, 3, cells, BLOCK_PX, cells, BLOCK_PX)
        # Channels last: a pixel's channels are then a row of the matrices that are multiplied.
        features = blocks.transpose(0, 2, 4, 1, 3, 5).reshape(count, cells, cells, -1)
        for name in CONVOLUTIONS:
            features = self._convolved(features, name)
        pooled = features.mean((1, 2))
        hidden = _leaky(self._linear(pooled, "linear1"))
        return levels_of(self._linear(hidden, "linear2")[:, 0])

    def _linear(self, features: Array, name: str) -> Array:
        result: Array = features @ self.weights[f"{name}.weight"].T
        return result + self.weights[f"{name}.bias"]

    def _convolved(self, features: Array, name: str) -> Array:
        """3x3 with zeros around the picture, and the rectifier."""
        kernel = self._kernels[name]
        count, height, width, channels = features.shape
        padded = np.zeros((count, height + 2, width + 2, channels), np.float32)
        padded[:, 1:-1, 1:-1] = features
        # (n, h, w, 3, 3 C): three neighbours of a row lie side by side already.
        down, step = padded.strides[1:3]
        strides = (padded.strides[0], down, step, down, padded.itemsize)
        shape = (count, height, width, 3, 3 * channels)
        windows = np.lib.stride_tricks.as_strided(padded, shape, strides, writeable=False)
        rows = width
        while rows % 2 == 0 and rows * kernel.size > ALONE:
            rows //= 2
        result = windows.reshape(-1, rows, len(kernel)) @ kernel
        result += self.weights[f"{name}.bias"]
        return _leaky(result).reshape(count, height, width, -1)


def levels_of(outputs: Array) -> NDArray[np.float64]:
    """The levels that outputs of the last layer tell: softplus, in units of 1/255."""
    levels = NOISE_UNIT * np.logaddexp(0, outputs.astype(np.float64))
    return np.minimum(levels, MOST_LEVEL)


def _leaky(features: Array) -> Array:
    result: Array = np.maximum(features, np.float32(SLOPE) * features)
    return result


@cache
def load_estimator(path: Path) -> NoiseEstimator:
    """Read an estimator's weights, once a path.

    Raises:
        CheckpointError: the file is missing, damaged or of something else.
    """
    try:
        # Opened here: of a damaged archive NumPy leaves the file open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            return NoiseEstimator({name: stored[name] for name in stored.files})
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path}: no such file, and noise is estimated with it; reinstall mirnet-edge, or tell "
            "the level, as noise=10"
        ) from error
    except CheckpointError as error:
        raise CheckpointError(f"{path} holds no noise estimator: {error}") from error
    # The last two are what "with" raises, as the Python may be, for a lone array (.npy).
    except (OSError, ValueError, EOFError, BadZipFile, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({first_line(error)}); reinstall mirnet-edge, or tell the "
            "level, as noise=10"
        ) from error
