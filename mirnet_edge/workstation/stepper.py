"""Steps of training on one device, which nothing on the host waits for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from mirnet_edge.errors import first_line
from mirnet_edge.workstation.captured import Captured
from mirnet_edge.workstation.patches import Draw
from mirnet_edge.workstation.processes import Processes
from mirnet_edge.workstation.settings import Stage
from mirnet_edge.workstation.state import TrainState
from mirnet_edge.workstation.tasks.batch import Batch


def charbonnier(restored: Tensor, target: Tensor, epsilon: float = 1e-3) -> Tensor:
    """Mean of sqrt(difference² + epsilon²) (Charbonnier et al., ICIP 1994)."""
    difference = restored.float() - target
    return torch.sqrt(difference * difference + epsilon * epsilon).mean()


def absolute(restored: Tensor, target: Tensor) -> Tensor:
    """Mean of the absolute difference."""
    return (restored.float() - target).abs().mean()


def of_psnr(restored: Tensor, target: Tensor, floor: float = 0.5 / 255) -> Tensor:
    """Geometric mean of the patches' root mean square errors: falls as the mean of their PSNR
    rises, as the loss of Chen et al., "Simple Baselines for Image Restoration" (ECCV 2022), so that
    a patch of little noise counts as much as one of much. Half a step of 8 bits is no error."""
    squares = (restored.float() - target).square().mean((1, 2, 3))
    return (0.5 * (squares + floor * floor).log().mean()).exp()


LOSS_OF = {"charbonnier": charbonnier, "l1": absolute, "psnr": of_psnr}


@dataclass(frozen=True)
class Tally:
    """What steps came to.

    Attributes:
        loss_sum, finite: of the steps since the last point of the curve whose loss and gradient
            were numbers, and how many these were.
        refused: steps in a row, up to the last, whose gradient was not: they changed no weight.
        loss: of the last step.
    """

    loss_sum: float
    finite: float
    refused: float
    loss: float


class Stepper:
    """Takes steps: draws patches, degrades them, and moves the weights and their average.

    On a GPU the network runs in bfloat16 where there is that, and each part of a step is one CUDA
    graph after a few steps of a stage.

    Args:
        state: whose networks and optimizer the steps change.
        draw: makes a batch.
        planes: of the network's input.
        compile: let torch.compile fuse the network's operations.
        say: called with a sentence where something has to be done in a slower way.
    """

    def __init__(
        self,
        state: TrainState,
        draw: Draw,
        planes: int,
        device: torch.device,
        processes: Processes,
        compile: bool,
        say: Callable[[str], None],
    ) -> None:
        self.state, self.device = state, device
        self._draw, self._planes, self._processes, self._say = draw, planes, processes, say
        self._on_gpu = device.type == "cuda"
        self._generator = torch.Generator(device)
        self._stream = (
            torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            if self._on_gpu
            else None
        )
        self._loss_of = LOSS_OF[state.settings.loss]
        self._forward: Callable[[Tensor], Tensor] = state.network
        if compile:
            # Shapes are few and each has its own stage; one code for all of them would be slower.
            self._forward = torch.compile(state.network, dynamic=False)
        self._parameters: list[Tensor] = list(state.network.parameters())
        self._averages: list[Tensor] = list(state.average.parameters())
        self._stage: Stage | None = None
        # What the host tells each step, in places that graphs know.
        self._rate, self._average_weight = self._scalar(), self._scalar()
        self._loss, self._is_refused = self._scalar(), self._scalar()
        self._tally = torch.zeros(4, device=device)
        for group in state.optimizer.param_groups:
            # After a checkpoint was loaded, which may come from another device.
            group.update(lr=self._rate, capturable=self._on_gpu, fused=True)
        state.optimizer.found_inf = self._is_refused  # type: ignore[attr-defined]
        self._readings: list[tuple[Tensor, torch.cuda.Event | None]] = []
        self.is_updating = False

    def _scalar(self) -> Tensor:
        return torch.zeros((), device=self.device)

    @contextmanager
    def working(self) -> Iterator[None]:
        """A context of all steps and of what reads their results."""
        if self._stream is None:
            yield
            return
        cudnn = torch.backends.cudnn
        before = cudnn.benchmark, cudnn.allow_tf32
        # Convolutions are timed, each shape once; float32 is float32, as degrading patches needs.
        cudnn.benchmark, cudnn.allow_tf32 = True, False
        torch.cuda.synchronize(self.device)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            torch.cuda.synchronize(self.device)
            cudnn.benchmark, cudnn.allow_tf32 = before

    def step(self, stage: Stage) -> None:
        """Take the state's next step, with patches of a stage of the schedule."""
        state, settings = self.state, self.state.settings
        if stage != self._stage:
            self._begin(stage)
        self._seed()
        self._prepare()
        rate = settings.learning_rate_at(state.step, state.position)
        self._rate.fill_(rate * state.rate_factor)
        self._average_weight.fill_(1 - settings.ema_decay_at(state.step))
        self._differentiate()
        if self._processes.count > 1:
            self._processes.average([p.grad for p in self._parameters if p.grad is not None])
        # An error in here leaves weights of which some are of the next step: not to be saved.
        self.is_updating = True
        self._update()
        state.step += 1
        self.is_updating = False

    def _seed(self) -> None:
        # So far apart that neighbouring seeds, or processes, share no step's draws within a million
        # steps; within 32 bits, as the generator of a CPU takes no more.
        settings, rank = self.state.settings, self._processes.rank
        self._generator.manual_seed(
            (settings.seed * 1_000_003 + rank * 97_000_087 + self.state.step) % 2**32
        )

    def _begin(self, stage: Stage) -> None:
        """Make the places of a stage's batches, and what works on them."""
        self._stage = dataclasses.replace(stage)
        shape = (stage.batch, self._planes, stage.patch_px, stage.patch_px)
        layout = torch.channels_last if self._on_gpu else torch.contiguous_format
        self._batch = Batch(
            torch.empty(shape, device=self.device, memory_format=layout),
            torch.empty((shape[0], 3, *shape[2:]), device=self.device),
        )
        self._prepare = Captured(
            self._fill_batch, self._stream, self._generator, self._draw_without_graph
        )
        self._differentiate = Captured(
            self._set_gradients, self._stream, on_failure=self._differentiate_without_graph
        )
        self._update = Captured(self._move_weights, self._stream, on_failure=self._say_slower)

    def _differentiate_without_graph(self, reason: str) -> None:
        self._say_slower(reason)
        # Gradients lie elsewhere each step then, and a graph would go on with the old ones.
        self._update = Captured(self._move_weights, None)

    def _say_slower(self, reason: str) -> None:
        self._say(f"steps are launched one operation at a time, because {reason}")

    def _draw_without_graph(self, reason: str) -> None:
        self._say(f"patches are degraded one operation at a time, because {reason}")
        # The recording has left the old one unusable.
        self._generator = torch.Generator(self.device)
        self._seed()

    def _fill_batch(self) -> None:
        stage = self._stage
        assert stage is not None
        drawn = self._draw(stage.batch, stage.patch_px, self._generator)
        self._batch.given.copy_(drawn.given)
        self._batch.target.copy_(drawn.target)

    def _set_gradients(self) -> None:
        try:
            self._backward()
        except torch._dynamo.exc.TorchDynamoException as error:
            if self._forward is self.state.network:
                raise
            self._say(f"torch.compile fails here ({first_line(error)}): going on without it")
            self._forward = self.state.network
            self._backward()

    def _backward(self) -> None:
        self.state.optimizer.zero_grad(set_to_none=True)
        half = self._on_gpu and torch.cuda.is_bf16_supported()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            restored = self._forward(self._batch.given)
        loss = self._loss_of(restored, self._batch.target)
        loss.backward()  # type: ignore[no-untyped-call]
        self._loss.copy_(loss.detach())

    def _move_weights(self) -> None:
        """Clip the gradient, take the optimizer's step unless the gradient is no number, and move
        the average."""
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        # Of the gradient alone, which is the same in all processes.
        is_finite = torch.isfinite(norm).float()
        factor = (self.state.settings.clip_norm / (norm + 1e-6)).clamp(max=1)
        torch._foreach_mul_(gradients, factor)
        self._is_refused.copy_(1 - is_finite)
        self.state.optimizer.step()
        with torch.no_grad():
            way = list(torch._foreach_sub(self._parameters, self._averages))
            torch._foreach_mul_(way, self._average_weight)
            torch._foreach_add_(self._averages, way)
        loss_sum, finite, refused, _ = self._tally.unbind()
        counted = torch.where(is_finite > 0, self._loss, 0.0)
        refused = (refused + 1) * (1 - is_finite)
        news = torch.stack((loss_sum + counted, finite + is_finite, refused, self._loss))
        self._tally.copy_(news)

    def tally(self) -> Tally:
        """What the steps came to; waits for them."""
        return Tally(*self._tally.tolist())

    def restart_tally(self) -> None:
        """Count losses anew, for the next point of the curve."""
        self._tally[:2] = 0

    def earlier_tally(self) -> Tally | None:
        """What they had come to at the call before this one, which waits for no later step; None at
        the first. On a CPU, what they come to now."""
        if not self._on_gpu:
            return self.tally()
        copied = torch.empty(4, pin_memory=True)
        copied.copy_(self._tally, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        self._readings.append((copied, event))
        if len(self._readings) == 1:
            return None
        values, done = self._readings.pop(0)
        if done is not None:
            done.synchronize()
        return Tally(*values.tolist())
