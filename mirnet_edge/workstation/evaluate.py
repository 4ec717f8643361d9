"""How good a model is: its figures on pictures of a folder, by the protocol of what it restores."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.errors import ConfigError, DataError, ImageError
from mirnet_edge.frame_path import Progress
from mirnet_edge.frames.images import find_images, read_image, upright_rgb
from mirnet_edge.restore import Restorer
from mirnet_edge.workstation.pairs import matched_pairs, read_pair
from mirnet_edge.workstation.protocols import Figures, Pairs, Protocol, Sample, protocol_for

Picture = NDArray[np.uint8]
PathLike = str | os.PathLike[str]
Halves = tuple[Picture, Picture | None]
Data = PathLike | tuple[PathLike, PathLike] | Sequence[Picture] | Sequence[tuple[Picture, Picture]]
Observer = Callable[["Score", Sample, NDArray[np.float32]], None]
"""Called with each score, its sample and the restored picture (H, W, C) in [0, 1]."""
NoiseAsked = Literal["auto", "told"] | float


@dataclass(frozen=True)
class Score:
    """Of one picture, or the mean of many.

    Attributes:
        name: of the picture.
        given: figures of what the network got, by the names of the protocol's titles.
        restored: figures of what it made of that; dB for PSNR, infinite for equal pictures; 1 is
            equal for SSIM, NaN, and left out of the mean, for a picture smaller than its window.
        noise: the level that the network was told, in units of 1/255; None where it asks for none.
    """

    name: str
    given: Figures
    restored: Figures
    noise: float | None = None

    @property
    def psnr(self) -> float:
        """Of the restored picture, in dB."""
        return self.restored["psnr"]

    @property
    def given_psnr(self) -> float:
        """Of what the network got, in dB."""
        return self.given["psnr"]

    @property
    def ssim(self) -> float | None:
        """Of the restored picture; None where it was not measured."""
        return self.restored.get("ssim")


@dataclass(frozen=True)
class Evaluation:
    """Figures of a model on some pictures.

    Attributes:
        protocol: its name.
        sentence: what it does to a picture, and what it measures.
        titles: of the figures.
        noise: as it was asked for.
        seed: of the first picture.
        scores: of each picture.
        mean: of them all.
        skipped: pictures left out, with the reason.
        note: why there is no SSIM where it was asked for and there is none.
    """

    protocol: str
    sentence: str
    titles: Mapping[str, str]
    noise: NoiseAsked
    seed: int
    scores: tuple[Score, ...]
    mean: Score
    skipped: tuple[str, ...] = ()
    note: str = ""


def evaluate_model(
    restorer: Restorer,
    data: Data,
    protocol: Protocol | None = None,
    *,
    noise: NoiseAsked = "auto",
    told_offset: float = 0.0,
    seed: int = 0,
    with_ssim: bool = True,
    every: int = 1,
    observe: Observer | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Make tests of pictures, restore them, compare; the mean is over the pictures.

    Args:
        restorer: of any engine, precision and cut.
        data: clean pictures: a folder, file or glob pattern, or (H, W, 3) uint8 arrays, of which
            ``protocol`` makes what the network is given. For `Pairs` a folder that holds both
            halves, two folders (given, wanted), or pairs of arrays in that order.
        protocol: None takes that of the model's task, or `Pairs` where ``data`` are two folders.
        noise: the level that a network which asks for it is told: "auto", estimated by the
            ``restorer``; "told", the true one, where the protocol knows it; or a number in units of
            1/255. The Restorer gets its own setting back at the end.
        told_offset: added to the true level, to see what a wrong one costs.
        seed: picture ``i`` is tested with ``seed + i``.
        with_ssim: SSIM too, where scikit-image is installed.
        every: take every so many pictures of a folder only, for a quick look.
        progress: called with (pictures done, pictures).

    Raises:
        DataError: no picture can be read, or the model enlarges by another factor.
        ConfigError: see `protocol_for`; a level for a network that is told none.
    """
    if protocol is None:
        paired = isinstance(data, tuple) and len(data) == 2 and _is_path(data[0])
        protocol = Pairs() if paired else protocol_for(restorer.facts)
    _check_noise(restorer, noise, told_offset)
    note = ""
    if with_ssim and find_spec("skimage") is None:
        with_ssim = False
        note = "no SSIM: scikit-image is not installed; for it, pip install scikit-image"
    skipped: list[str] = []
    count, pictures = _pictures(data, isinstance(protocol, Pairs), skipped, every)
    scores: list[Score] = []
    with _own_noise_kept(restorer):
        for name, (clean, given) in pictures:
            try:
                sample = protocol.sample(clean, seed + len(scores), given)
            except DataError as error:
                skipped.append(f"{name}: {error}")
                continue
            if restorer.facts.noise_level:
                restorer.noise = _level(noise, sample, told_offset)
            restored = restorer(_frame_for(restorer, sample, protocol))
            scores.append(_score(restorer, name, restored, sample, protocol, with_ssim))
            if observe:
                observe(scores[-1], sample, restored)
            if progress:
                progress(len(scores) + len(skipped), count)
    if not scores:
        raise DataError(f"{data}: no picture can be tested; {'; '.join(skipped[:3])}")
    return Evaluation(
        protocol=protocol.name,
        sentence=protocol.sentence,
        titles={name: title for name, title in protocol.titles.items() if name in scores[0].given},
        noise=noise,
        seed=seed,
        scores=tuple(scores),
        mean=mean_score(scores),
        skipped=tuple(skipped),
        note=note,
    )


@contextmanager
def _own_noise_kept(restorer: Restorer) -> Iterator[None]:
    """Give a Restorer its own setting back when the block ends."""
    own = restorer.noise
    try:
        yield
    finally:
        restorer.noise = own


def _score(
    restorer: Restorer,
    name: str,
    restored: NDArray[np.float32],
    sample: Sample,
    protocol: Protocol,
    with_ssim: bool,
) -> Score:
    return Score(
        name=name,
        given=protocol.measure(sample.before, sample, with_ssim),
        restored=protocol.measure(restored, sample, with_ssim),
        noise=restorer.timings.noise,
    )


def _check_noise(restorer: Restorer, noise: NoiseAsked, told_offset: float) -> None:
    if isinstance(noise, str) and noise not in ("auto", "told"):
        raise ConfigError(f"noise={noise!r}: give 'auto', 'told' or a level in units of 1/255")
    if not isinstance(noise, str) and not restorer.facts.noise_level:
        raise ConfigError(f"noise={noise:g}, but this model is told no level; leave it at 'auto'")
    if told_offset and noise != "told":
        raise ConfigError(f"told_offset={told_offset:g} is added to a true level: noise='told'")


def _level(noise: NoiseAsked, sample: Sample, told_offset: float) -> Literal["auto"] | float:
    """What a Restorer is told of one picture."""
    if not isinstance(noise, str):
        return noise
    if noise == "auto" or sample.noise is None:
        return "auto"
    return max(sample.noise + told_offset, 0.0)


def _frame_for(restorer: Restorer, sample: Sample, protocol: Protocol) -> NDArray[np.float32]:
    """What this model is to be given of a sample: a network that keeps the size takes what another
    one enlarges as an enlarged picture."""
    wanted, scale = sample.reference.shape[0] // sample.given.shape[0], restorer.facts.scale
    if scale == wanted:
        return sample.given
    if scale == 1:
        return sample.before
    raise DataError(
        f"the model enlarges by {scale}, and the test {protocol.name} by {wanted}; test it with "
        f"SuperResolution({scale})"
    )


def _is_path(value: object) -> bool:
    return isinstance(value, (str, os.PathLike))


def _pictures(
    data: Data, paired: bool, skipped: list[str], every: int
) -> tuple[int, Iterator[tuple[str, Halves]]]:
    """How many pictures there are, and name and halves of one after another."""
    if isinstance(data, (str, os.PathLike)):
        if paired:
            return _read_pairs(data, data, skipped, every)
        count, images = load_images(data, skipped, every)
        return count, ((name, (image, None)) for name, image in images)
    if isinstance(data, tuple) and len(data) == 2 and _is_path(data[0]):
        if not paired:
            raise ConfigError("two folders are pairs; leave the protocol out, or take Pairs")
        return _read_pairs(data[0], data[1], skipped, every)  # type: ignore[arg-type]
    return len(data), (
        # By the type of `Data` no path is left among these.
        (f"image {index}", (item[1], item[0]) if isinstance(item, tuple) else (item, None))  # type: ignore[misc]
        for index, item in enumerate(data)
    )


def _read_pairs(
    given: PathLike, wanted: PathLike, skipped: list[str], every: int
) -> tuple[int, Iterator[tuple[str, Halves]]]:
    pairs = matched_pairs(given, wanted, skipped)[::every]

    def read() -> Iterator[tuple[str, Halves]]:
        for name, given_path, wanted_path in pairs:
            try:
                degraded, good = read_pair(given_path, wanted_path)
            except ImageError as error:
                skipped.append(str(error))
            else:
                yield name, (good, degraded)

    return len(pairs) + len(skipped), read()


def load_images(
    data: PathLike, skipped: list[str], every: int = 1
) -> tuple[int, Iterator[tuple[str, Picture]]]:
    """How many image files there are, and name and (H, W, 3) uint8 pixels of one after another;
    those that cannot be read are described in ``skipped``."""
    try:
        paths: list[Path] = find_images([data])[::every]
    except ImageError as error:
        raise DataError(str(error)) from error

    def read() -> Iterator[tuple[str, Picture]]:
        for path in paths:
            try:
                yield path.name, upright_rgb(read_image(path))
            except ImageError as error:
                skipped.append(str(error))

    return len(paths), read()


def mean_score(scores: Sequence[Score]) -> Score:
    """Figures that every picture has, each the mean of those that are numbers."""

    def mean(figures: Sequence[Figures]) -> Figures:
        return {name: _mean([each[name] for each in figures]) for name in figures[0]}

    levels = [score.noise for score in scores if score.noise is not None]
    return Score(
        name="mean",
        given=mean([score.given for score in scores]),
        restored=mean([score.restored for score in scores]),
        noise=_mean(levels) if levels else None,
    )


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan
