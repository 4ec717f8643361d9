"""The programs of examples/: each runs, on a file where it wants a camera, and on a GPU in host
memory where it wants one; on a real one where that is there."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from threading import Timer
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from checkpoint_samples import network
from fake_tensorrt import write_plans
from PIL import Image
from test_gstreamer import SYSTEM_PYTHON
from test_gstreamer import gstreamer as gstreamer
from video_samples import RATE, make_video, scene

import mirnet_edge as me

av: Any = pytest.importorskip("av", reason="PyAV is not installed")

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def run(name: str, *arguments: object, python: str = sys.executable, **options: Any) -> str:
    """What a program prints."""
    done = subprocess.run(
        [python, str(EXAMPLES / name), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_names_are_public_and_the_program_is_tested_and_shown(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "me"
    }
    assert used <= set(me.__all__)
    assert f'"{path.name}"' in Path(__file__).read_text(encoding="utf-8")
    assert f'"examples/{path.name}"' in (EXAMPLES.parent / "docs" / "examples.md").read_text()
    assert re.findall(r"mirnet_edge\.\w+", path.read_text(encoding="utf-8")) == [], "not public"


def test_camera_loop_is_ten_lines_and_runs(tmp_path: Path) -> None:
    text = (EXAMPLES / "camera_loop.py").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith('"""')]
    assert len(lines) <= 10
    said = run("camera_loop.py", make_video(tmp_path / "camera.mp4", frames=3)).splitlines()
    assert said[-1].startswith("2 (48, 64, 3)")


def test_pyav_in_and_out_keeps_the_times(tmp_path: Path) -> None:
    source, target = tmp_path / "in.mp4", tmp_path / "out.mp4"
    make_video(source, frames=5, pts=[0, 1, 2, 5, 9])
    run("pyav_in_and_out.py", source, target)
    with av.open(str(target)) as video:
        frames = list(video.decode(video=0))
    assert [round(float(frame.time) * RATE) for frame in frames] == [0, 1, 2, 5, 9]
    restored = frames[2].to_ndarray(format="rgb24").astype(float)
    clean = scene(2, sigma=0).astype(float)
    noisy = scene(2).astype(float)
    assert np.abs(restored - clean)[:, 16:].mean() < np.abs(noisy - clean)[:, 16:].mean()


def test_gstreamer_pipeline(gstreamer: dict[str, str]) -> None:
    said = run("gstreamer_pipeline.py", python=SYSTEM_PYTHON, env=gstreamer)
    assert "mirnet-statistics" in said


def test_folder_keeps_names(tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name, number in (("a.png", 1), ("b.jpg", 2)):
        Image.fromarray(scene(number, 33, 41)).save(source / name)
    said = run("folder.py", source, target)
    assert said.startswith("a.png noise ")
    assert sorted(path.name for path in target.iterdir()) == ["a.png", "b.png"]
    with Image.open(target / "b.png") as restored:
        assert restored.size == (41, 33)


def test_checkpoint_to_engine_goes_on_without_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tmp_path / "mine.safetensors"
    me.save_model(network("edge"), checkpoint)
    monkeypatch.setattr(sys, "argv", ["checkpoint_to_engine.py", str(checkpoint), "64x48"])
    runpy.run_path(str(EXAMPLES / "checkpoint_to_engine.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert "(48, 64, 3)" in said.splitlines()[-1]
    assert (tmp_path / "mine.onnx").is_file()
    assert "no engine: " in said or (tmp_path / "mine.engine").is_file()


ZERO_COPY = ("zero_copy_torch.py", "zero_copy_cupy.py")


@pytest.mark.parametrize("name", ZERO_COPY)
@pytest.mark.usefixtures("trt")
def test_zero_copy_on_a_gpu_in_host_memory(
    name: str,
    pooled_network: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    engine = write_plans(tmp_path, pooled_network, (128, 128))
    program = tmp_path / name
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    text = text.replace('device="cuda"', 'device="cpu"').replace("480, 640", "100, 132")
    program.write_text(text, encoding="utf-8")
    cupy = ModuleType("cupy")  # its arrays lie on a GPU; of host memory they are numpy's
    for known in ("full", "empty_like", "uint8"):
        setattr(cupy, known, getattr(np, known))
    cupy.asarray = lambda given: np.from_dlpack(given)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(sys, "argv", [name, str(engine)])
    runpy.run_path(str(program), run_name="__main__")
    said = capsys.readouterr().out
    assert "100, 132, 3" in said
    assert said.strip().endswith("True")


@pytest.mark.gpu
@pytest.mark.parametrize("name", ZERO_COPY)
def test_zero_copy_on_a_gpu(name: str, tmp_path: Path) -> None:
    library = name.removesuffix(".py").rpartition("_")[2]
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    if library == "torch" and not __import__("torch").cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    engine = tmp_path / "denoise.engine"
    me.build_engine("edge-s-denoise", engine, tile=(128, 128))
    said = run(name, engine)
    assert "480, 640, 3" in said
    assert said.strip().endswith("True")


def test_service_client_waits_its_turn(tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client", reason="the extra serve is not installed")
    from serving import NOISY, models, served, service

    from mirnet_edge.engines.fake import FakeEngine

    pixels, source = scene(0), tmp_path / "in.png"
    Image.fromarray(pixels).save(source)
    with service(models(asks=FakeEngine(facts=NOISY)), threads=1, queue=0) as made:
        made.work._job_s = 1.0
        with served(made) as address:
            place = made.work.enter()
            later = Timer(0.5, place.leave)
            later.start()
            said = run("service_client.py", address, source, tmp_path / "out.png")
            later.join()
    assert re.match(r"200 \d+\.\d\d decode;dur=", said)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out.png")), pixels)
