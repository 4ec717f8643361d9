"""The options of one engine, checked, and which of them make it another engine."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from mirnet_edge._version import __version__
from mirnet_edge.errors import ConfigError
from mirnet_edge.graph.precision import PRECISIONS, Precision
from mirnet_edge.graph.precision.typing_pass import IoType
from mirnet_edge.quantize.ranges import METHODS

OPTIMIZATION_LEVELS = range(6)  # TensorRT's
AUX_STREAMS = range(8)
LEAST_WORKSPACE = 2**20  # less is a number of MiB that was taken for bytes


@dataclass(frozen=True)
class Settings:
    """Of one engine, as `build_engine` takes them; checked.

    Raises:
        ConfigError: one is out of range.
    """

    precision: Precision
    tile: tuple[int, int]
    batch: int
    workspace: int | None
    optimization_level: int | None
    aux_streams: int | None
    io: IoType
    rewrite: bool
    method: str
    budget_db: float
    sigma: float | None
    plugins: bool = True

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision={self.precision!r}: need one of {', '.join(PRECISIONS)}")
        if self.io not in ("float32", "float16"):
            raise ConfigError(f"io={self.io!r}: need float32 or float16")
        if self.io == "float16" and self.precision == "fp32":
            raise ConfigError("io='float16' with precision='fp32': take fp16 for both, or float32")
        if self.batch < 1 or min(self.tile) < 1:
            raise ConfigError(f"batch={self.batch}, tile={self.tile}: need at least 1 of each")
        if self.workspace is not None and self.workspace < LEAST_WORKSPACE:
            raise ConfigError(f"workspace={self.workspace}: need bytes, {LEAST_WORKSPACE} or more")
        level = self.optimization_level
        if level is not None and level not in OPTIMIZATION_LEVELS:
            raise ConfigError(f"optimization_level={level}: need 0 to {OPTIMIZATION_LEVELS[-1]}")
        if self.aux_streams is not None and self.aux_streams not in AUX_STREAMS:
            raise ConfigError(f"aux_streams={self.aux_streams}: need 0 to {AUX_STREAMS[-1]}")
        if self.method not in ("auto", *METHODS):
            raise ConfigError(f"method={self.method!r}: need auto or one of {', '.join(METHODS)}")
        if not self.budget_db >= 0:  # NaN too
            raise ConfigError(f"budget_db={self.budget_db}: need 0 or more")

    @property
    def takes_plugins(self) -> bool:
        """Whether our plugins may be in this engine: in FP16, of a rewritten graph."""
        return self.plugins and self.precision == "fp16" and self.rewrite

    def decisive(self) -> dict[str, Any]:
        """List what makes an engine another one, beside its graph and target."""
        # The version, as another release may type or rewrite the graph in other ways.
        decisive = {**asdict(self), "version": __version__}
        # Whose sources, where they are used: see `BuildJob`.
        del decisive["plugins"]
        if self.precision != "int8":
            for name in ("method", "budget_db", "sigma"):
                del decisive[name]
        return decisive

    def options(self) -> dict[str, Any]:
        """List what a card says among its options: what it has no field for."""
        of_card = ("precision", "tile", "batch", "version")
        return {name: value for name, value in self.decisive().items() if name not in of_card}
