"""``serve``: models behind HTTP."""

from __future__ import annotations

import secrets
from contextlib import closing
from typing import Any

import click

from mirnet_edge.cli.console import (
    devices_option,
    option_group,
    read_bytes,
    say,
    tiling_options,
)
from mirnet_edge.cli.live import LEAST_TOKEN, address
from mirnet_edge.cli.restore import DEFAULT_MODEL, MODEL

work_options = option_group(
    click.option("--workers", type=click.IntRange(1, 64), default=2,
                 help="Requests that are decoded, restored and encoded at once; an engine takes "
                 "one at a time, each of --devices."),
    click.option("--queue", type=click.IntRange(0, 10000), default=16,
                 help="Requests that may wait besides; further ones are told to come again."),
    click.option("--batch", type=click.IntRange(1, 64), default=1,
                 help="Tiles of several requests that an engine is given together, where it takes "
                 "several; see docs/service.md for when that pays."),
    click.option("--timeout", type=click.FloatRange(0, min_open=True),
                 help="Seconds that a frame may take, after which an engine counts as hanging."),
)  # fmt: skip
limit_options = option_group(
    click.option("--max-body", type=read_bytes, metavar="BYTES", default="64MiB",
                 help="Of a request."),
    click.option("--max-pixels", type=click.IntRange(1), default=1 << 24,
                 help="Of a frame, as it is restored."),
    click.option("--body-timeout", type=click.FloatRange(0, min_open=True), default=30.0,
                 help="Seconds that a body may take to arrive."),
)  # fmt: skip
end_options = option_group(
    click.option("--grace", type=click.IntRange(0), default=30,
                 help="Seconds for what was begun, when the service is told to end."),
    click.option("--drain", type=click.FloatRange(0), default=0.0,
                 help="Seconds before that in which it works on, and says that it is not ready."),
)  # fmt: skip


listen_options = option_group(
    click.option("-m", "--model", "models", multiple=True, default=(DEFAULT_MODEL,),
                 metavar="[NAME=]MODEL",
                 help=f"{MODEL} Given several times, all are served; the first where a request "
                 "names none."),
    click.option("--host", default="127.0.0.1",
                 help="Address to listen on; others than the loopback ask for a token."),
    click.option("--port", type=click.IntRange(0, 65535), default=8091, help="0 takes a free one."),
    click.option("--token", envvar="MIRNET_EDGE_TOKEN", show_envvar=True,
                 help="What a client must send, as Authorization: Bearer TOKEN; made up where "
                 "--host is not the loopback."),
)  # fmt: skip


@click.command()
@listen_options
@work_options
@limit_options
@end_options
@devices_option
@tiling_options
def serve(
    models: tuple[str, ...],
    host: str,
    port: int,
    token: str | None,
    **options: Any,
) -> None:
    """Restore pictures that come by HTTP.

    POST a PNG, JPEG or WebP to /restore, or raw pixels; or speak the inference protocol V2, which
    Triton, KServe and MLServer share, at /v2. GET / is a page of all there is. With -v each request
    is a line on standard error. SIGTERM and Ctrl-C end it when what was begun is done.
    """
    from mirnet_edge._imports import require

    for package in ("starlette", "uvicorn", "prometheus_client"):
        require(package, "mirnet-edge serve")
    from mirnet_edge.access import is_loopback, listening

    if token is not None and len(token) < LEAST_TOKEN:
        raise click.UsageError(f"--token: need {LEAST_TOKEN} characters or more")
    made_up = token is None and not is_loopback(host)
    token = secrets.token_urlsafe(16) if made_up else token
    with listening(host, port) as at:
        say(f"loading {', '.join(models)}")
        _serve(models, at, token, told=address(host, at.getsockname()[1], None), made_up=made_up,
               **options)  # fmt: skip


def _serve(
    models: tuple[str, ...],
    at: Any,
    token: str | None,
    told: str,
    made_up: bool,
    workers: int,
    queue: int,
    batch: int,
    max_body: int,
    max_pixels: int,
    body_timeout: float,
    grace: int,
    drain: float,
    **restoring: Any,
) -> None:
    from mirnet_edge.serve.app import Service
    from mirnet_edge.serve.asking import Limits
    from mirnet_edge.serve.models import Models, model_spec
    from mirnet_edge.serve.server import serve as serve_on
    from mirnet_edge.serve.work import Work

    specs = [model_spec(text) for text in models]
    with (
        closing(Models(specs, seats=workers, batch=batch, **restoring)) as opened,
        closing(Work(workers, queue)) as work,
    ):
        service = Service(opened, work, Limits(max_body, max_pixels, body_timeout))
        with_token = f", with Authorization: Bearer {token}" if made_up else ""
        say(f"{', '.join(opened.names)}: {told}{with_token}")
        serve_on(service, at, token, grace_s=grace, drain_s=drain)
