"""The script that makes mutants: what it changes, that it tells caught from lived, and that what is
known of mutants fits the sources."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from mutants_known import NOT_DRAWN, REASONS, TESTS
from mutants_made import ROOT, drawn_mutants, mutant_of, mutations, named_mutants

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
    named = named_mutants()
    assert len(named) >= 23
    for mutant in named:
        source = (ROOT / "mirnet_edge" / mutant.module).read_text("utf-8")
        assert ast.dump(ast.parse(mutant.source)) != ast.dump(ast.parse(source)), mutant.said
        assert mutant.module in TESTS


@pytest.mark.parametrize("module", TESTS)
def test_modules_and_tests_are_there(module: str) -> None:
    assert (ROOT / "mirnet_edge" / module).is_file()
    for name in TESTS[module].split():
        assert (ROOT / "tests" / name).is_file(), name


@pytest.mark.parametrize(("module", "said"), REASONS)
def test_reasons_are_of_lines_that_are_there(module: str, said: str) -> None:
    tree = ast.parse((ROOT / "mirnet_edge" / module).read_text("utf-8"))
    lines = {ast.unparse(n).partition("\n")[0] for n in ast.walk(tree) if isinstance(n, ast.stmt)}
    _, _, change = said.partition(": ")
    assert any(change.startswith(f"{line} -> ") for line in lines), "the line is gone: so may it"
    assert len(REASONS[module, said]) > 10


def test_what_is_changed() -> None:
    count = sum(1 for _ in mutations(ast.parse(SOURCE)))
    found = [mutant_of("x.py", SOURCE, number) for number in range(count)]
    kept = [mutant for mutant in found if mutant is not None]
    said = [mutant.said for mutant in kept]
    assert len({mutant.source for mutant in kept}) >= 12
    for change in (
        "if item >= least and (not item % 2): -> if item > least and (not item % 2):",
        "if item >= least and (not item % 2): -> if item >= least or not item % 2:",
        "if item >= least and (not item % 2): -> if True and (not item % 2):",
        "return item -> return None",
        "items.clear() -> ...",
        "return any(items) -> return all(items)",
    ):
        assert f"first: {change}" in said
    assert not any("none of" in one.partition(" -> ")[2] for one in said), "messages stay"
    assert not any("least: int=4" in one for one in said), "a default is made at import"
    assert all(mutant.lines[0] > 1 for mutant in kept)


def test_a_draw_comes_back_and_takes_as_many_of_each_module() -> None:
    some = ("tiling/even.py", "_typed.py")
    drawn = list(drawn_mutants(some, 3 * len(TESTS), seed=3))
    again = list(drawn_mutants(some, 3 * len(TESTS), seed=3))
    assert [mutant.said for mutant in drawn] == [mutant.said for mutant in again]
    assert Counter(mutant.module for mutant in drawn).keys() == set(some)
    assert {3, 4} >= set(Counter(mutant.module for mutant in drawn).values())
    assert list(drawn_mutants(NOT_DRAWN, 99, seed=3)) == []


PROJECT = {
    "mirnet_edge/__init__.py": "",
    "mirnet_edge/x.py": "def double(value):\n    return 2 * value\n\n\ndef half(value):\n"
    "    while value > 9:\n        value -= 1\n    return value // 2\n\n\n"
    "def never():\n    return 7\n",
    "tests/test_x.py": "from mirnet_edge.x import double, half\n\n\ndef test_double():\n"
    "    assert double(3) == 6\n\n\ndef test_half():\n    assert half(11) > 0\n",
}
JUDGED = """
import sys
from collections import Counter
from pathlib import Path
import mutants, mutants_made, pytest
root = Path(sys.argv[1])
mutants.ROOT = mutants_made.ROOT = root
mutants.TESTS = {"x.py": "test_x.py"}
mutants.LEAST_LIMIT_S = 1.0
sys.path.insert(0, str(root))
path = root / "mirnet_edge" / "x.py"
source = path.read_text()
def mutant(old, new):
    changed, line = source.replace(old, new), source[: source.index(old)].count("\\n") + 1
    return mutants.Mutant("x.py", (line,), new, changed, compile(changed, str(path), "exec"))
tried = [mutant("2 * value", "3 * value"), mutant("// 2", "// 3"), mutant("-= 1", "-= 0"),
         mutant("return 7", "return 8")]
def told(mutant, found):
    print("told:", found, flush=True)
    return True
hunt = mutants.Hunt(tried, told, 5.0)
pytest.main(["-s", "-q", "-p", "no:cacheprovider", f"--rootdir={root}", str(root / "tests")],
            plugins=[hunt])
assert path.read_text() == source
"""


def test_caught_lived_and_endless_are_told_apart(tmp_path: Path) -> None:
    """In a process of its own, as it forks."""
    pytest.importorskip("coverage", reason="an extra of its own")
    for name, text in PROJECT.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    command = [sys.executable, "-c", JUDGED, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    told = [line[6:] for line in done.stdout.splitlines() if line.startswith("told: ")]
    assert told == ["caught", "lived", "endless", "not reached"], done.stdout
