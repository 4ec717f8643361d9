"""How every graph runs on ONNX Runtime here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mirnet_edge._imports import require
from mirnet_edge.system import usable_cores

if TYPE_CHECKING:
    from onnxruntime import SessionOptions


def session_options(threads: int | None = None) -> SessionOptions:
    """The options of a session.

    Args:
        threads: CPU threads; None takes all that this process may use.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
    """
    options: SessionOptions = require("onnxruntime", "running graphs").SessionOptions()
    options.intra_op_num_threads = threads or usable_cores()
    # What fails is raised and translated where the session runs; the log would say it twice.
    options.log_severity_level = 4
    # edge-s at 512x512, onnxruntime 1.32, two cores: 244 MB without memory patterns, 467 with, at
    # the same speed.
    options.enable_mem_pattern = False
    return options
