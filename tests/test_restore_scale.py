"""Networks of super-resolution through `Restorer`: frames enlarged on the way in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from noise_weights import brightness_estimator
from tiny_edge import enlarger, tiny_enlarger

import mirnet_edge as me
from mirnet_edge.frames.bicubic import resized
from mirnet_edge.frames.pixel_formats import from_rgb, to_rgb

__all__ = ["brightness_estimator", "tiny_enlarger"]
DTYPES = [np.uint8, np.uint16, np.float32]


def identity(scale: int, **facts: Any) -> me.FakeEngine:
    """Returns what it is given: the restored frame is the enlarged one."""
    return me.FakeEngine(facts=me.ModelFacts(scale=scale, min_size_px=4, **facts))


def random_frame(*shape: int, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).random(shape, np.float32)
    return values if dtype is np.float32 else (values * np.iinfo(dtype).max).astype(dtype)


def bicubic(frame: np.ndarray, scale: int) -> np.ndarray:
    """A frame (H, W) or (H, W, C), enlarged as a whole, cut and rounded."""
    white = 1 if frame.dtype == np.float32 else np.iinfo(frame.dtype).max
    planes = np.atleast_3d(frame).transpose(2, 0, 1).astype(np.float32) / np.float32(white)
    large = resized(planes, scale * frame.shape[0], scale * frame.shape[1]).clip(0, 1) * white
    large = large if white == 1 else np.rint(large)
    return large.transpose(1, 2, 0).reshape(*large.shape[1:], *frame.shape[2:]).astype(frame.dtype)


def assert_near(found: np.ndarray, expected: np.ndarray) -> None:
    """But for sums of float32 that round to the other side."""
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    difference = np.abs(found.astype(np.float64) - expected.astype(np.float64))
    if found.dtype == np.float32:
        assert difference.max() <= 1e-6
    else:
        assert difference.max() <= 1
        assert (difference > 0).mean() <= 2e-3 * (1 if found.dtype == np.uint8 else 10)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [None, 1, 2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (37, 53)])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_an_identity_gives_the_bicubic_enlargement(
    scale: int, size: tuple[int, int], channels: int | None, dtype: type
) -> None:
    frame = random_frame(*size, *([] if channels is None else [channels]), dtype=dtype)
    with me.Restorer(identity(scale), tile=48, halo=4) as restore:
        assert restore.scale == scale
        assert_near(restore(frame), bicubic(frame, scale))


@settings(max_examples=40, deadline=None)
@given(
    scale=st.integers(2, 4),
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    tile=st.tuples(st.integers(7, 20), st.integers(7, 20)).map(lambda t: (4 * t[0], 4 * t[1])),
    blend=st.sampled_from([0, 2]),
)
def test_tiles_are_parts_of_the_enlarged_frame(
    scale: int, size: tuple[int, int], tile: tuple[int, int], blend: int
) -> None:
    frame = random_frame(*size, 3, dtype=np.float32)
    with me.Restorer(identity(scale), tile=None) as restore:
        whole = restore(frame)
    with me.Restorer(identity(scale), tile=tile, halo=4, blend=blend) as restore:
        np.testing.assert_allclose(restore(frame), whole, atol=2e-7 if blend else 0)


def test_a_fixed_engine_gets_its_size_and_the_reflected_enlargement() -> None:
    seen: list[np.ndarray] = []
    facts = me.ModelFacts(scale=2, min_size_px=4)
    engine = me.FakeEngine(
        lambda tiles: seen.append(tiles.copy()) or tiles, facts, fixed_size=(32, 64)
    )
    frame = random_frame(9, 20, 3, dtype=np.float32)
    restored = me.Restorer(engine, halo=4)(frame)
    large = resized(frame.transpose(2, 0, 1), 18, 40)
    expected = np.pad(large, ((0, 0), (0, 14), (0, 24)), mode="reflect")
    np.testing.assert_allclose(seen[0][0], expected, atol=1e-6)
    assert restored.shape == (18, 40, 3)


@pytest.mark.parametrize("name", ["gray", "rgb", "bgr", "rgba", "bgra"])
def test_formats_without_chroma_keep_their_order(name: str) -> None:
    shape = me.pixel_format(name).shape_of(37, 53)
    frame = random_frame(*shape)
    with me.Restorer(identity(2), pixels=name, tile=48, halo=4) as restore:
        assert_near(restore(frame), bicubic(frame, 2))


@pytest.mark.parametrize("name", ["nv12", "i420", "yuyv"])
@pytest.mark.parametrize("scale", [2, 3])
def test_chroma_formats_are_enlarged_through_rgb(name: str, scale: int) -> None:
    pixels = me.pixel_format(name)
    frame = random_frame(*pixels.shape_of(38, 54))
    large = resized(to_rgb(frame, pixels).transpose(2, 0, 1), scale * 38, scale * 54)
    expected = np.empty(pixels.shape_of(scale * 38, scale * 54), np.uint8)
    from_rgb(np.ascontiguousarray(large.transpose(1, 2, 0)), pixels, expected)
    with me.Restorer(identity(scale), pixels=pixels, tile=48, halo=4) as restore:
        assert_near(restore(frame), expected)


def test_out_is_of_the_restored_size() -> None:
    frame = random_frame(10, 12, 3)
    with me.Restorer(identity(2)) as restore:
        out = np.zeros((20, 24, 3), np.uint8)
        assert restore(frame, out=out) is out
        assert_near(out, bicubic(frame, 2))
        with pytest.raises(me.FrameError, match=r"out is uint8 \(10, 12, 3\).*\(20, 24, 3\)"):
            restore(frame, out=np.zeros_like(frame))


def test_what_would_not_fit_into_memory_is_said_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = random_frame(50, 60, 3)
    free = SimpleNamespace(available=frame.nbytes * 15)
    monkeypatch.setattr("mirnet_edge.host.path.psutil.virtual_memory", lambda: free)
    with me.Restorer(identity(4), tile=48, halo=4) as restore:
        with pytest.raises(me.FrameError, match=r"\(200, 240, 3\), takes 144,000 bytes.*135,000"):
            restore(frame)
        mapped = np.memmap(tmp_path / "out", np.uint8, "w+", shape=(200, 240, 3))
        assert_near(np.asarray(restore(frame, out=mapped)), bicubic(frame, 4))
    with me.Restorer(identity(3), tile=48, halo=4) as restore:
        assert restore(frame).shape == (150, 180, 3)


def test_frame_size_is_that_of_what_is_given() -> None:
    with me.Restorer(identity(4), frame_size=(10, 12)) as restore:
        assert restore(random_frame(10, 12, 3)).shape == (40, 48, 3)
        with pytest.raises(me.FrameError, match="a frame of 40x48 pixels"):
            restore(random_frame(40, 48, 3))


def test_whole_frames_are_counted_as_large_as_they_become() -> None:
    limit = 50_000_000
    with me.Restorer(identity(4, bytes_per_pixel=1000), tile=None, memory_limit=limit) as restore:
        restore(random_frame(30, 30, 3))
        with pytest.raises(me.TilingError, match="a tile of 160x160 pixels takes about"):
            restore(random_frame(40, 40, 3))
    with me.Restorer(identity(4, bytes_per_pixel=1000), memory_limit=limit) as restore:
        restore(random_frame(40, 40, 3))
        assert restore.timings.tiles > 1


@pytest.mark.usefixtures("brightness_estimator")
def test_a_network_may_be_told_the_level_and_enlarge() -> None:
    frame = random_frame(37, 53, 3)
    with me.Restorer(identity(3, noise_level=True), tile=48, halo=4) as restore:
        assert_near(restore(frame), bicubic(frame, 3))
        assert restore.timings.noise is not None


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_file_and_pytorch_restore_alike(scale: int, tiny_enlarger: Callable[[int], Path]) -> None:
    frame = random_frame(21, 34, 3, dtype=np.float32)
    network = enlarger(scale)
    rule = network.facts.size_rule
    large = resized(frame.transpose(2, 0, 1), scale * 21, scale * 34)
    beyond = [(0, 0), *((0, rule.padded(side) - side) for side in large.shape[1:])]
    with torch.inference_mode():
        tiles = torch.from_numpy(np.pad(large, beyond, mode="reflect")[None])
        expected = network.eval()(tiles)[0, :, : scale * 21, : scale * 34].clamp(0, 1)
    for engine in (me.TorchEngine(network), me.OnnxEngine(tiny_enlarger(scale))):
        with me.Restorer(engine, tile=None) as restore:
            found = restore(frame)
        np.testing.assert_allclose(found.transpose(2, 0, 1), expected, atol=1e-5)


@pytest.mark.parametrize("statistics", ["frame", "frame-fast", "stream"])
def test_tiles_share_their_means(statistics: Any, tiny_enlarger: Callable[[int], Path]) -> None:
    frames = [random_frame(45, 60, 3, seed=seed) for seed in (0, 0, 1)]
    with me.Restorer(tiny_enlarger(2), tile=48, halo=16, statistics=statistics) as restore:
        shared = list(restore.stream(frames))
    with me.Restorer(tiny_enlarger(2), tile=None) as restore:
        whole = [restore(frame) for frame in frames]
    for found, expected in zip(shared, whole):
        assert np.abs(found.astype(int) - expected).mean() < 3


def test_streams_and_their_folders_get_the_enlarged_frames(tmp_path: Path) -> None:
    frames = [random_frame(20, 31, 3, seed=seed) for seed in range(3)]
    with me.Restorer(identity(2)) as restore:
        for frame, restored in zip(frames, restore.stream(frames)):
            assert_near(restored, bicubic(frame, 2))
        restore.stream(frames).to(tmp_path / "out")
    from PIL import Image

    for number, frame in enumerate(frames):
        with Image.open(tmp_path / "out" / f"{number:06}.png") as image:
            assert_near(np.asarray(image), bicubic(frame, 2))


def test_a_video_writer_of_the_given_size_is_refused(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    frames = [random_frame(24, 32, 3, seed=seed) for seed in range(4)]
    kind = cv2.VideoWriter_fourcc(*"MJPG")
    path = str(tmp_path / "large.avi")
    writer = cv2.VideoWriter(path, kind, 10, (64, 48))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no MJPG video")
    with me.Restorer(identity(2)) as restore:
        restore.stream(frames).to(writer)
    writer.release()
    capture = cv2.VideoCapture(path)
    read, image = capture.read()
    capture.release()
    assert read
    assert image.shape == (48, 64, 3)
