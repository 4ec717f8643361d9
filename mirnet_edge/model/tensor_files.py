"""The tensors of a file that may be anyone's: nothing in it is run, and it gets no more memory than
it has a right to."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mirnet_edge._files import open_regular
from mirnet_edge._imports import require
from mirnet_edge._typed import parse_json
from mirnet_edge.errors import CheckpointError, first_line
from mirnet_edge.frames.images import SUFFIXES as IMAGE_SUFFIXES
from mirnet_edge.limits import how_to_lift, limit

METADATA_KEY = "mirnet_edge"


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a checkpoint by name, and our metadata where it has some.

    Raises:
        CheckpointError: there is none, or it is damaged, or asks for more than its size allows.
    """
    if not os.path.isfile(path):  # noqa: PTH113  # Path's raises for a name of 256 characters
        raise CheckpointError("no such file, and no bundled model of that name")
    if path.suffix.lower() in (".engine", *IMAGE_SUFFIXES):
        raise CheckpointError(
            f"a {path.suffix} file is no checkpoint; give a .pth, .pt or .safetensors file"
        )
    if path.suffix.lower() == ".safetensors":
        return _read_safetensors(path)
    _require_stored(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files make torch and pickle raise nearly anything
        raise CheckpointError(_unreadable(path, error)) from error
    return _find_state_dict(content, path), {}


def _require_stored(path: Path) -> None:
    """Refuse a zip file of which a few bytes unpack to gigabytes; torch.save packs nothing."""
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            packed = [item for item in archive.infolist() if item.compress_type]
    except Exception:  # no zip file: of the format before; what is damaged torch says better
        return
    if packed:
        raise CheckpointError(
            f"holds packed records ({packed[0].filename[:40]!r}), which PyTorch never writes and "
            "which may unpack to any size; unpack it, and save the state dict again"
        )


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    safetensors = require("safetensors", "reading .safetensors")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = parse_json((file.metadata() or {}).get(METADATA_KEY, "{}"))
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


def _find_state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    # The authors' MIRNet, basicsr (MIRNet-v2), its moving average, and our training checkpoint.
    for key in ("state_dict", "params", "params_ema", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping):
        raise CheckpointError(f"holds a {type(content).__name__}, not a state dict")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"holds no tensors (keys: {some_of(content)})")
    size_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if size_bytes > path.stat().st_size * limit("TENSOR_BYTES_PER_BYTE"):
        raise CheckpointError(
            f"tells of {size_bytes:,} bytes of tensors in a file of {path.stat().st_size:,}; "
            f"{how_to_lift('TENSOR_BYTES_PER_BYTE')}"
        )
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise CheckpointError(
                f"{name!r} is sparse, quantized or without values; save dense tensors"
            )
    if all(name.startswith("module.") for name in tensors):  # trained under DataParallel
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def some_of(content: Mapping[Any, Any]) -> str:
    """The first keys, to name in an error."""
    names = [str(name) for name in content]
    return ", ".join(names[:3]) + (f", … ({len(names)} keys)" if len(names) > 3 else "")
