"""Why a request is not answered with a picture: a status of HTTP and a message that helps."""

from __future__ import annotations

from collections.abc import Mapping

from mirnet_edge.errors import (
    ConfigError,
    FrameError,
    ImageError,
    MirnetEdgeError,
    MissingDependencyError,
    OutputError,
    TilingError,
)

GONE = 499
"""Of a client that does not wait for its answer; nobody sees it but logs and counters."""


class Refusal(Exception):
    """Ends a request.

    Attributes:
        status: 4xx where the request is wrong, 5xx where the service is.
        message: what is wrong, with the values, and what to do next.
        headers: of the answer.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, dict(headers or {})


def refusal_of(error: MirnetEdgeError) -> Refusal:
    """What an error of the package means to a client: 422 where its picture or options are the
    reason, 501 where a package is missing for them, else 500."""
    if isinstance(error, MissingDependencyError):
        return Refusal(501, str(error))
    asked_for = (ConfigError, FrameError, ImageError, OutputError, TilingError)
    return Refusal(422 if isinstance(error, asked_for) else 500, str(error))
