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
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mirnet_edge._files import atomic_path
from mirnet_edge._version import __version__
from mirnet_edge.errors import CalibrationError, first_line
from mirnet_edge.frame_path import Progress
from mirnet_edge.graph.file import dims_of, graph_sha256, with_shape
from mirnet_edge.quantize.calibration import tiles_sha256
from mirnet_edge.quantize.ranges.histogram import Histogram, entropy_clip, mse_clip, percentile_clip
from mirnet_edge.quantize.ranges.observe import extremes, grouped, histograms

if TYPE_CHECKING:
    from onnx import ModelProto

T = TypeVar("T")
METHODS = ("minmax", "percentile", "entropy", "mse")
FORMAT = 1
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


@dataclass(frozen=True)
class Ranges:
    """Ranges of one graph's tensors, for that graph alone.

    Attributes:
        graph_sha256: of the graph they were measured in (see `graph.file.graph_sha256`).
        method: one of `METHODS`.
        tensors: by name.
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
        """Write a JSON file, sorted by name.

        Raises:
            OutputError: the file cannot be written.
        """
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=2, sort_keys=True)
        with atomic_path(path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Ranges:
        """Read what `save` wrote.

        Raises:
            CalibrationError: no such file, or one that holds no ranges of this format.
        """
        return load_json(path, "calibration ranges", _ranges_from)

    def require(self, graph_sha256: str) -> None:
        """Refuse a graph that these ranges were not measured in.

        Raises:
            CalibrationError: its hash is another one.
        """
        if graph_sha256 != self.graph_sha256:
            raise CalibrationError(
                f"these calibration ranges are of the graph {self.graph_sha256}, but the graph is "
                f"{graph_sha256}: it was changed or exported again since. {_RECORD.capitalize()}"
            )


_RECORD = "record the ranges again with: mirnet-edge quantize"


def load_json(path: str | os.PathLike[str], what: str, make: Callable[[dict[str, Any]], T]) -> T:
    """What ``make`` makes of the fields of a JSON file of this `FORMAT`.

    Raises:
        CalibrationError: no such file, or one from which it cannot be made.
    """
    try:
        fields = json.loads(Path(path).read_text(encoding="utf-8"))
        stored = fields.pop("format")
        if stored != FORMAT:
            raise CalibrationError(f"its format is {stored!r}")
        return make(fields)
    except FileNotFoundError as error:
        raise CalibrationError(f"{path}: no such file; {_RECORD}") from error
    # Whoever wrote the file, nothing in it may end in a traceback: it is a user's, and old ones are
    # of other fields.
    except (CalibrationError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        kind = "" if isinstance(error, CalibrationError) else f"{type(error).__name__}: "
        raise CalibrationError(
            f"{path}: no {what} of format {FORMAT} ({kind}{first_line(error)}); {_RECORD}"
        ) from error


def _ranges_from(fields: dict[str, Any]) -> Ranges:
    if fields["method"] not in METHODS:
        raise CalibrationError(f"its method is {fields['method']!r}")
    tensors = {}
    for name, found in fields["tensors"].items():
        low, high, amax = (float(found[key]) for key in ("minimum", "maximum", "amax"))
        if not (0 < amax < math.inf and -math.inf < low <= high < math.inf):
            raise CalibrationError(f"tensor {name!r} has amax {amax} and lies in [{low}, {high}]")
        tensors[name] = TensorRange(amax, low, high)
    percentile = fields["percentile"]
    return Ranges(
        graph_sha256=str(fields["graph_sha256"]),
        method=fields["method"],
        tensors=tensors,
        calibration_sha256=str(fields["calibration_sha256"]),
        tiles=int(fields["tiles"]),
        percentile=None if percentile is None else float(percentile),
        version=str(fields["version"]),
    )


def collect_ranges(
    proto: ModelProto,
    tiles: NDArray[np.float32],
    method: str = "percentile",
    *,
    percentile: float = 99.99,
    tensors: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Ranges:
    """Run the tiles through a graph on ONNX Runtime, one by one, and measure its tensors.

    ``minmax`` takes the largest magnitude; what the others take say `percentile_clip`,
    `entropy_clip` and `mse_clip`. The result is the same for the same tiles in any order.

    Args:
        proto: with one float32 input (N, C, H, W), of open sizes or of the tiles' own.
        tiles: (N, C, H, W) float32.
        percentile: above 0, at most 100; only for that method.
        tensors: names of float32 tensors; None takes what every convolution reads.
        progress: called with (runs done, runs).

    Raises:
        CalibrationError: tiles, method or tensors that cannot be; a tensor that is not finite.
        GraphError: the graph does not take tiles of this size.
        MissingDependencyError: onnx is not installed.
    """
    if method not in METHODS:
        raise CalibrationError(f"method {method!r}: use one of {', '.join(METHODS)}")
    if not 0 < percentile <= 100:
        raise CalibrationError(f"percentile={percentile}: it must be above 0 and at most 100")
    _check_tiles(proto, tiles)
    sized = with_shape(proto, 1, *tiles.shape[2:])
    names = convolution_inputs(proto) if tensors is None else list(dict.fromkeys(tensors))
    groups = grouped(sized, names)
    # Each group of tensors that leaves the graph takes a pass of its own.
    runs = len(tiles) * (1 if method == "minmax" else 1 + len(groups))
    count = itertools.count(1)

    def step() -> None:
        if progress:
            progress(next(count), runs)

    ends = extremes(sized, names, tiles, step)
    amax = {name: _amax(low, high) for name, (low, high) in ends.items()}
    if method != "minmax":
        for name, histogram in histograms(sized, groups, amax, tiles, step):
            amax[name] = _clip(histogram, method, percentile)
    return Ranges(
        graph_sha256=graph_sha256(proto),
        method=method,
        tensors={name: TensorRange(amax[name], *ends[name]) for name in names},
        calibration_sha256=tiles_sha256(tiles),
        tiles=len(tiles),
        percentile=percentile if method == "percentile" else None,
    )


def _amax(minimum: float, maximum: float) -> float:
    amax = max(-minimum, maximum)
    return amax if amax > NEGLIGIBLE else AMAX_OF_NOTHING


def _clip(histogram: Histogram, method: str, percentile: float) -> float:
    if method == "percentile":
        return percentile_clip(histogram, percentile)
    return entropy_clip(histogram) if method == "entropy" else mse_clip(histogram)


def convolution_inputs(proto: ModelProto) -> list[str]:
    """Names of the tensors that Conv and ConvTranspose nodes read, constants left out, each once,
    in the graph's order."""
    constants = {tensor.name for tensor in proto.graph.initializer}
    constants |= {node.output[0] for node in proto.graph.node if node.op_type == "Constant"}
    read = [node.input[0] for node in proto.graph.node if node.op_type in ("Conv", "ConvTranspose")]
    return [name for name in dict.fromkeys(read) if name not in constants]


def _check_tiles(proto: ModelProto, tiles: NDArray[np.float32]) -> None:
    if tiles.ndim != 4 or tiles.dtype != np.float32 or not tiles.size:
        raise CalibrationError(
            f"tiles of shape {tiles.shape} and dtype {tiles.dtype}: need (N, C, H, W) float32"
        )
    dims = dims_of(proto.graph.input[0])
    if len(proto.graph.input) != 1 or len(dims) != 4 or dims[1] not in (0, tiles.shape[1]):
        raise CalibrationError(
            f"the graph's inputs are {[(item.name, dims_of(item)) for item in proto.graph.input]}; "
            f"the tiles need one of shape (N, {tiles.shape[1]}, H, W)"
        )
