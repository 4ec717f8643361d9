"""What the service answers, as an OpenAPI document and as a page of it."""

from __future__ import annotations

from html import escape
from typing import Any

from mirnet_edge._version import __version__
from mirnet_edge.frames.pixel_formats import CHANNELS
from mirnet_edge.serve.inference import DTYPE_OF_NAME, HEADER, INPUT, OUTPUT
from mirnet_edge.serve.options import STATISTICS
from mirnet_edge.serve.pictures import DTYPE, DTYPES, KINDS, PIXELS, RAW, SHAPE

Json = dict[str, Any]
FORMATS = sorted({*CHANNELS, "nv12", "i420"})
BYTES = {"type": "string", "format": "binary"}
ERROR = {"$ref": "#/components/schemas/Error"}
NUMBERS = {
    "413": "The body, or its frame, is larger than what is taken.",
    "422": "The picture cannot be decoded, or not be restored as asked.",
    "500": "The engine failed.",
    "503": "As many requests are there as there is room for: come again after Retry-After seconds.",
}


def _parameter(name: str, where: str, schema: Json, what: str) -> Json:
    return {
        "name": name,
        "in": where,
        "required": where == "path",
        "schema": schema,
        "description": what,
    }


def _answers(what: str, content: Json, errors: Json | None = None) -> Json:
    """The answer, and the errors that any request may have besides."""
    found = {"200": {"description": what, "content": content}}
    for status, why in (errors or {}).items():
        found[status] = {"description": why, "content": {"application/json": {"schema": ERROR}}}
    return found


def _asked(summary: str, schema: Json | None = None, errors: Json | None = None) -> Json:
    content = {"application/json": {"schema": schema or {"type": "object"}}}
    return {"get": {"summary": summary, "responses": _answers(summary, content, errors)}}


def _restore(body_bytes: int, pixels: int) -> Json:
    level = {"oneOf": [{"const": "auto"}, {"type": "number", "minimum": 0, "maximum": 100}]}
    unit = {"type": "number", "minimum": 0, "maximum": 1, "default": 1}
    quality = {"type": "integer", "minimum": 1, "maximum": 100}
    shape = {"type": "string", "examples": ["1080,1920,3"]}
    dtype = {"enum": [*DTYPES], "default": "uint8"}
    query: list[tuple[str, Json, str]] = [
        ("model", {"type": "string"}, "One of GET /models; the first by default."),
        ("noise", level, "How noisy the picture is, as an RMS of 255, for models that ask."),
        ("strength", unit, "0 gives the picture back as it is, 1 as the model makes it."),
        ("statistics", {"enum": [*STATISTICS]}, "Whose means the tiles of a frame take."),
        ("quality", quality, "Of a JPEG; a WebP has loss only with it."),
    ]
    headers: list[tuple[str, Json, str]] = [
        (SHAPE, shape, "Of raw pixels: sides of the array, rows first. Without it: a file."),
        (DTYPE, dtype, "Of raw pixels; float32 in [0, 1]."),
        (PIXELS, {"type": "string"}, "Of raw pixels, by default gray, RGB or RGBA: one of "
         f"{', '.join(FORMATS)}; after nv12, i420, yuyv also bt601 or bt709, limited or full."),
        ("accept", {"type": "string"}, "The format of the answer; that of the body by default."),
    ]  # fmt: skip
    return {
        "post": {
            "summary": "Restore a picture.",
            "description": f"At most {body_bytes:,} bytes, and {pixels:,} pixels as restored.",
            "parameters": [
                *(_parameter(name, "query", schema, what) for name, schema, what in query),
                *(_parameter(name, "header", schema, what) for name, schema, what in headers),
            ],
            "requestBody": {
                "required": True,
                "content": {kind: {"schema": BYTES} for kind in KINDS},
            },
            "responses": _answers(
                "The restored picture; of raw pixels the headers say how they lie.",
                {kind: {"schema": BYTES} for kind in KINDS},
                {
                    "400": "A parameter or header that cannot be.",
                    "404": "There is no such model.",
                    "406": "No format that is accepted holds the result.",
                    "408": "The body did not come in time.",
                    "415": "The body is no picture of a known format.",
                    **NUMBERS,
                },
            ),
        }
    }


def _infer() -> Json:
    request = {
        "application/json": {"schema": {"$ref": "#/components/schemas/InferenceRequest"}},
        RAW: {"schema": BYTES},
    }
    answer = {
        "application/json": {"schema": {"$ref": "#/components/schemas/InferenceAnswer"}},
        RAW: {"schema": BYTES},
    }
    errors = {"400": "The request is none of the protocol.", "404": "There is no such model."}
    return {
        "post": {
            "summary": "Restore frames by the inference protocol V2.",
            "description": f"One input, {INPUT!r}, and one output, {OUTPUT!r}. Tensors in binary "
            f"follow the JSON, whose length is then in the header {HEADER}. Parameters: noise, "
            "strength, statistics, pixels; others are left to others.",
            "parameters": [
                _parameter(HEADER, "header", {"type": "integer"}, "Length of the JSON in bytes.")
            ],
            "requestBody": {"required": True, "content": request},
            "responses": _answers("The restored frames.", answer, {**errors, **NUMBERS}),
        }
    }


def _schemas() -> Json:
    tensor = {
        "type": "object",
        "required": ["name", "datatype", "shape"],
        "properties": {
            "name": {"type": "string"},
            "datatype": {"enum": [*DTYPE_OF_NAME]},
            "shape": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 4},
            "data": {"type": "array"},
            "parameters": {"type": "object"},
        },
    }
    tensors = {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}, "maxItems": 1}
    text, anything = {"type": "string"}, {"type": "object"}
    return {
        "Error": {
            "type": "object",
            "required": ["error"],
            "properties": {"error": text, "request_id": text},
        },
        "Tensor": tensor,
        "InferenceRequest": {
            "type": "object",
            "required": ["inputs"],
            "properties": {
                "id": text,
                "parameters": anything,
                "inputs": tensors,
                "outputs": {"type": "array", "items": anything, "maxItems": 1},
            },
        },
        "InferenceAnswer": {
            "type": "object",
            "required": ["model_name", "outputs"],
            "properties": {
                "model_name": text,
                "model_version": text,
                "id": text,
                "outputs": tensors,
            },
        },
    }


def description(body_bytes: int, pixels: int) -> Json:
    """The OpenAPI document of a service that takes so many bytes and pixels."""
    not_now = {"503": "Not now."}
    name = _parameter("name", "path", {"type": "string"}, "Of the model.")
    version = _parameter("version", "path", {"const": "1"}, "There is one.")
    model = {
        "": _asked("What a model is.", errors={"404": "There is no such model."}),
        "/ready": _asked("Whether a model is ready.", errors=not_now),
        "/infer": _infer(),
    }
    text = {"text/plain": {"schema": {"type": "string"}}}
    measures = {"summary": "Figures for Prometheus.", "responses": _answers("Figures.", text)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mirnet-edge serve",
            "version": __version__,
            "summary": "Restores pictures and frames.",
        },
        "security": [{}, {"token": []}],
        "paths": {
            "/restore": _restore(body_bytes, pixels),
            "/models": _asked("Which models there are."),
            "/health": _asked("Whether the service works.", errors=not_now),
            "/ready": _asked("Whether it takes requests.", errors=not_now),
            "/metrics": {"get": measures},
            "/openapi.json": _asked("This document."),
            "/v2": _asked("What the server is, by the inference protocol V2."),
            "/v2/health/live": _asked("Whether the service works.", errors=not_now),
            "/v2/health/ready": _asked("Whether it takes requests.", errors=not_now),
            **{
                f"/v2/models/{{name}}{path}": {"parameters": [name], **item}
                for path, item in model.items()
            },
            **{
                f"/v2/models/{{name}}/versions/{{version}}{path}": {
                    "parameters": [name, version],
                    **item,
                }
                for path, item in model.items()
            },
        },
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def page_of(document: Json) -> str:
    """The document as a page of HTML, without a script."""
    parts = [
        f"<h1>{escape(document['info']['title'])} {escape(document['info']['version'])}</h1>"
        '<p>As a document for tools: <a href="/openapi.json">openapi.json</a>.</p>'
    ]
    for path, methods in document["paths"].items():
        for method, asked in methods.items():
            if method == "parameters":
                continue
            parts.append(f"<h2><code>{method.upper()} {escape(path)}</code></h2>")
            parts.append(
                f"<p>{escape(asked['summary'])} {escape(asked.get('description', ''))}</p>"
            )
            rows = [
                f"<tr><td><code>{escape(given['name'])}</code><td>{given['in']}"
                f"<td>{escape(given['description'])}"
                for given in [*methods.get("parameters", ()), *asked.get("parameters", ())]
            ]
            rows += [
                f"<tr><td>{status}<td>answer<td>{escape(answer['description'])}"
                for status, answer in asked["responses"].items()
            ]
            parts.append(f"<table>{''.join(rows)}</table>")
    head = '<!doctype html><html lang="en"><meta charset="utf-8">'
    wide = '<meta name="viewport" content="width=device-width,initial-scale=1">'
    return f"{head}{wide}<title>mirnet-edge serve</title><body>{''.join(parts)}</body></html>"
