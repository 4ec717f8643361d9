"""What tests of the service share: engines made of functions, a service of them, its test client,
and a server in a process of its own."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from command_line import ENVIRONMENT
from PIL import Image
from server_thread import served_by

from mirnet_edge.engines.fake import FakeEngine
from mirnet_edge.facts import ModelFacts
from mirnet_edge.serve.app import Service
from mirnet_edge.serve.asking import Limits
from mirnet_edge.serve.models import Models, ModelSpec
from mirnet_edge.serve.work import Work

LOCAL = "http://127.0.0.1:8091"
TOKEN = "open-sesame"
NOISY = ModelFacts(task="fake", size_multiple=4, min_size_px=4, noise_level=True)
DOUBLE = ModelFacts(task="fake", size_multiple=4, min_size_px=4, scale=2)
GRAY = ModelFacts(task="fake", size_multiple=4, min_size_px=4, in_channels=1, out_channels=1)


def inverting(tiles: np.ndarray) -> np.ndarray:
    return 1 - tiles


def slowly(seconds: float) -> Callable[[np.ndarray], np.ndarray]:
    def run(tiles: np.ndarray) -> np.ndarray:
        time.sleep(seconds)
        return tiles

    return run


class Failing:
    """An engine that fails when told to, and says why."""

    def __init__(self) -> None:
        self.is_failing = False

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        if self.is_failing:
            raise RuntimeError("the GPU is on fire")
        return tiles


def models(**engines: Any) -> Models:
    """By name; without any, one that inverts and others that differ."""
    named = engines or {
        "inverts": FakeEngine(inverting),
        "asks": FakeEngine(facts=NOISY),
        "doubles": FakeEngine(facts=DOUBLE),
        "gray": FakeEngine(inverting, facts=GRAY),
    }
    return Models([ModelSpec(name, engine) for name, engine in named.items()], seats=2)


@contextlib.contextmanager
def service(
    found: Models | None = None, threads: int = 2, queue: int = 8, limits: Limits | None = None
) -> Iterator[Service]:
    with (
        contextlib.closing(models() if found is None else found) as opened,
        contextlib.closing(Work(threads, queue)) as work,
    ):
        yield Service(opened, work, limits)


@contextlib.contextmanager
def served(made: Service, token: str | None = None, **options: Any) -> Iterator[str]:
    """The address of a server of a service, in a thread."""
    from mirnet_edge.serve.server import Server

    with served_by(Server(made, token, **options)) as address:
        yield address


@contextlib.contextmanager
def served_apart(*options: object) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address of a service of a fake engine in a process of its own, and that process; see
    `soak_service` for its options."""
    script = Path(__file__).with_name("soak_service.py")
    process = subprocess.Popen(
        [sys.executable, script, *map(str, options)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith("http://"), address or process.communicate()[1]
        yield address, process
    finally:
        process.terminate()
        process.communicate(timeout=60)


def noise(*shape: int, dtype: Any = np.uint8) -> np.ndarray:
    """Seeded random pixels."""
    random = np.random.default_rng(shape)
    if np.dtype(dtype).kind == "f":
        return random.random(shape, np.float32)
    return random.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def file_of(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    """An image as Pillow alone writes it."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def pixels_of(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def binary(array: np.ndarray, datatype: str = "UINT8", **parameters: Any) -> tuple[bytes, int]:
    """A request of the inference protocol with a binary tensor, and the length of its JSON."""
    tensor = {
        "name": "image",
        "datatype": datatype,
        "shape": list(array.shape),
        "parameters": {"binary_data_size": array.nbytes},
    }
    asked = {"inputs": [tensor], "parameters": {"binary_data_output": True, **parameters}}
    head = json.dumps(asked).encode()
    return head + array.tobytes(), len(head)
