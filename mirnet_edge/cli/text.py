"""Text that a terminal does not take for orders."""

from __future__ import annotations

import re

# Control characters but for line ends and tabs, and those that change the direction of writing.
_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def shown(text: str) -> str:
    """Text of files and their names as it may reach a terminal: what would steer it, or turn the
    order of letters, is written out."""
    return _STEERING.sub(lambda found: ascii(found[0])[1:-1], text)
