"""The benchmark of other systems: their networks, weights that are read without running anything,
and its tables."""

from __future__ import annotations

import json
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import compared
import compared_networks as networks
import numpy as np
import pytest
import torch
from compared_table import markdown

import mirnet_edge as me
from mirnet_edge.workstation.protocols import Denoising, SuperResolution


def seeded(network: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.06 * torch.randn(parameter.shape, generator=generator))
    return network


@pytest.mark.parametrize(
    ("make", "planes", "parameters"),
    [
        (networks.DnCNN, 3, 668_227),
        (networks.FFDNet, 3, 852_108),
        (networks.SRCNN, 1, 85_889),
        (networks.VDSR, 1, 664_704),
        (networks.ZeroDCE, 3, 79_416),
    ],
)
def test_networks_keep_the_size_and_are_as_large_as_their_papers_say(
    make: Any, planes: int, parameters: int
) -> None:
    network = make()
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    frame = torch.rand(1, planes, 17, 22)
    with torch.inference_mode():
        assert seeded(network)(frame, 25.0).shape == frame.shape


def test_ffdnet_is_told_and_dncnn_is_not() -> None:
    frame = torch.rand(1, 3, 16, 16)
    with torch.inference_mode():
        for make, told in ((networks.FFDNet, True), (networks.DnCNN, False)):
            network = seeded(make())
            assert torch.equal(network(frame, 5.0), network(frame, 50.0)) != told


class Evil:
    """Runs a command where a pickle that holds it is loaded carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


class Storage:
    """Stands for a storage of PyTorch 0.2, which its pickles name by persistent ids."""

    def __init__(self, key: str) -> None:
        self.key = key


class LikeTorch02(pickle.Pickler):
    """Writes the storages' ids as `torch.save` did."""

    def persistent_id(self, value: Any) -> Any:
        return ("storage", "type", value.key, "cpu", 0, None) if type(value) is Storage else None


class _Kept:
    """A tensor, a layer or a network: whatever has attributes."""


def _rebuild_tensor(*arguments: Any) -> Any:
    return arguments


class Tensor02:
    def __init__(self, key: str, shape: tuple[int, ...]) -> None:
        self.key, self.shape = key, shape

    def __reduce__(self) -> tuple[Any, ...]:
        stride = tuple(int(np.prod(self.shape[axis + 1 :])) for axis in range(len(self.shape)))
        return _rebuild_tensor, (Storage(self.key), 0, self.shape, stride)


def layer(key: str, shape: tuple[int, ...]) -> _Kept:
    kept = _Kept()
    kept.__dict__["_parameters"] = OrderedDict(weight=Tensor02(key, shape))
    return kept


def holding(**modules: Any) -> _Kept:
    kept = _Kept()
    kept.__dict__["_modules"] = OrderedDict(modules)
    return kept


def test_a_pickled_network_is_read_and_nothing_of_it_run(tmp_path: Path) -> None:
    inner = {str(i): holding(conv=layer(f"k{i}", (64, 64, 3, 3))) for i in range(18)}
    network = holding(
        input=layer("in", (64, 1, 3, 3)),
        output=layer("out", (1, 64, 3, 3)),
        residual_layer=holding(**inner),
    )
    network.__dict__["evil"] = Evil(tmp_path / "touched")
    counts = {"in": 576, "out": 576, **{f"k{i}": 36_864 for i in range(18)}}
    values = {
        key: np.random.default_rng(index).standard_normal(count).astype("<f4")
        for index, (key, count) in enumerate(counts.items())
    }
    path = tmp_path / "model.pth"
    with path.open("wb") as file:
        for head in (1, 2, {}, {"model": network}, list(counts)):
            LikeTorch02(file, protocol=2).dump(head)
        for value in values.values():
            file.write(np.int64(value.size).tobytes() + value.tobytes())
    weights = networks.vdsr_weights(path)
    assert not (tmp_path / "touched").exists()
    expected = values["k4"].reshape(64, 64, 3, 3)
    np.testing.assert_array_equal(weights["model.10.weight"].numpy(), expected)
    networks.VDSR().load_state_dict(dict(weights))


def test_systems_are_measured_by_the_protocol_of_ours(tmp_path: Path) -> None:
    system = next(one for one in compared.SYSTEMS if one.name == "FFDNet")
    assert compared.opened(system, tmp_path, "cpu") is None, "its weights are not there"
    torch.save(seeded(networks.FFDNet()).state_dict(), tmp_path / system.file)
    found = compared.opened(system, tmp_path, "cpu")
    assert found is not None
    picture = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    evaluation = me.evaluate_model(found[1], [picture], Denoising(15), noise="told")  # type: ignore[arg-type]
    assert evaluation.mean.noise == 15
    assert np.isfinite(evaluation.mean.psnr)


def test_luma_alone_leaves_the_colours() -> None:
    restore = compared._of_network(seeded(networks.VDSR()), "cpu", over_luma=True)
    frame = np.random.default_rng(0).random((12, 14, 3), np.float32)
    luma, ycc = ((image @ compared.TO_YCC.T) for image in (frame, restore(frame, None)))
    np.testing.assert_allclose(luma[..., 1:], ycc[..., 1:], atol=1e-5)
    assert np.abs(luma[..., 0] - ycc[..., 0]).max() > 1e-5
    # What returns its input leaves an enlarged picture as it is.
    bicubic = compared.Compared(lambda image, _: image, me.ModelFacts(task="super-resolution"))
    picture = (255 * frame).astype(np.uint8)
    evaluation = me.evaluate_model(bicubic, [picture], SuperResolution(2))  # type: ignore[arg-type]
    assert evaluation.mean.psnr == evaluation.mean.given_psnr


def test_tables_of_a_record() -> None:
    published = json.loads(compared.PUBLISHED.read_text("utf-8"))
    for row in published["figures"]:
        assert {"system", "paper", "data", "psnr", "seen"} == set(row)
    record = {
        "machine": "a machine", "versions": {"torch": "2"},
        "systems": [{"system": "VDSR", "parameters": 664_704, "gmac_256": 43.6, "ms": 2.5,
                     "of": "256x256, FP32"}],
        "figures": [
            {"system": name, "data": "set5", "images": 5, "every": 1, "test": "×2", "noise": None,
             "given": {"psnr": 33.65}, "restored": {"psnr": psnr}}
            for name, psnr in (("bicubic", 33.65), ("VDSR", 37.5))
        ],
    }  # fmt: skip
    text = markdown(record, published)
    assert "| VDSR | 0.66 M | 43.6 | 2.50 | 256x256, FP32 |" in text
    assert "| VDSR | 37.50 |" in text
    assert "| *DRRN* | *37.74* |" in text
    assert "48.13 dB too high" in text
    assert "Real noise" not in text, "nothing was measured of it"
    assert "from memory" in text
