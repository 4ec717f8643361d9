"""The graphs of all presets, parsed and built by TensorRT 11's own builder, strongly typed.

``MIRNET_EDGE_TRT11`` names a folder in which ``import tensorrt`` works without a GPU; its libraries
lie in ``lib`` below it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import graph_samples
import pytest
from command_line import ENVIRONMENT

import mirnet_edge as me
from mirnet_edge.build.graphs import MAKERS, open_source, typed_for_tensorrt
from mirnet_edge.engines.card import Kind
from mirnet_edge.graph.precision import Precision
from mirnet_edge.graph.rewrite import rewritten_for_tensorrt
from mirnet_edge.model.config import PRESETS, Config
from mirnet_edge.quantize.qdq import candidates, insert_qdq

FOLDER = os.environ.get("MIRNET_EDGE_TRT11")
TILE = (128, 192)
BUILD = """
import sys, tensorrt as trt
from pathlib import Path
from mirnet_edge.trt.network import BuildLimits, NetworkSource, build_plan
phases = set()
plan = build_plan(
    trt, NetworkSource(Path(sys.argv[1]), True, sys.argv[2]), BuildLimits(),
    lambda phase, done, total: phases.add(phase),
)
print(trt.__version__, plan.serialized.nbytes > 10_000, len(phases) > 0)
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER, reason="MIRNET_EDGE_TRT11 names no folder with TensorRT 11"),
]


NETWORKS: dict[str, Config] = {
    **PRESETS,
    "edge-s, level, context": replace(PRESETS["edge-s"], noise_level=True, context=True),
    "edge-m, level": replace(PRESETS["edge-m"], noise_level=True),
    "edge-m, x4": replace(PRESETS["edge-m"], shuffle=4),
}
"""The presets, and edge networks as tasks set them."""


@pytest.fixture(scope="module", params=list(NETWORKS))
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("presets") / "network.onnx"
    me.export_onnx(me.create_model(NETWORKS[request.param], seed=0), path, task="denoise")
    return path


def built(path: Path, precision: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join((str(FOLDER), ENVIRONMENT["PYTHONPATH"]))
    library = {"PYTHONPATH": paths, "LD_LIBRARY_PATH": f"{FOLDER}/lib"}
    return subprocess.run(
        [sys.executable, "-c", BUILD, str(path), precision],
        env={**ENVIRONMENT, **library},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_preset_parses_and_builds(exported: Path, precision: Precision, tmp_path: Path) -> None:
    proto = open_source(exported, TILE, 1, True).rewritten
    if precision == "int8":
        names = candidates(proto)
        assert names
        proto = insert_qdq(proto, graph_samples.ranges_of(proto), names)
    parses_and_builds(proto, precision, tmp_path)


@pytest.mark.parametrize("kind", ["apply", "gather"])
def test_statistics_graphs_parse_and_build(exported: Path, kind: Kind, tmp_path: Path) -> None:
    source = open_source(exported, TILE, 1, True)
    proto = rewritten_for_tensorrt(MAKERS[kind](source.sized), 1, TILE)
    parses_and_builds(proto, "fp16", tmp_path)


def parses_and_builds(proto: Any, precision: Precision, folder: Path) -> None:
    graph = folder / "typed.onnx"
    graph.write_bytes(typed_for_tensorrt(proto, precision, "float32").strong.SerializeToString())
    done = built(graph, precision)
    assert done.returncode == 0, done.stderr[-2000:]
    release, plan, phases = done.stdout.split()[-3:]
    assert (int(release.partition(".")[0]) >= 11, plan, phases) == (True, "True", "True")


def test_a_graph_that_tensorrt_refuses_names_the_node(tmp_path: Path) -> None:
    proto = graph_samples.network()
    refused = next(node for node in proto.graph.node if node.name == "gate")
    refused.op_type, refused.domain = "Mystery", "nowhere"
    proto.opset_import.add(domain="nowhere", version=1)
    path = tmp_path / "refused.onnx"
    path.write_bytes(proto.SerializeToString())
    done = built(path, "fp32")
    assert "node 'gate' (Mystery" in done.stderr
