"""Results of a search: the report, its page, its study for Optuna, and the files of the front."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras

from tfprune.base.output import document, facts, name_text, rows_table, section, text
from tfprune.export.compressing.evaluate import FileEvaluator
from tfprune.export.compressing.policy import Goal, SearchLoop, pareto_front
from tfprune.export.compressing.trials import FORMATS, LEAST_FLOPS, PATTERNS, MeasuredFile
from tfprune.export.file.container import write_atomically
from tfprune.export.file.report import FileReport, HubEntry, model_card
from tfprune.report import install, table

if TYPE_CHECKING:
    from tfprune.export.compressing.trials import Recipe


# Report of a search: the files that no other file beats in both size and accuracy.


@dataclass(frozen=True)
class CompressReport(FileReport):
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
        >>> from tfprune.export.compressing.trials import MeasuredFile
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
        """The reason why nothing was found, in words; empty if at least one recipe was tried."""
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

    @property
    def paths(self) -> tuple[str, ...]:
        """The best files, the smallest or fastest first; `certificate` takes the path of one."""
        return tuple(str(Path(self.folder, file.file)) for file in self.front if file.file)

    def facts(self, path: str) -> dict[str, Any]:
        """Return what is known about one of the files, and the limits of the search, as values of JSON."""
        file = next(file for file in self.front if file.file == Path(path).name)
        rows = {"metric": self.metric, "before": self.baseline, "max_drop": self.max_drop, "samples": self.samples}
        return {**rows, "limits": {**self.limits}, "file": file.as_dict()}

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

        return _optuna_study(self, storage)

    def card(
        self,
        file: MeasuredFile | None = None,
        *,
        license: str = "",  # noqa: A002
        base_model: str = "",
        task: str = "",
        dataset: str = "",
        pictures: Sequence[str] = (),
    ) -> str:
        """Return a model card in Markdown of one file: what is known about it, and nothing else.

        `compress` writes the card of each of the best files beside it. Pass what only you know, and add the limits of
        the model to the text.

        Args:
            file: One of `front`; None takes the best.
            license: The Hub's identifier of the license, such as `"apache-2.0"`; empty leaves it out.
            base_model: The id of the base model on the Hub; empty leaves it out.
            task: The Hub's name of the task, such as `"image-classification"`; empty leaves it out.
            dataset: The name of the data on which the metric was measured; empty calls it validation or test data.
            pictures: Paths of pictures beside the card, which it then shows, such as that of `DamageReport.plot`.

        Raises:
            TypeError: If one of the texts is not a string.
            ValueError: If the Hub would not read one of them.

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
        results = [("validation", self.metric, file.score)]
        results += [] if file.test_score is None else [("test", self.metric, file.test_score)]
        entry = HubEntry(license, base_model, task, dataset, pictures)
        return model_card(file.file or file.name, sections, results=results, code=file.code, entry=entry)

    def _checks(self, file: MeasuredFile) -> list[list[str]]:
        rows = [["largest drop allowed", f"{self.max_drop:g} of {self.metric}"]]
        if file.quantize:
            words = f"not limited, as files are chosen by their {self.metric}"
            rows.append(["largest difference of an output", words])
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


# The page about a search, for a browser: the best files, and the program that makes each.

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _EDGE = 640, 310, 64, 64, 16  # pixels
_TICKS = (1, 2, 5)
_LINE_HEIGHT, _CHARACTER = 22, 11.3  # of labels on a phone, in pixels of the chart
_CHARTS = {
    "latency_ms": ("Latency", "milliseconds of one inference"),
    "arena_bytes": ("RAM", "bytes of the arena"),
    "cycles": ("Cycles", "cycles of one inference, as estimated"),
}
_Scale = Callable[[float], float]


def _compress_page(report: CompressReport) -> str:
    """Write the page, which loads nothing and runs no code."""
    title, axis = _CHARTS[report.cost]
    parts = [
        section("No recipe was tried", f"<p>{text(report.warning, 600)}</p>") if report.warning else "",
        facts(_facts(report)),
        section("The best files", _sizes(report)),
        section("What they get right", _scores(report)),
        section("What the average alone would have allowed", _refused_text(report)) if report.limits else "",
        section("Size", _chart(report, "bytes", "bytes of the .tflite file")),
        section(title, _chart(report, report.cost, axis)),
        section("What led to the best file", _lineage(report)),
        section("How each is made", "\n".join(_codes(report.front))),
        section("Recipes without a file", _failed(report.failed)) if report.failed else "",
    ]
    return document("Smaller files of a model", parts, kicker="tfprune compress", footer="Made by tfprune compress.")


def _facts(report: CompressReport) -> Iterator[tuple[str, str, str]]:
    best = report.best
    yield "Best file", f"{best.bytes:,} bytes", report.smaller
    yield (
        text(report.metric),
        f"{best.score:.4f}",
        f"of {report.baseline:.4f}; it may {'lose' if report.mode == 'max' else 'grow by'} {report.max_drop:.4g}",
    )
    yield "Tried", f"{report.trials} recipes", f"{len(report.tried)} files in {report.seconds:.0f} s"


def _sizes(report: CompressReport) -> str:
    if report.target is not None:
        header = ["File", "Flash", "RAM"] if report.target == "micro" else ["File", "Bytes", "Cycles"]
        rows = [[name_text(file.file), f"{file.bytes:,}", f"{getattr(file, report.cost):,}"] for file in report.front]
        return rows_table(header, rows)
    rows = [
        [name_text(file.file), f"{file.bytes:,}", f"{file.packed_bytes:,}", _number(file.latency_ms)]
        for file in report.front
    ]
    return rows_table(["File", "Bytes", "Packed", "ms"], rows)


def _scores(report: CompressReport) -> str:
    has_test = any(file.test_score is not None for file in report.front)
    header = ["File", text(report.metric).capitalize(), "Drop", *(["On test data"] if has_test else [])]
    rows = [[name_text(file.file), f"{file.score:.4f}", f"{file.drop:+.4f}"] for file in report.front]
    if has_test:
        rows = [[*row, _number(file.test_score, digits=".4f")] for row, file in zip(rows, report.front, strict=True)]
    return rows_table(header, rows)


def _refused_text(report: CompressReport) -> str:
    """List files that are good enough on average, and the class or group that they lose."""
    if not report.refused:
        return "<p>The same files: each also keeps the limit of each class and group.</p>"
    rows = [
        [name_text(file.name), f"{file.bytes:,}", f"{file.drop:+.4f}", text(str(file.worst_group), 200)]
        for file in report.refused
    ]
    note = "<p>These files keep the limit on average, but not in each class and group. They were not written.</p>"
    return note + rows_table(["File", "Bytes", "Drop", "Worst class or group"], rows)


def _lineage(report: CompressReport) -> str:
    """List the steps to the best file with what each brought, and all trials as a tree."""
    steps = report.lineage()
    rows = [
        [name_text(file.name), f"{file.bytes:,}", f"{file.bytes / before.bytes:.0%}", f"{file.drop:+.4f}"]
        for before, file in zip((steps[0], *steps), steps, strict=False)
    ]
    table = rows_table(["Step", "Bytes", "Of the step before", "Drop"], rows)
    summary = "All trials, each below the one that it started from"
    return f'{table}<details><summary><span class="what">{summary}</span></summary>{_tree(report)}</details>'


def _tree(report: CompressReport) -> str:
    """Draw all trials as nested lists, to the depth that a page shows."""
    best = {file.recipe for file in report.lineage()}
    smallest: dict[Recipe | None, MeasuredFile] = {}
    for file in report.tried:
        smallest.setdefault(file.recipe, file)
        smallest[file.recipe] = min(smallest[file.recipe], file, key=lambda each: each.bytes)
    children: dict[Recipe | None, list[Recipe]] = {}
    for recipe in smallest:
        if recipe is not None:
            children.setdefault(recipe.after, []).append(recipe)

    def branch(recipe: Recipe | None) -> str:
        file = smallest[recipe]
        words = f"{text(file.name)}: {file.bytes:,} bytes, drop {file.drop:+.4f}"
        inner = "".join(branch(child) for child in children.get(recipe, []))
        mark = ("<strong>", "</strong>") if recipe in best else ("", "")
        return f"<li>{mark[0]}{words}{mark[1]}{f'<ul>{inner}</ul>' if inner else ''}</li>"

    return f"<ul>{branch(None)}</ul>"


def _number(value: float | None, *, digits: str = ".4g") -> str:
    return "" if value is None else format(value, digits)


def _chart(report: CompressReport, by: str, axis: str) -> str:
    """Draw accuracy against size or time, with the best files in another color."""
    dots = [*(() if by == "latency_ms" else report.tried), *report.front]  # some files have no latency
    low, high = min(getattr(file, by) for file in dots), max(getattr(file, by) for file in dots)
    most = max(*(file.drop for file in report.front), 0.0) + 2 * (report.max_drop or 0.01 * abs(report.baseline))
    tops = (file.drop - (report.standard_error(file) or 0.0) for file in report.front)
    least = min(0.0, *(file.drop for file in dots), *tops) - 0.1 * most
    across = _scale(math.log(low / 1.15), math.log(high * 1.15), _LEFT, _WIDTH - _EDGE)
    up = _scale(most, least, _HEIGHT - _BOTTOM, _EDGE)  # of drops, so that better files are higher for errors, too
    marks = [
        f'<circle cx="{across(math.log(getattr(file, by))):.1f}" cy="{up(min(file.drop, most)):.1f}" r="4" '
        f'style="fill:var(--{"values" if file in report.front else "dense"})"><title>{escape(file.name)}: '
        f"{getattr(file, by):,.6g}, {file.score:.4f}</title></circle>"
        for file in dots
    ]
    marks = [*_errors(report, across, up, by), *marks]
    limit = up(report.max_drop)
    drops = (0.0, report.max_drop, most, least)
    levels = [(up(drop), _level(report.baseline - report.sign * drop)) for drop in drops]
    ticks = [(across(math.log(tick)), _tick(tick)) for tick in _ticks(low, high)]
    lines = [
        f'<line x1="{_LEFT}" x2="{_WIDTH - _EDGE}" y1="{limit:.1f}" y2="{limit:.1f}" '
        f'style="stroke:var(--no);stroke-dasharray:4 4"/>',
        *(_words(x, _HEIGHT - _BOTTOM + 30, tick, "middle") for x, tick in _apart(ticks, _width)),
        *(_words(_LEFT - 8, y + 4, level, "end") for y, level in _apart(levels, lambda level: _LINE_HEIGHT)),
        _words((_LEFT + _WIDTH) / 2, _HEIGHT - 6, f"{axis}, logarithmic", "middle"),
    ]
    frame = (
        f'<rect x="{_LEFT}" y="{_EDGE}" width="{_WIDTH - _EDGE - _LEFT}" height="{_HEIGHT - _BOTTOM - _EDGE}" '
        f'style="fill:none;stroke:var(--line)"/>'
    )
    title = f"{text(report.metric).capitalize()} against {axis}"
    has_errors = report.standard_error(report.best) is not None
    caption = [
        f"{title}. Blue: the best files{', with a standard error up and down' if has_errors else ''}.",
        f"Dashed: {report.max_drop:.4g} {'lost' if report.mode == 'max' else 'more'}, which is allowed.",
    ]
    others = [file for file in dots if file not in report.front]
    if others:
        lower = any(file.drop > most for file in others)
        caption.append(f"Grey: the others{'; those that lose more stand on the bottom line' if lower else ''}.")
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{title}">'
        f"{frame}{''.join(lines)}{''.join(marks)}</svg>"
        f'<p class="soft">{" ".join(caption)}</p>'
    )


def _errors(report: CompressReport, across: _Scale, up: _Scale, by: str) -> Iterator[str]:
    """Draw a standard error up and down from each of the best files."""
    for file in report.front:
        if (error := report.standard_error(file)) is not None:
            x = across(math.log(getattr(file, by)))
            low, high = (
                min(max(up(drop), _EDGE), _HEIGHT - _BOTTOM) for drop in (file.drop + error, file.drop - error)
            )
            yield (
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" '
                f'style="stroke:var(--values);stroke-width:2"/>'
            )


def _scale(low: float, high: float, start: float, end: float) -> _Scale:
    return lambda value: start + (value - low) / ((high - low) or 1) * (end - start)


def _ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [part * 10.0**power for part in _TICKS for power in powers]  # the roundest first
    inside = [tick for tick in ticks if low / 1.1 <= tick <= high * 1.1]
    return inside if len(inside) > 1 else [low, high]


def _width(words: str) -> float:
    return _CHARACTER * (len(words) + 1)


def _apart(labels: Iterable[tuple[float, str]], size: Callable[[str], float]) -> list[tuple[float, str]]:
    """Return the labels along an axis that do not lie on one another; of two, the first.

    Args:
        labels: The middle of each, and its words; the most important one first.
        size: Returns how much of the axis words take.
    """
    kept: list[tuple[float, str]] = []
    for at, words in labels:
        if all(abs(at - other) >= (size(words) + size(said)) / 2 for other, said in kept):
            kept.append((at, words))
    return kept


def _level(value: float) -> str:
    return f"{value:.3f}" if 0.1 <= abs(value) < 100 else f"{value:.3g}"


def _tick(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _words(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{words}</text>'


def _codes(files: Sequence[MeasuredFile]) -> Iterator[str]:
    for file in files:
        yield (
            f'<details><summary><span class="name">{text(file.file)}</span>'
            f'<span class="size">{file.bytes:,} bytes</span></summary><pre>{escape(file.code)}</pre></details>'
        )


def _failed(reasons: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{text(reason, 600)}</li>" for reason in reasons) + "</ul>"


# A search as a study of Optuna, whose dashboard draws it.

_NAMES = {"bytes": "bytes", "latency_ms": "milliseconds", "cycles": "cycles"}


def _optuna_study(report: CompressReport, storage: str | None) -> Any:
    """Return a study with a trial for each file of a search.

    Args:
        report: The search.
        storage: The URL of a database; None keeps the study in memory.

    Raises:
        ValueError: If Optuna is not installed, or the storage has a study of this name.
    """
    if find_spec("optuna") is None:
        raise ValueError(f"Expected Optuna. Received: none. Run {install('search')}.")
    import optuna

    name, by = f"compress {report.folder}", report.cost if report.optimize == "latency" else "bytes"
    try:
        study = optuna.create_study(storage=storage, study_name=name, directions=["minimize", "minimize"])
    except optuna.exceptions.DuplicatedStudyError as error:
        raise ValueError(
            f"Expected a storage without a study named {name!r}. Received: one that has it. Delete that study with "
            f"optuna.delete_study, or pass another storage."
        ) from error
    with warnings.catch_warnings():  # Optuna may change how objectives get their names
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names([_NAMES[by], f"drop of {report.metric}"])
    distributions = optuna.distributions
    space = {
        "multiply-adds": distributions.FloatDistribution(LEAST_FLOPS, 1.0),
        "zeros": distributions.FloatDistribution(0.0, 1.0),
        "pattern": distributions.CategoricalDistribution(tuple(PATTERNS)),
        "quantization-aware": distributions.CategoricalDistribution((False, True)),
        "number format": distributions.CategoricalDistribution(FORMATS),
    }
    for file in report.tried:
        size = getattr(file, by)
        if size is not None:
            study.add_trial(
                optuna.create_trial(
                    params=_parameters(file),
                    distributions=space,
                    values=[float(size), float(file.drop)],
                    user_attrs={"file": file.file, "steps": file.recipe.steps_of_chain if file.recipe else 0},
                )
            )
    return study


def _parameters(file: MeasuredFile) -> dict[str, Any]:
    recipe = file.recipe
    return {
        "multiply-adds": 1.0 if recipe is None else max(LEAST_FLOPS, recipe.remaining[0]),
        "zeros": 0.0 if recipe is None else recipe.sparsity,
        "pattern": "unstructured" if recipe is None else recipe.pattern,
        "quantization-aware": recipe is not None and recipe.quantize_aware,
        "number format": file.quantize or "float32",
    }


# Write the best files of a search, a report and a page about them.

UNITS = {"bytes": "bytes", "arena_bytes": "bytes of arena", "latency_ms": "ms", "cycles": "cycles"}
_CLOSEST = 3  # files that are named if none is within the limits


def write_front(
    loop: SearchLoop,
    folder: Path,
    *,
    test_data: tuple[Any, Any] | None,
    limits: Mapping[str, float] | None = None,
) -> CompressReport:
    """Write the best files of a search, their model cards and the report, and remove the files of an earlier call.

    Args:
        loop: A search that has ended.
        folder: Where the files, `report.json` and `report.html` go.
        test_data: Samples and labels on which the best files are measured besides.
        limits: The largest drop of each class and group, by name.

    Raises:
        ValueError: If no file is within the limits, or something in the folder is a link to another place.
    """
    files = [file for trial in loop.trials for file in trial.tried]
    front = pareto_front(files, loop.goal)
    if not front:
        raise ValueError(_refusal(files, loop))
    written = _write(loop, front, folder, test_data)
    for path in _written_before({file.name for file in files}, folder):
        if path.name not in {file.file for file in written}:
            path.unlink(missing_ok=True)
            if not _card_of(path).is_dir():  # which is the user's
                _card_of(path).unlink(missing_ok=True)
    measured = dict(zip(map(id, front), written, strict=True))  # the same numbers wherever a file is listed
    tried = tuple(measured.get(id(file), file) for file in files)
    evaluator = loop.runner.evaluator
    report = CompressReport(
        folder=str(folder),
        metric=evaluator.metric.name,
        max_drop=loop.goal.max_drop,
        optimize=evaluator.optimize,
        target=_target(evaluator),
        dense=tried[0],
        front=written,
        trials=len(loop.trials) - 1,
        failed=tuple(f"{trial.name}: {trial.reason}" for trial in loop.trials if trial.reason),
        tried=tried,
        seconds=loop.elapsed(),
        model=loop.runner.model.name,
        limits=limits or {},
        refused=_refused_files(files, loop),
        mode=evaluator.metric.mode,
        budgets=loop.goal.budgets,
        samples=len(keras.tree.flatten(evaluator.validation)[0]),
    )
    for file in written:
        _write_here(_card_of(folder / file.file), report.card(file).encode())
    _write_here(folder / "report.json", json.dumps(report.as_dict(), indent=1).encode())
    _write_here(folder / "report.html", _compress_page(report).encode())
    return report


def _refused_files(files: Sequence[MeasuredFile], loop: SearchLoop) -> tuple[MeasuredFile, ...]:
    """Return the files of the front of averages that lose too much of a class or group, the smallest first."""
    goal = loop.goal
    alone = {id(file): replace(file, worst_group=None) for file in files}
    front = pareto_front(alone.values(), goal)
    refused = [file for file in files if alone[id(file)] in front and goal.excess(file)]
    return tuple(sorted(refused, key=goal.size))


def _write(
    loop: SearchLoop, front: Sequence[MeasuredFile], folder: Path, test_data: tuple[Any, Any] | None
) -> tuple[MeasuredFile, ...]:
    """Write the files of the front, and return what is known of them then."""
    evaluator, written = loop.runner.evaluator, []
    for number, (file, latency) in enumerate(zip(front, _latencies(loop, front), strict=True), 1):
        content, name = _content(loop, file), f"{number:02}_{file.name}.tflite"
        _write_here(folder / name, content)
        test_score = None if test_data is None else evaluator.score(content, test_data)
        written.append(replace(file, file=name, latency_ms=latency, test_score=test_score))
    return tuple(written)


def _latencies(loop: SearchLoop, files: Sequence[MeasuredFile]) -> list[float | None]:
    """Return the latency of each file, and measure it where no trial has; None for a target."""
    evaluator = loop.runner.evaluator
    untimed = [file for file in files if file.latency_ms is None and _target(evaluator) is None]
    times = iter(evaluator.milliseconds([_content(loop, file) for file in untimed]) if untimed else [])
    return [next(times) if file in untimed else file.latency_ms for file in files]


def _target(evaluator: FileEvaluator) -> str | None:
    """Return the name of the target; None for phones and computers."""
    if evaluator.npu is not None:
        return evaluator.npu.accelerator
    return None if evaluator.micro is None else "micro"


def _content(loop: SearchLoop, file: MeasuredFile) -> bytes:
    return next(loop.content(trial, file) for trial in loop.trials if file in trial.tried)


def _card_of(path: Path) -> Path:
    """Return where the model card of a file is written."""
    return path.with_name(f"{path.name}.md")


def _refusal(files: Sequence[MeasuredFile], loop: SearchLoop) -> str:
    """Say that no file is within the limits, and what the closest ones miss."""
    goal, metric = loop.goal, loop.runner.evaluator.metric.name
    limits = [f"max_drop={goal.max_drop:g} of {metric!r}"]
    limits += [f"at most {_size_text(limit)} {UNITS[name]}" for name, limit in goal.budgets.items()]
    closest = sorted(files, key=goal.excess)[:_CLOSEST]
    return (
        f"Expected a file for {' and '.join(limits)}. Received: {len(files)} files, none of which fits. The closest: "
        f"{'; '.join(f'{file.name} {_missed(file, goal)}' for file in closest)}. All trials are kept: search longer, "
        f"or allow more in another folder."
    )


def _missed(file: MeasuredFile, goal: Goal) -> str:
    """Return what a file has more of than it may have."""
    missed = [f"loses {file.drop:.4g}"] if file.drop > goal.max_drop else []
    group = file.worst_group
    missed += [str(group)] if group is not None and group.excess > 0 else []
    sizes = {name: getattr(file, name) or 0 for name in goal.budgets}
    missed += [f"has {_size_text(size)} {UNITS[name]}" for name, size in sizes.items() if size > goal.budgets[name]]
    return ", ".join(missed)


def _size_text(size: float) -> str:
    return f"{size:,}" if isinstance(size, int) else f"{size:,.4g}"


def _written_before(names: set[str], folder: Path) -> list[Path]:
    """Return the files in the folder that this search may have written: a number, and the name of a file it made."""
    numbered = ((path, *path.stem.partition("_")) for path in folder.glob("*.tflite"))
    return [path for path, number, _, name in numbered if path.is_file() and number.isdecimal() and name in names]


def _write_here(path: Path, content: bytes) -> None:
    """Write a file into the folder, and not where a link in its place points to."""
    if path.is_symlink():
        raise ValueError(
            f"Expected a file, or none, in the folder of the search. Received: {str(path)!r}, a link to another "
            f"place. Remove it, and search again: all trials are kept."
        )
    write_atomically(path, content)
