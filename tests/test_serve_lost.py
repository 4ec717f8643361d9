"""The service on a GPU that is lost: the engine is opened again once, requests are restored then,
and what comes meanwhile is told to come again."""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from edge_networks import edge_network
from fake_gpu import FakeGpu, LogicError
from fake_tensorrt import write_plans
from serving import LOCAL, file_of, noise, pixels_of, service

import mirnet_edge as me
from mirnet_edge.access import listening
from mirnet_edge.serve.models import Models, ModelSpec, ServedModel
from mirnet_edge.serve.options import Options

pytest.importorskip("starlette", reason="the extra serve is not installed")
pytest.importorskip("prometheus_client", reason="the extra serve is not installed")

from starlette.testclient import TestClient

from mirnet_edge.serve.server import serve

FRAME = noise(20, 30, 3)


class Losing:
    """Makes a GPU lose itself with its next run, as a kernel does that writes where it must not."""

    def __init__(self, gpu: FakeGpu, trt: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        self.next = False
        compute = trt.IExecutionContext._compute

        def computed(context: object) -> None:
            if self.next:
                self.next, gpu.lost = False, True
                raise LogicError("cuLaunchKernel failed: an illegal memory access was encountered")
            compute(context)

        monkeypatch.setattr(trt.IExecutionContext, "_compute", computed)


@pytest.fixture
def losing(gpu: FakeGpu, trt: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Losing:
    return Losing(gpu, trt, monkeypatch)


@pytest.fixture
def plan(trt: ModuleType, tmp_path: Path) -> Path:
    return write_plans(tmp_path, edge_network(), (48, 96), 2)


@pytest.fixture
def models(plan: Path) -> Iterator[Models]:
    opened = Models([ModelSpec("one", plan), ModelSpec("two", plan)])
    yield opened
    opened.close()


def restored(model: ServedModel) -> np.ndarray:
    return model.restore(FRAME, Options()).pixels


def test_a_request_finds_it_out_and_is_restored(
    models: Models, losing: Losing, gpu: FakeGpu
) -> None:
    one, two = models
    expected = restored(one)
    for number in range(2):
        losing.next = True
        assert np.array_equal(restored(one), expected)
        assert np.array_equal(restored(two), expected), "what was on the same GPU is lost with it"
        assert gpu.resets == number + 1, "the second takes what the first made anew"
        assert (one.reopened, two.reopened) == (number + 1, number + 1)
    assert not one.is_broken
    assert one.failures == two.failures == 0


def test_several_threads_open_it_once(plan: Path, losing: Losing, gpu: FakeGpu) -> None:
    model = ServedModel(ModelSpec("m", plan), seats=4, batch=2)
    expected = restored(model)
    losing.next = True
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: restored(model), range(8)))
    assert all(np.abs(one.astype(int) - expected).max() <= 1 for one in found)
    assert (gpu.resets, model.reopened) == (1, 1)
    model.close()


def test_one_that_does_not_come_back_is_broken_until_it_does(
    models: Models, losing: Losing, gpu: FakeGpu
) -> None:
    one, _ = models
    expected = restored(one)
    gpu.broken["cuDevicePrimaryCtxReset"] = 700
    losing.next = True
    with pytest.raises(me.DeviceLostError, match="does not come back"):
        restored(one)
    assert one.is_broken
    assert (one.reopened, one.failures) == (0, 1)
    gpu.broken.clear()
    assert np.array_equal(restored(one), expected)
    assert not one.is_broken


def test_the_service_ends_where_only_another_process_has_it_again(
    models: Models, losing: Losing, gpu: FakeGpu
) -> None:
    gpu.broken["cuDevicePrimaryCtxRetain"] = 700
    with service(models) as made, listening("127.0.0.1", 0) as at, ThreadPoolExecutor(1) as pool:
        ending = pool.submit(serve, made, at)
        losing.next = True
        url = f"http://127.0.0.1:{at.getsockname()[1]}/restore"
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(url, file_of(FRAME), timeout=60)
        assert b"Start the process again" in refused.value.read()
        with pytest.raises(me.DeviceLostError, match="does not come back"):
            ending.result(60)


def test_meanwhile_others_are_told_to_come_again(
    models: Models, losing: Losing, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = models
    expected = restored(one)
    begun, go_on = threading.Event(), threading.Event()
    reopen = me.Restorer.reopen

    def slowly(restorer: me.Restorer) -> None:
        begun.set()
        assert go_on.wait(60)
        reopen(restorer)

    monkeypatch.setattr(me.Restorer, "reopen", slowly)
    with service(models) as made, ThreadPoolExecutor(1) as pool:
        client = TestClient(made.app(), base_url=LOCAL)
        losing.next = True
        first = pool.submit(client.post, "/restore", content=file_of(FRAME))
        assert begun.wait(60)
        answers: dict[str, Any] = {
            path: client.get(path)
            for path in ("/ready", "/v2/models/one/ready", "/health", "/v2/models/two/ready")
        }
        answers["/restore"] = client.post("/restore", content=file_of(FRAME))
        go_on.set()
        answer = first.result(60)
        assert np.array_equal(pixels_of(answer.content), expected)
        assert client.get("/ready").status_code == 200
        figures = client.get("/metrics").text
    for path in ("/ready", "/v2/models/one/ready", "/restore"):
        assert (answers[path].status_code, answers[path].headers["retry-after"]) == (503, "5")
        assert "one was lost, and is being opened again" in answers[path].json()["error"]
    assert answers["/health"].status_code == 200, "no reason to end the process"
    assert answers["/v2/models/two/ready"].status_code == 200
    assert 'mirnet_edge_model_reopened{model="one"} 1.0' in figures


def test_an_engine_that_fails_without_losing_it_stays(
    models: Models, gpu: FakeGpu, trt: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = models
    began = time.monotonic()

    def fails(context: object) -> None:
        raise me.EngineError("the network is on fire")

    with monkeypatch.context() as patch:
        patch.setattr(trt.IExecutionContext, "_compute", fails)
        with pytest.raises(me.EngineError, match="on fire"):
            restored(one)
    assert (gpu.resets, one.reopened, one.failures) == (0, 0, 1)
    restored(one)
    assert one.failures == 0
    assert time.monotonic() - began < 60
