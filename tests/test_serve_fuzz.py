"""The fast share of the fuzz of requests in `soak_requests`."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the extra serve is not installed")
pytest.importorskip("prometheus_client", reason="the extra serve is not installed")

import soak
from soak_requests import fuzz_requests


def test_every_request_is_answered_or_refused() -> None:
    found = fuzz_requests(0, 150)
    assert found["read"] > 10
    assert found["refused"] > 50


def test_what_goes_wrong_is_told_with_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise LookupError("raw")

    monkeypatch.setattr("mirnet_edge.serve.app.read_query", broken)
    (wrong,) = soak.fuzz(soak.REQUESTS, 7, 30, Path())["violations"]
    assert (wrong["kind"], wrong["seed"]) == ("requests", 7)
    assert "unexpected LookupError" in wrong["wrong"]
    assert "/restore" in wrong["wrong"]
