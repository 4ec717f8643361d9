"""What an engine is built for, and what is said where that is missing."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_gpu import FakeGpu
from fake_libcuda import loader
from machines import CORE, ORIN, commands, gpu_named

from mirnet_edge.build.target import find_target
from mirnet_edge.doctor import System
from mirnet_edge.errors import DeviceError, MissingDependencyError


@pytest.fixture
def orin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> System:
    """A Jetson with TensorRT 10.3."""
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="10.3.0"))
    model = tmp_path / "proc/device-tree/model"
    model.parent.mkdir(parents=True)
    model.write_text(ORIN)
    return System(
        root=tmp_path,
        run=commands({}),
        version_of={**CORE, "tensorrt": "10.3.0"}.get,
        has_module=lambda name: False,
        import_module=lambda name: SimpleNamespace(
            __version__="1.19", get_available_providers=lambda: ["CPUExecutionProvider"]
        ),
        load_library=loader(gpu_named("Orin", integrated=True)),
    )


def test_the_gpu_and_tensorrt_of_this_machine(orin: System) -> None:
    target = find_target(orin)
    assert target.identity == ("10.3.0", "Orin", "8.7")
    assert target.device["integrated"] is True
    assert target.device["memory_bytes"] == 30 * 2**30
    assert target.versions["cuda"] == "12.6"
    assert "test" not in target.versions["driver"]


@pytest.mark.parametrize(
    ("gpu", "said"),
    [
        (None, "libcuda.so.1 cannot be loaded; try: sudo apt install nvidia-l4t-cuda"),
        (FakeGpu(count=0), "the CUDA driver sees no device"),
        (FakeGpu(broken={"cuInit": 803}), "cuInit failed: CUDA_ERROR_SYSTEM_DRIVER_MISM"),
    ],
)
def test_no_gpu(gpu: FakeGpu | None, said: str, orin: System) -> None:
    with pytest.raises(DeviceError, match="built on the GPU that runs it") as caught:
        find_target(replace(orin, load_library=loader(gpu)))
    assert said in str(caught.value)


def test_no_tensorrt_says_how_to_get_it_on_this_kind_of_machine(
    orin: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    bare = replace(orin, version_of=CORE.get)
    with pytest.raises(MissingDependencyError, match="sudo apt install python3-libnvinfer"):
        find_target(bare)
    (tmp_path / "usr/lib/python3.10/dist-packages/tensorrt").mkdir(parents=True)
    with pytest.raises(MissingDependencyError, match="--system-site-packages"):
        find_target(bare)
    (tmp_path / "proc/device-tree/model").unlink()
    with pytest.raises(MissingDependencyError, match=r'pip install "mirnet-edge\[tensorrt\]"'):
        find_target(bare)


def test_a_tensorrt_that_is_too_old(orin: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="8.5.2"))
    old = replace(orin, version_of={**CORE, "tensorrt": "8.5.2"}.get)
    with pytest.raises(MissingDependencyError, match=r"8\.5\.2 is too old.*8\.6 or later"):
        find_target(old)


def test_a_tensorrt_that_does_not_load(
    orin: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: no such file')")
    monkeypatch.delitem(sys.modules, "tensorrt")
    monkeypatch.syspath_prepend(str(folder))
    with pytest.raises(MissingDependencyError, match=r"does not load: libnvinfer\.so\.10"):
        find_target(orin)
