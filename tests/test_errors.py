"""One tree of errors: drawn in the docstring, defined below it, exported, and used everywhere."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

import mirnet_edge as me
from mirnet_edge import errors
from mirnet_edge.errors import MirnetEdgeError

CLASSES = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and value.__module__ == errors.__name__
]
FOREIGN = {
    # What the system raises for files that are none, and json for text that is none: whoever reads
    # them translates it, with what the file is.
    *(("_caches.py", "PermissionError"), ("_files.py", "OSError"), ("_files.py", "ValueError")),
    *(("_typed.py", "ValueError"), ("facts.py", "ValueError"), ("engines/tuned.py", "ValueError")),
    ("frames/opened.py", "UnidentifiedImageError"),  # and so what Pillow does, and protobuf might
    ("frames/tiff_pages.py", "ValueError"),
    ("graph/sealed.py", "ValueError"),
    ("stream/video/joining.py", "OSError"),
    ("workstation/state.py", "ValueError"),
    ("__init__.py", "AttributeError"),  # what Python's import system expects of __getattr__
    ("cli/console.py", "TypeError"),  # what json.dumps expects of its default
    ("cli/ablate.py", "UsageError"),  # which click prints with the usage of the command
    ("cli/cluster.py", "UsageError"),
    ("cli/engines.py", "UsageError"),
    ("cli/evaluate.py", "UsageError"),
    ("cli/live.py", "UsageError"),
    ("cli/restore.py", "UsageError"),
    ("cli/serve.py", "UsageError"),
    ("cli/train.py", "UsageError"),
    *(("cuda/native.py", "Error"), ("cuda/native.py", "MemoryError")),  # as pycuda has them
    ("device/device_array.py", "AttributeError"),  # what hasattr expects of a property
    ("device/device_array.py", "BufferError"),  # what DLPack expects of an exporter
    ("engines/card.py", "ValueError"),  # with what JSON and the fields raise it becomes ours below
    ("engines/tuned.py", "ValueError"),  # likewise
    ("model/layers.py", "NotImplementedError"),
}


def drawn() -> dict[str, tuple[str, str]]:
    """Parent and description of each class in the docstring's tree, in its order."""
    tree: dict[str, tuple[str, str]] = {}
    parents: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.fullmatch(r"    ((?:[│├└─ ]{4})*)(\w+Error)(?:\s+(.*))?", line)
        if match:
            depth = len(match[1]) // 4
            parents[depth:] = [match[2]]
            tree[match[2]] = (parents[depth - 1] if depth else "Exception", match[3] or "")
    return tree


def test_the_drawn_tree_is_the_tree() -> None:
    defined = {cls.__name__: cls.__bases__[0].__name__ for cls in CLASSES}
    assert {name: parent for name, (parent, _) in drawn().items()} == defined
    assert list(drawn()) == [cls.__name__ for cls in CLASSES], "drawn in another order"
    assert len(defined) > 5


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_each_error_says_what_it_is(cls: type[MirnetEdgeError]) -> None:
    assert cls.__doc__
    assert cls.__doc__.endswith(".")
    assert cls is MirnetEdgeError or drawn()[cls.__name__][1]
    assert issubclass(cls, MirnetEdgeError)
    assert not issubclass(cls, OSError | ValueError | RuntimeError)
    assert str(cls("height=3")) == "height=3"


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_each_error_is_exported(cls: type[MirnetEdgeError]) -> None:
    assert cls.__name__ in me.__all__
    assert getattr(me, cls.__name__) is cls


def test_every_raise_in_the_package_is_of_the_tree() -> None:
    """What is raised and not of the tree is listed above, with its reason."""
    package = Path(me.__file__).parent
    known = {cls.__name__ for cls in CLASSES}
    raised = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Raise) or node.exc is None:
                continue
            name = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            text = ast.unparse(name).rpartition(".")[2]
            if text.endswith(("Error", "Exception")):
                raised.add((path.relative_to(package).as_posix(), text))
    assert {use for use in raised if use[1] not in known} - FOREIGN == set()
    assert known - {name for _, name in raised} == set(), "errors that nobody raises"
