"""The bundled models are what their cards say."""

from __future__ import annotations

import numpy as np
import pytest

import mirnet_edge as me
from mirnet_edge.bundled import MODELS_FOLDER, BundledModel, bundled_model
from mirnet_edge.model.checkpoints import weights_sha256
from mirnet_edge.model.config import PRESETS, TASKS
from mirnet_edge.workstation.protocols import Denoising

MODELS = me.bundled_models()
MOST_BYTES = 20_000_000
"""Of all together."""
AS_WEIGHTS = [model for model in MODELS if model.weights is not None]


@pytest.fixture(params=MODELS, ids=lambda model: model.name)
def model(request: pytest.FixtureRequest) -> BundledModel:
    found: BundledModel = request.param
    return found


def test_there_is_the_denoiser() -> None:
    assert bundled_model("edge-s-denoise") in MODELS
    assert bundled_model("edge-xl-dehaze") is None


def test_files_are_small() -> None:
    folders = {model.folder for model in MODELS} | {MODELS_FOLDER / "noise-level"}
    assert sum(file.stat().st_size for folder in folders for file in folder.iterdir()) < MOST_BYTES


def test_there_is_a_model_of_every_task_but_defocus() -> None:
    tasks = {model.card["task"] for model in MODELS}
    assert tasks == set(TASKS) - {"defocus-deblurring"}


def test_graph_and_card_are_of_one_training(model: BundledModel) -> None:
    facts = me.OnnxEngine(model.onnx).facts
    assert facts.weights_sha256 == model.card["weights_sha256"]
    assert (facts.task, facts.preset) == (model.card["task"], model.card["preset"])
    assert facts.preset in PRESETS


@pytest.mark.parametrize("model", AS_WEIGHTS, ids=lambda model: model.name)
def test_weights_are_those_of_the_graph(model: BundledModel) -> None:
    network = me.load_model(model.name)
    assert weights_sha256(network) == model.card["weights_sha256"]
    assert (network.facts.task, network.facts.preset) == (model.card["task"], model.card["preset"])
    assert sum(p.numel() for p in network.parameters()) == model.card["parameters"]


def test_a_model_without_weights_says_so() -> None:
    with pytest.raises(me.CheckpointError, match="edge-m-x2 is bundled as a graph alone"):
        me.load_model("edge-m-x2")


def test_card_tells_recipe_data_licence_and_figures(model: BundledModel) -> None:
    recipe = model.card["recipe"]
    settings = recipe["settings"]
    assert recipe["steps_done"] > 0
    # A schedule ends with its steps or with its time.
    of_time = settings["minutes"] and recipe["seconds"] / 60 / settings["minutes"]
    assert max(recipe["steps_done"] / settings["steps"], of_time or 0) >= 0.99
    assert recipe["data"]["licence"]
    assert recipe["device"]
    assert model.card["weights_licence"]
    for figure in model.card["figures"]:
        gains = figure["protocol"] != "clean" and figure["method"] == "model"
        assert not gains or figure["restored"]["psnr"] > figure["given"]["psnr"]


@pytest.mark.parametrize(
    ("data", "protocol", "noise", "least_db"),
    [
        ("cbsd68", "σ 25", "told", 30.1),
        ("polyu", "pairs", "auto", 37.8),
        ("photo", "σ 25, gray", "auto", 30.3),
        ("photo", "σ 25, JPEG q95", "auto", 29.2),
        ("photo", "σ 15, H.264", "auto", 32.0),
        ("photo", "clean", "auto", 42.0),
    ],
)
def test_what_the_denoiser_reaches(data: str, protocol: str, noise: str, least_db: float) -> None:
    model = bundled_model("edge-s-denoise")
    assert model is not None
    wanted = (data, protocol, noise)
    figure = next(
        f for f in model.card["figures"] if (f["data"], f["protocol"], f["noise"]) == wanted
    )
    assert figure["restored"]["psnr"] >= least_db


@pytest.mark.parametrize(("sigma", "least_gain_db"), [(15, 7), (25, 10), (50, 13)])
def test_denoiser_restores_the_photo(photo: np.ndarray, sigma: float, least_gain_db: float) -> None:
    with me.Restorer("edge-s-denoise") as restore:
        protocol = Denoising(sigma, quantize=True)
        scores = me.evaluate_model(restore, [photo], protocol, with_ssim=False)
    assert scores.mean.psnr - scores.mean.given_psnr > least_gain_db


def test_graph_equals_the_weights_on_the_photo(photo: np.ndarray) -> None:
    crop = (photo[:101, :77] / 255).astype(np.float32)
    with me.Restorer("edge-s-denoise") as portable:
        found = portable(crop)
    expected = me.Restorer(me.TorchEngine(me.load_model("edge-s-denoise")))(crop)
    np.testing.assert_allclose(found, expected, atol=1e-4)
