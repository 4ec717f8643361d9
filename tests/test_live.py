"""Live views without a page: what is shown while frames come, settings change and sources fail."""

from __future__ import annotations

import itertools
import json
import struct
import threading
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from live_views import HEIGHT, NOISY, RATE, WIDTH, Scene, machine, models, until, view_of
from PIL import Image

import mirnet_edge as me
from mirnet_edge.doctor.system import System
from mirnet_edge.engines.fake import FakeEngine
from mirnet_edge.facts import ModelFacts
from mirnet_edge.frame_path import told_nonfinite
from mirnet_edge.frames.images import read_image
from mirnet_edge.live.feed import Feed, LiveSource, live_source, wandering_photo
from mirnet_edge.live.keeping import Keeping
from mirnet_edge.live.machine import Machine
from mirnet_edge.live.pictures import Pair, picture
from mirnet_edge.live.settings import Settings
from mirnet_edge.live.view import LiveView
from mirnet_edge.quantize.calibration import CalibrationSet


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
def view(scene: Scene, tmp_path: Path) -> Iterator[LiveView]:
    with view_of(scene.source(), tmp_path / "kept") as view:
        yield view


def restored(view: LiveView) -> Pair:
    """A pair of which the model made the second, of a frame that comes from now on."""
    after = view.state()["frames"]["read"]
    return until(
        lambda: pair if (pair := view.newest(after, 0.1)) is not None and pair.is_restored else None
    )


def running(view: LiveView) -> dict:
    return until(lambda: state if (state := view.state())["model"]["state"] == "running" else None)


def test_pairs_belong_together_and_follow_one_another(view: LiveView) -> None:
    numbers = []
    for _ in range(5):
        pair = restored(view)
        assert np.array_equal(pair.after, 255 - pair.before)
        numbers.append(pair.number)
    assert numbers == sorted(set(numbers))
    state = view.state()
    assert state["source"] == {
        "name": "camera 7", "state": "running", "message": "", "lost": 0, "size": (WIDTH, HEIGHT),
        "rate": state["source"]["rate"],
    }  # fmt: skip
    assert state["frames"]["restored"] >= 5
    assert {"capture", "queue", "upload", "pre", "engine", "post", "download", "show"} == set(
        state["latency"]
    )
    json.dumps(state)


def test_a_slow_model_drops_frames_and_shows_new_ones(scene: Scene, tmp_path: Path) -> None:
    with view_of(scene.source(), tmp_path, "slow") as view:
        latencies = [restored(view).latency_ms for _ in range(8)]
        state = view.state()
    # The model takes 100 ms; a frame comes every 20.
    assert np.median(latencies) < 100 + 2 * 1000 / RATE + 60, latencies
    frames = state["frames"]
    assert 3 <= frames["dropped"] / frames["restored"] <= 6, frames
    assert frames["read"] - frames["dropped"] - frames["restored"] <= 5, frames


def test_what_waits_is_let_go(scene: Scene, tmp_path: Path) -> None:
    alive = []

    def source() -> Iterator[np.ndarray]:
        class Counted(np.ndarray):
            def __array_finalize__(self, _: object) -> None:
                pass

        import weakref

        for frame in scene.open():
            frame = frame.view(Counted)
            alive.append(weakref.ref(frame))
            yield frame

    with view_of(LiveSource("counted", source, 200.0), tmp_path, "slow") as view:
        until(lambda: view.state()["frames"]["dropped"] > 40)
        assert sum(ref() is not None for ref in list(alive)) < 12


def test_nan_is_counted_and_told_once(
    scene: Scene, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = FakeEngine(lambda tiles: np.full_like(tiles, np.nan))
    with LiveView(scene.source(), Settings("breaks"), {"breaks": model}, tmp_path) as view:
        until(lambda: view.state()["frames"]["nonfinite"] > 3 * HEIGHT * WIDTH)
    assert caplog.messages == [f"breaks: {told_nonfinite(3 * HEIGHT * WIDTH)}"]


def test_bypass_and_strength(view: LiveView) -> None:
    view.change({"strength": 0.5})
    running(view)
    pair = until(lambda: pair if (pair := restored(view)).strength == 0.5 else None)
    mixed = (pair.before.astype(int) + pair.after) / 2
    assert np.abs(pair.pictures[1] - mixed).max() <= 1
    view.change({"bypass": True})
    until(lambda: not view.newest(timeout_s=1).is_restored)
    assert view.state()["latency_ms"] is None
    assert set(view.state()["latency"]) == {"capture", "show"}
    shown = view.newest(timeout_s=1).pictures
    assert shown[0] is shown[1]
    view.change({"bypass": False, "strength": 1.0})
    assert restored(view).strength == 1.0


def test_another_model_and_statistics_while_it_runs(view: LiveView) -> None:
    restored(view)
    view.change({"model": "asks"})
    state = until(
        lambda: state if (state := view.state())["model"].get("noise") is not None else None
    )
    assert state["model"]["takes_noise"]
    pair = restored(view)
    assert np.array_equal(pair.before, pair.after)
    view.change({"noise": 12.5})
    until(lambda: view.state()["model"]["noise"] == 12.5)
    view.change({"noise": "auto"})
    until(lambda: view.state()["model"]["noise"] != 12.5)
    view.change({"model": "inverts"})
    until(lambda: np.array_equal((pair := restored(view)).after, 255 - pair.before))
    assert view.state()["model"]["takes_noise"] is False


def test_a_model_that_fails_is_told_and_frames_go_on(view: LiveView) -> None:
    view.change({"model": "fails"})
    state = until(lambda: s if (s := view.state())["model"]["state"] == "failed" else None)
    assert "the network is on fire" in state["model"]["message"]
    pair = view.newest(view.newest(timeout_s=1).number, 2)
    assert pair is not None
    assert not pair.is_restored
    view.change({"model": "inverts"})
    assert restored(view)


def test_statistics_that_an_engine_cannot_have_are_told(view: LiveView) -> None:
    view.change({"statistics": "frame"})
    until(lambda: view.state()["model"]["state"] == "failed")
    view.change({"statistics": "tile"})
    assert restored(view)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([1], "an object of names and values"),
        ({"colour": 1}, "no setting 'colour'"),
        ({"model": "/etc/passwd"}, "there are inverts, asks"),
        ({"model": 3}, "there are inverts"),
        ({"model": ["inverts"]}, "there are inverts"),
        ({"statistics": "none"}, "need one of auto, tile"),
        ({"strength": 1.5}, "from 0 to 1"),
        ({"strength": True}, "from 0 to 1"),
        ({"strength": float("nan")}, "from 0 to 1"),
        ({"bypass": "yes"}, "true or false"),
        ({"noise": -1}, "noise"),
        ({"noise": "loud"}, "noise"),
        ({"noise": None}, "noise"),
        ({"noise": float("nan")}, "noise"),
    ],
)
def test_what_cannot_be_set(changes: object, message: str) -> None:
    settings = Settings("inverts")
    with pytest.raises(me.ConfigError, match=message):
        settings.changed(changes, models())


def test_a_source_that_is_lost_is_told_and_comes_back(view: LiveView, scene: Scene) -> None:
    last = restored(view)
    scene.is_there = False
    state = until(lambda: s if (s := view.state())["source"]["state"] == "lost" else None)
    assert state["source"]["lost"] == 1
    until(lambda: "camera 7 is not there" in view.state()["source"]["message"])
    assert view.newest(timeout_s=1) is not None, "the last picture stays"
    scene.is_there = True
    until(lambda: view.state()["source"]["state"] == "running")
    assert restored(view).number > last.number
    assert view.state()["source"]["lost"] == 1
    assert scene.opened == 2


def test_a_source_that_says_nothing_is_opened_again(tmp_path: Path) -> None:
    opened, hung = itertools.count(), threading.Event()

    def frames() -> Iterator[np.ndarray]:
        if next(opened) == 0:
            yield np.zeros((8, 8, 3), np.uint8)
            hung.wait()
        yield from Scene().open()

    try:
        with view_of(LiveSource("mute", frames, RATE), tmp_path, timeout_s=0.3) as view:
            until(lambda: view.state()["source"]["lost"] == 1)
            until(lambda: view.state()["source"]["state"] == "running")
            assert restored(view).before.shape == (HEIGHT, WIDTH, 3), "also of another size"
    finally:
        hung.set()


def test_a_file_begins_again_at_its_end_at_its_pace(tmp_path: Path) -> None:
    for index in range(3):
        pixels = np.full((8, 8, 3), 60 * index, np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    found: list[tuple[int, float]] = []
    source = live_source(str(tmp_path))
    feed = Feed(
        LiveSource(source.name, source.open, 20.0),
        lambda frame: found.append((int(frame[0, 0, 0]), time.monotonic())),
    )
    feed.start()
    until(lambda: len(found) >= 7)
    feed.stop()
    assert [level for level, _ in found[:7]] == [0, 60, 120, 0, 60, 120, 0]
    assert found[2][1] - found[0][1] > 0.08
    assert feed.state.lost == 0


def test_a_source_that_was_never_there_is_an_error(scene: Scene, tmp_path: Path) -> None:
    scene.is_there = False
    with pytest.raises(me.StreamError, match="camera 7 is not there"):
        view_of(scene.source(), tmp_path)


def test_sources_by_name() -> None:
    assert live_source("0").name == "camera 0"
    assert live_source("test", rate=5).rate == 5
    assert live_source("frames.mp4").rate is None
    assert live_source("frames.mp4").is_paced
    assert not live_source("rtsp://camera/1").is_paced
    with pytest.raises(me.StreamError, match="only cameras can be set"):
        live_source("frames.mp4", size=(8, 8))


@pytest.mark.parametrize("size", [(270, 360), (33, 47), (640, 1000)])
def test_the_test_picture_moves_under_noise(size: tuple[int, int]) -> None:
    frames = list(itertools.islice(wandering_photo(size), 8))
    assert {frame.shape for frame in frames} == {(*size, 3)}
    assert all(frame.dtype == np.uint8 for frame in frames)
    differences = [np.abs(a.astype(int) - b).mean() for a, b in itertools.pairwise(frames)]
    assert min(differences) > 15, "the noise of sigma 25 is another in each"


def test_snapshots_are_the_pair(view: LiveView) -> None:
    restored(view)
    before, after = view.snapshot()
    assert np.array_equal(read_image(after).pixels, 255 - read_image(before).pixels)
    assert view.keeping.written(before.name) == before
    assert view.keeping.written("../" + before.name) is None
    assert view.state()["kept"]["snapshots"] == 1


def test_frames_for_calibration_are_what_quantize_takes(view: LiveView, tmp_path: Path) -> None:
    view.keeping.every_s = 0.02
    view.keeping.collect(True)
    state = until(lambda: s if (s := view.state()["kept"])["frames"] >= 3 else None)
    view.keeping.collect(False)
    assert state["folder"] == str(tmp_path / "kept" / "calibration")
    tiles = CalibrationSet.open(state["folder"], tile=(16, 16), count=2)
    assert tiles.tiles.shape == (2, 3, 16, 16)


def test_a_folder_that_cannot_be_made_ends_collecting(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    keeping = Keeping(tmp_path / "taken")
    keeping.collect(True)
    keeping.offer(np.zeros((8, 8, 3), np.uint8))
    until(lambda: keeping.state()["message"])
    assert keeping.state()["collects"] is False
    with pytest.raises(me.OutputError, match="cannot make the folder"):
        keeping.snapshot(Pair(0, *2 * (np.zeros((8, 8, 3), np.uint8),)))
    keeping.close()


@pytest.mark.parametrize(
    "frame",
    [
        np.full((6, 9), 200, np.uint8),
        np.full((6, 9, 1), 200, np.uint8),
        np.full((6, 9, 3), 200, np.uint8),
        np.full((6, 9, 4), 200, np.uint8),
        np.full((6, 9), 200 * 257, np.uint16),
        np.full((6, 9, 3), 200 / 255, np.float32),
    ],
)
def test_frames_of_any_kind_are_pictures(frame: np.ndarray) -> None:
    shown = picture(frame)
    assert shown.shape == (6, 9, 3)
    assert np.unique(shown).tolist() == [200]


def test_a_packed_pair_is_small_and_whole() -> None:
    before = np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)
    larger = np.kron(before, np.ones((2, 2, 1), np.uint8))
    for pair, sizes in (
        (Pair(3, before, larger, 0.5), [(50, 33), (50, 33)]),
        (Pair(3, before, before), [(50, 33)]),
    ):
        message = pair.packed(most_px=50)
        (length,) = struct.unpack("<I", message[:4])
        head = json.loads(message[4 : 4 + length])
        at = 4 + length
        for size, want in zip(head["sizes"], sizes):
            assert Image.open(BytesIO(message[at : at + size])).size == want
            at += size
        assert at == len(message)
        assert (head["number"], head["width"]) == (3, pair.after.shape[1])


def test_a_network_that_enlarges(scene: Scene, tmp_path: Path) -> None:
    facts = ModelFacts(task="fake", size_multiple=4, min_size_px=4, scale=2)
    with LiveView(
        scene.source(), Settings("x2"), {"x2": FakeEngine(facts=facts)}, tmp_path, machine=machine()
    ) as view:
        pair = restored(view)
        assert pair.after.shape == (2 * HEIGHT, 2 * WIDTH, 3)
        assert view.state()["model"]["scale"] == 2
        view.change({"strength": 0.5})
        before, after = until(lambda: p if (p := restored(view)).strength == 0.5 else None).pictures
        assert (before.shape[0] * 2, before.shape[1] * 2) == after.shape[:2]


def test_the_machine_tells_what_it_can(tmp_path: Path) -> None:
    state = machine().state()
    assert state["memory_bytes"] > 0
    assert state["power_mode"] is None
    assert state["gpu_temperature_c"] is None
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "nv_tegra_release").write_text("# R36 (release), REVISION: 4.0")
    answers = {"nvpmodel": "NV Power Mode: MAXN\n0\n"}
    jetson = Machine(System(root=tmp_path, run=lambda command: answers.get(command[0])))
    assert jetson.state()["power_mode"] == "MAXN"
    desktop = Machine(System(root=Path("/nowhere"), run=lambda _: "61, [N/A]\n"))
    assert (desktop.state()["gpu_temperature_c"], desktop.state()["gpu_watts"]) == (61.0, None)


def test_closing_ends_its_threads(scene: Scene, tmp_path: Path) -> None:
    before = set(threading.enumerate())
    for model in ("inverts", "fails", "slow"):
        with view_of(scene.source(), tmp_path, model) as view:
            until(lambda: view.newest(timeout_s=1))
        assert view.closed
        assert view.newest(timeout_s=0.1) is None
        view.close()
    until(lambda: set(threading.enumerate()) <= before)
    assert NOISY.noise_level


def test_an_empty_source_is_lost_and_not_run_through_for_ever(tmp_path: Path) -> None:
    opened = itertools.count()

    def nothing() -> Iterator[np.ndarray]:
        next(opened)
        return iter(())

    with view_of(LiveSource("empty", nothing), tmp_path) as view:
        until(lambda: "gave no frame" in view.state()["source"]["message"])
        with pytest.raises(me.StreamError, match="wait for its first"):
            view.snapshot()
        time.sleep(0.4)
    # It waits 0.05 s, 0.1, 0.2, 0.4, …
    assert next(opened) <= 6


def test_a_video_of_one_frame_leaves_the_core_alone(tmp_path: Path) -> None:
    opened = itertools.count()

    def one() -> Iterator[np.ndarray]:
        next(opened)
        return iter([np.zeros((8, 8, 3), np.uint8)])

    began = time.monotonic()
    with view_of(LiveSource("one", one), tmp_path) as view:
        time.sleep(0.5)
        assert view.state()["source"]["lost"] == 0
    assert next(opened) <= (time.monotonic() - began) / 0.04 + 2
