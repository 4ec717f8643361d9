"""How a picture becomes a test: what a network is given, what it should have made of that, and how
the difference is measured; one protocol a file, each as its literature has it.

A protocol is a value: two with equal fields test alike. Evaluation runs it (`evaluate_model`),
training validates with it.
"""

from __future__ import annotations

from typing import Any

from mirnet_edge.errors import ConfigError
from mirnet_edge.facts import ModelFacts
from mirnet_edge.workstation.protocols.denoising import Denoising
from mirnet_edge.workstation.protocols.enhancement import Enhancement
from mirnet_edge.workstation.protocols.pairs import Pairs
from mirnet_edge.workstation.protocols.sample import Figures, Protocol, Sample
from mirnet_edge.workstation.protocols.super_resolution import SuperResolution

__all__ = [
    "Denoising",
    "Enhancement",
    "Figures",
    "Pairs",
    "Protocol",
    "Sample",
    "SuperResolution",
    "protocol_for",
]


def protocol_for(facts: ModelFacts, **settings: Any) -> Protocol:
    """The protocol on clean pictures of a model's own task; denoising where it says none.

    Args:
        settings: fields of that protocol.

    Raises:
        ConfigError: a task that is tested on pairs alone, a scale that neither the model nor
            ``settings`` tells, or a setting that the task's protocol does not have.
    """
    if facts.task == "defocus-deblurring":
        raise ConfigError(f"a model for {facts.task!r} is tested on pairs: name both folders")
    kinds: dict[str, type[Protocol]] = {
        "super-resolution": SuperResolution,
        "enhance": Enhancement,
    }
    kind = kinds.get(facts.task, Denoising)
    if kind is SuperResolution and facts.scale > 1:
        settings = {"scale": facts.scale, **settings}
    fields = kind.__dataclass_fields__  # type: ignore[attr-defined]
    unknown = sorted(set(settings) - set(fields))
    if unknown:
        raise ConfigError(
            f"{', '.join(unknown)}: no setting of the test of a model for {facts.task!r}; it has "
            f"{', '.join(fields)}"
        )
    if kind is SuperResolution and "scale" not in settings:
        raise ConfigError("this model keeps a picture's size: say by what scale it was enlarged")
    return kind(**settings)
