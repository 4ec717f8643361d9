"""Checkpoints that ask for memory without end, or hold what no training writes."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from checkpoint_samples import network, state_dict, write_legacy
from torch import Tensor

import mirnet_edge as me
from mirnet_edge.bundled import bundled_models
from mirnet_edge.errors import CheckpointError, ConfigError
from mirnet_edge.model import checkpoints
from mirnet_edge.model.config import MIRNetConfig, MIRNetV2Config
from mirnet_edge.model.tensor_files import METADATA_KEY


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as raised:
        me.load_model(path)
    return str(raised.value)


def with_metadata(path: Path, tensors: dict[str, Tensor], **metadata: Any) -> Path:
    safetensors.torch.save_file(tensors, path, {METADATA_KEY: json.dumps(metadata)})
    return path


@pytest.fixture
def unbuilt(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network is built but without memory."""
    build = checkpoints.create_model

    def on_meta(config: Any) -> Any:
        assert torch.empty(()).is_meta, "memory for weights that nobody has seen"
        return build(config)

    monkeypatch.setattr(checkpoints, "create_model", on_meta)


@pytest.mark.parametrize("digits", ["1000000", "9999", "64", "9" * 5000])
@pytest.mark.parametrize("place", ["body.0.body.{}.dau_top.body.0.weight", "body.{}.body.0.x"])
def test_a_key_of_a_great_depth(place: str, digits: str, unbuilt: None, tmp_path: Path) -> None:
    tensors = state_dict("mirnet-v2") | {place.format(digits): torch.zeros(1)}
    torch.save(tensors, tmp_path / "deep.pth")
    assert len(refused(tmp_path / "deep.pth")) < 500


V1 = {"family": "mirnet", "channels": [8, 12], "n_rrg": 1, "n_msrb": 1, "width": 1}
V2 = {"family": "mirnet-v2", "channels": [8, 12, 18], "groups": [1], "n_mrb": 1}


@pytest.mark.parametrize(
    "config",
    [
        *({**V1, name: 10**9} for name in ("n_rrg", "n_msrb", "width", "in_channels")),
        {**V1, "n_rrg": 64, "n_msrb": 64},
        {**V1, "channels": [4000, 4096]},
        {**V1, "channels": list(range(8, 4000))},
        {**V2, "n_mrb": 10**9},
        {**V2, "groups": [1] * 100_000},
        {**V2, "groups": [1] * 64, "n_mrb": 64},
        {**V2, "channels": [4096, 4096, 4096]},
        {**V2, "shuffle": 10**6},
        *({**V2, "channels": value} for value in ("abc", [8.0, 12, 18], [True, 2, 3], 7, None)),
        *({**V2, "groups": value} for value in ("1", [1.5], [None], 1)),
        *({**V2, name: "yes"} for name in ("image_skip", "context", "noise_level", "n_mrb")),
        {**V2, "n_mrb": True},
        {**V2, "unknown": 1},
        {"family": ["x"]},
    ],
    ids=lambda config: ",".join(f"{k}={str(v)[:20]}" for k, v in config.items() if v != V2.get(k)),
)
def test_metadata_of_a_network_without_end(
    config: dict[str, Any], unbuilt: None, tmp_path: Path
) -> None:
    path = with_metadata(tmp_path / "a.safetensors", state_dict("mirnet-v2"), config=config)
    assert len(refused(path)) < 500


@pytest.mark.parametrize("kind", [MIRNetConfig, MIRNetV2Config])
def test_no_configuration_is_beyond_bounds(kind: Any) -> None:
    with pytest.raises(ConfigError, match="at most 64"):
        kind(**{"n_msrb" if kind is MIRNetConfig else "n_mrb": 65})
    with pytest.raises(ConfigError, match="4096"):
        kind(channels=(8, 16, 4097))


@pytest.mark.parametrize(
    "metadata",
    [
        *({"scale": value} for value in (True, 10**9, "2", None)),
        *({"training": value} for value in ("x", [1], 7, None)),
    ],
    ids=str,
)
def test_other_metadata_of_another_type(metadata: dict[str, Any], tmp_path: Path) -> None:
    path = with_metadata(tmp_path / "a.safetensors", state_dict("mirnet-v2"), **metadata)
    assert "its metadata says" in refused(path)


def test_metadata_that_is_nested_without_end(tmp_path: Path) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file(state_dict("mirnet-v2"), path, {METADATA_KEY: deep})
    assert "nested too deep" in refused(path)


def test_a_packed_checkpoint_is_not_unpacked(tmp_path: Path, monkeypatch: Any) -> None:
    whole, packed = tmp_path / "whole.pth", tmp_path / "packed.pth"
    torch.save({"a": torch.zeros(1000, 1000)}, whole)
    with zipfile.ZipFile(whole) as given, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as to:
        for item in given.infolist():
            to.writestr(item.filename, given.read(item))
    assert packed.stat().st_size < 20_000
    monkeypatch.setattr(torch, "load", None)
    assert "packed records" in refused(packed)


@pytest.mark.parametrize("write", [torch.save, write_legacy], ids=["zip", "legacy"])
def test_one_value_that_is_spread_over_gigabytes(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, name = tmp_path / "spread.pth", "conv_in.weight"
    write(state_dict("mirnet-v2") | {name: torch.zeros(1).expand(8, 3, 9000, 9000)}, path)
    assert "bytes of tensors in a file of" in refused(path)
    monkeypatch.setenv("MIRNET_EDGE_MAX_TENSOR_BYTES_PER_BYTE", str(10**9))
    assert "has shape" in refused(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_no_numbers(value: float, tmp_path: Path) -> None:
    tensors = {name: tensor.clone() for name, tensor in state_dict("mirnet-v2").items()}
    next(iter(tensors.values())).view(-1)[0] = value
    torch.save(tensors, tmp_path / "nan.pth")
    assert "holds what is no finite real number" in refused(tmp_path / "nan.pth")


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int32, torch.bool])
def test_weights_of_another_kind_are_not_cast(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in state_dict("mirnet-v2").items()}
    torch.save(tensors, tmp_path / "kind.pth")
    assert f"({dtype}) holds what is no finite real number" in refused(tmp_path / "kind.pth")


def test_a_changed_weight_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    me.save_model(network("mirnet-v2"), path)
    me.load_model(path)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    assert "its weights are not those that were written" in refused(path)


def test_a_changed_bundled_model_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    model = bundled_models()[0]
    model.card["weights_sha256"] = "0" * 64
    monkeypatch.setattr(checkpoints, "bundled_model", lambda name: model)
    with pytest.raises(CheckpointError, match="its weights are not those that were written"):
        me.load_model(model.name)
