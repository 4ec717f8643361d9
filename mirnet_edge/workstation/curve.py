"""The curve of a training run: its points, and their picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from mirnet_edge._files import atomic_path
from mirnet_edge._imports import require


@dataclass(frozen=True)
class Point:
    """One point of the curve.

    ``loss`` is the mean since the point before; ``psnr`` the mean over the validation images at
    sigma 25 in dB, None where there are none; ``learning_rate`` that of the last step; ``seconds``
    those of training so far, of earlier runs too.
    """

    step: int
    loss: float
    psnr: float | None
    learning_rate: float
    seconds: float


def plot_curve(curve: Sequence[Point], path: str | os.PathLike[str]) -> None:
    """Draw loss and validation PSNR over the steps as PNG."""
    # Not pyplot, which would look for a display and keep the figure.
    matplotlib = require("matplotlib.figure", "drawing the training curve")
    figure = matplotlib.Figure(figsize=(7, 4), layout="constrained")
    loss_axis = figure.subplots()
    loss_axis.plot([p.step for p in curve], [p.loss for p in curve], color="tab:gray")
    loss_axis.set(xlabel="step", ylabel="Charbonnier loss", yscale="log")
    validated = [(p.step, p.psnr) for p in curve if p.psnr is not None]
    if validated:
        psnr_axis = loss_axis.twinx()
        psnr_axis.plot(*zip(*validated, strict=True), color="tab:blue")
        psnr_axis.set_ylabel("validation PSNR at sigma 25 (dB)", color="tab:blue")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
