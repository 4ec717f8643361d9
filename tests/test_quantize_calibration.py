"""The default calibration set and the demo photo are what their papers say they are."""

from __future__ import annotations

import hashlib
import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mirnet_edge import _files

CALIBRATION = _files.resource_folder("calibration")
DATA = _files.PACKAGE / "data"
LICENCES = {"CC0-1.0", "public-domain"}
FIELDS = {
    "file": str,
    "sha256": str,
    "width": int,
    "height": int,
    "content": str,
    "source": str,
    "source_sha256": str,
    "author": str,
    "licence": str,
    "licence_url": str,
    "crop": list,
}
SIZE = 256


def entries() -> list[dict[str, Any]]:
    manifest = json.loads((CALIBRATION / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["format"] == 1
    images: list[dict[str, Any]] = manifest["images"]
    return images


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "RGB", f"{path.name} is {image.mode}"
        return np.asarray(image)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_no_image_is_missing_or_extra() -> None:
    listed = [entry["file"] for entry in entries()]
    present = sorted(p.name for p in CALIBRATION.iterdir() if p.suffix not in {".json", ".md"})
    assert sorted(listed) == present
    assert 12 <= len(listed) <= 24


def test_the_set_is_small() -> None:
    size_bytes = sum(path.stat().st_size for path in CALIBRATION.glob("*.webp"))
    assert size_bytes <= 1_500_000


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: str(entry["file"]))
def test_an_entry_describes_its_file(entry: dict[str, Any]) -> None:
    assert {name: type(value) for name, value in entry.items()} == FIELDS
    path = CALIBRATION / entry["file"]
    assert sha256(path) == entry["sha256"]
    assert pixels(path).shape == (SIZE, SIZE, 3)
    assert (entry["width"], entry["height"]) == (SIZE, SIZE)
    assert entry["crop"][2:] == [SIZE, SIZE]


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: str(entry["file"]))
def test_an_entry_names_a_licence_that_permits_shipping(entry: dict[str, Any]) -> None:
    assert entry["licence"] in LICENCES
    for name in ("source", "licence_url"):
        assert re.fullmatch(r"https://\S+", entry[name]), entry[name]
    assert re.fullmatch(r"[0-9a-f]{64}", entry["source_sha256"])
    readme = (CALIBRATION / "README.md").read_text(encoding="utf-8")
    assert entry["author"].partition(" (")[0] in readme


def test_crops_of_one_photograph_do_not_overlap() -> None:
    for a, b in combinations(entries(), 2):
        if a["source"] == b["source"]:
            apart = max(abs(a["crop"][axis] - b["crop"][axis]) for axis in (0, 1))
            assert apart >= SIZE, f"{a['file']} and {b['file']} are {apart} pixels apart"


def test_images_differ_from_one_another() -> None:
    images = {entry["file"]: pixels(CALIBRATION / entry["file"]) for entry in entries()}
    for (a, pixels_a), (b, pixels_b) in combinations(images.items(), 2):
        difference = np.abs(pixels_a.astype(np.float64) - pixels_b).mean()
        assert difference > 8.0, f"{a} and {b} differ by {difference:.1f} gray levels on average"


def test_the_set_covers_dark_bright_flat_textured_and_coloured_images() -> None:
    images = [pixels(CALIBRATION / entry["file"]).astype(np.float64) for entry in entries()]
    means = [image.mean() for image in images]
    details = [np.abs(np.diff(image, axis=1)).mean() for image in images]
    chroma = [(image.max(axis=2) - image.min(axis=2)).mean() for image in images]
    assert min(means) < 16, means
    assert max(means) > 140, means
    assert min(details) < 1, details
    assert max(details) > 16, details
    assert sum(value > 32 for value in chroma) >= len(images) / 3, chroma
    assert len({entry["source"] for entry in entries()}) >= 6


def test_the_demo_photo_is_the_one_its_readme_describes() -> None:
    photo = DATA / "photo.webp"
    readme = (DATA / "README.md").read_text(encoding="utf-8")
    assert pixels(photo).shape == (300, 451, 3)
    assert photo.stat().st_size <= 500_000
    assert sha256(photo) in readme
    assert "CC0 1.0" in readme


def test_the_demo_photo_is_no_part_of_the_calibration_set() -> None:
    readme = (DATA / "README.md").read_text(encoding="utf-8")
    assert not [entry["file"] for entry in entries() if entry["source_sha256"] in readme]
