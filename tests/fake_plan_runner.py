"""Runs the plans of `fake_builder`, as fast and as well as the environment says."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import numpy as np


def _fault() -> str:
    """See `fake_builder.FAULT`."""
    return os.environ.get("FAKE_TENSORRT_FAULT", "")


class FakeTensorRTEngine:
    """Runs a fake plan on ONNX Runtime; ``FAKE_TENSORRT_TIMES`` (JSON: milliseconds by precision)
    and ``FAKE_TENSORRT_NOISE`` say how fast and how well."""

    graph_note = "no graphs here"

    def __init__(self, path: Path, *, trust: bool = False) -> None:
        import onnxruntime

        plan = json.loads(Path(path).read_bytes())
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(
            base64.b64decode(plan["onnx"]), options, providers=["CPUExecutionProvider"]
        )
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
            (output,) = self._session.run(None, {value.name: padded.astype(dtype)})
            outputs.append(output[: len(some)].astype(np.float32) + noise)
        if _fault() == "nan":
            outputs[-1][0, 0, 0, 0] = np.nan
        return np.concatenate(outputs)

    def measure(self, runs: int) -> tuple[list[float], list[float]]:
        times = json.loads(os.environ.get("FAKE_TENSORRT_TIMES", "{}"))
        graph_ms = times.get("int8" if self._int8 else "fp16", 1.0)
        return [graph_ms * 1.5] * runs, [] if _fault() == "nograph" else [graph_ms] * runs

    def close(self) -> None:
        pass
