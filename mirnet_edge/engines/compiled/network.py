"""A network in the form that a GPU runs: its precision and layout, and its means over the frame as
values that are given to it or gathered from it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from mirnet_edge.model.layers import GlobalMean, GlobalSoftmaxMean, Network
from mirnet_edge.pooling.vectors import Pool

Precision = Literal["fp16", "tf32", "fp32"]
Work = Literal["plain", "apply", "gather"]
DTYPES = {"fp16": torch.float16, "tf32": torch.float32, "fp32": torch.float32}
OUTSIDE = float("-inf")


class Tape:
    """Hands pooled vectors to the pools of a network in the order in which these are called, and
    takes down what they gather. Modules that a network uses several times are several pools.

    All is set at the start of each run: what is compiled may depend on nothing before it.
    """

    def __init__(self) -> None:
        self.begin("plain")

    def begin(
        self,
        work: Work,
        given: Sequence[Tensor] = (),
        region: Sequence[Tensor] = (),
        height: int = 0,
    ) -> None:
        """Start a run: ``given`` are the vectors, ``region`` the rows, the columns and ``own`` of
        `graph.pooling.gather_graph`, ``height`` the image's."""
        self.work, self.given, self.region, self.height = work, given, region, height
        self.at = 0
        self.gathered: list[Tensor] = []
        self.pools: list[Pool] = []

    def mean(self, features: Tensor, logits: Tensor | None) -> Tensor:
        """What the next pool hands on: (N, C, 1, 1), of the features' type."""
        at = self.at
        self.at += 1
        if self.work == "plain":
            own = _mean(features) if logits is None else _softmax_mean(features, logits)
            kind: Literal["mean", "softmax"] = "mean" if logits is None else "softmax"
            scale = self.height // features.shape[2] if self.height else 1
            self.pools.append(Pool(f"pool.{at}", kind, features.shape[1], scale))
            return own.to(features.dtype)
        given = self.given[at]
        if self.work == "apply":
            return given.to(features.dtype)
        rows, columns, wants_own = self.region
        weights = _weights(rows, columns, self.height // features.shape[2])
        if logits is None:
            gathered = (features.float() * weights).sum((2, 3), keepdim=True)
            self.gathered.append(gathered)
        else:
            gathered, log_mass = _gathered(features, logits, weights)
            self.gathered += [gathered, log_mass]
        return torch.where(wants_own > 0, gathered, given).to(features.dtype)


def _mean(features: Tensor) -> Tensor:
    # In FP32 whatever the features are: a sum over two million positions has no room in FP16.
    return features.mean((2, 3), keepdim=True, dtype=torch.float32)


def _softmax_mean(features: Tensor, logits: Tensor) -> Tensor:
    # Not as the network has it: in FP16 the weight of one of two million positions is nearly 0.
    logits = logits.float()
    powers = (logits - logits.amax((2, 3), keepdim=True)).exp()
    total = powers.sum((2, 3), keepdim=True)
    return (features.float() * powers).sum((2, 3), keepdim=True) / total


def _weights(rows: Tensor, columns: Tensor, scale: int) -> Tensor:
    """Of each position of a map, of sum one. The region begins and ends at multiples of any pool's
    scale, so that every ``scale``-th row tells all."""
    return rows[:, :, ::scale] * columns[:, :, :, ::scale] * float(scale * scale)


def _gathered(features: Tensor, logits: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The mean over the region weighted by the softmax there, and the logarithm of the mean
    exponential."""
    inside = torch.where(weights > 0, logits.float(), OUTSIDE)
    largest = inside.amax((2, 3), keepdim=True)
    powers = (inside - largest).exp() * weights
    total = powers.sum((2, 3), keepdim=True)
    mean = (features.float() * powers).sum((2, 3), keepdim=True) / total
    return mean, largest + total.log()


class _TapedMean(nn.Module):
    """In place of `GlobalMean` and `GlobalSoftmaxMean`."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self.tape = tape

    def forward(self, features: Tensor, logits: Tensor | None = None) -> Tensor:
        return self.tape.mean(features, logits)


def taped(network: Network, tape: Tape) -> Network:
    """A copy of a network whose means over the frame go by way of the tape."""
    found = copy.deepcopy(network)
    for module in list(found.modules()):
        for name, child in module.named_children():
            if isinstance(child, (GlobalMean, GlobalSoftmaxMean)):
                setattr(module, name, _TapedMean(tape))
    return found.eval()


def pools_of_network(network: Network) -> tuple[Pool, ...]:
    """The pools of a network, in the order in which it computes them, found by running it on the
    smallest image that it takes, on the CPU."""
    config = network.config
    side = network.size_rule.padded(1)
    tape = Tape()
    probed = taped(network, tape)
    form = Form(probed, tape, "plain")
    with torch.no_grad():
        form(torch.zeros(1, config.in_planes, side, side))
    return tuple(tape.pools)


class Form(nn.Module):
    """A network that restores tiles (N, C, H, W), planes apart, to such tiles, and works on
    channels that lie side by side; with what a tape hands on and takes down. Returns the tiles,
    then what was gathered."""

    def __init__(self, network: Network, tape: Tape, work: Work) -> None:
        super().__init__()
        self.network, self.tape, self.work = network, tape, work

    def forward(
        self, image: Tensor, given: Sequence[Tensor] = (), region: Sequence[Tensor] = ()
    ) -> tuple[Tensor, ...]:
        self.tape.begin(self.work, given, region, image.shape[2])
        restored = self.network(image.contiguous(memory_format=torch.channels_last))
        return (restored.contiguous(), *self.tape.gathered)
