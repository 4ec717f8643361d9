"""Checkpoints of every kind are read back exactly, and everything else is refused by name."""

from __future__ import annotations

import argparse
import json
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from conftest import TINY
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import mirnet_edge as me
from mirnet_edge.errors import CheckpointError, ConfigError, OutputError
from mirnet_edge.model.checkpoints import (
    METADATA_KEY,
    infer_config,
    network_from_state_dict,
    weights_sha256,
)
from mirnet_edge.model.config import Config, MIRNetConfig, MIRNetV2Config, preset, preset_name
from mirnet_edge.model.layers import Network
from mirnet_edge.model.support import local_support_px

GOLDEN = Path(__file__).parent / "golden"
V1 = [name for name, config in TINY.items() if isinstance(config, MIRNetConfig)]
FIRST_CONV = "body.0.body.0.dau_top.body.0.weight"
FIRST_MID_CONV = "body.0.body.0.dau_mid.body.0.weight"


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Tiny networks are faster without a thread pool, by far where the cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
    size = 6 * net.config.size_multiple
    image = torch.rand((2, net.config.in_channels, size, size + 4), generator=generator)
    with torch.inference_mode():
        return net(image)


def assert_same(loaded: Network, name: str) -> None:
    assert loaded.config == TINY[name]
    assert torch.equal(restored(loaded), reference(name))


def with_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{key}": tensor for key, tensor in tensors.items()}


def after_a_step(name: str) -> dict[str, Any]:
    """What the official training script writes: epoch, weights and the optimizer's state."""
    net = me.create_model(TINY[name], seed=7)
    optimizer = torch.optim.Adam(net.parameters())
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return {
        "epoch": 3,
        "state_dict": with_prefix(net.state_dict()),
        "optimizer": optimizer.state_dict(),
    }


def write_legacy(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def write_safetensors(content: Mapping[str, Tensor], path: Path) -> None:
    copies = {key: tensor.clone().contiguous() for key, tensor in content.items()}
    safetensors.torch.save_file(copies, path)


FORMS: dict[str, Callable[[str, Path], None]] = {
    "state_dict": lambda name, path: torch.save({"state_dict": state_dict(name)}, path),
    "module": lambda name, path: torch.save({"state_dict": with_prefix(state_dict(name))}, path),
    "optimizer": lambda name, path: torch.save(after_a_step(name), path),
    "params": lambda name, path: torch.save({"params": state_dict(name)}, path),
    "params_ema": lambda name, path: torch.save({"params_ema": state_dict(name)}, path),
    "bare": lambda name, path: torch.save(state_dict(name), path),
    "bare-module": lambda name, path: torch.save(with_prefix(state_dict(name)), path),
    "legacy": lambda name, path: write_legacy({"state_dict": state_dict(name)}, path),
    "legacy-module": lambda name, path: write_legacy(with_prefix(state_dict(name)), path),
}


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_checkpoint_gives_the_same_network(
    form: str, name: str, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    FORMS[form](name, path)
    assert zipfile.is_zipfile(path) is not form.startswith("legacy")
    loaded = me.load_model(path)
    assert_same(loaded, name)
    assert not loaded.training
    assert loaded.facts.task == "unknown"


@pytest.mark.parametrize("name", TINY)
def test_foreign_safetensors(name: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    write_safetensors(state_dict(name), path)
    loaded = me.load_model(str(path), task="deblur")
    assert_same(loaded, name)
    assert loaded.facts.task == "deblur"
    assert dict(loaded.training_facts) == {}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", TINY)
def test_other_precisions_become_float32(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    path = tmp_path / "half.pth"
    cast = {key: tensor.to(dtype) for key, tensor in state_dict(name).items()}
    torch.save({"params": cast}, path)
    loaded = me.load_model(path)
    assert loaded.config == TINY[name]
    for key, tensor in loaded.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, cast[key].float()), key


def aliases(net: Network) -> list[list[str]]:
    """Names of one tensor, where it has several."""
    names: dict[int, list[str]] = {}
    for key, tensor in net.state_dict().items():
        names.setdefault(tensor.data_ptr(), []).append(key)
    return [group for group in names.values() if len(group) > 1]


@pytest.mark.parametrize("name", V1)
@pytest.mark.parametrize("kept", [0, -1])
def test_one_copy_of_an_aliased_tensor_is_enough(name: str, kept: int) -> None:
    """One tensor of each column stays, or the names would not tell how many columns there are."""
    tensors = state_dict(name)
    for group in aliases(network(name)):
        for key in group:
            if key != group[kept] and not key.endswith("conv1x1.weight"):
                del tensors[key]
    assert len(tensors) < len(state_dict(name))
    assert_same(network_from_state_dict(tensors), name)


@pytest.mark.parametrize("name", V1)
def test_aliased_copies_that_differ_are_refused(name: str) -> None:
    for group in aliases(network(name)):
        tensors = state_dict(name)
        tensors[group[-1]] = tensors[group[-1]] + 1
        with pytest.raises(CheckpointError, match="are one tensor in a mirnet, but") as raised:
            network_from_state_dict(tensors)
        assert group[0] in str(raised.value)


@pytest.mark.parametrize("name", TINY)
def test_save_and_load(name: str, tmp_path: Path) -> None:
    path = tmp_path / "saved.safetensors"
    training = {"steps": 12, "data": ["bsds500"], "psnr_db": 31.05, "note": None, "name": "café"}
    me.save_model(network(name), path, task="denoise", training=training)
    loaded = me.load_model(path)
    assert_same(loaded, name)
    assert loaded.facts.task == "denoise"
    assert loaded.training_facts == training
    assert [file.name for file in tmp_path.iterdir()] == ["saved.safetensors"]


def test_image_skip_survives_saving(tmp_path: Path) -> None:
    """Three channels in and out without an image skip: no tensor tells, so the file must."""
    config = MIRNetV2Config(channels=(8, 12, 16), groups=(1,), n_mrb=1, image_skip=False)
    net = me.create_model(config, seed=1)
    me.save_model(net, tmp_path / "saved.safetensors")
    loaded = me.load_model(tmp_path / "saved.safetensors")
    assert loaded.config == config
    assert torch.equal(restored(loaded), restored(net))


@pytest.mark.parametrize("name", TINY)
def test_saved_file_holds_each_tensor_once(name: str, tmp_path: Path) -> None:
    path = tmp_path / "saved.safetensors"
    me.save_model(network(name), path, task="denoise", training={"steps": 1})
    with safetensors.safe_open(path, framework="pt") as file:
        total = sum(file.get_tensor(key).numel() for key in file.keys())  # noqa: SIM118
        metadata = json.loads(file.metadata()[METADATA_KEY])
    unique = {t.data_ptr(): t.numel() for t in network(name).state_dict().values()}
    assert total == sum(unique.values())
    assert metadata["task"] == "denoise"
    assert metadata["training"] == {"steps": 1}


def test_the_task_argument_wins_over_the_file(tmp_path: Path) -> None:
    me.save_model(network("mirnet-v2"), tmp_path / "s.safetensors", task="denoise")
    assert me.load_model(tmp_path / "s.safetensors", task="deblur").facts.task == "deblur"


def test_saving_into_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="there is no folder"):
        me.save_model(network("mirnet-v2"), tmp_path / "none" / "s.safetensors")


@pytest.mark.parametrize("name", TINY)
def test_hash_follows_the_weights(name: str, tmp_path: Path) -> None:
    before = weights_sha256(network(name))
    assert re.fullmatch(r"[0-9a-f]{64}", before)
    me.save_model(network(name), tmp_path / "s.safetensors")
    torch.save({"params": state_dict(name)}, tmp_path / "s.pth")
    for file in ("s.safetensors", "s.pth"):
        assert me.load_model(tmp_path / file).facts.weights_sha256 == before
    assert weights_sha256(me.create_model(TINY[name], seed=7)) == before
    assert weights_sha256(me.create_model(TINY[name], seed=8)) != before


def test_facts_of_a_loaded_network(tmp_path: Path) -> None:
    torch.save(state_dict("defocus"), tmp_path / "s.pth")
    facts = me.load_model(tmp_path / "s.pth", task="defocus").facts
    assert (facts.task, facts.family, facts.preset) == ("defocus", "mirnet-v2", "custom")
    assert (facts.in_channels, facts.out_channels) == (6, 3)
    assert (facts.size_multiple, facts.min_size_px) == (4, 4)
    assert facts.local_support_px == local_support_px(TINY["defocus"])


# ---------------------------------------------------------------- hyperparameters


def official(name: str) -> dict[str, Tensor]:
    tensors = {}
    for line in (GOLDEN / f"{name}_state_dict_keys.txt").read_text().splitlines():
        key, _, shape = line.partition("\t")
        sizes = [int(size) for size in re.findall(r"\d+", shape)]
        tensors[key] = torch.empty(sizes, device="meta")
    return tensors


def test_official_keys_are_the_presets() -> None:
    v1, v2, defocus = (infer_config(official(name)) for name in ("v1", "v2", "v2_defocus"))
    assert v1 == preset("mirnet")
    assert v2 == preset("mirnet-v2")
    assert v1 is not None
    assert v2 is not None
    assert (preset_name(v1), preset_name(v2)) == ("mirnet", "mirnet-v2")
    assert defocus == MIRNetV2Config(in_channels=6, image_skip=False)


@st.composite
def configs(draw: st.DrawFn) -> Config:
    if draw(st.booleans()):
        sizes = st.lists(st.integers(8, 20), min_size=2, max_size=4, unique=True)
        colours = draw(st.integers(1, 4))
        return MIRNetConfig(
            channels=tuple(sorted(draw(sizes))),
            n_rrg=draw(st.integers(1, 2)),
            n_msrb=draw(st.integers(1, 2)),
            width=draw(st.integers(1, 3)),
            in_channels=colours,
            out_channels=colours,
        )
    groups = draw(st.lists(st.sampled_from([1, 2, 4]), min_size=1, max_size=11))
    in_channels, out_channels = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    return MIRNetV2Config(
        channels=draw(st.tuples(*[st.sampled_from([4, 8, 12, 20])] * 3)),
        groups=tuple(groups),
        n_mrb=draw(st.integers(1, 3)),
        in_channels=in_channels,
        out_channels=out_channels,
        image_skip=in_channels == out_channels,
    )


@settings(max_examples=15, deadline=None)
@given(config=configs())
def test_tensors_tell_the_configuration(config: Config) -> None:
    with torch.device("meta"):
        tensors = me.create_model(config).state_dict()
    assert infer_config(tensors) == config


def test_infer_config_of_another_network() -> None:
    assert infer_config({}) is None
    assert infer_config({"conv_in.weight": torch.zeros(8, 3, 3, 3)}) is None


# ---------------------------------------------------------------- refused


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
def test_the_first_missing_key_is_named_with_its_shape(name: str) -> None:
    key = "body.0.body.1.weight" if isinstance(TINY[name], MIRNetConfig) else FIRST_MID_CONV
    key = key.replace("dau_mid.body.0", "conv_out")
    tensors = state_dict(name)
    shape = "x".join(map(str, tensors.pop(key).shape))
    with pytest.raises(CheckpointError, match=f"key '{re.escape(key)}' of shape {shape} is missin"):
        network_from_state_dict(tensors)


def test_every_tensor_is_needed() -> None:
    for key in state_dict("mirnet-v2"):
        tensors = state_dict("mirnet-v2")
        del tensors[key]
        with pytest.raises(CheckpointError, match="missing"):
            network_from_state_dict(tensors)


@pytest.mark.parametrize("name", TINY)
def test_an_unexpected_key_is_named_with_its_shape(name: str, tmp_path: Path) -> None:
    tensors = state_dict(name) | {"ema.decay": torch.zeros(4, 5), "steps": torch.tensor(3)}
    message = refused(tensors, tmp_path / "more.pth")
    assert f"unexpected key 'ema.decay' of shape 4x5; a {TINY[name].family}" in message
    with pytest.raises(CheckpointError, match="unexpected key 'steps' of shape scalar"):
        network_from_state_dict(state_dict(name) | {"steps": torch.tensor(3)})


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


def test_groups_that_do_not_divide_the_channels() -> None:
    tensors = state_dict("defocus")
    tensors[FIRST_CONV] = torch.zeros(8, 4, 3, 3)
    tensors[FIRST_MID_CONV] = torch.zeros(13, 4, 3, 3)
    with pytest.raises(CheckpointError, match=r"groups=\(2,\): 2 must divide \(8, 13") as raised:
        network_from_state_dict(tensors, source="file.pth")
    assert str(raised.value).startswith("file.pth: ")
    assert isinstance(raised.value.__cause__, ConfigError)


def test_a_gap_in_the_groups_is_a_missing_key() -> None:
    tensors = state_dict("defocus") | {"body.2.body.0.dau_top.x": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"'body\.1\.body\.0\.dau_top.* is missing"):
        network_from_state_dict(tensors)


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
