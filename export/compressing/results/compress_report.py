"""Report of a search: the files that no other file beats in both size and accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tfprune.export.compressing.trials.trial import MeasuredFile
from tfprune.export.file.model_card import model_card
from tfprune.report import Report, table


@dataclass(frozen=True)
class CompressReport(Report):
    """The best files of `compress`, and all files that it measured.

    Attributes:
        folder: The folder of the files.
        metric: The name of the metric.
        max_drop: The most that a file may lose of it on the validation data.
        optimize: `"size"` or `"latency"`.
        target: The runtime of the files: None, `"micro"` for a microcontroller, or the name of an NPU.
        dense: The float32 file of the original model; for a microcontroller or an NPU the int8 file.
        front: The files that no other file beats in both size (or speed) and the metric, smallest or fastest first.
        trials: The number of recipes that were tried.
        failed: The recipes without a file, each with the reason.
        tried: All files that were measured.
        seconds: The time of the search, in all calls.
        model: The name of the original model; empty if it is not known.
        limits: The largest drop of each class and group, by the names of the arguments; empty without such limits.
        refused: Files that no other file beats on average, but that lose more of a class or group than is allowed.
        samples: The number of validation samples; 0 if it is not known.
        budgets: The most that a file may take, by attributes of a file such as `bytes`; empty without budgets.
        mode: `"max"` if a larger value of the metric is better, `"min"` for an error.

    Example:
        >>> from tfprune.export.compressing.trials.trial import MeasuredFile
        >>> dense = MeasuredFile(None, None, bytes=8000, packed_bytes=7000, score=0.9, drop=0.0)
        >>> int8 = MeasuredFile(None, "int8", bytes=2500, packed_bytes=1900, score=0.895, drop=0.005)
        >>> report = tfprune.export.CompressReport(
        ...     folder="searched", metric="accuracy", max_drop=0.01, optimize="size", target=None,
        ...     dense=dense, front=(int8, dense), trials=0, failed=(), tried=(dense, int8), seconds=9.0,
        ... )
        >>> report.best.bytes, report.baseline
        (2500, 0.9)
        >>> report.smaller
        '3.2 times smaller than the dense float32 file'
    """

    folder: str
    metric: str
    max_drop: float
    optimize: str
    target: str | None
    dense: MeasuredFile
    front: tuple[MeasuredFile, ...]
    trials: int
    failed: tuple[str, ...]
    tried: tuple[MeasuredFile, ...]
    seconds: float
    model: str = ""
    limits: Mapping[str, float] = field(default_factory=dict)
    refused: tuple[MeasuredFile, ...] = ()
    samples: int = 0
    budgets: Mapping[str, float] = field(default_factory=dict)
    mode: str = "max"

    @property
    def best(self) -> MeasuredFile:
        """The smallest or fastest file."""
        return self.front[0]

    @property
    def baseline(self) -> float:
        """The metric of the original model, in float32."""
        return self.dense.score + self.sign * self.dense.drop

    @property
    def sign(self) -> int:
        """1 if a larger value of the metric is better, -1 for an error."""
        return 1 if self.mode == "max" else -1

    @property
    def passed(self) -> bool:
        """Whether at least one recipe was tried."""
        return self.trials > 0

    @property
    def warning(self) -> str:
        """What the search lacked, in words; empty if at least one recipe was tried."""
        if self.passed:
            return ""
        return (
            f"No recipe was tried: the search was over after {self.seconds:.0f} s, in which it exported the original "
            f"model, measured it, and timed a training step. The files are those of the original model. Search again "
            f"with several times as many minutes and the same folder: it continues there. Or search in another "
            f"folder with fewer validation samples or a smaller model."
        )

    @property
    def smaller(self) -> str:
        """How much smaller the best file is than that of the original model, in words."""
        dense = self.dense.quantize or "float32"
        words = f"{self.dense.bytes / self.best.bytes:.1f} times smaller than the dense {dense} file"
        if self.dense.cycles is None or self.best.cycles is None:
            return words
        return f"{words}, and takes {self.best.cycles / self.dense.cycles:.1%} of its cycles"

    @property
    def cost(self) -> str:
        """The attribute of a file that the table shows beside its bytes: `latency_ms`, `arena_bytes` or `cycles`."""
        return {None: "latency_ms", "micro": "arena_bytes"}.get(self.target, "cycles")

    def standard_error(self, file: MeasuredFile) -> float | None:
        """Return the standard error of a file's score, if that is a share of the samples; else None.

        Two files whose scores differ by less are not known to differ. Source: the binomial distribution,
        sqrt(p (1 - p) / n).

        Args:
            file: One of `tried`.
        """
        if not self.samples or not (self.metric == "acc" or self.metric.endswith("accuracy")):
            return None
        return math.sqrt(file.score * (1 - file.score) / self.samples)

    def lineage(self, file: MeasuredFile | None = None) -> tuple[MeasuredFile, ...]:
        """Return the files of the steps that led to a file: that of the original model first, itself last.

        Each step is a trial that starts from the model of the one before. Of its files it is the one in the same
        number format, or else the most accurate one.

        Args:
            file: One of `front`; None takes the best.
        """
        file = file or self.best
        recipes = [None, *(file.recipe.chain if file.recipe else ())]
        steps = [[other for other in self.tried if other.recipe == recipe] for recipe in recipes]
        return tuple(
            min(files, key=lambda other: (other.quantize != file.quantize, other.drop)) for files in steps if files
        )

    def study(self, storage: str | None = None) -> Any:
        """Return the search as an Optuna study, or write it into a storage of Optuna, for its dashboard.

        The study has two objectives, the size (bytes, milliseconds or cycles) and the drop, and one trial for each
        file. Needs Optuna, which the extra `search` installs.

        Args:
            storage: A URL of a database, such as `"sqlite:///search.db"`. None keeps the study in memory.

        Returns:
            An `optuna.study.Study`.

        Raises:
            ValueError: If Optuna is not installed, or the storage has a study of this name.
        """
        from tfprune.export.compressing.results.optuna_study import optuna_study

        return optuna_study(self, storage)

    def card(self, file: MeasuredFile | None = None) -> str:
        """Return a model card in Markdown of one file: what is known about it, and nothing else.

        `compress` writes the card of each of the best files beside it. Add what only you know: the task, the data,
        the license, and the limits of the model.

        Args:
            file: One of `front`; None takes the best.

        Example:
            >>> dense = MeasuredFile(None, None, bytes=8000, packed_bytes=7000, score=0.9, drop=0.0, file="01.tflite")
            >>> report = tfprune.export.CompressReport(
            ...     folder="searched", metric="accuracy", max_drop=0.01, optimize="size", target=None,
            ...     dense=dense, front=(dense,), trials=0, failed=(), tried=(dense,), seconds=9.0, model="digits",
            ... )
            >>> "| base model | digits |" in report.card()
            True
        """
        file = file or self.best
        sizes = [["bytes", f"{file.bytes:,} ({file.bytes / self.dense.bytes:.1%} of the dense file)"]]
        if file.arena_bytes is None:
            sizes.append(["bytes, packed", f"{file.packed_bytes:,}"])
        else:
            sizes.append(["arena, bytes", f"{file.arena_bytes:,}"])
        scores = [["validation data, base model", f"{self.baseline:.4f}"]]
        scores.append(["validation data, this file", f"{file.score:.4f} (a drop of {file.drop:+.4f})"])
        if file.test_score is not None:
            scores.append(["test data, this file", f"{file.test_score:.4f}"])
        latency = [] if file.latency_ms is None else [["one inference", f"{file.latency_ms:.3f} ms"]]
        if file.cycles is not None:
            latency.append([f"cycles on {self.target}, estimated by its compiler", f"{file.cycles:,}"])
        sections = [
            ("Model", [["", ""], *([["base model", self.model]] if self.model else []), *_recipe_rows(file)]),
            ("Size", [["", ""], *sizes]),
            ("Accuracy", [["measured on", self.metric], *scores]),
            ("Latency", [["", ""], *latency]),
            ("Checks", [["", ""], *self._checks(file)]),
        ]
        return model_card(file.file or file.name, sections, metrics=[self.metric], code=file.code)

    def _checks(self, file: MeasuredFile) -> list[list[str]]:
        rows = [["largest drop allowed", f"{self.max_drop:g} of {self.metric}"]]
        names = {"max_drop_per_class": "of each class", "max_drop_per_group": "of each class and group"}
        rows += [[f"largest {name.replace('_', ' ')}", f"{most:,}"] for name, most in self.budgets.items()]
        rows += [[f"largest drop {names[name]}", f"{drop:g} of accuracy"] for name, drop in self.limits.items()]
        return [*rows, *([["worst class or group", str(file.worst_group)]] if file.worst_group else [])]

    def __str__(self) -> str:
        has_test = any(file.test_score is not None for file in self.front)
        costs = {"arena_bytes": ["arena"], "cycles": ["cycles"]}.get(self.cost, ["packed", "ms"])
        header = ["file", "bytes", "of dense", *costs, self.metric, "drop", *(["test"] if has_test else [])]
        rows = [self._row(file, has_test) for file in self.front]
        words = (
            f"{len(self.front)} of {len(self.tried)} files that were measured. Recipes tried: {self.trials}, in "
            f"{self.seconds:.0f} s.\nThe first is {self.smaller}.\n"
            f"The .tflite files, a model card of each, report.json and report.html: {self.folder}"
        )
        refused = [
            f"{file.name}, {file.bytes:,} bytes, drop {file.drop:+.4f}: {file.worst_group}" for file in self.refused
        ]
        if refused:
            words += "\nThe average alone would have allowed:\n" + "\n".join(refused)
        return "\n\n".join([*([self.warning] if self.warning else []), table(header, rows), words])

    def _row(self, file: MeasuredFile, has_test: bool) -> list[str]:
        row = [
            file.file.removesuffix(".tflite"),
            f"{file.bytes:,}",
            f"{file.bytes / self.dense.bytes:.1%}",
            *_costs(file, self.cost),
            f"{file.score:.4f}",
            f"{file.drop:+.4f}",
        ]
        return [*row, f"{file.test_score:.4f}"] if has_test and file.test_score is not None else row


def _recipe_rows(file: MeasuredFile) -> list[list[str]]:
    """Return the rows of a card that say how a file was made."""
    numbers = ["number format", file.quantize or "float32"]
    recipe = file.recipe
    if recipe is None:
        return [numbers]
    rows = [["multiply-adds that remain", f"{recipe.remaining[0]:.1%}"]]
    rows += [["blocks that were dropped", f"{len(recipe.dropped)}"]] if recipe.dropped else []
    rows.append(["zeros", f"{recipe.sparsity:.1%}, {recipe.pattern}"])
    if recipe.distillation is not None:
        rows.append(["training with the base model as teacher", "yes"])
    if recipe.quantize_aware:
        rows.append(["quantization-aware training", "yes"])
    return [*rows, ["training steps", f"{recipe.steps_of_chain:,}"], numbers]


def _costs(file: MeasuredFile, cost: str) -> list[str]:
    if cost != "latency_ms":
        return [f"{getattr(file, cost):,}"]
    return [f"{file.packed_bytes:,}", "-" if file.latency_ms is None else f"{file.latency_ms:.3f}"]
