"""The reach of the convolutions, computed, against the gradient of the real network."""

from __future__ import annotations

import pytest
import torch
from conftest import TINY

from mirnet_edge.model.config import PRESETS, Config, MIRNetConfig, MIRNetV2Config
from mirnet_edge.model.create import create_model
from mirnet_edge.model.layers import GlobalMean, GlobalSoftmaxMean
from mirnet_edge.model.support import local_support_px, reach_px

DEEPER: dict[str, Config] = {
    **TINY,
    "mirnet-two-groups": MIRNetConfig(channels=(8, 16, 32), n_rrg=2, n_msrb=1),
    "mirnet-v2-two-blocks": MIRNetV2Config(channels=(8, 12, 16), groups=(1,), n_mrb=2),
    "edge-two-blocks": MIRNetV2Config(channels=(8, 12, 16), groups=(1,), shuffle=2),
}


@pytest.mark.parametrize("config", DEEPER.values(), ids=DEEPER)
def test_reach_equals_that_of_the_gradient(config: Config) -> None:
    network = create_model(config, seed=0).double()
    for module in network.modules():
        if isinstance(module, (GlobalMean, GlobalSoftmaxMean)):
            module.register_forward_hook(lambda module, inputs, output: output.detach())
    left = right = 0
    middle, width = 288, 576  # multiples of all size multiples
    random = torch.Generator().manual_seed(0)
    for position in range(middle, middle + config.size_multiple):
        shape = (1, config.in_planes, config.min_size_px, width)
        image = torch.rand(shape, dtype=torch.double, generator=random)
        image.requires_grad_()
        (gradient,) = torch.autograd.grad(network(image)[..., position].sum(), image)
        reached = gradient.abs().sum((0, 1, 2)).nonzero().flatten()
        left = max(left, position - int(reached[0]))
        right = max(right, int(reached[-1]) - position)
    assert reach_px(config) == (left, right)


@pytest.mark.parametrize(
    ("name", "reach", "halo"),
    [
        ("mirnet", (340, 317), 340),
        ("mirnet-v2", (165, 165), 168),
        ("edge-m", (91, 91), 96),
        ("edge-s", (91, 91), 96),
        ("edge-xs", (103, 103), 112),
    ],
)
def test_reach_of_presets(name: str, reach: tuple[int, int], halo: int) -> None:
    assert reach_px(PRESETS[name]) == reach
    assert local_support_px(PRESETS[name]) == halo
