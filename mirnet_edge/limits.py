"""How much a file that nobody vouches for may ask for: one table, and each limit an option.

A limit is lifted by the environment variable of its name, ``MIRNET_EDGE_MAX_PIXELS_PER_BYTE`` for
``PIXELS_PER_BYTE``, which every error that a limit raises tells. All are far beyond what files hold
that were not made to do harm.
"""

from __future__ import annotations

import os

from mirnet_edge.errors import ConfigError

PREFIX = "MIRNET_EDGE_MAX_"
LIMITS = {
    # Of an image file, above 16 megapixels. A PNG of nothing but black has 8,000 in one bit a
    # pixel; a GIF of 50 bytes may claim four billion.
    "PIXELS_PER_BYTE": 20_000,
    # Of a checkpoint's tensors for each byte of the file: the authors' files hold a shared tensor
    # under as many as four names.
    "TENSOR_BYTES_PER_BYTE": 16,
    # Of a graph: functions, and bodies of loops and branches, which no MIRNet has, and in which a
    # few bytes ask for work without end.
    "NESTED_GRAPHS": 0,
    # An nvcc run takes seconds, a build with timings of every kernel on a Jetson two hours.
    "COMPILE_SECONDS": 600,
    "BUILD_SECONDS": 24 * 3600,
}


def limit(name: str) -> int:
    """Read a limit of `LIMITS`, or what the environment sets it to; a `ConfigError` where that is
    no whole number."""
    told = os.environ.get(PREFIX + name)
    if told is None:
        return LIMITS[name]
    try:
        return int(told)
    except ValueError as error:
        raise ConfigError(f"{PREFIX}{name}={told[:40]!r}: need a whole number") from error


def how_to_lift(name: str) -> str:
    """Say in an error what to do where the file is trusted."""
    return f"if you know where it is from, set {PREFIX}{name} higher than {limit(name)}"
