"""Means over a frame that its tiles share, and in which ways; see `passes`."""

from __future__ import annotations

from typing import Literal, get_args

Mode = Literal["tile", "frame", "frame-fast", "stream"]
MODES: tuple[Mode, ...] = get_args(Mode)
