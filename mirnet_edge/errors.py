"""Every error the package raises on purpose.

    MirnetEdgeError
    ├── ConfigError        a network, training or task configuration that cannot be built
    ├── CheckpointError    a weights file that is damaged, unsafe or not a MIRNet
    ├── ExportError        an export whose graph disagrees with PyTorch, or could not be made
    ├── GraphError         an ONNX graph that cannot be read, rewritten or quantized
    ├── BuildError         an engine TensorRT could not build, or that is not worth keeping
    │   ├── BuildDiedError      a build process that crashed or was killed
    │   └── RefusedPairsError   Q/DQ pairs that TensorRT refuses without naming them
    ├── EngineError        a model file no engine can load, or a run that failed
    ├── DeviceError        a GPU or its driver: absent, too old, out of memory, lost
    │   ├── DeviceMemoryError   the GPU's memory does not suffice
    │   └── DeviceLostError   a GPU that this process cannot have again
    ├── TilingError        a tile, halo or blend that cannot cover a frame
    ├── FrameError         an array that is no frame: its shape, dtype or channels
    ├── StreamError        a source of frames or a sink that failed
    ├── ImageError         an image file that cannot be read
    ├── OutputError        a file that cannot be written: permission, space, already there
    ├── DataError          a folder of images that cannot be trained or evaluated on
    ├── CalibrationError   calibration images or recorded ranges that cannot be used
    ├── ClusterError       a Ray cluster: not there, without room for a worker, or lost
    └── MissingDependencyError   an optional package that is not installed

A message says what is wrong, with the values, and what to do next. Errors of the libraries
below are translated at the boundary and kept as ``__cause__``.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TRACEBACK = "MIRNET_EDGE_TRACEBACK"


class MirnetEdgeError(Exception):
    """Base of every error raised on purpose by mirnet_edge."""


class ConfigError(MirnetEdgeError):
    """A network, training or task configuration that cannot be built."""


class CheckpointError(MirnetEdgeError):
    """A weights file that is damaged, unsafe or not a MIRNet."""


class ExportError(MirnetEdgeError):
    """An export whose graph disagrees with PyTorch, or could not be made."""


class GraphError(MirnetEdgeError):
    """An ONNX graph that cannot be read, rewritten or quantized."""


class BuildError(MirnetEdgeError):
    """An engine that TensorRT could not build, or that is not worth keeping."""


class BuildDiedError(BuildError):
    """A build process that crashed or was killed."""


class RefusedPairsError(BuildError):
    """Q/DQ pairs that TensorRT refuses without naming them."""


class EngineError(MirnetEdgeError):
    """A model file that no engine can load, or a run that failed."""


class DeviceError(MirnetEdgeError):
    """A GPU or its driver: absent, too old, out of memory, or lost."""


class DeviceMemoryError(DeviceError):
    """The GPU's memory does not suffice."""


class DeviceLostError(DeviceError):
    """A GPU that this process cannot have again; another process can."""


class TilingError(MirnetEdgeError):
    """A tile, halo or blend that cannot cover a frame."""


class FrameError(MirnetEdgeError):
    """An array that is no frame: its shape, dtype or channels."""


class StreamError(MirnetEdgeError):
    """A source of frames or a sink that failed."""


class ImageError(MirnetEdgeError):
    """An image file that cannot be read."""


class OutputError(MirnetEdgeError):
    """A file that cannot be written: permission, space, or already there."""


class DataError(MirnetEdgeError):
    """A folder of images that cannot be trained or evaluated on."""


class CalibrationError(MirnetEdgeError):
    """Calibration images or recorded ranges that cannot be used."""


class ClusterError(MirnetEdgeError):
    """A Ray cluster that is not there, has no room for a worker, or lost all of them."""


class MissingDependencyError(MirnetEdgeError):
    """An optional package that is not installed."""


@contextmanager
def placed(where: str) -> Iterator[None]:
    """Let messages of our errors in a block begin with where they come from; "" leaves them."""
    try:
        yield
    except MirnetEdgeError as error:
        if where and not str(error).startswith(where):
            error.args = (f"{where}: {error}",)
        raise


def first_line(error: BaseException) -> str:
    """The first line of a foreign error's message, to quote in one of ours."""
    return str(error).strip().partition("\n")[0]


def message_of(error: Exception) -> str:
    """What to say of an error: ours as it is; of any other, which is a mistake of this package,
    where it happened."""
    if isinstance(error, MirnetEdgeError):
        return str(error)
    if isinstance(error, MemoryError):
        return str(error) or "out of memory"
    place = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"unexpected {type(error).__name__} at {Path(place.filename).name}:{place.lineno}: "
        f"{first_line(error)}; please report it, with what {TRACEBACK}=1 prints"
    )


def wanted_traceback(error: Exception) -> str:
    """The traceback of what is a mistake of this package, where the user asks for it; else ""."""
    is_told = isinstance(error, (MirnetEdgeError, MemoryError))
    wanted = os.environ.get(TRACEBACK) and not is_told
    return "".join(traceback.format_exception(error)) if wanted else ""
