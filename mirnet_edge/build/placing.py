"""Where a build works, and how an engine and its card come to lie beside each other."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mirnet_edge._files import file_sha256
from mirnet_edge.engines.card import EngineCard, card_path
from mirnet_edge.errors import EngineError, OutputError
from mirnet_edge.interrupts import interrupts_deferred


@contextmanager
def work_folder(engine: Path) -> Iterator[Path]:
    """Beside the engine, so that what is finished can be moved into place; removed at the end."""
    try:
        with tempfile.TemporaryDirectory(prefix=f".{engine.stem}.", dir=engine.parent) as folder:
            yield Path(folder)
    except OSError as error:
        raise OutputError(f"cannot write into {engine.parent}: {error}") from error


def cached(engine: Path, key: str) -> EngineCard | None:
    """The card, where the engine is there and is what it says."""
    try:
        card = EngineCard.load(card_path(engine))
        whole = card.key == key and card.engine_sha256 == file_sha256(engine)
    except (EngineError, OSError):
        return None
    return card if whole else None


def place(plan: Path, engine: Path, card: EngineCard) -> None:
    """Move both into place. The old engine goes first and the new one comes last, so that at no
    moment an engine lies beside the card of another."""
    with interrupts_deferred() as interrupted:
        engine.unlink(missing_ok=True)
        card.save(card_path(engine))
        plan.replace(engine)
    if interrupted():
        raise KeyboardInterrupt
