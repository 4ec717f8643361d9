"""The wheel: what is in it, what it says of itself, and that it works far from the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import mirnet_edge

ROOT = Path(__file__).resolve().parents[1]
CORE = {"numpy", "onnxruntime", "pillow", "click", "rich", "psutil"}
EXTRAS = {"train", "tensorrt", "dev"}
MODEL = "mirnet_edge/models/edge-s-denoise"
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-cache-dir")
NO_INDEX = ("--no-deps", "--no-index")
BUILT = {"build", "dist", "venv", "shared"}
ANYWHERE = shutil.ignore_patterns("*.egg-info", "__pycache__", ".*")
"""What a checkout may hold that is not of the project, at its top and anywhere."""


def call(*command: object, cwd: Path, **environment: str) -> str:
    """Run a command, and return what it printed."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def not_of_the_project(folder: str, names: list[str]) -> set[str]:
    """As `shutil.copytree` asks."""
    return ANYWHERE(folder, names) | (BUILT & set(names) if Path(folder) == ROOT else set())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing lands in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    shutil.copytree(ROOT, tree, ignore=not_of_the_project)
    call(*PIP, "wheel", tree, *NO_INDEX, "--no-build-isolation", "-w", folder / "out", cwd=folder)
    (path,) = (folder / "out").iterdir()
    return path


@pytest.fixture(scope="module")
def members(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def metadata(wheel: Path, members: set[str]) -> Message:
    (name,) = (name for name in members if name.endswith(".dist-info/METADATA"))
    with zipfile.ZipFile(wheel) as archive:
        return Parser().parsestr(archive.read(name).decode())


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed package and nothing else."""
    target = tmp_path_factory.mktemp("installed")
    options = (*NO_INDEX, "--no-compile", "--target", target)
    call(*PIP, "install", wheel, *options, cwd=wheel.parent)
    return target


def test_wheel_is_for_every_python_3(wheel: Path) -> None:
    assert wheel.name == f"mirnet_edge-{mirnet_edge.__version__}-py3-none-any.whl"


def test_only_the_package_is_at_top_level(members: set[str]) -> None:
    version = mirnet_edge.__version__
    top_level = {name.partition("/")[0] for name in members}
    assert top_level == {"mirnet_edge", f"mirnet_edge-{version}.dist-info"}


def _files(folder: str, *patterns: str) -> set[Path]:
    found = {path for pattern in patterns for path in (ROOT / folder).glob(pattern)}
    assert found, f"the checkout has no {patterns} in {folder}"
    return found


def test_every_module_is_in_the_wheel(members: set[str]) -> None:
    modules = {path.relative_to(ROOT).as_posix() for path in _files("mirnet_edge", "**/*.py")}
    modules.add("mirnet_edge/_gstreamer/python/mirnetrestore.py")
    assert {name for name in members if name.endswith(".py")} == modules


def test_kernels_and_calibration_set_are_in_the_wheel(members: set[str]) -> None:
    for folder, patterns in (
        ("kernels", ("*.cu", "*.cuh", "plugins/*")),
        ("calibration", ("*.json", "*.webp", "README.md")),
    ):
        expected = {f"mirnet_edge/_{path.relative_to(ROOT)}" for path in _files(folder, *patterns)}
        found = {name for name in members if name.startswith(f"mirnet_edge/_{folder}/")}
        assert found == expected


def test_the_recorded_ranges_of_the_models_are_in_the_wheel(members: set[str]) -> None:
    for kind in ("ranges", "plan"):
        assert f"mirnet_edge/_calibration/{Path(MODEL).name}.{kind}.json" in members


def test_models_photo_types_and_licence_are_in_the_wheel(members: set[str]) -> None:
    for name in ("model.onnx", "card.json"):
        assert f"{MODEL}/{name}" in members
    for name in (
        "data/photo.webp",
        "data/README.md",
        "live/page/index.html",
        "py.typed",
        "__init__.pyi",
    ):
        assert f"mirnet_edge/{name}" in members
    assert any(name.rpartition("/")[2] == "LICENSE" for name in members)


def test_nothing_else_is_in_the_wheel(members: set[str]) -> None:
    wrong = ("test", "conftest", "benchmark", "__pycache__", ".pyc", "golden", "host_cuda")
    assert not [name for name in members if any(word in name for word in wrong)]


def test_files_are_those_of_the_checkout(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for path in _files("mirnet_edge", "models/*/*", "data/photo.webp"):
            name = path.relative_to(ROOT).as_posix()
            assert archive.read(name) == path.read_bytes(), name
        models = [item.file_size for item in archive.infolist() if "/models/" in item.filename]
    assert sum(models) < 20e6, "the bundled models are to stay under 20 MB together"


def test_an_editable_install_is_a_path(wheel: Path, tmp_path: Path) -> None:
    """And no hook of setuptools, through which a type checker sees nothing but Any."""
    tree = wheel.parents[1] / "tree"
    options = (*NO_INDEX, "--no-build-isolation", "--target", tmp_path)
    call(*PIP, "install", *options, "--editable", tree, cwd=tmp_path)
    (path,) = tmp_path.glob("*.pth")
    assert path.read_text().strip() == str(tree)
    assert not list(tmp_path.glob("*.py"))


def test_metadata(metadata: Message) -> None:
    assert metadata["Name"] == "mirnet-edge"
    assert metadata["Version"] == mirnet_edge.__version__
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["Summary"]
    assert "Apache" in (metadata["License-Expression"] or metadata["License"])
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert len(metadata.get_payload()) > 500, "the README is the description"


def test_requirements(metadata: Message) -> None:
    wanted = [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]
    core = {item.name for item in wanted if "extra" not in str(item.marker)}
    assert core == CORE
    assert set(metadata.get_all("Provides-Extra", [])) >= EXTRAS
    for extra, package in (("train", "torch"), ("train", "onnx"), ("tensorrt", "pycuda")):
        assert any(
            item.name == package and item.marker and item.marker.evaluate({"extra": extra})
            for item in wanted
        ), f"{extra} does not bring {package}"
    assert all(item.specifier for item in wanted), "every requirement has a least version"


def test_console_script(wheel: Path, members: set[str], installed: Path) -> None:
    (name,) = (name for name in members if name.endswith("entry_points.txt"))
    with zipfile.ZipFile(wheel) as archive:
        assert "mirnet-edge = mirnet_edge.__main__:run" in archive.read(name).decode()
    script = installed / "bin" / "mirnet-edge"
    said = call(script, "--version", cwd=installed.parent, PYTHONPATH=str(installed))
    assert mirnet_edge.__version__ in said


def test_installed_copy_has_its_resources(installed: Path, tmp_path: Path) -> None:
    code = """
import json, mirnet_edge
from mirnet_edge._files import resource_folder
folders = [resource_folder(name) for name in ("kernels", "calibration", "gstreamer")]
print(json.dumps([mirnet_edge.__file__, *map(str, folders)]))
"""
    found = json.loads(call(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(installed)))
    package = installed.resolve() / "mirnet_edge"
    assert [Path(path).resolve() for path in found] == [
        package / "__init__.py",
        package / "_kernels",
        package / "_calibration",
        package / "_gstreamer",
    ]
    assert list((package / "_kernels").glob("*.cu"))
    assert (package / "_calibration" / "manifest.json").is_file()
    assert (package / "_gstreamer" / "python" / "mirnetrestore.py").is_file()


def test_installed_copy_restores_the_photo(installed: Path, tmp_path: Path) -> None:
    demo = (sys.executable, "-m", "mirnet_edge", "demo", "--json")
    result = json.loads(call(*demo, cwd=tmp_path, PYTHONPATH=str(installed)))
    noise, *others = result["pictures"]
    assert noise["gain"] >= 5
    assert all(other["gain"] > 0 for other in others)
    files = [Path(row["file"]).name for row in result["pictures"]]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files)
