"""Ranges of a graph's tensors over a calibration set: what INT8 quantization clips to.

Two passes over the tiles. The first takes each tensor's extremes inside the graph; the second
fills histograms whose range is then known, so that neither their resolution nor their size depends
on which tile comes first. All ranges are symmetric: one ``amax`` a tensor, of which 127 levels are
made to either side.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mirnet_edge._files import atomic_path, read_json
from mirnet_edge._typed import dataclass_of
from mirnet_edge._version import __version__
from mirnet_edge.errors import CalibrationError, first_line
from mirnet_edge.frame_path import Progress
from mirnet_edge.graph.file import graph_sha256
from mirnet_edge.quantize.calibration import tiles_sha256
from mirnet_edge.quantize.ranges.histogram import (
    PERCENTILE,
    entropy_clip,
    mse_clip,
    percentile_clip,
)
from mirnet_edge.quantize.ranges.observe import extremes, grouped, histograms

if TYPE_CHECKING:
    from onnx import ModelProto

T = TypeVar("T")
CLIPS = {"percentile": percentile_clip, "entropy": entropy_clip, "mse": mse_clip}
METHODS = ("minmax", *CLIPS)
"""The first takes the largest magnitude."""
FORMAT = 1
RECORD = "record the ranges again with: mirnet-edge quantize"
NEGLIGIBLE, AMAX_OF_NOTHING = 1e-30, 1.0
"""A tensor of such magnitudes counts as zero, and any range would do, but it must be positive."""


@dataclass(frozen=True)
class TensorRange:
    """Of one tensor over all calibration tiles.

    Attributes:
        amax: quantization clips to [-amax, amax]; positive.
        minimum, maximum: measured.
    """

    amax: float
    minimum: float
    maximum: float

    @property
    def clip(self) -> tuple[float, float]:
        """The least interval that has zero, and all of what was measured that amax leaves."""
        return max(min(self.minimum, 0.0), -self.amax), min(max(self.maximum, 0.0), self.amax)


@dataclass(frozen=True)
class Ranges:
    """Ranges of one graph's tensors, for that graph alone.

    Attributes:
        graph_sha256: of the graph they were measured in (see `graph.file.graph_sha256`).
        calibration_sha256: of the tiles (see `CalibrationSet.sha256`).
        tiles: how many.
        percentile: where the method is "percentile", else None.
        version: of mirnet-edge that measured them.
    """

    graph_sha256: str
    method: str
    tensors: dict[str, TensorRange]
    calibration_sha256: str
    tiles: int
    percentile: float | None = None
    version: str = __version__

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON file, sorted by name."""
        with atomic_path(path) as temporary:
            temporary.write_text(self.to_json(), encoding="utf-8")

    def to_json(self) -> str:
        """Write what a file holds."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2, sort_keys=True) + "\n"

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Ranges:
        """Read what `save` wrote; see `load_json`."""
        return load_json(path, "calibration ranges", _ranges_from)


def load_json(path: str | os.PathLike[str], what: str, make: Callable[[dict[str, Any]], T]) -> T:
    """What ``make`` makes of the fields of a JSON file of this `FORMAT`.

    Raises:
        CalibrationError: no such file, or one from which it cannot be made.
    """
    try:
        fields = read_json(path)
        stored = fields.pop("format")
        if stored != FORMAT:
            raise CalibrationError(f"its format is {stored!r}")
        return make(fields)
    except FileNotFoundError as error:
        raise CalibrationError(f"{path}: no such file; {RECORD}") from error
    # Whoever wrote the file, nothing in it may end in a traceback: it is a user's, and old ones are
    # of other fields.
    except (CalibrationError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        kind = "" if isinstance(error, CalibrationError) else f"{type(error).__name__}: "
        raise CalibrationError(
            f"{path}: no {what} of format {FORMAT} ({kind}{first_line(error)}); {RECORD}"
        ) from error


def _ranges_from(fields: dict[str, Any]) -> Ranges:
    ranges = dataclass_of(Ranges, fields)
    if ranges.method not in METHODS:
        raise CalibrationError(f"its method is {ranges.method!r}")
    for name, found in ranges.tensors.items():
        low, high, amax = found.minimum, found.maximum, found.amax
        if not (0 < amax < math.inf and -math.inf < low <= high < math.inf):
            raise CalibrationError(f"tensor {name!r} has amax {amax} and lies in [{low}, {high}]")
    return ranges


def collect_ranges(
    proto: ModelProto,
    tiles: NDArray[np.float32],
    method: str,
    tensors: Sequence[str],
    progress: Progress | None = None,
) -> Ranges:
    """Run the tiles through a graph on ONNX Runtime, one by one, and measure its tensors.

    The result is the same for the same tiles in any order.

    Args:
        proto: of one float32 input, with all shapes known for one of the tiles.
        tiles: (N, C, H, W).
        method: one of `METHODS`.
        tensors: names of float32 tensors, each once.
        progress: called with (runs done, runs).

    Raises:
        CalibrationError: a tensor that is not float32 or not finite.
        GraphError: the graph does not run.
    """
    groups = grouped(proto, tensors)
    # Each group of tensors that leaves the graph takes a pass of its own.
    runs = len(tiles) * (1 if method == "minmax" else 1 + len(groups))
    count = itertools.count(1)

    def step() -> None:
        if progress:
            progress(next(count), runs)

    ends = extremes(proto, tensors, tiles, step)
    largest = {name: max(-low, high) for name, (low, high) in ends.items()}
    amax = {name: end if end > NEGLIGIBLE else AMAX_OF_NOTHING for name, end in largest.items()}
    if method != "minmax":
        for name, histogram in histograms(proto, groups, amax, tiles, step):
            amax[name] = CLIPS[method](histogram)
    return Ranges(
        graph_sha256=graph_sha256(proto),
        method=method,
        tensors={name: TensorRange(amax[name], *ends[name]) for name in tensors},
        calibration_sha256=tiles_sha256(tiles),
        tiles=len(tiles),
        percentile=PERCENTILE if method == "percentile" else None,
    )
