"""Checkpoints of every kind are read back exactly, and tell their network's configuration."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from checkpoint_samples import (
    network,
    reference,
    restored,
    state_dict,
    write_legacy,
    write_safetensors,
)
from conftest import TINY
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import mirnet_edge as me
from mirnet_edge.errors import CheckpointError, ConfigError, OutputError
from mirnet_edge.model.checkpoints import METADATA_KEY, _ends_of, infer_config, weights_sha256
from mirnet_edge.model.config import MOST, Config, MIRNetConfig, MIRNetV2Config, preset
from mirnet_edge.model.layers import Network
from mirnet_edge.model.support import local_support_px
from mirnet_edge.model.tensor_files import _find_state_dict

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
    loaded = me.load_model(str(path), task="enhance")
    assert_same(loaded, name)
    assert loaded.facts.task == "enhance"
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
def test_one_copy_of_an_aliased_tensor_is_enough(name: str, kept: int, tmp_path: Path) -> None:
    """One tensor of each column stays, or the names would not tell how many columns there are."""
    tensors = state_dict(name)
    for group in aliases(network(name)):
        for key in group:
            if key != group[kept] and not key.endswith("conv1x1.weight"):
                del tensors[key]
    assert len(tensors) < len(state_dict(name))
    torch.save(tensors, tmp_path / "once.pth")
    assert_same(me.load_model(tmp_path / "once.pth"), name)


@pytest.mark.parametrize("name", V1)
def test_aliased_copies_that_differ_are_refused(name: str, tmp_path: Path) -> None:
    for group in aliases(network(name)):
        tensors = state_dict(name)
        tensors[group[-1]] = tensors[group[-1]] + 1
        torch.save(tensors, tmp_path / "two.pth")
        with pytest.raises(CheckpointError, match="are one tensor in a mirnet, but") as raised:
            me.load_model(tmp_path / "two.pth")
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


def test_the_hash_is_of_names_and_shapes_too() -> None:
    wide, tall = nn.Linear(2, 3, bias=False), nn.Linear(3, 2, bias=False)
    named = nn.Sequential(wide)
    for module in (wide, tall):
        nn.init.ones_(module.weight)
    assert len({weights_sha256(module) for module in (wide, tall, named)}) == 3  # type: ignore[arg-type]


def test_facts_of_a_loaded_network(tmp_path: Path) -> None:
    torch.save(state_dict("defocus"), tmp_path / "s.pth")
    facts = me.load_model(tmp_path / "s.pth", task="defocus-deblurring").facts
    assert facts.task == "defocus-deblurring"
    assert (facts.family, facts.preset) == ("mirnet-v2", "custom")
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
    # No tensor tells four planes of a frame from three and a noise level.
    assume((in_channels, out_channels) != (4, 3))
    blocks = {"shuffle": draw(st.integers(1, 4)), "noise_level": draw(st.booleans())}
    return MIRNetV2Config(
        channels=draw(st.tuples(*[st.sampled_from([4, 8, 12, 20])] * 3)),
        groups=tuple(groups),
        n_mrb=draw(st.integers(1, 3)),
        in_channels=in_channels,
        out_channels=out_channels,
        image_skip=in_channels == out_channels,
        context=draw(st.booleans()),
        **(blocks if in_channels == out_channels == 3 else {}),
    )


@settings(max_examples=15, deadline=None)
@given(config=configs())
def test_tensors_tell_the_configuration(config: Config) -> None:
    with torch.device("meta"):
        tensors = me.create_model(config).state_dict()
    assert infer_config(tensors) == config


@pytest.mark.parametrize("noise_level", [False, True])
@pytest.mark.parametrize("shuffle", [1, 9, MOST["shuffle"]])
def test_tensors_tell_the_size_of_blocks(shuffle: int, noise_level: bool) -> None:
    """Of all that a configuration may have."""
    config = MIRNetV2Config(
        channels=(4, 8, 12), groups=(1,), n_mrb=1, shuffle=shuffle, noise_level=noise_level
    )
    with torch.device("meta"):
        assert infer_config(me.create_model(config).state_dict()) == config


def test_blocks_larger_than_any_are_told_as_planes() -> None:
    planes = 3 * (MOST["shuffle"] + 1) ** 2
    assert _ends_of(planes, planes)["in_channels"] == planes


def test_infer_config_of_another_network() -> None:
    for tensors in ({}, {"conv_in.weight": torch.zeros(8, 3, 3, 3)}):
        with pytest.raises(ConfigError, match="not a MIRNet or MIRNet-v2"):
            infer_config(tensors)


def test_of_several_state_dicts_the_weights_come_before_their_average(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(bytes(4096))
    one, two = {"a": torch.ones(2)}, {"a": torch.zeros(2)}
    assert _find_state_dict({"params_ema": two, "params": one}, path)["a"].tolist() == [1, 1]
    assert _find_state_dict({"params_ema": two}, path)["a"].tolist() == [0, 0]


def test_a_prefix_goes_where_all_names_have_it(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(bytes(4096))
    tensor = torch.ones(2)
    assert set(_find_state_dict({"module.a": tensor, "module.b": tensor}, path)) == {"a", "b"}
    some = {"module.a": tensor, "b": tensor}
    assert set(_find_state_dict(some, path)) == set(some)
