"""Pages that MkDocs makes while it builds the site: what every command takes, and what every error
says. Both are read off the package, so that neither can be out of date."""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path
from typing import Any

import click
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))
from error_texts import COMMAND_LINE, ROOT, error_kinds, error_texts

from mirnet_edge.cli import cli

WIDTH = 96


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add the pages; MkDocs calls it."""
    files.append(File.generated(config, "errors.md", content=errors_page()))
    files.append(File.generated(config, "commands.md", content=commands_page()))
    return files


def errors_page() -> str:
    """Every text by its class, in the words of the source, "…" for each value."""
    lines = [
        "# Error messages",
        "",
        "Every error is a `MirnetEdgeError` of one of these classes, and says what is wrong, with "
        "the values, and what to do next. Here “…” stands for a value: search this page for words "
        "of yours that are none. What helps with the commonest ones: "
        "[Troubleshooting](troubleshooting.md).",
    ]
    kinds = error_kinds(ROOT / "mirnet_edge")
    for kind, texts in groupby(error_texts(), key=lambda found: found.kind):
        title = "Command line" if kind in COMMAND_LINE else kind
        if f"## {title}" not in lines:
            about = kinds.get(kind, "What was typed cannot be meant; the exit code is 2.")
            lines += ["", f"## {title}", "", about, ""]
        lines += [f"- {_code(found.text)}  \n  {found.file}" for found in texts]
    return "\n".join(lines) + "\n"


def _code(text: str) -> str:
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def commands_page() -> str:
    """What ``--help`` prints, of every command."""
    lines = ["# Commands", "", "What `mirnet-edge COMMAND --help` prints, of every command."]
    for name, command in sorted(cli.commands.items()):
        context = click.Context(command, info_name=f"mirnet-edge {name}", max_content_width=WIDTH)
        context.terminal_width = WIDTH
        lines += ["", f"## {name}", "", "```text", command.get_help(context), "```"]
    return "\n".join(lines) + "\n"
