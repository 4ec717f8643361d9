"""Train a MIRNet on clean images, with the papers' recipe, resumable at any step.

Charbonnier loss, Adam, cosine annealing, random patches under the symmetries of the square,
bfloat16 on a GPU. Everything random in step ``t`` is drawn from a generator seeded by (seed, t), so
a run that was stopped and resumed equals one that was not.
"""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mirnet_edge._imports import require
from mirnet_edge.engines.torch_engine import TorchEngine
from mirnet_edge.errors import ConfigError, DataError, OutputError, first_line
from mirnet_edge.interrupts import interrupts_deferred
from mirnet_edge.model.checkpoints import facts_of, load_model, save_model
from mirnet_edge.model.config import preset
from mirnet_edge.model.create import create_model
from mirnet_edge.restore import Restorer
from mirnet_edge.workstation.curve import Point, plot_curve
from mirnet_edge.workstation.evaluate import evaluate_model, load_images
from mirnet_edge.workstation.patches import PatchSampler
from mirnet_edge.workstation.state import CHECKPOINT, TrainSettings, TrainState
from mirnet_edge.workstation.tasks import TRAINABLE


def charbonnier(restored: Tensor, clean: Tensor, epsilon: float = 1e-3) -> Tensor:
    """Mean of sqrt(difference² + epsilon²) (Charbonnier et al., ICIP 1994)."""
    difference = restored.float() - clean
    return torch.sqrt(difference * difference + epsilon * epsilon).mean()


class Trainer:
    """Runs the steps of one training.

    Args:
        settings: the recipe.
        data: folder of clean images, or several.
        output: folder for ``checkpoint.pt``, ``model.safetensors``, ``curve.json`` and
            ``curve.png``; made if missing. A checkpoint in it is resumed.
        validation: folder of clean images for the curve, or None.
        device: as torch names it; None takes a GPU where there is one.
        compile: let torch.compile fuse the network; a minute at start.
        initial: weights to start from, a file or a bundled model's name; None draws them. A
            checkpoint in ``output`` goes before them.

    Raises:
        ConfigError: settings or a device that cannot be, or settings other than the checkpoint's.
        DataError: no images, or none as large as a patch.
        CheckpointError: a damaged checkpoint.
        OutputError: ``output`` is a file.
        MissingDependencyError: a package that the end of the run will need.
    """

    def __init__(
        self,
        settings: TrainSettings,
        data: Sequence[str | os.PathLike[str]],
        output: str | os.PathLike[str],
        validation: str | os.PathLike[str] | None = None,
        device: str | None = None,
        compile: bool = False,
        initial: str | os.PathLike[str] | None = None,
    ) -> None:
        config = preset(settings.preset)
        if settings.patch_px % config.size_multiple:
            raise ConfigError(
                f"patch_px={settings.patch_px}: must be a multiple of {config.size_multiple}"
            )
        if settings.task not in TRAINABLE:
            trainable = ", ".join(TRAINABLE)
            raise ConfigError(
                f"no task {settings.task!r} can be trained yet; there are: {trainable}"
            )
        self.task = TRAINABLE[settings.task]
        # Both are used at the end alone, when hours would be lost.
        require("matplotlib", "drawing the training curve")
        require("safetensors", "saving the weights")
        self.device = _usable_device(device)
        self.output = Path(output)
        if self.output.exists() and not self.output.is_dir():
            raise OutputError(f"{output} is a file; name a folder")
        self.skipped: list[str] = []
        images = self._read(data, settings.patch_px)
        self.sampler = PatchSampler(images, settings.patch_px, self.device)
        self.data_facts: dict[str, object] = {"folders": len(data), "images": len(images)}
        if validation:
            self.data_facts["validation"] = Path(validation).name
        self.validation = _center_crops(validation) if validation else []
        self.state = self._fresh_or_resumed(settings, initial)
        self._generator = torch.Generator(self.device)
        self._updating = False
        self._forward: Callable[[Tensor], Tensor] = self.state.network
        if self.device.type == "cuda":
            self.state.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if compile:
            mode = "reduce-overhead" if self.device.type == "cuda" else "default"
            self._forward = torch.compile(self.state.network, mode=mode)

    def _read(
        self, data: Sequence[str | os.PathLike[str]], patch_px: int
    ) -> list[NDArray[np.uint8]]:
        images = []
        for folder in data:
            for name, image in load_images(folder, self.skipped)[1]:
                if min(image.shape[:2]) < patch_px:
                    size = f"{image.shape[1]}x{image.shape[0]}"
                    self.skipped.append(f"{name}: {size}, smaller than a patch of {patch_px}")
                else:
                    images.append(image)
        if not images:
            raise DataError(
                f"{', '.join(map(str, data))}: no image to train on; "
                f"{len(self.skipped)} left out: {'; '.join(self.skipped[:3])}"
            )
        return images

    def _fresh_or_resumed(
        self, settings: TrainSettings, initial: str | os.PathLike[str] | None
    ) -> TrainState:
        network = create_model(settings.preset, seed=settings.seed)
        if initial is not None:
            network = load_model(initial)
            if network.config != preset(settings.preset):
                raise ConfigError(
                    f"{initial} is a {network.facts.preset} network, but {settings.preset} is to "
                    "be trained"
                )
            self.data_facts["initial_weights_sha256"] = network.facts.weights_sha256
        network = network.to(self.device)
        fused = self.device.type == "cuda"
        optimizer = torch.optim.Adam(network.parameters(), settings.learning_rate, fused=fused)
        state = TrainState(settings, network, optimizer)
        path = self.output / CHECKPOINT
        if path.exists():
            state.resume(path)
        return state

    def run(
        self,
        until: int | None = None,
        validate_every: int = 1000,
        seconds: float = math.inf,
        report: Callable[[TrainState, float], None] | None = None,
    ) -> TrainState:
        """Train until step ``until`` (None: the schedule's end) or for about ``seconds``.

        Saves a checkpoint and a point of the curve every ``validate_every`` steps and at the end,
        and the weights at the end. An interruption (Ctrl-C, SIGTERM) waits for the end of its step
        and saves a checkpoint of the steps done, if there are any.

        Args:
            report: called every ten steps and at the last with the state and the loss.

        Raises:
            ConfigError: the loss is no longer finite; an earlier checkpoint is kept.
            OutputError: the output folder cannot be written to.
        """
        state = self.state
        last = min(until or state.settings.steps, state.settings.steps)
        self._make_output_folder()
        started, earlier = time.monotonic(), state.seconds
        losses: list[Tensor] = []
        with interrupts_deferred(signal.SIGINT, signal.SIGTERM) as interrupted:
            try:
                while state.step < last and not interrupted():
                    losses.append(self._step())
                    elapsed = time.monotonic() - started
                    state.seconds = earlier + elapsed
                    # Ten steps apart, because a loss as a number waits for the GPU.
                    if report and (state.step % 10 == 0 or state.step == last):
                        report(state, float(losses[-1]))
                    if state.step % validate_every == 0 or state.step == last or elapsed > seconds:
                        psnr = self._validate(interrupted)
                        # Emptied first: a loss that is refused is not to be recorded once more.
                        pending, losses = losses, []
                        self._record(pending, psnr)
                    if elapsed > seconds:
                        break
            finally:
                if losses and not self._updating:
                    self._record(losses, psnr=None)
        if interrupted() == signal.SIGTERM:
            signal.raise_signal(signal.SIGTERM)  # ends the process, unless somebody handles it
        if interrupted():
            raise KeyboardInterrupt
        self._save_weights()
        return state

    def _make_output_folder(self) -> None:
        try:
            self.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make the folder {self.output}: {error}") from error
        if not os.access(self.output, os.W_OK):
            raise OutputError(f"cannot write to the folder {self.output}; choose another")

    def _step(self) -> Tensor:
        state, settings = self.state, self.state.settings
        # So far apart that neighbouring seeds share no step's draws within a million steps.
        self._generator.manual_seed(settings.seed * 1_000_003 + state.step)
        clean = self.sampler.draw(settings.batch, self._generator)
        degraded = self.task.degrade(clean, self._generator)
        if self.device.type == "cuda":
            degraded = degraded.contiguous(memory_format=torch.channels_last)
        for group in state.optimizer.param_groups:
            group["lr"] = settings.learning_rate_at(state.step)
        # "reduce-overhead" keeps outputs in memory that the next step reuses, and wants to be told.
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        half = self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            restored = self._forward(degraded)
        loss = charbonnier(restored, clean)
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(state.network.parameters(), settings.clip_norm)
        # An error in here leaves weights of which some are of the next step: not to be saved.
        self._updating = True
        state.optimizer.step()
        state.step += 1
        self._updating = False
        return loss.detach()

    def _record(self, losses: list[Tensor], psnr: float | None) -> None:
        """Add a point to the curve and write the checkpoint."""
        state = self.state
        loss = float(torch.stack(losses).mean())
        if not math.isfinite(loss):
            path = self.output / CHECKPOINT
            kept = f"{path} keeps the last good state" if path.exists() else "nothing is saved yet"
            raise ConfigError(
                f"the loss is {loss} at step {state.step}: lower learning_rate "
                f"({state.settings.learning_rate}); {kept}"
            )
        learning_rate = state.settings.learning_rate_at(state.step - 1)
        state.curve.append(Point(state.step, loss, psnr, learning_rate, state.seconds))
        state.save(self.output)

    def _validate(self, interrupted: Callable[[], int]) -> float | None:
        """The curve's PSNR; None where there is nothing to validate on, or no time any more."""
        network = self.state.network
        network.facts = facts_of(network, self.state.settings.task)
        restorer = Restorer(TorchEngine(network, self.device), tile=None)
        scores = []
        for seed, image in enumerate(self.validation):
            # Who sends SIGTERM kills soon after, and the steps since the last point are not saved.
            if interrupted():
                return None
            evaluation = evaluate_model(restorer, [image], seed=seed, with_ssim=False)
            scores.append(evaluation.mean.psnr)
        return float(np.mean(scores)) if scores else None

    def _save_weights(self) -> None:
        state, on_gpu = self.state, self.device.type == "cuda"
        cpu = f"CPU, {torch.get_num_threads()} threads"
        training = {
            "settings": dataclasses.asdict(state.settings),
            "steps_done": state.step,
            "seconds": round(state.seconds, 1),
            "data": self.data_facts,
            "device": torch.cuda.get_device_name(self.device) if on_gpu else cpu,
            "torch": torch.__version__,
        }
        path = self.output / "model.safetensors"
        save_model(state.network, path, task=state.settings.task, training=training)
        if state.curve:
            plot_curve(state.curve, self.output / "curve.png")


def _center_crops(folder: str | os.PathLike[str], most_px: int = 512) -> list[NDArray[np.uint8]]:
    """Validation images, cut to ``most_px`` so that a point of the curve stays cheap."""
    skipped: list[str] = []
    crops = []
    for _, image in load_images(folder, skipped)[1]:
        top = max(image.shape[0] - most_px, 0) // 2
        left = max(image.shape[1] - most_px, 0) // 2
        crops.append(image[top : top + most_px, left : left + most_px])
    if not crops:
        raise DataError(f"{folder}: no image to validate on; {'; '.join(skipped[:3])}")
    return crops


def _usable_device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {name!r} cannot be used here: {first_line(error)}") from error
    return device
