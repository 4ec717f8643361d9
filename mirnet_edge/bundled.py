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
        folder: holds ``model.onnx``, ``card.json``, and of some models ``model.safetensors``.
        card: task, recipe, data and its licence, measured figures.
    """

    name: str
    folder: Path
    card: dict[str, Any]

    @property
    def onnx(self) -> Path:
        """The exported graph, of open height and width."""
        return self.folder / "model.onnx"

    @property
    def weights(self) -> Path | None:
        """The checkpoint, as safetensors; None for a model that is bundled as a graph alone."""
        path = self.folder / "model.safetensors"
        return path if path.exists() else None


def bundled_models() -> list[BundledModel]:
    """All bundled models, by name."""
    return [
        BundledModel(card.parent.name, card.parent, json.loads(card.read_text("utf-8")))
        for card in sorted(MODELS_FOLDER.glob("*/card.json"))
    ]


def bundled_model(name: str) -> BundledModel | None:
    """The bundled model called ``name``, or None."""
    return next((model for model in bundled_models() if model.name == name), None)
