"""The networks against the published ones: golden outputs, keys, counts; and any other size."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from torch import nn

import mirnet_edge as me
from mirnet_edge.model.config import PRESETS, Config, MIRNetV2Config
from mirnet_edge.model.create import create_model
from mirnet_edge.model.layers import Network
from mirnet_edge.workstation.arithmetic import multiply_accumulates

GOLDEN = Path(__file__).parent / "golden"
DEFOCUS = MIRNetV2Config(in_channels=6, image_skip=False)


def fill_by_recipe(network: nn.Module) -> None:
    """Each parameter from a generator seeded by its first name; PReLU slopes 0.25."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            random = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
            shape = tuple(parameter.shape)
            values = random.standard_normal(shape) / np.sqrt(parameter[0].numel())
            if parameter.numel() == 1:
                values = np.full(shape, 0.25)
            parameter.copy_(torch.from_numpy(values))


@pytest.mark.parametrize(
    ("file", "config"),
    [
        ("mirnet_v1_40x72", PRESETS["mirnet"]),
        ("mirnet_v1_64x64", PRESETS["mirnet"]),
        ("mirnet_v2_44x100", PRESETS["mirnet-v2"]),
        ("mirnet_v2_64x64", PRESETS["mirnet-v2"]),
        ("mirnet_v2_defocus_64x64", DEFOCUS),
    ],
)
def test_golden_output(file: str, config: Config) -> None:
    network = create_model(config)
    fill_by_recipe(network)
    height, width = map(int, file.rpartition("_")[2].split("x"))
    seed = 20200306 + height * 1000 + width
    random = np.random.Generator(np.random.PCG64(seed))
    image = random.random((1, config.in_channels, height, width))
    with torch.inference_mode():
        output = network(torch.from_numpy(image).float()).double().numpy()
    golden = np.load(GOLDEN / f"{file}.npz")["output"].astype(np.float64)
    error = np.linalg.norm(output - golden) / np.linalg.norm(golden)
    assert error <= 1e-5, error


@pytest.mark.parametrize(
    ("file", "config"),
    [
        ("v1_state_dict_keys", PRESETS["mirnet"]),
        ("v2_state_dict_keys", PRESETS["mirnet-v2"]),
        ("v2_defocus_state_dict_keys", DEFOCUS),
    ],
)
def test_state_dict_has_the_published_keys_and_shapes(file: str, config: Config) -> None:
    lines = (GOLDEN / f"{file}.txt").read_text().splitlines()
    published = dict(line.split("\t") for line in lines)
    ours = {k: str(tuple(t.shape)) for k, t in create_model(config).state_dict().items()}
    assert ours == published


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("mirnet", 31_787_419),
        ("mirnet-v2", 5_858_560),
        ("edge-m", 1_921_536),
        ("edge-s", 861_696),
        ("edge-xs", 349_184),
    ],
)
def test_parameter_count(name: str, parameters: int) -> None:
    assert sum(p.numel() for p in create_model(name).parameters()) == parameters


def count_macs(network: Network, size: int) -> int:
    """Multiply-accumulates of all convolutions for one image; transposed ones by their input."""
    total = 0

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        assert isinstance(module, (nn.Conv2d, nn.ConvTranspose2d))
        positions = (inputs[0] if module.transposed else output).shape[2:].numel()
        total += module.weight.numel() * positions

    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.register_forward_hook(count)
    with torch.device("meta"):
        network.to("meta")(torch.zeros(1, network.config.in_planes, size, size))
    return total


@pytest.mark.parametrize(
    ("name", "gmac"),
    [
        ("mirnet", 479.44),
        ("mirnet-v2", 139.51),
        ("edge-m", 12.91),
        ("edge-s", 4.04),
        ("edge-xs", 1.207),
    ],
)
def test_multiply_accumulates(name: str, gmac: float) -> None:
    macs = count_macs(create_model(name), 256) / 1e9
    assert macs == pytest.approx(gmac, rel=0.005)


def test_work_at_a_size_that_a_network_does_not_take_is_in_proportion() -> None:
    network = create_model(TINY["edge-x3"])
    with pytest.raises(me.FrameError, match="multiples of 12"):
        network(torch.zeros(1, 3, 64, 64))
    expected = count_macs(create_model(TINY["edge-x3"]), 72) * (64 / 72) ** 2
    assert multiply_accumulates(network, size=64) == pytest.approx(expected, rel=0.005)


@pytest.mark.parametrize("config", TINY.values(), ids=TINY)
def test_any_size_runs_and_keeps_the_frame_size(config: Config) -> None:
    network = create_model(config, seed=0)
    height, width = config.min_size_px, 5 * config.size_multiple
    with torch.inference_mode():
        output = network(torch.rand(2, config.in_planes, height, width))
    assert output.shape == (2, config.out_channels, height, width)
    assert output.isfinite().all()


def test_blocks_of_pixels_lie_side_by_side() -> None:
    """A network of one convolution after the other, whose kernels have a weight in the middle
    alone: what comes out of a pixel hangs on its block, and on no other."""
    network = create_model(TINY["edge"], seed=0)
    with torch.no_grad():
        for parameter in network.body.parameters():
            parameter.zero_()
        for layer in (network.conv_in, network.conv_out):
            middle = layer.weight[:, :, 1, 1].clone()
            layer.weight.zero_()
            layer.weight[:, :, 1, 1] = middle
    image = torch.zeros(1, 4, 16, 24)
    image[0, 1, 5, 8] = 1
    with torch.inference_mode():
        rows, columns = (network(image)[0] != 0).any(0).nonzero().unbind(1)
    assert (rows.unique().tolist(), columns.unique().tolist()) == ([4, 5], [8, 9])


def test_the_level_is_no_part_of_the_image_skip() -> None:
    network = create_model(TINY["edge"], seed=0)
    with torch.no_grad():
        network.conv_out.weight.zero_()
    image = torch.rand(1, 4, 8, 16)
    with torch.inference_mode():
        assert torch.equal(network(image), image[:, :3])
    with pytest.raises(me.FrameError, match=r"need \(N, 4, H, W\)"):
        network(image[:, :3])


def test_one_slope_serves_all_dual_attention_units() -> None:
    network = create_model(TINY["mirnet"])
    state = network.state_dict()
    slopes = {t.data_ptr() for name, t in state.items() if ".blocks." in name and "body.1." in name}
    assert len(slopes) == 1
    first, second = (state[f"body.0.body.0.blocks.0.{column}.conv1x1.weight"] for column in (0, 1))
    assert first.data_ptr() == second.data_ptr()


def test_seed_decides_the_weights() -> None:
    config = TINY["mirnet-v2"]
    first, again, other = (create_model(config, seed=seed).conv_in.weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("shape", [(1, 3, 30, 32), (1, 4, 32, 32), (3, 32, 32), (1, 3, 4, 32)])
def test_wrong_input_is_refused_with_its_shape(shape: tuple[int, ...]) -> None:
    network = create_model(TINY["mirnet"])
    with pytest.raises(me.FrameError, match=str(shape[-1])):
        network(torch.zeros(shape))


def test_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(me.ConfigError, match="mirnet, mirnet-v2, edge-m, edge-s, edge-xs"):
        create_model("mirnet-v3")
