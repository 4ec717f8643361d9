"""Pairs of pictures: which files belong together, and what is said of the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

import mirnet_edge as me
from mirnet_edge.workstation.pairs import matched_pairs, read_pair


def write(folder: Path, names: Sequence[str], size: tuple[int, int] = (9, 7)) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (len(name), 0, 0)).save(folder / name)
    return folder


@pytest.mark.parametrize(
    ("files", "pairs"),
    [
        (
            ["0001_A/0001_NOISY_SRGB_010.PNG", "0001_A/0001_GT_SRGB_010.PNG"],
            [("0001_NOISY_SRGB_010.PNG", "0001_GT_SRGB_010.PNG")],
        ),
        (
            ["Canon_5_chair_real.JPG", "Canon_5_chair_mean.JPG", "x_real.png", "x_mean.png"],
            [("Canon_5_chair_real.JPG", "Canon_5_chair_mean.JPG"), ("x_real.png", "x_mean.png")],
        ),
        (["low/1.png", "high/1.png", "note.png"], [("1.png", "1.png")]),
    ],
    ids=["SIDD", "PolyU", "LOL"],
)
def test_one_folder_whose_names_tell_the_two_apart(
    files: list[str], pairs: list[tuple[str, str]], tmp_path: Path
) -> None:
    write(tmp_path, files)
    found = matched_pairs(tmp_path, tmp_path)
    assert [(given.name, target.name) for _, given, target in found] == pairs
    assert all(given != target for _, given, target in found)


def test_two_folders_with_equal_names_whatever_the_suffix(tmp_path: Path) -> None:
    given = write(tmp_path / "imgs", ["b.png", "a/c.jpg"])
    target = write(tmp_path / "targets", ["b.png", "a/c.png"])
    assert matched_pairs(given, target) == [
        ("a/c", given / "a/c.jpg", target / "a/c.png"),
        ("b", given / "b.png", target / "b.png"),
    ]


def test_pictures_without_a_partner_are_named(tmp_path: Path) -> None:
    given = write(tmp_path / "imgs", ["a.png", "b.png"])
    target = write(tmp_path / "targets", ["b.png", "z.png"])
    with pytest.raises(me.DataError, match=r"2 pictures without a partner: .*a\.png.*z\.png"):
        matched_pairs(given, target)
    skipped: list[str] = []
    assert [name for name, *_ in matched_pairs(given, target, skipped)] == ["b"]
    assert [line.partition(":")[0] for line in skipped] == [
        str(given / "a.png"),
        str(target / "z.png"),
    ]


def test_what_is_no_pair_is_refused(tmp_path: Path) -> None:
    given, target = write(tmp_path / "imgs", ["a.png"]), write(tmp_path / "targets", ["b.png"])
    with pytest.raises(me.DataError, match="1 and 1 pictures"):
        matched_pairs(given, target)
    with pytest.raises(me.DataError, match="no such folder"):
        matched_pairs(given, tmp_path / "missing")
    with pytest.raises(me.DataError, match="marked as NOISY_SRGB"):
        matched_pairs(given, given)
    write(given, ["a.jpg"])
    with pytest.raises(me.DataError, match="both are the picture 'a'"):
        matched_pairs(given, target)


def test_pictures_of_other_sizes_are_no_pair(tmp_path: Path) -> None:
    write(tmp_path, ["a.png", "c.png"])
    write(tmp_path, ["b.png"], size=(8, 7))
    degraded, good = read_pair(tmp_path / "a.png", tmp_path / "c.png")
    assert degraded.shape == good.shape == (7, 9, 3)
    with pytest.raises(me.ImageError, match=r"a\.png has 9x7 pixels, but .*b\.png 8x7"):
        read_pair(tmp_path / "a.png", tmp_path / "b.png")
