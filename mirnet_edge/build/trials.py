"""Ways to restore frames of a size, and what each takes on this device."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime
import psutil
from numpy.typing import NDArray

from mirnet_edge.build import build_engine
from mirnet_edge.bundled import PHOTO
from mirnet_edge.engines.card import BESIDE, Kind, card_path, kind_path
from mirnet_edge.engines.cpu_trial import CPU_PROVIDER, is_wanted
from mirnet_edge.engines.onnx_engine import PREFERRED_PROVIDERS
from mirnet_edge.engines.openvino_engine import PROVIDER, cpu_precisions
from mirnet_edge.errors import MirnetEdgeError
from mirnet_edge.facts import ModelFacts
from mirnet_edge.frames.images import read_image
from mirnet_edge.frames.noise import add_gaussian_noise
from mirnet_edge.graph.file import load_graph, read_facts
from mirnet_edge.metrics import psnr
from mirnet_edge.pooling import Mode
from mirnet_edge.restore import DEFAULT_HALO_PX, Restorer
from mirnet_edge.system import usable_cores
from mirnet_edge.tiling.choice import tile_bytes
from mirnet_edge.tiling.even import frame_tiles

SIGMA = 15
WARM_UP_FRAMES, LEAST_FRAMES, MOST_FRAMES, MEASURE_S = 2, 3, 30, 2.0
SETTLING_FRAMES = 3  # of a still scene, after which the means of a stream change no more
LEAST_TILE_PX, MOST_TILES = 192 * 192, 7
MODES: tuple[Mode, ...] = ("tile", "stream", "frame-fast", "frame")


@dataclass(frozen=True)
class Candidate:
    """A way to restore frames: an engine of TensorRT built with these options, or, where it has no
    precision, the portable engine. ``tile`` is (height, width)."""

    tile: tuple[int, int]
    batch: int = 1
    precision: str = ""
    level: int | None = None
    statistics: Mode = "tile"
    threads: int | None = None
    provider: str | None = None


@dataclass(frozen=True)
class Trial:
    """What a candidate was measured to take.

    Attributes:
        seconds: building it included.
        ms, p90_ms: median and 90th percentile of a frame, from host memory to host memory.
        psnr_db: against the whole frame in FP32.
        error: why it could not be measured.
    """

    candidate: Candidate
    seconds: float
    ms: float | None = None
    p90_ms: float | None = None
    psnr_db: float | None = None
    error: str = ""

    def rank(self, psnr_db: float) -> tuple[bool, float]:
        """Order trials: those that are accurate enough before others, the fastest of them last; the
        most accurate of the others."""
        if self.ms is None or self.psnr_db is None:
            return False, -np.inf
        meets = self.psnr_db >= psnr_db
        return meets, -self.ms if meets else self.psnr_db

    def told(self) -> dict[str, Any]:
        """Write it as one flat row."""
        row = asdict(self)
        candidate: dict[str, Any] = row.pop("candidate")
        # As JSON has it, so that what was written and what is read are equal.
        return {**candidate, **row, "tile": list(self.candidate.tile)}


@dataclass(frozen=True)
class Scene:
    """A noisy photo as large as the frames, and what the whole of it is restored to in FP32.

    Attributes:
        frame: (H, W, 3) uint8, or gray as the network wants it.
        given, reference: float32 in [0, 1], and restored.
        options: of every `Restorer` that is compared.
    """

    facts: ModelFacts
    frame: NDArray[np.uint8]
    given: NDArray[np.float32]
    reference: NDArray[np.float32]
    options: Mapping[str, Any]

    @classmethod
    def of(cls, model: Path, size: tuple[int, int]) -> Scene:
        """Restore it by the portable engine: whole where half of the free memory suffices, else in
        tiles that share the frame's means, several times over."""
        facts = read_facts(load_graph(model))
        photo = read_image(PHOTO).pixels
        pads = [(0, max(0, side - have)) for side, have in zip(size, photo.shape)]
        clean = np.pad(photo, (*pads, (0, 0)), mode="symmetric")[: size[0], : size[1]]
        if facts.in_channels == 1:
            clean = clean[:, :, :1]
        given = add_gaussian_noise(np.ascontiguousarray(clean), SIGMA, seed=0).clip(0, 1)
        frame = np.asarray(np.rint(255 * given), np.uint8)
        options: dict[str, Any] = {"tuned": False}
        if facts.noise_level:
            options["noise"] = SIGMA
        whole = facts.size_rule.padded(facts.scale * size[0]), facts.scale * size[1]
        fits = tile_bytes(facts, whole) < psutil.virtual_memory().available // 2
        way: dict[str, Any] = {"tile": None} if fits else {"statistics": "frame"}
        way["provider"] = "CPUExecutionProvider"  # in FP32, whatever is faster here
        with Restorer(model, **way, **options) as restore:
            reference = np.array(restore(given))
        return cls(facts, frame, given, reference, options)

    @property
    def tiles(self) -> dict[tuple[int, int], int]:
        """The tiles to try, the whole frame first, and how many of each cover it."""
        height, width = (self.facts.scale * side for side in self.frame.shape[:2])
        found = frame_tiles((height, width), DEFAULT_HALO_PX, self.facts.size_rule)
        large = [(tile, n) for tile, n in found if n == 1 or tile[0] * tile[1] >= LEAST_TILE_PX]
        return dict(large[:MOST_TILES])

    def measure(self, restore: Restorer) -> dict[str, float]:
        """Time frames one by one, and compare one that is restored in float32."""
        for _ in range(SETTLING_FRAMES):
            restored = restore(self.given)
        accuracy = psnr(np.asarray(restored, np.float32), self.reference)
        out = np.array(restore(self.frame))
        times_ms: list[float] = []
        began = time.perf_counter()
        while len(times_ms) < WARM_UP_FRAMES + MOST_FRAMES and (
            len(times_ms) < WARM_UP_FRAMES + LEAST_FRAMES or time.perf_counter() - began < MEASURE_S
        ):
            started = time.perf_counter()
            restore(self.frame, out=out)
            times_ms.append(1e3 * (time.perf_counter() - started))
        median, p90 = np.percentile(times_ms[WARM_UP_FRAMES:], (50, 90)).tolist()
        return {"ms": median, "p90_ms": p90, "psnr_db": min(accuracy, 200.0)}


class Backend(Protocol):
    """What candidates run on.

    Attributes:
        tiles: that may be tried, the whole frame first, and how many of each cover it.
        first: the candidate to begin with.
        axes: what to change in it, one thing after another, and to what.
    """

    @property
    def tiles(self) -> Mapping[tuple[int, int], int]: ...
    @property
    def first(self) -> Candidate: ...
    @property
    def axes(self) -> Mapping[str, Sequence[Any]]: ...

    def measure(self, candidate: Candidate) -> dict[str, float]:
        """Open it, and `Scene.measure`."""


class Portable:
    """Engines of a graph: tiles, threads, the providers of this ONNX Runtime, and the precisions
    of OpenVINO where that is installed. The first is what a `Restorer` takes by itself."""

    def __init__(self, model: Path, scene: Scene) -> None:
        self._model, self._scene, self.tiles = model, scene, scene.tiles
        self.first = Candidate(next(iter(self.tiles)))
        cores = usable_cores()
        there = onnxruntime.get_available_providers()
        self.axes = {
            "tile": list(self.tiles),
            "statistics": MODES,
            "threads": [cores // 2**n for n in range(1, cores.bit_length())],
            "provider": [
                *[name for name in PREFERRED_PROVIDERS if name in there][1:],
                *_openvino(),
            ],
        }

    def measure(self, candidate: Candidate) -> dict[str, float]:
        """See `Backend`."""
        with Restorer(
            self._model,
            tile=candidate.tile,
            statistics=candidate.statistics,
            threads=candidate.threads,
            provider=candidate.provider,
            **self._scene.options,
        ) as restore:
            return self._scene.measure(restore)


def _openvino() -> list[str]:
    """Names of what OpenVINO offers beside ONNX Runtime; none where it may not be chosen."""
    if not is_wanted():
        return []
    return [CPU_PROVIDER, *(f"{PROVIDER}-{precision}" for precision in cpu_precisions())]


class TensorRT:
    """Engines that are built in a folder; TensorRT's timings of kernels outlive it."""

    def __init__(self, model: Path, scene: Scene, folder: Path, timing_cache: Path) -> None:
        self._model, self._scene, self.tiles = model, scene, scene.tiles
        self._folder, self._timing_cache = folder, timing_cache
        self.first = Candidate(next(iter(self.tiles)), precision="fp16", level=1)
        self.axes = {
            "tile": list(self.tiles),
            "batch": (2, 4, 8),
            "statistics": MODES,
            "precision": ("int8", "fp32"),
            "level": (3, 5),
        }

    def _engine(self, candidate: Candidate) -> Path:
        return self._folder / f"{abs(hash(candidate)):x}.engine"

    def measure(self, candidate: Candidate) -> dict[str, float]:
        """See `Backend`."""
        engine = self._engine(candidate)
        build_engine(
            self._model,
            engine,
            precision=candidate.precision,  # type: ignore[arg-type]  # of the axes above
            tile=candidate.tile,
            batch=candidate.batch,
            optimization_level=candidate.level,
            statistics=candidate.statistics != "tile",
            timing_cache=self._timing_cache,
        )
        with Restorer(engine, statistics=candidate.statistics, **self._scene.options) as restore:
            return self._scene.measure(restore)

    def keep(self, candidate: Candidate, kept: Path) -> None:
        """Move a candidate's engine to where it is kept, and those that its statistics need."""
        beside: tuple[Kind, ...] = () if candidate.statistics == "tile" else BESIDE
        for kind in ("plain", *beside):
            source, target = (kind_path(path, kind) for path in (self._engine(candidate), kept))
            # At no moment does an engine lie beside the card of another.
            target.unlink(missing_ok=True)
            card_path(source).replace(card_path(target))
            source.replace(target)


def tried(backend: Backend, candidate: Candidate) -> Trial:
    """Measure a candidate; what fails is a trial that says why."""
    began = time.monotonic()
    try:
        found = backend.measure(candidate)
    except (MirnetEdgeError, MemoryError) as error:
        reason = str(error) or "the memory of the host does not suffice"
        return Trial(candidate, time.monotonic() - began, error=reason)
    seconds = time.monotonic() - began
    return Trial(candidate, seconds, found["ms"], found["p90_ms"], found["psnr_db"])
