"""The service: what is answered at which address."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from mirnet_edge.access import Access, App
from mirnet_edge.serve.asking import Limits, Numbered, finished, no_route, read_body, route
from mirnet_edge.serve.description import description, page_of
from mirnet_edge.serve.inference import (
    HEADER,
    VERSION,
    model_facts,
    read_request,
    server_facts,
    write_answer,
)
from mirnet_edge.serve.measures import CONTENT_TYPE, Measures
from mirnet_edge.serve.models import Models, ServedModel
from mirnet_edge.serve.options import Options, read_options, read_quality, read_query
from mirnet_edge.serve.pictures import (
    RAW,
    Kind,
    RawLayout,
    raw_headers,
    read_picture,
    wanted_kind,
    write_picture,
)
from mirnet_edge.serve.refusals import Refusal
from mirnet_edge.serve.work import Work

T = TypeVar("T")
REOPENING_S = 5
PUBLIC = ("/", "/openapi.json", "/health", "/ready", "/v2/health/live", "/v2/health/ready")
"""What is answered without the token: how the service is, and how to talk to it."""


@dataclass(frozen=True)
class Wanted:
    """What `POST /restore` is asked for, beside its body."""

    options: Options
    layout: RawLayout | None
    quality: int | None
    accept: str


def require_open(model: ServedModel) -> None:
    """Refuse what comes while the engine of a model is opened again."""
    if model.is_reopening:
        raise Refusal(
            503,
            f"the device of {model.name} was lost, and is being opened again; come again in "
            f"{REOPENING_S} s",
            {"retry-after": str(REOPENING_S)},
        )


class Service:
    """Answers requests with models.

    Args:
        models, work: closed by whoever made them.
        limits: of each request.

    Attributes:
        is_draining: whether it is about to end; it then says that it is not ready, and works on.
    """

    def __init__(self, models: Models, work: Work, limits: Limits | None = None) -> None:
        self.models, self.work, self.limits = models, work, limits or Limits()
        self.is_draining = False
        self.measures = Measures(work, models)

    def app(self, token: str | None = None) -> App:
        """The application for a server; see `Access` for the token."""
        model = "/v2/models/{name}"
        version = f"{model}/versions/{{version}}"
        routes = [
            route("/", self._page),
            route("/openapi.json", self._description),
            route("/health", self._health),
            route("/ready", self._ready),
            route("/metrics", self._metrics),
            route("/models", self._models),
            route("/restore", self._restore, "POST"),
            route("/v2", self._server),
            route("/v2/health/live", self._health),
            route("/v2/health/ready", self._ready),
            *(route(path, self._model) for path in (model, version)),
            *(route(f"{path}/ready", self._model_ready) for path in (model, version)),
            *(route(f"{path}/infer", self._infer, "POST") for path in (model, version)),
        ]
        app = Starlette(routes=routes, exception_handlers={HTTPException: no_route})
        app.router.redirect_slashes = False
        return Numbered(Access(app, token, public=PUBLIC, name="service"), self.measures)

    # How it is

    async def _page(self, _: Request) -> Response:
        return HTMLResponse(page_of(description(self.limits.body_bytes, self.limits.pixels)))

    async def _description(self, _: Request) -> Response:
        return JSONResponse(description(self.limits.body_bytes, self.limits.pixels))

    async def _metrics(self, _: Request) -> Response:
        return Response(self.measures.page(), media_type=CONTENT_TYPE)

    async def _health(self, _: Request) -> Response:
        if broken := [model.name for model in self.models if model.is_broken]:
            raise Refusal(503, f"the engine of {', '.join(broken)} fails again and again")
        return JSONResponse({"status": "ok"})

    async def _ready(self, request: Request) -> Response:
        if self.is_draining:
            raise Refusal(503, "the service is about to end")
        for model in self.models:
            require_open(model)
        return await self._health(request)

    async def _models(self, _: Request) -> Response:
        found = [model_facts(model.name, model.facts, model.engine_name) for model in self.models]
        return JSONResponse({"models": found})

    # Pictures

    async def _restore(self, request: Request) -> Response:
        query = read_query(request.query_params.multi_items())
        model = self._model_called(query.get("model"))
        layout = RawLayout.of(request.headers)
        wanted = Wanted(
            options=read_options(query, None if layout is None else layout.pixels),
            layout=layout,
            quality=read_quality(query.get("quality")),
            accept=request.headers.get("accept", ""),
        )
        wanted_kind(wanted.accept, RAW)  # said before the body is read
        return await self._in_thread(
            request, model, lambda body: self._restored(model, wanted, body)
        )

    def _restored(self, model: ServedModel, wanted: Wanted, body: bytes) -> Response:
        """Decode, restore and encode one picture, in a thread."""
        spent: dict[str, float] = {}
        timed = self.measures.timed
        with timed(model.name, "decode", spent):
            given = read_picture(body, wanted.layout, self._most_px(model))
        kind: Kind = wanted_kind(wanted.accept, given.kind)
        self.measures.note_pixels(model.name, given.pixels.shape[0] * given.pixels.shape[1])
        with timed(model.name, "restore", spent):
            restored = model.restore(given.pixels, wanted.options)
        with timed(model.name, "encode", spent):
            content = write_picture(restored.pixels, kind, given, wanted.quality)
        headers = raw_headers(restored.pixels, wanted.options.pixels) if kind == RAW else {}
        if restored.noise is not None:
            headers["noise-level"] = f"{restored.noise:.2f}"
        told = (f"{part};dur={1000 * seconds:.1f}" for part, seconds in spent.items())
        return Response(content, 200, {**headers, "server-timing": ", ".join(told)}, kind)

    def _model_called(self, name: str | None) -> ServedModel:
        model = self.models.get(name)
        if model is None:
            names = ", ".join(self.models.names)
            raise Refusal(404, f"there is no model {name!r:.60}; there are {names}")
        return model

    def _most_px(self, model: ServedModel) -> int:
        return int(self.limits.pixels // model.facts.scale**2)

    async def _in_thread(
        self, request: Request, model: ServedModel, act: Callable[[bytes], T]
    ) -> T:
        """Read the body of a request, and act on it in a thread; all within its room."""
        require_open(model)
        place = self.work.enter()
        try:
            body = await read_body(request, self.limits)
            asked_at = perf_counter()

            def job() -> T:
                self.measures.note_part(model.name, "wait", perf_counter() - asked_at)
                return act(body)

            return await finished(request, self.work.start(place, job))
        finally:
            place.leave()

    # The inference protocol

    async def _server(self, _: Request) -> Response:
        return JSONResponse(server_facts())

    async def _model(self, request: Request) -> Response:
        model = self._model_at(request)
        return JSONResponse(model_facts(model.name, model.facts, model.engine_name))

    async def _model_ready(self, request: Request) -> Response:
        model = self._model_at(request)
        require_open(model)
        if model.is_broken or self.is_draining:
            raise Refusal(503, f"{model.name} is not ready")
        return JSONResponse({"name": model.name, "ready": True})

    async def _infer(self, request: Request) -> Response:
        model = self._model_at(request)
        header = request.headers.get(HEADER)
        return await self._in_thread(
            request, model, lambda body: self._inferred(model, header, body)
        )

    def _inferred(self, model: ServedModel, header: str | None, body: bytes) -> Response:
        timed = self.measures.timed
        with timed(model.name, "decode"):
            asked = read_request(body, header, self._most_px(model))
        self.measures.note_pixels(model.name, sum(f.shape[0] * f.shape[1] for f in asked.frames))
        with timed(model.name, "restore"):
            restored = [model.restore(frame, asked.options).pixels for frame in asked.frames]
        with timed(model.name, "encode"):
            content, headers = write_answer(asked, model.name, restored)
        return Response(content, 200, headers)

    def _model_at(self, request: Request) -> ServedModel:
        model = self._model_called(request.path_params["name"])
        version: Any = request.path_params.get("version", VERSION)
        if version != VERSION:
            raise Refusal(404, f"{model.name} has no version {version!r:.60}; it has {VERSION}")
        return model
