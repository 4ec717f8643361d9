"""The figures of a model's card: all the tests of its task, on the sets that a folder holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.bundled import PHOTO
from mirnet_edge.engines.fake import FakeEngine
from mirnet_edge.engines.protocol import Tiles
from mirnet_edge.errors import DataError, MissingDependencyError
from mirnet_edge.facts import ModelFacts
from mirnet_edge.frame_path import StageProgress
from mirnet_edge.restore import Restorer
from mirnet_edge.workstation.evaluate import Data, Evaluation, NoiseAsked, evaluate_model
from mirnet_edge.workstation.protocols import (
    Denoising,
    Figures,
    Pairs,
    Protocol,
    SuperResolution,
)

GAMMA = 1 / 2.2
"""Of the simplest way to lift a dark picture, which stands beside models that do it."""
LEVELS = (5.0, 10.0, 15.0)
"""Noise levels that real noise is tried with, as those of FFDNet were measured."""
OFFSET = 5.0
"""How far a level is off that is told wrong, to see what that costs."""
OF_PACKAGE = "photo"
"""The set of the one photo that comes with the package."""
FEW = 16
"""Up to so many pictures, their figures are kept one by one."""


@dataclass(frozen=True)
class Trial:
    """One row of figures: a test on a set.

    Attributes:
        data: name of the set, a folder's.
        protocol: the test.
        noise, told_offset: see `evaluate_model`.
    """

    data: str
    protocol: Protocol
    noise: NoiseAsked = "auto"
    told_offset: float = 0.0

    @property
    def is_tried(self) -> bool:
        """Whether the level is one that is neither the model's own estimate nor the truth."""
        return not isinstance(self.noise, str) or self.told_offset != 0


@dataclass(frozen=True)
class Row:
    """Figures of one trial.

    Attributes:
        data: name of the set.
        images: how many pictures were tested.
        protocol, sentence: its name, and what it does.
        noise: level that was asked for; "" for a model that is told none.
        level: mean of the levels that the model was told, in units of 1/255.
        given, restored: mean figures.
        method: what restored: "model", or what stands beside it.
        each: PSNR of the restored pictures by name, where they are few.
        note: what is missing, and why.
    """

    data: str
    images: int
    protocol: str
    sentence: str
    noise: str
    level: float | None
    given: Figures
    restored: Figures
    method: str = "model"
    each: dict[str, float] = dataclasses.field(default_factory=dict)
    note: str = ""


def trials_of(facts: ModelFacts) -> list[Trial]:
    """All the tests of a model's task, whichever sets there are."""
    if facts.task == "super-resolution":
        tests = [SuperResolution(max(facts.scale, 2), jpeg=jpeg) for jpeg in (None, 85)]
        return [Trial(data, test) for test in tests for data in ("set5", "set14")]
    if facts.task == "enhance":
        return [Trial("lol_train4", Pairs(brightness=True))]
    return list(_denoising_trials(facts))


def _denoising_trials(facts: ModelFacts) -> Iterator[Trial]:
    told: NoiseAsked = "told" if facts.noise_level else "auto"
    for sigma in (15.0, 25.0, 50.0):
        yield Trial("cbsd68", Denoising(sigma), told)
    for data in ("set5", "set14"):
        yield Trial(data, Denoising(25.0), told)
    cameras = (Denoising(25.0, gray=True), Denoising(25.0, jpeg=95), Denoising(25.0, jpeg=75),
               Denoising(15.0, codec="h264"), Denoising(0.0))  # fmt: skip
    for data in (OF_PACKAGE, "cbsd68"):
        for protocol in (Denoising(25.0), *cameras) if facts.noise_level else cameras:
            yield Trial(data, protocol)
    yield Trial("polyu", Pairs())
    if facts.noise_level:
        for sigma_told in (25.0 - OFFSET, 25.0 + OFFSET):
            yield Trial("cbsd68", Denoising(25.0), sigma_told)
        for offset in (-OFFSET, 0.0, OFFSET):
            yield Trial("polyu", Pairs(), "told", offset)
        for level in LEVELS:
            yield Trial("polyu", Pairs(), level)


def card_figures(
    restorer: Restorer,
    sets: Path,
    *,
    with_ssim: bool = True,
    every: int = 1,
    progress: StageProgress | None = None,
) -> list[Row]:
    """Run all the tests of a model's task on the sets below a folder.

    Args:
        sets: holds ``cbsd68``, ``set5``, ``set14`` (clean pictures), ``polyu`` (pairs ``…_real``,
            ``…_mean``) and ``lol_train4`` (pairs in ``imgs`` and ``targets``, or ``low`` and
            ``high``), or some of them; tests on others are left out. The photo of the package is
            always there.
        every: take every so many pictures of each set only.

    Raises:
        DataError: no set of the model's task is there.
    """
    trials = trials_of(restorer.facts)
    there = [trial for trial in trials if trial.data == OF_PACKAGE or (sets / trial.data).is_dir()]
    if all(trial.data == OF_PACKAGE for trial in there):
        names = ", ".join(dict.fromkeys(trial.data for trial in trials if trial.data != OF_PACKAGE))
        raise DataError(f"{sets}: holds none of the sets for {restorer.facts.task!r}: {names}")
    rows: list[Row] = []
    for trial in there:
        stage = f"{trial.data}, {trial.protocol.name}"

        def of_stage(done: int, total: int, stage: str = stage) -> None:
            if progress:
                progress(stage, done, total)

        try:
            evaluation = evaluate_model(
                restorer,
                data_of(sets, trial.data),
                trial.protocol,
                noise=trial.noise,
                told_offset=trial.told_offset,
                # Of levels that are tried out PSNR is asked, and SSIM takes longer than the model.
                with_ssim=with_ssim and not trial.is_tried,
                every=every,
                progress=of_stage,
            )
        except MissingDependencyError as error:  # one codec less is no reason to measure nothing
            rows.append(_not_measured(trial, str(error)))
            continue
        rows.append(_row(trial, evaluation, restorer.facts.noise_level))
        if restorer.facts.task == "enhance":
            rows += _beside(trial, sets, with_ssim, every)
    return rows


def data_of(sets: Path, name: str) -> Data:
    """A set as `evaluate_model` takes it: two folders where it has them."""
    if name == OF_PACKAGE:
        return PHOTO
    folder = sets / name
    given, wanted = folder / "imgs", folder / "targets"
    return (given, wanted) if given.is_dir() and wanted.is_dir() else folder


def _row(trial: Trial, evaluation: Evaluation, is_told: bool, method: str = "model") -> Row:
    mean, scores = evaluation.mean, evaluation.scores
    offset = f" {trial.told_offset:+g}" if trial.told_offset else ""
    noise = trial.noise if isinstance(trial.noise, str) else f"{trial.noise:g}"
    return Row(
        data=trial.data,
        images=len(scores),
        protocol=evaluation.protocol,
        sentence=evaluation.sentence,
        noise=noise + offset if is_told else "",
        level=mean.noise,
        given=mean.given,
        restored=mean.restored,
        method=method,
        each={score.name: score.psnr for score in scores} if len(scores) <= FEW else {},
        note="; ".join((*evaluation.skipped, evaluation.note)).strip("; "),
    )


def _not_measured(trial: Trial, reason: str) -> Row:
    protocol = trial.protocol
    return Row(trial.data, 0, protocol.name, protocol.sentence, "", None, {}, {}, note=reason)


def _beside(trial: Trial, sets: Path, with_ssim: bool, every: int) -> Iterator[Row]:
    """What the same pictures gain by ways that need no network."""
    ways = {"gamma 1/2.2": lifted, "histogram equalization": equalized}
    for method, way in ways.items():
        with Restorer(FakeEngine(way), tile=None) as restorer:
            evaluation = evaluate_model(
                restorer, data_of(sets, trial.data), trial.protocol, with_ssim=with_ssim,
                every=every,
            )  # fmt: skip
        yield _row(trial, evaluation, is_told=False, method=method)


def lifted(tiles: Tiles) -> Tiles:
    """Lift (N, C, H, W) by `GAMMA`."""
    result: Tiles = tiles ** np.float32(GAMMA)
    return result


def equalized(tiles: Tiles) -> Tiles:
    """Equalize the luma's histogram of (1, 3, H, W), and add to all channels what it gains."""
    weights = np.array([0.299, 0.587, 0.114], np.float32)[:, None, None]
    luma = (tiles[0] * weights).sum(0)
    codes = np.rint(255 * luma).astype(np.int64)
    share: NDArray[np.float64] = np.bincount(codes.ravel(), minlength=256).cumsum() / codes.size
    result: Tiles = tiles + (share[codes].astype(np.float32) - luma)
    return result
