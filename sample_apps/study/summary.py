"""Summaries of the results: means over the seeds, and comparisons at the same number of non-zeros."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sample_apps.study import grid, results


@dataclass(frozen=True)
class Group:
    """The trainings that differ only in their seed.

    Attributes:
        series: Name of the curve.
        size: Name of the model's size.
        sparsity: Fraction of zeros asked for, 0 where the model is dense.
        qualities: One for each seed, by its number.
        nnz: Non-zero kernel entries, the mean.
        bytes: Bytes by storage, the means.
        seconds: The median of a training, evaluation and export included.
        warned: How many trainings the library warned about.
        lost: Percentage of words without an embedding, the mean; None where it was not looked at.
        machines: Where they ran.
    """

    series: str
    size: str
    sparsity: float
    qualities: dict[int, float]
    nnz: float
    bytes: dict[str, float]
    seconds: float
    warned: int
    lost: float | None
    machines: frozenset[str]

    @property
    def mean(self) -> float:
        """Mean quality."""
        return statistics.mean(self.qualities.values())

    @property
    def deviation(self) -> float:
        """Standard deviation of the quality over the seeds, nan for one seed."""
        return _deviation(list(self.qualities.values()))


@dataclass(frozen=True)
class Comparison:
    """A pruned model against a reference.

    Attributes:
        of: The pruned model.
        against: The dense model with the next larger number of non-zeros, or another way to prune as far.
        gain: Mean difference of two trainings of one seed, which have the data in common; above 0 where the pruned
            model is better.
        deviation: Standard deviation of that difference; nan for one seed.
    """

    of: Group
    against: Group
    gain: float
    deviation: float

    @property
    def verdict(self) -> str:
        """Which is better by more than the deviation."""
        if math.isnan(self.deviation):
            return "one seed"
        return "tie" if abs(self.gain) <= self.deviation else "better" if self.gain > 0 else "worse"


def groups(study: str, config: dict[str, Any], lines: Sequence[dict[str, Any]], *, smoke: bool) -> list[Group]:
    """Put the results that belong to the present configuration together, in its order."""
    seeds = sorted({line["seed"] for line in lines})
    found = []
    for settings in grid.expand(study, config, seeds=1, smoke=smoke):
        trainings = [results.of(lines, {**settings, "seed": seed}) for seed in seeds]
        found.append([line for line in trainings if line])
    return [_group(trainings) for trainings in found if trainings]


def _group(lines: list[dict[str, Any]]) -> Group:
    known = [line["lost"] for line in lines if line.get("lost") is not None]
    return Group(
        series=lines[0]["series"],
        size=lines[0]["size"],
        sparsity=lines[0]["sparsity"],
        qualities={line["seed"]: line["quality"] for line in lines},
        nnz=statistics.mean(line["nnz"] for line in lines),
        bytes={name: statistics.mean(line["bytes"][name] for line in lines) for name in lines[0]["bytes"]},
        seconds=statistics.median(line["seconds"] for line in lines),
        warned=sum(bool(line["warnings"]) for line in lines),
        lost=statistics.mean(known) if known else None,
        machines=frozenset(line["machine"] for line in lines),
    )


def comparisons(config: dict[str, Any], found: Sequence[Group]) -> list[Comparison]:
    """Compare each pruned model with what its run names in `against`."""
    pairs = [
        (group, _reference(group, series, found))
        for run in config["runs"]
        for series in run.get("against", [])
        for group in found
        if group.series == run["series"]
    ]
    compared = [compare(group, reference, config["better"]) for group, reference in pairs if reference]
    return [comparison for comparison in compared if comparison]


def _reference(group: Group, series: str, found: Sequence[Group]) -> Group | None:
    """Return the smallest dense model with no fewer non-zeros, or the model that is pruned as far in another way."""
    others = [other for other in found if other.series == series]
    fitting = [
        other
        for other in others
        if other.sparsity == group.sparsity or (not other.sparsity and other.nnz >= group.nnz)
    ]
    return min(fitting, key=lambda other: other.nnz, default=None)


def compare(group: Group, reference: Group, better: str) -> Comparison | None:
    """Compare seed by seed; None where no seed is common to both."""
    sign = 1 if better == "higher" else -1
    common = group.qualities.keys() & reference.qualities.keys()
    gains = [sign * (group.qualities[seed] - reference.qualities[seed]) for seed in sorted(common)]
    return Comparison(group, reference, statistics.mean(gains), _deviation(gains)) if gains else None


def _deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else math.nan
