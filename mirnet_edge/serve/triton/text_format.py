"""Messages as protobuf's text format, which ``config.pbtxt`` is: enough of it for what is written
here, so that writing needs no protobuf."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mirnet_edge.errors import ConfigError

Message = Mapping[str, Any]


class Word(str):
    """The name of an enum's value, which stands without quotes."""


def text_format(message: Message) -> str:
    """Write a message: a mapping is a message, a list is a field that repeats.

    Raises:
        ConfigError: text that is not of printable ASCII.
    """
    return "".join(f"{line}\n" for line in _lines(message))


def _lines(message: Message) -> Iterator[str]:
    for name, value in message.items():
        several = isinstance(value, (list, tuple))
        if several and not any(isinstance(item, Mapping) for item in value):
            yield f"{name}: [{', '.join(map(_scalar, value))}]"
            continue
        for item in value if several else (value,):
            if isinstance(item, Mapping):
                yield f"{name} {{"
                yield from (f"  {line}" for line in _lines(item))
                yield "}"
            else:
                yield f"{name}: {_scalar(item)}"


def _scalar(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (Word, int, float)):
        return str(value)
    text = str(value)
    if not (text.isascii() and text.isprintable()):
        raise ConfigError(f"{text!r:.80} in config.pbtxt: need printable ASCII; rename it")
    return '"{}"'.format(text.replace("\\", r"\\").replace('"', r"\""))
