"""Which engine runs a model fastest on this CPU, tried once and kept.

OpenVINO has more ways to compute than ONNX Runtime has, and which one is fast no list of
instructions tells: BF16 takes 0.33 of the time on an EPYC with AVX-512 BF16, and 1.5 times as long
on a Xeon that has the same instructions. So the engines run a few tiles of the bundled photo, in
turn, and one of OpenVINO's is taken where it is faster, and agrees with FP32 on ONNX Runtime.

Answers lie in the folder ``cpu`` of the user's cache (see `cuda.compiler`), each named by what it
holds for: the model's content, the CPU, the threads, and the versions. They may be deleted at any
time.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from psutil import virtual_memory

from mirnet_edge._caches import read_cached, write_cached
from mirnet_edge._files import file_sha256
from mirnet_edge._typed import dataclass_of, parse_json
from mirnet_edge._version import __version__
from mirnet_edge.bundled import PHOTO
from mirnet_edge.cuda.compiler import cache_folder
from mirnet_edge.engines.onnx_engine import OnnxEngine
from mirnet_edge.engines.openvino_engine import PROVIDER, OpenVINOEngine, cpu_precisions
from mirnet_edge.engines.protocol import Tiles
from mirnet_edge.errors import ConfigError, EngineError, MirnetEdgeError
from mirnet_edge.facts import NOISE_UNIT, ModelFacts
from mirnet_edge.frames.images import read_image
from mirnet_edge.frames.noise import add_gaussian_noise
from mirnet_edge.metrics import psnr
from mirnet_edge.system import checked_threads, cpu_name
from mirnet_edge.tiling.choice import tile_bytes

SWITCH = "MIRNET_EDGE_CPU_ENGINE"
"""An environment variable: "auto" tries, "onnxruntime" and "openvino" do not."""
CPU_PROVIDER = "CPUExecutionProvider"
TILE_PX = 192
SIGMA = 15.0
LEAST_PSNR_DB = 54.0
"""Of a tile against FP32: a restoration of 38 dB, as good as real photos get, loses 0.1 dB by such
an error at most, one of 35 dB 0.05."""
MOST_OF_TIME = 0.9
"""Of ONNX Runtime's time that OpenVINO may take: it has to be worth a second runtime."""
ROUNDS, MOST_SECONDS = 5, 3.0
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tried:
    """What one engine did: the least milliseconds of a tile, its PSNR against FP32, or why there
    is none."""

    provider: str
    ms: float | None = None
    psnr_db: float | None = None
    error: str = ""


@dataclass(frozen=True)
class CpuTrial:
    """The answer, as it is kept.

    Attributes:
        provider: that is the fastest, as `open_engine` takes it.
        tile: (height, width) that was run.
        tried: all that were, ONNX Runtime first.
    """

    provider: str
    tile: tuple[int, int]
    tried: tuple[Tried, ...]

    @property
    def told(self) -> str:
        """The answer in words."""
        if len(self.tried) == 1:
            return f"{self.provider}; its tile is too large to try others beside it"
        times = {row.provider: row for row in self.tried}
        best, portable = times[self.provider], self.tried[0]
        if best is portable or best.ms is None or portable.ms is None:
            return f"{self.provider}, the fastest here"
        return (
            f"{self.provider}, {best.ms / portable.ms:.2f} of ONNX Runtime's time, "
            f"{best.psnr_db:.1f} dB from FP32"
        )


def is_wanted() -> bool:
    """Whether OpenVINO is here and may be chosen.

    Raises:
        ConfigError: the environment variable is of another value.
    """
    told = os.environ.get(SWITCH, "auto")
    if told not in ("auto", "openvino", "onnxruntime"):
        raise ConfigError(f"{SWITCH}={told[:40]!r}: use auto, openvino or onnxruntime")
    return told != "onnxruntime" and importlib.util.find_spec("openvino") is not None


def open_openvino(path: Path, threads: int | None, provider: str) -> OpenVINOEngine:
    """Open an engine by a provider's name, "OpenVINO-BF16"; "OpenVINO" takes the fastest precision
    that was tried.

    Raises:
        EngineError: as `OpenVINOEngine`.
    """
    name, _, precision = provider.partition("-")
    if name != PROVIDER:
        known = ", ".join((PROVIDER, *(f"{PROVIDER}-{found}" for found in cpu_precisions())))
        raise EngineError(f"provider {provider!r}: of OpenVINO's there are {known}")
    if not precision:
        rows = trial_of(path, threads).tried[1:]
        usable = [(row.ms, row.provider) for row in rows if _agrees(row) and row.ms is not None]
        precision = min(usable)[1].partition("-")[2] if usable else "FP32"
    return OpenVINOEngine(path, threads, precision)


def fastest_engine(path: Path, threads: int | None) -> OnnxEngine | OpenVINOEngine:
    """Open what is the fastest for a model on this CPU.

    Raises:
        EngineError: as `OnnxEngine`.
    """
    if os.environ.get(SWITCH) == "openvino":
        return open_openvino(path, threads, PROVIDER)
    chosen = trial_of(path, threads).provider
    if chosen != CPU_PROVIDER:
        # What was fast once may not open any more: then the portable engine does.
        with suppress(EngineError):
            return open_openvino(path, threads, chosen)
    return OnnxEngine(path, threads, CPU_PROVIDER)


def trial_of(path: Path, threads: int | None) -> CpuTrial:
    """The trial of a model on this CPU: the kept one, or made now, in a few seconds.

    Raises:
        EngineError: as `OnnxEngine`.
    """
    threads = checked_threads(threads)
    if not path.is_file():
        raise EngineError(f"{path}: no such file")
    kept = kept_trial(path, threads)
    if kept is not None:
        return kept
    found = measure(path, threads)
    log.info("%s runs on %s", path, found.told)
    try:
        write_cached(_file_of(path, threads), (json.dumps(asdict(found)) + "\n").encode())
    except (OSError, RuntimeError, MirnetEdgeError) as error:
        log.warning("the trial of %s cannot be kept, and is made again each time: %s", path, error)
    return found


def kept_trial(path: Path, threads: int | None = None) -> CpuTrial | None:
    """What was measured before; None where nothing was, or what was kept is damaged."""
    try:
        trial = dataclass_of(CpuTrial, parse_json(read_cached(_file_of(path, threads))))
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError):
        return None
    names = [row.provider for row in trial.tried]
    return trial if trial.provider in names and names[0] == CPU_PROVIDER else None


def _file_of(path: Path, threads: int | None) -> Path:
    """Where a trial is kept."""
    versions = [__version__]
    for package in ("onnxruntime", "openvino"):
        try:
            versions.append(version(package))
        except PackageNotFoundError:
            versions.append("")
    holds_for = (file_sha256(path), cpu_name(), checked_threads(threads), *versions)
    key = hashlib.sha256(json.dumps(holds_for).encode()).hexdigest()
    return cache_folder().parent / "cpu" / f"{key[:32]}.json"


def measure(path: Path, threads: int) -> CpuTrial:
    """Run the engines in turn, and choose.

    Raises:
        EngineError: ONNX Runtime cannot open or run the model.
    """
    with ExitStack() as stack:
        portable = OnnxEngine(path, threads, CPU_PROVIDER)
        stack.callback(portable.close)
        facts, rule = portable.facts, portable.facts.size_rule
        tile = portable.fixed_size or (rule.padded(TILE_PX), rule.padded(TILE_PX))
        if (1 + len(cpu_precisions())) * tile_bytes(facts, tile) > virtual_memory().available:
            # All are open at once. Only a graph of one large size can be so.
            return CpuTrial(CPU_PROVIDER, tile, (Tried(CPU_PROVIDER),))
        tiles = photo_tile(facts, tile)
        reference = portable.run(tiles).copy()
        rows: dict[str, Tried] = {CPU_PROVIDER: Tried(CPU_PROVIDER, psnr_db=200.0)}
        runs: dict[str, Callable[[], object]] = {CPU_PROVIDER: lambda: portable.run(tiles)}
        for precision in cpu_precisions():
            name = f"{PROVIDER}-{precision}"
            try:
                engine = OpenVINOEngine(path, threads, precision)
                stack.callback(engine.close)
                rows[name] = Tried(name, psnr_db=_psnr(engine.run(tiles), reference))
                runs[name] = lambda engine=engine: engine.run(tiles)  # type: ignore[misc]
            except EngineError as error:
                rows[name] = Tried(name, error=str(error))
        found = {name: Tried(name, ms, rows[name].psnr_db) for name, ms in _times(runs).items()}
    tried = {**rows, **found}
    return CpuTrial(_fastest(list(tried.values())), tile, tuple(tried.values()))


def _fastest(rows: list[Tried]) -> str:
    best = rows[0]
    for row in rows[1:]:
        # BF16 has to beat FP32 as clearly as that ONNX Runtime: it gives accuracy for it.
        if _agrees(row) and row.ms and best.ms and row.ms <= MOST_OF_TIME * best.ms:
            best = row
    return best.provider


def _agrees(row: Tried) -> bool:
    return row.psnr_db is not None and row.psnr_db >= LEAST_PSNR_DB


def _psnr(found: Tiles, reference: Tiles) -> float:
    """As finite as JSON has it; what is not finite agrees with nothing."""
    value = psnr(found, reference)
    return min(value, 200.0) if np.isfinite(found).all() and value == value else -200.0


def _times(runs: dict[str, Callable[[], object]]) -> dict[str, float]:
    """The least milliseconds of each, taken in turn: what else runs here slows all alike, and
    never speeds one up."""
    least = dict.fromkeys(runs, np.inf)
    began, rounds = time.perf_counter(), 0
    while rounds < ROUNDS and (rounds < 1 or time.perf_counter() - began < MOST_SECONDS):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            least[name] = min(least[name], 1e3 * (time.perf_counter() - started))
        rounds += 1
    return {name: float(ms) for name, ms in least.items()}


def photo_tile(facts: ModelFacts, tile: tuple[int, int]) -> Tiles:
    """A tile (1, in_planes, H, W) of the bundled photo as a network is given it: noisy for a
    denoiser, with the plane that tells how noisy where it takes one."""
    photo = read_image(PHOTO).pixels
    pads = [(0, max(0, side - have)) for side, have in zip(tile, photo.shape)]
    clean = np.pad(photo, (*pads, (0, 0)), mode="symmetric")[: tile[0], : tile[1]]
    sigma = SIGMA if facts.task == "denoise" or facts.noise_level else 0.0
    planes = add_gaussian_noise(np.ascontiguousarray(clean), sigma, seed=0).transpose(2, 0, 1)
    image: Any = np.resize(planes, (facts.in_channels, *tile))
    if facts.noise_level:
        image = np.concatenate([image, np.full((1, *tile), sigma / NOISE_UNIT)])
    return np.ascontiguousarray(image[None], np.float32)
