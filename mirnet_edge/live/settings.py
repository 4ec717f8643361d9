"""What a viewer can set while the picture moves."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Literal

from mirnet_edge.errors import ConfigError
from mirnet_edge.frames.noise_level import Noise, checked_noise
from mirnet_edge.pooling import MODES, Mode

CHOICES = ("auto", *MODES)
"""Of statistics."""


@dataclass(frozen=True)
class Settings:
    """Of a view.

    Attributes:
        model: one of those that the view was opened with.
        noise: see `Restorer`; a network that asks for no level has it estimated from none.
        statistics: see `Restorer`.
        strength: 0 shows frames as they are, 1 as the model makes them.
        bypass: no frame goes to the model.
    """

    model: str
    noise: Noise = "auto"
    statistics: Mode | Literal["auto"] = "auto"
    strength: float = 1.0
    bypass: bool = False

    def changed(self, changes: object, models: Collection[str]) -> Settings:
        """The settings with some of them anew, as a page sends them.

        Raises:
            ConfigError: no such setting, or a value that it cannot have.
        """
        if not isinstance(changes, Mapping):
            raise ConfigError(f"settings are an object of names and values, not {changes!r}")
        if unknown := sorted(set(changes) - {field.name for field in fields(self)}):
            names = ", ".join(asdict(self))
            raise ConfigError(f"there is no setting {unknown[0]!r}; there are {names}")
        new = replace(self, **changes)
        if new.model not in list(models):
            raise ConfigError(f"model={new.model!r}: there are {', '.join(models)}")
        if new.statistics not in CHOICES:
            raise ConfigError(f"statistics={new.statistics!r}: need one of {', '.join(CHOICES)}")
        if not _is_number(new.strength) or not 0 <= new.strength <= 1:
            raise ConfigError(f"strength={new.strength!r}: need a number from 0 to 1")
        if not isinstance(new.bypass, bool):
            raise ConfigError(f"bypass={new.bypass!r}: need true or false")
        checked_noise(new.noise)
        return new


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
