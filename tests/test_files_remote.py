"""Files by URL: which there are, where their results go, and how they come and go."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from restoring import noise, save

import mirnet_edge as me
from mirnet_edge.errors import (
    ConfigError,
    ImageError,
    MissingDependencyError,
    OutputError,
)
from mirnet_edge.files.cluster.tasks import Task
from mirnet_edge.files.cluster.worker import Worker
from mirnet_edge.files.jobs import Naming
from mirnet_edge.files.remote import RemoteJob, plan_remote, staged
from mirnet_edge.files.settings import FileSettings, PictureOptions
from mirnet_edge.files.todo import to_do
from mirnet_edge.frames.images import read_image

fsspec: Any = pytest.importorskip("fsspec", reason="fsspec is not installed")


@pytest.fixture
def bucket(tmp_path: Path) -> Any:
    """A store in memory, with some files in it."""
    store = fsspec.filesystem("memory")
    picture = save(tmp_path / "a.png", noise(21, 34, 3)).read_bytes()
    for name in ("in/a.png", "in/b.JPG", "in/deep/c.mp4", "in/notes.txt", "in/d_restored.png"):
        store.pipe_file(f"/bucket/{name}", picture)
    yield store
    store.rm("/bucket", recursive=True)


def planned(inputs: list[str], output: str | None, recursive: bool = False, **more: Any) -> Any:
    jobs, lines = plan_remote(inputs, Naming(output, **more), recursive)
    return {job.name: job.target for job in jobs}, lines


def test_folders_and_patterns_are_looked_through(bucket: Any) -> None:
    top, out = "memory:///bucket/in", "memory:///bucket/out"
    found = {
        f"{top}/a.png": f"{out}/a_restored.png",
        f"{top}/b.JPG": f"{out}/b_restored.JPG",
    }
    said = [f"left out of {top}/: 3 of other formats, or results of other runs"]
    assert planned([f"{top}/"], f"{out}/") == (found, said)
    deep = {**found, f"{top}/deep/c.mp4": f"{out}/deep/c_restored.mp4"}
    assert planned([f"{top}/"], out, recursive=True)[0] == deep
    assert planned([f"{top}/*.png"], out)[0] == {f"{top}/a.png": f"{out}/a_restored.png"}
    assert planned([f"{top}/a.png"], None)[0] == {f"{top}/a.png": f"{top}/a_restored.png"}
    named = planned([f"{top}/a.png"], "memory:///bucket/x.webp", form=".webp")[0]
    assert named == {f"{top}/a.png": "memory:///bucket/x.webp"}
    assert planned(["https://host/a.png?key=1"], "out/")[0] == {
        "https://host/a.png?key=1": str(Path("out/a_restored.png").absolute())
    }


@pytest.mark.parametrize(
    ("inputs", "output", "error", "said"),
    [
        (["memory://bucket/none/"], None, ImageError, "cannot be listed: there is no such file"),
        (["memory://bucket/in/deep/*.png"], None, ImageError, "no image or video"),
        (["https://host/a.png"], None, OutputError, "https is read and not written to"),
        (["memory://b/a.png", "memory://c/a.png"], "memory://o/", OutputError, "both be written"),
        (["memory://b/a.png", "memory://b/c.png"], "memory://o.png", OutputError, "is one file"),
        (["odd://host/folder/"], "out/", ConfigError, "odd"),
    ],
)
def test_what_cannot_be_planned(
    inputs: list[str], output: str | None, error: type[Exception], said: str, bucket: Any
) -> None:
    with pytest.raises(error, match=said):
        planned(inputs, output)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingDependencyError, match="s3fs"):
        planned(["s3://bucket/in/"], "s3://bucket/out/")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingDependencyError, match=r"mirnet-edge\[ray\]"):
        planned(["s3://bucket/in/"], "s3://bucket/out/")


def test_a_picture_comes_is_restored_and_goes(bucket: Any, tiny_onnx: Path, tmp_path: Path) -> None:
    job = RemoteJob(
        "memory://bucket/in/a.png", "memory://bucket/out/r.png", "memory://bucket/out/c.png"
    )
    assert to_do([job], PictureOptions()).left == [job]
    outcome = Worker(FileSettings((str(tiny_onnx),), {"tile": 32, "halo": 4})).run(Task(job))
    assert (outcome.error, outcome.result["width"]) == ("", 34)
    assert sorted(bucket.ls("/bucket/out", detail=False)) == [
        "/bucket/out/c.png",
        "/bucket/out/r.png",
    ]
    (tmp_path / "r.png").write_bytes(bucket.cat_file("/bucket/out/r.png"))
    with me.Restorer(tiny_onnx, tile=32, halo=4) as restorer:
        expected = restorer(noise(21, 34, 3))
    np.testing.assert_array_equal(read_image(tmp_path / "r.png").pixels, expected)

    assert to_do([job], PictureOptions(keep=True)).kept == [job]
    assert "exists; --skip" in to_do([job], PictureOptions()).refused[job]
    assert to_do([job], PictureOptions(overwrite=True)).left == [job]
    bucket.rm("/bucket/out/c.png")
    assert to_do([job], PictureOptions(keep=True)).left == [job]


def test_a_file_that_is_gone_fails_alone(bucket: Any, tiny_onnx: Path) -> None:
    worker = Worker(FileSettings((str(tiny_onnx),)))
    gone = worker.run(Task(RemoteJob("memory://bucket/in/gone.png", "memory://bucket/out/g.png")))
    assert gone.error == "memory://bucket/in/gone.png: cannot be read: there is no such file"
    assert not bucket.exists("/bucket/out")


def test_other_systems_have_a_file_moved_into_place(bucket: Any, tmp_path: Path) -> None:
    target = tmp_path / "made" / "out.png"
    with staged(RemoteJob("memory://bucket/in/a.png", target.as_uri())) as job:
        assert job.source.name == "a.png"
        job.target.parent.mkdir()
        job.target.write_bytes(job.source.read_bytes())
        assert not target.exists()
    assert target.read_bytes() == bucket.cat_file("/bucket/in/a.png")
    assert [path.name for path in target.parent.iterdir()] == ["out.png"]
    assert not job.source.exists(), "left behind"


def test_where_nothing_can_be_written_is_said(tiny_onnx: Path, tmp_path: Path) -> None:
    source = save(tmp_path / "a.png")
    job = RemoteJob(str(source), f"{source.as_uri()}/below/out.png")
    assert "cannot write file:" in Worker(FileSettings((str(tiny_onnx),))).run(Task(job)).error
