"""Train a network on clean images or pairs, resumable at any step.

Adam, cosine annealing, random patches under the symmetries of the square, a moving average of the
weights. Everything random in step ``t`` is drawn from a generator seeded by (seed, t, process), so
a run that was stopped and resumed equals one that was not.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import torch

from mirnet_edge._imports import require
from mirnet_edge.errors import ConfigError, DataError, DeviceMemoryError, OutputError, first_line
from mirnet_edge.interrupts import interrupts_deferred
from mirnet_edge.model.checkpoints import facts_of, save_model
from mirnet_edge.model.config import preset
from mirnet_edge.model.layers import Network
from mirnet_edge.workstation.curve import Point, plot_curve
from mirnet_edge.workstation.pace import Pace, Report
from mirnet_edge.workstation.patches import (
    Draw,
    PatchSampler,
    degraded_patches,
    paired_patches,
)
from mirnet_edge.workstation.photos import read_pairs, read_photos
from mirnet_edge.workstation.processes import Processes
from mirnet_edge.workstation.recovery import Recovery
from mirnet_edge.workstation.settings import Stage, TrainSettings
from mirnet_edge.workstation.state import CHECKPOINT, TrainState, initial_network
from mirnet_edge.workstation.stepper import Stepper
from mirnet_edge.workstation.validation import read_validation

PathLike = str | os.PathLike[str]
BETAS = (0.9, 0.99)
"""Adam's. By the usual 0.999 it remembers a spike of the gradients for a thousand steps, and these
networks learn less from nothing (``benchmarks/NOTES.md``)."""
READ_EVERY = 10
"""Steps between looks at what they came to, and between words with other processes."""
MOST_REFUSED = 10
"""Steps in a row without a finite gradient, after which no more are taken."""
SUSPECT = 3
"""Such steps at the end of a run, from which on its state is not saved."""
LEAST_PATCH_PX = 16
"""Of which patches are multiples, at the small size where a task enlarges: JPEG's 4:2:0 blocks."""


class Trainer:
    """Runs the steps of one training.

    Args:
        settings: the recipe.
        data: folder of clean images, or several.
        output: folder for ``checkpoint.pt``, ``model.safetensors``, ``curve.json`` and
            ``curve.png``; made if missing. A checkpoint in it is resumed.
        pairs: instead of ``data``: the folders of the degraded and of the good pictures (see
            `matched_pairs`).
        validation: folders for the curve, each ``FOLDER`` of clean images or ``INPUTS:TARGETS``,
            with ``NAME=`` before it or not.
        validation_images: most of each set.
        device: as torch names it; None takes a GPU where there is one.
        compile: let torch.compile fuse the network, a minute at the start of each stage; None does
            on a GPU where Triton is.
        initial: weights to start from, a file or a bundled model's name; None draws them. A
            checkpoint in ``output`` goes before them.
        network: to train from its own weights, instead of the preset's; told no noise level where
            its configuration has none, whatever the task.
        say: called with sentences that a user should read.

    Started by ``torchrun``, each process takes a GPU and patches of its own, and the first one
    writes the files.

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
        data: Sequence[PathLike],
        output: PathLike,
        *,
        pairs: tuple[PathLike, PathLike] | None = None,
        validation: Sequence[PathLike] = (),
        validation_images: int = 24,
        device: str | None = None,
        compile: bool | None = None,
        initial: PathLike | None = None,
        network: Network | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.task = settings.make_task()
        config = network.config if network else self.task.network(preset(settings.preset))
        multiple = math.lcm(config.size_multiple, LEAST_PATCH_PX * self.task.scale)
        self.stages = settings.stages(multiple)
        if bool(data) == bool(pairs):
            raise ConfigError("train on folders of clean images, or on pairs: name one of the two")
        if pairs and self.task.scale > 1:
            raise ConfigError("super-resolution makes its own small pictures; give clean images")
        # Both are used at the end alone, when hours would be lost.
        require("matplotlib", "drawing the training curve")
        require("safetensors", "saving the weights")
        self.device, self.processes = _usable_device(device)
        self.output = Path(output)
        if self.output.exists() and not self.output.is_dir():
            raise OutputError(f"{output} is a file; name a folder")
        self.skipped: list[str] = []
        sampler, images = self._read_pictures(data, pairs, settings.rescale)
        draw: Draw = (
            paired_patches(sampler, config.noise_level)
            if pairs
            else degraded_patches(sampler, self.task, config.noise_level)
        )
        self.data_facts: dict[str, object] = {
            "folders": len(pairs or data),
            "images": images,
            "pairs": bool(pairs),
        }
        self.validation = read_validation(validation, validation_images)
        of_pairs = [found.name for found in self.validation if found.is_of_pairs]
        if of_pairs and self.task.scale > 1:
            raise ConfigError(
                f"validation set {of_pairs[0]} is of pairs, which are of one size, but this task "
                f"enlarges {self.task.scale} times; give its clean images alone, as NAME=FOLDER"
            )
        if self.validation:
            self.data_facts["validation"] = {found.name: len(found) for found in self.validation}
        network = network or initial_network(config, settings, initial, say)
        if initial is not None:
            self.data_facts["initial_weights_sha256"] = network.facts.weights_sha256
        self.state = self._fresh_or_resumed(settings, network.to(self.device))
        self.recovery, self._say = Recovery(self.state), say
        if compile is None:
            compile = self.device.type == "cuda" and _has_triton()
        self.stepper = Stepper(
            self.state, draw, config.in_planes, self.device, self.processes, compile, say
        )
        self._pointed = self.state.step

    def _read_pictures(
        self,
        data: Sequence[PathLike],
        pairs: tuple[PathLike, PathLike] | None,
        factors: Sequence[float],
    ) -> tuple[PatchSampler, int]:
        """All pictures, of which there must be some for each stage, and how many they are."""
        sides = [stage.patch_px for stage in self.stages]
        if pairs:
            pictures = read_pairs(*pairs, min(sides), self.skipped)
        else:
            pictures = read_photos(data, min(sides), factors, self.skipped)
        largest = max(min(copies[0].shape[:2]) for copies in pictures)
        if largest < max(sides):
            raise DataError(
                f"no image is as large as a patch of {max(sides)}; the largest has {largest} pixels"
            )
        copies = [copy for copies in pictures for copy in copies]
        return PatchSampler(copies, self.device), len(pictures)

    def _fresh_or_resumed(self, settings: TrainSettings, network: Network) -> TrainState:
        average = copy.deepcopy(network).requires_grad_(False)
        optimizer = torch.optim.Adam(network.parameters(), lr=1.0, betas=BETAS, fused=True)
        state = TrainState(settings, network, average, optimizer)
        path = self.output / CHECKPOINT
        if path.exists():
            state.resume(path)
        if self.device.type == "cuda":
            for each in (state.network, state.average):
                each.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            for moments in optimizer.state.values():
                for name, tensor in moments.items():
                    if tensor.dim() == 4:
                        moments[name] = tensor.to(memory_format=torch.channels_last)
        return state

    def run(
        self,
        until: int | None = None,
        validate_every: int | None = None,
        checkpoint_minutes: float = 5.0,
        report: Callable[[Report], None] | None = None,
        untimed_steps: int = 0,
    ) -> TrainState:
        """Train until step ``until`` (None: the schedule's end).

        Adds a point to the curve every ``validate_every`` steps (None: a 25th of the schedule, at
        least 1000) and at the end, and saves checkpoint and weights with each and every
        ``checkpoint_minutes``. An interruption (Ctrl-C,
        SIGTERM) waits for the end of its step and saves the steps done, if there are any.

        Args:
            report: called every ten steps, after each point and at the end, in the first process.
            untimed_steps: of this call, which count no time of the schedule: in the first the
                network is compiled, which another one's speed has nothing to do with.

        Raises:
            ConfigError: the loss is no longer finite; an earlier checkpoint is kept.
            OutputError: the output folder cannot be written to.
            DeviceMemoryError: the GPU's memory does not suffice.
        """
        state, stepper = self.state, self.stepper
        last = min(until or state.settings.steps, state.settings.steps)
        validate_every = validate_every or max(1000, state.settings.steps // 25)
        if self.processes.is_first:
            self._make_output_folder()
        pace = Pace(state, last, self.processes.count, self.device)
        number = 0
        with interrupts_deferred(signal.SIGINT, signal.SIGTERM) as interrupted, stepper.working():
            try:
                saved_at = time.monotonic()
                first = state.step
                while state.step < last:
                    if self.processes.count == 1 or (state.step - first) % READ_EVERY == 0:
                        number, state.seconds = self._agreed(interrupted(), pace.seconds())
                        if number or state.position >= 1:
                            break
                    stage = self._stage()
                    stepper.step(stage)
                    pace.add(stage.batch)
                    if state.step - first <= untimed_steps:
                        stepper.tally()  # waits for the device
                        pace.begin()
                    if state.step % READ_EVERY == 0:
                        self._read(pace, report)
                    if state.step % validate_every == 0 and state.step < last:
                        self._add_point(self._validate(interrupted))
                        self._tell(pace, report, state.curve[-1].loss)
                        saved_at = pace.restart()
                    elif time.monotonic() - saved_at > 60 * checkpoint_minutes:
                        self._save(stepper.tally().refused)
                        saved_at = pace.restart()
                state.seconds = pace.seconds()
                if not number and state.step > self._pointed:
                    self._add_point(self._validate(interrupted), is_last=True)
            except torch.OutOfMemoryError as error:
                raise DeviceMemoryError(
                    f"{first_line(error)}: take a smaller batch than {self._stage().batch}"
                ) from error
            finally:
                if state.step > self._pointed and not stepper.is_updating:
                    self._add_point({}, is_last=True)
        number = number or interrupted()
        if number == signal.SIGTERM:
            signal.raise_signal(signal.SIGTERM)  # ends the process, unless somebody handles it
        if number:
            raise KeyboardInterrupt
        self._finish()
        if state.curve:
            self._tell(pace, report, state.curve[-1].loss)
        return state

    def _make_output_folder(self) -> None:
        try:
            self.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make the folder {self.output}: {error}") from error
        if not os.access(self.output, os.W_OK):
            raise OutputError(f"cannot write to the folder {self.output}; choose another")

    def _agreed(self, number: int, seconds: float) -> tuple[int, float]:
        """The signal that any process got, and the longest time, in all of them the same."""
        number_anywhere, longest = self.processes.greatest(number, seconds)
        return int(number_anywhere), longest

    def _stage(self) -> Stage:
        position = self.state.position
        return [stage for stage in self.stages if stage.start <= position][-1]

    def _read(self, pace: Pace, report: Callable[[Report], None] | None) -> None:
        tally = self.stepper.earlier_tally()
        if tally is None:
            return
        has_diverged = self.recovery.look(tally.loss) or tally.refused >= MOST_REFUSED
        if self.processes.greatest(has_diverged)[0]:
            if not self.recovery.go_back():
                self._pointed = self.state.step  # what was refused is not to be recorded once more
                self._lost(tally.loss)
            self.stepper.restart_tally()
            self._say(
                f"the training diverged at step {self.state.step} (loss {tally.loss:.3g}): it goes "
                f"on from earlier weights, at {self.state.rate_factor:g} of the learning rate"
            )
        self._tell(pace, report, tally.loss)

    def _tell(self, pace: Pace, report: Callable[[Report], None] | None, loss: float) -> None:
        if report and self.processes.is_first:
            report(pace.report(loss))

    def _lost(self, loss: float) -> NoReturn:
        state, path = self.state, self.output / CHECKPOINT
        kept = f"{path} keeps the last good state" if path.exists() else "nothing is saved yet"
        rate = state.settings.learning_rate_at(state.step - 1, state.position) * state.rate_factor
        raise ConfigError(
            f"the loss is {loss} at step {state.step}, where the learning rate is {rate:.2g}: "
            f"lower learning_rate; {kept}"
        )

    def _add_point(self, psnr: dict[str, float], is_last: bool = False) -> None:
        """Add a point to the curve, and save; at the last, after a refused step too."""
        state, tally = self.state, self.stepper.tally()
        self._pointed = state.step
        if tally.finite == 0 or (is_last and tally.refused >= SUSPECT):
            self._lost(tally.loss)
        learning_rate = float(state.optimizer.param_groups[0]["lr"])
        loss = tally.loss_sum / tally.finite
        state.curve.append(Point(state.step, loss, psnr, learning_rate, state.seconds))
        self.stepper.restart_tally()
        self._save(0 if is_last else tally.refused)

    def _save(self, refused: float) -> None:
        """Write checkpoint and weights, unless the last steps were refused: weights that have left
        all bounds give no finite gradient."""
        if self.processes.is_first and refused == 0:
            self.state.save(self.output)
            self._save_weights()

    def _validate(self, interrupted: Callable[[], int]) -> dict[str, float]:
        """The curve's PSNR by validation set; of those alone for which there is time."""
        if not self.validation or not self.processes.is_first:
            return {}
        average = self.state.average
        average.facts = facts_of(average, self.task.restores, self.task.scale)
        figures: dict[str, float] = {}
        for each in self.validation:
            psnr = each.psnr(average, self.device, interrupted)
            if psnr is None:
                break
            figures[each.name] = psnr
        return figures

    def _save_weights(self) -> None:
        state, on_gpu = self.state, self.device.type == "cuda"
        cpu = f"CPU, {torch.get_num_threads()} threads"
        training = {
            "settings": dataclasses.asdict(state.settings),
            "task_settings": dataclasses.asdict(self.task),  # type: ignore[call-overload]
            "steps_done": state.step,
            "seconds": round(state.seconds, 1),
            "data": self.data_facts,
            "device": torch.cuda.get_device_name(self.device) if on_gpu else cpu,
            "processes": self.processes.count,
            "torch": torch.__version__,
        }
        path = self.output / "model.safetensors"
        save_model(state.average, path, self.task.restores, training, self.task.scale)

    def _finish(self) -> None:
        if self.processes.is_first:
            self._save_weights()
            if self.state.curve:
                plot_curve(self.state.curve, self.output / "curve.png")


def _usable_device(name: str | None) -> tuple[torch.device, Processes]:
    wanted = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        on_gpu = torch.device(wanted).type == "cuda"
        processes = Processes.of_launcher(on_gpu)
        if on_gpu and processes.count > 1:
            wanted = f"cuda:{processes.local_rank}"
        device = torch.device(wanted)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {name!r} cannot be used here: {first_line(error)}") from error
    return device, processes


def _has_triton() -> bool:
    """Whether torch.compile can write kernels for a GPU."""
    from torch.utils._triton import has_triton

    return bool(has_triton())
