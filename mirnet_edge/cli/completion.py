"""What a shell is offered for an argument: names of bundled models, and files."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem
from click.types import StringParamType

from mirnet_edge.bundled import MODELS_FOLDER

_MODELS = ("model", "models", "onnx")
_FILES = ("output", "record", "html", "sets", "calibration")
"""Options that name files or folders as plain text; arguments of plain text do."""


class _File(StringParamType):
    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        del ctx, param
        return [CompletionItem(incomplete, type="file")]


class _Model(_File):
    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        names = sorted(card.parent.name for card in MODELS_FOLDER.glob("*/card.json"))
        fitting = [CompletionItem(name) for name in names if name.startswith(incomplete)]
        # Files first: what shells do with this item empties their list.
        return [*super().shell_complete(ctx, param, incomplete), *fitting]


def with_completion(command: click.Command) -> click.Command:
    """Let a shell complete what a command takes as plain text."""
    takes_models = command.name == "info"
    for param in command.params:
        if not isinstance(param.type, StringParamType):
            continue
        if param.name in _MODELS or (takes_models and isinstance(param, click.Argument)):
            param.type = _Model()
        elif isinstance(param, click.Argument) or param.name in _FILES:
            param.type = _File()
    return command
