"""Python, and the packages of the core and of the extra ``train``, as setup.py names them."""

from __future__ import annotations

from functools import partial

from mirnet_edge._version import __version__
from mirnet_edge.doctor.checks import Check
from mirnet_edge.doctor.probe import Probe
from mirnet_edge.doctor.system import System

OLDEST_PYTHON = (3, 10)

# Distributions and the modules they bring; onnxruntime is of the core too and has its own probe.
CORE = (
    ("numpy", "numpy"),
    ("Pillow", "PIL"),
    ("click", "click"),
    ("rich", "rich"),
    ("psutil", "psutil"),
)
TRAIN = (
    ("torch", "torch"),
    ("onnx", "onnx"),
    ("onnxscript", "onnxscript"),
    ("onnxsim", "onnxsim"),
    ("safetensors", "safetensors"),
    ("scikit-image", "skimage"),
    ("matplotlib", "matplotlib"),
)


def _python(system: System) -> list[Check]:
    version = ".".join(map(str, system.python_version))
    detail = f"{version} on {system.platform}"
    if system.python_version >= OLDEST_PYTHON:
        return [Check("Python", "ok", detail)]
    oldest = ".".join(map(str, OLDEST_PYTHON))
    detail = f"{detail}; mirnet-edge needs {oldest} or later"
    return [Check("Python", "missing", detail, f"sudo apt install python{oldest}")]


def _mirnet_edge(_: System) -> list[Check]:
    return [Check("mirnet-edge", "ok", __version__)]


def _core_package(distribution: str, module: str, system: System) -> list[Check]:
    version = system.package_version([distribution], module)
    if version is not None:
        return [Check(distribution, "ok", version)]
    return [Check(distribution, "missing", "not installed", f"pip install {distribution}")]


def _onnxruntime(system: System) -> list[Check]:
    try:
        onnxruntime = system.import_module("onnxruntime")
        providers = ", ".join(onnxruntime.get_available_providers())
    except Exception as error:
        names = ("onnxruntime", "onnxruntime-gpu")
        if system.package_version(names, "onnxruntime") is None:
            return [Check("onnxruntime", "missing", "not installed", "pip install onnxruntime")]
        detail = f"installed, but cannot be used: {type(error).__name__}: {error}"
        fix = "pip install --force-reinstall onnxruntime"
        return [Check("onnxruntime", "missing", detail, fix)]
    return [Check("onnxruntime", "ok", f"{onnxruntime.__version__} with {providers}")]


def _train_package(distribution: str, module: str, system: System) -> list[Check]:
    version = system.package_version([distribution], module)
    if version is not None:
        return [Check(distribution, "ok", version)]
    detail = "not installed; used on a workstation to train, evaluate and export"
    return [Check(distribution, "optional", detail, 'pip install "mirnet-edge[train]"')]


PROBES = (
    Probe("Python", _python),
    Probe("mirnet-edge", _mirnet_edge),
    *(
        Probe(name, partial(_core_package, name, module), f"pip install {name}")
        for name, module in CORE
    ),
    Probe("onnxruntime", _onnxruntime, "pip install --force-reinstall onnxruntime"),
    *(Probe(name, partial(_train_package, name, module)) for name, module in TRAIN),
)
