"""What a viewer keeps of a live view: pairs of pictures, and frames to calibrate with."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mirnet_edge._files import make_folder
from mirnet_edge.errors import MirnetEdgeError
from mirnet_edge.frames.images import write_image
from mirnet_edge.live.pictures import Pair, picture

EVERY_S = 2.0
"""Between frames for calibration: those that follow at once look alike."""
MOST_FRAMES = 256


class Keeping:
    """Writes to a folder: pairs to ``snapshots`` in it, frames as the source gave them to
    ``calibration``, which `quantize` and `build` take.

    Args:
        folder: made, and those in it, when something is written.
        every_s: between two frames for calibration.
    """

    def __init__(self, folder: Path, every_s: float = EVERY_S) -> None:
        self.snapshots, self.calibration = folder / "snapshots", folder / "calibration"
        self.every_s = every_s
        self._written: list[Path] = []
        self._collects, self._frames, self._message, self._due = False, 0, "", 0.0
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="mirnet-edge keeping")
        self._writing: Future[None] | None = None

    def snapshot(self, pair: Pair) -> tuple[Path, Path]:
        """Write a pair; OutputError says why it cannot be."""
        paths = pair.save(self.snapshots, f"{_now()}-{pair.number:06}")
        self._written += paths
        return paths

    def written(self, name: str) -> Path | None:
        """The snapshot of that file name, of this view's own alone."""
        return next((path for path in self._written if path.name == name), None)

    def collect(self, on: bool) -> None:
        """Begin or end to collect frames for calibration; it ends by itself after `MOST_FRAMES`."""
        self._collects, self._message, self._due = on, "", 0.0

    def offer(self, frame: NDArray[Any]) -> None:
        """Keep a frame for calibration where one is due; does not wait for the disk."""
        now = time.monotonic()
        if not self._collects or now < self._due or (self._writing and not self._writing.done()):
            return
        self._due = now + self.every_s
        self._writing = self._writer.submit(self._write, frame)

    def _write(self, frame: NDArray[Any]) -> None:
        try:
            make_folder(self.calibration)
            name = f"{_now()}-{self._frames:04}.png"
            write_image(self.calibration / name, picture(frame))
        except MirnetEdgeError as error:
            self._collects, self._message = False, str(error)
            return
        self._frames += 1
        if self._frames >= MOST_FRAMES:
            self._collects = False

    def state(self) -> dict[str, Any]:
        """How much was kept, and where."""
        return {
            "snapshots": len(self._written) // 2,
            "collects": self._collects,
            "frames": self._frames,
            "most": MOST_FRAMES,
            "folder": str(self.calibration),
            "message": self._message,
        }

    def close(self) -> None:
        """Finish what is being written."""
        self._collects = False
        self._writer.shutdown()


def _now() -> str:
    return time.strftime("%Y%m%d-%H%M%S")
