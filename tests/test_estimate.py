"""What is said of devices that are not here, held against what was measured on those that were."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import calibrate_estimate as calibrating
import pytest
from calibrate_estimate import RESULTS, Point, predicted_ms
from command_line import run
from graph_samples import parsed

from mirnet_edge.build.device_facts import DEVICES, device_facts
from mirnet_edge.build.estimate import (
    CALIBRATION,
    FORMS,
    Calibration,
    Fit,
    Form,
    Range,
    Work,
    calibration,
    estimate_frame,
    network_of,
    preset_networks,
    smaller_frames,
)
from mirnet_edge.bundled import bundled_model
from mirnet_edge.errors import ConfigError, DeviceMemoryError, GraphError
from mirnet_edge.graph.cost import kernels_of

Capture = pytest.CaptureFixture[str]
WITHIN, WITHIN_OF_SMALL = 0.2, 0.25
LEAST = 5
"""Records that a fit of two constants is of."""
H100, H200 = (RESULTS / f"{name}-tensorrt-8.6.0" for name in ("h100", "h200"))
FRAME = (1080, 1920)


def measured(folder: Path, kind: str) -> list[Point]:
    return calibrating.points(preset_networks(), folder, kind)


def off(point: Point, launch_us: float, share: float) -> float:
    return abs(predicted_ms(point, launch_us, share) / point.ms - 1)


# Against records


def test_the_constants_are_those_of_the_records() -> None:
    stored = json.loads(CALIBRATION.read_text("utf-8"))["constants"]
    made = calibrating.constants(preset_networks())
    assert made.keys() == stored.keys()
    kinds = {kind: (made.pop(kind), stored.pop(kind)) for kind in calibrating.KINDS}
    for values, known in [(made, stored), *kinds.values()]:
        assert values.keys() == known.keys()
        for name, value in values.items():
            assert value["value"] == pytest.approx(known[name]["value"], rel=0.01), name
            assert value["from"], name


@pytest.mark.parametrize(("there", "here"), [(H100, H200), (H200, H100)])
def test_the_kernels_of_one_card_by_the_other(there: Path, here: Path) -> None:
    """By the share of its sheet that each reached there."""
    shares, records = calibrating.kernel_shares(there), calibrating.read(here / "kernels.json")
    bandwidth = calibrating.device_of(here).bytes_per_second
    assert len(shares) == 8
    for name, share in shares.items():
        kernel = records["kernels"][name]
        us = 1e6 * kernel["bytes"] / (share * bandwidth)
        assert us == pytest.approx(kernel["in_groups"]["microseconds"], rel=WITHIN), name


@pytest.mark.parametrize("kind", [*calibrating.KINDS])
def test_each_record_by_the_others(kind: str) -> None:
    found = measured(H100, kind)
    assert len(found) > LEAST
    for left_out in found:
        others = [point for point in found if point is not left_out]
        # Two builds of one engine for small batches, of the same graph, differ by 12 %.
        within = WITHIN if left_out.what.endswith("1x1088x1920") else WITHIN_OF_SMALL
        assert off(left_out, *calibrating.fitted(others)) < within, left_out.what


@pytest.mark.parametrize("attempt", ["all", "blocks"])
def test_engines_of_other_runs_with_and_without_the_plugin_of_much_shared_memory(
    attempt: str,
) -> None:
    """`attempts.json`, of which no constant is; "all" is what an Orin can have. Small batches are
    built with streams side by side, as by default."""
    network, fit = preset_networks()["edge-s"], calibration().plugins
    graph = {"all": network.plugins, "blocks": network.blocks}[attempt]
    assert graph is not None
    shapes = []
    for record in calibrating.read(H100 / "attempts.json"):
        batch, height, width = map(int, record["asked"][3].split("x"))
        wanted = attempt if height > 1000 else f"{attempt}-streams"
        for row in record["rows"]:
            if row["name"] == wanted:
                work = graph.of(batch * height * width)
                point = Point(wanted, DEVICES["h100"], work, row["graph_ms"]["p50"])
                assert off(point, fit.launch_us, fit.share) < WITHIN, record["asked"]
                shapes.append(record["asked"][3])
    assert {"1x1088x1920", "1x256x256"} <= {*shapes}


@pytest.mark.parametrize("kind", [*calibrating.KINDS])
@pytest.mark.parametrize(("there", "here"), [(H100, H200), (H200, H100)])
def test_a_network_of_one_card_by_the_other(there: Path, here: Path, kind: str) -> None:
    known, asked = measured(there, kind), measured(here, kind)
    if len(known) < LEAST:  # constants of so few tell of the same networks and sizes alone
        seen = {point.what.partition(": ")[2] for point in known}
        asked = [point for point in asked if point.what.partition(": ")[2] in seen]
    assert asked
    constants = calibrating.fitted(known)
    for point in asked:
        assert off(point, *constants) < WITHIN, point.what


# What is said


def test_more_bandwidth_and_more_arithmetic_are_less_time() -> None:
    slowest_first = ("orin-nano-15w", "orin-nano", "agx-orin", "thor", "h100", "h200")
    network = preset_networks()["edge-s"]
    times = [estimate_frame(network, DEVICES[name], FRAME).ms for name in slowest_first]
    assert times == sorted(times, key=lambda ms: -ms.expected)
    for ms in times:
        assert 0 < ms.low < ms.expected < ms.high


def test_what_was_measured_on_this_card_is_within_its_range() -> None:
    """`plain.json` and `race.json`: 2.75 ms on an H100, 1.59 with plugins."""
    for form, measured_ms in ((Form("fp16"), 2.752), (Form("fp16", plugins=True), 1.587)):
        ms = estimate_frame(preset_networks()["edge-s"], DEVICES["h100"], FRAME, form).ms
        assert ms.low < measured_ms < ms.high


def test_at_worst_plugins_save_nothing_where_they_never_ran() -> None:
    network = preset_networks()["edge-s"]
    own, plain = (
        estimate_frame(network, DEVICES["agx-orin"], FRAME, Form("fp16", plugins=plugins)).ms
        for plugins in (True, False)
    )
    assert own.expected < plain.expected
    assert own.high == plain.high


def test_a_network_that_plugins_replace_nothing_of() -> None:
    network = replace(preset_networks()["edge-s"], plugins=None, blocks=None)
    assert [str(form) for form in network.forms] == ["fp16", "int8", "fp32"]
    assert estimate_frame(network, DEVICES["thor"], FRAME).form == Form("fp16")
    with pytest.raises(GraphError, match="edge-s has nothing that plugins replace"):
        estimate_frame(network, DEVICES["thor"], FRAME, Form("fp16", plugins=True))


def test_int8_is_not_promised_to_be_faster() -> None:
    for name in ("orin-nano", "h100"):
        found = {
            form.precision: estimate_frame(
                preset_networks()["edge-m"], DEVICES[name], FRAME, form
            ).ms
            for form in FORMS[1:]
        }
        assert found["fp16"].expected < found["int8"].expected < found["fp32"].expected
        assert found["int8"].low < found["fp16"].low


def test_by_hand() -> None:
    """A thousand launches of 2 us at half the clock, and 1 GB and 1 TFLOP at half the rates."""
    using = Calibration(Fit(2.0, 0.5, 0.1), Fit(1.0, 0.7, 0.2), 2000, 0.7, 1.2, 1.2)
    device = DEVICES["agx-orin"]
    ms = using.engine_ms(Work(1000, 1e9, 0.5e12), device, Form("fp16"))
    launches = 2.0 * 2000 / device.clock_mhz
    assert ms.expected == pytest.approx(launches + (1e3 / 204.8 + 1e3 / 42.5) / 0.5)
    assert ms.high == pytest.approx(ms.expected * 1.1 * 1.2)


@pytest.mark.parametrize(
    ("budget_ms", "verdict"), [(5, "no"), (11, "unlikely"), (16, "likely"), (25, "yes")]
)
def test_verdicts(budget_ms: float, verdict: str) -> None:
    assert Range(10, 15, 20).verdict(budget_ms) == verdict


def test_a_bundled_graph_is_counted_as_its_preset() -> None:
    """They differ in their weights alone; this one is read and counted, that is of the file."""
    counted, preset = network_of("edge-s-denoise"), preset_networks()["edge-s"]
    for device in (DEVICES["h100"], DEVICES["agx-orin"]):
        for form in counted.forms[:2]:
            found, stored = counted.graph(form, device), preset.graph(form, device)
            assert found.launches == stored.launches
            assert found.macs_per_pixel == pytest.approx(stored.macs_per_pixel)
            assert found.bytes_per_pixel == pytest.approx(stored.bytes_per_pixel, rel=0.01)
    assert preset.blocks != preset.plugins
    assert counted.facts.bytes_per_pixel == preset.facts.bytes_per_pixel


def test_kernels_are_counted_as_they_are_fused() -> None:
    proto = parsed(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,3,8,12] input) => (float[1,36,8] output)
        <int64[3] shape = {1, 36, 8}>
        { a = Conv <kernel_shape = [1,1]> (input, w)
          b = Relu (a)
          c = AveragePool <kernel_shape = [1,1]> (b)
          output = Reshape (c, shape) }""",
        w=(3, 3, 1, 1),
    )
    assert kernels_of(proto).launches == 2


def test_tiles_where_a_whole_frame_does_not_fit() -> None:
    network = preset_networks()["edge-m"]
    made = estimate_frame(network, DEVICES["orin-nano"], (8640, 15360))
    assert made.tiles > 1
    assert made.memory_bytes <= DEVICES["orin-nano"].usable_bytes
    whole = estimate_frame(network, DEVICES["agx-orin"], (8640, 15360))
    assert whole.tiles == 1


def test_odd_and_small_frames() -> None:
    for frame in ((1, 1), (7, 1921), (1079, 13)):
        made = estimate_frame(preset_networks()["edge-xs"], DEVICES["thor"], frame)
        assert made.tile[0] >= frame[0]
        assert made.tile[1] >= frame[1]
    assert smaller_frames((1080, 1920)) == [(1080, 1920), (720, 1280), (540, 960), (360, 640)]
    assert smaller_frames((70, 90)) == [(70, 90)]


def test_every_device_says_where_its_figures_are_from() -> None:
    for name, device in DEVICES.items():
        assert device.source.startswith("https://www.nvidia.com/"), name
        assert device.flops_per_second["fp32"] < device.flops_per_second["fp16"]
        assert 0 < device.usable_bytes <= device.memory_bytes


# Errors and the command


def test_errors() -> None:
    with pytest.raises(ConfigError, match=r"no device 'tx2' is known; there are orin-nano, .*h200"):
        device_facts("tx2")
    network = preset_networks()["edge-s"]
    with pytest.raises(DeviceMemoryError, match=r"99999x99999 fits with no tile: .* to give; take"):
        estimate_frame(network, DEVICES["orin-nano"], (99999, 99999))
    with pytest.raises(GraphError, match=r"not a graph; give an \.onnx file"):
        network_of("weights.pth")
    with pytest.raises(GraphError, match="no such file"):
        network_of("nowhere.onnx")


def test_no_graph(tmp_path: Path, capfd: Capture) -> None:
    path = tmp_path / "text.onnx"
    path.write_text("this is no graph")
    outcome = run(capfd, "estimate", path, "--device", "thor", "--frame", "64x64")
    assert "no valid ONNX" in outcome.only_error


def test_the_command(capfd: Capture) -> None:
    given = ("estimate", "edge-s", "--device", "agx-orin", "--frame", "1920x1080")
    said = run(capfd, *given, "--fps", 30).out
    for text in ("Jetson AGX Orin 64GB", "1 of 1080x1920", "an estimate, not a measurement",
                 "nvidia.com", "edge-xs fp16, plugins", "960x540",
                 "30 frames per second"):  # fmt: skip
        assert text in said
    assert "frames per second" not in run(capfd, *given).out


def test_json(capfd: Capture) -> None:
    assert bundled_model("edge-s") is None
    given = ("estimate", "edge-s", "--device", "orin-nano", "--frame", "1920x1080", "--fps", "30")
    found = run(capfd, *given, "--json").json
    forms = [(made["form"]["precision"], made["form"]["plugins"]) for made in found["estimates"]]
    assert forms == [("fp16", True), ("fp16", False), ("int8", False), ("fp32", False)]
    assert found["device"]["bytes_per_second"] == 102e9
    assert len(found["reached"]) == 3 * 2 * 4


def test_an_unknown_device_at_the_command_line(capfd: Capture) -> None:
    outcome = run(capfd, "estimate", "edge-s", "--device", "tx2", "--frame", "64x64")
    assert "there are orin-nano" in outcome.only_error
