"""The PyTorch reference networks, MIRNet and MIRNet-v2, of any width and depth.

Written from the papers' descriptions and the published state-dict names, so that official
checkpoints load. Both networks: no bias in any convolution, no normalization layer, ``eval``
equals ``train``.
"""

from __future__ import annotations

import torch

from mirnet_edge.config import Config, MIRNetConfig, preset
from mirnet_edge.model.layers import GlobalMean, GlobalSoftmaxMean, Network
from mirnet_edge.model.mirnet import MIRNet
from mirnet_edge.model.mirnet_v2 import MIRNetV2

__all__ = ["GlobalMean", "GlobalSoftmaxMean", "MIRNet", "MIRNetV2", "Network", "create_model"]


def create_model(config: Config | str, seed: int | None = None) -> Network:
    """A network with fresh random weights, in eval mode.

    Args:
        config: a configuration or the name of a preset (`mirnet_edge.config.PRESETS`).
        seed: of the initial weights; None draws from torch's global generator.

    Raises:
        ConfigError: unknown preset.
    """
    if isinstance(config, str):
        config = preset(config)
    with torch.random.fork_rng(enabled=seed is not None, devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
        network = MIRNet(config) if isinstance(config, MIRNetConfig) else MIRNetV2(config)
    return network.eval()
