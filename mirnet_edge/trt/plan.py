"""A plan file: whether it may be loaded, and what TensorRT makes of it."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mirnet_edge._imports import require
from mirnet_edge.cuda import Device, Owner, Stream
from mirnet_edge.engines.card import EngineCard, TensorFacts, card_path
from mirnet_edge.errors import DeviceMemoryError, EngineError, first_line
from mirnet_edge.pooling.tensors import COLUMNS, GATHERED, LOG_MASS, OWN, ROWS, STATISTIC
from mirnet_edge.trt.activations import ActivationMemory
from mirnet_edge.trt.log import Log

FLOATS = {"FLOAT": "float32", "HALF": "float16"}
"""What numpy calls the ``trt.DataType`` that an engine may take and give."""
SIDE_TENSOR = re.compile(rf"{ROWS}|{COLUMNS}|{OWN}|(?:{STATISTIC}|{GATHERED}|{LOG_MASS})\.(\d+)")
"""Names of what an apply or gather engine takes and gives beside the image (see
`mirnet_edge.graph.pooling`)."""
OUT_OF_MEMORY = re.compile(r"out of memory|OutOfMemory|could not be allocated", re.IGNORECASE)


def read_plan(path: Path, trust: bool) -> tuple[bytes, EngineCard | None]:
    """The bytes of a plan and its card, which is None only with ``trust``.

    A plan is native code that TensorRT runs: without ``trust`` it must be the one that its card was
    written for. The bytes that were checked are the bytes returned.

    Raises:
        EngineError: no such file, no card, or the card of another file.
    """
    try:
        plan = path.read_bytes()
    except OSError as error:
        raise EngineError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        card = EngineCard.load(card_path(path))
        _check_hash(path, plan, card)
    except EngineError as error:
        if trust:
            logging.getLogger(__name__).info("loading %s on trust: %s", path, error)
            return plan, None
        raise EngineError(
            f"{error}. A plan runs native code, so it is loaded only if its card, "
            f"{card_path(path).name}, vouches for it: build it again with mirnet-edge build, or, "
            "if you know where it is from, load it with TensorRTEngine(path, trust=True)"
        ) from error
    return plan, card


def _check_hash(path: Path, plan: bytes, card: EngineCard) -> None:
    found = hashlib.sha256(plan).hexdigest()
    if found != card.engine_sha256:
        raise EngineError(
            f"{path} is not the file its card is for: sha256 {found} of {len(plan):,} bytes, but "
            f"the card says {card.engine_sha256} of {card.engine_bytes:,}; it was damaged or "
            "replaced"
        )


class LoadedPlan(Owner):
    """A deserialized engine and its one execution context.

    Args:
        path, plan, card: see `read_plan`.
        device: to load it on.
        activations: memory that its context works in; None gives the context its own.

    Attributes:
        path, size_bytes: of the plan.
        trt: the module tensorrt.
        log: of what TensorRT says.
        engine, context: TensorRT's.
        inputs, outputs: what it takes and gives: the image first, then the side tensors, in order
            of their names and numbers.
        activation_bytes: device memory that the context needs.

    Raises:
        MissingDependencyError: TensorRT is not installed.
        EngineError: TensorRT cannot load it; not one image in and one out; not of fixed sizes.
        DeviceMemoryError: not enough memory for the plan or its context.
    """

    def __init__(
        self,
        path: Path,
        plan: bytes,
        card: EngineCard | None,
        device: Device,
        activations: ActivationMemory | None = None,
    ) -> None:
        super().__init__(device)
        self.path, self.size_bytes = path, len(plan)
        self._activations = activations
        self.runtime: Any = None
        self.engine: Any = None
        self.context: Any = None
        self.log = Log()
        self.trt = load_tensorrt()
        self._opened()
        try:
            with device.doing(f"loading {path.name}"):
                self._load(plan, card)
        except Exception:
            self.close()
            raise

    def _load(self, plan: bytes, card: EngineCard | None) -> None:
        reason = ""
        try:
            self.runtime = runtime = self.trt.Runtime(self.log.make_logger())
            self.engine = runtime.deserialize_cuda_engine(plan)
        except Exception as error:  # some releases raise, others return None and log
            reason = first_line(error)
        if self.engine is None:
            if self.log.errors or not reason:
                reason = self.log.cause()
            if OUT_OF_MEMORY.search(reason):
                raise self._no_memory(f"TensorRT could not load {self.path.name}", reason)
            raise EngineError(self._why_not(plan, card, reason))
        tensors = [self._describe(i) for i in range(self.engine.num_io_tensors)]
        tensors.sort(key=lambda item: _place(item[1]))
        self.inputs = tuple(facts for is_input, facts in tensors if is_input)
        self.outputs = tuple(facts for is_input, facts in tensors if not is_input)
        self._check_signature()
        self.activation_bytes = _activation_bytes(self.engine)
        self.context = self.make_context()

    def make_context(self) -> Any:
        """An execution context with its own activation memory, or in that given.

        Raises:
            DeviceMemoryError: TensorRT cannot make one, for want of memory above all.
            DeviceError: the memory given is too small.
        """
        self.log.clear()
        needed, shared = self.activation_bytes, self._activations
        address = shared.address_for(self.path.name, needed) if shared else 0
        if shared is None:
            context = self.engine.create_execution_context()
        else:
            context = _context_without_memory(self.trt, self.engine)
        if context is None:
            raise self._no_memory(
                f"TensorRT made no execution context, which needs {needed:,} bytes",
                self.log.cause(),
            )
        if shared is not None:
            _give_memory(context, address, shared.size_bytes)
        return context

    def bind(self, context: Any, addresses: Mapping[str, int]) -> None:
        """Tell a context where in device memory each input and output lies.

        Raises:
            EngineError: TensorRT refuses an address.
        """
        self.log.clear()
        for facts in (*self.inputs, *self.outputs):
            if not context.set_tensor_address(facts.name, addresses[facts.name]):
                raise EngineError(f"{self.path}: TensorRT: {self.log.cause()}")

    def enqueue(self, context: Any, stream: Stream) -> None:
        """Queue one batch, layer by layer.

        Raises:
            EngineError: TensorRT fails.
        """
        self.log.clear()
        with self.device.current():
            queued = context.execute_async_v3(stream.handle)
        if not queued:
            raise EngineError(
                f"{self.path}: TensorRT failed to run: {self.log.cause()}. If it is the same after "
                "a restart, build the engine again"
            )

    def _no_memory(self, what: str, reason: str) -> DeviceMemoryError:
        free, total = self.device.memory()
        return DeviceMemoryError(
            f"{what}: {reason} ({free:,} of {total:,} bytes of GPU memory are free). Close other "
            "engines and programs, or build with a smaller tile or batch"
        )

    def _describe(self, index: int) -> tuple[bool, TensorFacts]:
        engine, trt = self.engine, self.trt
        name = engine.get_tensor_name(index)
        dtype = engine.get_tensor_dtype(name).name
        facts = TensorFacts(
            name=name,
            shape=tuple(int(side) for side in engine.get_tensor_shape(name)),
            dtype=FLOATS.get(dtype, dtype.lower()),
            layout=str(engine.get_tensor_format_desc(name)),
        )
        return engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT, facts

    def _check_signature(self) -> None:
        every = (*self.inputs, *self.outputs)
        sides = [facts for facts in every if _is_side(facts)]
        images = [facts for facts in every if not _is_side(facts)]
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
            found = "; ".join(
                f"{item.name} {item.shape} {item.dtype}, {item.layout}" for item in every
            )
            raise EngineError(
                f"{self.path}: needs one (N, C, H, W) input and one output, float32 or float16, "
                "and beside them nothing but statistics, float32, all of fixed sizes, in linear "
                f"layout, but has: {found}. Build it with mirnet-edge build"
            )

    def _why_not(self, plan: bytes, card: EngineCard | None, reason: str) -> str:
        major, minor = self.device.facts.compute_capability
        here = (
            f"TensorRT {self.trt.__version__} on {self.device.facts.name} "
            f"(compute capability {major}.{minor})"
        )
        if card is None:
            return (
                f"{self.path}: TensorRT cannot load these {len(plan):,} bytes: {reason}. No card "
                f"says what it was built for; here runs {here}, and a plan belongs to one TensorRT "
                "and one kind of GPU. If it is not damaged, build it again here with mirnet-edge "
                "build"
            )
        built = (
            f"TensorRT {card.versions.get('tensorrt', '?')} on {card.device.get('name', '?')} "
            f"(compute capability {card.device.get('compute_capability', '?')})"
        )
        return (
            f"{self.path}: TensorRT cannot load it: {reason}. It was built with {built}; here runs "
            f"{here}. Build it again here: mirnet-edge build {card.source}"
        )

    def _release(self) -> None:
        """In this order: TensorRT wants each gone before what it came from."""
        self.context = None
        self.engine = None
        self.runtime = None


def load_tensorrt() -> Any:
    """The module tensorrt.

    Raises:
        MissingDependencyError: it is not installed.
        EngineError: it is, but one of its libraries is not.
    """
    try:
        return require("tensorrt", "running TensorRT engines")
    except (ImportError, OSError) as error:
        raise EngineError(
            f"TensorRT is installed but cannot be loaded: {first_line(error)}; mirnet-edge doctor "
            "shows what is missing"
        ) from error


def _activation_bytes(engine: Any) -> int:
    if hasattr(engine, "device_memory_size_v2"):
        return int(engine.device_memory_size_v2)
    return int(engine.device_memory_size)  # api: before device_memory_size_v2


def _context_without_memory(trt: Any, engine: Any) -> Any:
    managed = hasattr(trt, "ExecutionContextAllocationStrategy")
    if not managed and hasattr(engine, "create_execution_context_without_device_memory"):
        return engine.create_execution_context_without_device_memory()
    return engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)


def _give_memory(context: Any, address: int, size_bytes: int) -> None:
    if hasattr(context, "set_device_memory"):
        context.set_device_memory(address, size_bytes)
    else:
        context.device_memory = address


def _is_side(facts: TensorFacts) -> bool:
    return SIDE_TENSOR.fullmatch(facts.name) is not None


def _place(facts: TensorFacts) -> tuple[bool, str, int]:
    """TensorRT lists tensors in any order: the image first, then by name and number."""
    found = SIDE_TENSOR.fullmatch(facts.name)
    return found is not None, facts.name.partition(".")[0], int(found[1] or 0) if found else 0
