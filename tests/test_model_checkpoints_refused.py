"""What is no checkpoint of a MIRNet is refused, and said by name."""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from checkpoint_samples import network, state_dict, write_legacy, write_safetensors
from conftest import TINY
from torch import Tensor

import mirnet_edge as me
from mirnet_edge.errors import CheckpointError
from mirnet_edge.model.checkpoints import METADATA_KEY
from mirnet_edge.model.config import MIRNetConfig

FIRST_CONV = "body.0.body.0.dau_top.body.0.weight"
FIRST_MID_CONV = "body.0.body.0.dau_mid.body.0.weight"


def refused(content: Any, path: Path) -> str:
    torch.save(content, path)
    with pytest.raises(CheckpointError) as raised:
        me.load_model(path)
    message = str(raised.value)
    assert message.startswith(str(path))
    return message


@pytest.mark.parametrize("name", ["missing.pth", "missing.safetensors", "edge-xxl"])
def test_no_such_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"{name}: no such file, and no bundled model"):
        me.load_model(tmp_path / name)


def test_a_folder_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        me.load_model(tmp_path)


def save_tiny(path: Path) -> None:
    me.save_model(network("defocus"), path)


@pytest.mark.parametrize(
    ("suffix", "write"),
    [
        (".pth", lambda path: torch.save(state_dict("defocus"), path)),
        (".pth", lambda path: write_legacy(state_dict("defocus"), path)),
        (".safetensors", save_tiny),
    ],
    ids=["zip", "legacy", "safetensors"],
)
def test_truncated_anywhere(suffix: str, write: Callable[[Path], None], tmp_path: Path) -> None:
    whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    write(whole)
    data = whole.read_bytes()
    escaped = {}
    for size in {*range(0, len(data), len(data) // 150), len(data) - 1}:
        cut.write_bytes(data[:size])
        try:
            me.load_model(cut)
            escaped[size] = "loaded"
        except CheckpointError as error:
            if not re.search(rf"{size} bytes|no readable", str(error)):
                escaped[size] = f"unclear: {error}"
        except Exception as error:
            escaped[size] = f"{type(error).__name__}: {error}"
    assert not escaped, f"of {len(data)} bytes, these many: {escaped}"


TEXTS = {
    "empty": "",
    "text": "hello, this is no checkpoint\n" * 40,
    "another": "a text that begins with another letter\n" * 40,
    "dot": ".\n",
    "unicode": "\x80abc",
    "web-page": "<!DOCTYPE html><html><body>Sign in to download</body></html>",
    "json": '{"message": "Not Found"}',
    "git-lfs": "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 63520001\n",
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_no_checkpoint(text: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"text{suffix}"
    path.write_bytes(TEXTS[text].encode("latin1"))
    with pytest.raises(CheckpointError, match=r"no (readable|safetensors)") as raised:
        me.load_model(path)
    assert "run code" not in str(raised.value)


def test_a_zip_of_something_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match="no readable PyTorch checkpoint"):
        me.load_model(tmp_path / "a.pth")


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (str(self.victim), "w")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle-2", "pickle-5"])
def test_a_pickle_that_would_run_code_does_not(form: str, tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "evil.pth"
    pickle.loads(pickle.dumps(Payload(victim))).close()
    assert victim.exists(), "the payload must work where it is let loose"
    victim.unlink()
    content = {"state_dict": state_dict("defocus"), "extra": Payload(victim)}
    if form == "zip":
        torch.save(content, path)
    elif form == "legacy":
        write_legacy(content, path)
    else:
        path.write_bytes(pickle.dumps(Payload(victim), protocol=int(form[-1])))
    said = "no readable" if form == "pickle-5" else "other than tensors.* can run code"
    with pytest.raises(CheckpointError, match=said) as raised:
        me.load_model(path)
    assert "weights_only" not in str(raised.value)
    assert not victim.exists()
    assert isinstance(raised.value.__cause__, pickle.UnpicklingError)


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        (argparse.Namespace(lr=2e-4), "argparse.Namespace"),
        (Path("photo.png"), "pathlib"),
        (zipfile.ZipInfo("a"), "zipfile.ZipInfo"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_python_objects_are_named(extra: Any, named: str, tmp_path: Path) -> None:
    message = refused({"state_dict": state_dict("defocus"), "args": extra}, tmp_path / "o.pth")
    assert f"holds Python objects other than tensors ({named}" in message
    assert "safetensors" in message


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    message = refused(network("defocus"), tmp_path / "module.pth")
    assert "mirnet_edge.model.mirnet_v2.MIRNetV2" in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([1, 2], "holds a list, not a state dict"),
        (torch.zeros(3), "holds a Tensor, not a state dict"),
        ({}, "holds no tensors (keys: )"),
        ({"epoch": 3, "lr": 0.1}, "holds no tensors (keys: epoch, lr)"),
        ({"state_dict": {}}, "holds no tensors"),
        ({"state_dict": {str(i): i for i in range(5)}}, "keys: 0, 1, 2, … (5 keys)"),
    ],
    ids=str,
)
def test_no_tensors(content: Any, expected: str, tmp_path: Path) -> None:
    assert expected in refused(content, tmp_path / "none.pth")


def test_another_network_is_told_by_its_keys(tmp_path: Path) -> None:
    other = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 3, 3)).state_dict()
    message = refused(other, tmp_path / "other.pth")
    assert "not a MIRNet or MIRNet-v2" in message
    assert "0.weight, 0.bias, 1.weight, … (4 keys)" in message
    assert "body.0.body.0.dau_top." in message
    write_safetensors(other, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"not a MIRNet.*0\.bias"):
        me.load_model(tmp_path / "other.safetensors")


@pytest.mark.parametrize("name", TINY)
def test_the_first_missing_key_is_named_with_its_shape(name: str, tmp_path: Path) -> None:
    key = "body.0.body.1.weight" if isinstance(TINY[name], MIRNetConfig) else FIRST_MID_CONV
    key = key.replace("dau_mid.body.0", "conv_out")
    tensors = state_dict(name)
    shape = "x".join(map(str, tensors.pop(key).shape))
    message = refused(tensors, tmp_path / "less.pth")
    assert f"key '{key}' of shape {shape} is missing" in message


@pytest.mark.parametrize("name", ["mirnet-v2", "edge"])
def test_every_tensor_is_needed(name: str, tmp_path: Path) -> None:
    for key in state_dict(name):
        tensors = state_dict(name)
        del tensors[key]
        assert "missing" in refused(tensors, tmp_path / "less.pth")


@pytest.mark.parametrize("name", TINY)
def test_an_unexpected_key_is_named_with_its_shape(name: str, tmp_path: Path) -> None:
    tensors = state_dict(name) | {"ema.decay": torch.zeros(4, 5), "steps": torch.tensor(3)}
    message = refused(tensors, tmp_path / "more.pth")
    assert f"unexpected key 'ema.decay' of shape 4x5; a {TINY[name].family}" in message
    message = refused(state_dict(name) | {"steps": torch.tensor(3)}, tmp_path / "steps.pth")
    assert "unexpected key 'steps' of shape scalar" in message


@pytest.mark.parametrize("name", TINY)
def test_a_misshapen_tensor_is_named_with_both_shapes(name: str, tmp_path: Path) -> None:
    tensors = state_dict(name) | {"body.0.body.0.conv_out.weight": torch.zeros(8, 9, 1, 1)}
    size = "3x3" if isinstance(TINY[name], MIRNetConfig) else "1x1"
    message = refused(tensors, tmp_path / "shape.pth")
    assert "'body.0.body.0.conv_out.weight' has shape 8x9x1x1" in message
    assert message.endswith(f"of these sizes needs 8x8x{size}")


@pytest.mark.parametrize("shape", [(), (3,), (0, 0)])
@pytest.mark.parametrize("key", ["conv_in.weight", "conv_out.weight", FIRST_CONV, FIRST_MID_CONV])
def test_shapes_that_tell_no_sizes(key: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    refused(state_dict("mirnet-v2") | {key: torch.zeros(shape)}, tmp_path / "scalar.pth")


def test_groups_that_do_not_divide_the_channels(tmp_path: Path) -> None:
    tensors = state_dict("defocus")
    tensors[FIRST_CONV] = torch.zeros(8, 4, 3, 3)
    tensors[FIRST_MID_CONV] = torch.zeros(13, 4, 3, 3)
    assert "groups=(2,): 2 must divide (8, 13" in refused(tensors, tmp_path / "file.pth")


def test_a_gap_in_the_groups_is_a_missing_key(tmp_path: Path) -> None:
    tensors = state_dict("defocus") | {"body.2.body.0.dau_top.x": torch.zeros(1)}
    message = refused(tensors, tmp_path / "gap.pth")
    assert re.search(r"'body\.1\.body\.0\.dau_top.* is missing", message)


@pytest.mark.parametrize(
    "odd",
    [torch.zeros(8, 6, 3, 3).to_sparse(), torch.empty(8, 6, 3, 3, device="meta")],
    ids=["sparse", "meta"],
)
def test_tensors_without_plain_values_are_refused(odd: Tensor, tmp_path: Path) -> None:
    refused(state_dict("defocus") | {"conv_in.weight": odd}, tmp_path / "odd.pth")


@pytest.mark.parametrize("metadata", ["{", "[]", "null", "5"])
def test_damaged_metadata_is_refused(metadata: str, tmp_path: Path) -> None:
    path = tmp_path / "meta.safetensors"
    path.write_bytes(safetensors.torch.save(state_dict("defocus"), {METADATA_KEY: metadata}))
    with pytest.raises(CheckpointError):
        me.load_model(path)
