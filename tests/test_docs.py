"""The site of docs/: it is built without a warning, and what it says of the package is so."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache
from html import unescape
from pathlib import Path

import pytest

import mirnet_edge as me
from mirnet_edge.cli import cli

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS / "hooks"))
from error_texts import ErrorText, error_texts  # noqa: E402


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `make docs` does, with warnings as errors."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@cache
def texts() -> list[ErrorText]:
    """Of the package."""
    return error_texts()


def page(site: Path, name: str) -> str:
    return (site / name).read_text(encoding="utf-8")


def test_every_page_is_built_and_in_the_navigation(site: Path) -> None:
    home = page(site, "index.html")
    pages = {path.relative_to(DOCS).with_suffix(".html").as_posix() for path in DOCS.glob("*.md")}
    for name in pages | {"errors.html", "commands.html"}:
        assert (site / name).is_file(), name
        assert f'href="{name}"' in home, f"{name} is not in the navigation of mkdocs.yml"


def test_the_site_asks_nothing_of_the_network(site: Path) -> None:
    for path in site.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|img|link)\b[^>]*?(?:src|href)=\"(https?:[^\"]+)", path.read_text()
        )
        assert loaded == [], path


def test_the_reference_has_every_public_name(site: Path) -> None:
    reference = page(site, "reference.html")
    module_of = me._MODULE_OF_NAME
    for name in me.__all__:
        if name != "__version__":
            identifiers = (f"mirnet_edge.{name}", f"mirnet_edge.{module_of[name]}.{name}")
            assert any(f'id="{found}"' in reference for found in identifiers), name


def test_tables_are_tables(site: Path) -> None:
    for name in ("models.html", "benchmarks.html", "video.html"):
        assert "<table>" in page(site, name)
        assert "|---|" not in page(site, name)


def test_commands_are_described(site: Path) -> None:
    commands = page(site, "commands.html")
    for name in cli.commands:
        assert f'id="{name}"' in commands
    assert "--skip-existing" in commands


def test_every_error_text_can_be_found(site: Path) -> None:
    shown = re.sub(r"<[^>]+>", "", unescape(page(site, "errors.html")))
    assert len(texts()) > 400
    assert {found.kind for found in texts()} >= {"StreamError", "UsageError", "DeviceMemoryError"}
    shown = re.sub(r"\s+", " ", shown)
    missing = [found.text for found in texts() if found.text not in shown]
    assert missing == []


QUOTED = re.findall(
    r"^### `(.+)`$", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE
)


def test_troubleshooting_quotes_errors() -> None:
    assert len(QUOTED) >= 25


@pytest.mark.parametrize("quoted", QUOTED)
def test_what_troubleshooting_quotes_is_said(quoted: str) -> None:
    assert any(found.says(quoted) for found in texts()), f"nothing raises {quoted!r}"


def test_texts_are_read_off_the_source(tmp_path: Path) -> None:
    (tmp_path / "errors.py").write_text('class OddError(Exception):\n    """An odd one."""\n')
    (tmp_path / "odd.py").write_text(
        'SAID = "said by a constant"\n'
        'raise OddError(f"{width}x{height} "\n"pixels are odd")\n'
        "raise OddError(SAID)\n"
        'raise errors.OddError("one thing" if odd else "another thing")\n'
        'raise OddError(f"{name}: {error}")\n'
        'raise ValueError("not ours")\n'
    )
    wanted = {"…x… pixels are odd", "said by a constant", "one thing", "another thing"}
    assert {found.text for found in error_texts(tmp_path)} == wanted
    assert ErrorText("OddError", "…x… pixels are odd", "odd.py").says("… pixels  are")
    assert not ErrorText("OddError", "…x… pixels are odd", "odd.py").says("pixels are even")


def test_names_that_share_a_description_each_have_it(site: Path) -> None:
    reference = page(site, "reference.html")
    assert "threads, provider" not in reference
    assert reference.count("see <code>open_engine</code>.") == 2


def test_every_place_of_the_package_is_described() -> None:
    inside = (DOCS / "inside.md").read_text(encoding="utf-8")
    folders = [path.parent.name for path in Path(me.__file__).parent.glob("*/__init__.py")]
    assert len(folders) > 15
    assert [name for name in folders if f"`{name}/`" not in inside] == []
    outside = [path.name for path in ROOT.iterdir() if path.is_dir() and path.name in inside]
    assert {"kernels", "examples", "docs", "tests", "benchmarks"} <= set(outside)
