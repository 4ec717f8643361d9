"""README.md: its Python runs, that for a GPU on one in host memory; its commands exist, its tables
are the records'."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from fake_tensorrt import write_plans

from mirnet_edge.cli import cli
from mirnet_edge.engines.card import kind_path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[list[str]]:
    lines = "\n".join(blocks("console")).splitlines()
    spoken = [line[2:] for line in lines if line.startswith("$ mirnet-edge")]
    return [shlex.split(line, comments=True)[1:] for line in spoken]


ENGINE_FILE = r'"([\w-]+\.engine)"'
"""In code that needs a GPU."""


def python(on_gpu: bool) -> list[str]:
    return [code for code in blocks("python") if bool(re.search(ENGINE_FILE, code)) == on_gpu]


@pytest.mark.parametrize("code", python(on_gpu=False))
def test_python_runs(code: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


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
    assert len(python(on_gpu=False)) >= 4
    assert len(python(on_gpu=True)) >= 3


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


def test_tables_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "tables.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_files_it_names_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
