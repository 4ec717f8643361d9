"""Engines as large as a frame, or as its largest part that fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from build_sandbox import ORIN, Sandbox, build_here, frames
from command_line import run
from PIL import Image

import mirnet_edge as me
from mirnet_edge import build
from mirnet_edge.build import process as build_process
from mirnet_edge.build.frame import GIB, available_bytes, build_for_frame, needed_bytes
from mirnet_edge.build.target import Target
from mirnet_edge.errors import ConfigError, DeviceMemoryError
from mirnet_edge.facts import ModelFacts

FRAME = (150, 300)
"""Height and width; whole its tile is 152x300, and halved 152x168."""


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """Whose network takes any size."""
    sandbox = Sandbox(tmp_path, monkeypatch)
    sandbox.open_sizes()
    return sandbox


def test_the_tile_is_the_frame_padded(sandbox: Sandbox) -> None:
    said: list[str] = []
    card = sandbox.build(tile=None, frame=FRAME, tell=said.append)
    assert card.tile == (152, 300)
    assert not any("152x300" in note for note in card.notes)
    assert [line.partition(":")[0] for line in said] == ["1 tile of 152x300"]
    assert "of the device's" in said[0]


def test_a_frame_that_is_too_large_by_the_card_is_halved(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = ModelFacts(task="test", size_multiple=4, min_size_px=8)
    most = needed_bytes(facts, (152, 300), 1, "fp16") - 1
    monkeypatch.setattr(build, "available_bytes", lambda target: most)
    card = sandbox.build(tile=None, frame=FRAME)
    assert card.tile == (152, 168)
    assert "1 tile of 152x300" in card.notes[0]
    assert "too much" in card.notes[0]


def test_a_frame_whose_build_runs_out_of_memory_is_halved(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[Path] = []

    def run_build(folder: Path, *rest: Any) -> Any:
        built.append(folder)
        if len(built) == 1:
            raise DeviceMemoryError("the GPU's memory does not suffice")
        return build_here(folder, *rest)

    monkeypatch.setattr(build_process, "run_build", run_build)
    said: list[str] = []
    card = sandbox.build(tile=None, frame=FRAME, tell=said.append)
    assert card.tile == (152, 168)
    assert "did not fit: the GPU's memory does not suffice" in card.notes[0]
    assert len(said) == 3
    assert sandbox.is_whole()


def test_a_frame_of_which_nothing_fits(sandbox: Sandbox) -> None:
    sandbox.fault("memory")
    with pytest.raises(DeviceMemoryError, match=r"no tile of a frame of 300x150 fits .* 152x168"):
        sandbox.build(tile=None, frame=FRAME)


def test_a_tile_and_a_frame_are_one_too_many(sandbox: Sandbox) -> None:
    with pytest.raises(ConfigError, match="give one of them"):
        sandbox.build(frame=FRAME)


def test_the_frame_of_a_network_that_enlarges_is_what_it_is_given() -> None:
    tiles: list[tuple[int, int]] = []

    def built(tile: tuple[int, int], notes: list[str]) -> Any:
        tiles.append(tile)

    facts = ModelFacts(scale=2, size_multiple=8, min_size_px=8)
    build_for_frame(
        built, (45, 61), facts, batch=1, precision="fp16", available=GIB, tell=lambda _: None
    )
    assert tiles == [(96, 128)]


def test_memory_is_that_of_the_gpu_unless_it_shares_the_cpus() -> None:
    alone = Target({}, {**ORIN, "integrated": False})
    assert available_bytes(alone) == ORIN["memory_bytes"]
    assert 0 < available_bytes(Target({}, ORIN)) != ORIN["memory_bytes"]


def test_the_command_says_what_memory_it_takes_before_it_builds(
    sandbox: Sandbox, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "frames"
    images.mkdir()
    Image.fromarray(frames(1)[0]).save(images / "0.png")
    arguments = ("build", sandbox.onnx, sandbox.engine, "--calibration", images)
    outcome = run(capfd, *arguments, "--frame", "61x50")
    assert outcome.code == 0
    assert "1 tile of 52x64: about 0.0" in outcome.err
    assert "52x64, batch 1" in outcome.out


@pytest.mark.parametrize("halo", [0, 16])
def test_a_frame_is_one_tile_of_an_engine_of_its_size(halo: int) -> None:
    class Whole(me.FakeEngine):
        fixed_size = (104, 64)

    frame = np.random.default_rng(0).integers(0, 256, (97, 61, 3), np.uint8)
    restore = me.Restorer(Whole(), halo=halo)
    np.testing.assert_array_equal(restore(frame), frame)
    assert restore.timings.tiles == 1
