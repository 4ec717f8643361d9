"""``live`` and ``play``: a source beside its restored picture, in a browser or a window."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mirnet_edge.bundled import bundled_models
from mirnet_edge.cli.console import (
    noise_level_option,
    option_group,
    read_frame_size,
    say,
    tiling_options,
)
from mirnet_edge.cli.restore import DEFAULT_MODEL, MODEL

if TYPE_CHECKING:
    from mirnet_edge.live.view import LiveView

SOURCE = "TEST|CAMERA|URL|FILE|FOLDER|PIPELINE"
LEAST_TOKEN = 8

view_options = option_group(
    click.option("-m", "--model", "models", multiple=True, default=(DEFAULT_MODEL,),
                 help=f"{MODEL} Given several times, the first is shown and the others can be "
                 "chosen, as bundled ones always can."),
    click.option("--strength", type=click.FloatRange(0, 1), default=1.0,
                 help="0 shows frames as they are, 1 as the model makes them."),
    click.option("--folder", type=click.Path(path_type=Path), default=Path("live"),
                 help="Where snapshots and frames for calibration go."),
    click.option("--size", type=read_frame_size, metavar="WxH",
                 help="Of a camera or the test picture."),
    click.option("--rate", type=click.FloatRange(0, min_open=True),
                 help="Frames a second of a camera or the test picture."),
    click.option("--timeout", type=click.FloatRange(0, min_open=True), default=10.0,
                 help="Seconds without a frame after which a source is opened again."),
)  # fmt: skip


@click.command()
@click.argument("source", metavar=SOURCE)
@view_options
@noise_level_option
@tiling_options
@click.option(
    "--host",
    default="127.0.0.1",
    help="Address to listen on; others than the loopback ask for a token.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=8090, help="0 takes a free one.")
@click.option("--token", help="What a page must know; made up where --host is not the loopback.")
def live(source: str, host: str, port: int, token: str | None, **options: Any) -> None:
    """Show a source before | after in a browser, with its latency, and controls.

    SOURCE is 'test', the number of a camera, a URL (rtsp://…), a video file, a folder of images, or
    a GStreamer pipeline that ends in appsink. Files begin again at their end. A source that fails
    is opened again. Ctrl-C ends it.
    """  # fmt: skip
    from mirnet_edge._imports import require

    purpose = "mirnet-edge live"
    require("starlette", purpose)
    require("uvicorn", purpose)
    require("websockets", purpose)  # uvicorn finds it by itself, and without it speaks no WebSocket
    from mirnet_edge.access import is_loopback, listening
    from mirnet_edge.live.server import page_server

    if token is not None and len(token) < LEAST_TOKEN:
        raise click.UsageError(f"--token: need {LEAST_TOKEN} characters or more")
    if token is None and not is_loopback(host):
        token = secrets.token_urlsafe(16)
    with listening(host, port) as at, _opened(source, **options) as view:
        say(f"{view.source.name}: {address(host, at.getsockname()[1], token)}")
        page_server(view, token).run_on(at)


@click.command()
@click.argument("source", metavar=SOURCE)
@view_options
@noise_level_option
@tiling_options
def play(source: str, **options: Any) -> None:
    """Show a source before | after in a window, where OpenCV has one.

    The mouse moves the divider. Keys: b bypasses the model, + and - change the strength, s keeps a
    snapshot, q or Escape ends it. SOURCE is as for live.
    """
    from mirnet_edge.live.window import play_in_window, window_library

    cv2 = window_library()
    with _opened(source, **options) as view:
        play_in_window(view, cv2)


def _opened(
    source: str,
    models: tuple[str, ...],
    strength: float,
    folder: Path,
    size: tuple[int, int] | None,
    rate: float | None,
    timeout: float,
    noise: float | str,
    statistics: Any,
    **restoring: Any,
) -> LiveView:
    from mirnet_edge.live.feed import live_source
    from mirnet_edge.live.settings import Settings
    from mirnet_edge.live.view import LiveView

    names = list(dict.fromkeys([*models, *(model.name for model in bundled_models())]))
    asked = {"noise": noise, "statistics": statistics, "strength": strength}
    return LiveView(
        live_source(source, size=size, rate=rate, timeout_s=timeout),
        Settings(names[0]).changed(asked, names),
        {name: name for name in names},
        folder,
        restoring=restoring,
        timeout_s=timeout,
    )


def address(host: str, port: int, token: str | None) -> str:
    """The page's address for a browser: of all addresses, the machine's name."""
    name = socket.gethostname() if host in ("0.0.0.0", "::") else host
    shown = f"[{name}]" if ":" in name else name
    return f"http://{shown}:{port}/" + (f"?token={token}" if token else "")
