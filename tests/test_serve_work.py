"""The service on sockets: how many requests it takes, slow and vanished clients, its end, load."""

from __future__ import annotations

import gc
import json
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from serving import file_of, models, noise, served, served_apart, service, slowly

pytest.importorskip("starlette", reason="the extra serve is not installed")
pytest.importorskip("prometheus_client", reason="the extra serve is not installed")

import soak_service

import mirnet_edge as me
from mirnet_edge.engines.fake import FakeEngine
from mirnet_edge.serve.app import Service
from mirnet_edge.serve.asking import Limits
from mirnet_edge.serve.refusals import Refusal
from mirnet_edge.serve.work import Work

PNG = file_of(noise(9, 14, 3))


class Gate:
    """A function of an engine that lets tiles through when it is open, and counts them."""

    def __init__(self) -> None:
        self.opened, self.begun = threading.Event(), threading.Semaphore(0)
        self.opened.set()
        self.count = 0

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        self.count += 1
        self.begun.release()
        assert self.opened.wait(30)
        return 1 - tiles


def gated(**options: Any) -> tuple[Gate, Any]:
    gate = Gate()
    found = models(gate=FakeEngine(gate))
    gate.count, gate.begun = 0, threading.Semaphore(0)  # but for the one that tried it
    gate.opened.clear()
    return gate, service(found, **options)


def post(address: str, body: bytes = PNG, path: str = "/restore") -> tuple[int, Any, bytes]:
    request = urllib.request.Request(address + path, body, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


def until(condition: Callable[[], Any], seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def connected(address: str) -> socket.socket:
    parts = urlsplit(address)
    return socket.create_connection((parts.hostname, parts.port), timeout=20)


def head(address: str, *headers: str) -> bytes:
    lines = ["POST /restore HTTP/1.1", f"host: {urlsplit(address).netloc}", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


def answer_on(at: socket.socket) -> tuple[int, dict[str, Any]]:
    """The status and JSON of an answer."""
    with at.makefile("rb") as file:
        status = int(file.readline().split()[1])
        headers = dict(
            line.decode().strip().lower().split(": ", 1) for line in iter(file.readline, b"\r\n")
        )
        return status, json.loads(file.read(int(headers["content-length"])))


# How many


def test_what_is_too_much_is_told_to_come_again() -> None:
    gate, made = gated(threads=1, queue=2)
    with made as found, served(found) as address, ThreadPoolExecutor(8) as pool:
        taken = [pool.submit(post, address) for _ in range(3)]
        until(lambda: found.work.present == 3)
        assert gate.begun.acquire(timeout=10)
        for _ in range(4):
            status, headers, body = post(address)
            assert status == 503
            assert 1 <= int(headers["retry-after"]) <= 60
            told = json.loads(body)
            assert "3 requests are being restored or wait" in told["error"]
            assert told["request_id"] == headers["x-request-id"]
        with urllib.request.urlopen(f"{address}/health") as answer:
            assert answer.status == 200, "how it is can always be asked"
        gate.opened.set()
        assert [future.result(20)[0] for future in taken] == [200] * 3
        until(lambda: found.work.present == 0)
        assert post(address)[0] == 200


def test_a_full_house_reads_no_body() -> None:
    gate, made = gated(threads=1, queue=0)
    with made as found, served(found) as address, ThreadPoolExecutor(1) as pool:
        taken = pool.submit(post, address)
        assert gate.begun.acquire(timeout=10)
        with connected(address) as at:
            at.sendall(head(address, "content-length: 60000000"))
            assert answer_on(at)[0] == 503, "and not one byte of it was sent"
        gate.opened.set()
        assert taken.result(20)[0] == 200


def test_too_large_is_told_before_it_is_sent() -> None:
    with service(limits=Limits(body_bytes=1000)) as found, served(found) as address:
        with connected(address) as at:
            at.sendall(head(address, "content-length: 1001"))
            status, told = answer_on(at)
            assert (status, "1,001 bytes" in told["error"]) == (413, True)
        with connected(address) as at:  # of a length that nobody told
            at.sendall(head(address, "transfer-encoding: chunked"))
            at.sendall(b"400\r\n" + bytes(1024) + b"\r\n")
            status, told = answer_on(at)
            assert (status, "more than the 1,000 bytes" in told["error"]) == (413, True)
        assert found.work.present == 0


def test_a_slow_body_frees_its_place() -> None:
    limits = Limits(body_s=0.2)
    with service(threads=1, queue=0, limits=limits) as found, served(found) as address:
        with connected(address) as at:
            at.sendall(head(address, "content-length: 100") + bytes(60))
            status, told = answer_on(at)
            assert (status, "60 bytes came in 0.2 s" in told["error"]) == (408, True)
        until(lambda: found.work.present == 0)
        assert post(address)[0] == 200


def test_no_http_is_no_crash() -> None:
    with service() as found, served(found) as address:
        for bad in (
            b"hello\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 100_000 + b"\r\n\r\n",
            b"POST /restore HTTP/1.1\r\nhost: a\r\ncontent-length: ten\r\n\r\n",
        ):
            with connected(address) as at:
                at.sendall(bad)
                assert at.recv(1000).split()[1] in (b"400", b"403"), bad[:40]
        assert post(address)[0] == 200


# Who goes away


def test_who_goes_away_before_his_turn_is_forgotten() -> None:
    gate, made = gated(threads=1, queue=4)
    with made as found, served(found) as address, ThreadPoolExecutor(1) as pool:
        taken = pool.submit(post, address)
        assert gate.begun.acquire(timeout=10)
        with connected(address) as at:
            at.sendall(head(address, f"content-length: {len(PNG)}") + PNG)
            until(lambda: found.work.present == 2)
        until(lambda: found.work.present == 1)
        gate.opened.set()
        assert taken.result(20)[0] == 200
        assert post(address)[0] == 200
    assert gate.count == 2


def test_who_goes_away_in_his_turn_keeps_his_place_until_it_is_over() -> None:
    gate, made = gated(threads=1, queue=0)
    with made as found, served(found) as address:
        with connected(address) as at:
            at.sendall(head(address, f"content-length: {len(PNG)}") + PNG)
            assert gate.begun.acquire(timeout=10)
        time.sleep(0.2)
        assert found.work.present == 1
        assert post(address)[0] == 503
        gate.opened.set()
        until(lambda: found.work.present == 0)
        assert post(address)[0] == 200


def test_a_body_that_is_cut_off_frees_its_place() -> None:
    with service(threads=1, queue=0) as found, served(found) as address:
        with connected(address) as at:
            at.sendall(head(address, "content-length: 100") + bytes(60))
            until(lambda: found.work.present == 1)
        until(lambda: found.work.present == 0)
        assert post(address)[0] == 200


def test_a_cancelled_job_is_not_held() -> None:
    class Body:
        pass

    go_on = threading.Event()
    with closing(Work(1, 2)) as work:
        first, second = work.enter(), work.enter()
        running: Future[bool] = work.start(first, lambda: go_on.wait(20))
        body = Body()
        gone = weakref.ref(body)
        work.start(second, lambda kept=body: kept)
        del body
        second.leave()
        gc.collect()
        assert gone() is None, "though the pool has it in its list"
        assert work.present == 1
        go_on.set()
        assert running.result(20)
        first.leave()
        assert work.present == 0


def test_room_that_cannot_be() -> None:
    with pytest.raises(me.ConfigError, match="threads=0: need at least 1"):
        Work(0, 3)
    with pytest.raises(me.ConfigError, match="queue=-1: need at least 0"):
        Work(1, -1)


def test_when_to_come_again_follows_the_times() -> None:
    with closing(Work(1, 1)) as work:
        for _ in range(60):
            place = work.enter()
            work.start(place, lambda: None).result(10)
            place.leave()
        assert work.retry_s == 1
        work._job_s = 20.0
        assert work.retry_s == 20
        work._job_s = 1000.0
        assert work.retry_s == 60
        places = [work.enter(), work.enter()]
        with pytest.raises(Refusal, match="come again in 60 s"):
            work.enter()
        for place in places:
            place.leave()


# Its end


def test_sigterm_finishes_what_was_begun() -> None:
    with (
        served_apart("--engine-ms", 700, "--threads", 1) as (address, process),
        ThreadPoolExecutor(3) as pool,
    ):
        begun = [pool.submit(post, address) for _ in range(3)]
        figures = f"{address}/metrics"
        until(lambda: b"mirnet_edge_requests_present 3.0" in urllib.request.urlopen(figures).read())
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        with pytest.raises(OSError, match="refused"):
            connected(address).close()
        assert [future.result(20)[0] for future in begun] == [200] * 3
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_before_its_end_it_is_not_ready_and_works() -> None:
    def status(path: str) -> int:
        try:
            with urllib.request.urlopen(address + path) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    with service() as found, ThreadPoolExecutor(1) as pool:
        context = served(found, drain_s=1.5)
        address = context.__enter__()
        assert status("/ready") == 200
        ended = pool.submit(context.__exit__, None, None, None)
        until(lambda: found.is_draining)
        assert status("/ready") == 503
        assert status("/health") == 200
        assert post(address)[0] == 200
        ended.result(20)
        with pytest.raises(OSError, match="refused"):
            connected(address).close()


# Load


def test_load() -> None:
    """64 clients without a pause: the short share of ``soak_service``."""
    seconds = 4.0
    with served_apart("--engine-ms", 10, "--queue", 4) as (address, process):
        found = soak_service.load(address, process.pid, seconds)
    assert found.odd == []
    assert found.statuses.keys() == {200, 503}
    done = found.statuses[200]
    assert done > 20
    # Who is let in waits for those in front, 6 at most, and not for 64 clients.
    assert found.p(99) / 1000 < 4 * 6 * seconds / done + 0.2, found.summary()
    assert found.grown_bytes < 12 << 20


def test_requests_at_once_are_each_others_neighbours_only() -> None:
    """Frames of many sizes through common batches: each client gets its own."""
    found = models(fake=FakeEngine(lambda tiles: slowly(0.002)(1 - tiles)))
    with service(found, threads=6, queue=30) as made, served(made) as address:

        def ask(number: int) -> bool:
            pixels = noise(16 + number % 3, 20, 3) // 2 + np.uint8(number)
            status, _, body = post(address, file_of(pixels))
            return status == 200 and np.array_equal(_pixels(body), 255 - pixels)

        with ThreadPoolExecutor(12) as pool:
            assert all(pool.map(ask, range(60)))
    assert isinstance(made, Service)


def _pixels(content: bytes) -> np.ndarray:
    from serving import pixels_of

    return pixels_of(content)
