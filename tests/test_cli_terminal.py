"""What files and their names say never steers the terminal that it is printed on."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import onnx
import pytest
from command_line import Outcome, run
from fake_tensorrt import write_plan
from restoring import Restore, save
from restoring import restore as restore

from mirnet_edge import cli
from mirnet_edge.cli.text import shown
from mirnet_edge.engines.card import card_path

ESCAPE = "\x1b]0;owned\x07\x1b[2J"
CLI = Path(cli.__file__).parent


def harmless(outcome: Outcome) -> Outcome:
    text = outcome.out + outcome.err
    assert not [letter for letter in text if shown(letter) != letter], repr(text)
    return outcome


def test_names_of_images(restore: Restore) -> None:
    save(f"a{ESCAPE}.png")
    Path(f"b{ESCAPE}.png").write_bytes(b"no image")
    outcome = harmless(restore(*Path().glob("*.png")))
    assert r"a\x1b]0;owned\x07\x1b[2J.png -> a\x1b]0" in outcome.out
    assert r"b\x1b]0;owned\x07\x1b[2J.png: 8 bytes" in outcome.errors[0]
    assert Path(f"a{ESCAPE}_restored.png").is_file()


def test_metadata_of_graphs(
    tiny_onnx: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    proto = onnx.load(tiny_onnx)
    for item in proto.metadata_props:
        if item.key.endswith((".task", ".preset")):
            item.value = json.dumps(ESCAPE)
    onnx.save(proto, tmp_path / "a.onnx")
    outcome = harmless(run(capfd, "info", tmp_path / "a.onnx"))
    assert r"task               \x1b]0;owned\x07" in outcome.out


def test_cards(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    engine = write_plan(tmp_path, {"notes": (ESCAPE,), "source": ESCAPE})
    stored = json.loads(card_path(engine).read_text("utf-8"))
    for layer in stored["layers"]:
        layer["precision"] = ESCAPE
    stored["device"]["name"] = stored["versions"]["cuda"] = ESCAPE
    card_path(engine).write_text(json.dumps(stored), "utf-8")
    assert r"note: \x1b]0;owned" in harmless(run(capfd, "info", engine)).out
    harmless(run(capfd, "info", engine, "--json"))


@pytest.mark.parametrize(
    "arguments", [[ESCAPE], ["restore", f"--{ESCAPE}"], ["info", ESCAPE], ["restore", ESCAPE]]
)
def test_arguments(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert harmless(run(capfd, *arguments)).code in (1, 2)


def test_what_is_written_out() -> None:
    assert shown("größe\t60 µm\n日本 😀") == "größe\t60 µm\n日本 😀"
    assert shown("a\rb\x00\x7f\x9b") == r"a\rb\x00\x7f\x9b"
    assert shown("gnp.\u202eexe") == r"gnp.\u202eexe"


def test_commands_print_by_say() -> None:
    for path in CLI.glob("*.py"):
        if path.name == "console.py":
            continue
        calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8")))
                 if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]  # fmt: skip
        assert "print" not in {call.func.id for call in calls}, path.name  # type: ignore[attr-defined]
