"""A folder that a Triton server loads as its model repository, written whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mirnet_edge._files import make_folder
from mirnet_edge.errors import ConfigError, MirnetEdgeError, OutputError
from mirnet_edge.serve.models import model_spec
from mirnet_edge.serve.triton.configs import Placement, frames_config, tiles_config
from mirnet_edge.serve.triton.settings import FrameSettings
from mirnet_edge.serve.triton.sources import Content, Io, Source, TilePrecision, read_source
from mirnet_edge.tiling.choice import Cut

Part = Literal["all", "frames", "tiles"]
TILES = "-tiles"
"""Ends the name of the model that takes tiles."""
CONFIG, SCRIPT = "config.pbtxt", "model.py"
MODEL_PY = '''"""Restores whole frames with mirnet_edge, which the server's Python must have."""

from mirnet_edge.serve.triton.backend import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''
Files = dict[str, Content]
"""By their paths in the repository."""


@dataclass(frozen=True)
class Repository:
    """What was written.

    Attributes:
        models: names that the server will know.
        notes: what a user should know, each with the model that it is of.
    """

    path: Path
    models: tuple[str, ...]
    notes: tuple[str, ...]


def write_repository(
    models: Sequence[str],
    output: str | os.PathLike[str],
    *,
    part: Part = "all",
    precision: TilePrecision = "fp32",
    io: Io = "float32",
    dtype: str = "uint8",
    frame: tuple[int, int] | None = None,
    settings: FrameSettings | None = None,
    placement: Placement | None = None,
    overwrite: bool = False,
) -> Repository:
    """Write a model repository.

    Args:
        models: ``NAME=MODEL`` or ``MODEL``, as of `serve`; a name that comes again is the next
            version of that model.
        output: a new or empty folder.
        part: "frames" leaves the tile models out, "tiles" those of frames.
        precision, io: of the tile models; see `read_source`.
        dtype: of frames, "uint8", "uint16" or "float32".
        frame: (height, width) of frames that the server warms up with.
        settings: how frames are restored.
        placement: where, in which batches, and how often.
        overwrite: write into a folder that is not empty: models of these names are replaced, others
            are left as they are.

    Raises:
        ConfigError: a model that there is not, versions that differ in what they take, or options
            that cannot be.
        TilingError: tiles that cannot be cut as asked.
        OutputError: the folder is not empty, or cannot be written.
    """
    settings, placement = settings or FrameSettings(), placement or Placement()
    target = Path(output)
    _require_room(target, overwrite)
    files: Files = {}
    notes: list[str] = []
    for name, versions in _by_name(models).items():
        for version, model in enumerate(versions, 1):
            source = read_source(model, part != "frames", precision, io)
            notes += [f"{name}: {note}" for note in source.notes]
            made: dict[str, tuple[str, Files]] = {}
            if part != "tiles":
                # Here, and not when a server begins: whether frames can be cut so.
                cut = settings.tile, source.fixed_size, settings.halo, settings.blend
                Cut.of(source.facts, *cut)
                config = frames_config(name, source, settings, placement, dtype, frame)
                made[name] = config, {SCRIPT: MODEL_PY.encode(), **source.files}
            if source.tiles is not None:
                tiles = f"{name}{TILES}"
                config = tiles_config(tiles, source, source.tiles, placement)
                made[tiles] = config, {source.tiles.file: source.tiles.content}
            for each, (config, beside) in made.items():
                _add(files, each, config, version, source, beside)
    with _moved_into_place(target) as folder:
        for path, content in files.items():
            _write(folder / path, content)
    return Repository(target, tuple(dict.fromkeys(path.split("/")[0] for path in files)),
                      tuple(dict.fromkeys(notes)))  # fmt: skip


def _by_name(models: Sequence[str]) -> Mapping[str, list[str]]:
    if not models:
        raise ConfigError("no model is given; name at least one")
    found: dict[str, list[str]] = {}
    for text in models:
        spec = model_spec(text)
        found.setdefault(spec.name, []).append(spec.model)
    for name in found:
        if f"{name}{TILES}" in found:
            raise ConfigError(
                f"{name}{TILES} is what the tiles of {name} are called; name one otherwise, as "
                "NAME=MODEL"
            )
    return found


def _add(files: Files, name: str, config: str, version: int, source: Source, beside: Files) -> None:
    """Add a version of a model, whose configuration is that of the versions before it."""
    known = files.setdefault(f"{name}/{CONFIG}", config.encode())
    if known != config.encode():
        before = known.decode().splitlines() if isinstance(known, bytes) else []
        line = next((new for new in config.splitlines() if new not in before), "something is gone")
        raise ConfigError(
            f"{name}: version {version} ({source.told:.100}) differs from version 1 in what the "
            f"server is told of both ({line.strip()}); give it another name, as NAME=MODEL"
        )
    files |= {f"{name}/{version}/{path}": content for path, content in beside.items()}


def _require_room(target: Path, overwrite: bool) -> None:
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        raise OutputError(f"{target} is no folder; choose another name")
    try:
        is_empty = not any(target.iterdir())
    except OSError as error:
        raise _failed(target, error) from error
    if not (is_empty or overwrite):
        raise OutputError(
            f"{target} is not empty; choose another folder, or allow overwriting it, which "
            "replaces models of these names and leaves others"
        )


def _write(path: Path, content: Content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, Path):
        shutil.copyfile(content, path)
    else:
        path.write_bytes(content)
    with path.open("rb+") as file:  # before its folder has its name: no power cut leaves less
        os.fsync(file.fileno())


@contextmanager
def _moved_into_place(target: Path) -> Iterator[Path]:
    """A folder to write models into, each of which is moved to ``target`` when the block ends; a
    new ``target`` comes as a whole. A killed run leaves at most a hidden folder beside it, which no
    server looks into."""
    target = target.resolve()
    try:
        make_folder(target.parent)
        # Beside and not inside: a server would take it for a model.
        with tempfile.TemporaryDirectory(prefix=".triton.", dir=target.parent) as temporary:
            new, old = Path(temporary, "new"), Path(temporary, "old")
            new.mkdir()
            old.mkdir()
            yield new
            if not target.exists() or not any(target.iterdir()):
                new.replace(target)  # an empty folder is replaced by one of the same kind
                return
            for model in sorted(new.iterdir()):
                _exchange(model, target / model.name, old / model.name)
    except MirnetEdgeError:
        raise
    except OSError as error:
        raise _failed(target, error) from error


def _exchange(new: Path, place: Path, old: Path) -> None:
    """Let ``new`` take the place of what is there, which stays there where it cannot."""
    if not os.path.lexists(place):
        new.replace(place)
        return
    place.replace(old)
    try:
        new.replace(place)
    except OSError:
        old.replace(place)
        raise


def _failed(target: Path, error: OSError) -> OutputError:
    reason = error.strerror or str(error)
    return OutputError(f"cannot write {target}: {reason}; choose a folder you may write to")
