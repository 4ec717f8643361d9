"""What ``mirnet-edge tune`` found fastest for a model on this device, and where that is kept.

In the folder ``tuned`` of the user's cache (see `cuda.compiler`), and not beside the model: an
engine is native code, and whoever hands on a model must not be able to hand on one with it. A file
is named after the model and its content, so that another model of that name has an answer of its
own; the engine of ``x.json`` is ``x.engine``.
"""

from __future__ import annotations

import glob
import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from mirnet_edge._caches import read_own, write_own
from mirnet_edge._files import file_sha256
from mirnet_edge._imports import require
from mirnet_edge._typed import dataclass_of, parse_json
from mirnet_edge.bundled import bundled_model
from mirnet_edge.cuda.compiler import cache_folder
from mirnet_edge.cuda.driver import start_driver
from mirnet_edge.engines.card import EngineCard, card_path
from mirnet_edge.errors import DeviceError, EngineError, MissingDependencyError
from mirnet_edge.pooling import Mode
from mirnet_edge.system import cpu_name, usable_cores

FORMAT = 1
ModelPath = str | os.PathLike[str]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tuned:
    """The answer, and what it was chosen from.

    Attributes:
        device: cpu, cores, and gpu ("" where there is none).
        frame: (height, width) of the frames that were timed.
        psnr_db: that was asked for, against whole frames in FP32.
        has_engine: whether an engine was the fastest; else it is the model itself.
        tile: (height, width).
        statistics, threads, provider: see `Restorer`.
        ms: median time of a frame.
        tried: everything that was measured, as it is told.
    """

    device: dict[str, Any]
    frame: tuple[int, int]
    psnr_db: float
    has_engine: bool
    tile: tuple[int, int]
    statistics: Mode
    threads: int | None
    provider: str | None
    ms: float
    tried: tuple[dict[str, Any], ...] = ()
    format: int = FORMAT

    @property
    def cut(self) -> tuple[int, int] | Literal["auto"]:
        """What tile to ask for: an engine has one of its own."""
        return "auto" if self.has_engine else self.tile

    def engine_path(self, model: ModelPath) -> ModelPath:
        """What to open in place of a model: the engine, or the model itself."""
        return engine_of(tuned_path(model)) if self.has_engine else model

    def save(self, path: Path) -> None:
        """Write it as JSON, whole or not at all; an `OutputError` where it cannot be written."""
        write_own(path, (json.dumps(asdict(self), indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> Tuned:
        """Read it.

        Raises:
            EngineError: it is damaged, or of another format.
        """
        try:
            # It leads to an engine, which is native code: nobody else may have written it.
            tuned = dataclass_of(cls, parse_json(read_own(path)))
            if tuned.format != FORMAT:
                raise ValueError(f"format {tuned.format}, not {FORMAT}")
            for name, kind in (("cpu", str), ("gpu", str), ("cores", int)):
                if not isinstance(tuned.device.get(name), kind):
                    raise ValueError(f"its device has no {name}")
        except (OSError, ValueError) as error:
            raise EngineError(f"{path}: no answer of mirnet-edge tune ({error})") from error
        return tuned


def this_device(gpu_index: int = 0) -> dict[str, Any]:
    """What an answer holds for, on that GPU where there is one."""
    try:
        driver = start_driver()
        gpu = driver.facts(gpu_index).name if driver and driver.device_count() else ""
    except DeviceError:
        gpu = ""
    return {"cpu": cpu_name(), "cores": usable_cores(), "gpu": gpu}


def source_of(model: ModelPath) -> tuple[Path, str]:
    """Find the file of a model, and the name that its answers have."""
    bundled = bundled_model(os.fspath(model))
    return (bundled.onnx, bundled.name) if bundled else (Path(model), Path(model).stem)


def tuned_folder() -> Path:
    """Find where answers are kept. Without a home, a `RuntimeError`."""
    return cache_folder().parent / "tuned"


def tuned_path(model: ModelPath) -> Path:
    """Tell where the answer for a model is kept, whose file must exist."""
    source, name = source_of(model)
    return tuned_folder() / f"{name}-{file_sha256(source)[:16]}.json"


def engine_of(answer: Path) -> Path:
    """Tell where the engine of an answer lies."""
    return answer.with_suffix(".engine")


def tuned_for(model: ModelPath, gpu_index: int = 0) -> Tuned | None:
    """Find the answer for a model on this device, and that GPU; None where there is none, or where
    it does not hold any more, which is logged as a warning."""
    source, name = source_of(model)
    try:
        # Before the file is read for its hash: hardly any model is tuned.
        others = list(tuned_folder().glob(f"{glob.escape(name)}-*.json"))
    except RuntimeError:
        return None
    if not others or source.suffix.lower() != ".onnx" or not source.is_file():
        return None
    path = tuned_path(model)
    if path not in others:
        log.info("%s runs untuned: the answers in %s are of others", source, path.parent)
        return None
    try:
        tuned = Tuned.load(path)
        _require_valid(tuned, path, this_device(gpu_index))
    except EngineError as error:
        log.warning("%s. %s runs untuned; mirnet-edge tune %s measures again", error, model, model)
        return None
    return tuned


def _require_valid(tuned: Tuned, path: Path, device: dict[str, Any]) -> None:
    """Check that an answer is of this device, and of a TensorRT that runs its engine."""
    if tuned.device != device:
        here, there = told(device), told(tuned.device)
        raise EngineError(f"{path} was measured on {there}, and this is {here}")
    if not tuned.has_engine:
        return
    card = EngineCard.load(card_path(engine_of(path)))
    try:
        version = str(require("tensorrt", "running the tuned engine").__version__)
    except MissingDependencyError as error:
        raise EngineError(str(error)) from error
    if card.versions["tensorrt"] != version:
        raise EngineError(
            f"{path} has an engine of TensorRT {card.versions['tensorrt']}, and this is {version}"
        )


def told(device: dict[str, Any]) -> str:
    """Name a device in words."""
    return ", ".join(filter(None, (device["gpu"], f"{device['cores']} cores of {device['cpu']}")))
