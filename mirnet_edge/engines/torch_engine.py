"""The PyTorch reference as an engine."""

from __future__ import annotations

import torch

from mirnet_edge.engines.protocol import Tiles
from mirnet_edge.errors import EngineError, first_line
from mirnet_edge.model.layers import Network
from mirnet_edge.system import checked_threads


class TorchEngine:
    """Runs a network eagerly in FP32.

    Args:
        network: moved to ``device``.
        device: as torch names it, "cpu" or "cuda".
        threads: CPU threads of torch, for the whole process; None leaves them.

    Attributes:
        facts: of the network.
        fixed_size: None; it takes any size that is a multiple of ``facts.size_multiple``.
    """

    fixed_size = None

    def __init__(
        self, network: Network, device: str | torch.device = "cpu", threads: int | None = None
    ) -> None:
        if threads is not None:
            torch.set_num_threads(
                checked_threads(threads)
            )  # torch has no number for one network alone
        self.network: Network | None = network.to(device)
        self.device = torch.device(device)
        self.facts = network.facts

    def run(self, tiles: Tiles) -> Tiles:
        """Restore (N, in_planes, H, W) float32 in [0, 1] to (N, out_channels, H, W), not clamped.

        Raises:
            EngineError: closed, or out of memory.
        """
        if self.network is None:
            raise EngineError("this engine is closed; open it again")
        try:
            with torch.inference_mode():
                output = self.network(torch.from_numpy(tiles).to(self.device))
        except (RuntimeError, MemoryError) as error:  # CUDA's lack of memory is the former
            raise EngineError(
                f"PyTorch failed on {self.device} with tiles of shape {tiles.shape}: "
                f"{first_line(error)}. If memory ran out, take a smaller tile."
            ) from error
        result: Tiles = output.float().cpu().numpy()
        return result

    def close(self) -> None:
        """Drop the network. A second call does nothing."""
        self.network = None
