"""Files on a real Ray cluster of this machine: one run in which a worker is killed, and what is
said where there is no cluster."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import psutil
import pytest
from restoring import Restore, names, noise, save
from restoring import restore as restore
from video_samples import make_video

from mirnet_edge.errors import ClusterError, ConfigError
from mirnet_edge.files.cluster.connection import connected
from mirnet_edge.ray import restore_files

SETTINGS = ("--tile", "32", "--halo", "4", "--threads", "1")


def processes() -> dict[int, str]:
    """What runs below this process, by its number."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        try:
            found[process.pid] = " ".join(process.cmdline())
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
def test_photos_and_a_video_are_those_of_one_process_though_a_worker_is_killed(
    restore: Restore, tiny_onnx: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    for number in range(12):
        save(f"{number:02}.png", noise(21, 34 + number, 3))
    make_video(tmp_path / "v.mkv", frames=130, size=(32, 32), options={"preset": "ultrafast"})
    (tmp_path / "broken.png").write_bytes(b"no picture")
    assert restore(".", "-o", "one/", *SETTINGS).code == 1
    before = processes()
    killed: list[int] = []
    shares: list[float] = []

    def progress(done: float, files: int) -> None:
        assert files == 14
        shares.append(done)
        workers = [pid for pid, name in processes().items() if name.startswith("ray::Worker")]
        if done >= 2 and workers and not killed:
            killed.append(workers[0])
            os.kill(workers[0], signal.SIGKILL)

    report = restore_files(
        ".",
        "two/",
        model=tiny_onnx,
        workers=2,
        tile=32,
        halo=4,
        threads=1,
        progress=progress,
    )
    assert len(killed) == 1
    assert list(report.failed) == ["broken.png"]
    assert "broken.png" in report.failed["broken.png"]
    done = sorted(done["input"] for done in report.restored)
    assert done == [*(f"{number:02}.png" for number in range(12)), "v.mkv"]
    assert shares[-1] == 14
    assert names(Path("two")) == names(Path("one"))
    for name in names(Path("one")):
        assert (Path("two") / name).read_bytes() == (Path("one") / name).read_bytes(), name
    left = {pid: name for pid, name in processes().items() if pid not in before}
    assert not [name for name in left.values() if "ray" in name], left
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"

    Path("broken.png").unlink()
    again = restore_files(".", "two/", model=tiny_onnx, skip_existing=True)
    assert (len(again.skipped), again.restored, again.failed) == (13, [], {})


def test_settings_that_there_are_not() -> None:
    with pytest.raises(ConfigError, match="tiles: no such setting"):
        restore_files("a.png", tiles=3)
    with pytest.raises(ConfigError, match="not both"):
        restore_files("a.png", skip_existing=True, overwrite=True)
    with pytest.raises(ConfigError, match="inputs=3"):
        restore_files(3)  # type: ignore[arg-type]


def test_a_cluster_that_does_not_answer_is_said_at_once(restore: Restore) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    save("a.png")
    outcome = restore("a.png", "--ray", "127.0.0.1:1")
    assert outcome.code == 1
    assert outcome.only_error.startswith("no Ray cluster answers at 127.0.0.1:1: ")
    with pytest.raises(ClusterError, match="'nonsense' cannot be joined"), connected("nonsense"):
        pass


def test_without_ray_the_error_names_the_extra(
    restore: Restore, monkeypatch: pytest.MonkeyPatch
) -> None:
    save("a.png")
    monkeypatch.setitem(sys.modules, "ray", None)
    assert 'pip install "mirnet-edge[ray]"' in restore("a.png", "--ray", "local").only_error


@pytest.mark.parametrize(
    "arguments",
    [("--workers", "2"), ("--ray", "local", "-o", "-"), ("--ray", "local", "--workers", "0")],
)
def test_wrong_usage(arguments: tuple[str, ...], restore: Restore) -> None:
    save("a.png")
    assert restore("a.png", *arguments).code == 2
