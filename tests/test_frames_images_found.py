"""Which files a name, a folder or a pattern means."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_samples import png, random_pixels
from PIL import Image

from mirnet_edge._files import atomic_path
from mirnet_edge.errors import ImageError
from mirnet_edge.frames.images import find_images, read_image, write_image

# ---------------------------------------------------------------- find_images


@pytest.fixture
def album(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of empty files, as the current folder: finding does not open them."""
    for name in ["b.JPG", "a.png", "c.tiff", "notes.txt", "d", "sub/e.webp", "sub/deep/f.bmp"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("specs", "found"),
    [
        (["a.png"], ["a.png"]),
        (["notes.txt"], ["notes.txt"]),
        (["."], ["a.png", "b.JPG", "c.tiff"]),
        (["sub"], ["sub/e.webp"]),
        (["*.png"], ["a.png"]),
        (["*"], ["a.png", "b.JPG", "c.tiff"]),
        (["[ab].*"], ["a.png", "b.JPG"]),
        (["**/*"], ["a.png", "b.JPG", "c.tiff", "sub/deep/f.bmp", "sub/e.webp"]),
        (["sub/**/*.bmp"], ["sub/deep/f.bmp"]),
        (["c.tiff", "a.png"], ["c.tiff", "a.png"]),
        (["c.tiff", ".", "a.png", "*.tiff", "./c.tiff"], ["c.tiff", "a.png", "b.JPG"]),
        ([], []),
    ],
    ids=str,
)
def test_find_images(album: Path, specs: list[str], found: list[str]) -> None:
    assert [path.as_posix() for path in find_images(specs)] == found
    assert [path.as_posix() for path in find_images(Path(spec) for spec in specs)] == found


@pytest.mark.parametrize("spec", ["z.png", "*.gif", "*.txt", "nowhere/*", "sub/**/*.png"])
def test_nothing_found_is_an_error(album: Path, spec: str) -> None:
    with pytest.raises(ImageError, match=r": no such file, and no image \(\.png, ") as raised:
        find_images(["a.png", spec])
    assert str(raised.value).startswith(f"{spec}: ")


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no image"):
        find_images([tmp_path])


def test_a_file_whose_name_looks_like_a_pattern(album: Path) -> None:
    (album / "a[1].png").touch()
    assert find_images(["a[1].png"]) == [Path("a[1].png")]


def test_a_file_being_written_is_not_found(album: Path) -> None:
    """Nor is what a killed process left."""
    with atomic_path(album / "g.png") as temporary:
        temporary.write_bytes(b"half")
        for spec in (album, f"{album}/*"):
            assert [path.name for path in find_images([spec])] == ["a.png", "b.JPG", "c.tiff"]


def test_a_folder_named_like_an_image_is_not_found(album: Path) -> None:
    (album / "trip.jpg").mkdir()
    for spec in (album, f"{album}/*"):
        assert [path.name for path in find_images([spec])] == ["a.png", "b.JPG", "c.tiff"]


@pytest.mark.parametrize("save", [Path, str])
def test_paths_may_be_strings(save: Callable[[Path], Any], tmp_path: Path) -> None:
    write_image(save(tmp_path / "a.png"), random_pixels(3, 4, 3))
    assert read_image(save(tmp_path / "a.png")).pixels.shape == (3, 4, 3)


def test_the_png_of_these_tests_is_a_png() -> None:
    pixels = random_pixels(5, 7, 3)
    np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(png(pixels)))), pixels)
