"""Train a MIRNet on clean images, with the papers' recipe, resumable at any step.

Charbonnier loss, Adam, cosine annealing, random patches under the symmetries of the square,
bfloat16 on a GPU. Everything random in step ``t`` is drawn from a generator seeded by (seed, t), so
a run that was stopped and resumed equals one that was not.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mirnet_edge._files import atomic_path
from mirnet_edge._imports import require
from mirnet_edge.engines.torch_engine import TorchEngine
from mirnet_edge.errors import CheckpointError, ConfigError, DataError, OutputError
from mirnet_edge.interrupts import interrupts_deferred
from mirnet_edge.model.checkpoints import facts_of, load_model, save_model
from mirnet_edge.model.config import preset
from mirnet_edge.model.create import create_model
from mirnet_edge.model.layers import Network
from mirnet_edge.restore import Restorer
from mirnet_edge.workstation.curve import Point, plot_curve
from mirnet_edge.workstation.evaluate import evaluate_model, load_images
from mirnet_edge.workstation.patches import PatchSampler
from mirnet_edge.workstation.tasks import task_named

CHECKPOINT = "checkpoint.pt"
CHECKPOINT_FORMAT = 1


@dataclass(frozen=True)
class TrainSettings:
    """Everything that decides the result of a training run, but data and device.

    Attributes:
        preset: name of the network.
        task: name of the degradation (`mirnet_edge.workstation.tasks.TASKS`).
        steps: of the whole schedule.
        batch: patches a step.
        patch_px: side of a patch, a multiple of 4.
        learning_rate, final_learning_rate: cosine from the first to the second.
        warmup_steps: linear from zero.
        clip_norm: greatest norm of the gradient.
        seed: of initial weights, patches and noise.
    """

    preset: str = "edge-s"
    task: str = "denoise"
    steps: int = 100_000
    batch: int = 16
    patch_px: int = 128
    learning_rate: float = 2e-4
    final_learning_rate: float = 1e-6
    warmup_steps: int = 200
    clip_norm: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "patch_px", "learning_rate", "clip_norm"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name}={getattr(self, name)}: must be positive")

    def learning_rate_at(self, step: int) -> float:
        """Of step ``step``, counted from 0."""
        cosine = 0.5 + 0.5 * math.cos(math.pi * min(step / self.steps, 1))
        rate = self.final_learning_rate + cosine * (self.learning_rate - self.final_learning_rate)
        return rate * min(1, (step + 1) / max(self.warmup_steps, 1))


@dataclass
class TrainState:
    """What a step changes, and what a checkpoint holds."""

    settings: TrainSettings
    network: Network
    optimizer: torch.optim.Adam
    step: int = 0
    seconds: float = 0.0
    curve: list[Point] = field(default_factory=list)


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
        ConfigError: settings or a device that cannot be, or settings that differ from the
            checkpoint's in more than ``steps``.
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
        self.task = task_named(settings.task)
        require("matplotlib", "drawing the training curve")
        require("safetensors", "saving the weights")
        self.device = _usable_device(device)
        self.output = Path(output)
        if self.output.exists() and not self.output.is_dir():
            raise OutputError(f"{output} is a file; name a folder")
        self.skipped: list[str] = []
        images = self._read(data, settings.patch_px)
        self.sampler = PatchSampler(images, settings.patch_px, self.device)
        self.data_facts: dict[str, Any] = {"folders": len(data), "images": len(images)}
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
            for name, image in load_images(folder, self.skipped):
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
            _resume(state, path)
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
        and the weights at the end. An interruption (Ctrl-C) waits for the end of its step and saves
        a checkpoint too.

        Args:
            report: called every ten steps and at the last with the state and the loss.

        Raises:
            ConfigError: the loss is no longer finite; the last checkpoint is kept.
            OutputError: the output folder cannot be written to.
        """
        state = self.state
        last = min(until or state.settings.steps, state.settings.steps)
        self._make_output_folder()
        started, earlier = time.monotonic(), state.seconds
        losses: list[Tensor] = []
        with interrupts_deferred() as interrupted:
            try:
                while state.step < last and not interrupted():
                    losses.append(self._step())
                    elapsed = time.monotonic() - started
                    state.seconds = earlier + elapsed
                    if report and (state.step % 10 == 0 or state.step == last):
                        report(state, float(losses[-1]))
                    if state.step % validate_every == 0 or state.step == last or elapsed > seconds:
                        pending, losses = losses, []
                        self._record(pending, self._validate())
                    if elapsed > seconds:
                        break
            finally:
                if losses and not self._updating:
                    self._record(losses, psnr=None)
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
        self._generator.manual_seed(settings.seed * 1_000_003 + state.step)
        clean = self.sampler.draw(settings.batch, self._generator)
        degraded = self.task.degrade(clean, self._generator)
        if self.device.type == "cuda":
            degraded = degraded.contiguous(memory_format=torch.channels_last)
        for group in state.optimizer.param_groups:
            group["lr"] = settings.learning_rate_at(state.step)
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        half = self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            restored = self._forward(degraded)
        loss = charbonnier(restored, clean)
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(state.network.parameters(), settings.clip_norm)
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
            raise ConfigError(
                f"the loss is {loss} at step {state.step}: lower learning_rate "
                f"({state.settings.learning_rate}); {self.output / CHECKPOINT} keeps the last good "
                "state"
            )
        state.curve.append(
            Point(
                step=state.step,
                loss=loss,
                psnr=psnr,
                learning_rate=state.settings.learning_rate_at(state.step - 1),
                seconds=state.seconds,
            )
        )
        content = {
            "format": CHECKPOINT_FORMAT,
            "settings": dataclasses.asdict(state.settings),
            "model": state.network.state_dict(),
            "optimizer": state.optimizer.state_dict(),
            "step": state.step,
            "seconds": state.seconds,
            "curve": [dataclasses.asdict(point) for point in state.curve],
        }
        with atomic_path(self.output / CHECKPOINT) as temporary:
            torch.save(content, temporary)
        with atomic_path(self.output / "curve.json") as temporary:
            temporary.write_text(json.dumps(content["curve"], indent=1))

    def _validate(self) -> float | None:
        if not self.validation:
            return None
        network = self.state.network
        network.facts = facts_of(network, self.state.settings.task)
        restorer = Restorer(TorchEngine(network, self.device), tile=None)
        return evaluate_model(restorer, self.validation, with_ssim=False).mean.psnr

    def _save_weights(self) -> None:
        state = self.state
        training: dict[str, Any] = {
            "settings": dataclasses.asdict(state.settings),
            "steps_done": state.step,
            "seconds": round(state.seconds, 1),
            "data": self.data_facts,
            "device": _device_name(self.device),
            "torch": torch.__version__,
        }
        save_model(state.network, self.output / "model.safetensors", state.settings.task, training)
        if state.curve:
            plot_curve(state.curve, self.output / "curve.png")


def _center_crops(folder: str | os.PathLike[str], most_px: int = 512) -> list[NDArray[np.uint8]]:
    """Validation images, cut to ``most_px`` so that a point of the curve stays cheap."""
    skipped: list[str] = []
    crops = []
    for _, image in load_images(folder, skipped):
        top = max(image.shape[0] - most_px, 0) // 2
        left = max(image.shape[1] - most_px, 0) // 2
        crops.append(image[top : top + most_px, left : left + most_px])
    if not crops:
        raise DataError(f"{folder}: no image to validate on; {'; '.join(skipped[:3])}")
    return crops


def _resume(state: TrainState, path: Path) -> None:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        found = content["format"], TrainSettings(**content["settings"])
    except Exception as error:  # damaged files make torch and pickle raise nearly anything
        raise CheckpointError(
            f"{path}: not a training checkpoint, or damaged; delete it to start anew"
        ) from error
    if found[0] != CHECKPOINT_FORMAT:
        raise CheckpointError(f"{path}: format {found[0]}; this version reads {CHECKPOINT_FORMAT}")
    wanted = state.settings
    if dataclasses.replace(found[1], steps=wanted.steps) != wanted:
        different = [
            f"{name} {old!r} -> {new!r}"
            for (name, old), new in zip(vars(found[1]).items(), vars(wanted).values())
            if old != new and name != "steps"
        ]
        raise ConfigError(
            f"{path} was trained with other settings ({', '.join(different)}); use the same, or "
            "another output folder"
        )
    state.network.load_state_dict(content["model"])
    state.optimizer.load_state_dict(content["optimizer"])
    state.step, state.seconds = content["step"], content["seconds"]
    state.curve = [Point(**point) for point in content["curve"]]


def _usable_device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"device {name!r} cannot be used here: {reason}") from error
    return device


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"
