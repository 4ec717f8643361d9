"""What ships with the package: models (weights, ONNX graph and card of each) and a photo."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mirnet_edge._files import PACKAGE

MODELS_FOLDER = PACKAGE / "models"
PHOTO = PACKAGE / "data" / "photo.webp"


@dataclass(frozen=True)
class BundledModel:
    """One bundled model.

    Attributes:
        name: what `Restorer` and `load_model` accept.
        folder: holds ``model.onnx`` and ``card.json``.
        card: task, recipe, data and its licence, measured figures.
    """

    name: str
    folder: Path
    card: dict[str, Any]

    @property
    def onnx(self) -> Path:
        """The exported graph, of open height and width; `load_model` reads the weights off it."""
        return self.folder / "model.onnx"


def bundled_models() -> list[BundledModel]:
    """All bundled models, by name."""
    return [
        BundledModel(card.parent.name, card.parent, json.loads(card.read_text("utf-8")))
        for card in sorted(MODELS_FOLDER.glob("*/card.json"))
    ]


def bundled_model(name: str) -> BundledModel | None:
    """The bundled model called ``name``, or None."""
    return next((model for model in bundled_models() if model.name == name), None)
