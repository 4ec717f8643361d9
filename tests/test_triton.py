"""Repositories for a Triton server: what is written, by Triton's own protobuf, and what is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from command_line import ENVIRONMENT
from command_line import run as command
from fake_tensorrt import batch_of, write_plan
from triton_stand_in import kind, parsed

from mirnet_edge.bundled import MODELS_FOLDER, bundled_models
from mirnet_edge.engines.card import TensorFacts
from mirnet_edge.errors import ConfigError, EngineError, MirnetEdgeError, OutputError, TilingError
from mirnet_edge.serve.triton import repository
from mirnet_edge.serve.triton.configs import Placement
from mirnet_edge.serve.triton.repository import write_repository
from mirnet_edge.serve.triton.settings import FrameSettings
from mirnet_edge.serve.triton.text_format import text_format

DENOISER = "edge-s-denoise"
GRAPH = MODELS_FOLDER / DENOISER / "model.onnx"
PRECISIONS: list[dict[str, Any]] = [
    {"precision": "fp32"},
    {"precision": "fp16", "io": "float16"},
]


def ports(graph: Path) -> list[tuple[str, str, list[int]]]:
    """Inputs and outputs of a graph, as Triton has them."""
    proto = onnx.load(graph)
    onnx.checker.check_model(proto)
    names = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.FLOAT16: "float16"}
    return [
        (
            value.name,
            names[value.type.tensor_type.elem_type],
            [dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim],
        )
        for value in (*proto.graph.input, *proto.graph.output)
    ]


@pytest.mark.parametrize("options", PRECISIONS, ids=lambda options: options["precision"])
@pytest.mark.parametrize("name", [model.name for model in bundled_models()])
def test_bundled_models_parse_in_every_precision(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    written = write_repository([name], tmp_path / "repository", **options)
    assert written.models == (name, f"{name}-tiles")
    assert not written.notes
    frames, tiles = (parsed(written.path / each / "config.pbtxt") for each in written.models)
    assert (frames.name, frames.backend, frames.max_batch_size) == (name, "python", 4)
    assert (tiles.name, tiles.backend, tiles.max_batch_size) == (f"{name}-tiles", "onnxruntime", 4)
    for config in (frames, tiles):
        folder = written.path / config.name / "1"
        assert (folder / config.default_model_filename).is_file()
        assert config.HasField("dynamic_batching")
        assert len(config.instance_group) == 1
        for sample in config.model_warmup:
            zeros, wanted = sample.inputs[config.input[0].name], config.input[0]
            assert zeros.data_type == wanted.data_type
            assert len(zeros.dims) == len(wanted.dims)
            assert all(b in (-1, a) for a, b in zip(zeros.dims, wanted.dims))
            assert 1 <= sample.batch_size <= config.max_batch_size
    found = [
        (tensor.name, kind(tensor), [-1, *tensor.dims]) for tensor in (*tiles.input, *tiles.output)
    ]
    assert found == ports(written.path / tiles.name / "1" / "model.onnx")


@pytest.mark.parametrize(
    ("options", "least_db"), [({}, 200.0), ({"precision": "fp16"}, 55.0)], ids=["fp32", "fp16"]
)
@pytest.mark.parametrize("size", [(40, 56), (8, 120)])
def test_tiles_of_a_batch_are_as_they_are_alone(
    options: dict[str, Any],
    least_db: float,
    size: tuple[int, int],
    tmp_path: Path,
) -> None:
    write_repository([f"tiny={DENOISER}"], tmp_path / "r", part="tiles", **options)
    run = onnxruntime.InferenceSession
    batched = run(tmp_path / "r/tiny-tiles/1/model.onnx", providers=["CPUExecutionProvider"])
    alone = run(GRAPH, providers=["CPUExecutionProvider"])
    tiles = np.random.default_rng(5).random((3, 4, *size), np.float32)
    name = alone.get_inputs()[0].name
    wanted = np.concatenate([alone.run(None, {name: tile[None]})[0] for tile in tiles])
    (found,) = batched.run(None, {name: tiles})
    error = float(np.mean((found - wanted) ** 2))
    assert -10 * np.log10(error + 1e-20) >= least_db
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["tiny-tiles"]


def test_a_graph_of_fixed_size_keeps_it(tmp_path: Path) -> None:
    from mirnet_edge.graph.file import load_graph, with_shape

    path = tmp_path / "fixed.onnx"
    onnx.save(with_shape(load_graph(GRAPH), 1, 48, 64), path)
    write_repository([str(path)], tmp_path / "r")
    config = parsed(tmp_path / "r/fixed-tiles/config.pbtxt")
    assert list(config.input[0].dims) == [4, 48, 64]
    assert [list(s.inputs["input"].dims) for s in config.model_warmup] == [[4, 48, 64]] * 2


def test_an_engine_by_its_card(tmp_path: Path) -> None:
    tensors = tuple(
        (TensorFacts(name, (2, 3, 8, 12), "float16", "linear"),) for name in ("frame", "clean")
    )
    card = {
        "batch": 2,
        "inputs": tensors[0],
        "outputs": tensors[1],
        "options": {"plugins": ["Gate"]},
    }
    plan = write_plan(tmp_path, card, **batch_of(2, "HALF"))
    settings = FrameSettings(halo=0)
    written = write_repository(
        [f"orin={plan}"], tmp_path / "r", settings=settings, placement=Placement(gpus=(0, 2))
    )
    config = parsed(tmp_path / "r/orin-tiles/config.pbtxt")
    assert (config.backend, config.max_batch_size) == ("tensorrt", 0)
    assert not config.HasField("dynamic_batching")
    for tensor, name in ((config.input[0], "frame"), (config.output[0], "clean")):
        assert (tensor.name, kind(tensor)) == (name, "float16")
        assert list(tensor.dims) == [2, 3, 8, 12]
    assert [sample.batch_size for sample in config.model_warmup] == [1]
    files = tmp_path / "r/orin-tiles/1/model.plan", tmp_path / "r/orin/1/model.engine"
    assert all(path.read_bytes() == plan.read_bytes() for path in files)
    assert (tmp_path / "r/orin/1/model.engine.json").is_file()
    for name in written.models:
        group = parsed(tmp_path / "r" / name / "config.pbtxt").instance_group[0]
        assert group.kind == group.KIND_GPU
        assert list(group.gpus) == [0, 2]
    machine, plugins, batch = written.notes
    assert "TensorRT 8.6.2 on Orin (compute capability 8.7), and here is" in machine
    assert "plugins" in plugins
    assert "takes 2 tiles" in batch
    with pytest.raises(ConfigError, match="needs a GPU"):
        write_repository([str(plan)], tmp_path / "cpu", settings=settings,
                         placement=Placement(kind="cpu"))  # fmt: skip


def test_engines_that_nothing_vouches_for_are_refused(tmp_path: Path) -> None:
    plan = write_plan(tmp_path)
    plan.write_bytes(plan.read_bytes() + b" ")
    with pytest.raises(EngineError, match="not the file its card is for"):
        write_repository([str(plan)], tmp_path / "r")
    part = write_plan(tmp_path, {"kind": "apply"}, name="x.apply.engine")
    with pytest.raises(ConfigError, match="kind 'apply'"):
        write_repository([str(part)], tmp_path / "r")
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("models", "options", "error", "said"),
    [
        (["nothing"], {}, ConfigError, "no bundled model of that name"),
        (["a.pth"], {}, ConfigError, "mirnet-edge export"),
        (["a b=MODEL"], {}, ConfigError, "give NAME=MODEL"),
        (["a=MODEL", "a-tiles=MODEL"], {}, ConfigError, "name one otherwise"),
        ([], {}, ConfigError, "no model"),
        (["a=MODEL"], {"dtype": "int8"}, ConfigError, "uint8, uint16, float32"),
        (["a=MODEL"], {"settings": FrameSettings(tile=30)}, TilingError, "30"),
        (
            ["a=MODEL"],
            {"settings": FrameSettings(pixels="nv12"), "dtype": "uint16"},
            ConfigError,
            "Y'CbCr is of uint8",
        ),
        (
            ["a=MODEL"],
            {"settings": FrameSettings(pixels="nv12"), "frame": (64, 63)},
            MirnetEdgeError,
            "odd",
        ),
        (["a=MODEL", "a=edge-m-x2"], {}, ConfigError, r"version 2 \(edge-m-x2\) differs"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_written(
    models: list[str],
    options: dict[str, Any],
    error: type[Exception],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.pth").touch()
    with pytest.raises(error, match=said):
        write_repository([name.replace("MODEL", DENOISER) for name in models], "r", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


def test_versions_of_one_name(tmp_path: Path) -> None:
    models = [f"a={DENOISER}"] * 2
    written = write_repository(models, tmp_path / "r")
    assert written.models == ("a", "a-tiles")
    assert parsed(tmp_path / "r/a/config.pbtxt").version_policy.HasField("all")
    for name in written.models:
        found = sorted(path.name for path in (tmp_path / "r" / name).iterdir())
        assert found == ["1", "2", "config.pbtxt"]


def test_overwriting_replaces_these_models_and_no_others(tmp_path: Path) -> None:
    target = tmp_path / "r"
    (target / "other").mkdir(parents=True)
    (target / "a").mkdir()
    (target / "a/old").touch()
    with pytest.raises(OutputError, match="is not empty"):
        write_repository([f"a={DENOISER}"], target)
    assert (target / "a/old").exists()
    write_repository([f"a={DENOISER}"], target, part="frames", overwrite=True)
    assert {path.name for path in target.iterdir()} == {"a", "other"}
    assert {path.name for path in (target / "a").iterdir()} == {"config.pbtxt", "1"}
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is no folder"):
        write_repository([f"a={DENOISER}"], tmp_path / "file", overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {"r", "file"}


def test_a_run_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "r"
    (target / "a").mkdir(parents=True)
    (target / "a/old").touch()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(repository.os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        write_repository([f"a={DENOISER}"], target, overwrite=True)
    assert (target / "a/old").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


def test_a_killed_run_leaves_no_half_of_a_repository(tmp_path: Path) -> None:
    code = (
        "import os, sys, mirnet_edge.serve.triton.repository as r\n"
        "r.os.fsync = lambda file: os.kill(os.getpid(), 9)\n"
        "r.write_repository([f'a={sys.argv[1]}'], 'r', part='frames')\n"
    )
    words = [sys.executable, "-c", code, DENOISER]
    done = subprocess.run(words, cwd=tmp_path, env=ENVIRONMENT, check=False)
    assert done.returncode == -9
    assert not (tmp_path / "r").exists()
    assert all(path.name.startswith(".triton.") for path in tmp_path.iterdir())


def test_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "r"
    options = ["--tile", "48x64", "--halo", "8", "--pixels", "bgr", "--gpus", "0", "--json"]
    done = command(capfd, "triton", f"a={DENOISER}", "-o", str(target), *options)
    assert done.code == 0, done.err
    assert done.json == {"path": str(target), "models": ["a", "a-tiles"], "notes": []}
    config = parsed(target / "a/config.pbtxt")
    assert {key: value.string_value for key, value in config.parameters.items()} == {
        "FORCE_CPU_ONLY_INPUT_TENSORS": "yes",
        "tile": "[48, 64]",
        "halo": "8",
        "pixels": "bgr",
    }
    assert list(config.input[0].dims) == [-1, -1, 3]
    again = command(capfd, "triton", f"a={DENOISER}", "-o", str(target))
    assert "is not empty" in again.only_error
    wrong = command(capfd, "triton", "a", "-o", "r", "--gpus", "first")
    assert wrong.code == 2
    assert "need numbers of GPUs" in wrong.err


def test_an_engine_of_another_machine_is_noted(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plan = write_plan(tmp_path)
    done = command(capfd, "triton", str(plan), "-o", str(tmp_path / "r"), "--halo", "0")
    assert done.code == 0, done.err
    assert "note: tiny: the engine was built with TensorRT 8.6.2 on Orin" in " ".join(
        done.err.split()
    )


def test_text_is_quoted() -> None:
    assert text_format({"a": 'x"\\'}) == 'a: "x\\"\\\\"\n'
    with pytest.raises(ConfigError, match="printable ASCII"):
        text_format({"a": "ö"})
