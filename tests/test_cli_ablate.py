"""``mirnet-edge ablate``: what it leaves behind, how it goes on, and its processes."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from ablation_jobs import Scripted, _tiny_bases  # noqa: F401  # a fixture
from command_line import Outcome, run
from training_runs import write_smooth_images

import mirnet_edge as me
from mirnet_edge.workstation.ablation import figures, jobs
from mirnet_edge.workstation.ablation.jobs import Job, Training, run_jobs, visible_gpus
from mirnet_edge.workstation.ablation.study import RESULT, Run, Study
from mirnet_edge.workstation.ablation.variants import VARIANTS
from mirnet_edge.workstation.settings import Stage
from mirnet_edge.workstation.stepper import Stepper

pytest.importorskip("matplotlib", reason="for the plots of an ablation")
DEADLINE_S = 60.0
Capture = pytest.CaptureFixture[str]
tiny = pytest.mark.usefixtures("_tiny_bases")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_smooth_images(tmp_path_factory.mktemp("images"))


def in_this_process(
    asked: Sequence[Job], gpus: Sequence[str | None]
) -> Iterator[tuple[Job, str | None]]:
    """What `run_jobs` does, without processes, which know nothing of tiny networks."""
    assert gpus == [None]
    for job in asked:
        job.folder.mkdir(parents=True, exist_ok=True)
        try:
            job.do()
        except me.MirnetEdgeError as error:
            yield job, str(error)
        else:
            yield job, None


@pytest.fixture
def _no_processes(_tiny_bases: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(jobs, "run_jobs", in_this_process)
    portable = {"ms": 1.0, "engine": "none", "device": "none"}
    monkeypatch.setattr(figures, "_portable", lambda *_: portable)
    monkeypatch.setattr(figures, "tile_agreement_db", lambda *_: 60.0)


def ablate(capfd: Capture, images: Path, output: Path, *options: object) -> Outcome:
    fixed = ("--validation", f"few={images}", "--gpus", "none", "--task", "gaussian",
             "--batch", 1, "--patch-px", 32, "--rescale", 1)  # fmt: skip
    return run(capfd, "ablate", "--data", images, "-o", output, *fixed, *options)


@pytest.mark.usefixtures("_no_processes")
def test_rows_are_trained_once_and_compared(images: Path, tmp_path: Path, capfd: Capture) -> None:
    rows = ("--rows", "v2,v2-sum,v2-no-context,v1")
    assert ablate(capfd, images, tmp_path, *rows, "--steps", 3, "--no-costs").code == 0
    assert not (tmp_path / "rows").exists()
    first = ablate(capfd, images, tmp_path, *rows, "--steps", 3)
    assert first.code == 0, first.err
    assert first.err.splitlines() == [f"{row}, cost: done" for row in rows[1].split(",")]
    assert "spread unknown" in first.out
    closest = first.out.partition("closest together: ")[2].partition(";")[0].split(", ")
    assert set(closest) == {"v2", "v2-sum", "v2-no-context"}
    record = json.loads((tmp_path / "ablation.json").read_text())
    assert record["rows"]["v2"]["parameters"] > record["rows"]["v2-sum"]["parameters"]
    ranked = record["comparisons"]["steps"]["rows"]
    assert {row["row"] for row in ranked} == {"v2", "v2-sum", "v2-no-context", "v1"}
    assert all(row["runs"][0]["steps"] == 3 for row in ranked)
    assert not list(tmp_path.rglob("checkpoint.pt"))

    again = ablate(capfd, images, tmp_path, "--rows", "closest", "--steps", 3, "--seeds", "1,2")
    assert [line for line in again.err.splitlines() if "seed-1: done" in line] == []
    assert again.err.count("seed-2: done") == 3
    assert "below the spread" in again.out or "holds" in again.out
    of_time = ablate(capfd, images, tmp_path, "--rows", "v2", "--minutes", 0.001)
    assert of_time.code == 0, of_time.err
    comparisons = json.loads((tmp_path / "ablation.json").read_text())["comparisons"]
    assert [len(comparisons[unit]["rows"]) for unit in ("steps", "minutes")] == [4, 1]
    assert comparisons["minutes"]["rows"][0]["runs"][0]["steps"] > 10, "ten that no time counts"

    other = ablate(capfd, images, tmp_path, *rows, "--steps", 3, "--batch", 2)
    assert "other settings (batch 1 -> 2)" in other.only_error


@pytest.mark.usefixtures("_no_processes")
def test_a_row_that_fails_does_not_end_the_others(
    images: Path, tmp_path: Path, capfd: Capture
) -> None:
    """The pictures have 31 pixels: enough for patches of 16, not of 32."""
    outcome = ablate(capfd, images, tmp_path, "--rows", "v2-large-patch,v2-small-patch",
                     "--steps", 1)  # fmt: skip
    assert outcome.code == 1
    assert "v2-large-patch.steps-1.seed-1: failed: " in outcome.err
    assert "48" in outcome.err
    rows = json.loads((tmp_path / "ablation.json").read_text())["comparisons"]["steps"]["rows"]
    assert [row["row"] for row in rows] == ["v2-small-patch"]


@pytest.mark.usefixtures("_no_processes")
def test_a_cost_that_cannot_be_measured_is_told_and_tried_again(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("CUDA error: out of memory")

    asked = (images, tmp_path, "--rows", "v2-one-scale", "--steps", 1)
    with monkeypatch.context() as patch:
        patch.setattr(figures, "_portable", fail)
        outcome = ablate(capfd, *asked)
    assert outcome.code == 1
    assert "v2-one-scale, cost: failed: CUDA error: out of memory" in outcome.err
    row = json.loads((tmp_path / "ablation.json").read_text())["rows"]["v2-one-scale"]
    assert (row["ms"], row["error"]) == (None, "CUDA error: out of memory")
    assert row["parameters"] > 100
    again = ablate(capfd, *asked)
    assert (again.code, again.err) == (0, "v2-one-scale, cost: done\n")


def test_what_cannot_be_meant(images: Path, tmp_path: Path, capfd: Capture) -> None:
    assert "--steps, --minutes or both" in ablate(capfd, images, tmp_path).err
    steps = ("--steps", 1)
    assert "no row v3; there are: v2," in ablate(
        capfd, images, tmp_path, *steps, "--rows", "v3").only_error  # fmt: skip
    assert "no three rows" in ablate(
        capfd, images, tmp_path, *steps, "--rows", "closest").only_error  # fmt: skip
    assert "whole numbers" in ablate(capfd, images, tmp_path, *steps, "--seeds", "a").err
    (tmp_path / "study.json").write_text("{}")
    assert "no ablation" in ablate(capfd, images, tmp_path, *steps).only_error
    listed = run(capfd, "ablate", "--list").out.splitlines()
    assert [line.split()[0] for line in listed] == list(VARIANTS)


@tiny
def test_a_training_that_was_killed_goes_on(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def training(folder: str) -> Training:
        study = Study((str(images),), (f"few={images}",), 2, "gaussian", 1, 16, (1.0,), 1e-3)
        run = Run("v2-one-scale", "steps", 5, 1)
        return Training(study, run, tmp_path / folder, "cpu", None, 5.0)

    def figures_of(job: Training) -> dict[str, Any]:
        found = json.loads((job.folder / RESULT).read_text())
        return {key: found[key] for key in ("psnr", "tiles_db", "steps")}

    whole, parts = training("whole"), training("parts")
    whole.do()
    step = Stepper.step

    def interrupted(self: Stepper, stage: Stage) -> None:
        if self.state.step == 3:
            raise KeyboardInterrupt
        step(self, stage)

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            parts.do()
    assert not parts.is_done()
    parts.do()
    assert parts.is_done()
    assert figures_of(parts) == figures_of(whole)


# Processes


def scripted(folder: Path, *names: str) -> list[Job]:
    found: list[Job] = []
    for name in names:
        (folder / name).mkdir()
        found.append(Scripted(name, folder / name))
    return found


def test_each_gpu_has_one_process_at_a_time(tmp_path: Path) -> None:
    asked = scripted(tmp_path, "works 1", "fails", "crashes", "works 2")
    outcome = {job.name: why for job, why in run_jobs(asked, ["5"])}
    assert [outcome["works 1"], outcome["works 2"]] == [None, None]
    assert str(outcome["fails"]).startswith("no image to train on (exit code 1; ")
    assert str(outcome["crashes"]).startswith("it said nothing (exit code 3; ")
    notes = [(job.folder / "note.txt").read_text().split() for job in (asked[0], asked[3])]
    (gpu, begun, ended), (_, later, _) = sorted(notes, key=lambda note: float(note[1]))
    assert gpu == "5"
    assert float(begun) < float(ended) < float(later)


def test_who_stops_listening_ends_the_processes(tmp_path: Path) -> None:
    waiting, other, fails = scripted(tmp_path, "waits", "never", "fails")
    running = run_jobs([fails, waiting, other], [None])
    assert next(running)[0] is fails
    until = time.monotonic() + DEADLINE_S
    while not (waiting.folder / "begun.txt").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    running.close()
    assert multiprocessing.active_children() == []
    assert not (other.folder / "begun.txt").exists()


def test_gpus_by_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus(4, None) == ["0", "1", "2", "3"]
    assert visible_gpus(4, (2, 0, 2)) == ["2", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    assert visible_gpus(2, (1,)) == ["GPU-b"]
    with pytest.raises(me.ConfigError, match="no GPU 2: PyTorch sees 2 here"):
        visible_gpus(2, (1, 2))
