"""Networks of every kind, their weights, and checkpoints of them in the forms of others."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import safetensors.torch
import torch
from conftest import TINY
from torch import Tensor

import mirnet_edge as me
from mirnet_edge.model.layers import Network


@cache
def network(name: str) -> Network:
    return me.create_model(TINY[name], seed=7)


@cache
def reference(name: str) -> Tensor:
    return restored(network(name))


def state_dict(name: str) -> dict[str, Tensor]:
    return dict(network(name).state_dict())


def restored(net: Network) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    size, more = 6 * net.config.size_multiple, net.config.size_multiple
    image = torch.rand((2, net.config.in_planes, size, size + more), generator=generator)
    with torch.inference_mode():
        return net(image)


def write_legacy(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def write_safetensors(content: Mapping[str, Tensor], path: Path) -> None:
    copies = {key: tensor.clone().contiguous() for key, tensor in content.items()}
    safetensors.torch.save_file(copies, path)
