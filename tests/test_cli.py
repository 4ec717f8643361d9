"""The command line as a whole: help, versions, wrong usage."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from command_line import COMMAND, ENVIRONMENT, Outcome, run

import mirnet_edge
from mirnet_edge.cli import cli


@pytest.mark.parametrize("name", ["", *sorted(cli.commands)])
def test_every_command_has_help(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = [name] if name else []
    outcome = run(capfd, *arguments, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith(f"Usage: mirnet-edge {name}".rstrip())
    assert run(capfd, *arguments, "-h").out == outcome.out


def test_help_lists_every_command_with_a_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    text = run(capfd, "--help").out
    for name, command in cli.commands.items():
        sentence = command.get_short_help_str(1000)
        assert f"\n  {name} " in text
        assert sentence[:20] in text, f"{name}: {sentence}"


def test_version(capfd: pytest.CaptureFixture[str]) -> None:
    outcome = run(capfd, "--version")
    assert outcome == Outcome(0, f"mirnet-edge, version {mirnet_edge.__version__}\n", "")


def test_module_runs_as_a_program(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "--version"], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert mirnet_edge.__version__ in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Usage: mirnet-edge"),
        (["restroe"], "restroe"),
        (["models", "--yaml"], "--yaml"),
        (["restore"], "IMAGE|VIDEO|FOLDER|GLOB"),
        (["restore", "a.png", "--tile", "wide"], "512 or 384x640"),
        (["restore", "a.png", "--tile", "32x"], "512 or 384x640"),
        (["restore", "a.png", "--halo", "-1"], "--halo"),
        (["restore", "a.png", "--memory-limit", "2G"], "2GiB, 512MiB, 2GB or 536870912"),
        (["bench", "a.onnx", "--frame", "1920"], "1920x1080 (width x height)"),
        (["bench", "a.onnx", "--frame", "0x8"], "1920x1080 (width x height)"),
        (["bench", "a.onnx", "--halo", "16"], "--halo needs --frame"),
        (["bench", "a.onnx", "--memory-limit", "1GiB"], "--memory-limit needs --frame"),
        (["bench", "a.onnx", "--tile", "none"], "--tile none needs --frame"),
        (["bench", "a.onnx", "--runs", "5", "--frame", "8x8"], "give --frames"),
        (["bench", "a.onnx", "--frame", "8x8", "--frames", "1001"], "--frames"),
        (["bench", "--json", "a.onnx"], "MODEL goes before --json"),
        (["restore", "a.png", "--threads", "0"], "--threads"),
        (["export", "model.pth"], "ONNX"),
        (["export", "model.pth", "model.onnx", "--opset", "9"], "'17', '18'"),
        (["demo", "--sigma", "101"], "--sigma"),
        (["train", "--data", "no-such-folder", "-o", "out"], "no-such-folder"),
        (["train", "-o", "out"], "--data"),
        (["train", "--data", ".", "-o", "out", "--preset", "edge-xl"], "edge-s"),
        (["evaluate", "edge-s-denoise"], "--data"),
        (["info"], "FILE"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_exit_code_2(
    arguments: list[str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = run(capfd, *arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert said in outcome.err
    assert "Traceback" not in outcome.err
