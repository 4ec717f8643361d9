"""``mirnet-edge live`` and ``play``: as they are started, and a window that OpenCV would show."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from command_line import COMMAND, ENVIRONMENT
from command_line import run as command
from live_views import HEIGHT, WIDTH, Scene, until, view_of

import mirnet_edge as me
from mirnet_edge.cli.live import address
from mirnet_edge.live import window
from mirnet_edge.live.window import TITLE, divided, play_in_window, window_library, window_size

pytest.importorskip("starlette", reason="the extra live is not installed")

from mirnet_edge.access import is_loopback


def test_it_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    options = ("--port", "0", "--size", "32x24", "--rate", "5", "--folder", "kept")
    process = subprocess.Popen(
        [*COMMAND, "live", "test", *options],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        told = process.stdout.readline()
        found = re.fullmatch(r"test picture: (http://127\.0\.0\.1:\d+/)\n", told)
        assert found, told or process.communicate()[1]
        with urllib.request.urlopen(found[1]) as answer:
            assert b"mirnet-edge live" in answer.read()
    finally:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "", "")
    assert list(tmp_path.iterdir()) == [], "nothing is written unasked"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("live", "no-such.mp4", "--port", "0"), 1, "no such file"),
        (("live", "test", "--token", "short"), 2, "8 characters or more"),
        (("live", "test", "--host", "192.0.2.1", "--port", "0"), 1, "cannot listen on 192.0.2.1"),
        (("live", "test", "--port", "0", "--noise", "500"), 1, "noise=500"),
        (("live", "frames.mp4", "--port", "0", "--size", "8x8"), 1, "only cameras can be set"),
    ],
)
def test_what_cannot_be_started(
    capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, message: str
) -> None:
    outcome = command(capfd, *arguments)
    assert outcome.code == code
    assert message in outcome.err


def test_without_the_extra(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    outcome = command(capfd, "live", "test", "--port", "0")
    assert outcome.code == 1
    assert 'pip install "mirnet-edge[live]"' in outcome.err


def test_addresses() -> None:
    assert address("127.0.0.1", 8090, None) == "http://127.0.0.1:8090/"
    assert address("::1", 8090, "abc") == "http://[::1]:8090/?token=abc"
    assert "0.0.0.0" not in address("0.0.0.0", 8090, None)
    loopback = ("127.0.0.1", "127.1.2.3", "::1", "localhost")
    assert all(map(is_loopback, loopback))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.2", "camera.local")))


class Window:
    """What of OpenCV a window needs; keys are pressed one a look, once the picture is restored."""

    WND_PROP_VISIBLE = 4
    error = RuntimeError

    def __init__(self, view: Any, keys: str) -> None:
        self.view, self.keys = view, list(keys)
        self.shown: list[np.ndarray] = []
        self.titles: list[str] = []
        self.is_open = True
        self.moved: Any = None

    def setMouseCallback(self, _: str, callback: Any) -> None:
        self.moved = callback

    def resizeWindow(self, _: str, width: int, height: int) -> None:
        self.size = width, height

    def imshow(self, title: str, picture: np.ndarray) -> None:
        assert title == TITLE
        self.shown.append(picture)

    def waitKey(self, _: int) -> int:
        if not self.view.state()["frames"]["restored"]:
            return -1
        self.moved(0, WIDTH // 4, 3, 0, None)
        return ord(self.keys.pop(0)) if self.keys else -1

    def getWindowProperty(self, _: str, __: int) -> float:
        return 1.0 if self.is_open and self.keys else 0.0

    def setWindowTitle(self, _: str, title: str) -> None:
        self.titles.append(title)

    def destroyWindow(self, _: str) -> None:
        self.is_open = False


def test_a_window_shows_the_pair_and_takes_keys(tmp_path: Path) -> None:
    with view_of(Scene().source(), tmp_path) as view:
        until(lambda: (pair := view.newest(timeout_s=1)) is not None and pair.is_restored)
        cv2 = Window(view, "x--+bs ")
        play_in_window(view, cv2)
        assert view.settings.strength == pytest.approx(0.9)
        assert view.settings.bypass
    assert len(list((tmp_path / "snapshots").glob("*.png"))) == 2
    assert any("saved" in title for title in cv2.titles)
    assert any("bypassed" in title for title in cv2.titles)
    picture = cv2.shown[1].astype(int)
    assert picture.shape == (HEIGHT, WIDTH, 3)
    assert cv2.shown[1].flags.c_contiguous
    assert abs(picture[0, 0, 0] + picture[0, -1, 0] - 255) <= 1, "left before, right after"
    assert (picture[:, WIDTH // 4] == 255).all(), "the line is where the mouse is"
    assert cv2.size == (640, 480)
    assert not cv2.is_open


def test_escape_ends_it(tmp_path: Path) -> None:
    with view_of(Scene().source(), tmp_path) as view:
        cv2 = Window(view, "\x1bb")
        play_in_window(view, cv2)
        assert not view.settings.bypass


def test_an_opencv_without_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("The function is not implemented")

    flags = {"WINDOW_NORMAL": 0, "WINDOW_KEEPRATIO": 0, "WINDOW_GUI_NORMAL": 16}
    headless = SimpleNamespace(namedWindow=refuse, error=RuntimeError, **flags)
    monkeypatch.setattr(window, "require", lambda *_: headless)
    with pytest.raises(me.MissingDependencyError, match="opencv-python-headless"):
        window_library()


def test_windows_fit_the_screen() -> None:
    assert window_size(np.empty((1080, 1920, 3), np.uint8)) == (1600, 900)
    assert window_size(np.empty((600, 800, 3), np.uint8)) == (800, 600)


def test_both_sides_of_the_line() -> None:
    before = np.zeros((4, 6, 3), np.uint8)
    after = np.full((8, 12, 3), 100, np.uint8)
    split = divided(before, after, 0.5)
    assert split[0, :, 0].tolist() == [0] * 5 + [255, 255] + [100] * 5
    assert (divided(before, after, 0.0)[:, 1:] == 100).all()
    assert (divided(before, after, 2.0)[:, :-1] == 0).all()
