"""Our docstrings as the API reference reads them: an item that describes several names becomes one
of each."""

from __future__ import annotations

import re
from typing import Any

import griffe

SEVERAL = re.compile(r"^    (\w+(?:, \w+)+): (.*(?:\n {5,}.*)*)", re.MULTILINE)
"""An item of a section, with the lines that go on with it."""
SECTION = re.compile(r"^Attributes:\n((?:(?:    .*)?\n?)+)", re.MULTILINE)
NAME = re.compile(r"^    (\w+):", re.MULTILINE)


class EachByItsName(griffe.Extension):
    """Called by mkdocstrings for all that it reads."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Split the items, and declare the attributes of a class that it sets elsewhere than in
        ``__init__``."""
        if obj.docstring is None:
            return
        obj.docstring.value = SEVERAL.sub(_each, obj.docstring.value)
        section = SECTION.search(obj.docstring.value)
        if obj.is_class and section is not None:
            for name in NAME.findall(section[1]):
                # One that griffe does not know would be shown with the type of the one before.
                if name not in obj.members:
                    obj.set_member(name, griffe.Attribute(name))


def _each(match: re.Match[str]) -> str:
    return "\n".join(f"    {name}: {match[2]}" for name in match[1].split(", "))
