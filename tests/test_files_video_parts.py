"""Videos whose parts are restored by several workers: the result is that of one process, bit by
bit."""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from video_jobs import restore
from video_samples import make_video

from mirnet_edge.files.cluster.agenda import Agenda
from mirnet_edge.files.cluster.tasks import Task
from mirnet_edge.files.cluster.worker import Worker
from mirnet_edge.files.jobs import Job
from mirnet_edge.files.settings import FileSettings, VideoOptions
from mirnet_edge.stream.video.job import VideoSettings
from mirnet_edge.stream.video.live import open_video
from mirnet_edge.stream.video.parts import Part, Parts
from mirnet_edge.stream.video.planning import parts_of_frames, planned_parts

B_FRAMES = {"bf": "2", "g": "12", "preset": "ultrafast"}


@pytest.mark.parametrize(
    ("name", "video", "settings"),
    [
        ("a.mp4", {"options": B_FRAMES}, {}),
        ("a.mkv", {"options": B_FRAMES}, {"every": 3}),
        ("a.mkv", {"options": B_FRAMES}, {"begin_s": Fraction(1, 2), "duration_s": Fraction(3, 5)}),
        ("a.webm", {"codec": "libvpx-vp9", "options": {"cpu-used": "8", "lag-in-frames": "9"}}, {}),
        ("a.mp4", {"pts": [n * n + 5 for n in range(40)]}, {"every": 2}),
    ],
)
def test_parts_are_planned_as_they_are_made(
    name: str,
    video: dict[str, Any],
    settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = make_video(tmp_path / name, frames=40, **video)
    made: list[Part] = []
    monkeypatch.setattr(Parts, "remove", lambda parts: made.extend(parts.finished))
    restore(source, tmp_path / f"out{source.suffix}", part_frames=7, **settings)
    reader = open_video(str(source), begin_s=settings.get("begin_s", 0))
    plan = planned_parts(reader, VideoSettings(part_frames=7, **settings))
    reader.close()
    assert plan is not None
    assert len(plan) > 1
    told = [(part.frames, part.seen, part.first_pts, part.last_pts) for part in made]
    assert [(part.frames, part.seen, part.first_pts, part.last_pts) for part in plan] == told


@pytest.mark.parametrize(
    ("frames", "every", "size"), [(1, 1, 1), (40, 1, 8), (41, 3, 7), (5, 9, 2)]
)
def test_parts_hold_every_frame_that_is_kept_once(frames: int, every: int, size: int) -> None:
    plan = parts_of_frames(range(frames), every, size)
    assert sum(part.frames for part in plan) == len(range(0, frames, every))
    assert sum(part.seen for part in plan) <= frames
    assert [part.first_pts for part in plan] == list(range(0, frames, every * size))
    assert parts_of_frames([], every, size) == []


def run_in_any_order(agenda: Agenda, worker: Worker, seed: int) -> None:
    """Do all tasks, those that wait at once in any order."""
    order = random.Random(seed)
    waiting: list[Any] = []
    while not agenda.is_done:
        while (task := agenda.next()) is not None:
            waiting.append(task)
        task = waiting.pop(order.randrange(len(waiting)))
        agenda.take(task, worker.run(task))


def cut_off(content: bytes) -> bytes:
    return content[: len(content) * 6 // 10]


def holed(content: bytes) -> bytes:
    return content[: len(content) // 2] + bytes(900) + content[len(content) // 2 :]


@pytest.mark.parametrize("damage", [bytes, cut_off, holed])
def test_a_video_of_several_workers_is_that_of_one_process(
    damage: Callable[[bytes], bytes], tiny_onnx: Path, tmp_path: Path
) -> None:
    source = make_video(tmp_path / "in.mkv", frames=30, size=(32, 40), audio=True, options=B_FRAMES)
    source.write_bytes(damage(source.read_bytes()))
    options = VideoOptions(part_frames=6)
    settings = FileSettings((str(tiny_onnx),), {"tile": 48, "halo": 4}, videos=options)
    worker = Worker(settings)
    results: dict[str, Any] = {}

    def on_done(job: Any, result: dict[str, Any]) -> None:
        results[job.target.name] = result

    several = Job(source, tmp_path / "several.mkv", tmp_path / "several_compare.mkv")
    one = Job(source, tmp_path / "one.mkv", tmp_path / "one_compare.mkv")
    agenda = Agenda([several], on_done, lambda *told: pytest.fail(str(told)))
    run_in_any_order(agenda, worker, seed=3)
    whole = worker.run(Task(one, "whole"))
    assert whole.error == ""
    assert (tmp_path / "several.mkv").read_bytes() == (tmp_path / "one.mkv").read_bytes()
    beside = [tmp_path / f"{name}_compare.mkv" for name in ("several", "one")]
    assert beside[0].read_bytes() == beside[1].read_bytes()
    assert not list(tmp_path.glob(".*")), "something is left"
    told = results["several.mkv"]
    assert told["copied"] == whole.result["copied"] == ["audio (aac)"]
    assert (told["frames"], told["lost"]) == (whole.result["frames"], whole.result["lost"])
    assert (damage is cut_off) == (told["lost"] > 0)


def test_parts_that_a_lost_worker_finished_are_not_made_again(
    tiny_onnx: Path, tmp_path: Path
) -> None:
    job = Job(make_video(tmp_path / "in.mkv", frames=30, size=(32, 40)), tmp_path / "out.mkv", None)
    settings = FileSettings((str(tiny_onnx),), videos=VideoOptions(part_frames=8))
    agenda = Agenda([job], lambda *_: None, lambda *told: pytest.fail(str(told)))
    worker = Worker(settings)
    plan = agenda.next()
    assert plan is not None
    agenda.take(plan, worker.run(plan))
    task = agenda.next()
    assert task is not None
    assert worker.run(task).parts == "planned"
    record = tmp_path / ".out.mkv.parts" / f"{task.numbers.start:06}.json"
    written = record.stat().st_mtime_ns
    assert worker.run(task).parts == "planned"
    assert record.stat().st_mtime_ns == written
    agenda.lose(task, "killed")
    record.unlink()
    run_in_any_order(agenda, worker, seed=0)
    assert job.target.is_file()


def test_a_video_that_a_lost_worker_had_joined_is_done(tiny_onnx: Path, tmp_path: Path) -> None:
    job = Job(make_video(tmp_path / "in.mkv", frames=12, size=(32, 40)), tmp_path / "out.mkv", None)
    worker = Worker(FileSettings((str(tiny_onnx),), videos=VideoOptions(part_frames=8)))
    plan = worker.run(Task(job, "plan")).plan
    assert plan is not None
    missing = worker.run(Task(job, "join", plan))
    assert "0 of 2 parts are there" in missing.error
    assert worker.run(Task(job, "parts", plan, range(2))).parts == "planned"
    first = worker.run(Task(job, "join", plan))
    again = worker.run(Task(job, "join", plan, tries=1))
    assert first.error == again.error == ""
    assert again.result == first.result
    assert not list(tmp_path.glob(".*"))
