"""Report of a comparison: what a model lost for each class and group, and which samples flipped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tfprune.export.comparing.damage_rows import CorruptedScores, DamageRow, FlippedSample, Quality
from tfprune.export.file.files.destination import write_atomically
from tfprune.report import Report, new_figure, save_figure, shortened, table

FEW_SAMPLES = 30  # below, a group is named in a note
SHOWN_ROWS = 10
LISTED_ERRORS = 100  # samples whose error grew most
NAME_WIDTH = 40  # characters of a group in the table


@dataclass(frozen=True)
class DamageReport(Report):
    """What a model lost, in all and for each class and group; it prints the ten worst groups first.

    Attributes:
        task: `"classification"`, `"regression"`, `"language"`, or `"agreement"` for classes without labels.
        samples: The number of samples; of a language model, of tokens.
        before: How good `before` is.
        after: How good `after` is.
        drop: The accuracy lost, or the mean absolute error gained.
        low: The lower end of its interval; None for a single number.
        high: The upper end; None for a single number.
        lost: Samples that only `before` gets right; of numbers, samples whose error grew.
        gained: Samples that only `after` gets right; of numbers, samples whose error fell.
        p_value: McNemar's exact test: whether more samples were lost than gained; None for numbers.
        rows: A row for each class and each value of a group, those that surely lost most first: by `low`.
        flips: The lost samples, the most confident before first, and then the gained ones. Of numbers, the 100
            samples whose error grew most.
        level: The coverage of each interval.
        max_drop: The limit of `drop`; None for none.
        max_drop_per_group: The limit of each row's `drop`; None for none.
        corrupted: The scores on samples with noise, blur and so on, if corruptions were asked for.
        notes: What to know about the figures: groups of few samples, scores that are not probabilities.

    Example:
        >>> labels = model.predict(images, verbose=0).argmax(axis=1)
        >>> report = tfprune.export.damage("digits.tflite", "digits_int8.tflite", (images, labels))
        >>> report.samples, report.before.score, report.harmed
        (100, 1.0, ())
    """

    JSON_NAMES = (
        "task", "samples", "before", "after", "drop", "low", "high", "lost", "gained", "p_value", "rows", "flips",
        "level", "max_drop", "max_drop_per_group", "corrupted", "harmed", "broken", "passed", "notes",
    )  # fmt: skip

    task: str
    samples: int
    before: Quality
    after: Quality
    drop: float
    low: float | None
    high: float | None
    lost: int
    gained: int
    p_value: float | None
    rows: tuple[DamageRow, ...]
    flips: tuple[FlippedSample, ...]
    level: float
    max_drop: float | None = None
    max_drop_per_group: float | None = None
    corrupted: tuple[CorruptedScores, ...] = ()
    notes: tuple[str, ...] = ()
    pictured: Mapping[int, np.ndarray] = field(default_factory=dict, compare=False, repr=False)

    @property
    def harmed(self) -> tuple[str, ...]:
        """The groups that lost more than the other samples."""
        return tuple(row.name for row in self.rows if row.harmed)

    @property
    def broken(self) -> tuple[str, ...]:
        """The limits that are not kept, in words."""
        losses = []
        if self.max_drop is not None and self.drop > self.max_drop:
            losses.append(f"all samples lost {self.number(self.drop)}, more than {self.number(self.max_drop)}")
        limit = self.max_drop_per_group
        for row in self.rows if limit is not None else ():
            if limit is not None and row.drop > limit:
                losses.append(f"{row.name} lost {self.number(row.drop)}, more than {self.number(limit)}")
        return tuple(losses)

    @property
    def passed(self) -> bool:
        """Whether all limits are kept; True without limits."""
        return not self.broken

    @property
    def score_name(self) -> str:
        """What the scores are."""
        names = {"classification": "accuracy", "agreement": "agreement", "regression": "mean absolute error"}
        return names.get(self.task, "loss per token")

    @property
    def change_name(self) -> str:
        """What the difference of the scores is."""
        return "increase" if self.is_error else "drop"

    @property
    def is_error(self) -> bool:
        """Whether smaller scores are better."""
        return self.task in ("regression", "language")

    @property
    def counted(self) -> str:
        """What `samples` counts."""
        return "tokens" if self.task == "language" else "samples"

    def number(self, score: float | None) -> str:
        """Return a score as text: a percentage, or a number for errors."""
        if score is None:
            return "-"
        return f"{score:.4g}" if self.is_error else f"{score:.1%}"

    def interval(self, low: float | None, high: float | None) -> str:
        """Return an interval as text."""
        return "-" if low is None else f"{self.number(low)} to {self.number(high)}"

    def overall(self) -> list[list[str]]:
        """Return the lines of a table of both sides: what is measured, before, after."""
        lines = [[self.score_name, self.number(self.before.score), self.number(self.after.score)]]
        names = {"calibration_error": "calibration error", "brier": "Brier score", "confidence": "confidence"}
        for field_name, name in names.items():
            values = [getattr(side, field_name) for side in (self.before, self.after)]
            if None not in values:
                lines.append([name, *(f"{value:.4f}" for value in values)])
        return lines

    def flips_text(self) -> str:
        """Return how many samples flipped, as a sentence."""
        if self.is_error:
            name = "loss" if self.task == "language" else "error"
            changes = f"grew for {self.lost:,} of {self.samples:,} {self.counted} and fell for {self.gained:,}"
            return f"The {name} {changes}."
        if self.task == "agreement":
            return f"{self.lost:,} of {self.samples:,} samples have another class after than before."
        return (
            f"{self.lost:,} of {self.samples:,} samples were right before and are wrong now, {self.gained:,} the "
            f"other way around (McNemar's exact test: p = {self.p_value:.2g})."
        )

    def plot(self, path: str | Path) -> None:
        """Draw the drop of the ten worst groups with its interval into an image file.

        Args:
            path: The file to write; its suffix gives the format, such as `.png` or `.svg`.

        Raises:
            ValueError: If matplotlib is not installed, the file cannot be written, or there are no groups.
        """
        rows = self.rows[:SHOWN_ROWS][::-1]  # bars are drawn from the bottom up
        if not rows:
            raise ValueError("Expected groups to draw. Received: a report without rows. Pass labels or `groups`.")
        figure = new_figure(8, 1.5 + 0.3 * len(rows))
        axes = figure.subplots()
        drops = [row.drop for row in rows]
        ends = [(row.drop, row.drop) if row.low is None else (row.low, row.high) for row in rows]
        reach = np.abs(np.array(ends).T - drops)
        colors = ["tab:red" if row.harmed else "lightgrey" for row in rows]
        axes.barh(range(len(rows)), drops, xerr=reach, color=colors, ecolor="black", capsize=2)
        axes.axvline(self.drop, color="black", linestyle=":", linewidth=1)
        axes.set_yticks(range(len(rows)), [shortened(row.name, NAME_WIDTH) for row in rows])
        axes.set(xlabel=f"{self.score_name}, {self.change_name} ({self.level:.0%} interval; dotted: all samples)")
        save_figure(figure, path)

    def save_html(self, path: str | Path) -> None:
        """Write a page about the comparison, which loads nothing, with pictures of flipped samples.

        Args:
            path: The file to write.

        Raises:
            ValueError: If it cannot be written.
        """
        from tfprune.export.comparing.damage_page import damage_page

        write_atomically(path, damage_page(self).encode())

    def __str__(self) -> str:
        parts = [table([f"{self.samples:,} {self.counted}", "before", "after"], self.overall())]
        interval = f"{self.level:.0%} interval: {self.interval(self.low, self.high)}"
        parts.append(f"{self.change_name.capitalize()}: {self.number(self.drop)} ({interval}). {self.flips_text()}")
        if self.rows:
            header = [
                "group",
                self.counted,
                "before",
                "after",
                self.change_name,
                f"{self.level:.0%} interval",
                "p",
                "harmed",
            ]
            parts.append(table(header, [self._cells(row) for row in self.rows[:SHOWN_ROWS]]))
        if len(self.rows) > SHOWN_ROWS:
            parts.append(f"The {SHOWN_ROWS} worst of {len(self.rows)} groups; `rows` has all.")
        if self.corrupted:
            header = ["corruption", "before", "after", self.change_name, f"{self.level:.0%} interval"]
            parts.append(table(header, [self.corrupted_cells(row) for row in self.corrupted]))
        exceeded = "\n".join(f"Limit exceeded: {reason}." for reason in self.broken)
        parts += [*self.notes, *([exceeded] if exceeded else [])]
        return "\n\n".join(parts)

    def corrupted_cells(self, row: CorruptedScores) -> list[str]:
        """Return the cells of a corruption in a table."""
        scores = [self.number(value) for value in (row.before, row.after, row.drop)]
        return [row.name, *scores, self.interval(row.low, row.high)]

    def _cells(self, row: DamageRow) -> list[str]:
        scores = [self.number(value) for value in (row.before, row.after, row.drop)]
        p_value = "<0.0001" if row.adjusted_p < 1e-4 else f"{row.adjusted_p:.4f}"
        interval = self.interval(row.low, row.high)
        name = shortened(row.name, NAME_WIDTH)
        return [name, f"{row.samples:,}", *scores, interval, p_value, "yes" if row.harmed else ""]
