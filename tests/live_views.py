"""What tests of live views share: a source that can be unplugged, models made of functions, views,
and a server."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from server_thread import served_by

import mirnet_edge as me
from mirnet_edge.doctor.system import System
from mirnet_edge.engines.fake import FakeEngine
from mirnet_edge.facts import ModelFacts
from mirnet_edge.live.feed import LiveSource
from mirnet_edge.live.machine import Machine
from mirnet_edge.live.settings import Settings
from mirnet_edge.live.view import LiveView

HEIGHT, WIDTH, RATE = 48, 64, 50.0
NOISY = ModelFacts(task="fake", size_multiple=4, min_size_px=4, noise_level=True)


class Scene:
    """Gray frames, one brighter than the other, of a camera that can be unplugged."""

    def __init__(self) -> None:
        self.is_there, self.opened = True, 0

    def open(self) -> Iterator[np.ndarray]:
        if not self.is_there:
            raise me.StreamError("camera 7 is not there")
        self.opened += 1
        return self._frames()

    def _frames(self) -> Iterator[np.ndarray]:
        level = 40
        while self.is_there:
            yield np.full((HEIGHT, WIDTH, 3), level, np.uint8)
            level = 40 + (level + 1) % 160
        raise me.StreamError("camera 7 gave no more; is it unplugged?")

    def source(self) -> LiveSource:
        return LiveSource("camera 7", self.open, RATE)


def inverting(tiles: np.ndarray) -> np.ndarray:
    return 1 - tiles


def slowly(seconds: float) -> Callable[[np.ndarray], np.ndarray]:
    def run(tiles: np.ndarray) -> np.ndarray:
        time.sleep(seconds)
        return 1 - tiles

    return run


def failing(_: np.ndarray) -> np.ndarray:
    raise me.EngineError("the network is on fire")


def models() -> dict[str, FakeEngine]:
    return {
        "inverts": FakeEngine(inverting),
        "asks": FakeEngine(facts=NOISY),
        "fails": FakeEngine(failing),
        "slow": FakeEngine(slowly(0.1)),
    }


def machine() -> Machine:
    """One on which no command runs."""
    return Machine(System(run=lambda _: None))


def view_of(
    source: LiveSource, folder: Path, model: str = "inverts", timeout_s: float = 5.0
) -> LiveView:
    return LiveView(
        source,
        Settings(model),
        models(),
        folder,
        timeout_s=timeout_s,
        first_wait_s=0.05,
        machine=machine(),
    )


def until(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    """What a condition gives once it is true; fails after that time."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)
    return found


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
def view(scene: Scene, tmp_path: Path) -> Iterator[LiveView]:
    """Of the scene, once a frame was restored."""
    with view_of(scene.source(), tmp_path) as view:
        until(lambda: (pair := view.newest(timeout_s=1)) is not None and pair.is_restored)
        yield view


@contextlib.contextmanager
def served(view: LiveView, token: str | None = None) -> Iterator[str]:
    """The address of a view's page, served in a thread."""
    from mirnet_edge.live.server import page_server

    with served_by(page_server(view, token)) as address:
        yield address
