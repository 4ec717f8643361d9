"""The network that estimates how noisy a picture is, as PyTorch trains it;
`frames.noise_estimator` runs it without PyTorch."""

from __future__ import annotations

import os

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from mirnet_edge._files import atomic_path
from mirnet_edge.frames.noise_estimator import BLOCK_PX, SLOPE


class NoiseLevelNet(nn.Module):
    """(N, 3, 64, 64) float32 in [0, 1] to (N,): the level of the noise, in units of
    `facts.NOISE_UNIT` / 255. Other sizes that are multiples of 4 will do for training."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3 * BLOCK_PX**2, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 32, 3, padding=1)
        self.conv3 = nn.Conv2d(32, 64, 3, padding=1)
        self.linear1 = nn.Linear(64, 32)
        self.linear2 = nn.Linear(32, 1)

    def forward(self, crops: Tensor) -> Tensor:
        features = F.pixel_unshuffle(crops, BLOCK_PX)
        for layer in (self.conv1, self.conv2, self.conv3):
            features = F.leaky_relu(layer(features), SLOPE)
        hidden = F.leaky_relu(self.linear1(features.mean((2, 3))), SLOPE)
        return F.softplus(self.linear2(hidden))[:, 0]


def save(net: NoiseLevelNet, path: str | os.PathLike[str]) -> None:
    """Write the weights for `frames.noise_estimator.load_estimator` (``NAME.npz``).

    Raises:
        OutputError: the file cannot be written.
    """
    arrays = {
        name: tensor.detach().float().cpu().numpy() for name, tensor in net.state_dict().items()
    }
    with atomic_path(path) as temporary:
        np.savez(temporary, **arrays)
