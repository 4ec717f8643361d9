"""The processes that train one network together, started by PyTorch's launcher (``torchrun``)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from mirnet_edge.errors import ConfigError, first_line


@dataclass(frozen=True)
class Processes:
    """How many there are, and which one this is; alone, nothing is sent.

    Gradients are averaged in one message after the backward pass, and not through
    DistributedDataParallel, whose hooks CUDA graphs and compilers have to know of: the gradients of
    these networks are a few megabytes, whose sum takes a fraction of a millisecond.

    Attributes:
        rank: of this process; the first writes files and speaks.
        local_rank: among those of this machine: its GPU.
    """

    rank: int = 0
    local_rank: int = 0
    count: int = 1

    @classmethod
    def of_launcher(cls, cuda: bool) -> Processes:
        """Those of the environment that the launcher sets, connected; a `ConfigError` where they
        cannot be."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            return cls()
        rank, local_rank = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
        if not dist.is_initialized():
            if cuda:
                torch.cuda.set_device(local_rank)
            try:
                # Words between the hosts go over gloo, so that no GPU is waited for.
                dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
            except (RuntimeError, ValueError) as error:
                raise ConfigError(
                    f"process {rank} of {count} reaches no other: {first_line(error)}; start it "
                    "with torchrun"
                ) from error
        return cls(rank, local_rank, count)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their means over all processes."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.count
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        means = [part.view(tensor.shape) for part, tensor in zip(parts, tensors)]
        torch._foreach_copy_(list(tensors), means)

    def greatest(self, *values: float) -> list[float]:
        """The greatest of each value over all processes, so that all decide alike."""
        if self.count == 1:
            return list(values)
        message = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(message, dist.ReduceOp.MAX)
        return message.tolist()

    def close(self) -> None:
        """Leave the others."""
        if self.count > 1 and dist.is_initialized():
            dist.destroy_process_group()
