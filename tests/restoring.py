"""What tests of ``mirnet-edge restore`` share: pictures, files, and the command in a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from command_line import Outcome, parse, run
from PIL import Image, ImageOps


class Restored(Outcome):
    """What one call of ``restore`` left behind; with ``--json``, an object a line."""

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [cast("dict[str, Any]", parse(line)) for line in self.out.splitlines()]

    @property
    def json(self) -> list[dict[str, Any]]:
        """Of the lines those of files."""
        return [line for line in self.lines if not {"summary", "ignored"} & line.keys()]

    @property
    def summary(self) -> dict[str, Any]:
        """The last line."""
        return cast("dict[str, Any]", self.lines[-1]["summary"])


Restore = Callable[..., Restored]


@pytest.fixture
def restore(
    tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> Restore:
    """Calls ``mirnet-edge restore`` in an empty folder, with the tiny model where none is named."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Restored:
        named = {"-m", "--model"} & {str(argument) for argument in arguments}
        outcome = run(capfd, "restore", *([] if named else ["-m", tiny_onnx]), *arguments)
        return Restored(**vars(outcome))

    return call


def noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    """Seeded random pixels."""
    random = np.random.Generator(np.random.PCG64(shape))
    return random.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def save(path: str | Path, pixels: np.ndarray | None = None, **options: Any) -> Path:
    """Write an image with Pillow alone; small noise by default."""
    Image.fromarray(noise(21, 34, 3) if pixels is None else pixels).save(path, **options)
    return Path(path)


def load(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def upright(path: str | Path) -> np.ndarray:
    """As a viewer shows it."""
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def names(folder: Path) -> list[str]:
    """Of all files below a folder, hidden ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def halves(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Both pictures of a comparison, after checking the white line between them."""
    picture = load(path)
    width = (picture.shape[1] - 4) // 2
    assert picture.shape[1] == 2 * width + 4
    assert (picture[:, width : width + 4] == 255).all()
    return picture[:, :width], picture[:, width + 4 :]
