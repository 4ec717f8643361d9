"""The inference protocol that Triton, KServe and MLServer share ("V2", "Open Inference Protocol"),
with Triton's extension for binary tensors: a request as frames, frames as an answer.

A body is one JSON object; with the extension the tensors follow it as they lie in memory, and the
header Inference-Header-Content-Length says where. The model's input ``image`` is a frame (H, W) or
(H, W, C), or several of one size (N, H, W, C), of UINT8, UINT16, or FP32 in [0, 1]; its output
``restored`` is of the same type.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirnet_edge._typed import parse_json
from mirnet_edge._version import __version__
from mirnet_edge.facts import ModelFacts
from mirnet_edge.serve.options import Options, read_options, read_pixels
from mirnet_edge.serve.pictures import require_pixels
from mirnet_edge.serve.refusals import Refusal

HEADER = "inference-header-content-length"
INPUT, OUTPUT = "image", "restored"
VERSION = "1"
DTYPE_OF_NAME: dict[str, np.dtype[Any]] = {
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype("<u2"),
    "FP32": np.dtype("<f4"),
}
NAME_OF_DTYPE = {dtype: name for name, dtype in DTYPE_OF_NAME.items()}
MOST_JSON_BYTES = 16 << 20
"""Of numbers written out, which take ten times as much memory as they have digits."""
MOST_FRAMES = 64


@dataclass(frozen=True, eq=False)
class InferenceRequest:
    """What a client asks for.

    Attributes:
        id: which the answer has too.
        frames: of one size.
        has_batch: whether the tensor has a dimension for several frames.
        options: for all of them.
        is_binary: whether the answer's tensor is.
    """

    id: str | None
    frames: list[NDArray[Any]]
    has_batch: bool
    options: Options
    is_binary: bool


def server_facts() -> dict[str, Any]:
    """What the server says of itself."""
    return {
        "name": "mirnet_edge",
        "version": __version__,
        "extensions": ["binary_tensor_data"],
    }


def model_facts(name: str, facts: ModelFacts, engine: str) -> dict[str, Any]:
    """What a model is, as the protocol has it; the shapes are those of single frames."""
    tensor = {"datatype": "UINT8", "shape": [-1, -1]}
    given, restored = (
        {"name": tensor_name, **tensor, "shape": [-1, -1, channels]}
        for tensor_name, channels in ((INPUT, facts.in_channels), (OUTPUT, facts.out_channels))
    )
    return {
        "name": name,
        "versions": [VERSION],
        "platform": f"mirnet_edge_{engine.lower()}",
        "inputs": [given],
        "outputs": [restored],
        "parameters": {
            "task": facts.task,
            "scale": facts.scale,
            "noise_level": facts.noise_level,
        },
    }


def read_request(body: bytes, header: str | None, most_px: int) -> InferenceRequest:
    """Read the body of a request.

    Args:
        header: the value of `HEADER`, None where there is none.
        most_px: of all frames together.

    Raises:
        Refusal: the request is none of the protocol, or asks for what there is not.
    """
    length = len(body) if header is None else _header_length(header, len(body))
    if length > MOST_JSON_BYTES:
        raise Refusal(
            413,
            f"{length:,} bytes of JSON, and at most {MOST_JSON_BYTES:,} are read; send the tensor "
            "as binary data",
        )
    asked = _object(_parsed(body[:length]), "the request")
    name = asked.get("id")
    if name is not None and not isinstance(name, str):
        raise Refusal(400, f"id is {name!r:.60}; need text")
    parameters = _object(asked.get("parameters", {}), "parameters")
    frames, has_batch = _frames(asked, memoryview(body)[length:], most_px)
    pixels = parameters.get("pixels")
    if pixels is not None and not isinstance(pixels, str):
        raise Refusal(400, f"parameters.pixels is {pixels!r:.60}; need text")
    options = read_options(parameters, None if pixels is None else read_pixels(pixels))
    return InferenceRequest(name, frames, has_batch, options, _is_binary(asked, parameters))


def _header_length(text: str, size_bytes: int) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > 18 or int(text) > size_bytes:
        raise Refusal(
            400, f"{HEADER}: {text!r:.60}; need the length of the JSON, at most {size_bytes:,}"
        )
    return int(text)


def _parsed(content: bytes) -> Any:
    try:
        return parse_json(content)
    except ValueError as error:
        raise Refusal(400, f"the request is no JSON: {error}") from error


def _object(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise Refusal(400, f"{name} is {value!r:.60}; need an object")
    return value


def _frames(
    asked: Mapping[str, Any], binary: memoryview, most_px: int
) -> tuple[list[NDArray[Any]], bool]:
    inputs = asked.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1:
        found = f"{len(inputs)} of them" if isinstance(inputs, list) else f"{inputs!r:.60}"
        raise Refusal(400, f"inputs: need a list of one tensor, {INPUT!r}, not {found}")
    tensor = _object(inputs[0], "inputs[0]")
    if tensor.get("name") != INPUT:
        raise Refusal(400, f"there is no input {tensor.get('name')!r:.60}; there is {INPUT!r}")
    datatype = tensor.get("datatype")
    if not isinstance(datatype, str) or datatype not in DTYPE_OF_NAME:
        wanted = ", ".join(DTYPE_OF_NAME)
        raise Refusal(400, f"{INPUT} of datatype {datatype!r:.60}; need one of {wanted}")
    dtype, shape = DTYPE_OF_NAME[datatype], _shape(tensor.get("shape"), most_px)
    parameters = _object(tensor.get("parameters", {}), "inputs[0].parameters")
    if shared := sorted(name for name in parameters if name.startswith("shared_memory")):
        raise Refusal(400, f"inputs[0].parameters.{shared[0]}: there is no shared memory here")
    size = parameters.get("binary_data_size")
    if size is None:
        if len(binary):
            raise Refusal(400, f"{len(binary):,} bytes follow the JSON that no tensor claims")
        array = _array_of_numbers(tensor.get("data"), shape, dtype)
    else:
        array = _array_of_bytes(size, binary, shape, dtype)
    return (list(array), True) if len(shape) == 4 else ([array], False)


def _shape(value: Any, most_px: int) -> tuple[int, ...]:
    is_list = isinstance(value, list) and all(type(side) is int and side >= 0 for side in value)
    if not is_list or not 2 <= len(value) <= 4:
        raise Refusal(
            400, f"{INPUT} of shape {value!r:.80}; need [H, W], [H, W, C] or [N, H, W, C]"
        )
    count, height, width = (value[0], *value[1:3]) if len(value) == 4 else (1, *value[:2])
    if not 1 <= count <= MOST_FRAMES:
        raise Refusal(400, f"{count} frames of {INPUT}; need 1 to {MOST_FRAMES}")
    require_pixels(height, width, most_px // count)
    if len(value) > 2 and not 1 <= value[-1] <= 64:
        raise Refusal(400, f"{INPUT} of shape {value!r:.80}: channels come last")
    return tuple(value)


def _array_of_bytes(
    size: Any, binary: memoryview, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> NDArray[Any]:
    needed = math.prod(shape) * dtype.itemsize
    if size != needed or len(binary) != needed:
        raise Refusal(
            400,
            f"binary_data_size is {size!r:.60} and {len(binary):,} bytes follow the JSON, but "
            f"{dtype} {list(shape)} are {needed:,}; is {HEADER} right?",
        )
    return np.frombuffer(binary, dtype).reshape(shape)


def _array_of_numbers(data: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Of numbers in JSON, nested as the shape says or one after the other."""
    if not isinstance(data, list):
        raise Refusal(400, f"{INPUT}.data is {data!r:.60}; need a list of numbers, or binary data")
    try:
        numbers = np.array(data)
    except (ValueError, OverflowError, TypeError) as error:
        raise Refusal(400, f"{INPUT}.data is no array: {error}") from error
    if numbers.dtype.kind not in "iuf" or numbers.size != math.prod(shape):
        raise Refusal(
            400,
            f"{INPUT}.data has {numbers.size:,} items of {numbers.dtype}, but {list(shape)} are "
            f"{math.prod(shape):,} numbers",
        )
    if dtype.kind == "u":
        largest = np.iinfo(dtype).max
        with np.errstate(invalid="ignore"):
            whole = numbers.dtype.kind in "iu" or bool((numbers == np.rint(numbers)).all())
        if not whole or numbers.min() < 0 or numbers.max() > largest:
            raise Refusal(400, f"{INPUT}.data: need whole numbers from 0 to {largest}")
    with np.errstate(over="ignore"):
        return numbers.astype(dtype).reshape(shape)


def _is_binary(asked: Mapping[str, Any], parameters: Mapping[str, Any]) -> bool:
    """Whether the output is asked for as binary data, by itself or with all."""
    binary = parameters.get("binary_data_output", False)
    outputs = asked.get("outputs")
    if outputs is not None:
        if not isinstance(outputs, list) or len(outputs) > 1:
            raise Refusal(400, f"outputs is {outputs!r:.60}; need a list of {OUTPUT!r} alone")
        for output in outputs:
            asked_for = _object(output, "outputs[0]")
            if asked_for.get("name") != OUTPUT:
                name = asked_for.get("name")
                raise Refusal(400, f"there is no output {name!r:.60}; there is {OUTPUT!r}")
            own = _object(asked_for.get("parameters", {}), "outputs[0].parameters")
            for name in own:
                if name.startswith("shared_memory") or name == "classification":
                    raise Refusal(400, f"outputs[0].parameters.{name}: there is no such output")
            binary = own.get("binary_data", binary)
    if not isinstance(binary, bool):
        raise Refusal(400, f"binary data is asked for by {binary!r:.60}; need true or false")
    return binary


def write_answer(
    request: InferenceRequest, model: str, restored: list[NDArray[Any]]
) -> tuple[bytes, dict[str, str]]:
    """The body of an answer, and its headers."""
    array = np.stack(restored) if request.has_batch else restored[0]
    little = array.dtype.newbyteorder("<")
    output: dict[str, Any] = {
        "name": OUTPUT,
        "datatype": NAME_OF_DTYPE[little],
        "shape": list(array.shape),
    }
    answer: dict[str, Any] = {"model_name": model, "model_version": VERSION}
    if request.id is not None:
        answer["id"] = request.id
    answer["outputs"] = [output]
    if not request.is_binary:
        output["data"] = array.ravel().tolist()
        return json.dumps(answer).encode(), {"content-type": "application/json"}
    output["parameters"] = {"binary_data_size": array.nbytes}
    head = json.dumps(answer).encode()
    content = head + array.astype(little, copy=False).tobytes()
    return content, {"content-type": "application/octet-stream", HEADER: str(len(head))}
