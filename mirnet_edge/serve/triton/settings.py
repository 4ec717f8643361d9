"""How frames are restored in a Triton server: written as parameters of ``config.pbtxt``, and read
there again, where a person may have changed them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mirnet_edge.errors import ConfigError
from mirnet_edge.frames.pixel_formats import CHANNELS, PixelFormat
from mirnet_edge.restore import DEFAULT_HALO_PX
from mirnet_edge.serve.options import STATISTICS, read_pixels
from mirnet_edge.serve.refusals import Refusal
from mirnet_edge.tiling.choice import Tile

AUTO: Literal["auto"] = "auto"
KIND_OF_DTYPE = {"uint8": "TYPE_UINT8", "uint16": "TYPE_UINT16", "float32": "TYPE_FP32"}
"""Of frames, as numpy and as Triton call it."""
NUMBER: tuple[tuple[type, ...], str] = (int,), "a whole number"
NUMBER_OR_NONE: tuple[tuple[type, ...], str] = (int, type(None)), "a whole number, or null"
TEXT: tuple[tuple[type, ...], str] = (str,), "text"
TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "tile": ((int, type(None)), "auto, null for none, 256, or [256, 384]"),
    "halo": NUMBER,
    "blend": NUMBER,
    "statistics": TEXT,
    "memory_limit": NUMBER_OR_NONE,
    "threads": NUMBER_OR_NONE,
    "provider": ((str, type(None)), "text, or null"),
    "timeout": ((int, float, type(None)), "seconds, or null"),
    "pixels": TEXT,
    "workers": NUMBER,
    "max_pixels": NUMBER,
}
"""What a parameter may be, and how a person is told."""


@dataclass(frozen=True)
class FrameSettings:
    """Options of `Restorer` and of the service around it.

    Attributes:
        tile, halo, blend, statistics, memory_limit, threads, provider, timeout: see `Restorer`.
        pixels: how frames lie where a request does not say, as ``nv12 bt601 full``; see
            `serve.options.read_pixels`.
        workers: frames of a batch that are on their way at once; the engine takes one at a time.
        max_pixels: of a frame, as it is restored.
    """

    tile: Tile = AUTO
    halo: int = DEFAULT_HALO_PX
    blend: int = 0
    statistics: str = AUTO
    memory_limit: int | None = None
    threads: int | None = None
    provider: str | None = None
    timeout: float | None = None
    pixels: str = AUTO
    workers: int = 2
    max_pixels: int = 1 << 24

    def __post_init__(self) -> None:
        if self.statistics not in STATISTICS:
            raise ConfigError(
                f"statistics={self.statistics!r:.60}: a server restores frames of strangers one "
                f"by one; need one of {', '.join(STATISTICS)}"
            )
        for name in ("workers", "max_pixels"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: need 1 or more")
        _ = self.pixel_format  # it says why where there is none

    @property
    def pixel_format(self) -> PixelFormat | None:
        """How frames lie; None takes gray, RGB or RGBA by their channels."""
        if self.pixels == AUTO:
            return None
        try:
            return read_pixels(self.pixels)
        except Refusal as refusal:
            raise ConfigError(refusal.message) from refusal

    @property
    def restoring(self) -> dict[str, Any]:
        """Options of `Restorer` that a model is opened with."""
        options = dataclasses.asdict(self)
        for name in ("pixels", "workers", "max_pixels"):
            del options[name]
        return options

    def frame_dims(self, height: int = -1, width: int = -1, channels: int = -1) -> list[int]:
        """Of a frame, as Triton has them: -1 is open, as it is for the channels of "auto"."""
        form = self.pixel_format
        if form is None:
            return [height, width, channels]
        if form.name in ("nv12", "i420"):
            return [height if height < 0 else height * 3 // 2, width]
        return [height, width] if form.name == "gray" else [height, width, CHANNELS[form.name]]

    def parameters(self) -> dict[str, str]:
        """Those that differ from the defaults, as text."""
        default = FrameSettings()
        given = {name: value for name, value in vars(self).items() if value != vars(default)[name]}
        return {
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in given.items()
        }

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> FrameSettings:
        """Read parameters as Triton hands them over: ``{"halo": {"string_value": "8"}}``. Names in
        capitals are Triton's own.

        Raises:
            ConfigError: one that there is not, or a value that cannot be.
        """
        given = {}
        for name, value in parameters.items():
            if name.isupper():
                continue
            if name not in TYPES:
                names = ", ".join(TYPES)
                raise ConfigError(f"parameters: there is no {name!r:.60}; there are {names}")
            text = str(value.get("string_value", "") if isinstance(value, Mapping) else value)
            given[name] = _value(name, text)
        return cls(**given)


def _value(name: str, text: str) -> Any:
    """Text as a value of one of the types that are wanted; what is no JSON is text."""
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    types, told = TYPES[name]
    is_size = isinstance(value, list) and len(value) == 2
    if name == "tile" and is_size and all(type(side) is int for side in value):
        return tuple(value)
    if type(value) not in types and value != vars(FrameSettings())[name]:
        raise ConfigError(f"parameters: {name} is {text!r:.60}; need {told}")
    return float(value) if float in types and value is not None else value
