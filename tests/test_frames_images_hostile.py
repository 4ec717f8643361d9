"""Image files that were made, or broken, to do harm."""

from __future__ import annotations

import os
import struct
import subprocess
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_samples import random_pixels
from PIL import Image, TiffImagePlugin
from waiting_pipes import refusal_of_a_pipe

from mirnet_edge.errors import ImageError
from mirnet_edge.frames.images import ImageFile, is_damaged, read_image, upright_rgb, write_image

EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 8 8
%%EndComments
0 0 8 8 rectfill
showpage
%%EOF
"""


@pytest.mark.parametrize("name", ["x.eps", "x.png"])
def test_no_other_program_is_started(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(EPS)
    with Image.open(tmp_path / name) as image:
        assert image.format == "EPS", "Pillow no longer knows what is tested here"

    def started(*_: object, **__: object) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", started)
    monkeypatch.setattr(os, "system", started)
    with pytest.raises(ImageError, match="no image format"):
        read_image(tmp_path / name)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    assert "it is a pipe" in refusal_of_a_pipe(tmp_path / "a.png", read_image, ImageError)


def gif_of(width: int, height: int) -> bytes:
    """One that claims a size, in 35 bytes."""
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0)
    return screen + frame + b"\x02\x02\x44\x01\x00;"


def test_a_few_bytes_that_claim_gigapixels_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bomb.gif"
    path.write_bytes(gif_of(6000, 6000))
    with pytest.raises(ImageError, match=r"6000x6000 pixels in 35 bytes .*MAX_PIXELS_PER_BYTE"):
        read_image(path)
    path.write_bytes(gif_of(4000, 4000))
    with pytest.raises(ImageError, match="truncated"):  # read, as 16 megapixels always are
        read_image(path)
    path.write_bytes(gif_of(6000, 6000))
    monkeypatch.setenv("MIRNET_EDGE_MAX_PIXELS_PER_BYTE", "2000000")
    with pytest.raises(ImageError, match="truncated"):
        read_image(path)
    monkeypatch.setenv("MIRNET_EDGE_MAX_PIXELS_PER_BYTE", "many")
    with pytest.raises(ImageError, match="'many': need a whole number"):
        read_image(path)


def test_a_plain_picture_is_no_bomb(tmp_path: Path) -> None:
    black = Image.new("1", (7000, 7000))
    black.save(tmp_path / "black.png", optimize=True)
    assert read_image(tmp_path / "black.png").pixels.shape == (7000, 7000)


BROKEN_EXIF = b"Exif\0\0" + b"MM\x00\x2b" + bytes(16)
"""Of no byte order that there is, on which Pillow raises SyntaxError."""


def test_a_broken_exif_header_turns_nothing(tmp_path: Path) -> None:
    pixels = random_pixels(9, 11, 3)
    np.testing.assert_array_equal(upright_rgb(ImageFile(pixels, b"Exif\0\0" + b"QQ" * 9)), pixels)
    np.testing.assert_array_equal(upright_rgb(ImageFile(pixels, BROKEN_EXIF)), pixels)


def test_a_tiff_whose_next_directory_lacks_dimensions(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write_image(path, random_pixels(9, 11, 3))
    data = bytearray(path.read_bytes())
    (first,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, first)
    struct.pack_into("<I", data, first + 2 + 12 * count, len(data))
    path.write_bytes(bytes(data) + struct.pack("<HHHIII", 1, 305, 2, 1, 0, 0))
    with pytest.raises(ImageError, match=r"a\.tif: "):
        read_image(path)


@pytest.mark.parametrize("kind", [TypeError, KeyError, struct.error, IndexError, AssertionError])
def test_whatever_pillow_raises_is_one_error(
    kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(tmp_path / "a.tif", random_pixels(9, 11, 3))

    def broken(self: Any) -> None:
        raise kind("deep inside")

    monkeypatch.setattr(TiffImagePlugin.TiffImageFile, "load", broken)
    with pytest.raises(ImageError, match=r"a\.tif: cannot be read"):
        read_image(tmp_path / "a.tif")


def test_filters_of_warnings_are_as_before_whoever_reads(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", random_pixels(64, 64, 3))
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read_image, [tmp_path / "a.png"] * 80))
    assert list(warnings.filters) == before


def test_what_is_damaged(tmp_path: Path) -> None:
    whole = tmp_path / "a.png"
    write_image(whole, random_pixels(30, 30, 3))
    assert not is_damaged(whole)
    content = whole.read_bytes()
    for broken in (b"", content[:-40], content[:100], bytes(len(content)), b"text"):
        whole.write_bytes(broken)
        assert is_damaged(whole), broken[:20]
    assert not is_damaged(tmp_path / "nothing.png"), "what is not there is not damaged"


def test_what_is_refused_for_its_kind_is_not_damaged(tmp_path: Path) -> None:
    """It is a user's, whom --skip-existing promised to leave it."""
    frames = [Image.new("L", (8, 8), value) for value in (0, 200)]
    frames[0].save(tmp_path / "two.tif", save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match="2 frames"):
        read_image(tmp_path / "two.tif")
    assert not is_damaged(tmp_path / "two.tif")
