"""The pictures on which a run is validated, and how well a network restores them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mirnet_edge.errors import ConfigError, DataError, ImageError
from mirnet_edge.facts import NOISE_UNIT
from mirnet_edge.frames.bicubic import resized
from mirnet_edge.frames.images import find_images, read_image, upright_rgb
from mirnet_edge.model.layers import Network
from mirnet_edge.workstation.pairs import matched_pairs, read_pair
from mirnet_edge.workstation.protocols import Pairs, Protocol, Sample, protocol_for

CROP_PX = 512
"""Greatest side of a validation image, so that a point of the curve stays cheap."""
Picture = NDArray[np.uint8]


class ValidationSet:
    """A folder of clean images, tested as a network's task is, or two folders of pairs.

    Attributes:
        name: of the set, in curves.
        is_of_pairs: whether degraded pictures were given with the clean ones.

    Args:
        named: ``FOLDER``, or ``INPUTS:TARGETS`` for pairs, each with ``NAME=`` before it or not.
        most_images: of them, evenly spread, and of each the middle.

    Raises:
        DataError: no image, or a folder that is not there.
    """

    def __init__(self, named: str | os.PathLike[str], most_images: int) -> None:
        name, place = _split(os.fspath(named), "=", whole_first=True)
        inputs, targets = _split(place, ":", whole_first=False)
        self.name = name or Path(targets or inputs).name
        skipped: list[str] = []
        self._pictures: list[tuple[Picture, Picture | None]] = []
        for read in _spread(_readers(inputs, targets), most_images):
            try:
                self._pictures.append(read())
            except ImageError as error:
                skipped.append(str(error))
        if not self._pictures:
            raise DataError(f"{place}: no image to validate on; {'; '.join(skipped[:3])}")
        self.is_of_pairs = bool(targets)
        self._samples: list[Sample] = []

    def __len__(self) -> int:
        return len(self._pictures)

    def psnr(
        self, network: Network, device: torch.device, interrupted: Callable[[], int]
    ) -> float | None:
        """Mean in dB of the images, as ``network.facts`` say that it is to be tested; None if
        interrupted before the last."""
        protocol: Protocol = Pairs() if self.is_of_pairs else protocol_for(network.facts)
        scores = []
        for seed, (clean, given) in enumerate(self._pictures):
            # Who sends SIGTERM kills soon after, and the steps since the last point are not saved.
            if interrupted():
                return None
            if seed == len(self._samples):
                self._samples.append(protocol.sample(clean, seed, given))
            sample = self._samples[seed]
            restored = restore(network, sample, device)
            scores.append(protocol.measure(restored, sample, with_ssim=False)["psnr"])
        return float(np.mean(scores))


@torch.no_grad()
def restore(network: Network, sample: Sample, device: torch.device) -> NDArray[np.float32]:
    """(H, W, C) float32 in [0, 1] that a network makes of a sample's picture, the whole at once, in
    FP32, told the sample's own noise."""
    facts = network.facts
    planes = np.ascontiguousarray(sample.given.transpose(2, 0, 1))
    channels, height, width = planes.shape
    if facts.scale > 1:
        height, width = height * facts.scale, width * facts.scale
        planes = resized(planes, height, width)
    planes = np.broadcast_to(planes, (facts.in_channels, height, width))
    rule = facts.size_rule
    missing = [(0, rule.padded(side) - side) for side in (height, width)]
    planes = np.pad(planes, [(0, 0), *missing], mode="reflect")
    if facts.noise_level:
        level = np.full_like(planes[:1], (sample.noise or 0.0) / NOISE_UNIT)
        planes = np.concatenate((planes, level))
    out = network(torch.from_numpy(planes[None]).to(device))[0, :, :height, :width]
    image: NDArray[np.float32] = out.float().clamp(0, 1).permute(1, 2, 0).cpu().numpy()
    return image.mean(2, keepdims=True) if channels == 1 else image


def read_validation(
    named: Sequence[str | os.PathLike[str]], most_images: int
) -> list[ValidationSet]:
    """Some validation sets; a `ConfigError` where two have one name."""
    sets = [ValidationSet(text, most_images) for text in named]
    names = [validated.name for validated in sets]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(
            f"two validation sets are called {', '.join(sorted(twice))}; name them, as NAME=FOLDER"
        )
    return sets


def _split(text: str, mark: str, whole_first: bool) -> tuple[str, str]:
    """What is before and after a mark; a path that has it in its name is one."""
    whole = ("", text) if whole_first else (text, "")
    if mark not in text or Path(text).exists():
        return whole
    before, _, after = text.partition(mark)
    return before, after


def _readers(inputs: str, targets: str) -> Sequence[Callable[[], tuple[Picture, Picture | None]]]:
    """Each reads a clean picture and, of a pair, what is given for it."""

    def read_clean(path: Path) -> tuple[Picture, None]:
        return _middle(upright_rgb(read_image(path))), None

    def read_both(degraded: Path, good: Path) -> tuple[Picture, Picture]:
        given, clean = (_middle(picture) for picture in read_pair(degraded, good))
        return clean, given

    if targets:
        pairs = matched_pairs(inputs, targets)
        return [lambda pair=pair: read_both(*pair[1:]) for pair in pairs]  # type: ignore[misc]
    try:
        paths = find_images([inputs])
    except ImageError as error:
        raise DataError(str(error)) from error
    return [lambda path=path: read_clean(path) for path in paths]  # type: ignore[misc]


def _spread(
    items: Sequence[Callable[[], tuple[Picture, Picture | None]]], most: int
) -> Sequence[Callable[[], tuple[Picture, Picture | None]]]:
    if len(items) <= most:
        return items
    return [items[index * len(items) // most] for index in range(most)]


def _middle(picture: Picture) -> Picture:
    top, left = (max(side - CROP_PX, 0) // 2 for side in picture.shape[:2])
    return picture[top : top + CROP_PX, left : left + CROP_PX]
