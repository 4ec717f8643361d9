"""Checkpoints: official and our own, read safely and checked by name and shape."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mirnet_edge._arguments import explained
from mirnet_edge._files import atomic_path
from mirnet_edge._imports import require
from mirnet_edge._version import __version__
from mirnet_edge.bundled import bundled_model
from mirnet_edge.errors import CheckpointError, ConfigError, OutputError
from mirnet_edge.facts import ModelFacts
from mirnet_edge.model.config import (
    MOST,
    UNKNOWN_TASK,
    Config,
    MIRNetConfig,
    MIRNetV2Config,
    preset_of,
    task_of,
)
from mirnet_edge.model.create import create_model
from mirnet_edge.model.exported import read_exported
from mirnet_edge.model.layers import Network
from mirnet_edge.model.support import local_support_px
from mirnet_edge.model.tensor_files import METADATA_KEY, read_tensors, some_of

log = logging.getLogger(__name__)
MOST_SCALE = 8


@explained(CheckpointError)
def load_model(path: str | os.PathLike[str], task: str | None = None) -> Network:
    """A network with the weights of a checkpoint, FP32, in eval mode, on the CPU.

    Opens the official MIRNet (``{"state_dict": …}``, with or without ``module.``) and MIRNet-v2
    (``{"params": …}``) files, bare state dicts, and ``.safetensors``. Hyperparameters are read off
    the tensors' names and shapes. Nothing but tensors and plain containers is ever unpickled. Of
    `export_onnx`'s graphs those of the v2 family are read too, in float32, quantized ones not.

    Args:
        path: a file, or the name of a bundled model.
        task: what the network restores, where the file does not say
            (`mirnet_edge.model.config.TASKS`).

    Raises:
        CheckpointError: no such file; truncated; damaged, by the hash that it holds; holds more
            than tensors, or more than its size allows; or no MIRNet, with the first missing,
            unexpected or misshapen key, or one whose values are no finite numbers.
        ConfigError: there is no such task, or the file says that it was trained for another.
    """
    bundled = bundled_model(os.fspath(path))
    path = bundled.onnx if bundled else Path(path)
    try:
        is_graph = path.suffix.lower() == ".onnx" and path.is_file()
        tensors, metadata = read_exported(path) if is_graph else read_tensors(path)
        network = _network_of(_config_in(metadata) or infer_config(tensors), tensors)
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(f"{path}: {error}") from (error.__cause__ or error)
    known = str(metadata.get("task", UNKNOWN_TASK))
    scale = metadata.get("scale", 1)
    training = bundled.card["recipe"] if bundled else metadata.get("training", {})
    if type(scale) is not int or not 1 <= scale <= MOST_SCALE:
        raise CheckpointError(f"{path}: its metadata says scale {scale!r:.40}; need 1 to 8")
    if not isinstance(training, Mapping):
        raise CheckpointError(f"{path}: its metadata says of the training {training!r:.40}")
    network.facts = facts_of(network, task_of(known, said=task), scale)
    network.training_facts = dict(training)
    written = bundled.card["weights_sha256"] if bundled else metadata.get("weights_sha256")
    if written not in (None, network.facts.weights_sha256):
        raise CheckpointError(
            f"{path}: its weights are not those that were written: the file was damaged, or "
            "changed by hand; copy it again"
        )
    log.info("%s: task %s, scale %d", path, network.facts.task, scale)
    return network


@explained(OutputError)
def save_model(
    model: Network,
    path: str | os.PathLike[str],
    task: str = UNKNOWN_TASK,
    training: Mapping[str, Any] | None = None,
    scale: int = 1,
) -> None:
    """Write the weights as safetensors, each shared tensor once, with facts as metadata.

    Args:
        task, scale: see `ModelFacts`.
        training: anything JSON can hold: recipe, data, figures.

    Raises:
        ConfigError: there is no such task.
        OutputError: the name does not end in .safetensors, or the file cannot be written.
    """
    if Path(path).suffix != ".safetensors":
        raise OutputError(f"cannot write {path}: the name must end in .safetensors")
    safetensors = require("safetensors.torch", "writing .safetensors")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _unique(model).items()}
    config = {"family": model.config.family, **asdict(model.config)}
    task = task_of(UNKNOWN_TASK, said=task)
    metadata = {
        "config": config,
        "task": task,
        "scale": scale,
        "training": dict(training or {}),
        "weights_sha256": weights_sha256(model),
    }
    with atomic_path(path) as temporary:
        temporary.write_bytes(safetensors.save(tensors, {METADATA_KEY: json.dumps(metadata)}))


def facts_of(model: Network, task: str = UNKNOWN_TASK, scale: int = 1) -> ModelFacts:
    """What is known of a network from its configuration and weights, and from who trained it."""
    config = model.config
    return ModelFacts(
        task=task,
        family=config.family,
        preset=preset_of(config),
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        scale=scale,
        noise_level=config.noise_level,
        size_multiple=config.size_multiple,
        min_size_px=config.min_size_px,
        local_support_px=local_support_px(config),
        weights_sha256=weights_sha256(model),
        version=__version__,
    )


def weights_sha256(model: Network) -> str:
    """Hash of names, shapes and float32 values of all parameters, shared ones once."""
    digest = hashlib.sha256()
    # Sorted, so that the order in which a network makes its parts does not change the hash.
    for name, tensor in sorted(_unique(model).items()):
        values = tensor.detach().cpu().float().contiguous().numpy()
        digest.update(f"{name}{values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def _config_in(metadata: Mapping[str, Any]) -> Config | None:
    """The configuration that `save_model` wrote, None in files of others."""
    config = metadata.get("config")
    if not isinstance(config, Mapping):
        return None
    values: dict[str, Any] = {
        key: tuple(v) if isinstance(v, list) else v for key, v in config.items()
    }
    is_v1 = values.pop("family", None) == MIRNetConfig.family
    try:
        return MIRNetConfig(**values) if is_v1 else MIRNetV2Config(**values)
    except (TypeError, ValueError, ConfigError) as error:
        raise ConfigError(f"its metadata describes no network: {error}") from error


_V1_BLOCK = "body.0.body.0.blocks.0."
_V2_BLOCK = "body.0.body.0.dau_top."


def infer_config(tensors: Mapping[str, Tensor]) -> Config:
    """The configuration that names and shapes of a state dict tell; a `ConfigError` where that is
    no MIRNet, or one that cannot be built."""

    def count(pattern: str) -> int:
        matches = (re.match(pattern, name) for name in tensors)
        return max((int(match.group(1)) + 1 for match in matches if match), default=0)

    def shape(name: str) -> tuple[int, ...]:
        if name not in tensors:
            raise ConfigError(f"key {name!r} is missing")
        return tuple(tensors[name].shape) + (0,) * (2 - tensors[name].ndim)

    is_v1 = any(name.startswith(_V1_BLOCK) for name in tensors)
    if not is_v1 and not any(name.startswith(_V2_BLOCK) for name in tensors):
        raise ConfigError(
            "not a MIRNet or MIRNet-v2; their first block would be called "
            f"'{_V1_BLOCK}0.…' or '{_V2_BLOCK}…', but the file has: {some_of(tensors)}"
        )
    in_planes, out_planes = shape("conv_in.weight")[1], shape("conv_out.weight")[0]
    n_rrg = count(r"body\.(\d{1,4})\.body\.")
    if is_v1:
        streams = range(count(r"body\.0\.body\.0\.blocks\.(\d{1,4})\."))
        # Read off the fusions: a stream's own convolutions may stand under any column's name.
        fusions = (shape(f"body.0.body.0.selective_kernel.{s}.conv_du.0.weight") for s in streams)
        return MIRNetConfig(
            channels=tuple(fusion[1] for fusion in fusions),
            n_rrg=n_rrg,
            n_msrb=count(r"body\.0\.body\.(\d{1,4})\.blocks\."),
            width=count(r"body\.0\.body\.0\.blocks\.0\.(\d{1,4})\."),
            in_channels=in_planes,
            out_channels=out_planes,
        )
    names = ("top", "mid", "bot")
    top, mid, bot = (shape(f"body.0.body.0.dau_{name}.body.0.weight")[0] for name in names)
    firsts = (shape(f"body.{rrg}.body.0.dau_top.body.0.weight") for rrg in range(n_rrg))
    return MIRNetV2Config(
        channels=(top, mid, bot),
        groups=tuple(top // max(first[1], 1) for first in firsts),
        n_mrb=count(r"body\.0\.body\.(\d{1,4})\.dau_top\."),
        context=any(".gcnet." in name for name in tensors),
        **_ends_of(in_planes, out_planes),
    )


def _ends_of(in_planes: int, out_planes: int) -> dict[str, Any]:
    """What the planes before the first and after the last convolution tell: those of blocks of
    pixels are told from those of a frame by being 3 or 4 for each pixel, which no frame has."""
    for shuffle in range(1, MOST["shuffle"] + 1):
        blocks = shuffle**2
        if out_planes == 3 * blocks and in_planes in (3 * blocks, 4 * blocks):
            return {"shuffle": shuffle, "noise_level": in_planes == 4 * blocks}
    return {
        "in_channels": in_planes,
        "out_channels": out_planes,
        "image_skip": in_planes == out_planes,
    }


def _network_of(config: Config, tensors: Mapping[str, Tensor]) -> Network:
    """The network with these weights, once they are known to be all of it."""
    stages = (
        config.n_rrg * config.n_msrb
        if isinstance(config, MIRNetConfig)
        else len(config.groups) * config.n_mrb
    )
    if stages > len(tensors):
        raise CheckpointError(f"tells of {stages} blocks, but holds {len(tensors)} tensors")
    # First without memory for its weights: what a file says of their number and size is believed
    # only where it holds them.
    with torch.device("meta"):
        complete = _checked(create_model(config), tensors)
    network = create_model(config)
    network.load_state_dict(complete)
    return network


def _checked(network: Network, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under all names that the network has for them, of the right shapes."""
    family, expected = network.config.family, network.state_dict(keep_vars=True)
    for name, tensor in tensors.items():
        if name not in expected:
            raise CheckpointError(
                f"unexpected key {name[:200]!r} of shape {_shape(tensor)}; a {family} of these "
                "sizes has no such tensor"
            )
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"{name!r} has shape {_shape(tensor)}; a {family} of these sizes needs "
                f"{_shape(expected[name])}"
            )
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor.float()).all()):
            raise CheckpointError(
                f"{name!r} ({tensor.dtype}) holds what is no finite real number; the file is "
                "damaged, or its training failed"
            )
    # The authors' files hold a shared tensor under each of its names, ours under one alone.
    aliases: dict[int, list[str]] = defaultdict(list)
    for name, tensor in expected.items():
        aliases[id(tensor)].append(name)
    complete: dict[str, Tensor] = {}
    for names in aliases.values():
        present = [name for name in names if name in tensors]
        if not present:
            raise CheckpointError(
                f"key {names[0]!r} of shape {_shape(expected[names[0]])} is missing"
            )
        for name in present[1:]:
            if not torch.equal(tensors[name], tensors[present[0]]):
                raise CheckpointError(
                    f"{name!r} and {present[0]!r} are one tensor in a {family}, but "
                    "their values differ"
                )
        complete |= dict.fromkeys(names, tensors[present[0]])
    return complete


def _unique(model: Network) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
