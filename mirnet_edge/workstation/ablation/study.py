"""What an ablation is asked for: what all its runs share, and the runs; loads without torch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mirnet_edge._files import atomic_path, read_json
from mirnet_edge._typed import dataclass_of
from mirnet_edge.errors import ConfigError, DataError, first_line
from mirnet_edge.workstation.ablation.variants import VARIANTS
from mirnet_edge.workstation.settings import TrainSettings

Unit = Literal["steps", "minutes"]
MANY_STEPS = 10**8
"""Of a run that ends by its time."""
WARMUP_STEPS = 100
"""Of such a run, whose steps nobody knows."""
STUDY, RESULT, COST = "study.json", "result.json", "cost.json"


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        row: name of its variant.
        unit, amount: how long it trains.
        seed: of weights, patches and noise.
    """

    row: str
    unit: Unit
    amount: float
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.row}.{self.unit}-{self.amount:g}.seed-{self.seed}"


@dataclass(frozen=True)
class Study:
    """What all runs share, so that they can be compared.

    Attributes:
        data: folders of clean images.
        validation: as `Trainer` takes it; paths are absolute, as those of ``data``.
        validation_images: most of each set.
        task, batch, rescale, learning_rate: see `TrainSettings`.
        patch_px: side of the patches, of which some rows take half or 1.5 times.
    """

    data: tuple[str, ...]
    validation: tuple[str, ...]
    validation_images: int
    task: str
    batch: int
    patch_px: int
    rescale: tuple[float, ...]
    learning_rate: float

    def settings(self, run: Run) -> TrainSettings:
        """The recipe of a run."""
        variant, of_time = VARIANTS[run.row], run.unit == "minutes"
        return TrainSettings(
            preset="edge-s" if variant.family == "v2" else "mirnet",
            task=self.task,
            steps=MANY_STEPS if of_time else int(run.amount),
            minutes=run.amount if of_time else None,
            warmup_steps=WARMUP_STEPS if of_time else None,
            batch=self.batch,
            patch_px=variant.patch_px(self.patch_px),
            rescale=self.rescale,
            learning_rate=self.learning_rate,
            seed=run.seed,
        )

    def keep(self, folder: Path) -> None:
        """Write it into the folder of the ablation, or find it there.

        Raises:
            ConfigError: there is another one.
        """
        path = folder / STUDY
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_json(path, dataclasses.asdict(self))
            return
        try:
            found = dataclass_of(Study, read_json(path))
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: no ablation ({first_line(error)})") from error
        different = [
            f"{name} {old!r} -> {new!r}"
            for (name, old), new in zip(vars(found).items(), vars(self).values())
            if old != new
        ]
        if different:
            raise ConfigError(
                f"{folder} holds an ablation with other settings ({', '.join(different)}), whose "
                "rows could not be compared; use the same, or another output folder"
            )


def runs_of(
    rows: Iterable[str], steps: int | None, minutes: float | None, seeds: Iterable[int]
) -> Iterator[Run]:
    """All runs: rows one after another, so that no two of one network begin, and compile, at one
    time."""
    amounts: tuple[tuple[Unit, float | None], ...] = (("steps", steps), ("minutes", minutes))
    rows = list(rows)
    for seed in seeds:
        for unit, amount in amounts:
            if amount is not None:
                yield from (Run(row, unit, amount, seed) for row in rows)


def results_in(folder: Path) -> list[dict[str, Any]]:
    """What the finished runs of an ablation came to."""
    return [_read(path) for path in sorted((folder / "runs").glob(f"*/{RESULT}"))]


def costs_in(folder: Path) -> dict[str, dict[str, Any]]:
    """What rows cost, by their names."""
    return {path.parent.name: _read(path) for path in (folder / "rows").glob(f"*/{COST}")}


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: damaged ({first_line(error)}); delete it") from error
    return found


def write_json(path: Path, value: object) -> None:
    """Write a file, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, allow_nan=False), encoding="utf-8")
