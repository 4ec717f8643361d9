"""Requests that a service is fuzzed with: near to right ones, and nothing like them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from serving import LOCAL, binary, file_of, models, noise, service

from mirnet_edge.serve.asking import Limits

LIMITS = Limits(body_bytes=20_000, pixels=1024)
PATHS = (
    *("/restore", "/v2/models/inverts/infer", "/v2/models/doubles/infer"),
    *("/v2/models/gray/versions/1/infer", "/v2/models/asks/infer", "/models", "/metrics", "/"),
)
FILES = [
    *(file_of(noise(7, 9, 3), kind) for kind in ("PNG", "JPEG", "WEBP", "GIF")),
    file_of(noise(7, 9, dtype=np.uint16)),
    *(binary(noise(5, 4, 3))[0], noise(5, 4, 3).tobytes(), noise(6, 4).tobytes()),
]
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 300),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["image", "restored", "UINT8", "FP32", "auto", "frame", "nv12", "1"]),
)
TEXT = st.one_of(
    st.sampled_from(
        [
            *("", "0", "1", "0.5", "-1", "1e999", "nan", "auto", "tile", "frame", "gray", "none"),
            *("5,4,3", "6,4", "5,4", "0,4,3", "9999999,9999999", "uint8", "float32", "uint16"),
            *("nv12", "bgr", "nv12 bt601 full", "image/png", "image/jpeg;q=0.5", "*/*", "gzip"),
        ]
    ),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12),
)
NAMES = ("model", "noise", "strength", "statistics", "quality", "other")
HEADERS = (
    *("frame-shape", "frame-dtype", "frame-pixels", "accept", "content-encoding", "x-request-id"),
    *("inference-header-content-length", "origin", "content-type"),
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A file or a raw body with a few bytes that are not its own."""
    body = bytearray(draw(st.sampled_from(FILES)))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(body)))
        body[place : place + draw(st.integers(0, 8))] = draw(st.binary(max_size=8))
    return bytes(body)


@st.composite
def inference(draw: st.DrawFn) -> bytes:
    """JSON of a request of the inference protocol, of which some is something else."""
    nested = st.recursive(ODD, lambda inner: st.lists(inner, max_size=4), max_leaves=12)
    shape = draw(st.lists(st.integers(0, 5), min_size=1, max_size=5))
    count = int(np.prod(shape))
    tensor: dict[str, Any] = {
        "name": "image",
        "datatype": draw(st.sampled_from(["UINT8", "UINT16", "FP32", "BYTES"])),
        "shape": shape,
        "data": list(range(count))[:4000],
    }
    asked: dict[str, Any] = {"inputs": [tensor]}
    odd = st.dictionaries(st.sampled_from([*NAMES, "pixels", "binary_data_output"]), nested)
    if draw(st.booleans()):
        asked["parameters"] = draw(odd)
    if draw(st.booleans()):
        asked["outputs"] = [{"name": "restored", "parameters": draw(odd)}]
    for place in (tensor, asked):
        if draw(st.booleans()):
            names = [*place, "parameters", "id", "outputs"]
            place[draw(st.sampled_from(names))] = draw(nested)
    return json.dumps(asked).encode()


BODIES = st.one_of(damaged(), inference(), st.binary(max_size=200))


def fuzz_requests(number: int, inputs: int) -> dict[str, Any]:
    """Send requests; how many were answered and refused. An AssertionError where one is neither,
    or the service is not as before."""
    from starlette.testclient import TestClient

    found = {"read": 0, "refused": 0}
    with service(models(), limits=LIMITS) as made:
        client = TestClient(made.app(), base_url=LOCAL)

        @seed(number)
        @settings(
            max_examples=inputs,
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(
            st.sampled_from(["POST", "POST", "POST", "GET", "PUT"]),
            st.sampled_from(PATHS),
            st.one_of(st.just([]), st.lists(st.tuples(st.sampled_from(NAMES), TEXT), max_size=2)),
            st.one_of(st.just({}), st.dictionaries(st.sampled_from(HEADERS), TEXT, max_size=3)),
            BODIES,
        )
        def ask(method: str, path: str, query: Any, headers: Any, body: bytes) -> None:
            answer = client.request(
                method, path, params=query or None, headers=headers, content=body
            )
            assert answer.status_code == 200 or 400 <= answer.status_code < 500, answer.text
            if answer.status_code == 200:
                found["read"] += 1
            else:
                assert len(answer.json()["error"]) > 5
                found["refused"] += 1
            assert made.work.present == 0

        ask()
        assert client.get("/health").status_code == 200
    return found
