"""The script that makes mutants: what it changes, that it tells caught from lived, and that what is
known of mutants fits the sources."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import mutants
import pytest
from mutants_known import NOT_DRAWN, REASONS, TESTS

SOURCE = '''
def first(items: list[int], least: int = 3) -> int | None:
    """Any docstring."""
    for item in items:
        if item >= least and not item % 2:
            return item
    if not items:
        raise ValueError(f"none of {len(items) + 1}")
    items.clear()
    return any(items)
'''


def test_known_mutants_fit_the_sources() -> None:
    named = mutants.named_mutants()
    assert len(named) >= 23
    for mutant in named:
        source = (mutants.ROOT / "mirnet_edge" / mutant.module).read_text("utf-8")
        assert ast.dump(ast.parse(mutant.source)) != ast.dump(ast.parse(source)), mutant.said
        assert mutant.module in TESTS


@pytest.mark.parametrize("module", TESTS)
def test_modules_and_tests_are_there(module: str) -> None:
    assert (mutants.ROOT / "mirnet_edge" / module).is_file()
    for name in TESTS[module].split():
        assert (mutants.ROOT / "tests" / name).is_file(), name


@pytest.mark.parametrize(("module", "said"), REASONS)
def test_reasons_are_of_lines_that_are_there(module: str, said: str) -> None:
    tree = ast.parse((mutants.ROOT / "mirnet_edge" / module).read_text("utf-8"))
    lines = {ast.unparse(n).partition("\n")[0] for n in ast.walk(tree) if isinstance(n, ast.stmt)}
    _, _, change = said.partition(": ")
    assert any(change.startswith(f"{line} -> ") for line in lines), "the line is gone: so may it"
    assert len(REASONS[module, said]) > 10


def test_what_is_changed() -> None:
    count = sum(1 for _ in mutants.mutations(ast.parse(SOURCE)))
    found = [mutants.mutant_of("x.py", SOURCE, number) for number in range(count)]
    said = [mutant.said for mutant in found]
    assert len({mutant.source for mutant in found}) == count
    for change in (
        "if item >= least and (not item % 2): -> if item > least and (not item % 2):",
        "if item >= least and (not item % 2): -> if item >= least or not item % 2:",
        "if item >= least and (not item % 2): -> if not item % 2:",
        "return item -> return None",
        "items.clear() -> ...",
        "return any(items) -> return all(items)",
    ):
        assert f"first: {change}" in said
    assert not any("none of" in one.partition(" -> ")[2] for one in said), "messages stay"


def test_a_draw_comes_back_and_takes_as_many_of_each_module() -> None:
    drawn = list(mutants.drawn_mutants(("tiling/even.py", "_typed.py"), 6, seed=3))
    assert drawn == list(mutants.drawn_mutants(("tiling/even.py", "_typed.py"), 6, seed=3))
    assert [mutant.module for mutant in drawn] == ["tiling/even.py"] * 3 + ["_typed.py"] * 3
    assert list(mutants.drawn_mutants(NOT_DRAWN, 6, seed=3)) == []


PROJECT = {
    "pyproject.toml": "[tool.pytest.ini_options]\n",
    "mirnet_edge/__init__.py": "",
    "mirnet_edge/x.py": "def double(value):\n    return 2 * value\n\n\ndef half(value):\n"
    "    while value > 9:\n        value -= 1\n    return value // 2\n",
    "tests/test_x.py": "from mirnet_edge.x import double, half\n\n\ndef test_double():\n"
    "    assert double(3) == 6\n\n\ndef test_half():\n    assert half(11) > 0\n",
}
JUDGED = """
import json, sys
from pathlib import Path
import mutants
root, folder = Path(sys.argv[1]), Path(sys.argv[2])
mutants.LEAST_LIMIT_S = 2.0
workshop = mutants.Workshop(folder, root)
assert workshop.enter("x.py", ["test_x.py"])
source = (root / "mirnet_edge" / "x.py").read_text()
def verdict(old, new):
    line = source[: source.index(old)].count("\\n") + 1
    return workshop.verdict(mutants.Mutant("x.py", line, "", source.replace(old, new)))
print(json.dumps([verdict("2 * value", "3 * value"), verdict("// 2", "// 3"),
                  verdict("value -= 1", "value -= 0")]))
assert (folder / "mirnet_edge" / "x.py").read_text() == source
"""


def test_caught_lived_and_endless_are_told_apart(tmp_path: Path) -> None:
    """In a process of its own, as it forks."""
    pytest.importorskip("coverage", reason="an extra of its own")
    root, folder = tmp_path / "root", tmp_path / "copy"
    folder.mkdir()
    for name, text in PROJECT.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, "utf-8")
    command = [sys.executable, "-c", JUDGED, str(root), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=mutants.ROOT / "tests")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == ["caught", "lived", "endless"]
