"""A training that diverges goes back to where it was well, with a lower learning rate: wide
networks do it now and then, at rates that are otherwise the best for them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mirnet_edge.workstation.state import TrainState

KEEP_EVERY = 500
"""Steps between copies, of which the last two are held: the newer one may be ill already. The first
is of the weights that a training begins with."""
DIVERGED = 8.0
"""Times the usual loss, at `IN_A_ROW` looks, that no batch explains."""
IN_A_ROW = 3
WEIGHT = 0.05
"""Of a new loss in the usual one."""
MOST_TIMES = 5
"""That a training goes back; then it fails."""
SLOWER = 0.5


class Recovery:
    """Holds copies, on the training's device, of all that its steps change."""

    def __init__(self, state: TrainState) -> None:
        self._state = state
        self._copies = [self._copy()]
        self._kept_at = state.step
        self._usual = math.nan
        self._strange = 0
        self._times = 0

    def look(self, loss: float) -> bool:
        """Tell whether the training has diverged, by its latest loss; where it has not, keep a copy
        now and then."""
        if math.isfinite(self._usual) and not loss < DIVERGED * self._usual:
            self._strange += 1
            return self._strange >= IN_A_ROW
        self._strange = 0
        if not math.isfinite(loss):
            return False
        usual = self._usual
        self._usual = usual + WEIGHT * (loss - usual) if math.isfinite(usual) else loss
        if self._state.step - self._kept_at >= KEEP_EVERY:
            self._keep()
        return False

    def go_back(self) -> bool:
        """Take the older copy, and halve the learning rate from here on; False where that was done
        too often."""
        if self._times >= MOST_TIMES:
            return False
        self._times += 1
        self._strange = 0
        self._kept_at = self._state.step
        del self._copies[1:]
        tensors, (copy,) = self._tensors(), self._copies
        with torch.no_grad():
            torch._foreach_copy_(tensors[: len(copy)], copy)
            for moment in tensors[len(copy) :]:  # before its first step the optimizer had none
                moment.zero_()
        self._state.rate_factor *= SLOWER
        return True

    def _keep(self) -> None:
        self._copies = [self._copies[-1], self._copy()]
        self._kept_at = self._state.step

    def _copy(self) -> list[Tensor]:
        return [tensor.detach().clone() for tensor in self._tensors()]

    def _tensors(self) -> list[Tensor]:
        state = self._state
        moments = [
            moment for moments in state.optimizer.state.values() for moment in moments.values()
        ]
        return [*state.network.parameters(), *state.average.parameters(), *moments]
