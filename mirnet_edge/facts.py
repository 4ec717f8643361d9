"""What a model file says of itself, and how that travels in ONNX and safetensors metadata."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mirnet_edge._typed import parse_json

PREFIX = "mirnet_edge."
NOISE_UNIT = 50.0
"""The noise level, in units of 1/255, that is 1 in the plane which tells it to a network."""


@dataclass(frozen=True)
class SizeRule:
    """Which heights and widths a network takes, in pixels.

    Attributes:
        multiple: both are multiples of it; strided layers then have one phase in every tile.
        least: neither is smaller.
    """

    multiple: int = 4
    least: int = 4

    def __str__(self) -> str:
        return f"multiples of {self.multiple} and at least {self.least}"

    def allows(self, *sides: int) -> bool:
        """Whether an input may have these sides."""
        return all(side >= max(self.least, 1) and side % self.multiple == 0 for side in sides)

    def padded(self, side: int) -> int:
        """The least side that is allowed and holds this one."""
        return self.up(max(side, self.least))

    def up(self, length: int) -> int:
        """The least multiple that is at least ``length``."""
        return -(-length // self.multiple) * self.multiple

    def down(self, length: int) -> int:
        """The greatest multiple that is at most ``length``."""
        return length // self.multiple * self.multiple


@dataclass(frozen=True)
class ModelFacts:
    """Facts of one trained or exported network.

    Attributes:
        task: what it restores ("denoise", …), "unknown" where a checkpoint does not say.
        family: "mirnet" or "mirnet-v2".
        preset: name of the preset it equals, or "custom".
        in_channels, out_channels: of the frame.
        scale: how much higher and wider the restored frame is than the given one. The network keeps
            the size: the frame is enlarged bicubically before it.
        noise_level: whether the network takes one more plane, which tells how noisy the frame is,
            in units of `NOISE_UNIT` / 255.
        size_multiple: height and width of the input must be multiples of this (pixels).
        min_size_px: least height and width.
        local_support_px: farthest input pixel that reaches an output pixel through convolutions
            alone, rounded up to the size multiple: the halo at which tiles with shared frame
            statistics equal the frame.
        bytes_per_pixel: activation memory of the FP32 graph for each pixel of the input.
        weights_sha256: of names, shapes and values of all parameters.
        version: of mirnet-edge that wrote the file.
    """

    task: str = "unknown"
    family: str = "unknown"
    preset: str = "custom"
    in_channels: int = 3
    out_channels: int = 3
    scale: int = 1
    noise_level: bool = False
    size_multiple: int = 4
    min_size_px: int = 8
    local_support_px: int | None = None
    bytes_per_pixel: int | None = None
    weights_sha256: str = ""
    version: str = ""

    @property
    def in_planes(self) -> int:
        """Planes of the network's input."""
        return self.in_channels + self.noise_level

    @property
    def size_rule(self) -> SizeRule:
        """Which inputs the network takes."""
        return SizeRule(self.size_multiple, self.min_size_px)

    def to_metadata(self) -> dict[str, str]:
        """One string a field, keys prefixed, values as JSON."""
        return {PREFIX + name: json.dumps(value) for name, value in vars(self).items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> ModelFacts:
        """The facts in ``metadata``; fields that are absent or of another type keep their
        defaults, and what older versions wrote besides is left out."""
        stored: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            # Field by field: a model of another version loads with what can be read of its facts.
            with suppress(KeyError, ValueError):
                stored[field.name] = parse_json(metadata[PREFIX + field.name])
        found = {field.name: stored[field.name] for field in cls._fitting(stored)}
        return cls(**found)

    @classmethod
    def known(cls, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Of facts in JSON those that there are, each of its type; a ValueError for another."""
        names = [field.name for field in dataclasses.fields(cls) if field.name in stored]
        fitting = [field.name for field in cls._fitting(stored)]
        if wrong := sorted(set(names) - set(fitting)):
            raise ValueError(f"facts.{wrong[0]} is {stored[wrong[0]]!r:.60}")
        return {name: stored[name] for name in names}

    @classmethod
    def _fitting(cls, stored: Mapping[str, Any]) -> list[dataclasses.Field[Any]]:
        return [
            field
            for field in dataclasses.fields(cls)
            if field.name in stored and _fits(stored[field.name], field.default)
        ]


def _fits(value: object, default: object) -> bool:
    """Whether a value from a file can stand where ``default`` does: text, a truth, or a whole
    number, positive where there is a default."""
    if isinstance(default, (str, bool)):
        return isinstance(value, type(default))
    if default is None and value is None:
        return True
    least = 0 if default is None else 1
    return type(value) is int and least <= value < 2**63
