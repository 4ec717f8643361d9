"""What `explain` shows: attention as the network has it, tiles, the receptive field, a page."""

from __future__ import annotations

import io
import math
import os
import re
import shutil
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import run
from PIL import Image
from tiny_edge import DENOISER, enlarger

import mirnet_edge as me
from mirnet_edge.cli import main
from mirnet_edge.model.checkpoints import facts_of, save_model
from mirnet_edge.model.config import Config, MIRNetConfig
from mirnet_edge.model.layers import Network, SelectiveKernelFusion
from mirnet_edge.workstation.explain.drawing import half_of_weight
from mirnet_edge.workstation.explain.explanation import affordable_side, explain_model, fitted
from mirnet_edge.workstation.explain.field import POINTS, receptive_field
from mirnet_edge.workstation.explain.hooks import given, seen
from mirnet_edge.workstation.explain.page import write_explanation
from mirnet_edge.workstation.explain.tile_study import study_tiles, whole_frame

pytest.importorskip("matplotlib", reason="for the plots of a page")
V1 = MIRNetConfig(channels=(8, 16), n_rrg=1, n_msrb=1)
V2 = replace(DENOISER, shuffle=1, context=True, noise_level=False)
NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
Capture = pytest.CaptureFixture[str]


def network_of(config: Config) -> Network:
    network = me.create_model(config, seed=1)
    network.facts = facts_of(network, "denoise")
    with torch.no_grad():  # as random as they are, fresh weights change a picture hardly at all
        network.conv_out.weight *= 8
    return network


def picture_of(height: int, width: int) -> np.ndarray:
    """A smooth one, darker on the left."""
    random = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
    image = Image.fromarray(random).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image) // np.linspace(4, 1, width).astype(int)[None, :, None].astype(np.uint8)


def tensor_of(height: int, width: int) -> torch.Tensor:
    return torch.from_numpy(picture_of(height, width) / np.float32(255)).permute(2, 0, 1)[None]


@pytest.mark.parametrize("config", [V1, V2])
def test_gates_are_those_of_the_fusion(config: Config) -> None:
    network = network_of(config)
    passed: list[tuple[list[torch.Tensor], torch.Tensor]] = []
    for module in network.modules():
        if isinstance(module, SelectiveKernelFusion):
            module.register_forward_hook(lambda _, given, out: passed.append((given[0], out)))
    with torch.no_grad(), seen(network, 48) as found:
        network(tensor_of(32, 48))
    assert len(found.fusions) == len(passed) > 0
    for fusion, (features, output) in zip(found.fusions, passed, strict=True):
        gates = torch.from_numpy(fusion.gates)[:, None, :, None, None]
        torch.testing.assert_close((gates * torch.stack(features)).sum(0), output)
        np.testing.assert_allclose(fusion.shares.sum(0), 1, rtol=1e-5)
        assert fusion.shares.shape[1:] == (32 // fusion.place.scale, 48 // fusion.place.scale)


def test_every_kind_of_attention_is_seen() -> None:
    with torch.no_grad(), seen(network_of(V1), 48) as first:
        network_of(V1)(tensor_of(32, 48))
        assert first.pools == [], "another network's hooks are its own"
    one, two = network_of(V1), network_of(V2)
    with torch.no_grad(), seen(one, 48) as first, seen(two, 48) as second:
        one(tensor_of(32, 48))
        two(tensor_of(32, 48))
    # Two streams of two columns, a fusion of each between them, and one at the end.
    assert (len(first.channels), len(first.spatial), len(first.fusions)) == (4, 4, 3)
    assert len(first.pools) == 4 + 3
    assert not first.contexts
    for gate in (*first.channels, *first.spatial):
        assert 0 < gate.values.min() <= gate.values.max() < 1
    # Three streams, two passes.
    assert (len(second.contexts), len(second.fusions), len(second.channels)) == (6, 4, 0)
    assert len(second.pools) == 6 + 4
    assert {context.place.scale for context in second.contexts} == {1, 2, 4}
    for context in second.contexts:
        assert context.values.mean() == pytest.approx(1, rel=1e-4)
    assert str(second.pools[3].place) == "block 1.1, fusion at 1/2, turn 1"


def test_half_of_a_mean() -> None:
    assert half_of_weight(np.ones((4, 5), np.float32)) == 0.5
    one = np.zeros((4, 5), np.float32)
    one[2, 3] = 20
    assert half_of_weight(one) == 1 / 20


@pytest.mark.parametrize("config", [V1, V2])
def test_vectors_of_the_frame_are_all_that_pools_decide(config: Config) -> None:
    network, image = network_of(config), tensor_of(32, 160)
    with torch.no_grad():
        with seen(network, 160) as found:
            whole = network(image)
        vectors = [pool.vector for pool in found.pools]
        other = image.clone()
        other[..., :8] = 0
        moved = [vector + 1 for vector in vectors]
        with given(network, vectors):
            torch.testing.assert_close(network(image), whole)
            torch.testing.assert_close(network(image), whole)
            # A change far away reaches a place through pools alone.
            torch.testing.assert_close(network(other)[..., -8:], whole[..., -8:])
        assert not torch.allclose(network(other)[..., -8:], whole[..., -8:])
        with given(network, moved):
            assert not torch.allclose(network(image), whole)
        with given(network, moved, own=range(len(moved))):
            torch.testing.assert_close(network(image), whole)
        torch.testing.assert_close(network(image), whole)


def test_tiles_with_the_frames_vectors_are_exact_at_the_exact_halo() -> None:
    network = network_of(replace(V2, context=False))
    exact = network.facts.local_support_px
    frame = whole_frame(network, picture_of(160, 160) / np.float32(255), "auto")
    steps: list[int] = []
    study = study_tiles(network, frame, 120, exact, lambda: steps.append(1))
    assert study.shared_db > 110 > study.own_db
    assert max(alone.db for alone in study.alone) <= study.shared_db
    assert min(alone.db for alone in study.alone) < 110
    assert (
        len(study.cut.rows) * len(study.cut.columns) == study.distances.shape[1] == len(study.shift)
    )
    assert study.distances.max() > 0.01
    assert study.gates.max() > 0
    pixels = [halo.pixels for halo in study.halos]
    assert pixels == sorted(pixels)
    shared = [halo.shared_db for halo in study.halos]
    assert shared == sorted(shared), "each pixel of halo brings tiles nearer"
    with pytest.raises(me.TilingError):
        study_tiles(network, frame, 32, 16)


@pytest.mark.parametrize("config", [V2, DENOISER])
def test_the_receptive_field(config: Config) -> None:
    network = network_of(config)
    frame = whole_frame(network, picture_of(96, 128) / np.float32(255), "auto")
    field = receptive_field(network, frame.tensor, [pool.vector for pool in frame.seen.pools])
    assert 1 <= field.farthest <= max(field.reach)
    np.testing.assert_allclose(field.within[-1], 1)
    assert (np.diff(field.within) >= 0).all()
    assert field.radius(0.5) <= field.radius(0.99) <= max(field.reach)
    assert 0 < field.share_of_means < 1
    # Both ways together are what the network does, by central differences in double precision.
    image, step = torch.from_numpy(frame.tensor).double(), 1e-4
    raised = torch.zeros_like(image)
    raised[:, :3] = step
    with torch.no_grad():
        double = network.double()
        change = (double(image + raised) - double(image - raised)) / (2 * step)
    rows, columns = zip(*POINTS, strict=True)
    at = change[0, :, 48 + np.array(rows), 64 + np.array(columns)].mean()
    assert sum(field.brightening) == pytest.approx(float(at), rel=2e-3)


def test_what_is_looked_at_of_a_large_picture() -> None:
    network = enlarger(4)
    picture = np.arange(3 * 800 * 600, dtype=np.uint8).reshape(600, 800, 3)
    shown, said = fitted(picture, network, 512, "crop")
    assert shown.shape == (128, 128, 3)
    assert "the middle 128x128 pixels of a picture of 800x600" in said
    np.testing.assert_array_equal(shown, picture[236:364, 336:464])
    shown, said = fitted(picture, network, 512, "scale")
    assert shown.shape == (96, 128, 3)
    assert "made smaller to 128x96" in said
    with pytest.raises(me.FrameError, match="too few"):
        fitted(picture[:8, :8], network, 512, "crop")
    assert affordable_side(network) == 512
    with torch.device("meta"):
        assert affordable_side(me.create_model("mirnet")) == 96
    with pytest.raises(me.FrameError, match="6 planes in"):
        explain_model(me.create_model(replace(V2, in_channels=6, image_skip=False)), picture)


def test_nothing_to_compare(tmp_path: Path) -> None:
    network = network_of(replace(V2, context=False))
    with pytest.raises(me.TilingError, match="a tile of 96 holds all 96x64"):
        explain_model(network, picture_of(64, 96), tile=96)
    with torch.no_grad():
        network.conv_out.weight.zero_()  # gives back what it is given, in tiles as whole
    found = explain_model(network, picture_of(48, 64), halo=4)
    assert found.tiles.own_db == math.inf
    write_explanation(found, tmp_path / "page.html", "same")
    text = (tmp_path / "page.html").read_text("utf-8")
    assert "no difference at all from the whole" in text
    assert " nan" not in text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds a checkpoint of the second family that is told a noise level, and a picture."""
    folder = tmp_path_factory.mktemp("explained")
    network = network_of(replace(V2, noise_level=True))
    save_model(network, folder / "v2.safetensors", "denoise")
    Image.fromarray(picture_of(97, 110)).save(folder / "<b>.png")
    return folder


@pytest.fixture(scope="module")
def pages(folder: Path) -> list[Path]:
    """Of the first family, and by the command of the second, with context and a noise level."""
    found = [folder / "v1.html", folder / "v2.html"]
    explanation = explain_model(network_of(V1), picture_of(97, 110), halo=4)
    write_explanation(explanation, found[0], "v1 on <b>")
    model, picture = folder / "v2.safetensors", folder / "<b>.png"
    out = io.StringIO()
    with redirect_stdout(out):
        code = main(["explain", *map(str, (model, picture)), "-o", str(found[1]), "--noise", "12",
                     "--halo", "4"])  # fmt: skip
    assert code == 0
    assert "v2.html: the middle 108x96 pixels of a picture of 110x97" in out.getvalue()
    assert "tiles of 48, halo 4, against the whole:" in out.getvalue()
    return found


def test_the_page(pages: list[Path]) -> None:
    first, second = (path.read_text("utf-8") for path in pages)
    for text in (first, second):
        assert re.search(r"the middle 1(08|10)x96 pixels of a picture of 110x97", text)
        assert "&lt;b&gt;" in text
        assert "<b>" not in text
        sources = re.findall(r'(?:src|href)="([^"]{0,20})', text)
        assert all(source.startswith("data:image/") for source in sources)
        assert "Which scale is taken" in text
        assert " nan " not in text
    assert "12.0 / 255" in second
    assert "Where it looks for context" in second
    assert "Spatial attention" not in second
    assert "Spatial attention" in first
    assert "Channel attention" in first
    assert "Where it looks for context" not in first


def test_a_page_that_is_there_stays(pages: list[Path], folder: Path, capfd: Capture) -> None:
    before = pages[1].read_bytes()
    outcome = run(capfd, "explain", folder / "v2.safetensors", folder / "<b>.png", "-o", pages[1])
    assert "v2.html" in outcome.only_error
    assert pages[1].read_bytes() == before


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason=f"none of {', '.join(NAMES)} is there")
def test_in_a_browser(pages: list[Path]) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="for a page in a browser")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        page = browser.new_page(viewport={"width": 390, "height": 844})
        told: list[str] = []
        page.on("console", lambda said: said.type == "error" and told.append(said.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        for path in pages:
            page.goto(path.as_uri())
            widths = page.evaluate("() => [...document.images].map(image => image.naturalWidth)")
            assert len(widths) > 15
            assert all(widths)
            assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
            page.fill("#divider", "80")
            clipped = "() => getComputedStyle(document.querySelector('#pair img + img')).clipPath"
            assert "80%" in page.evaluate(clipped)
        assert told == []
        browser.close()
