"""The oldest versions that setup.py allows, and whether the package works with them.

``python tests/bounds.py FOLDER`` makes an environment there with the lower bound of each
requirement (their own requirements are the newest), and runs the tests of what stands on them.
TensorRT and what only runs beside a GPU is left out.
The oldest PyTorch comes without CUDA, from PyTorch's own index; where that cannot be reached,
``--instead torch==2.13.0`` takes another, and the end says that its bound was not tried.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STANDS_ON = (
    *("test_cli*.py", "test_doctor.py", "test_public.py", "test_house.py", "test_bundled.py"),
    *("test_engines*.py", "test_restore.py", "test_workstation_export.py"),
    *("test_frames_*.py", "test_model*.py", "test_graph_*.py"),
    *("test_quantize.py", "test_quantize_qdq.py", "test_quantize_ranges.py"),
    *("test_quantize_recorded.py", "test_stream*.py", "test_live.py", "test_live_cli.py"),
    *("test_live_server.py", "test_workstation_train.py", "test_workstation_evaluate.py"),
    *("test_workstation_state.py", "test_workstation_degradations.py", "test_json_hostile.py"),
)
TOO_SLOW = ("test_graph_operators.py",)
"""It runs the reference of onnx, whose oldest enlarges a picture pixel by pixel, for minutes."""
BESIDE = ("httpx==0.27.0",)
"""What the oldest Starlette's test client is made of; the newest takes httpx2."""
NOT_HERE = ("tensorrt", "pycuda", "cuda-bindings")
"""Need a GPU, or come with its driver."""


def lower_bounds() -> dict[str, str]:
    """The oldest version of each requirement that the tests install, as setup.py writes it."""
    from packaging.markers import default_environment
    from packaging.requirements import Requirement

    given = _setup_arguments()
    extras: dict[str, Sequence[str]] = given["extras_require"]  # type: ignore[assignment]
    core: Sequence[str] = given["install_requires"]  # type: ignore[assignment]
    environment = {**default_environment(), "extra": ""}
    found = {}
    for text in (*core, *extras["test"]):
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate(environment):
            (bound,) = (item.version for item in requirement.specifier if item.operator == ">=")
            found[requirement.name] = bound
    return found


def _setup_arguments() -> dict[str, object]:
    """What setup.py says, without doing it."""
    import setuptools

    kept: dict[str, object] = {}
    real, setuptools.setup = setuptools.setup, lambda **given: kept.update(given)
    try:
        source = (ROOT / "setup.py").read_text("utf-8")
        exec(compile(source, ROOT / "setup.py", "exec"), {"__file__": str(ROOT / "setup.py")})
    finally:
        setuptools.setup = real
    return kept


def install(folder: Path, instead: Sequence[str], uv: str) -> Path:
    """Make the environment; its Python."""
    python = folder / "bin" / "python"
    subprocess.run(
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, folder], check=True
    )
    command = [uv, "pip", "install", "--quiet", "--python", python]
    with tempfile.TemporaryDirectory() as name:
        override = Path(name, "instead.txt")
        override.write_text("\n".join(instead), "utf-8")
        if instead:
            command += ["--override", override]
        else:
            command += ["--torch-backend", "cpu"]
        lowest = ["--resolution", "lowest-direct", "-r", ROOT / "setup.py", "--extra", "test"]
        subprocess.run([*command, *lowest, *BESIDE], cwd=ROOT, check=True)
    return python


def installed(python: Path, names: Iterable[str]) -> dict[str, str]:
    """Versions in an environment, "" where there is none."""
    code = (
        "import sys\nfrom importlib.metadata import version, PackageNotFoundError\n"
        "for name in sys.argv[1:]:\n"
        "    try: print(name, version(name))\n"
        "    except PackageNotFoundError: print(name)\n"
    )
    done = subprocess.run([python, "-c", code, *names], capture_output=True, text=True, check=True)
    return {
        name: found for name, _, found in (li.partition(" ") for li in done.stdout.splitlines())
    }


def untried(bounds: dict[str, str], found: dict[str, str]) -> list[str]:
    """Say which requirements are not at their bounds."""
    return [
        f"{name}: {found.get(name) or 'none'} in place of {bound}"
        for name, bound in bounds.items()
        if not found.get(name) or _three(found[name]) != _three(bound)
    ]


def _three(version: str) -> tuple[int, ...]:
    """Its first three numbers: 13 is 13.0.0."""
    from packaging.version import Version

    return (*Version(version).release, 0, 0)[:3]


def main() -> int:
    """Install, test, and say what was not tried; the exit code of the tests."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--instead", action="append", default=[], metavar="REQUIREMENT")
    parser.add_argument("--uv", default=str(Path(sys.executable).with_name("uv")))
    parser.add_argument("--keep", action="store_true", help="the environment that is there")
    parser.add_argument("--tests", nargs="+", default=STANDS_ON, metavar="PATTERN")
    options = parser.parse_args()
    folder = options.folder.resolve()
    python = folder / "bin" / "python"
    if not (options.keep and python.exists()):
        python = install(folder, options.instead, options.uv)
    bounds = lower_bounds()
    missing = untried(bounds, installed(python, bounds))
    paths = sorted({path for text in options.tests for path in (ROOT / "tests").glob(text)})
    paths = [path for path in paths if path.name not in TOO_SLOW]
    command = [
        python,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-W",
        "default",
        "-m",
        "not slow",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *paths], cwd=ROOT, env=environment)
    for line in missing:
        print(f"bound not tried: {line}")
    print(f"{len(bounds) - len(missing)} of {len(bounds)} lower bounds; not here: {NOT_HERE}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
