"""The model of fleets: what it takes of its files, its arithmetic, and queues against theory."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import fleet
import fleet_tables
import pytest
from fleet_queue import DETECTED_S, Load, simulate


@pytest.fixture(scope="module")
def found() -> Any:
    return fleet.read_assumptions()


@pytest.fixture
def values(found: Any) -> dict[str, float]:
    return {name: row["value"] for name, row in found["assumptions"].items()}


def test_figures_are_the_records(found: Any) -> None:
    rows = found["assumptions"]
    assert rows["gpu_ms"]["low"] == pytest.approx(1.56, abs=0.02), "the engine, as recorded"
    assert rows["edge_ms"]["low"] < rows["edge_ms"]["value"] < rows["edge_ms"]["high"]
    assert 0 < fleet.fixed_ms() < rows["gpu_ms"]["low"]
    for name, row in rows.items():
        assert {"value", "low", "high", "unit", "source"} == row.keys(), name


def test_an_assumptions_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    given = json.loads(fleet.ASSUMPTIONS.read_text("utf-8"))
    given["assumptions"]["edge_ms"] |= {"low": 10, "value": 20, "high": 30}
    path.write_text(json.dumps(given))
    assert fleet.read_assumptions(path)["assumptions"]["edge_ms"]["value"] == 20
    given["assumptions"]["fps"]["value"] = 99
    path.write_text(json.dumps(given))
    with pytest.raises(SystemExit, match="fps: need low <= value <= high"):
        fleet.read_assumptions(path)
    del given["assumptions"]["fps"]
    path.write_text(json.dumps(given))
    with pytest.raises(SystemExit, match="missing or unknown: fps"):
        fleet.read_assumptions(path)


def test_costs_by_hand(values: dict[str, float]) -> None:
    simple = values | {
        "fps": 10, "gpu_ms": 4, "edge_ms": 40, "load_ceiling": 0.8, "spare": 0.1, "years": 4,
        "gpu_dollars": 40_000, "device_dollars": 1900, "installing_dollars": 100,
        "gpu_watts": 1000, "device_watts": 50, "cooling": 1.5, "kwh_dollars": 0.1,
        "stream_mbit": 2, "mbit_dollars": 0.5, "failures": 0.02, "visit_dollars": 100,
        "engineer_dollars": 100_000, "devices_per_engineer": 100, "gpus_per_engineer": 100,
        "least_engineers": 0.5, "decoded_fps": 5000,
    }  # fmt: skip
    assert fleet.cameras_a_device(simple) == 2
    devices, servers = fleet.on_devices(1000, simple), fleet.on_servers(1000, simple)
    assert devices is not None
    assert (devices.units, devices.capital, devices.people) == (500, 250_000, 500_000)
    assert devices.energy == pytest.approx(25 * 8760 * 0.1)
    assert devices.failures == pytest.approx(500 * 0.02 * 2000)
    # 10,000 frames of 4 ms are 40 GPUs, at 80 % of their time 50, and 5 to spare.
    assert (servers.units, servers.capital, servers.bandwidth) == (55, 550_000, 12_000)
    assert servers.kilowatts == pytest.approx(82.5)
    assert servers.people == pytest.approx(55_000)
    assert fleet.on_servers(1000, simple | {"decoded_fps": 100}).units == 110
    assert fleet.on_devices(10, simple | {"edge_ms": 90}) is None
    limits = {limit.what: limit for limit in fleet.limits(1000, simple, 20)}
    assert limits["link of the data centre"].needed == 2
    assert limits["visits a year"].needed == 10


def test_what_moves_the_result_comes_first(found: Any) -> None:
    rows = fleet.sensitivity(1000, found["assumptions"])
    swings = [row["swing"] or math.inf for row in rows]
    assert swings == sorted(swings, reverse=True)
    assert rows[-1]["swing"] == 1, "a limit is no cost"
    spread = fleet.sampled(1000, found["assumptions"], samples=200)
    for way in ("devices", "servers"):
        assert 0 < spread[way]["p10"] < spread[way]["p50"] < spread[way]["p90"]
    assert 0 <= spread["devices_cheaper"] <= 1


def test_a_queue_of_one_camera_does_not_wait() -> None:
    outcome = simulate(Load(gpus=1, cameras=1, fps=10, frame_ms=3, fixed_ms=1, seconds=20))
    assert outcome.came == pytest.approx(180, abs=2)
    assert outcome.percentile(99) == pytest.approx(4)
    assert outcome.lost == 0


def test_many_cameras_wait_as_random_arrivals_do() -> None:
    """Very many cameras that send seldom are a Poisson process: M/D/1, whose mean wait is load /
    (2 (1 - load)) of a frame's time (Pollaczek and Khinchine)."""
    load = Load(gpus=1, cameras=16_000, fps=0.01, frame_ms=5, seconds=200)
    outcome = simulate(load)
    mean = sum(outcome.latencies) / len(outcome.latencies)
    assert mean == pytest.approx(5 + 5 * 0.8 / (2 * 0.2), rel=0.15)


def test_batches_take_what_waits() -> None:
    together = Load(gpus=1, cameras=8, fps=10, frame_ms=1, fixed_ms=4, delay_ms=0, together=True,
                    seconds=5)  # fmt: skip
    assert simulate(together).percentile(100) == pytest.approx(8 * 5)
    batched = simulate(Load(**{**vars(together), "batch": 8}))
    assert batched.percentile(100) == pytest.approx(4 + 8)


def test_overload_drops_the_oldest() -> None:
    outcome = simulate(Load(gpus=1, cameras=20, fps=10, frame_ms=10, seconds=20))
    assert outcome.lost_share == pytest.approx(0.5, abs=0.02), "twice of what there is time for"
    assert outcome.percentile(100) < 600, "what waits is bounded"


def test_a_dead_server_loses_what_is_not_noticed() -> None:
    load = Load(gpus=4, cameras=80, fps=10, frame_ms=3, seconds=20, dies_s=8)
    outcome = simulate(load)
    assert outcome.lost == pytest.approx(20 * 10 * DETECTED_S, rel=0.03)
    on_the_way = outcome.came - len(outcome.latencies) - outcome.lost
    assert 0 <= on_the_way < 10
    assert simulate(load).latencies == outcome.latencies, "equal loads, equal outcomes"
    overloaded = simulate(Load(**{**vars(load), "frame_ms": 4.6}))
    assert overloaded.lost > 1.2 * outcome.lost, "three cannot do the work of four"


def test_a_record_and_its_tables(found: Any) -> None:
    record = json.loads(json.dumps(fleet.calculated(found, (10, 1000), seconds=3)))
    text = fleet_tables.everything(record)
    for said in ("| 1,000 | servers |", "`edge_ms`", "one of 8 GPUs dies", "cameras on devices:"):
        assert said in text
    edge_ms = {**found["assumptions"]["edge_ms"], "low": 500, "value": 500, "high": 500}
    slow = found["assumptions"] | {"edge_ms": edge_ms}
    record = fleet.calculated(found | {"assumptions": slow}, (10,), seconds=3)
    assert "too slow" in fleet_tables.everything(record)
