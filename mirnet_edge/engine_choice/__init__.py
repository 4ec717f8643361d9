"""Which file becomes which engine, which of several a `Restorer` runs (the first that fits into
memory), and by which way frames come to it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from mirnet_edge._arguments import explained
from mirnet_edge._imports import require
from mirnet_edge.bundled import bundled_model
from mirnet_edge.engines.card import EngineCard, card_path
from mirnet_edge.engines.gpu_there import Devices, asked_devices, torch_may_use_gpu
from mirnet_edge.engines.protocol import DeviceEngine, Engine, works_on_device
from mirnet_edge.errors import DeviceMemoryError, EngineError, TilingError, placed
from mirnet_edge.facts import ModelFacts
from mirnet_edge.frame_path import Nan, require_nan
from mirnet_edge.frames.noise_level import NoiseLevel
from mirnet_edge.frames.pixel_formats import PixelFormat
from mirnet_edge.host.path import HostPath
from mirnet_edge.pooling.passes import FrameStatistics
from mirnet_edge.tiling.geometry import Tiling

if TYPE_CHECKING:
    from mirnet_edge.device.path import DevicePath
    from mirnet_edge.trt.engine import TensorRTEngine

    def _on_device(engine: TensorRTEngine) -> DeviceEngine:
        """Nobody calls this: a plan whose frames could not stay on the device fails type checks."""
        return engine


log = logging.getLogger(__name__)
CHECKPOINT_SUFFIXES = (".pth", ".pt", ".safetensors")
PLAN_SUFFIXES = (".engine", ".plan")
ModelPath = str | os.PathLike[str]


@explained(EngineError)
def open_engine(
    model: str | os.PathLike[str],
    threads: int | None = None,
    provider: str | None = None,
    device: int = 0,
) -> Engine:
    """The engine for a model file or a bundled model's name.

    ``.onnx`` runs on ONNX Runtime, or on OpenVINO where that is installed and faster on this CPU
    (see `engines.cpu_trial`, which tries it once), a checkpoint (``.pth``, ``.pt``,
    ``.safetensors``) on PyTorch, a plan (``.engine``, ``.plan``) with its card on TensorRT. Where
    PyTorch can use a GPU, that runs checkpoints and the bundled models, unless ``provider`` is one
    of the CPU's, or ``threads`` are given; see `CompiledEngine`.

    Args:
        threads: CPU threads; None takes all this process may use.
        provider: ONNX Runtime execution provider, e.g. "CPUExecutionProvider", or "OpenVINO",
            "OpenVINO-FP32", "-BF16", "-FP16"; None takes the best there is.
        device: number of the GPU, as the driver counts, for an engine that works on one.

    Raises:
        EngineError: no such file or model, or one that cannot be loaded.
        DeviceError: a plan, and no GPU that can run it.
        CheckpointError: a checkpoint that is no MIRNet.
    """
    name = os.fspath(model)
    bundled = bundled_model(name)
    path = bundled.onnx if bundled else Path(name)
    if bundled and provider is None and threads is None and torch_may_use_gpu():
        from mirnet_edge.engines.compiled.choice import bundled_engine

        if (engine := bundled_engine(name, device)) is not None:
            return engine
    if not os.path.isfile(path):  # noqa: PTH113  # Path's raises for a name of 256 characters
        raise EngineError(
            f"{name:.300}: no such file, and no bundled model of that name (mirnet-edge models "
            "lists them)"
        )
    suffix = path.suffix.lower()
    log.info("opening %s (threads %s, provider %s)", path, threads or "all", provider or "any")
    # Each engine is imported where it is chosen: the device has no torch, a workstation no
    # TensorRT, and both take seconds to load.
    if suffix == ".onnx":
        return _open_graph(path, threads, provider)
    if suffix in CHECKPOINT_SUFFIXES:
        require("torch", f"running {path.name}")
        from mirnet_edge.engines.compiled.choice import checkpoint_engine

        return checkpoint_engine(path, threads, provider, device)
    if suffix in PLAN_SUFFIXES:
        from mirnet_edge.trt.engine import TensorRTEngine

        return TensorRTEngine(path, device=device)
    suffixes = ", ".join((".onnx", *CHECKPOINT_SUFFIXES, *PLAN_SUFFIXES))
    raise EngineError(f"{path}: an engine is made from one of {suffixes}")


def _open_graph(path: Path, threads: int | None, provider: str | None) -> Engine:
    """Open a graph on a provider; without one on a GPU where ONNX Runtime has one that starts, else
    on what is the fastest on this CPU."""
    from mirnet_edge.engines.cpu_trial import fastest_engine, is_wanted, open_openvino
    from mirnet_edge.engines.onnx_engine import OnnxEngine, starts_on_cpu

    if provider is not None and provider.partition("-")[0] == "OpenVINO":
        return open_openvino(path, threads, provider)
    if provider is None and is_wanted() and starts_on_cpu():
        return fastest_engine(path, threads)
    return OnnxEngine(path, threads=threads, provider=provider)


class EngineChoice:
    """Opens the first engine that fits, and the next one when it turned out not to.

    Args:
        models: see `open_engine`, the one liked best first: engines of one network with smaller
            and smaller tiles or batches.
        memory_limit: bytes of device memory that an engine may take, by its card; None for what
            the device has.
        threads, provider: see `open_engine`.
        devices: the GPUs that each is opened on; None for the first, or an engine of the CPU.
        serves: raises TilingError for the card of an engine that cannot do what is asked. All but
            the first are left out then, and logged.

    Attributes:
        left: those that were not opened yet.

    Raises:
        EngineError: no model, or one that cannot be loaded.
        DeviceMemoryError: none fits.
    """

    def __init__(
        self,
        models: Sequence[ModelPath],
        memory_limit: int | None,
        threads: int | None,
        provider: str | None,
        devices: Devices | None,
        serves: Callable[[EngineCard], None],
    ) -> None:
        self._devices = asked_devices(devices)
        self._is_listed = devices not in (None, "all")
        if not models:
            raise EngineError("no engine was given; name at least one")
        self._threads, self._provider = threads, provider
        # By their cards, unopened: loading a plan takes the very memory that is being counted.
        cards = {os.fspath(model): _card_of(Path(model)) for model in models}
        # The first stays: what is wrong with it is for the caller to hear, as where it is alone.
        for name in list(cards)[1:]:
            if refusal := _refusal(cards[name], serves):
                log.warning("%s is left out: %s", name, refusal)
                del cards[name]
        needs = {name: card.device_bytes.total if card else 0 for name, card in cards.items()}
        self.left = [
            name for name, needed in needs.items() if memory_limit is None or needed <= memory_limit
        ]
        if not self.left:
            listed = ", ".join(f"{name} {needed:,}" for name, needed in needs.items())
            raise DeviceMemoryError(
                f"no engine fits memory_limit={memory_limit:,} bytes ({listed}); build one with a "
                "smaller tile or batch"
            )
        self._several, self._opened = len(models) > 1, ""

    def open(self) -> list[Engine]:
        """The best engine that is left, once for each device; one alone where it is of the CPU.

        Raises:
            DeviceMemoryError: it needs more memory than there is, and no other is left.
            DeviceError: there is no such device.
            EngineError: it cannot be loaded, or devices were listed and it is of the CPU.
        """
        name = self._opened = self.left.pop(0)
        try:
            engines = self._open_on_devices(name)
        except DeviceMemoryError as error:
            return self.open_next(error)
        if self._several:
            log.info("restoring with %s", name)
        return engines

    def _open_on_devices(self, name: str) -> list[Engine]:
        engines: list[Engine] = []
        with ExitStack() as on_failure:
            for device in self._devices:
                with placed(f"GPU {device}" if len(self._devices) > 1 else ""):
                    engine = open_engine(name, self._threads, self._provider, device)
                if close := getattr(engine, "close", None):
                    on_failure.callback(close)
                engines.append(engine)
                if works_on_device(engine):
                    continue
                if self._is_listed:
                    raise EngineError(
                        f"devices={list(self._devices)}: {name} runs on the CPU here, with "
                        f"{type(engine).__name__}; leave devices out, or give an .engine file, or "
                        "a checkpoint where PyTorch can use the GPUs"
                    )
                break
            on_failure.pop_all()
        return engines

    def open_again(self, engines: Iterable[Engine]) -> list[Engine]:
        """Open the file of engines that were opened here, and are closed or lost, once more, or a
        next one; on a GPU that is lost, after `revive`."""
        for engine in engines:
            if works_on_device(engine):
                from mirnet_edge.cuda.device import revive

                revive(engine.stream.device)
        self.left.insert(0, self._opened)
        return self.open()

    def open_next(self, error: DeviceMemoryError) -> list[Engine]:
        """The next one, since the last did not fit on some device.

        Raises:
            DeviceMemoryError: ``error``, where none is left.
        """
        if not self.left:
            raise error
        log.warning("%s. Going on with %s", error, self.left[0])
        return self.open()


def choice_of(
    model: object,
    memory_limit: int | None,
    threads: int | None,
    provider: str | None,
    devices: Devices | None,
    serves: Callable[[EngineCard], None],
) -> EngineChoice | None:
    """Of the files that a `Restorer` is given; None for an engine that is open already."""
    if callable(getattr(model, "run", None)):
        if devices is not None:
            raise EngineError(
                f"devices={devices!r:.80}: a {type(model).__name__} that is open runs where it was "
                "opened; give its file"
            )
        return None
    if isinstance(model, (str, os.PathLike)):
        model = [model]
    if not isinstance(model, Sequence):
        raise EngineError(
            f"a {type(model).__name__} is no engine: give a model file, a bundled model's name, or "
            "an object with run()"
        )
    return EngineChoice(model, memory_limit, threads, provider, devices, serves)


def path_to(
    engine: Engine,
    *,
    facts: ModelFacts,
    tiling: Callable[[int, int], Tiling],
    statistics: FrameStatistics | None,
    samples: int,
    noise: NoiseLevel | None,
    pixels: PixelFormat | None,
    frame_size: tuple[int, int] | None,
    memory_limit: int | None,
    nan: Nan,
) -> HostPath | DevicePath:
    """The way of frames to an engine, for what a `Restorer` was asked: on the device where it works
    there on three channels; see `HostPath` and `DevicePath`.

    Raises:
        ConfigError: there is no such ``nan``.
    """
    require_nan(nan)
    if not works_on_device(engine) or (facts.in_channels, facts.out_channels) != (3, 3):
        return HostPath(
            engine,
            facts=facts,
            tiling=tiling,
            statistics=statistics,
            noise=noise,
            pixels=pixels,
            frame_size=frame_size,
            nan=nan,
        )
    from mirnet_edge.device.path import DevicePath

    return DevicePath(
        engine,
        facts=facts,
        tiling=tiling,
        pooling=statistics,
        samples=samples,
        noise=noise,
        pixels=pixels,
        frame_size=frame_size,
        memory_limit=memory_limit,
        nan=nan,
    )


def _card_of(path: Path) -> EngineCard | None:
    """Of a plan; None for what is no plan, or has no card."""
    if path.suffix.lower() not in PLAN_SUFFIXES:
        return None
    try:
        return EngineCard.load(card_path(path))
    except EngineError:  # opening it says what is wrong
        return None


def _refusal(card: EngineCard | None, serves: Callable[[EngineCard], None]) -> TilingError | None:
    try:
        if card is not None:
            serves(card)
    except TilingError as error:
        return error
    return None
