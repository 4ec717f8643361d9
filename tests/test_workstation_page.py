"""The page of an evaluation: whole in one file, figures as measured, and nothing of a name run."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mirnet_edge as me
from mirnet_edge.workstation.evaluate import Data
from mirnet_edge.workstation.page import MOST_PX, Page
from mirnet_edge.workstation.protocols import Denoising, Pairs, Protocol


def written(data: Data, protocol: Protocol, path: Path) -> tuple[str, me.Evaluation]:
    page = Page("a <model> & others")
    restore = me.Restorer(me.FakeEngine())
    evaluation = me.evaluate_model(restore, data, protocol, observe=page.observe)
    page.write(path, evaluation)
    return path.read_text("utf-8"), evaluation


def pictures_of(text: str) -> list[np.ndarray]:
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(part)))) for part in found]


def test_pictures_and_figures(tmp_path: Path) -> None:
    clean = np.full((40, 50, 3), (90, 120, 150), np.uint8)
    text, evaluation = written([clean, clean], Denoising(20), tmp_path / "page.html")
    shown = pictures_of(text)
    assert [picture.shape for picture in shown] == 6 * [(40, 50, 3)]
    assert np.abs(shown[2].astype(int) - clean).max() <= 2, "given, restored, wanted"
    for score in (*evaluation.scores, evaluation.mean):
        assert f"<td>{score.psnr:.2f}</td>" in text
    assert f"<figcaption>given, {evaluation.scores[1].given_psnr:.2f} dB</figcaption>" in text
    assert "http" not in text, "needs no other file"
    assert evaluation.sentence in text


def test_names_and_titles_are_text(tmp_path: Path) -> None:
    name = "<script>alert(1)</script>&$title.png"
    folder = tmp_path / "in"
    folder.mkdir()
    try:
        Image.new("RGB", (16, 16), (9, 99, 9)).save(folder / name.replace("/", "_"))
    except OSError:
        pytest.skip("no such name on this file system")
    (folder / "<b>.png").write_text("no image")
    text, _ = written(folder, Denoising(), tmp_path / "page.html")
    assert "<script>" not in text
    assert "&lt;script&gt;alert(1)&lt;_script&gt;&amp;$title.png" in text
    assert "<h1>a &lt;model&gt; &amp; others</h1>" in text
    assert "&lt;b&gt;.png" in text, "what was left out is named"


def test_large_gray_and_equal_pictures(tmp_path: Path) -> None:
    gray = np.random.default_rng(0).integers(0, 256, (16, 2 * MOST_PX, 1), np.uint8)
    gray = gray.repeat(3, 2)
    text, _ = written([(gray, gray)], Pairs(), tmp_path / "page.html")
    assert pictures_of(text)[0].shape[1] == MOST_PX
    assert "∞" in text


def test_a_page_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    _, evaluation = written([np.zeros((8, 8, 3), np.uint8)], Denoising(), path)
    with pytest.raises(me.OutputError, match="exists"):
        Page("again").write(path, evaluation)
    Page("again").write(path, evaluation, overwrite=True)
    assert "again" in path.read_text("utf-8")
    with pytest.raises(me.OutputError, match="there is no folder"):
        Page("").write(tmp_path / "no" / "page.html", evaluation)
