"""A network of a configuration, with fresh weights."""

from __future__ import annotations

import torch

from mirnet_edge._arguments import explained
from mirnet_edge.errors import ConfigError
from mirnet_edge.model.config import Config, MIRNetConfig, preset
from mirnet_edge.model.layers import Network
from mirnet_edge.model.mirnet import MIRNet
from mirnet_edge.model.mirnet_v2 import MIRNetV2


@explained(ConfigError)
def create_model(config: Config | str, seed: int | None = None) -> Network:
    """A network with fresh random weights, in eval mode.

    Args:
        config: a configuration or the name of a preset (`mirnet_edge.model.config.PRESETS`).
        seed: of the initial weights; None draws from torch's global generator.

    Raises:
        ConfigError: unknown preset.
    """
    if isinstance(config, str):
        config = preset(config)
    # The caller's own random numbers go on as if no network had been made.
    with torch.random.fork_rng(enabled=seed is not None, devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
        network = MIRNet(config) if isinstance(config, MIRNetConfig) else MIRNetV2(config)
    return network.eval()
