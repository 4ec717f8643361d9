"""The package seen from outside: its public names, what importing it costs, and which way its
imports run."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, get_origin

import numpy as np
import pytest
from conftest import TINY

import mirnet_edge as me
from mirnet_edge._imports import EXTRA_OF_PACKAGE

PACKAGE = Path(me.__file__).parent
WORKSTATION = {
    *("model.layers", "model.mirnet", "model.mirnet_v2", "model.create", "model.checkpoints"),
    *("model.tensor_files", "model.exported"),
    *(f"engines.compiled.{name}" for name in ("forms", "network", "proof", "torch_device")),
    *("engines.torch_engine", "workstation.patches", "workstation.train", "workstation.export"),
    *("workstation.ablation.figures", "workstation.ablation.networks", "workstation.arithmetic"),
    *(f"workstation.{name}" for name in ("captured", "noise_level", "pace", "recovery")),
    *("workstation.processes", "workstation.state", "workstation.stepper"),
    *("workstation.tasks.camera", "workstation.tasks.codec", "workstation.validation"),
    *(f"workstation.explain.{name}" for name in ("explanation", "field", "hooks")),
}
"""The modules that may import torch, and that no other module may import when it is loaded."""
ON_TORCH = {
    *(f"engines.compiled.{name}" for name in ("choice", "engine", "pooling")),
    *(f"workstation.explain.{name}" for name in ("attention_page", "page", "tile_study")),
}
"""Those that load them and no torch by themselves; no other module may load these either."""
PAGE = {"access", "live.server", "serve.app", "serve.asking", "serve.measures", "serve.server"}
"""Those that may import a web framework; the same holds for them."""
LAZY = ("torch", "onnx", "onnxruntime", "tensorrt", "pycuda", "cv2", "numpy")
NOT_ON_A_DEVICE = (
    *("torch", "onnx", "onnxscript", "onnxsim", "skimage", "matplotlib", "safetensors"),
    *("cv2", "av", "starlette", "anyio", "uvicorn", "websockets", "prometheus_client", "ray"),
)
DISTRIBUTION_OF_MODULE = {
    "PIL": "pillow",
    "skimage": "scikit-image",
    "onnx_ir": "onnx-ir",
    "cv2": "opencv-python-headless",
    "cuda": "cuda-bindings",
    "pillow_jxl": "pillow-jxl-plugin",
    "prometheus_client": "prometheus-client",
}
"""Where the name differs."""


def python(code: str, *arguments: object, without: tuple[str, ...] = ()) -> str:
    """What Python code prints in a fresh process where the modules ``without`` are not there."""
    blocked = f"import sys\nfor name in {without}: sys.modules[name] = None\n"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", blocked + code, *map(str, arguments)],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.strip()


# Names


def test_public_list_is_sorted_and_is_what_dir_offers() -> None:
    assert me.__all__ == sorted(set(me.__all__))
    offered = python("import mirnet_edge as me; print(*dir(me))").split()
    public = {name for name in offered if not name.startswith("_")} | {"__version__"}
    assert sorted(public) == me.__all__


@pytest.mark.parametrize("name", [name for name in me.__all__ if name != "__version__"])
def test_public_name_is_there_and_described(name: str) -> None:
    value = getattr(me, name)
    if get_origin(value) is Literal:  # an alias has neither name nor docstring
        return
    assert value.__name__ == name
    assert value.__module__ == f"mirnet_edge.{me._MODULE_OF_NAME[name]}"
    sentence = (value.__doc__ or "").partition("\n")[0]
    assert not sentence.startswith(f"{name}("), "the docstring that dataclass made up"
    assert len(sentence) > 10


def test_version_is_one_of_pep_440() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc|\.dev)\d+)?", me.__version__)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"'mirnet_edge' has no attribute 'restoer'"):
        _ = me.restoer


def test_no_public_name_is_a_module() -> None:
    modules = {name.partition(".")[0] for name in _modules()}
    assert modules.isdisjoint(me.__all__)


# What importing costs


def test_importing_is_quick_and_loads_nothing_large() -> None:
    code = f"""
import time
start = time.perf_counter()
import mirnet_edge
print(time.perf_counter() - start, *(name for name in {LAZY} if name in sys.modules))
"""
    found = [python(code).split() for _ in range(5)]
    assert [loaded for _, *loaded in found] == [[]] * 5
    seconds = min(float(time) for time, *_ in found)
    assert seconds <= 0.2


def test_listing_names_and_models_loads_nothing_large() -> None:
    code = f"""
import mirnet_edge as me
dir(me), me.bundled_models(), me.MirnetEdgeError, me.MIRNetV2Config()
print(*(name for name in {LAZY} if name in sys.modules))
"""
    assert python(code) == ""


def test_the_command_line_starts_with_nothing_large_and_without_the_workstation() -> None:
    loaded = "print(*(name for name in {} if name in sys.modules))"
    first, all_commands = "from mirnet_edge.cli import cli", "dict(cli.commands.items())"
    large, workstation = loaded.format((*LAZY, "rich", "PIL")), loaded.format(NOT_ON_A_DEVICE)
    assert python("\n".join([first, large, all_commands, workstation])) == ""


# The direction of imports


@dataclass(frozen=True)
class Import:
    """One import of one module: where, and whether it runs when the importing module is loaded."""

    importer: str
    module: str
    line: int
    at_load: bool

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.module}"

    @property
    def top_level(self) -> str:
        return self.module.partition(".")[0]


@cache  # asked for at every import, and reads a tree of folders
def _modules() -> dict[str, Path]:
    """Every module of the package by its name below the package, "" for the package itself."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        .removesuffix("__init__")
        .rstrip("."): path
        for path in sorted(PACKAGE.rglob("*.py"))
    }


@cache
def imports() -> tuple[Import, ...]:
    """Every import in the package, but those for type checkers alone."""
    found: list[Import] = []
    for name, path in _modules().items():
        tree = ast.parse(path.read_text("utf-8"))
        found += _imports_below(tree, name, at_load=True)
    return tuple(found)


def _imports_below(node: ast.AST, importer: str, at_load: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        for module in _imported(child):
            yield Import(importer, module, child.lineno, at_load)
        function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from _imports_below(child, importer, at_load and not function)


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports of the package are written out"
        module = node.module or ""
        submodules = [f"{module}.{alias.name}" for alias in node.names]
        known = [name for name in submodules if name.removeprefix("mirnet_edge.") in _modules()]
        return [module, *known]
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "require" and node.args:
        package = node.args[0]
        return [package.value] if isinstance(package, ast.Constant) else []
    return []


def test_the_walk_sees_imports() -> None:
    seen = {(found.importer, found.module, found.at_load) for found in imports()}
    assert ("workstation.train", "torch", True) in seen
    assert ("engines.onnx_engine", "onnxruntime", False) in seen
    assert ("metrics", "skimage.metrics", False) in seen
    assert ("engine_choice", "mirnet_edge.engines.onnx_engine", False) in seen
    assert ("cli", "mirnet_edge.cli.console", True) in seen
    assert ("workstation.tasks.denoise", "torch", True) not in seen, (
        "that import is for type checkers"
    )
    assert set(_modules()) >= WORKSTATION


def test_torch_is_loaded_by_the_workstation_alone() -> None:
    loads = [found for found in imports() if found.at_load and found.top_level == "torch"]
    assert {found.importer for found in loads} == WORKSTATION, [str(found) for found in loads]


def test_the_device_side_loads_nothing_of_the_workstation() -> None:
    apart = WORKSTATION | ON_TORCH | PAGE
    forbidden = {f"mirnet_edge.{name}" for name in apart}
    wrong = [
        str(found)
        for found in imports()
        if found.at_load and found.importer not in apart and found.module in forbidden
    ]
    assert not wrong


def test_the_library_does_not_know_its_command_line() -> None:
    wrong = [
        str(found)
        for found in imports()
        if found.module.startswith("mirnet_edge.cli")
        and not found.importer.startswith("cli")
        and found.importer != "__main__"
    ]
    assert not wrong


def test_every_device_module_loads_where_there_is_no_torch() -> None:
    apart = {*WORKSTATION, *ON_TORCH, *PAGE, "", "__main__"}
    device = [name for name in _modules() if name not in apart]
    known = {"restore", "tiling.geometry", "engines.protocol", "model.config", "cli.restore"}
    assert known <= set(device)
    code = f"import importlib\nfor n in {device}: importlib.import_module('mirnet_edge.' + n)"
    assert python(code, without=NOT_ON_A_DEVICE) == ""


# Requirements


IMPORTED = {"GRAPH", "TRAIN", "OPENVINO", "VIDEO", "LIVE", "PHOTOS", "SERVE", "RAY"}


@cache
def requirements() -> dict[str, set[str]]:
    """Distributions by the list of setup.py that names them."""
    tree = ast.parse((PACKAGE.parent / "setup.py").read_text("utf-8"))
    found = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.List):
            lines = ast.literal_eval(node.value)
            found[ast.unparse(node.targets[0])] = {
                re.split(r"[^\w.-]", line)[0].lower() for line in lines
            }
    return found


def distribution(module: str) -> str:
    return DISTRIBUTION_OF_MODULE.get(module, module)


def third_party() -> list[Import]:
    known = {*sys.stdlib_module_names, "mirnet_edge"}
    return [found for found in imports() if found.top_level not in known]


def test_every_imported_package_is_declared() -> None:
    declared = set.union(*(requirements()[name] for name in {"CORE", "TENSORRT", *IMPORTED}))
    undeclared = [
        str(found) for found in third_party() if distribution(found.top_level) not in declared
    ]
    assert third_party()
    assert not undeclared


def test_the_device_side_loads_core_requirements_alone() -> None:
    wrong = [
        str(found)
        for found in third_party()
        if found.at_load
        and found.importer not in WORKSTATION | PAGE
        and distribution(found.top_level) not in requirements()["CORE"]
    ]
    assert not wrong


def test_every_declared_package_is_imported() -> None:
    """A requirement that nothing needs is one more download, and one more thing to break."""
    imported = {distribution(found.top_level) for found in third_party()}
    assert requirements()["CORE"] <= imported
    for extra in IMPORTED:
        assert requirements()[extra] <= imported


def test_errors_name_the_extra_that_has_the_package() -> None:
    for package, extra in EXTRA_OF_PACKAGE.items():
        assert distribution(package) in requirements()[extra.upper()], package
    named = {found.top_level for found in third_party()}
    core = requirements()["CORE"]
    optional = {package for package in named if distribution(package) not in core}
    assert optional <= set(EXTRA_OF_PACKAGE), "require() could not say what to install"


# A device: no torch, no onnx


def test_restorer_runs_where_there_is_no_torch(tiny_onnx: Path, tmp_path: Path) -> None:
    code = """
import numpy as np, mirnet_edge as me
with me.Restorer(sys.argv[1]) as restore:
    np.save(sys.argv[3], restore(np.load(sys.argv[2])))
with me.Restorer("edge-s-denoise") as restore:
    print(restore(np.load(sys.argv[2])).shape)
"""
    pixels = np.random.Generator(np.random.PCG64(3)).integers(0, 256, (21, 34, 3), np.uint8)
    before, after = tmp_path / "before.npy", tmp_path / "after.npy"
    np.save(before, pixels)
    said = python(code, tiny_onnx, before, after, without=NOT_ON_A_DEVICE)
    assert said == str(pixels.shape)
    with me.Restorer(tiny_onnx) as restore:
        assert np.array_equal(np.load(after), restore(pixels))


NEED_TORCH = (
    "me.load_model(sys.argv[1])",
    "me.create_model('edge-s')",
    "me.Restorer(sys.argv[1])",
    "me.open_engine(sys.argv[1])",
    "me.export_onnx",
    "me.Trainer",
)


@pytest.fixture(scope="module")
def said_without_torch(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each of `NEED_TORCH` says, all in one process, which takes a second to start."""
    checkpoint = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    me.save_model(me.create_model(TINY["mirnet-v2"], seed=0), checkpoint)
    program = f"""
import mirnet_edge as me
for code in {NEED_TORCH}:
    try:
        eval(code)
        print("no error")
    except Exception as error:
        print(type(error).__name__, error)
"""
    said = python(program, checkpoint, without=NOT_ON_A_DEVICE).splitlines()
    return dict(zip(NEED_TORCH, said, strict=True))


@pytest.mark.parametrize("code", NEED_TORCH)
def test_without_torch_the_error_names_the_extra(
    code: str, said_without_torch: dict[str, str]
) -> None:
    said = said_without_torch[code]
    assert said.startswith("MissingDependencyError"), said
    assert "'torch'" in said
    assert 'pip install "mirnet-edge[train]"' in said


def test_ssim_without_scikit_image_names_the_extra() -> None:
    program = """
import numpy as np
from mirnet_edge import MissingDependencyError
from mirnet_edge.metrics import psnr, ssim
image = np.zeros((16, 16, 3), np.float32)
print(psnr(image, image + 0.1))
try:
    ssim(image, image)
except MissingDependencyError as error:
    print(error)
"""
    figure, error = python(program, without=NOT_ON_A_DEVICE).splitlines()
    assert float(figure) == pytest.approx(20, abs=1e-4)
    assert 'pip install "mirnet-edge[train]"' in error


def test_every_module_says_what_it_is() -> None:
    for name, path in _modules().items():
        module = ast.parse(path.read_text("utf-8"))
        assert ast.get_docstring(module), f"{name or 'mirnet_edge'} has no docstring"
