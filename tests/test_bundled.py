"""The bundled models are what their cards say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import mirnet_edge as me
from mirnet_edge.bundled import MODELS_FOLDER, BundledModel, bundled_model
from mirnet_edge.model.checkpoints import weights_sha256
from mirnet_edge.model.config import PRESETS, TASKS
from mirnet_edge.quantize.recorded import record_files
from mirnet_edge.workstation.protocols import Denoising

MODELS = me.bundled_models()
MOST_BYTES = 20_000_000
"""Of all together."""


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


def test_weights_are_those_of_the_graph(model: BundledModel) -> None:
    network = me.load_model(model.name)
    assert weights_sha256(network) == model.card["weights_sha256"]
    assert (network.facts.task, network.facts.preset) == (model.card["task"], model.card["preset"])
    assert sum(p.numel() for p in network.parameters()) == model.card["parameters"]


def test_pytorch_does_what_the_graph_does(model: BundledModel) -> None:
    network = me.load_model(model.name)
    generator = np.random.default_rng(0)
    shape = (1, network.facts.in_planes, *[2 * network.facts.size_multiple + 32] * 2)
    side = network.facts.size_rule.padded(shape[-1])
    tiles = generator.random((*shape[:2], side, side), dtype=np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(tiles)).numpy()
    found = me.OnnxEngine(model.onnx).run(tiles)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_there_is_a_record_of_the_default_model() -> None:
    assert all(path.exists() for path in record_files("edge-s-denoise"))


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
    ("name", "data", "protocol", "noise", "least_db"),
    [
        ("edge-xs-denoise", "cbsd68", "σ 25", "told", 29.6),
        ("edge-xs-denoise", "polyu", "pairs", "auto", 38.2),
        ("edge-xs-denoise", "photo", "σ 25, gray", "auto", 30.4),
        ("edge-xs-denoise", "photo", "σ 25, JPEG q95", "auto", 31.3),
        ("edge-xs-denoise", "photo", "σ 15, H.264", "auto", 32.8),
        ("edge-xs-denoise", "photo", "clean", "auto", 42.0),
        ("edge-s-denoise", "cbsd68", "σ 25", "told", 30.6),
        ("edge-s-denoise", "polyu", "pairs", "auto", 38.4),
        ("edge-s-denoise", "photo", "σ 25, gray", "auto", 30.3),
        ("edge-s-denoise", "photo", "σ 25, JPEG q95", "auto", 29.2),
        ("edge-s-denoise", "photo", "σ 15, H.264", "auto", 32.0),
        ("edge-s-denoise", "photo", "clean", "auto", 45.5),
        ("edge-m-denoise", "cbsd68", "σ 25", "told", 31.0),
        ("edge-m-denoise", "polyu", "pairs", "auto", 38.5),
        ("edge-m-denoise", "photo", "clean", "auto", 46.0),
        ("edge-m-x2", "set5", "×2", "", 37.1),
        ("edge-m-x4", "set5", "×4", "", 31.1),
        ("edge-m-enhance", "lol_train4", "pairs", "", 22.0),
    ],
)
def test_what_a_model_reaches(
    name: str, data: str, protocol: str, noise: str, least_db: float
) -> None:
    wanted = (data, protocol, noise, "model")
    figure = next(
        f for f in figures_of(name) if (f["data"], f["protocol"], f["noise"], f["method"]) == wanted
    )
    assert figure["restored"]["psnr"] >= least_db


def test_low_light_is_above_plain_methods_on_each_picture() -> None:
    figures = figures_of("edge-m-enhance")
    plain = [figure["each"] for figure in figures if figure["method"] != "model"]
    (each,) = (figure["each"] for figure in figures if figure["method"] == "model")
    assert len(each) == 4
    assert len(plain) == 2
    for picture, psnr in each.items():
        assert psnr > max(other[picture] for other in plain), picture


def figures_of(name: str) -> list[dict[str, Any]]:
    model = bundled_model(name)
    assert model is not None
    figures: list[dict[str, Any]] = model.card["figures"]
    return figures


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
