"""Mutants: one thing wrong at a time in the modules that must not be wrong, and whether the tests
that are there for them see it.

``python tests/mutants.py --count 200`` draws so many by a seed, as many of each module, after
those that lived once (`mutants_known.NAMED`). Of each module's tests those run that reach the line,
then all of them. A survivor wants a test, or a reason in `mutants_known.REASONS`. What was tried is
kept in a record; a run goes on where the last one ended.

Each mutant is run in a fork of this process, which has imported the libraries already: that takes
a second where a new process takes ten.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from mutants_known import NAMED, REASONS, TESTS

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("mirnet_edge", "kernels", "calibration", "gstreamer", "tests", "benchmarks")
HEAVY = ("numpy", "torch", "onnx", "onnxruntime", "onnx_ir", "PIL.Image", "click", "rich.console",
         "psutil", "cv2", "av", "safetensors.torch", "pytest")  # fmt: skip
LEAST_LIMIT_S = 20.0
SLOWER = 6
"""A run is given so many times what its tests took without a mutant."""
CAUGHT, LIVED, ENDLESS = "caught", "lived", "endless"
Change = Callable[[], None]

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt},
    **{ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is},
    **{ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And},
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult},
}
TWINS = {"any": "all", "min": "max", "ceil": "floor", "up": "down", "Exception": "BaseException"}
TWINS |= {twin: name for name, twin in TWINS.items()}


@dataclass(frozen=True)
class Mutant:
    """A module with one thing wrong: which line, what is said of it, and the whole source."""

    module: str
    line: int
    said: str
    source: str


# What can be wrong


def mutations(tree: ast.AST) -> Iterator[tuple[ast.AST, Change]]:
    """Nodes of a tree that can be changed in place, each with its change. Messages of errors,
    annotations and decorators stay."""
    for node in _executed(tree):
        yield from ((node, change) for change in _changes(node))


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_comment"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, (ast.Raise, ast.JoinedStr, ast.Assert)):
                continue
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            if isinstance(child, ast.AST):
                yield child
                yield from _executed(child)


def _changes(node: ast.AST) -> Iterator[Change]:
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        yield lambda: node.ops.__setitem__(0, _swapped(node.ops[0]))
    elif isinstance(node, (ast.BoolOp, ast.BinOp)) and type(node.op) in SWAPS:
        yield lambda: setattr(node, "op", _swapped(node.op))
        if isinstance(node, ast.BoolOp):
            for index in range(len(node.values)):
                yield lambda index=index: node.values.pop(index) and None  # type: ignore[misc]
    elif isinstance(node, (ast.If, ast.IfExp)):
        yield lambda: setattr(node, "test", ast.UnaryOp(ast.Not(), node.test))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield lambda: setattr(node, "operand", ast.UnaryOp(ast.Not(), node.operand))
    elif isinstance(node, ast.Constant) and type(node.value) in (int, bool):
        yield lambda: setattr(node, "value", _other(node.value))
    elif isinstance(node, ast.Return) and node.value is not None:
        yield lambda: setattr(node, "value", ast.Constant(None))
    elif isinstance(node, (ast.Name, ast.Attribute)):
        field = "id" if isinstance(node, ast.Name) else "attr"
        if (twin := TWINS.get(getattr(node, field))) is not None:
            yield lambda: setattr(node, field, twin)
    elif _is_effect(node):
        yield lambda: _empty(node)


def _swapped(operator: ast.AST) -> Any:
    return SWAPS[type(operator)]()


def _other(value: object) -> object:
    return not value if isinstance(value, bool) else value + 1  # type: ignore[operator]


def _is_effect(node: ast.AST) -> bool:
    """Whether it is a statement that can be left out without an unbound name."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Call)
    targets = node.targets if isinstance(node, ast.Assign) else []
    kept = (ast.Attribute, ast.Subscript)
    return isinstance(node, ast.AugAssign) or any(isinstance(target, kept) for target in targets)


def _empty(node: ast.AST) -> None:
    """Make a statement one that does nothing."""
    for name in node._fields:
        delattr(node, name)
    node.__class__, node.value = ast.Expr, ast.Constant(...)  # type: ignore[attr-defined]


def mutant_of(module: str, source: str, number: int) -> Mutant:
    """The mutant of this number."""
    tree = ast.parse(source)
    node, change = list(mutations(tree))[number]
    line = node.lineno  # type: ignore[attr-defined]
    where = _function_at(tree, line)
    shown = _statement_at(tree, line, node)
    before = ast.unparse(shown).partition("\n")[0]
    change()
    ast.fix_missing_locations(tree)
    after = ast.unparse(shown).partition("\n")[0]
    return Mutant(module, line, f"{where}: {before} -> {after}", ast.unparse(tree))


def _function_at(tree: ast.AST, line: int) -> str:
    inner = [
        node
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        and node.lineno <= line <= (node.end_lineno or 0)
    ]
    return ".".join(node.name for node in sorted(inner, key=lambda node: node.lineno)) or "module"


def _statement_at(tree: ast.AST, line: int, node: ast.AST) -> ast.AST:
    """The smallest statement around a node, of one line if it may be."""
    around = [
        part
        for part in ast.walk(tree)
        if isinstance(part, ast.stmt) and any(below is node for below in ast.walk(part))
    ]
    return min(around, key=lambda part: (part.end_lineno or 0) - part.lineno, default=node)


def named_mutants() -> list[Mutant]:
    """Those that lived once."""
    found = []
    for module, name, old, new in NAMED:
        source = (ROOT / "mirnet_edge" / module).read_text("utf-8")
        if source.count(old) != 1:
            raise LookupError(f"{module}: {name}: {old!r} is there {source.count(old)} times")
        line = source[: source.index(old)].count("\n") + 1
        found.append(Mutant(module, line, f"named: {name}", source.replace(old, new)))
    return found


def drawn_mutants(modules: Iterable[str], count: int, seed: int) -> Iterator[Mutant]:
    """So many in all, as many of each module as of the others, or all that it has."""
    chosen = list(modules)
    for index, module in enumerate(chosen):
        source = (ROOT / "mirnet_edge" / module).read_text("utf-8")
        share = (count * (index + 1)) // len(chosen) - (count * index) // len(chosen)
        total = sum(1 for _ in mutations(ast.parse(source)))
        draw = random.Random(f"{seed} {module}")
        for number in sorted(draw.sample(range(total), min(share, total))):
            yield mutant_of(module, source, number)


# Running tests


class Workshop:
    """A copy of the project in a folder, in which one module at a time is made wrong."""

    def __init__(self, folder: Path, root: Path = ROOT) -> None:
        self.folder = folder
        for name in COPIED:
            if (root / name).exists():
                ignored = shutil.ignore_patterns("__pycache__", "results")
                shutil.copytree(root / name, folder / name, ignore=ignored)
        for name in ("pyproject.toml", "setup.py", "README.md"):
            if (root / name).exists():
                shutil.copy(root / name, folder)
        compileall.compile_dir(folder / "mirnet_edge", quiet=2)
        self._module = ""
        self._times: dict[str, float] = {}
        self._reached: dict[str, list[str]] = {}

    def enter(self, module: str, tests: list[str]) -> bool:
        """Run the tests of a module as it is, to learn which of them reach which line; whether they
        pass."""
        self._module, self._files = module, [f"tests/{name}" for name in tests]
        watch = _Watch(self.folder / "mirnet_edge" / module, self.folder / "watched.json")
        if self._run(self._files, 600.0, watch) != LIVED:
            return False
        told = json.loads((self.folder / "watched.json").read_text("utf-8"))
        self._times, self._reached = told["times"], told["lines"]
        return True

    def verdict(self, mutant: Mutant) -> str:
        """Whether the tests see a mutant."""
        path = self.folder / "mirnet_edge" / mutant.module
        whole = path.read_text("utf-8")
        shutil.rmtree(path.parent / "__pycache__", ignore_errors=True)
        try:
            path.write_text(mutant.source, "utf-8")
            near = self._reached.get(str(mutant.line), [])
            for tests in (near, self._files):
                names = [name for name in tests if name]
                if "" in tests or not names:  # run at import
                    names = self._files
                taken_s = sum(self._times.get(name, 0.0) for name in names)
                if names is self._files:
                    taken_s = sum(self._times.values())
                found = self._run(names, max(LEAST_LIMIT_S, SLOWER * taken_s), None)
                if found != LIVED or names is self._files:
                    return found
            return LIVED
        finally:
            path.write_text(whole, "utf-8")

    def _run(self, names: list[str], limit_s: float, watch: _Watch | None) -> str:
        process = os.fork()
        if process == 0:
            code = 70
            try:
                code = self._run_here(names, watch)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        ends = time.monotonic() + limit_s
        while time.monotonic() < ends:
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                return CAUGHT if os.waitstatus_to_exitcode(status) else LIVED
            time.sleep(0.02)
        os.killpg(process, signal.SIGKILL)
        os.waitpid(process, 0)
        return ENDLESS

    def _run_here(self, names: list[str], watch: _Watch | None) -> int:
        """In the forked process."""
        os.setsid()
        log = os.open(self.folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(log, stream)
        os.chdir(self.folder)
        places = [str(self.folder), str(self.folder / "tests")]
        sys.path[:] = [*places, *(place for place in sys.path if place != str(ROOT / "tests"))]
        os.environ["PYTHONPATH"] = os.pathsep.join(places)
        sys.dont_write_bytecode = watch is None
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        import pytest

        options = ["-x", "-q", "--no-header", "--tb=short", "-p", "no:cacheprovider",
                   "-p", "no:randomly", "--basetemp", str(self.folder / "pytest")]  # fmt: skip
        plugins = [] if watch is None else [watch]
        if watch is not None:
            watch.start()
        code = int(pytest.main([*options, *names], plugins=plugins))
        if watch is not None:
            watch.write()
        return code


class _Watch:
    """A plugin of pytest: how long each test takes, and which lines of a module it reaches."""

    def __init__(self, module: Path, told: Path) -> None:
        self._module, self._told = module, told
        self._times: dict[str, float] = {}

    def start(self) -> None:
        import coverage

        self._coverage = coverage.Coverage(
            data_file=None, include=[str(self._module)], config_file=False
        )
        self._coverage.start()

    def pytest_runtest_setup(self, item: Any) -> None:
        self._coverage.switch_context(item.nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        taken = self._times.get(report.nodeid, 0.0) + report.duration
        self._times[report.nodeid] = taken

    def write(self) -> None:
        self._coverage.stop()
        data = self._coverage.get_data()
        lines = data.contexts_by_lineno(str(self._module))
        self._told.write_text(json.dumps({"times": self._times, "lines": lines}), "utf-8")


# The command


def main() -> int:
    """List survivors without a reason; 1 where there are any."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="drawn in all, beside the named")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=1e9, help="after which to stop")
    parser.add_argument("--record", type=Path, default=ROOT / "build" / "mutants.json")
    parser.add_argument("modules", nargs="*", default=list(TESTS))
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}
    ends = time.monotonic() + 60 * options.minutes
    record = json.loads(options.record.read_text("utf-8")) if options.record.exists() else {}
    options.record.parent.mkdir(parents=True, exist_ok=True)
    mutants = [*named_mutants(), *drawn_mutants(options.modules, options.count, options.seed)]
    mutants = [mutant for mutant in mutants if mutant.module in options.modules]
    left = [mutant for mutant in mutants if key_of(mutant) not in record]
    with tempfile.TemporaryDirectory() as folder:
        if left:
            for name in HEAVY:
                import_module(name)
            workshop = Workshop(Path(folder))
        for module in dict.fromkeys(mutant.module for mutant in left):
            if time.monotonic() > ends:
                break
            if not workshop.enter(module, TESTS[module].split()):
                print(f"{module}: its tests fail without any mutant", flush=True)
                print((Path(folder) / "log").read_text("utf-8")[-2000:], flush=True)
                continue
            for mutant in (mutant for mutant in left if mutant.module == module):
                if time.monotonic() > ends:
                    break
                record[key_of(mutant)] = found = workshop.verdict(mutant)
                print(f"{found}: {module}:{mutant.line}: {mutant.said}", flush=True)
                options.record.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    return report(mutants, record)


def report(mutants: list[Mutant], record: dict[str, str]) -> int:
    """Print what became of mutants."""
    found = [(mutant, record.get(key_of(mutant), "not tried")) for mutant in mutants]
    lived = [mutant for mutant, verdict in found if verdict == LIVED]
    without = [mutant for mutant in lived if (mutant.module, mutant.said) not in REASONS]
    print("\nlived without a reason:" if without else "")
    for mutant in without:
        print(f"  {mutant.module}:{mutant.line}: {mutant.said}")
    counts = {verdict: sum(1 for _, each in found if each == verdict) for _, verdict in found}
    print(f"{len(mutants)} mutants: {counts}; {len(without)} lived without a reason")
    return 1 if without else 0


def key_of(mutant: Mutant) -> str:
    """By what the record knows it: a changed module's are tried anew."""
    digest = hashlib.sha256(mutant.source.encode()).hexdigest()[:16]
    return f"{mutant.module} {mutant.said} {digest}"


if __name__ == "__main__":
    sys.exit(main())
