"""README.md and the pages of docs/: their Python runs, that for a GPU on one in host memory; their
commands exist, their tables are the records'."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import click
import pytest
from fake_tensorrt import write_plans

from mirnet_edge.cli import cli
from mirnet_edge.engines.card import kind_path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MOST_BYTES = 9000
"""Of README.md: what a newcomer reads."""
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
INCLUDED = "--8<--"
"""Of a block that is a file of examples/, which test_examples.py runs."""


def blocks(language: str) -> list[str]:
    """Of all pages, each once."""
    texts = [path.read_text(encoding="utf-8") for path in PAGES]
    found = re.findall(rf"```{language}\n(.*?)```", "\n".join(texts), re.DOTALL)
    return [block for block in dict.fromkeys(found) if INCLUDED not in block]


def commands() -> list[list[str]]:
    lines = "\n".join(blocks("console")).replace("\\\n", "").splitlines()
    spoken = [line[2:] for line in lines if line.startswith("$ mirnet-edge")]
    return [shlex.split(line, comments=True)[1:] for line in dict.fromkeys(spoken)]


ENGINE_FILE = r'"([\w-]+\.engine)"'
"""In code that needs a GPU."""


def python(on_gpu: bool) -> list[str]:
    return [code for code in blocks("python") if bool(re.search(ENGINE_FILE, code)) == on_gpu]


@pytest.mark.parametrize("code", python(on_gpu=False))
def test_python_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(code, {"__name__": "__main__"})


@pytest.mark.parametrize("code", python(on_gpu=True))
@pytest.mark.usefixtures("trt")
def test_python_for_a_gpu_runs(
    code: str, pooled_network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = write_plans(tmp_path, pooled_network, (128, 128))
    for name in re.findall(ENGINE_FILE, code):
        for kind in ("plain", "apply", "gather"):
            source, target = kind_path(made, kind), kind_path(tmp_path / name, kind)
            for suffix in ("", ".json"):
                shutil.copy(f"{source}{suffix}", f"{target}{suffix}")
    monkeypatch.chdir(tmp_path)
    exec(code.replace('device="cuda"', 'device="cpu"'), {})


def test_there_is_python_of_both_kinds() -> None:
    assert len(python(on_gpu=False)) >= 8
    assert len(python(on_gpu=True)) >= 4


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_and_their_options_exist(words: list[str]) -> None:
    command = cli.commands[words[0]]
    known = {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
    used = {word for word in words[1:] if word.startswith("-")}
    assert used <= known
    required = [p for p in command.params if p.required and isinstance(p, click.Option)]
    assert all(used & set(p.opts) for p in required)


def test_there_are_commands() -> None:
    assert {words[0] for words in commands()} >= {"restore", "evaluate", "doctor", "export"}


def test_readme_is_what_a_newcomer_reads() -> None:
    assert len(README.encode()) <= MOST_BYTES
    for wanted in ("make demo", "make test", "pip install", "Apache-2.0", "docs/quickstart.md"):
        assert wanted in README


def test_files_it_names_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
