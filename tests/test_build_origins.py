"""What a card tells of each layer: its module and its arithmetic; and the device's arithmetic."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from build_sandbox import TILE, Sandbox

from mirnet_edge.build.origins import with_origins
from mirnet_edge.build.profile import CHANNELS, SIDE_PX, multiplications_per_second
from mirnet_edge.engines.card import EngineCard, LayerFacts, card_path
from mirnet_edge.graph.file import load_graph, with_shape
from mirnet_edge.quantize.qdq import macs_of


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    return Sandbox(tmp_path, monkeypatch)


def test_the_card_places_every_convolution(sandbox: Sandbox) -> None:
    sandbox.build(rewrite=False)
    card = EngineCard.load(card_path(sandbox.engine))
    macs = macs_of(with_shape(load_graph(sandbox.onnx), 1, *TILE))
    found = {layer.name: layer.macs for layer in card.layers if layer.macs}
    assert found == {name: macs[name] for name in macs if name != "up"}, "which the fake lists not"


def test_a_layer_of_several_nodes_counts_all_and_a_copy_none(sandbox: Sandbox) -> None:
    proto = with_shape(load_graph(sandbox.onnx), 1, *TILE)
    for index, tensor in enumerate(proto.graph.initializer):
        for node in proto.graph.node:
            if tensor.name in node.input:
                node.input[list(node.input).index(tensor.name)] = f"body.{index}.conv.weight"
        tensor.name = f"body.{index}.conv.weight"
    macs = macs_of(proto)
    first, second = list(macs)[:2]
    fused = LayerFacts(f"{first} + {second}", "CaskConvolution", "FP16", 1)
    copied = LayerFacts(f"Reformatting CopyNode for Input Tensor 0 to {first}", "Reformat", "", 1)
    alien = LayerFacts("signal_1", "Signal", "", 0)
    counted, copy, other = with_origins((fused, copied, alien), proto)
    assert counted.macs == macs[first] + macs[second]
    assert copy.macs == 0
    assert re.fullmatch(r"body\.\d+\.conv", counted.module)
    assert copy.module == counted.module
    assert other == alien


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("release", ["8.6.1", "11.4.0"])
def test_arithmetic_is_that_of_a_convolution(
    precision: str, release: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.release(release)
    rate = multiplications_per_second(precision, tmp_path / "timings")
    assert rate == pytest.approx(9 * CHANNELS**2 * SIDE_PX**2 / 1e-3), "the fake takes 1 ms"
