"""What a Triton server does with a repository, as far as tests need it: it parses ``config.pbtxt``
with Triton's own protobuf, holds requests and answers against it, and runs the Python backend's
models with a stand-in for the module that they import.

Written by the source and documentation of the Python backend; no server has run here.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

NUMPY = {"TYPE_UINT8": "uint8", "TYPE_UINT16": "uint16", "TYPE_FP32": "float32",
         "TYPE_FP16": "float16"}  # fmt: skip


def _module(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parsed(config: Path) -> Any:
    """A ``config.pbtxt`` as the message ModelConfig; fails where Triton's protobuf would."""
    pytest.importorskip("google.protobuf")
    from google.protobuf import text_format

    package = importlib.util.find_spec("tritonclient")
    if package is None or not package.submodule_search_locations:
        pytest.skip("tritonclient is not installed")
    # By its file: the package around it wants gRPC, which the message does not.
    folder = Path(package.submodule_search_locations[0]) / "grpc"
    message = _module("model_config_pb2", folder / "model_config_pb2.py").ModelConfig()
    return text_format.Parse(config.read_text("ascii"), message)


def kind(tensor: Any) -> str:
    """The numpy dtype of a tensor of a configuration."""
    return NUMPY[tensor.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[
        tensor.data_type
    ].name]  # fmt: skip


class Tensor:
    def __init__(self, name: str, array: np.ndarray) -> None:
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray:
        return self._array


class TritonError:
    INTERNAL, INVALID_ARG = "INTERNAL", "INVALID_ARG"

    def __init__(self, message: str, code: str = INTERNAL) -> None:
        self.text, self.code = message, code


class InferenceResponse:
    def __init__(self, output_tensors: Sequence[Tensor] = (), error: Any = None) -> None:
        self.tensors, self.error = list(output_tensors), error


class Request:
    def __init__(self, image: np.ndarray, **parameters: Any) -> None:
        self.inputs = {"image": Tensor("image", image)}
        self._parameters = parameters

    def parameters(self) -> str:
        return json.dumps(self._parameters) if self._parameters else ""


class OldRequest:
    """Of a release whose requests have no parameters."""

    def __init__(self, image: np.ndarray) -> None:
        self.inputs = {"image": Tensor("image", image)}


def get_input_tensor_by_name(request: Any, name: str) -> Tensor | None:
    found: Tensor | None = request.inputs.get(name)
    return found


class Model:
    """One model of a repository, of the Python backend."""

    def __init__(self, folder: Path, version: str = "1", device: int | None = None) -> None:
        from google.protobuf.json_format import MessageToJson

        self.config = parsed(folder / "config.pbtxt")
        assert (self.config.name, self.config.backend) == (folder.name, "python")
        script = folder / version / self.config.default_model_filename
        self.model = _module("model", script).TritonPythonModel()
        self.model.initialize(
            {
                "model_config": MessageToJson(self.config, preserving_proto_field_name=True),
                "model_repository": str(folder),
                "model_version": version,
                "model_name": folder.name,
                "model_instance_kind": "CPU" if device is None else "GPU",
                "model_instance_device_id": str(device or 0),
            }
        )
        self.warmed = [self._warmed(sample) for sample in self.config.model_warmup]

    def _warmed(self, sample: Any) -> np.ndarray:
        zeros = sample.inputs["image"]
        assert zeros.zero_data
        return self.one(np.zeros((sample.batch_size, *zeros.dims), kind(zeros)))

    def all(self, *requests: Any) -> list[Any]:
        """Requests that come together."""
        for request in requests:
            self._check(request.inputs["image"].as_numpy(), self.config.input[0])
        answers = self.model.execute(requests)
        assert len(answers) == len(requests)
        for answer in answers:
            if answer.error is None:
                self._check(answer.tensors[0].as_numpy(), self.config.output[0])
        return list(answers)

    def one(self, image: np.ndarray, **parameters: Any) -> np.ndarray:
        (answer,) = self.all(Request(image, **parameters))
        assert answer.error is None, answer.error.text
        found: np.ndarray = answer.tensors[0].as_numpy()
        return found

    def refused(self, image: np.ndarray, **parameters: Any) -> tuple[str, str]:
        """The code and message of an error."""
        (answer,) = self.all(Request(image, **parameters))
        assert answer.error is not None
        assert answer.tensors == []
        return answer.error.code, answer.error.text

    def _check(self, array: np.ndarray, tensor: Any) -> None:
        assert array.dtype == kind(tensor)
        assert 1 <= len(array) <= self.config.max_batch_size
        assert len(array.shape) == len(tensor.dims) + 1, (array.shape, tensor.dims)
        sides = zip(array.shape[1:], tensor.dims)
        assert all(wanted in (-1, side) for side, wanted in sides), (array.shape, tensor.dims)


@contextmanager
def loaded(folder: Path, version: str = "1", device: int | None = None) -> Iterator[Model]:
    """A model of the Python backend, as a server has it."""
    name = "triton_python_backend_utils"
    module: Any = ModuleType(name)
    for item in (Tensor, TritonError, InferenceResponse, get_input_tensor_by_name):
        setattr(module, item.__name__, item)
    assert name not in sys.modules
    sys.modules[name] = module
    try:
        model = Model(folder, version, device)
        try:
            yield model
        finally:
            model.model.finalize()
    finally:
        del sys.modules[name]
