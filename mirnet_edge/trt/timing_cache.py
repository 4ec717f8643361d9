"""The file in which TensorRT's timings of kernels outlive a build, so that the next is short."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mirnet_edge._caches import read_own, write_own
from mirnet_edge.errors import OutputError


def timing_cache_name(device: str, tensorrt: str) -> str:
    """Name a file for one TensorRT on one kind of GPU: timings are good for no other."""
    return re.sub(r"[^\w.]+", "-", f"{device}-{tensorrt}").strip("-") + ".timing_cache"


class TimingCache:
    """The timings of a file, given to an ``IBuilderConfig`` before a build, and written back after.
    What TensorRT does not take is ignored; `notes` tell the card of that."""

    def __init__(self, config: Any, path: Path) -> None:
        self.path, self._config = path, config
        self.notes: list[str] = []
        for stored in (self._read(), b""):
            self._cache = cache = self._created(stored)  # TensorRT needs it until the build ends
            if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
                break
            if stored:
                self.notes.append(
                    f"the timing cache {path.name} is damaged or of another GPU or TensorRT; it is "
                    "replaced"
                )

    def save(self) -> None:
        """Write the timings of the build to the file, with those that another build has written to
        it meanwhile."""
        cache = self._config.get_timing_cache()
        if cache is None:
            return
        stored = self._read()
        other = self._created(stored) if stored else None
        if other is not None:
            cache.combine(other, ignore_mismatch=False)
        try:
            write_own(self.path, bytes(cache.serialize()))
        except OutputError as error:
            self.notes.append(f"the timing cache was not saved: {error}")

    def _read(self) -> bytes:
        # It lies beside the engine, in a folder that others may read and write: what they wrote is
        # not given to TensorRT.
        try:
            return read_own(self.path)
        except FileNotFoundError:
            return b""
        except OSError as error:
            self.notes.append(f"the timing cache was not read: {error}")
            return b""

    def _created(self, stored: bytes) -> Any | None:
        """Make an ``ITimingCache``; None where TensorRT makes none of the bytes."""
        try:
            return self._config.create_timing_cache(stored)
        except (TypeError, ValueError, RuntimeError):
            return None
