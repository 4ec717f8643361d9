"""The curve of a training run: its points, and their picture."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mirnet_edge._files import atomic_path
from mirnet_edge._imports import require


@dataclass(frozen=True)
class Point:
    """One point of the curve.

    ``loss`` is the mean since the point before; ``psnr`` the mean of each validation set in dB by
    its name, empty where there are none; ``learning_rate`` that of the last step; ``seconds`` those
    of training so far, of earlier runs too.
    """

    step: int
    loss: float
    psnr: Mapping[str, float]
    learning_rate: float
    seconds: float


def plot_curve(curve: Sequence[Point], path: str | os.PathLike[str]) -> None:
    """Draw loss and the PSNR of all validation sets over the steps as PNG."""
    # Not pyplot, which would look for a display and keep the figure.
    matplotlib = require("matplotlib.figure", "drawing the training curve")
    figure = matplotlib.Figure(figsize=(7, 4), layout="constrained")
    loss_axis = figure.subplots()
    loss_axis.plot([p.step for p in curve], [p.loss for p in curve], color="tab:gray")
    loss_axis.set(xlabel="step", ylabel="loss", yscale="log")
    sets = list(dict.fromkeys(name for point in curve for name in point.psnr))
    if sets:
        psnr_axis = loss_axis.twinx()
        psnr_axis.set_ylabel("validation PSNR (dB)")
        for number, name in enumerate(sets):
            validated = [(p.step, p.psnr[name]) for p in curve if name in p.psnr]
            steps, decibels = zip(*validated, strict=True)
            psnr_axis.plot(steps, decibels, color=f"C{number}", label=f"{name} {decibels[-1]:.2f}")
        psnr_axis.legend(loc="lower right", fontsize="small")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
