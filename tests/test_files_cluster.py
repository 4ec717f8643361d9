"""A run over files on a cluster, without Ray: which tasks there are, who does them, and what
becomes of those of lost workers."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_ray import FakeRay
from restoring import noise, save

import mirnet_edge as me
from mirnet_edge.errors import ClusterError, ConfigError
from mirnet_edge.files.cluster import worker as of_worker
from mirnet_edge.files.cluster.agenda import MOST_TRIES, Agenda
from mirnet_edge.files.cluster.connection import Need
from mirnet_edge.files.cluster.crew import Crew
from mirnet_edge.files.cluster.run import ClusterSettings
from mirnet_edge.files.cluster.tasks import Outcome, Task
from mirnet_edge.files.cluster.worker import Worker
from mirnet_edge.files.jobs import Job, Naming
from mirnet_edge.files.settings import FileSettings
from mirnet_edge.frames.images import read_image
from mirnet_edge.stream.video.parts import Part

PART = Part(frames=9, seen=9, first_pts=0, last_pts=8, last_duration=0, lost=0, reasons=[])


def job_of(name: str) -> Job:
    return Job(Path(name), Path("out") / name, None)


class Run:
    """An agenda, and what it told."""

    def __init__(self, *names: str) -> None:
        self.done: list[str] = []
        self.failed: dict[str, str] = {}
        self.agenda = Agenda(
            [job_of(name) for name in names],
            lambda job, result: self.done.append(job.name),
            lambda job, why: self.failed.update({job.name: why}),
        )

    def next(self) -> Task:
        task = self.agenda.next()
        assert task is not None
        return task

    def planned(self, parts: int, workers: int = 1) -> list[Task]:
        """The tasks of a video of so many parts, once it is planned."""
        self.agenda.workers = workers
        plan = self.next()
        assert plan.kind == "plan"
        self.agenda.take(plan, Outcome(plan=(PART,) * parts))
        found = []
        while (task := self.agenda.next()) is not None:
            found.append(task)
        return found


# The agenda


def test_pictures_are_done_in_their_order_and_each_once() -> None:
    run = Run("a.png", "b.png")
    first, second = run.next(), run.next()
    assert run.agenda.next() is None
    assert run.agenda.most_workers == 2
    run.agenda.take(second, Outcome({"width": 1}))
    run.agenda.take(first, Outcome(error="damaged"))
    assert (run.done, run.failed, run.agenda.is_done) == (["b.png"], {"a.png": "damaged"}, True)


def test_the_task_of_a_lost_worker_is_for_another_one_but_not_for_ever() -> None:
    run = Run("a.png", "b.png")
    for tries in range(MOST_TRIES):
        task = run.next()
        assert (task.job.name, task.tries) == ("a.png", tries), "before what else waits"
        run.agenda.lose(task, "killed")
    assert run.failed == {"a.png": "a.png: 3 workers were lost with it, the last one: killed"}
    run.agenda.take(run.next(), Outcome(is_lost=True, error="no GPU"))
    assert run.next().tries == 1


@pytest.mark.parametrize(
    ("parts", "workers", "tasks"), [(2, 1, 2), (7, 2, 7), (64, 2, 8), (65, 2, 9), (500, 2, 63)]
)
def test_a_video_is_cut_into_tasks_that_hold_each_part_once(
    parts: int, workers: int, tasks: int
) -> None:
    run = Run("a.mp4")
    assert run.agenda.most_workers is None
    found = run.planned(parts, workers)
    assert [number for task in found for number in task.numbers] == list(range(parts))
    assert len(found) == tasks
    for task in found[:-1]:
        run.agenda.take(task, Outcome())
        assert run.agenda.next() is None, "joined before it is there"
    assert 0 < run.agenda.done < 1
    run.agenda.take(found[-1], Outcome())
    join = run.next()
    assert (join.kind, len(join.plan)) == ("join", parts)
    run.agenda.take(join, Outcome({"frames": 9}))
    assert (run.done, run.agenda.done) == (["a.mp4"], 1)


@pytest.mark.parametrize("plan", [None, (PART,)])
def test_what_cannot_be_cut_is_restored_as_a_whole(plan: Any) -> None:
    run = Run("a.mp4")
    run.agenda.take(run.next(), Outcome(plan=plan))
    assert run.next().kind == "whole"


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize(("found", "kind"), [("other", "whole"), ("guessed", "anew")])
def test_a_video_that_is_not_as_planned_is_restored_as_a_whole_once_nobody_writes_its_parts(
    found: Any, kind: str, lost: bool
) -> None:
    run = Run("a.mp4")
    run.agenda.take(run.next(), Outcome(plan=(PART,) * 4))
    first, second = run.next(), run.next()
    run.agenda.take(first, Outcome(parts=found))
    assert run.agenda.next() is None, "the others are dropped"
    if lost:
        run.agenda.lose(second, "killed")
    else:
        run.agenda.take(second, Outcome())
    whole = run.next()
    assert (whole.kind, run.agenda.next()) == (kind, None)
    run.agenda.lose(whole, "killed")
    assert run.next() == replace(whole, tries=1)


def test_parts_that_wait_are_dropped_with_a_video_that_failed() -> None:
    run = Run("a.mp4", "b.png")
    run.agenda.take(run.next(), Outcome(plan=(PART,) * 4))
    first, second = run.next(), run.next()
    run.agenda.take(first, Outcome(error="no space left"))
    assert run.next().job.name == "b.png"
    run.agenda.lose(second, "killed")
    assert run.agenda.next() is None
    assert run.failed == {"a.mp4": "no space left"}


def test_the_tasks_of_many_files_are_given_out_in_no_time() -> None:
    run = Run(*(f"{number}.png" for number in range(20000)))
    began_s = time.process_time()
    while not run.agenda.is_done:
        run.agenda.take(run.next(), Outcome(error="damaged") if run.agenda.done % 2 else Outcome())
    # Looking at each file for each would take minutes.
    assert time.process_time() - began_s < 20
    assert (len(run.done), len(run.failed)) == (10000, 10000)


# The crew


def crew_of(ray: FakeRay, model: str | Path, **settings: Any) -> Crew:
    fields = {"need": Need(1, 0), "most": None, "wait_s": 0.0, "tell": pytest.fail, **settings}
    return Crew(ray, FileSettings((str(model),), {"tile": 32, "halo": 4}), **fields)


@pytest.fixture
def album(tmp_path: Path) -> list[Job]:
    """Five pictures, and jobs for them."""
    (tmp_path / "out").mkdir()
    return [
        Job(save(tmp_path / f"{n}.png", noise(21, 34 + n, 3)), tmp_path / "out" / f"{n}.png", None)
        for n in range(5)
    ]


def test_workers_that_die_are_replaced_and_no_file_is_lost(
    album: list[Job], tiny_onnx: Path
) -> None:
    def dies(number: int, name: str, *arguments: Any) -> bool:
        return number in (0, 2) and name == "run"

    ray = FakeRay([(1, 0), (1, 0)], dies)
    done: list[str] = []
    agenda = Agenda(album, lambda job, _: done.append(job.name), lambda *told: pytest.fail(told))
    with crew_of(ray, tiny_onnx) as crew:
        crew.work(agenda, lambda _: None)
    assert sorted(done) == [job.name for job in album]
    assert ray.made == 4
    assert ray.alive == set(), "a worker is left"
    with me.Restorer(tiny_onnx, tile=32, halo=4) as restorer:
        for job in album:
            expected = restorer(read_image(job.source).pixels)
            np.testing.assert_array_equal(read_image(job.target).pixels, expected)


def test_a_result_that_a_lost_worker_had_written_is_kept(album: list[Job], tiny_onnx: Path) -> None:
    worker, task = Worker(FileSettings((str(tiny_onnx),))), Task(album[0])
    assert worker.run(task).error == ""
    written = album[0].target.stat().st_mtime_ns
    assert "exists" in worker.run(task).error
    assert worker.run(replace(task, tries=1)).result["width"] == 34
    assert album[0].target.stat().st_mtime_ns == written


def test_a_worker_that_lost_its_gpu_is_given_up(
    album: list[Job], tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: Any) -> None:
        raise me.DeviceError("fell off the bus")

    worker = Worker(FileSettings((str(tiny_onnx),)))
    monkeypatch.setattr(of_worker, "restore_picture", lost)
    assert worker.run(Task(album[0])).is_lost


def test_a_cluster_without_room_is_said_with_what_it_has(album: list[Job]) -> None:
    crew = crew_of(FakeRay([(4, 0)]), "fast.engine", need=Need(1, 1))
    with pytest.raises(ClusterError, match=r"takes 1 GPU \(node0: 4 cores, 0 GPUs"):
        crew.work(Agenda(album, pytest.fail, pytest.fail), lambda _: None)


def test_workers_that_cannot_serve_say_why(album: list[Job], tmp_path: Path) -> None:
    told: list[str] = []
    crew = crew_of(FakeRay([(2, 0)]), tmp_path / "none.onnx", tell=told.append)
    with pytest.raises(ClusterError, match=r"none\.onnx: no such file"):
        crew.work(Agenda(album, pytest.fail, pytest.fail), lambda _: None)
    assert len(told) == 1, "each the same"
    worker = Worker(FileSettings(("edge-s-denoise",)))
    assert "has mirnet-edge" in worker.prepare("0.0.1", None, False)
    elsewhere = replace(album[0], source=tmp_path / "elsewhere" / "a.png")
    assert "does not see" in worker.prepare(me.__version__, elsewhere, False)


def test_workers_that_all_die_end_the_run(album: list[Job], tiny_onnx: Path) -> None:
    ray = FakeRay([(1, 0)], lambda *_: True)
    with crew_of(ray, tiny_onnx) as crew, pytest.raises(ClusterError, match="worker 5 died"):
        crew.work(Agenda(album, pytest.fail, pytest.fail), lambda _: None)
    assert ray.alive == set()


@pytest.mark.parametrize(
    ("model", "restoring", "gpus", "need"),
    [
        ("edge-s-denoise", {}, 0, Need(2, 0)),
        ("edge-s-denoise", {}, 2, Need(1, 1)),
        ("edge-s-denoise", {"threads": 2}, 2, Need(2, 0)),
        ("edge-s-denoise", {"provider": "OpenVINO"}, 2, Need(2, 0)),
        ("edge-s-denoise", {"provider": "CUDAExecutionProvider"}, 0, Need(1, 1)),
        ("fast.engine", {"threads": 2}, 0, Need(1, 1)),
    ],
)
def test_what_a_worker_needs(model: str, restoring: dict[str, Any], gpus: int, need: Need) -> None:
    nodes = FakeRay([(3, gpus), (5, 0)]).nodes()
    assert Need.of(FileSettings((model,), restoring), 2, nodes) == need
    assert need.places(nodes) == (gpus if need.gpus else 3)


@pytest.mark.parametrize("named", [(["-"], None), (["a.png"], "-"), (["memory://a.png"], "out/")])
def test_what_one_process_alone_sees_is_refused(named: tuple[list[str], str | None]) -> None:
    inputs, output = named
    with pytest.raises(ConfigError, match="is of one process"):
        ClusterSettings().plan(inputs, Naming(output), False)
