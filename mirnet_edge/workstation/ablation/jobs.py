"""The trainings and measurements of an ablation, each in a process of its own, one a GPU at a
time: what crashes, or lacks memory, takes no other with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from pathlib import Path
from queue import SimpleQueue
from typing import Protocol

from mirnet_edge.errors import ConfigError, EngineError, MirnetEdgeError
from mirnet_edge.workstation.ablation.study import (
    COST,
    RESULT,
    Run,
    Study,
    costs_in,
    write_json,
)
from mirnet_edge.workstation.ablation.variants import VARIANTS

LOG = "log.txt"
UNTIMED_STEPS = 10
"""Of each process: until the network is compiled, and steps are graphs."""


class Job(Protocol):
    """What one process does.

    Attributes:
        name: for who watches.
        folder: for its files.
    """

    @property
    def name(self) -> str: ...
    @property
    def folder(self) -> Path: ...
    def is_done(self) -> bool:
        """Whether an earlier process did it."""

    def do(self) -> None:
        """Do it, or what is left of it."""


@dataclass(frozen=True)
class Training:
    """Train a variant, and see how well it restores.

    Attributes:
        device: "cpu" or "cuda".
        compile: see `Trainer`.
    """

    study: Study
    run: Run
    output: Path
    device: str
    compile: bool | None
    checkpoint_minutes: float

    @property
    def name(self) -> str:
        return self.run.name

    @property
    def folder(self) -> Path:
        return self.output / "runs" / self.run.name

    def is_done(self) -> bool:
        return (self.folder / RESULT).exists()

    def do(self) -> None:
        import torch

        from mirnet_edge._version import __version__
        from mirnet_edge.workstation.ablation.figures import tile_agreement_db
        from mirnet_edge.workstation.ablation.networks import network_of
        from mirnet_edge.workstation.pace import Report
        from mirnet_edge.workstation.state import CHECKPOINT
        from mirnet_edge.workstation.train import Trainer
        from mirnet_edge.workstation.validation import read_validation

        study, run = self.study, self.run
        settings = study.settings(run)
        sets = read_validation(study.validation, study.validation_images)
        trainer = Trainer(
            settings,
            study.data,
            self.folder,
            device=self.device,
            compile=self.compile,
            network=network_of(VARIANTS[run.row], settings.make_task(), run.seed),
            say=print,
        )
        trainer.data_facts["variant"] = run.row

        def report(news: Report) -> None:
            print(f"step {news.state.step}, {news.state.seconds:.0f} s, loss {news.loss:.4f}")

        # What it restores is asked at the end alone: until then it is time that others would lack.
        state = trainer.run(
            None, settings.steps, self.checkpoint_minutes, report, untimed_steps=UNTIMED_STEPS
        )
        average = state.average
        with trainer.stepper.working():  # float32 is float32
            scores = {each.name: each.psnr(average, trainer.device, lambda: 0) for each in sets}
            tiles_db = tile_agreement_db(average, trainer.device)
        write_json(
            self.folder / RESULT,
            {
                **vars(run),
                "patch_px": settings.patch_px,
                "psnr": scores,
                "tiles_db": tiles_db,
                "steps": state.step,
                "seconds": state.seconds,
                "rate_factor": state.rate_factor,
                "device": torch.cuda.get_device_name() if self.device == "cuda" else "CPU",
                "torch": torch.__version__,
                "version": __version__,
            },
        )
        (self.folder / CHECKPOINT).unlink()  # four times the weights, which stay


@dataclass(frozen=True)
class Costing:
    """Measure what a variant costs, with the weights of a seed: trained ones take as long.

    Attributes:
        size: (height, width) that is timed.
    """

    study: Study
    row: str
    output: Path
    device: str
    size: tuple[int, int]
    compile: bool | None

    @property
    def name(self) -> str:
        return f"{self.row}, cost"

    @property
    def folder(self) -> Path:
        return self.output / "rows" / self.row

    def is_done(self) -> bool:
        found = costs_in(self.output).get(self.row, {})
        return found.get("ms") is not None and (found["on"], tuple(found["size"])) == (
            self.device,
            self.size,
        )

    def do(self) -> None:
        from mirnet_edge.workstation.ablation.figures import cost_of
        from mirnet_edge.workstation.ablation.networks import network_of
        from mirnet_edge.workstation.tasks import TRAINABLE

        network = network_of(VARIANTS[self.row], TRAINABLE[self.study.task](), seed=0)
        found = cost_of(network, self.device, self.size, self.compile is not False)
        write_json(self.folder / COST, found)
        if "error" in found:
            raise EngineError(found["error"])


def run_jobs(
    jobs: Sequence[Job], gpus: Sequence[str | None]
) -> Generator[tuple[Job, str | None], None, None]:
    """Run jobs in processes, as many at a time as there are ``gpus``, each with one of them as its
    only one; None is no GPU.

    Yields each job when it is done, and why it failed, if it did. Closing the generator ends the
    processes, which save what they have; they end as well when this one is killed.
    """
    free: SimpleQueue[str | None] = SimpleQueue()
    for gpu in gpus:
        free.put(gpu)
    lock, running = threading.Lock(), set[SpawnProcess]()
    is_over = False
    context = multiprocessing.get_context("spawn")

    def run(job: Job) -> str | None:
        gpu = free.get()
        process = context.Process(target=work, args=(job, gpu), name=job.name)
        with lock:
            if is_over:
                return "not begun"
            process.start()
            running.add(process)
        process.join()
        with lock:
            running.discard(process)
        free.put(gpu)
        return None if process.exitcode == 0 else _last_words(job, process.exitcode)

    with ThreadPoolExecutor(len(gpus)) as pool:
        futures = {pool.submit(run, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            with lock:
                is_over = True
                for process in running:
                    process.terminate()
            pool.shutdown(cancel_futures=True)


def _last_words(job: Job, code: int | None) -> str:
    path = job.folder / LOG
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    said = next((line for line in reversed(lines) if line.strip()), "it said nothing")
    return f"{said} (exit code {code}; {path})"


def work(job: Job, gpu: str | None) -> None:
    """Be the process of a job."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends this process
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    job.folder.mkdir(parents=True, exist_ok=True)
    log = os.open(job.folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):  # of the process: libraries in C++ write there too
        os.dup2(log, stream)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # for who watches it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        job.do()
    except MirnetEdgeError as error:
        print(error, flush=True)
        sys.exit(1)
    except Exception:
        traceback.print_exc()
        sys.exit(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)  # which a training heeds at the end of its step


def visible_gpus(count: int, numbers: Sequence[int] | None) -> list[str]:
    """What to set ``CUDA_VISIBLE_DEVICES`` to for each of some GPUs, by the numbers that they have
    in this process, of ``count``; None takes all. A `ConfigError` where there is no such GPU."""
    wanted = range(count) if numbers is None else numbers
    if missing := [number for number in wanted if not 0 <= number < count]:
        raise ConfigError(f"no GPU {missing[0]}: PyTorch sees {count} here, counted from 0")
    shown = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name.strip() for name in shown.split(",") if name.strip()]
    return [names[number] if names else str(number) for number in dict.fromkeys(wanted)]
