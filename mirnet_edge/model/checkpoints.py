"""Checkpoints: official and our own, read safely and checked by name and shape."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mirnet_edge._files import atomic_path
from mirnet_edge._imports import require
from mirnet_edge._version import __version__
from mirnet_edge.bundled import bundled_model
from mirnet_edge.errors import CheckpointError, ConfigError, OutputError, first_line
from mirnet_edge.facts import ModelFacts
from mirnet_edge.frames.images import SUFFIXES as IMAGE_SUFFIXES
from mirnet_edge.model.config import (
    UNKNOWN_TASK,
    Config,
    MIRNetConfig,
    MIRNetV2Config,
    preset_of,
    task_of,
)
from mirnet_edge.model.create import create_model
from mirnet_edge.model.layers import Network
from mirnet_edge.model.support import local_support_px

METADATA_KEY = "mirnet_edge"


def load_model(path: str | os.PathLike[str], task: str | None = None) -> Network:
    """A network with the weights of a checkpoint, FP32, in eval mode, on the CPU.

    Opens the official MIRNet (``{"state_dict": …}``, with or without ``module.``) and MIRNet-v2
    (``{"params": …}``) files, bare state dicts, and ``.safetensors``. Hyperparameters are read off
    the tensors' names and shapes. Nothing but tensors and plain containers is ever unpickled.

    Args:
        path: a file, or the name of a bundled model.
        task: what the network restores, where the file does not say
            (`mirnet_edge.model.config.TASKS`).

    Raises:
        CheckpointError: no such file; truncated; holds more than tensors; or no MIRNet, with the
            first missing, unexpected or misshapen key.
        ConfigError: there is no such task, or the file says that it was trained for another.
    """
    bundled = bundled_model(os.fspath(path))
    if bundled and bundled.weights is None:
        raise CheckpointError(
            f"{bundled.name} is bundled as a graph alone, {bundled.onnx}; its card says how its "
            "weights were trained"
        )
    path = Path(bundled.weights if bundled and bundled.weights else path)
    try:
        tensors, metadata = _read(path)
        network = create_model(_config_in(metadata) or infer_config(tensors))
        _load_checked(network, tensors)
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(f"{path}: {error}") from (error.__cause__ or error)
    known = str(metadata.get("task", UNKNOWN_TASK))
    scale = metadata.get("scale", 1)
    if not isinstance(scale, int) or scale < 1:
        raise CheckpointError(f"{path}: its metadata says scale {scale!r}; need a whole number")
    network.facts = facts_of(network, task_of(known, said=task), scale)
    network.training_facts = metadata.get("training", {})
    return network


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
    metadata = {"config": config, "task": task, "scale": scale, "training": dict(training or {})}
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


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a checkpoint by name, and our metadata where it has some."""
    if not path.is_file():
        raise CheckpointError("no such file, and no bundled model of that name")
    if path.suffix.lower() in (".onnx", ".engine", *IMAGE_SUFFIXES):
        raise CheckpointError(
            f"a {path.suffix} file is no checkpoint; give a .pth, .pt or .safetensors file"
        )
    if path.suffix.lower() == ".safetensors":
        return _read_safetensors(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files make torch and pickle raise nearly anything
        raise CheckpointError(_unreadable(path, error)) from error
    return _find_state_dict(content), {}


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    safetensors = require("safetensors", "reading .safetensors")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        raise CheckpointError(
            f"{path.stat().st_size} bytes that are no safetensors file (truncated?): "
            f"{first_line(error)}"
        ) from error
    if not isinstance(metadata, dict):
        raise CheckpointError(f"its metadata {METADATA_KEY!r} is no JSON object")
    return tensors, metadata


def _unreadable(path: Path, error: Exception) -> str:
    blocked = re.search(r"GLOBAL (\S+)", str(error))
    if blocked:
        return (
            f"holds Python objects other than tensors ({blocked[1]}); they are not loaded because "
            "unpickling them can run code. Save the state dict alone, best as .safetensors."
        )
    with path.open("rb") as file:
        start = file.read(40).lstrip()
    kinds = (kind for kind, mark in _FAILED_DOWNLOADS.items() if start.startswith(mark))
    kind = next(kinds, "truncated, or another format?")
    reason = first_line(error)
    if reason.startswith("Weights only load failed"):  # goes on to advise loading it unsafely
        reason = "not in a form that can be read without running code"
    return (
        f"{path.stat().st_size} bytes that are no readable PyTorch checkpoint ({kind}): {reason}. "
        "Download it again."
    )


_FAILED_DOWNLOADS = {
    "a web page": b"<",
    "a git-lfs pointer": b"version https://git-lfs",
    "a JSON answer": b"{",
}


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
    except (TypeError, ConfigError) as error:
        raise ConfigError(f"its metadata describes no network: {error}") from error


def _find_state_dict(content: Any) -> dict[str, Tensor]:
    # The authors' MIRNet, basicsr (MIRNet-v2), its moving average, and our training checkpoint.
    for key in ("state_dict", "params", "params_ema", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping):
        raise CheckpointError(f"holds a {type(content).__name__}, not a state dict")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"holds no tensors (keys: {_some(content)})")
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise CheckpointError(
                f"{name!r} is sparse, quantized or without values; save dense tensors"
            )
    if all(name.startswith("module.") for name in tensors):  # trained under DataParallel
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


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
            f"'{_V1_BLOCK}0.…' or '{_V2_BLOCK}…', but the file has: {_some(tensors)}"
        )
    in_planes, out_planes = shape("conv_in.weight")[1], shape("conv_out.weight")[0]
    n_rrg = count(r"body\.(\d+)\.body\.")
    if is_v1:
        streams = range(count(r"body\.0\.body\.0\.blocks\.(\d+)\."))
        # Read off the fusions: a stream's own convolutions may stand under any column's name.
        fusions = (shape(f"body.0.body.0.selective_kernel.{s}.conv_du.0.weight") for s in streams)
        return MIRNetConfig(
            channels=tuple(fusion[1] for fusion in fusions),
            n_rrg=n_rrg,
            n_msrb=count(r"body\.0\.body\.(\d+)\.blocks\."),
            width=count(r"body\.0\.body\.0\.blocks\.0\.(\d+)\."),
            in_channels=in_planes,
            out_channels=out_planes,
        )
    names = ("top", "mid", "bot")
    top, mid, bot = (shape(f"body.0.body.0.dau_{name}.body.0.weight")[0] for name in names)
    firsts = (shape(f"body.{rrg}.body.0.dau_top.body.0.weight") for rrg in range(n_rrg))
    return MIRNetV2Config(
        channels=(top, mid, bot),
        groups=tuple(top // max(first[1], 1) for first in firsts),
        n_mrb=count(r"body\.0\.body\.(\d+)\.dau_top\."),
        context=any(".gcnet." in name for name in tensors),
        **_ends_of(in_planes, out_planes),
    )


def _ends_of(in_planes: int, out_planes: int) -> dict[str, Any]:
    """What the planes before the first and after the last convolution tell: those of blocks of
    pixels are told from those of a frame by being 3 or 4 for each pixel, which no frame has."""
    for shuffle in range(1, 9):
        blocks = shuffle**2
        if out_planes == 3 * blocks and in_planes in (3 * blocks, 4 * blocks):
            return {"shuffle": shuffle, "noise_level": in_planes == 4 * blocks}
    return {
        "in_channels": in_planes,
        "out_channels": out_planes,
        "image_skip": in_planes == out_planes,
    }


def _load_checked(network: Network, tensors: Mapping[str, Tensor]) -> None:
    family, expected = network.config.family, network.state_dict()
    for name, tensor in tensors.items():
        if name not in expected:
            raise CheckpointError(
                f"unexpected key {name!r} of shape {_shape(tensor)}; a {family} of these "
                "sizes has no such tensor"
            )
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"{name!r} has shape {_shape(tensor)}; a {family} of these sizes needs "
                f"{_shape(expected[name])}"
            )
    # The authors' files hold a shared tensor under each of its names, ours under one alone.
    aliases: dict[int, list[str]] = defaultdict(list)
    for name, tensor in expected.items():
        aliases[tensor.data_ptr()].append(name)
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
    network.load_state_dict(complete)


def _unique(model: Network) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _some(content: Mapping[Any, Any]) -> str:
    names = [str(name) for name in content]
    return ", ".join(names[:3]) + (f", … ({len(names)} keys)" if len(names) > 3 else "")
