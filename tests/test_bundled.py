"""The bundled models are what their cards say."""

from __future__ import annotations

import numpy as np
import pytest

import mirnet_edge as me
from mirnet_edge.bundled import BundledModel, bundled_model
from mirnet_edge.model.checkpoints import weights_sha256
from mirnet_edge.workstation.protocols import Denoising

MODELS = me.bundled_models()
MOST_BYTES = 8_000_000


@pytest.fixture(params=MODELS, ids=lambda model: model.name)
def model(request: pytest.FixtureRequest) -> BundledModel:
    found: BundledModel = request.param
    return found


def test_there_is_the_denoiser() -> None:
    assert bundled_model("edge-s-denoise") in MODELS
    assert bundled_model("edge-xl-dehaze") is None


def test_files_are_small(model: BundledModel) -> None:
    size = sum(file.stat().st_size for file in model.folder.iterdir())
    assert size < MOST_BYTES


def test_weights_and_graph_and_card_are_of_one_training(model: BundledModel) -> None:
    network = me.load_model(model.name)
    facts = me.OnnxEngine(model.onnx).facts
    assert weights_sha256(network) == facts.weights_sha256 == model.card["weights_sha256"]
    assert network.facts.task == facts.task == model.card["task"]
    assert network.facts.preset == model.card["preset"]
    assert sum(p.numel() for p in network.parameters()) == model.card["parameters"]


def test_card_tells_recipe_data_licence_and_figures(model: BundledModel) -> None:
    recipe = model.card["recipe"]
    assert recipe["steps_done"] == recipe["settings"]["steps"]
    assert recipe["data"]["licence"]
    assert recipe["device"]
    assert model.card["weights_licence"]
    for figure in model.card["figures"]:
        gains = figure["protocol"] != "clean" and figure["method"] == "model"
        assert not gains or figure["restored"]["psnr"] > figure["given"]["psnr"]


def test_denoiser_reaches_the_required_figure() -> None:
    model = bundled_model("edge-s-denoise")
    assert model is not None
    figure = next(
        f for f in model.card["figures"] if (f["data"], f["protocol"]) == ("cbsd68", "σ 25")
    )
    assert figure["images"] == 68
    assert figure["given"]["psnr"] == pytest.approx(20.2, abs=0.05)
    assert figure["restored"]["psnr"] >= 30.7


@pytest.mark.parametrize(("sigma", "least_gain_db"), [(15, 8), (25, 10), (50, 14)])
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
