"""Runs the plans of `fake_builder`, as fast and as well as the environment says."""

from __future__ import annotations

import base64
import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def _fault() -> str:
    """See `fake_builder.FAULT`."""
    return os.environ.get("FAKE_TENSORRT_FAULT", "")


@functools.lru_cache(maxsize=16)
def session(encoded: str) -> Any:
    """On one thread of the CPU, of an encoded graph."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        base64.b64decode(encoded), options, providers=["CPUExecutionProvider"]
    )


class FakeTensorRTEngine:
    """Runs a fake plan on ONNX Runtime; ``FAKE_TENSORRT_TIMES`` (JSON: milliseconds by precision)
    and ``FAKE_TENSORRT_NOISE`` say how fast and how well."""

    graph_note = "no graphs here"

    def __init__(self, path: Path, *, trust: bool = False) -> None:
        plan = json.loads(Path(path).read_bytes())
        self._session = session(plan["onnx"])
        self._int8 = any(
            layer["Inputs"][0]["Format/Datatype"].count("Int8") for layer in plan["layers"]
        )

    def run(self, tiles: np.ndarray) -> np.ndarray:
        value = self._session.get_inputs()[0]
        dtype = np.float16 if value.type == "tensor(float16)" else np.float32
        batch = value.shape[0]
        noise = float(os.environ.get("FAKE_TENSORRT_NOISE", "0")) if self._int8 else 0.0
        outputs = []
        for first in range(0, len(tiles), batch):
            some = tiles[first : first + batch]
            padded = np.concatenate(
                [some, np.zeros((batch - len(some), *some.shape[1:]), np.float32)]
            )
            feeds = {value.name: padded.astype(dtype), **self._own_statistics()}
            output = self._session.run(None, feeds)[0]
            outputs.append(output[: len(some)].astype(np.float32) + noise)
        if _fault() == "nan":
            outputs[-1][0, 0, 0, 0] = np.nan
        return np.concatenate(outputs)

    def _own_statistics(self) -> dict[str, np.ndarray]:
        """What a gather plan takes beside the image to restore tiles with their own."""
        sides = {value.name: value.shape for value in self._session.get_inputs()[1:]}
        feeds = {name: np.zeros(shape, np.float32) for name, shape in sides.items()}
        for name in {"rows", "columns"} & set(feeds):
            feeds[name][...] = len(feeds[name]) / feeds[name].size
        if feeds:
            feeds["own"][...] = 1
        return feeds

    def measure(self, runs: int) -> tuple[list[float], list[float]]:
        times = json.loads(os.environ.get("FAKE_TENSORRT_TIMES", "{}"))
        graph_ms = times.get("int8" if self._int8 else "fp16", 1.0)
        return [graph_ms * 1.5] * runs, [] if _fault() == "nograph" else [graph_ms] * runs

    def __enter__(self) -> FakeTensorRTEngine:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run_given(self, tiles: np.ndarray, vectors: Mapping[str, np.ndarray]) -> np.ndarray:
        """One tile after another, each with its own vectors."""
        image = self._session.get_inputs()[0]
        dtype = np.float16 if image.type == "tensor(float16)" else np.float32
        outputs = []
        for index, tile in enumerate(tiles):
            batch = np.broadcast_to(tile, image.shape).astype(dtype)
            given = {name: stack[index : index + 1] for name, stack in vectors.items()}
            output = self._session.run(None, {image.name: batch, **given})[0]
            outputs.append(output[0].astype(np.float32))
        return np.stack(outputs)
