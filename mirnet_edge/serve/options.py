"""What a request may ask for beside its picture, by query or as parameters in JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from mirnet_edge.errors import FrameError, MirnetEdgeError
from mirnet_edge.frames.noise_level import Noise, checked_noise
from mirnet_edge.frames.pixel_formats import RED_BLUE, PixelFormat, pixel_format
from mirnet_edge.pooling import Mode
from mirnet_edge.serve.refusals import Refusal

Statistics = Literal["auto", "tile", "frame", "frame-fast"]
"""Not "stream": a frame would depend on what others asked for before it."""
STATISTICS: tuple[Statistics, ...] = get_args(Statistics)
QUERY = ("model", "noise", "strength", "statistics", "quality")
RANGES = {"full": True, "limited": False}


@dataclass(frozen=True)
class Options:
    """How one frame is restored.

    Attributes:
        noise: see `Restorer`.
        strength: 0 gives the frame back as it is, 1 as the model makes it.
        statistics: see `Restorer`; None as the service was started.
        pixels: how the pixels lie; None takes gray, RGB or RGBA by the number of channels.
    """

    noise: Noise = "auto"
    strength: float = 1.0
    statistics: Statistics | None = None
    pixels: PixelFormat | None = None


def read_query(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The parameters of a query, each once, none that there is not."""
    found: dict[str, str] = {}
    for name, value in pairs:
        if name not in QUERY:
            raise Refusal(400, f"there is no parameter {name!r:.60}; there are {', '.join(QUERY)}")
        if name in found:
            raise Refusal(400, f"{name} is given twice; give it once")
        found[name] = value
    return found


def read_options(given: Mapping[str, Any], pixels: PixelFormat | None = None) -> Options:
    """Check ``noise``, ``strength`` and ``statistics``, numbers or text of numbers; what else there
    is may be another's.

    Raises:
        Refusal: a value that cannot be; 400.
    """
    noise: Any = given.get("noise", "auto")
    if noise != "auto":
        noise = _number("noise", noise, 'need "auto", or units of 1/255 from 0 to 100')
    try:
        checked_noise(noise)
    except MirnetEdgeError as error:
        raise Refusal(400, str(error)) from error
    wanted = "need a number from 0 to 1"
    strength = _number("strength", given.get("strength", 1.0), wanted)
    if not 0 <= strength <= 1:
        raise Refusal(400, f"strength={strength!r}: {wanted}")
    statistics = given.get("statistics")
    if statistics is not None and statistics not in STATISTICS:
        names = ", ".join(STATISTICS)
        raise Refusal(400, f"statistics={statistics!r:.60}: need one of {names}")
    return Options(noise, strength, statistics, pixels)


def _number(name: str, value: Any, wanted: str) -> float:
    if not isinstance(value, bool) and isinstance(value, (int, float, str)):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass
    raise Refusal(400, f"{name}={value!r:.60}: {wanted}")


def read_quality(text: str | None) -> int | None:
    """Of a JPEG or a WebP with loss; None where it is not asked for."""
    if text is None:
        return None
    if text.isascii() and text.isdecimal() and len(text) < 4 and 1 <= int(text) <= 100:
        return int(text)
    raise Refusal(400, f"quality={text!r:.60}: need a whole number from 1 to 100")


def read_pixels(text: str) -> PixelFormat:
    """Read ``bgr``, or ``nv12 bt601 full``: the format, of Y'CbCr also the colour standard
    (bt709) and the range (limited).

    Raises:
        Refusal: no such thing; 400.
    """
    name, *words = text.lower().split() or [""]
    standards = [word for word in words if word in RED_BLUE]
    ranges = [word for word in words if word in RANGES]
    if len(standards) > 1 or len(ranges) > 1 or len(standards) + len(ranges) < len(words):
        raise Refusal(
            400,
            f"pixels {text!r:.60}: need a format, then for nv12, i420 and yuyv one of "
            f"{', '.join(RED_BLUE)} and one of {', '.join(RANGES)}",
        )
    standard = standards[0] if standards else "bt709"
    try:
        return pixel_format(
            name, standard=standard, full_range=RANGES[ranges[0]] if ranges else False
        )
    except FrameError as error:
        raise Refusal(400, str(error)) from error


def told_statistics(mode: Mode | Literal["auto"]) -> Statistics:
    """What ``tuned`` found for streams, as what frames of strangers may have."""
    return "auto" if mode == "stream" else mode
