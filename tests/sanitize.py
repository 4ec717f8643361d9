"""Every kernel of ``kernels/`` and its plugins under NVIDIA's compute-sanitizer: ``make sanitize``,
on a GPU.

``python tests/sanitize.py RECORD.json`` runs the kernels' tests on the GPU, odd sizes and awkward
values, once for each tool: memcheck (accesses outside of allocations and off their alignment),
initcheck (reads of what nobody wrote), racecheck (shared memory) and synccheck (barriers). It fails
where a tool finds anything, a test fails, or a kernel was not run.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar

HERE = Path(__file__).parent
TOOLS = ("memcheck", "initcheck", "racecheck", "synccheck")
FOUND = 86  # the exit code where a tool found something
CASES = ("tests/test_kernels_gpu.py", "tests/test_kernels_plugins.py")
LAUNCHES = HERE.parent / "kernels" / "plugins" / "launch.h"
NOT_OF_KERNELS = "not laps_measure and not compiler_at_hand and not damaged_cubin"
TOLD_BYTES = 4000
PLACES = ("/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer")


def find_sanitizer() -> str | None:
    """The program, on the path or where toolkits put it."""
    home = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]
    places = [os.environ.get("PATH", ""), *PLACES, *(f"{each}/bin" for each in home if each)]
    return shutil.which("compute-sanitizer", path=os.pathsep.join(places))


def errors_of(report: str) -> int | None:
    """The number in a tool's summary; None where it wrote none."""
    found = re.findall(r"(?:ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard)", report)
    return sum(int(one or other) for one, other in found) if found else None


def run_tool(sanitizer: str, tool: str, limit_s: float, chosen: str) -> dict[str, Any]:
    """What one tool says of all kernels."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        names = Path(folder, "names.json")
        child = (sys.executable, str(HERE / "sanitize.py"), "--child", str(names), "-k", chosen)
        command = [sanitizer, "--tool", tool, "--error-exitcode", str(FOUND), *child]
        # What one process asks for after an error is an error too: the first is what counts.
        try:
            done = subprocess.run(
                command,
                cwd=HERE.parent,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=limit_s,
            )
            said, code = done.stdout, done.returncode
        except subprocess.TimeoutExpired as error:
            said = (error.stdout or b"").decode(errors="replace")
            code = -1
        kernels = json.loads(names.read_text("utf-8")) if names.exists() else []
    return {
        "tool": tool,
        "errors": errors_of(said),
        "exit_code": code,
        "seconds": round(time.monotonic() - began, 1),
        "tests": (re.findall(r"\d+ (?:passed|failed|skipped)[^\n]*", said) or ["none"])[-1],
        "kernels": kernels,
        "said": said[-TOLD_BYTES:] if code else "",
    }


def missing(kernels: list[str]) -> list[str]:
    """Kernels that were not run, the plugins' among them; `lap` has a test of its own, of time."""
    from test_kernels_nvcc import SYMBOLS

    of_plugins = re.findall(r"\bqueue_(\w+)\(", LAUNCHES.read_text("utf-8"))
    return sorted({*SYMBOLS, *of_plugins} - {*kernels} - {"lap"})


SEVERAL = {
    "shuffles": ["unshuffle", "shuffle_add"],
    "context": ["context_rows", "context_vector"],
    "attention": ["attention_pools", "channel_gate", "dual_gate"],
}
"""Kernels that one function launches, by the beginning of its name."""


def launched_by(function: str) -> list[str]:
    """The plugins' kernels that a function of ``kernels/plugin_queues.cu`` launches; none for
    another function."""
    prefix, _, name = function.partition("host_")
    if prefix or not name:
        return []
    return SEVERAL.get(name.partition("_")[0], [name])


class Library(ctypes.CDLL):
    """Notes what was launched through it."""

    launched: ClassVar[set[str]] = set()

    def __getattr__(self, name: str) -> Any:
        self.launched.update(launched_by(name))
        return super().__getattr__(name)


def child(names: Path, chosen: str) -> int:
    """Run the kernels' tests, and write which kernels were launched."""
    import kernel_cases
    import pytest

    from mirnet_edge.cuda.kernels import Kernel

    launched, launch = Library.launched, Kernel.launch

    def noted(self: Kernel, *arguments: Any, **where: Any) -> None:
        launched.add(self.name)
        launch(self, *arguments, **where)

    Kernel.launch = noted  # type: ignore[method-assign]
    ctypes.CDLL = Library  # type: ignore[misc]
    # A module that is loaded is made ready by the tool, kernel by kernel: once is enough.
    kernel_cases.TileKernels = functools.cache(kernel_cases.TileKernels)  # type: ignore[misc,assignment]
    # Of the plugins' tests those on the GPU: the same run on the host too.
    options = ("-q", "-x", "-p", "no:cacheprovider", "-m", "gpu", "-k", chosen)
    code = pytest.main([*options, *CASES])
    names.write_text(json.dumps(sorted(launched)), "utf-8")
    return int(code)


def main() -> int:
    """Run the tools; 1 where one of them, or a test, found something."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("record", type=Path, nargs="?", help="a JSON file to write")
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=TOOLS)
    parser.add_argument("--limit", type=float, default=900.0, help="seconds a tool may take")
    parser.add_argument("-k", dest="chosen", default=NOT_OF_KERNELS, help="tests, as of pytest")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path[:0] = [str(HERE.parent), str(HERE)]
    if options.child:
        return child(options.child, options.chosen)
    sanitizer = find_sanitizer()
    if sanitizer is None:
        print("no compute-sanitizer here: it comes with the CUDA toolkit; put it on the PATH")
        return 2
    results: list[dict[str, Any]] = []
    failed = False
    for tool in options.tools:
        result = run_tool(sanitizer, tool, options.limit, options.chosen)
        result["not_run"] = missing(result.pop("kernels"))
        wrong = result["exit_code"] or result["errors"] != 0
        failed |= bool(wrong or (result["not_run"] and options.chosen == NOT_OF_KERNELS))
        results.append(result)
        print(json.dumps(result, indent=1), flush=True)
        if options.record:
            options.record.parent.mkdir(parents=True, exist_ok=True)
            options.record.write_text(json.dumps({"tools": results}, indent=1) + "\n", "utf-8")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
