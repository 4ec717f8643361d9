"""Hooks on the modules of a network: what its pools, gates and attention maps are while a picture
passes, and pools that give what they are told instead of what they see."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mirnet_edge.model.layers import (
    GlobalMean,
    GlobalSoftmaxMean,
    Network,
    SelectiveKernelFusion,
)
from mirnet_edge.model.mirnet import ChannelAttention, SpatialAttention
from mirnet_edge.model.mirnet_v2 import ContextBlock

Array = NDArray[np.float32]
KINDS: dict[type[nn.Module], str] = {
    SelectiveKernelFusion: "fusion",
    ContextBlock: "context",
    ChannelAttention: "channel attention",
    SpatialAttention: "spatial attention",
}


@dataclass(frozen=True)
class Place:
    """One call of a module in a pass of the network.

    Attributes:
        kind: what the module is, as of `KINDS`.
        group, block: of the network, from 1.
        turn: which call of this very module it is, from 1: modules serve several times.
        scale: pixels of the frame for each position of its map, along each axis.
    """

    kind: str
    group: int
    block: int
    turn: int
    scale: int

    def __str__(self) -> str:
        where = f"block {self.group}.{self.block}, {self.kind}"
        return f"{where} at 1/{self.scale}, turn {self.turn}"


@dataclass(frozen=True)
class Pooled:
    """The vector, (C,) float32, that a pool made of the picture."""

    place: Place
    vector: Array


@dataclass(frozen=True)
class Fusion:
    """A selective-kernel fusion of n streams.

    Attributes:
        gates: (n, C): weights of each channel, the same at every position; they sum to one over n.
        shares: (n, H, W) at the fusion's scale: of the size of what is added up at a position (the
            length of its vector of channels, gate times feature), the part that a stream has.
    """

    place: Place
    gates: Array
    shares: Array


@dataclass(frozen=True)
class Map:
    """An attention map, (H, W) at the scale of its place: a context block's softmax times the
    number of positions, so that 1 is a plain mean's weight; or a spatial gate of 0 to 1."""

    place: Place
    values: Array


@dataclass(frozen=True)
class Gate:
    """Weights of channels, (C,), of 0 to 1."""

    place: Place
    values: Array


@dataclass(frozen=True)
class Seen:
    """What was recorded of one pass, in the order in which it happened."""

    pools: list[Pooled] = field(default_factory=list)
    fusions: list[Fusion] = field(default_factory=list)
    contexts: list[Map] = field(default_factory=list)
    spatial: list[Map] = field(default_factory=list)
    channels: list[Gate] = field(default_factory=list)


@contextmanager
def seen(network: Network, width: int) -> Iterator[Seen]:
    """Record the passes within, each of one picture of ``width`` pixels."""
    found, turns = Seen(), Counter[str]()
    logits: defaultdict[str, list[Tensor]] = defaultdict(list)

    def place(name: str, module: nn.Module, features: Tensor) -> Place:
        turns[name] += 1
        numbers = [int(number) + 1 for number in re.findall(r"body\.(\d+)\.", name + ".")[:2]]
        return Place(KINDS[type(module)], numbers[0], numbers[1], turns[name],
                     width // features.shape[3])  # fmt: skip

    def pooled(owner: str, parent: nn.Module) -> Callable[..., None]:
        def hook(given: tuple[Tensor, ...], vector: Tensor) -> None:
            where = place(f"{owner}.pool", parent, given[0])
            found.pools.append(Pooled(where, _array(vector).reshape(-1)))
            if len(given) == 2:  # features and the logits of their softmax
                weights = given[1].flatten(2).softmax(2) * given[1][0, 0].numel()
                found.contexts.append(Map(where, _array(weights.reshape(given[1].shape[2:]))))

        return hook

    def gate_logits(owner: str) -> Callable[..., None]:
        return lambda _given, output: logits[owner].append(output)

    def fused(owner: str, fusion: nn.Module) -> Callable[..., None]:
        def hook(given: tuple[Sequence[Tensor]], _output: Tensor) -> None:
            gates = torch.stack(logits.pop(owner), 1).softmax(1)[0]
            added = zip(gates, given[0], strict=True)
            sizes = torch.stack([(gate * feature[0]).norm(dim=0) for gate, feature in added])
            shares = sizes / sizes.sum(0).clamp_min(1e-12)
            where = place(owner, fusion, given[0][0])
            found.fusions.append(Fusion(where, _array(gates[..., 0, 0]), _array(shares)))

        return hook

    def channel_gate(owner: str, parent: nn.Module) -> Callable[..., None]:
        def hook(_given: tuple[Tensor], output: Tensor) -> None:
            gate = _array(logits.pop(owner)[0].sigmoid().reshape(-1))
            found.channels.append(Gate(place(owner, parent, output), gate))

        return hook

    def spatial_gate(owner: str, parent: nn.Module) -> Callable[..., None]:
        def hook(_given: tuple[Tensor], output: Tensor) -> None:
            where = place(owner, parent, output)
            found.spatial.append(Map(where, _array(output.sigmoid()[0, 0])))

        return hook

    hooks: list[tuple[nn.Module, Callable[..., Any]]] = []
    for name, module in network.named_modules():
        if isinstance(module, (SelectiveKernelFusion, ContextBlock, ChannelAttention)):
            hooks.append((module.pool, pooled(name, module)))
        if isinstance(module, SelectiveKernelFusion):
            hooks += [(gate, gate_logits(name)) for gate in module.fcs]
            hooks.append((module, fused(name, module)))
        if isinstance(module, ChannelAttention):
            hooks.append((module.conv_du, gate_logits(name)))
            hooks.append((module, channel_gate(name, module)))
        if isinstance(module, SpatialAttention):
            hooks.append((module.spatial["conv"], spatial_gate(name, module)))
    with _hooked(hooks):
        yield found


@contextmanager
def given(network: Network, vectors: Sequence[Array], own: Collection[int] = ()) -> Iterator[None]:
    """Let the pools of every pass within give these vectors, in the order in which they are called;
    those numbered in ``own`` go on to give what they see."""
    count = 0

    def hook(_given: object, vector: Tensor) -> Tensor:
        nonlocal count
        index, count = count % len(vectors), count + 1
        if index in own:
            return vector
        told = torch.from_numpy(vectors[index]).to(vector)
        return told.reshape(1, -1, 1, 1).expand_as(vector)

    pools = [m for m in network.modules() if isinstance(m, (GlobalMean, GlobalSoftmaxMean))]
    with _hooked([(pool, hook) for pool in pools]):
        yield


@contextmanager
def _hooked(hooks: Sequence[tuple[nn.Module, Callable[..., Any]]]) -> Iterator[None]:
    """Call each with what its module was given and gave; what it returns replaces the latter."""

    def adapted(hook: Callable[..., Any]) -> Callable[..., Any]:
        return lambda _module, given, output: hook(given, output)

    handles = [module.register_forward_hook(adapted(hook)) for module, hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _array(values: Tensor) -> Array:
    """A copy on the host: inference tensors serve no gradient."""
    array: Array = values.detach().float().cpu().numpy().copy()
    return array
