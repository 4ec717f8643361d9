"""What ``mirnet-edge tune`` found fastest for a model on this device, and where that is kept.

Beside ``x.onnx`` lies ``x.tuned.json``, and ``x.tuned.engine`` where that is the fastest; those of
a bundled model lie in the folder ``tuned`` of the cache (see `cuda.compiler`).
"""

from __future__ import annotations

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
from mirnet_edge.pooling.passes import Mode
from mirnet_edge.system import cpu_name, usable_cores

FORMAT = 1
ModelPath = str | os.PathLike[str]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tuned:
    """The answer, and what it was chosen from.

    Attributes:
        model_sha256: of the model's file.
        device: cpu, cores, and gpu ("" where there is none).
        frame: (height, width) of the frames that were timed.
        psnr_db: that was asked for, against whole frames in FP32.
        engine: name of the engine's file, beside this one; "" for the model itself.
        tile: (height, width).
        statistics, threads, provider: see `Restorer`.
        ms: median time of a frame.
        tried: everything that was measured, as it is told.
    """

    model_sha256: str
    device: dict[str, Any]
    frame: tuple[int, int]
    psnr_db: float
    engine: str
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
        return "auto" if self.engine else self.tile

    def engine_path(self, model: ModelPath) -> ModelPath:
        """What to open in place of a model: the engine, or the model itself."""
        return tuned_path(model).with_name(self.engine) if self.engine else model

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
            # The file names an engine, which is native code: nobody else may have written it.
            tuned = dataclass_of(cls, parse_json(read_own(path)))
            if tuned.format != FORMAT:
                raise ValueError(f"format {tuned.format}, not {FORMAT}")
            if tuned.engine != Path(tuned.engine).name:
                raise ValueError(f"the engine {tuned.engine!r} does not lie beside it")
            for name, kind in (("cpu", str), ("gpu", str), ("cores", int)):
                if not isinstance(tuned.device.get(name), kind):
                    raise ValueError(f"its device has no {name}")
        except (OSError, ValueError) as error:
            raise EngineError(f"{path}: no answer of mirnet-edge tune ({error})") from error
        return tuned


def this_device() -> dict[str, Any]:
    """What an answer holds for."""
    try:
        driver = start_driver()
        gpu = driver.facts(0).name if driver and driver.device_count() else ""
    except DeviceError:
        gpu = ""
    return {"cpu": cpu_name(), "cores": usable_cores(), "gpu": gpu}


def tuned_path(model: ModelPath) -> Path:
    """Tell where the answer for a model is kept."""
    bundled = bundled_model(os.fspath(model))
    if bundled:
        return cache_folder().parent / "tuned" / f"{bundled.name}.tuned.json"
    return Path(model).with_suffix(".tuned.json")


def tuned_for(model: ModelPath) -> Tuned | None:
    """Find the answer for a model on this device; None where there is none, or where it does not
    hold any more, which is logged as a warning."""
    bundled = bundled_model(os.fspath(model))
    source = bundled.onnx if bundled else Path(model)
    try:
        path = tuned_path(model)
    except RuntimeError:  # no home
        return None
    if source.suffix.lower() != ".onnx" or not path.is_file() or not source.is_file():
        return None
    try:
        tuned = Tuned.load(path)
        _require_valid(tuned, source, path)
    except EngineError as error:
        log.warning("%s. %s runs untuned; mirnet-edge tune %s measures again", error, model, model)
        return None
    return tuned


def _require_valid(tuned: Tuned, source: Path, path: Path) -> None:
    """Check that an answer is of this model, this device, and a TensorRT that runs its engine."""
    device = this_device()
    if tuned.device != device:
        raise EngineError(
            f"{path} was measured on {told(tuned.device)}, and this is {told(device)}"
        )
    if tuned.model_sha256 != file_sha256(source):
        raise EngineError(f"{path} is of another {source.name}, which has changed since")
    if not tuned.engine:
        return
    card = EngineCard.load(card_path(path.with_name(tuned.engine)))
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
