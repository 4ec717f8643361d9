"""The network that estimates how noisy a picture is, as PyTorch trains it;
`frames.noise_estimator` runs it without PyTorch."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from mirnet_edge._files import atomic_path
from mirnet_edge.errors import ConfigError
from mirnet_edge.facts import NOISE_UNIT
from mirnet_edge.frames.noise_estimator import BLOCK_PX, CROP_PX, SLOPE, NoiseEstimator
from mirnet_edge.model.layers import Network
from mirnet_edge.workstation.captured import Captured
from mirnet_edge.workstation.patches import PatchSampler
from mirnet_edge.workstation.photos import read_photos
from mirnet_edge.workstation.stepper import of_psnr
from mirnet_edge.workstation.tasks.batch import Batch, noise_of, with_level
from mirnet_edge.workstation.tasks.denoise import Denoise


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


RATE, FINAL_RATE = 2e-3, 1e-5
NEAR = 1 / NOISE_UNIT
"""A level so small that errors below it do not count: of 1/255."""
QUANTILE = 0.8
"""Higher than the median, as a denoiser told 0.7 of the true level leaves 0.25 dB of PolyU's pairs
undone, and one told 1.25 of it none."""
ALONE = 0.5
"""Of the time, in which the RMS is learned before a denoiser is asked."""


def train(
    data: Sequence[str | os.PathLike[str]],
    *,
    denoiser: Network | None = None,
    initial: Mapping[str, NDArray[np.float32]] | None = None,
    quantile: float = QUANTILE,
    minutes: float = 5.0,
    batch: int = 512,
    device: str | None = None,
    seed: int = 0,
    report: Callable[[float, float], None] | None = None,
) -> NoiseLevelNet:
    """Train the estimator on crops that `tasks.denoise.Denoise` degrades; what it shall find is the
    RMS of the difference from the clean crop, and then, through a denoiser, the level that serves
    this best.

    The loss is that of a quantile of log((found + 1) / (true + 1)), levels in units of
    1/255: what counts of an error is its share of the level, and more where the level is too low.
    For the second half of the time it is the mean of log(mean squared error) of what the denoiser
    makes, told the level that was found.

    Args:
        data: folders of clean photos.
        denoiser: a network that takes a noise level, which is left as it is; None learns the RMS
            alone.
        initial: weights to begin with, as `save` writes them.
        quantile: share of the crops whose level is not to be found too low, 0 to 1.
        report: called about once a second with the fraction of the time that is over and the loss.

    Raises:
        DataError: no image can be read, or none is as large as a crop.
        ConfigError: the denoiser is not told a noise level.
        CheckpointError: ``initial`` is of another network.
    """
    if denoiser is not None and not denoiser.config.noise_level:
        raise ConfigError(
            "an estimator is trained through a network that is told a noise level, and this one is "
            "not; take edge-s-denoise, or a network trained with --task denoise"
        )
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    photos = read_photos(data, CROP_PX, (1.0, 0.75, 0.5), [])
    sampler = PatchSampler([copy for copies in photos for copy in copies], place)
    torch.manual_seed(seed)
    net, task = NoiseLevelNet().to(place), Denoise()
    if initial is not None:
        NoiseEstimator(initial)  # refuses what is none
        net.load_state_dict({name: torch.from_numpy(array) for name, array in initial.items()})
    generator = torch.Generator(place)
    on_gpu = place.type == "cuda"
    stream = torch.cuda.Stream(place) if on_gpu else None  # type: ignore[no-untyped-call]
    rate = torch.zeros((), device=place)
    optimizer = torch.optim.Adam(net.parameters(), lr=rate, fused=True, capturable=on_gpu)
    loss = torch.zeros((), device=place)

    def step(loss_of: Callable[[Tensor, Batch], Tensor]) -> None:
        drawn = task.degrade(sampler.draw(batch, CROP_PX, generator), generator)
        error = loss_of(net(drawn.given[:, :3]), drawn)
        optimizer.zero_grad(set_to_none=True)
        error.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        loss.copy_(error.detach())

    stages = [Captured(partial(step, partial(_error_of_level, quantile)), stream, generator)]
    if denoiser is not None:
        through = partial(_error_of_picture, denoiser.to(place).eval().requires_grad_(False))
        stages.append(Captured(partial(step, through), stream, generator))
    started = told = time.monotonic()
    count = 0
    with torch.cuda.stream(stream):
        while (done := (time.monotonic() - started) / (60 * minutes)) < 1:
            generator.manual_seed(seed * 1_000_003 + count)
            rate.fill_(FINAL_RATE + (RATE - FINAL_RATE) * (0.5 + 0.5 * math.cos(math.pi * done)))
            stages[0 if done < ALONE else -1]()
            count += 1
            if count % 10 == 0:
                value = float(loss)  # and so the host does not run ahead of the time
                if report and time.monotonic() - told > 1:
                    told = time.monotonic()
                    report(done, value)
    return net.eval()


def _error_of_level(quantile: float, found: Tensor, drawn: Batch) -> Tensor:
    """How far levels are from the RMS, as a share of it: more where they are below."""
    # Not what the network is told, which is off on purpose.
    true = noise_of(drawn.given[:, :3], drawn.target)[:, 0, 0, 0] * (255 / NOISE_UNIT)
    error = ((found + NEAR) / (true + NEAR)).log()
    return (error * (1 - quantile)).maximum(-error * quantile).mean()


def _error_of_picture(denoiser: nn.Module, found: Tensor, drawn: Batch) -> Tensor:
    """How far a denoiser that is told the levels remains from the clean crops."""
    told = found[:, None, None, None] * (NOISE_UNIT / 255)
    with torch.autocast(found.device.type, torch.bfloat16, enabled=found.is_cuda):
        restored = denoiser(with_level(drawn.given[:, :3], told))
    return 2 * of_psnr(restored.float().clamp(0, 1), drawn.target).log()
