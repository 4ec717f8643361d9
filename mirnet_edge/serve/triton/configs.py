"""The two models that stand for one in a repository, as ``config.pbtxt`` has them: whole frames,
restored by our `Restorer` in Triton's Python backend, and tiles, by Triton's own backends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from mirnet_edge.errors import ConfigError
from mirnet_edge.serve.inference import INPUT, OUTPUT
from mirnet_edge.serve.triton.settings import KIND_OF_DTYPE, FrameSettings
from mirnet_edge.serve.triton.sources import Source, Tensor, Tiles
from mirnet_edge.serve.triton.text_format import Message, Word, text_format

Kind = Literal["auto", "cpu", "gpu"]
KIND_OF_TILE = {"float32": "TYPE_FP32", "float16": "TYPE_FP16"}
WARM_PX = 256
"""Side of the tiles and frames that a server warms up with, where nothing else is told."""


@dataclass(frozen=True)
class Placement:
    """How a server runs every model.

    Attributes:
        max_batch: requests that go together, at most.
        delay_us: microseconds that a request may wait for others; 0 takes what is there.
        instances: copies of a model, on each GPU.
        kind: where; "auto" takes a GPU for engines, the CPU for frames of graphs, and for their
            tiles what the server prefers.
        gpus: which; all where none is named.
    """

    max_batch: int = 4
    delay_us: int = 0
    instances: int = 1
    kind: Kind = "auto"
    gpus: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if min(self.max_batch, self.instances) < 1 or self.delay_us < 0:
            raise ConfigError(
                f"max_batch={self.max_batch}, instances={self.instances}, delay_us="
                f"{self.delay_us}: need 1, 1 and 0 or more"
            )
        if self.gpus and self.kind == "cpu":
            raise ConfigError(f"kind='cpu' with GPUs {self.gpus}; leave one of them out")

    def group(self, is_plan: bool, otherwise: str) -> Message:
        """The instances of one model, of a kind ``otherwise`` where nothing tells another.

        Raises:
            ConfigError: an engine for the CPU.
        """
        if is_plan and self.kind == "cpu":
            raise ConfigError("kind='cpu' for an engine, which needs a GPU; give the .onnx file")
        on_gpu = is_plan or self.kind == "gpu" or bool(self.gpus)
        kind = "KIND_GPU" if on_gpu else "KIND_CPU" if self.kind == "cpu" else otherwise
        group: dict[str, Any] = {"count": self.instances, "kind": Word(kind)}
        return {**group, "gpus": list(self.gpus)} if self.gpus else group

    def batching(self) -> Message:
        """Dynamic batches."""
        return {
            "dynamic_batching": {"max_queue_delay_microseconds": self.delay_us}
            if self.delay_us
            else {}
        }


def frames_config(
    name: str,
    source: Source,
    settings: FrameSettings,
    placement: Placement,
    dtype: str = "uint8",
    frame: tuple[int, int] | None = None,
) -> str:
    """Whole frames of any size; ``frame`` is the (height, width) that it is warmed up with.

    Raises:
        ConfigError: no such dtype, or none of the pixel format.
    """
    if dtype not in KIND_OF_DTYPE:
        raise ConfigError(f"dtype={dtype!r:.60}: need one of {', '.join(KIND_OF_DTYPE)}")
    form = settings.pixel_format
    if form is not None and form.is_yuv and dtype != "uint8":
        raise ConfigError(f"{form.name} frames of {dtype}: Y'CbCr is of uint8")
    height, width = frame or (WARM_PX, WARM_PX)
    if form is not None:
        form.size_of(form.shape_of(height, width), dtype)  # an odd size is refused here
    kind, dims = Word(KIND_OF_DTYPE[dtype]), settings.frame_dims()
    warm = settings.frame_dims(height, width, source.facts.in_channels)
    return text_format(
        {
            "name": name,
            "backend": "python",
            "default_model_filename": "model.py",
            "max_batch_size": placement.max_batch,
            "version_policy": {"all": {}},
            "input": [{"name": INPUT, "data_type": kind, "dims": dims}],
            "output": [{"name": OUTPUT, "data_type": kind, "dims": _restored_dims(source, dims)}],
            "instance_group": [placement.group(source.is_plan, "KIND_CPU")],
            **placement.batching(),
            "parameters": [
                _parameter("FORCE_CPU_ONLY_INPUT_TENSORS", "yes"),
                *(_parameter(key, value) for key, value in settings.parameters().items()),
            ],
            "model_warmup": [_warmup("one frame", 1, INPUT, kind, warm)],
        }
    )


def _restored_dims(source: Source, dims: list[int]) -> list[int]:
    """A network that changes the channels returns its own."""
    facts = source.facts
    return dims if facts.in_channels == facts.out_channels else [-1, -1, facts.out_channels]


def tiles_config(name: str, source: Source, tiles: Tiles, placement: Placement) -> str:
    """Tiles as the network takes them: float in [0, 1], channels first, what `Restorer` adds to
    them (a plane for the noise level, enlarging) already there."""
    facts, batched = source.facts, tiles.takes_batches
    height, width = source.fixed_size or (facts.size_rule.padded(WARM_PX),) * 2

    def port(tensor: Tensor) -> Message:
        dims = list(tensor.dims[1:] if batched else tensor.dims)
        return {"name": tensor.name, "data_type": Word(KIND_OF_TILE[tensor.dtype]), "dims": dims}

    given = port(tiles.given)
    warm = [*given["dims"][:-2], height, width]
    counts = sorted({1, placement.max_batch}) if batched else [1]
    told = {
        "task": facts.task,
        "scale": facts.scale,
        "noise_level": str(facts.noise_level).lower(),
        "size_multiple": facts.size_multiple,
        "min_size_px": facts.min_size_px,
    }
    return text_format(
        {
            "name": name,
            "backend": tiles.backend,
            "default_model_filename": tiles.file,
            "max_batch_size": placement.max_batch if batched else 0,
            "version_policy": {"all": {}},
            "input": [given],
            "output": [port(tiles.restored)],
            "instance_group": [placement.group(source.is_plan, "KIND_AUTO")],
            **(placement.batching() if batched else {}),
            "parameters": [_parameter(key, str(value)) for key, value in told.items()],
            "model_warmup": [
                _warmup(f"tiles: {count}", count, tiles.given.name, given["data_type"], warm)
                for count in counts
            ],
        }
    )


def _parameter(key: str, value: str) -> Message:
    return {"key": key, "value": {"string_value": value}}


def _warmup(name: str, count: int, tensor: str, kind: Word, dims: list[int]) -> Message:
    zeros = {"data_type": kind, "dims": dims, "zero_data": True}
    return {"name": name, "batch_size": count, "inputs": [{"key": tensor, "value": zeros}]}
