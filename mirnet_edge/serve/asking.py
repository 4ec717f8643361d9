"""How a request is read and answered, whatever it is for: its number, its body within limits,
errors as JSON, a line in the log."""

from __future__ import annotations

import asyncio
import logging
import re
import traceback
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from time import perf_counter
from typing import Any, TypeVar

import anyio
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mirnet_edge.access import App, Scope
from mirnet_edge.errors import MirnetEdgeError
from mirnet_edge.serve.measures import Measures
from mirnet_edge.serve.refusals import GONE, Refusal, refusal_of

T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]
ID_HEADER = "x-request-id"
ID, ROUTE = "mirnet_edge.id", "mirnet_edge.route"
"""In a request's scope."""
GIVEN_ID = re.compile(r"[\w.:/+=-]{1,100}", re.ASCII)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What a request may ask for.

    Attributes:
        body_bytes: of a body.
        pixels: of a frame, as it is restored.
        body_s: seconds that a body may take to arrive.
    """

    body_bytes: int = 64 << 20
    pixels: int = 1 << 24
    body_s: float = 30.0


class Numbered:
    """Gives each request a number, counts it when it is answered, and notes it in the log.

    Args:
        app: what answers.
        measures: where it is counted.
    """

    def __init__(self, app: App, measures: Measures) -> None:
        self._app, self._measures = app, measures

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = perf_counter(), GONE
        given = Headers(scope=scope).get(ID_HEADER, "")
        number = given if GIVEN_ID.fullmatch(given) else uuid.uuid4().hex
        scope[ID] = number

        async def answer(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                found = [*message.get("headers", ()), (ID_HEADER.encode(), number.encode())]
                message["headers"] = found
            await send(message)

        try:
            await self._app(scope, receive, answer)
        finally:
            spent, route = perf_counter() - began, scope.get(ROUTE, "none")
            self._measures.note_request(route, status, spent)
            log.info("%s %s %d %.1f ms %s", scope["method"], route, status, 1000 * spent, number)


def route(path: str, handler: Handler, method: str = "GET") -> Route:
    """A route whose refusals, and errors that nobody expected, are answered as JSON."""

    async def answer(request: Request) -> Response:
        request.scope[ROUTE] = path
        try:
            return await handler(request)
        except Exception as error:
            return answer_of(request, _refusal_for(error, request.scope[ID]))

    return Route(path, answer, methods=[method])


def _refusal_for(error: Exception, number: str) -> Refusal:
    """What a client hears of an error; what is the service's own is noted in the log too."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, ClientDisconnect):
        return Refusal(GONE, "the client went away")
    if isinstance(error, MemoryError):
        log.error("%s: out of memory", number)
        return Refusal(503, "out of memory; send less, or come again", {"retry-after": "10"})
    if isinstance(error, MirnetEdgeError):
        refusal = refusal_of(error)
        if refusal.status >= 500:
            log.error("%s: %s", number, error)
        return refusal
    log.error("%s: %s", number, "".join(traceback.format_exception(error)))
    return Refusal(500, f"unexpected {type(error).__name__}; the log of the service says where")


def answer_of(request: Request, refusal: Refusal) -> Response:
    """A refusal as JSON; ``error`` is where clients of the inference protocol look for it."""
    body = {"error": refusal.message, "request_id": request.scope.get(ID, "")}
    return JSONResponse(body, refusal.status, refusal.headers)


async def no_route(request: Request, error: Exception) -> Response:
    """What there is not: an address, or a method of it."""
    assert isinstance(error, HTTPException)
    message = f"there is no {request.url.path!r:.80}; GET /openapi.json says what there is"
    if error.status_code == 405:
        allowed = ", ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))
        message = f"{request.method[:20]} is not for {request.url.path!r:.80}; need {allowed}"
    return answer_of(request, Refusal(error.status_code, message, error.headers))


async def read_body(request: Request, limits: Limits) -> bytes:
    """The body of a request.

    Raises:
        Refusal: it is empty, packed, too large, or does not come.
    """
    packed = request.headers.get("content-encoding", "identity")
    if packed != "identity":
        raise Refusal(415, f"content-encoding {packed!r:.40}; send the body as it is")
    most = limits.body_bytes
    too_large = f"more than the {most:,} bytes that are taken; send less"
    length = request.headers.get("content-length", "0")
    if not (length.isascii() and length.isdecimal()) or len(length) > 18:
        raise Refusal(400, f"content-length {length!r:.40}; need bytes")
    if int(length) > most:
        raise Refusal(413, f"a body of {int(length):,} bytes, {too_large}")
    body = bytearray()
    try:
        with anyio.fail_after(limits.body_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise Refusal(413, f"a body of {too_large}")
    except TimeoutError as error:
        raise Refusal(
            408, f"{len(body):,} bytes came in {limits.body_s:g} s, and not all; send faster"
        ) from error
    if not body:
        raise Refusal(400, "the body is empty; send a picture")
    return bytes(body)


async def finished(request: Request, future: Future[T]) -> T:
    """The result of a job; a job that has not begun is dropped with a client that goes away."""
    done = asyncio.wrap_future(future)
    gone = asyncio.ensure_future(_gone(request))
    either: set[asyncio.Future[Any]] = {done, gone}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not done.done() and future.cancel():
            raise Refusal(GONE, "the client went away")
        return await done
    finally:
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
