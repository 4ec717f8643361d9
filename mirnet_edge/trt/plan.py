"""A plan file: whether it may be loaded, and what TensorRT makes of it."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from mirnet_edge._imports import require
from mirnet_edge.cuda import Device, Owner
from mirnet_edge.engines.card import EngineCard, TensorFacts, card_path
from mirnet_edge.engines.side_tensors import SIDE_TENSOR, place_of
from mirnet_edge.errors import DeviceMemoryError, EngineError, MirnetEdgeError, first_line
from mirnet_edge.trt.activations import ActivationMemory
from mirnet_edge.trt.log import Log, lacks_memory
from mirnet_edge.trt.plugins import HOW, find_library, load_library

FLOATS = {"FLOAT": "float32", "HALF": "float16"}
"""What numpy calls the ``trt.DataType`` that an engine may take and give."""


class PlanFile(NamedTuple):
    """A plan that may be loaded; its card is None only where it is trusted without."""

    path: Path
    plan: bytes
    card: EngineCard | None


def read_plan(path: Path, trust: bool) -> PlanFile:
    """Read a plan and its card. A plan is native code that TensorRT runs: without ``trust`` it must
    be the one that its card was written for. That is no signature: whoever may write into the
    folder can exchange both (see SECURITY.md)."""
    try:
        plan = path.read_bytes()
    except OSError as error:
        raise EngineError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        card = EngineCard.load(card_path(path))
        # Of the bytes in memory: the file may be another by the time TensorRT would read it.
        found = hashlib.sha256(plan).hexdigest()
        if found != card.engine_sha256:
            raise EngineError(
                f"{path} is not the file its card is for: sha256 {found} of {len(plan):,} bytes, "
                f"but the card says {card.engine_sha256} of {card.engine_bytes:,}; it was damaged "
                "or replaced"
            )
    except EngineError as error:
        if trust:
            logging.getLogger(__name__).info("loading %s on trust: %s", path, error)
            return PlanFile(path, plan, None)
        raise EngineError(
            f"{error}. A plan runs native code, so it is loaded only if its card, "
            f"{card_path(path).name}, vouches for it: build it again with mirnet-edge build, or, "
            "if you know where it is from, load it with TensorRTEngine(path, trust=True)"
        ) from error
    return PlanFile(path, plan, card)


class PlanFacts(NamedTuple):
    """What TensorRT tells of an engine: its tensors, the image first, then the side tensors by name
    and number; and the device memory that one execution context needs."""

    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    activation_bytes: int


def read_facts(trt: ModuleType, engine: Any) -> PlanFacts:
    """Ask an ``ICudaEngine``."""
    listed: dict[bool, list[TensorFacts]] = {True: [], False: []}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        dtype = engine.get_tensor_dtype(name).name
        facts = TensorFacts(
            name=name,
            shape=tuple(int(side) for side in engine.get_tensor_shape(name)),
            dtype=FLOATS.get(dtype, dtype.lower()),
            layout=str(engine.get_tensor_format_desc(name)),
        )
        listed[engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT].append(facts)
    for tensors in listed.values():  # TensorRT lists them in any order
        tensors.sort(key=lambda facts: place_of(facts.name))
    if hasattr(engine, "device_memory_size_v2"):
        activation_bytes = engine.device_memory_size_v2
    else:
        activation_bytes = engine.device_memory_size  # api: before device_memory_size_v2
    return PlanFacts(tuple(listed[True]), tuple(listed[False]), int(activation_bytes))


class LoadedPlan(Owner):
    """A deserialized engine and its one execution context, which works in ``activations``, or in
    memory of its own. `inputs`, `outputs` and `activation_bytes` are as in `PlanFacts`."""

    def __init__(
        self, file: PlanFile, device: Device, activations: ActivationMemory | None
    ) -> None:
        super().__init__(device)
        self.path, self.size_bytes = file.path, len(file.plan)
        self._activations = activations
        self.log, self.trt = Log(), load_tensorrt()
        with self._making(), device.doing(f"loading {file.path.name}"):
            self._deserialize(file)
            self.inputs, self.outputs, self.activation_bytes = read_facts(self.trt, self.engine)
            self._check_signature()
            self.context = self.make_context()

    def _deserialize(self, file: PlanFile) -> None:
        # Some releases raise where others return None and log. No variable of a function holds the
        # engine, here and below: a traceback would keep it beyond the runtime that it came from.
        self._load_plugins(file.card)
        try:
            self.runtime = self.trt.Runtime(self.log.make_logger())
            self.engine = self.runtime.deserialize_cuda_engine(file.plan)
        except Exception as error:
            reason = self.log.cause() if self.log.errors else first_line(error)
            raise self._not_loaded(file, reason) from error
        if self.engine is None:
            raise self._not_loaded(file, self.log.cause())

    def _load_plugins(self, card: EngineCard | None) -> None:
        """Those that its card says it needs; of a plan without one, those there are."""
        version = str(self.trt.__version__)
        needed = card is not None and bool(card.options.get("plugins"))
        if card is not None and not needed:
            return
        library = find_library(version)
        if library is not None:
            load_library(self.trt, library)
        elif needed:
            raise EngineError(
                f"{self.path} was built with mirnet-edge's plugins, of which there is no library "
                f"for TensorRT {version} here; {HOW}, or build the engine again without them"
            )

    def make_context(self) -> Any:
        """Make an execution context with its own activation memory, or in that given."""
        trt, shared = self.trt, self._activations
        self.log.errors.clear()
        # Asked first: before 10, TensorRT takes the address alone and cannot see what is too small.
        address = shared.address_for(self.path.name, self.activation_bytes) if shared else 0
        managed = hasattr(trt, "ExecutionContextAllocationStrategy")
        if shared is None:
            context = self.engine.create_execution_context()
        elif managed or not hasattr(self.engine, "create_execution_context_without_device_memory"):
            strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
            context = self.engine.create_execution_context(strategy)
        else:
            context = self.engine.create_execution_context_without_device_memory()
        if context is None:
            raise self._no_memory(
                f"TensorRT made no execution context, which needs {self.activation_bytes:,} bytes",
                self.log.cause(),
            )
        if shared is not None:
            if hasattr(context, "set_device_memory"):
                context.set_device_memory(address, shared.size_bytes)
            else:
                context.device_memory = address
        return context

    def _no_memory(self, what: str, reason: str) -> DeviceMemoryError:
        free, total = self.device.memory()
        return DeviceMemoryError(
            f"{what}: {reason} ({free:,} of {total:,} bytes of GPU memory are free). Close other "
            "engines and programs, or build with a smaller tile or batch"
        )

    def _check_signature(self) -> None:
        every = (*self.inputs, *self.outputs)
        sides = [facts for facts in every if SIDE_TENSOR.fullmatch(facts.name)]
        images = [facts for facts in every if facts not in sides]
        linear = self.trt.TensorFormat.LINEAR
        good = (
            len(images) == 2
            and images == [*self.inputs[:1], *self.outputs[:1]]
            and all(len(facts.shape) == 4 for facts in images)
            and images[0].shape[0] == images[1].shape[0]
            and all(facts.dtype in FLOATS.values() for facts in images)
            and all(facts.dtype == "float32" for facts in sides)
            and all(min(facts.shape, default=1) > 0 for facts in every)
            and all(self.engine.get_tensor_format(facts.name) == linear for facts in every)
        )
        if not good:
            told = (f"{item.name} {item.shape} {item.dtype}, {item.layout}" for item in every)
            found = "; ".join(told)
            raise EngineError(
                f"{self.path}: needs one (N, C, H, W) input and one output, float32 or float16, "
                "and beside them nothing but statistics, float32, all of fixed sizes, in linear "
                f"layout, but has: {found}. Build it with mirnet-edge build"
            )

    def _not_loaded(self, file: PlanFile, reason: str) -> MirnetEdgeError:
        if lacks_memory(reason):
            return self._no_memory(f"TensorRT could not load {self.path.name}", reason)
        gpu = self.device.facts
        on = "TensorRT {} on {} (compute capability {})".format
        here = on(self.trt.__version__, gpu.name, "{}.{}".format(*gpu.compute_capability))
        if (card := file.card) is None:
            return EngineError(
                f"{self.path}: TensorRT cannot load these {self.size_bytes:,} bytes: {reason}. No "
                f"card says what it was built for; here runs {here}, and a plan belongs to one "
                "TensorRT and one kind of GPU. If it is not damaged, build it again here with "
                "mirnet-edge build"
            )
        facts = (card.device.get(name, "?") for name in ("name", "compute_capability"))
        return EngineError(
            f"{self.path}: TensorRT cannot load it: {reason}. It was built with "
            f"{on(card.versions.get('tensorrt', '?'), *facts)}; here runs {here}. Build it again "
            f"here: mirnet-edge build {card.source}"
        )

    def _release(self) -> None:
        # In this order: TensorRT wants each gone before what it came from.
        self.context = None
        self.engine = None
        self.runtime = None


def load_tensorrt() -> ModuleType:
    """Import the module tensorrt; an `EngineError` where one of its libraries is missing."""
    try:
        return require("tensorrt", "running TensorRT engines")
    except (ImportError, OSError) as error:
        raise EngineError(
            f"TensorRT is installed but cannot be loaded: {first_line(error)}; mirnet-edge doctor "
            "shows what is missing"
        ) from error
