"""The file in which TensorRT's timings of kernels outlive a build, so that the next is short."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mirnet_edge._files import atomic_path
from mirnet_edge.errors import OutputError


def timing_cache_name(device: str, tensorrt: str) -> str:
    """File name for the timings of one TensorRT on one kind of GPU; neither is good for another."""
    return re.sub(r"[^\w.]+", "-", f"{device}-{tensorrt}").strip("-") + ".timing_cache"


class TimingCache:
    """The timings of a file, given to an ``IBuilderConfig`` before a build, and written back after.

    Args:
        path: need not exist. What TensorRT does not take is ignored.

    Attributes:
        notes: for the card: that the file was ignored, that it was not written.
    """

    def __init__(self, config: Any, path: Path) -> None:
        self.path = path
        self.notes: list[str] = []
        stored = _read(path)
        self._cache = _created(config, stored)  # TensorRT needs it until the build ends
        if self._cache is not None and config.set_timing_cache(self._cache, ignore_mismatch=False):
            return
        if stored:
            self.notes.append(
                f"the timing cache {path.name} is damaged or of another GPU or TensorRT; it is "
                "replaced"
            )
        self._cache = _created(config, b"")
        if self._cache is not None:
            config.set_timing_cache(self._cache, ignore_mismatch=False)

    def save(self, config: Any) -> None:
        """Write the timings of the build to the file, with those that another build has written to
        it meanwhile."""
        cache = config.get_timing_cache()
        if cache is None:
            return
        stored = _read(self.path)
        other = _created(config, stored) if stored else None
        if other is not None:
            cache.combine(other, ignore_mismatch=False)
        try:
            with atomic_path(self.path) as temporary, temporary.open("wb") as file:
                file.write(cache.serialize())
        except OutputError as error:
            self.notes.append(f"the timing cache was not saved: {error}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _created(config: Any, stored: bytes) -> Any | None:
    """An ``ITimingCache``, or None where TensorRT makes none of the bytes."""
    try:
        return config.create_timing_cache(stored)
    except (TypeError, ValueError, RuntimeError):
        return None
