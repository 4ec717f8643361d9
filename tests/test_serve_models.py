"""Models of the service: engines that several threads share, tiles that go together, what is made
once and what for each request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edge_networks import edge_network
from fake_tensorrt import write_plans
from serving import DOUBLE, GRAY, NOISY, inverting, noise, slowly

import mirnet_edge as me
from mirnet_edge.engines.fake import FakeEngine
from mirnet_edge.engines.tuned import Tuned
from mirnet_edge.frames.pixel_formats import pixel_format
from mirnet_edge.serve import models as models_module
from mirnet_edge.serve.models import Models, ModelSpec, ServedModel, mixed, model_spec
from mirnet_edge.serve.options import Options
from mirnet_edge.serve.shared_engine import SharedEngine


class Held:
    """A function of an engine that waits to be let go, and knows what it was given."""

    def __init__(self) -> None:
        self.given: list[np.ndarray] = []
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        self.given.append(tiles.copy())
        self.begun.set()
        assert self.go_on.wait(20)
        return 1 - tiles


def tiles(seed: int, side: int = 8, count: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 3, side, side), np.float32)


def at_once(shared: SharedEngine, held: Held, given: list[np.ndarray]) -> list[Any]:
    """Run the first, and while it runs let all others come; what each got, or its error."""

    def run(one: np.ndarray) -> Any:
        try:
            return shared.run(one)
        except me.MirnetEdgeError as error:
            return error

    with ThreadPoolExecutor(len(given)) as pool:
        first = pool.submit(run, given[0])
        assert held.begun.wait(20)
        others = []
        for number, one in enumerate(given[1:], 1):
            others.append(pool.submit(run, one))
            end = time.monotonic() + 20
            while len(shared._waiting) < number:
                assert time.monotonic() < end
                time.sleep(0.001)
        held.go_on.set()
        return [future.result(20) for future in (first, *others)]


def test_tiles_that_wait_go_together_by_size() -> None:
    held = Held()
    shared = SharedEngine(FakeEngine(held), batch=3)
    given = [tiles(0), tiles(1), tiles(2, 12), tiles(3), tiles(4, 12), tiles(5), tiles(6)]
    found = at_once(shared, held, given)
    assert [one.shape[0] for one in held.given] == [1, 3, 2, 1]
    for one, restored in zip(given, found):
        assert np.array_equal(restored, 1 - one)
    assert (shared.runs, shared.tiles) == (4, 7)


def test_one_at_a_time_without_a_batch() -> None:
    held = Held()
    found = at_once(SharedEngine(FakeEngine(held)), held, [tiles(n) for n in range(4)])
    assert [one.shape[0] for one in held.given] == [1] * 4
    assert all(np.array_equal(one, 1 - tiles(n)) for n, one in enumerate(found))


def test_several_tiles_of_one_caller_stay_together() -> None:
    held = Held()
    shared = SharedEngine(FakeEngine(held), batch=4)
    given = [tiles(0), tiles(1, count=3), tiles(2, count=2), tiles(3), tiles(4, count=9)]
    found = at_once(shared, held, given)
    assert [one.shape[0] for one in held.given] == [1, 4, 2, 9]
    assert all(np.array_equal(restored, 1 - one) for one, restored in zip(given, found))


def test_an_error_is_of_the_tile_that_it_is_of() -> None:
    held = Held()

    def fragile(given: np.ndarray) -> np.ndarray:
        if (given < 0).any():
            held.given.append(given)
            raise me.EngineError("negative")
        return held(given)

    shared = SharedEngine(FakeEngine(fragile), batch=8)
    found = at_once(shared, held, [tiles(0), tiles(1), -tiles(2), tiles(3)])
    assert [isinstance(one, me.EngineError) for one in found] == [False, False, True, False]
    assert np.array_equal(found[3], 1 - tiles(3))
    assert shared.run(tiles(9)).shape == (1, 3, 8, 8), "and it goes on"


def test_results_are_nobody_elses_memory() -> None:
    memory = np.empty((1, 3, 8, 8), np.float32)

    def reusing(given: np.ndarray) -> np.ndarray:
        memory[...] = 1 - given
        return memory

    shared = SharedEngine(FakeEngine(reusing))
    one, two = shared.run(tiles(1)), shared.run(tiles(2))
    assert np.array_equal(one, 1 - tiles(1))
    assert np.array_equal(two, 1 - tiles(2))


def test_an_engine_that_loses_tiles_is_an_error() -> None:
    shared = SharedEngine(FakeEngine(lambda given: given[:0]))
    with pytest.raises(me.EngineError, match=r"returned \(0, 3, 8, 8\) for 1 tiles"):
        shared.run(tiles(0))


# Models


def served(engine: Any, seats: int = 2, batch: int = 1, **options: Any) -> ServedModel:
    return ServedModel(ModelSpec("m", engine), seats=seats, batch=batch, **options)


def test_many_threads_get_each_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    model = served(FakeEngine(inverting), seats=4, batch=4)
    frames = [noise(10 + number % 3, 12, 3) + np.uint8(number) for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda frame: model.restore(frame, Options()).pixels, frames))
    assert all(np.array_equal(restored, 255 - frame) for frame, restored in zip(frames, found))
    model.close()


def test_requests_that_come_together_are_batched() -> None:
    engine = FakeEngine(slowly(0.02))
    model = served(engine, seats=8, batch=8)
    runs = model.shared[0].runs
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: model.restore(noise(16, 16, 3), Options()), range(32)))
    assert model.shared[0].runs - runs <= 16, engine.shapes
    assert max(shape[0] for shape in engine.shapes) > 2
    model.close()


def test_levels_of_requests_do_not_mix() -> None:
    told = served(FakeEngine(lambda given: given[:, 3:] * np.ones((1, 3, 1, 1), np.float32),
                             facts=NOISY), seats=3, batch=3)  # fmt: skip

    def restore(level: float) -> float:
        found = told.restore(np.zeros((9, 9, 3), np.float32), Options(noise=level))
        assert found.noise == level
        return float(found.pixels[4, 4, 0]) * 50

    levels = [5.0, 10.0, 20.0, 40.0] * 8
    with ThreadPoolExecutor(6) as pool:
        assert np.allclose(list(pool.map(restore, levels)), levels)
    told.close()


def test_an_engine_of_one_tile_is_told_at_once(tiny_onnx: Path) -> None:
    with pytest.raises(me.ConfigError, match=r"takes one tile at a time .*serve it with a batch"):
        served(tiny_onnx, batch=2)


def test_a_model_that_does_not_run_is_told_at_once() -> None:
    def broken(given: np.ndarray) -> np.ndarray:
        raise RuntimeError("no such device")

    with pytest.raises(me.EngineError, match="no such device"):
        served(FakeEngine(broken))


def test_a_stream_is_not_served() -> None:
    with pytest.raises(me.ConfigError, match="what the frames of others left"):
        served(FakeEngine(), statistics="stream")


def test_all_kinds_of_networks_can_be_tried() -> None:
    for facts in (NOISY, DOUBLE, GRAY):
        served(FakeEngine(inverting if facts is GRAY else None, facts=facts)).close()
    five = me.engines.protocol.ModelFacts(
        in_channels=5, out_channels=2, size_multiple=4, min_size_px=4
    )
    model = served(FakeEngine(lambda given: given[:, :2], facts=five))
    assert model.restore(noise(8, 8, 5), Options()).pixels.shape == (8, 8, 2)
    with pytest.raises(me.ConfigError, match="cannot be mixed"):
        model.restore(noise(8, 8, 5), Options(strength=0.5))
    model.close()


def test_restorers_are_kept_and_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    class Counted(me.Restorer):
        def __init__(self, *given: Any, **options: Any) -> None:
            super().__init__(*given, **options)
            made.append(self)

    monkeypatch.setattr(models_module, "Restorer", Counted)
    model = served(FakeEngine(), seats=1)
    formats = [None, *map(pixel_format, ("rgb", "bgr", "nv12", "i420"))]

    def restore(pixels: Any) -> None:
        model.restore(np.zeros((12, 8) if pixels and pixels.is_yuv else (12, 8, 3), np.uint8),
                      Options(pixels=pixels))  # fmt: skip

    for pixels in formats * 2:
        restore(pixels)
    assert len(made) == 1 + 2 * len(formats), "five take turns in the room of four"
    assert sum(not one._lanes[0]._closed for one in made) == 1 + models_module.KEPT
    for pixels in formats[-4:] * 3:
        restore(pixels)
    assert len(made) == 1 + 2 * len(formats)
    model.close()
    assert all(one._lanes[0]._closed for one in made)


def test_statistics_of_the_frame(tiny_onnx: Path) -> None:
    frame = noise(70, 90, 3)
    options = {"tile": (32, 32), "halo": 4, "threads": 1}
    model = served(tiny_onnx, seats=2, **options)
    with me.Restorer(tiny_onnx, statistics="frame", **options) as restore:
        expected = restore(frame).astype(int)
    with ThreadPoolExecutor(4) as pool:
        wanted = Options(statistics="frame")
        found = list(pool.map(lambda _: model.restore(frame, wanted).pixels, range(6)))
    assert all(np.abs(one - expected).max() <= 1 for one in found)
    own = model.restore(frame, Options(statistics="tile")).pixels
    assert (own != expected).mean() > 4 * max((one != expected).mean() for one in found)
    model.close()


def test_what_it_was_tuned_to_holds(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Tuned({}, (64, 64), 50.0, False, (48, 48), "stream", 1, None, 1.0)
    monkeypatch.setattr("mirnet_edge.engine_choice.opening.tuned_for", lambda *_: answer)
    model = served(tiny_onnx)
    assert model._statistics == "auto", "no stream for strangers"
    seat = model._all[0].restorer("auto", None)
    assert seat.tiling(200, 200).tile == (48, 48)
    model.close()


def test_frames_stay_on_the_device(trt: Any, tmp_path: Path) -> None:
    plan = write_plans(tmp_path, edge_network(), (48, 96), 2)
    frame = noise(20, 30, 3)
    with me.Restorer(plan) as restore:
        expected = restore(frame)
    stays = served(plan, seats=2)
    assert stays.shared == []
    assert len(stays._all) == 1
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: stays.restore(frame, Options()).pixels, range(2)))
    assert all(np.array_equal(one, expected) for one in found)
    assert stays._all[0].restorer("auto", None)._opening._nan == "raise"
    stays.close()
    together = served(plan, seats=2, batch=2)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: together.restore(frame, Options()).pixels, range(2)))
    assert all(np.abs(one.astype(int) - expected).max() <= 1 for one in found)
    together.close()


# Mixing, and names


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_mixed(dtype: Any, strength: float) -> None:
    one, two = noise(5, 6, 3, dtype=dtype), noise(5, 6, 4, dtype=dtype)[..., :3]
    expected = (1 - strength) * one.astype(np.float64) + strength * two
    found = mixed(one, two, strength)
    assert found.dtype == dtype
    assert np.abs(found - expected).max() <= (1e-6 if dtype is np.float32 else 0.501)


def test_yuv_that_is_enlarged_is_not_mixed() -> None:
    with pytest.raises(me.ConfigError, match="not nv12; leave strength out"):
        mixed(noise(6, 4), noise(12, 8), 0.5, 2, pixel_format("nv12"))


@pytest.mark.parametrize(
    ("text", "name", "model"),
    [
        ("edge-s-denoise", "edge-s-denoise", "edge-s-denoise"),
        ("/models/denoise.v2.onnx", "denoise.v2", "/models/denoise.v2.onnx"),
        ("day=a/b.engine", "day", "a/b.engine"),
        ("x=a=b.onnx", "x", "a=b.onnx"),
    ],
)
def test_names(text: str, name: str, model: str) -> None:
    assert model_spec(text) == ModelSpec(name, model)


@pytest.mark.parametrize("text", ["", "=a.onnx", "a/b=c.onnx", "x=", "..", "ä=a.onnx", "a b.onnx"])
def test_names_that_cannot_be(text: str) -> None:
    with pytest.raises(me.ConfigError, match="give NAME=MODEL"):
        model_spec(text)


def test_two_of_one_name_and_none() -> None:
    engine = FakeEngine()
    with pytest.raises(me.ConfigError, match="two models are called 'a'"):
        Models([ModelSpec("a", engine), ModelSpec("a", engine)])
    with pytest.raises(me.ConfigError, match="no model is given"):
        Models([])


def test_what_was_opened_is_closed_where_another_fails(
    tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []
    close: Callable[..., None] = ServedModel.close

    def noting(self: ServedModel, timeout: float | None = None) -> None:
        closed.append(self.name)
        close(self, timeout)

    monkeypatch.setattr(ServedModel, "close", noting)
    with pytest.raises(me.EngineError, match="no such file"):
        Models([ModelSpec("a", tiny_onnx), ModelSpec("b", "no-such.onnx")])
    assert closed == ["a"]
