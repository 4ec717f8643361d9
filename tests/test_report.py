"""Records as one page: what is read, what the page holds, and which records are refused."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import run

from mirnet_edge.errors import DataError
from mirnet_edge.workstation.records import read_records
from mirnet_edge.workstation.report_page import write_report

pytest.importorskip("matplotlib", reason="for the plots of a report")
RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
H100 = RESULTS / "h100-tensorrt-8.6.0"
NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
PART = {"name": "CaskConvolution <fp16>", "time_ms": 1.25, "floor_ms": 0.5, "bytes_moved": 2**20}
PROFILE = {"kinds": [PART], "modules": [PART], "all": PART}
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(PROFILE))
    return path


def page_of(path: Path, *records: Path, picture: bool = False) -> str:
    write_report(records, path, picture=picture)
    return path.read_text("utf-8")


def test_the_page_holds_what_was_measured(tmp_path: Path, profile: Path) -> None:
    text = page_of(tmp_path / "a.html", H100 / "race.json", H100 / "frame.json", profile)
    for found in ("torch-max-autotune", "2.764", "NVIDIA H100", "Quality against speed",
                  "607.4 as a stream", "1.560", "CaskConvolution &lt;fp16&gt;"):  # fmt: skip
        assert found in text
    assert text.count("data:image/svg+xml") == 1 + 2 + 2
    assert "<fp16>" not in text


def test_it_needs_no_other_file(tmp_path: Path) -> None:
    text = page_of(tmp_path / "a.html", H100 / "frame.json", picture=True)
    sources = re.findall(r'(?:src|href)="([^"]{0,20})', text)
    assert sources
    assert all(source.startswith("data:image/") for source in sources)
    assert text.count("data:image/png") == 2


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"schema": 2, "races": []}, "schema 2"),
        ({"schema": 1, "races": [{"peer": "ours"}]}, "KeyError: 'shape'"),
        ({"frames": {"rgb": {"model": "x"}}}, "KeyError"),
        ({"machine_info": {}}, "kinds"),
        ([1, 2], "another schema"),
        ({"kinds": [{**PART, "time_ms": "fast"}], "modules": []}, "fast"),
    ],
)
def test_a_record_of_another_schema(record: Any, said: str, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(json.dumps(record))
    with pytest.raises(DataError, match=r"other\.json: a record of another schema") as caught:
        read_records([path])
    assert said in str(caught.value)
    with pytest.raises(DataError):
        write_report([path], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_no_record(tmp_path: Path, capfd: Capture) -> None:
    text = tmp_path / "text.json"
    text.write_text("no JSON")
    for path in (text, tmp_path / "missing.json"):
        outcome = run(capfd, "report", path, "-o", tmp_path / "page.html")
        assert f"{path.name}: no record" in outcome.only_error


def test_the_command(tmp_path: Path, capfd: Capture) -> None:
    page = tmp_path / "page.html"
    given = ("report", H100 / "frame.json", "-o", page, "--no-picture")
    assert run(capfd, *given).out == f"{page}: 1 record\n"
    assert "page.html" in run(capfd, *given).only_error
    assert run(capfd, *given, "--overwrite").code == 0


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason=f"none of {', '.join(NAMES)} is there")
def test_in_a_browser(tmp_path: Path, profile: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="for a page in a browser")
    path = tmp_path / "page.html"
    write_report([H100 / "race.json", H100 / "frame.json", profile], path)
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        page = browser.new_page(viewport={"width": 390, "height": 844})
        told: list[str] = []
        asked: list[str] = []
        page.on("console", lambda said: said.type == "error" and told.append(said.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        widths = page.evaluate("() => [...document.images].map(image => image.naturalWidth)")
        assert len(widths) == 7
        assert all(widths)
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
        page.fill("#divider", "80")
        clipped = "() => getComputedStyle(document.querySelector('#pair img + img')).clipPath"
        assert "80%" in page.evaluate(clipped)
        assert told == []
        assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
        browser.close()
