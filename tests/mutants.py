"""Mutants: one wrong operator or constant at a time in the modules that must not be wrong, and
whether the tests that are there for them see it.

``python tests/mutants.py --count 50`` draws so many by a seed, runs the tests of each module, and
lists the survivors with their lines. A survivor wants a test, or a reason in `EQUIVALENT`.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = {
    "_arguments.py": "test_arguments.py",
    "_caches.py": "test_caches.py",
    "_files.py": "test_files.py test_files_durable.py",
    "_typed.py": "test_json_hostile.py",
    "deadline.py": "test_restore_deadline.py",
    "graph/sealed.py": "test_graph_sealed.py",
    "frames/images.py": "test_frames_images.py test_frames_images_kinds.py "
    "test_frames_images_hostile.py test_frames_images_found.py",
    "tiling/geometry.py": "test_tiling_geometry.py test_restore.py",
    "tiling/choice.py": "test_tiling_choice.py test_tiling_even.py test_restore_refusals.py",
    "pooling/vectors.py": "test_pooling_vectors.py test_pooling_passes.py",
    "pooling/samples.py": "test_pooling_samples.py test_pooling_passes.py",
    "pooling/scene_cut.py": "test_pooling_scene_cut.py test_pooling_passes.py",
    "pooling/passes.py": "test_pooling_passes.py",
    "model/checkpoints.py": "test_model_checkpoints.py test_model_checkpoints_refused.py "
    "test_model_checkpoints_hostile.py",
    "quantize/qdq.py": "test_quantize_qdq.py",
    "stream/transfer.py": "test_stream_closing.py test_stream_async.py test_stream_resume.py "
    "test_stream.py",
    "device/batch_loop.py": "test_device_path.py test_device_in_flight.py",
}
"""Of each module the tests that should see it change; those that are not there are left out."""
EQUIVALENT: dict[tuple[str, str], str] = {}
"""Survivors by module and mutated line, with the reason why no test can tell them apart."""
LIMIT_S = 180.0
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt},
    **{ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is},
    **{ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And},
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult},
}


def mutations(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    """What could be changed: a node, and which field of it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
            yield node, "ops"
        elif isinstance(node, (ast.BoolOp, ast.BinOp)) and type(node.op) in SWAPS:
            if not _is_annotation(node):
                yield node, "op"
        elif isinstance(node, ast.If):
            yield node, "test"
        else:
            number = isinstance(node, ast.Constant) and type(node.value) is int
            if number or (isinstance(node, ast.Return) and node.value is not None):
                yield node, "value"


def _is_annotation(node: ast.BoolOp | ast.BinOp) -> bool:
    return isinstance(node.op, ast.BitOr)


def mutate(node: ast.AST, field: str) -> None:
    """Change it in place."""
    if field == "ops":
        assert isinstance(node, ast.Compare)
        node.ops[0] = SWAPS[type(node.ops[0])]()  # type: ignore[call-overload]
    elif field == "op":
        node.op = SWAPS[type(node.op)]()  # type: ignore[attr-defined]
    elif field == "test":
        node.test = ast.UnaryOp(ast.Not(), node.test)  # type: ignore[attr-defined]
    elif isinstance(node, ast.Constant):
        node.value += 1  # type: ignore[operator]
    else:
        node.value = ast.Constant(None)  # type: ignore[attr-defined]


def survivors(module: str, draw: random.Random, count: int) -> Iterator[str]:
    """Mutants of one module that its tests do not see, each with its line."""
    source = (ROOT / "mirnet_edge" / module).read_text("utf-8")
    tests = [name for name in TESTS[module].split() if (ROOT / "tests" / name).exists()]
    total = len(list(mutations(ast.parse(source))))
    for number in sorted(draw.sample(range(total), min(count, total))):
        tree = ast.parse(source)
        node, field = list(mutations(tree))[number]
        line = node.lineno  # type: ignore[attr-defined]
        before = ast.unparse(node).partition("\n")[0]
        mutate(node, field)
        said = f"{before} -> {ast.unparse(ast.fix_missing_locations(node)).partition(chr(10))[0]}"
        if (module, said) in EQUIVALENT:
            continue
        if not _seen(module, ast.unparse(tree), tests):
            yield f"{module}:{line}: {said}"


def _seen(module: str, source: str, tests: list[str]) -> bool:
    """Whether tests fail, or never end, with a module's source in a copy of the package."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("mirnet_edge", "kernels", "calibration", "tests"):
            ignored = shutil.ignore_patterns("__pycache__", "results")
            shutil.copytree(ROOT / name, Path(folder, name), ignore=ignored)
        Path(folder, "mirnet_edge", module).write_text(source, "utf-8")
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
        try:
            done = subprocess.run(
                [*command, *(f"tests/{name}" for name in tests), "-c", str(ROOT / "pyproject.toml"),
                 f"--rootdir={folder}"],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{folder}/tests"},
                capture_output=True,
                timeout=LIMIT_S,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return True
        return done.returncode != 0


def main() -> int:
    """List survivors; 1 where there are any."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5, help="mutants of each module")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("modules", nargs="*", default=list(TESTS))
    options = parser.parse_args()
    found = 0
    for module in options.modules:
        for survivor in survivors(module, random.Random(options.seed), options.count):
            print(survivor, flush=True)
            found += 1
    print(f"{found} survivors")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
