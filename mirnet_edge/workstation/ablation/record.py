"""What an ablation found: rows, their spread over seeds, and which claims hold."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, variance
from typing import Any

from mirnet_edge._files import read_json
from mirnet_edge._imports import require
from mirnet_edge._typed import dataclass_of
from mirnet_edge.workstation.ablation.study import Study, Unit, costs_in, results_in
from mirnet_edge.workstation.ablation.variants import CLAIMS, VARIANTS, Claim

Json = dict[str, Any]
SCHEMA = 1
RECORD = "ablation.json"
CLOSEST = 3
CONFIDENCE = 0.95
HOLDS, FAILS, WITHIN = "holds", "does not hold", "below the spread"
ONE_SEED, MISSING = "spread unknown", "not measured"
UNITS: tuple[Unit, ...] = ("steps", "minutes")


@dataclass(frozen=True)
class Row:
    """A variant after one kind of training.

    Attributes:
        name: of the variant.
        runs: results, by seed.
    """

    name: str
    runs: Sequence[Json]

    @property
    def scores(self) -> list[float]:
        """dB of each seed, the mean of all sets."""
        return [fmean(run["psnr"].values()) for run in self.runs]

    @property
    def mean(self) -> float:
        """Over seeds, in dB."""
        return fmean(self.scores)

    @property
    def tiles_db(self) -> float:
        """Agreement of tiles with the frame, the mean over seeds; infinite where they are equal."""
        return fmean(math.inf if run["tiles_db"] is None else run["tiles_db"] for run in self.runs)


@dataclass(frozen=True)
class Verdict:
    """What rows say of a claim.

    Attributes:
        said: one of `HOLDS`, `FAILS`, `WITHIN`, `ONE_SEED`, `MISSING`.
        difference_db: mean of the row that is said to be better, less that of the other.
        least_db: what a difference must exceed to be one.
    """

    said: str
    difference_db: float | None = None
    least_db: float | None = None


@dataclass(frozen=True)
class Comparison:
    """All rows that were trained alike.

    Attributes:
        unit, amount: how long.
        rows: by name, best first.
    """

    unit: Unit
    amount: float
    rows: Mapping[str, Row]

    @classmethod
    def of(cls, unit: Unit, amount: float, results: Sequence[Json]) -> Comparison:
        """Those among results."""
        by_row: dict[str, list[Json]] = {}
        for result in sorted(results, key=lambda result: result["seed"]):
            if (result["unit"], result["amount"]) == (unit, amount) and result["row"] in VARIANTS:
                by_row.setdefault(result["row"], []).append(result)
        rows = sorted((Row(*item) for item in by_row.items()), key=lambda row: -row.mean)
        return cls(unit, amount, {row.name: row for row in rows})

    def spread(self) -> tuple[float | None, int]:
        """Standard deviation over seeds in dB, pooled over the rows that have several, and its
        degrees of freedom; None and 0 where there is no such row."""
        several = [row.scores for row in self.rows.values() if len(row.scores) > 1]
        freedom = sum(len(scores) - 1 for scores in several)
        if freedom == 0:
            return None, 0
        squares = sum((len(scores) - 1) * variance(scores) for scores in several)
        return math.sqrt(squares / freedom), freedom

    def verdict(self, claim: Claim) -> Verdict:
        """Whether a claim holds: by Student's t of two means, at `CONFIDENCE`."""
        if not {claim.better, claim.worse} <= self.rows.keys():
            return Verdict(MISSING)
        better, worse = self.rows[claim.better], self.rows[claim.worse]
        difference, (deviation, freedom) = better.mean - worse.mean, self.spread()
        if deviation is None:
            return Verdict(ONE_SEED, difference)
        quantile = require("scipy.stats", "the spread over seeds").t.ppf
        least = float(quantile((1 + CONFIDENCE) / 2, freedom)) * deviation
        least *= math.sqrt(1 / len(better.runs) + 1 / len(worse.runs))
        said = HOLDS if difference > least else FAILS if -difference > least else WITHIN
        return Verdict(said, difference, least)

    def closest(self) -> tuple[str, ...]:
        """The `CLOSEST` rows of one family that lie closest together, best first: those of which
        more seeds would tell most. Empty where no family has so many."""
        found = min(self._neighbours(), default=(math.inf, ()))
        return found[1]

    def _neighbours(self) -> Iterator[tuple[float, tuple[str, ...]]]:
        for family in {variant.family for variant in VARIANTS.values()}:
            rows = [row for row in self.rows.values() if VARIANTS[row.name].family == family]
            for first in range(len(rows) - CLOSEST + 1):
                chosen = rows[first : first + CLOSEST]
                yield chosen[0].mean - chosen[-1].mean, tuple(row.name for row in chosen)


@dataclass(frozen=True)
class Ablation:
    """All that is known of an ablation.

    Attributes:
        study: what its runs share.
        comparisons: at equal steps, at equal time, or both.
        costs: of rows, by name.
    """

    study: Study
    comparisons: Sequence[Comparison]
    costs: Mapping[str, Json]

    @classmethod
    def read(cls, folder: Path, study: Study, amounts: Mapping[Unit, float]) -> Ablation:
        """What lies in a folder, after ``amounts`` of training; of a unit without, after that of
        the record that is there."""
        known = read_json(folder / RECORD)["amounts"] if (folder / RECORD).exists() else {}
        wanted: dict[Unit, float] = {**known, **amounts}
        results = results_in(folder)
        made = [Comparison.of(unit, wanted[unit], results) for unit in UNITS if unit in wanted]
        return cls(study, [each for each in made if each.rows], costs_in(folder))

    @classmethod
    def of_json(cls, record: Json) -> Ablation:
        """What `to_json` made a record of."""
        made = []
        for unit in UNITS:
            if found := record["comparisons"].get(unit):
                runs = [run for row in found["rows"] for run in row["runs"]]
                made.append(Comparison.of(unit, found["amount"], runs))
        costs = {name: row for name, row in record["rows"].items() if "parameters" in row}
        return cls(dataclass_of(Study, record["study"]), made, costs)

    @property
    def names(self) -> list[str]:
        """Of all rows, in the order of `VARIANTS`."""
        known = {*self.costs, *(name for each in self.comparisons for name in each.rows)}
        return [name for name in VARIANTS if name in known]

    def claims(self) -> list[tuple[Claim, list[Verdict]]]:
        """Those of which there are rows, with the verdict of each comparison."""
        found = [(claim, [each.verdict(claim) for each in self.comparisons]) for claim in CLAIMS]
        return [item for item in found if any(verdict.said != MISSING for verdict in item[1])]

    def to_json(self) -> Json:
        """The record."""
        return {
            "schema": SCHEMA,
            "study": dataclasses.asdict(self.study),
            "amounts": {each.unit: each.amount for each in self.comparisons},
            "rows": {
                name: {
                    "about": VARIANTS[name].about,
                    "exportable": VARIANTS[name].is_exportable,
                    **self.costs.get(name, {}),
                }
                for name in self.names
            },
            "comparisons": {each.unit: _comparison_json(each) for each in self.comparisons},
            "claims": [
                {
                    **vars(claim),
                    "verdicts": {
                        each.unit: vars(verdict)
                        for each, verdict in zip(self.comparisons, verdicts, strict=True)
                    },
                }
                for claim, verdicts in self.claims()
            ],
        }


def _comparison_json(found: Comparison) -> Json:
    deviation, freedom = found.spread()
    return {
        "amount": found.amount,
        "deviation_db": deviation,
        "degrees_of_freedom": freedom,
        "closest": list(found.closest()),
        "rows": [
            {"row": row.name, "mean_db": row.mean, "runs": list(row.runs)}
            for row in found.rows.values()
        ],
    }
