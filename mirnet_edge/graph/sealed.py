"""An ONNX file as bytes: sealed when it is written, checked before any library reads it.

The check needs no onnx, which a device need not have. It walks over the fields of the protobuf
messages, skipping what they hold, and so is done in milliseconds.

A seal is the SHA-256 of all that follows it, as the file's first piece of metadata. It finds damage
and not malice: who changes a file can seal it anew. What other tools write again is no longer
sealed, as they put metadata behind the graph.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from mirnet_edge._files import open_regular
from mirnet_edge.errors import GraphError
from mirnet_edge.facts import PREFIX
from mirnet_edge.limits import how_to_lift, limit

SEAL_KEY = f"{PREFIX}content_sha256"
_KEY = SEAL_KEY.encode()
_DIGEST_SIZE = 2 * hashlib.sha256().digest_size
# Of a ModelProto's metadata_props, a StringStringEntry: its tag and length, the key, the value.
_HEAD = (
    bytes((14 << 3 | 2, 4 + len(_KEY) + _DIGEST_SIZE, 1 << 3 | 2, len(_KEY)))
    + _KEY
    + bytes((2 << 3 | 2, _DIGEST_SIZE))
)
# Which fields of a message are messages that matter (onnx.proto3).
_INSIDE = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {
        **{5: "tensor", 10: "tensor", 22: "sparse tensor", 23: "sparse tensor"},
        **{6: "graph", 11: "graph"},
    },
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external data"},
    "external data": {},
}
_DEEPEST = 100  # as protobuf has it
_IN_MEMORY = "_ORT_MEM_ADDR_"
"""ONNX Runtime takes a place of this name for an address of its own memory, and reads there."""


def sealed(content: bytes) -> bytes:
    """A file's content with its seal; one that it had is replaced."""
    if content.startswith(_HEAD):
        content = content[len(_HEAD) + _DIGEST_SIZE :]
    return _HEAD + hashlib.sha256(content).hexdigest().encode() + content


def check_onnx(path: str | os.PathLike[str]) -> bool:
    """Refuse an ONNX file that reads other files than those beside it, works without end, or is
    not what its seal is of.

    Returns:
        Whether it has a seal.

    Raises:
        GraphError: any of this, or it cannot be read.
    """
    path = Path(path)
    try:
        with open_regular(path) as file:
            content = file.read()
    except OSError as error:
        raise GraphError(f"{path}: cannot be read: {error.strerror or error}") from error
    has_seal = _check_seal(content, path)
    nested = 0
    try:
        for kind, message in _messages("model", memoryview(content), 0):
            nested += kind in ("nested graph", "function")
            if kind == "external data":
                _check_location(message, path)
    except (ValueError, IndexError) as error:
        raise GraphError(f"{path}: no valid ONNX ({error}); export it again") from error
    if nested > limit("NESTED_GRAPHS"):
        raise GraphError(
            f"{path}: holds {nested} functions or bodies of loops and branches, as no MIRNet does, "
            f"and they may work without end; {how_to_lift('NESTED_GRAPHS')}"
        )
    return has_seal


def _check_seal(content: bytes, path: Path) -> bool:
    start = len(_HEAD) + _DIGEST_SIZE
    if content.startswith(_HEAD):
        found = hashlib.sha256(memoryview(content)[start:]).hexdigest()
        if found.encode() == content[len(_HEAD) : start]:
            return True
    # Where the key is there and what stands around it is not, the seal itself is damaged.
    elif _KEY not in content[:start]:
        return False
    raise GraphError(
        f"{path}: its {len(content):,} bytes are not what was written: the file was damaged, or "
        "changed by hand; copy or export it again"
    )


def _messages(kind: str, message: memoryview, depth: int) -> Iterator[tuple[str, memoryview]]:
    """All messages below one that matter, with what they are."""
    if depth > _DEEPEST:
        raise ValueError("nested too deep")
    for number, inner in _fields(message):
        found = _INSIDE[kind].get(number)
        if found is None or inner is None:
            continue
        yield "nested graph" if (kind, found) == ("attribute", "graph") else found, inner
        yield from _messages(found, inner, depth + 1)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | None]]:
    """Number and bytes of each field; None for numbers."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        number, wire = tag >> 3, tag & 7
        if wire == 2:
            length, place = _varint(message, place)
            if length > len(message) - place:
                raise ValueError(f"a field of {length} bytes, of which {len(message) - place} are")
            yield number, message[place : place + length]
            place += length
        elif wire == 0:
            _, place = _varint(message, place)
            yield number, None
        elif wire in (1, 5):
            place += 8 if wire == 1 else 4
            yield number, None
        else:
            raise ValueError(f"a field of wire type {wire}")


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
    raise ValueError("a number of more than 64 bits")


def _check_location(entry: memoryview, path: Path) -> None:
    """Of an entry of a tensor's external data; only one called ``location`` says where."""
    texts = [bytes(text) for _, text in _fields(entry) if text is not None]
    if b"location" not in texts:
        return
    for text in texts:
        if text == b"location":
            continue
        location, folder = os.fsdecode(text), path.parent.resolve()
        try:
            target = (folder / location).resolve()  # through links, and to what is absolute
        except (OSError, RuntimeError):  # links in a circle
            target = Path()
        if not target.is_relative_to(folder) or not target.is_file() or _IN_MEMORY in location:
            raise GraphError(
                f"{path}: its weights lie in {location[:200]!r}, which is no file in the folder of "
                "the model; such a file reads what is not its own. Export it into one file"
            )
