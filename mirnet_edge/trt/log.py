"""What TensorRT says, in Python's logging; the causes of its failures stand only there."""

from __future__ import annotations

import logging
import re
import threading
import weakref
from types import ModuleType

from mirnet_edge._imports import require

LOGGER = logging.getLogger("mirnet_edge.tensorrt")
LOGGER.addHandler(logging.NullHandler())  # an error is raised with its text, not printed as well
KEPT_ERRORS = 16
QUOTED_ERRORS = 3
_OUT_OF_MEMORY = re.compile(
    r"insufficient (memory|workspace)|out of memory|OutOfMemory|cudaErrorMemoryAllocation"
    r"|Requested amount of GPU memory|memory allocation|could not be allocated",
    re.IGNORECASE,
)

_logs: weakref.WeakSet[Log] = weakref.WeakSet()
_guard = threading.RLock()  # collecting garbage inside may free what logs as it goes
_process_logger: object = None


class Log:
    """Keeps the texts of TensorRT's last errors, all of which also go to the logger
    "mirnet_edge.tensorrt" with its warnings, and with the rest at its levels INFO and DEBUG.

    TensorRT holds one logger a process, the first it is given, and ignores any other; so there is
    one, kept until the process ends, and every Log hears all of it: two engines that fail at the
    same time in two threads may quote each other.

    Attributes:
        errors: the last `KEPT_ERRORS` texts, oldest first. Clear it before a step whose failure is
            to be explained.
    """

    def __init__(self) -> None:
        self.errors: list[str] = []
        with _guard:
            _logs.add(self)

    def make_logger(self) -> object:
        """Make the ``trt.ILogger`` to give to a builder, parser or runtime."""
        global _process_logger
        trt = require("tensorrt", "logging of TensorRT")
        with _guard:
            if _process_logger is None:
                _process_logger = _make_logger(trt)
            return _process_logger

    def cause(self) -> str:
        """Join the last errors in one line, to quote in an error of ours."""
        quoted = list(dict.fromkeys(self.errors))[-QUOTED_ERRORS:]
        return "; ".join(quoted) if quoted else "TensorRT gave no reason"


def lacks_memory(cause: str) -> bool:
    """Whether TensorRT's words mean that memory did not suffice: it has no code for that."""
    return _OUT_OF_MEMORY.search(cause) is not None


def _make_logger(trt: ModuleType) -> object:
    severity = trt.ILogger.Severity
    levels = {
        severity.INTERNAL_ERROR: logging.ERROR,
        severity.ERROR: logging.ERROR,
        severity.WARNING: logging.WARNING,
        severity.VERBOSE: logging.DEBUG,
    }

    class ProcessLogger(trt.ILogger):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: object, msg: str) -> None:
            level = levels.get(severity, logging.INFO)
            if level >= logging.ERROR:
                text = " ".join(str(msg).split())
                with _guard:
                    listening = list(_logs)
                for log in listening:
                    log.errors.append(text)
                    del log.errors[:-KEPT_ERRORS]
            if LOGGER.isEnabledFor(level):
                LOGGER.log(level, "%s", msg)

    return ProcessLogger()
