"""The weights that a training run begins with."""

from __future__ import annotations

import os
from collections.abc import Callable

from mirnet_edge.errors import ConfigError
from mirnet_edge.model.checkpoints import load_model
from mirnet_edge.model.config import Config, preset_of
from mirnet_edge.model.create import create_model
from mirnet_edge.model.layers import Network
from mirnet_edge.workstation.settings import TrainSettings


def initial_network(
    config: Config,
    settings: TrainSettings,
    initial: str | os.PathLike[str] | None,
    say: Callable[[str], None],
) -> Network:
    """A network of ``config`` with weights drawn from the settings' seed, or those of ``initial``.

    A network of the same preset that was made for another task may differ in a few tensors: these
    are drawn anew, and ``say`` is told which. A `ConfigError` where the presets differ.
    """
    network = create_model(config, seed=settings.seed)
    if initial is None:
        return network
    found = load_model(initial)
    if found.config == config:
        return found
    if preset_of(found.config) != settings.preset:
        raise ConfigError(
            f"{initial} is a {found.facts.preset} network, but {settings.preset} is to be trained"
        )
    drawn, known = network.state_dict(), found.state_dict()
    fitting = {
        name: tensor
        for name, tensor in known.items()
        if name in drawn and drawn[name].shape == tensor.shape
    }
    network.load_state_dict({**drawn, **fitting})
    network.facts = found.facts
    anew = [name for name in drawn if name not in fitting]
    say(f"{initial} was made for another task; drawn anew: {', '.join(anew)}")
    return network
