"""What runs in Triton's Python backend: requests for whole frames, restored by `Restorer`.

The backend makes one process for each instance, imports ``model.py`` of the version and calls the
class below. Its own module, ``triton_python_backend_utils``, is there alone.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirnet_edge.errors import ConfigError, MirnetEdgeError, first_line
from mirnet_edge.serve.inference import INPUT, OUTPUT
from mirnet_edge.serve.models import ModelSpec, Restored, ServedModel
from mirnet_edge.serve.options import Options, read_options, read_pixels
from mirnet_edge.serve.pictures import require_pixels
from mirnet_edge.serve.refusals import Refusal, refusal_of
from mirnet_edge.serve.triton.settings import FrameSettings

log = logging.getLogger(__name__)
MODELS = ("model.onnx", "model.engine")
"""In the folder of a version, one of them."""


class TritonPythonModel:
    """Restores frames: ``image`` (N, H, W, C) to ``restored``, N frames of one size a request."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the model of this version.

        Args:
            args: ``model_config`` (JSON), ``model_repository`` (the model's folder),
                ``model_version``, ``model_instance_kind`` and ``model_instance_device_id``.

        Raises:
            MirnetEdgeError: it cannot be opened, or a parameter cannot be; Triton shows it.
        """
        self._triton = importlib.import_module("triton_python_backend_utils")
        config = json.loads(args["model_config"])
        self._settings = FrameSettings.of(config.get("parameters", {}))
        self._pixels = self._settings.pixel_format
        self._has_batches = int(config.get("max_batch_size", 0)) > 0
        if args.get("model_instance_kind") == "GPU":
            show_only(int(args["model_instance_device_id"]))
        model = model_file(Path(args["model_repository"]), args["model_version"])
        workers = self._settings.workers
        # `tuned` is for the device that it was found on, and a cache that a server may not have.
        self._model = ServedModel(
            ModelSpec(args.get("model_name", model.parent.parent.name), str(model)),
            seats=workers,
            tuned=False,
            **self._settings.restoring,
        )
        self._threads = ThreadPoolExecutor(workers, "mirnet-edge")

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Restore the frames of several requests, as many at once as there are workers; each has
        its own answer, or its own error."""
        begun = [self._begun(request) for request in requests]
        return [self._answer(frames) for frames in begun]

    def _begun(self, request: Any) -> list[Future[Restored]] | Exception:
        """The frames of a request on their way; or what is wrong with it."""
        try:
            options = self._options(request)
            image = self._triton.get_input_tensor_by_name(request, INPUT)
            if image is None:
                raise Refusal(400, f"there is no input {INPUT!r}")
            frames = image.as_numpy()
            frames = frames if self._has_batches else frames[None]
            self._require_room(frames)
            return [self._threads.submit(self._model.restore, frame, options) for frame in frames]
        except (Refusal, MirnetEdgeError) as error:
            return error

    def _options(self, request: Any) -> Options:
        # Older releases have no parameters of requests.
        text = request.parameters() if hasattr(request, "parameters") else ""
        given = json.loads(text) if text else {}
        pixels = given.get("pixels")
        if pixels is not None and not isinstance(pixels, str):
            raise Refusal(400, f"parameters.pixels is {pixels!r:.60}; need text")
        return read_options(given, self._pixels if pixels is None else read_pixels(pixels))

    def _require_room(self, frames: NDArray[Any]) -> None:
        """Refuse what is too large; a frame of more is a list of more."""
        scale = self._model.facts.scale
        if frames.ndim < 3:
            raise Refusal(400, f"{INPUT} of shape {frames.shape}; need frames (H, W, C)")
        height, width = (side * scale for side in frames.shape[1:3])
        require_pixels(height, width, self._settings.max_pixels)

    def _answer(self, begun: list[Future[Restored]] | Exception) -> Any:
        try:
            if isinstance(begun, Exception):
                raise begun
            results = [frame.exception() for frame in begun]  # all of them end before one is told
            if failed := next(filter(None, results), None):
                raise failed
            restored = [frame.result().pixels for frame in begun]
            array = np.stack(restored) if self._has_batches else restored[0]
            tensor = self._triton.Tensor(OUTPUT, np.ascontiguousarray(array))
            return self._triton.InferenceResponse(output_tensors=[tensor])
        except (Refusal, MirnetEdgeError) as error:
            refusal = error if isinstance(error, Refusal) else refusal_of(error)
            return self._refused(refusal.status, refusal.message)
        except Exception as error:
            log.exception("a request failed")
            return self._refused(500, f"{type(error).__name__}: {first_line(error)}")

    def _refused(self, status: int, message: str) -> Any:
        """An error with the code that Triton turns into a status of HTTP, where it has codes."""
        kind = self._triton.TritonError
        name = "INVALID_ARG" if status < 500 else "INTERNAL"
        code = getattr(kind, name, None)
        error = kind(message) if code is None else kind(message, code)
        return self._triton.InferenceResponse(output_tensors=[], error=error)

    def finalize(self) -> None:
        """Close the model, when what was begun is done."""
        self._threads.shutdown()
        self._model.close()


def model_file(folder: Path, version: str) -> Path:
    """The model of a version.

    Raises:
        ConfigError: there is none.
    """
    for name in MODELS:
        if (path := folder / version / name).is_file():
            return path
    raise ConfigError(
        f"{folder / version}: there is neither of {', '.join(MODELS)}; write it again"
    )


def show_only(device: int) -> None:
    """Let this process see one GPU, which is then its first: before anything has started CUDA."""
    shown = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    os.environ["CUDA_VISIBLE_DEVICES"] = shown[device] if device < len(shown) else str(device)
