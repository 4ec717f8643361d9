"""All metadata of mirnet-edge.

It stands here and not in pyproject.toml because the setuptools that JetPack 6 ships reads no
``[project]`` table.
"""

import sys
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
VERSION: dict = {}
exec((ROOT / "mirnet_edge" / "_version.py").read_text(encoding="utf-8"), VERSION)

CORE = [
    "numpy>=1.26",
    "onnxruntime>=1.18",
    "pillow>=11.3",
    "click>=8.2",
    "rich>=13.4",
    "psutil>=5.9",
]
GRAPH = ["onnx>=1.18", "onnx-ir>=0.1.16"]
"""Rewriting and quantizing graphs, on any machine; exporting and building do it too."""
TRAIN = [
    "torch>=2.9",
    "onnxscript>=0.7.1",
    "onnxsim>=0.4.36",
    "safetensors>=0.4.3",
    "scikit-image>=0.22",
    "scipy>=1.11.1",
    "matplotlib>=3.8",
]
TENSORRT = [
    "tensorrt>=8.6; platform_machine != 'aarch64'",
    "pycuda>=2024.1",
    "cuda-bindings>=12.6",
]
"""On a Jetson (aarch64) TensorRT comes with JetPack. cuda-bindings is for NVRTC alone;
where it finds none, nvcc compiles the kernels."""
OPENVINO = ["openvino>=2025.1"]
VIDEO = ["opencv-python-headless>=4.8", "av>=16.0.1"]
"""OpenCV for cameras, PyAV for files; its wheels carry FFmpeg. Version 18, which can write that a
video is shown turned, is not there for Python 3.10."""
LIVE = ["starlette>=0.40", "anyio>=4", "uvicorn>=0.30", "websockets>=13"]
PHOTOS = ["imagecodecs>=2025.3.30", "tifffile>=2025.5.10", "pillow-jxl-plugin>=1.3"]
"""16 bits a colour channel in PNG and TIFF, and JPEG XL. Not in the core: imagecodecs is a wheel of
26 MB, on a Jetson's Python 3.10 of 42. tifffile and imagecodecs of 2025 are the last for it."""
SERVE = ["starlette>=0.40", "anyio>=4", "uvicorn>=0.30", "prometheus-client>=0.20"]
RAY = ["ray>=2.50", "fsspec>=2024.2"]
"""A driver and its cluster need one version of Ray: the bound is no higher than it must be."""
TEST = [
    "pytest>=8",
    "pytest-benchmark>=5",
    "pytest-xdist>=3.5",
    "hypothesis>=6.100",
    "setuptools>=70.1",
    # Starlette's test client is made of it, of the former where an older Starlette is the newest.
    "httpx2>=2; python_version >= '3.11'",
    "httpx>=0.27; python_version < '3.11'",
    "playwright>=1.45",
    "simpy>=4.1",
    # A client of the service; from 2.70 on it wants an older ml-dtypes than onnx brings.
    "tritonclient[http]>=2.58,<2.70",
]
DOCS = ["mkdocs>=1.6", "mkdocs-material>=9.5", "mkdocstrings[python]>=0.27"]
CHECK = ["ruff==0.17.6", "mypy>=1.15"]
CAMPAIGN = ["coverage>=7.6", "uv>=0.8", "pip-audit>=2.7"]
"""For `make mutants`, `make bounds` and `make audit`."""

BESIDE = ("kernels", "calibration", "gstreamer")
"""Folders beside the package that lie below it when it is installed."""
EDITABLE = {"editable_wheel", "develop"} & set(sys.argv)
"""An editable install finds the folders beside the package by itself. Naming them as packages would
make setuptools install an import hook in place of a path, which type checkers cannot follow."""

setup(
    name="mirnet-edge",
    version=VERSION["__version__"],
    description="MIRNet image restoration on edge devices: export, tile, run.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[
        *find_packages(include=["mirnet_edge", "mirnet_edge.*"]),
        *([] if EDITABLE else [f"mirnet_edge._{folder}" for folder in BESIDE]),
    ],
    package_dir={"": "."} if EDITABLE else {f"mirnet_edge._{folder}": folder for folder in BESIDE},
    package_data={
        "mirnet_edge": ["py.typed", "*.pyi", "data/*", "models/*/*", "live/page/*"],
        "mirnet_edge._kernels": ["*.cu", "*.cuh", "plugins/*"],
        "mirnet_edge._calibration": ["*.webp", "*.json", "*.md"],
        "mirnet_edge._gstreamer": ["python/*.py"],
    },
    install_requires=CORE,
    extras_require={
        "graph": GRAPH,
        "train": TRAIN + GRAPH,
        "tensorrt": TENSORRT + GRAPH,
        "openvino": OPENVINO + GRAPH,
        "video": VIDEO,
        "live": LIVE + VIDEO,
        "photos": PHOTOS,
        "serve": SERVE,
        "ray": RAY,
        "docs": DOCS,
        "test": TEST + TRAIN + GRAPH + VIDEO + LIVE + PHOTOS + SERVE + RAY + OPENVINO,
        "dev": TEST + TRAIN + GRAPH + VIDEO + LIVE + PHOTOS + SERVE + RAY + OPENVINO + DOCS + CHECK,
        "campaign": CAMPAIGN,
    },
    entry_points={"console_scripts": ["mirnet-edge = mirnet_edge.__main__:run"]},
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Multimedia :: Graphics",
        "Topic :: Scientific/Engineering :: Image Processing",
    ],
)
