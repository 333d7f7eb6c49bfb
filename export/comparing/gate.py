"""The gate of a team: whether a file keeps a policy on its size, memory, speed, and the accuracy of each class."""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tfprune.base.folders import reading
from tfprune.base.limit import has_nothing_to_lose, listed_classes
from tfprune.base.output import Progress, check_verbose
from tfprune.base.spec import ArgumentError, ArgumentTypeError, check_number
from tfprune.export.comparing.damage import damage
from tfprune.export.comparing.damage_report import (
    FAILED,
    NOT_MEASURED,
    PASSED,
    VERDICTS,
    CheckFigure,
    CheckReport,
    CheckRow,
    DamageReport,
    DamageRow,
    mean_interval,
    worst_verdict,
)
from tfprune.export.device.benchmark import times_in_turns
from tfprune.export.device.verify import EVALUATE_TIMEOUT, Run, compare_run, run_in_child, samples_and_answers
from tfprune.export.device.web import read_web_result
from tfprune.export.file.container import Source, pack, read_source, source_name
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.report import fraction_of_zeros, reason_of
from tfprune.export.micro.reports import ACCELERATORS, MicroSupportReport, compile_file, support_of_file
from tfprune.report import printable

# What rules ask about: a file, its baseline, and samples. Each is read or run when a rule first asks for it.


@dataclass(frozen=True)
class _Subject:
    """The file of a check, and what it is compared with.

    Attributes:
        source: The file as it was given.
        file: The file, open.
        baseline: The baseline, open; None for none.
        x: Samples; None for none.
        y: Their labels; None for none.
        groups: Groups of samples by name; None for none.
        output: The output that is compared, of a file with several.
        web_result: The JSON of a page of `web`; None for none.
        confidence: The coverage of the intervals.
        npu: The NPU whose cycles are estimated; empty for none.
        timeout: Seconds for each run.
    """

    source: Source
    file: ModelFile
    baseline: ModelFile | None
    x: Any
    y: Any
    groups: Any
    output: str | int | None
    web_result: str | os.PathLike[str] | None
    confidence: float
    npu: str
    timeout: float

    @functools.cached_property
    def content(self) -> bytes:
        """The bytes of the file as it is stored."""
        return read_source(self.source)

    @functools.cached_property
    def run(self) -> Run:
        """The outputs of the file: for the samples, or for random numbers."""
        return run_in_child(self.file, self.x, timeout=self.timeout)

    @functools.cached_property
    def baseline_run(self) -> Run:
        """The same of the baseline."""
        return run_in_child(self.compared, self.x, timeout=self.timeout)

    @property
    def compared(self) -> ModelFile:
        """The baseline of a rule that needs one."""
        assert self.baseline is not None
        return self.baseline

    @functools.cached_property
    def support(self) -> MicroSupportReport:
        """How the interpreter for microcontrollers runs the file."""
        return support_of_file(self.file)

    @functools.cached_property
    def damage(self) -> DamageReport:
        """What the file lost against the baseline.

        Raises:
            ValueError: If one of them does not run on the samples, or the labels do not fit.
        """
        before, after = _outputs(self.baseline_run, "the baseline"), _outputs(self.run, "the file")
        return damage(
            before,
            after,
            (None, self.y),
            groups=self.groups,
            output=self.output,
            confidence=self.confidence,
        )

    @functools.cached_property
    def is_same(self) -> bool:
        """Whether both files give the same outputs on all samples, bit for bit."""
        before, after = self.baseline_run.outputs, self.run.outputs
        return before.keys() == after.keys() and all(np.array_equal(before[name], after[name]) for name in before)


def _outputs(run: Run, name: str) -> dict[str, np.ndarray]:
    if run.reason:
        raise ValueError(f"{name} does not run on the samples: {run.reason}")
    return run.outputs


# How rules measure. Each returns figures, or raises a ValueError with the reason why it cannot.

_Figures = Sequence[CheckFigure]


def _exact(value: float, part: str = "") -> CheckFigure:
    return CheckFigure(part, float(value), float(value), float(value))


def _without_number(part: str, verdict: str, reason: str) -> CheckFigure:
    return CheckFigure(part, None, None, None, verdict, reason.removesuffix("."))


def _bytes(subject: _Subject, limit: Any) -> _Figures:
    return [_exact(len(subject.content))]


def _bytes_ratio(subject: _Subject, limit: Any) -> _Figures:
    return [_exact(len(subject.file.content) / len(subject.compared.content))]


def _packed_bytes(subject: _Subject, limit: Any) -> _Figures:
    return [_exact(len(pack(subject.file.content)))]


def _zeros(subject: _Subject, limit: Any) -> _Figures:
    weights = subject.file.graph.weights
    if not weights:
        raise ValueError("the file has no weights, so there are no zeros to count")
    return [_exact(fraction_of_zeros(sum(each.nnz or 0 for each in weights), sum(each.size for each in weights)))]


def _operators(subject: _Subject, limit: Any) -> _Figures:
    counts = subject.file.graph.ops
    if not counts:
        raise ValueError("the file has no operators")
    return [_exact(count, name) for name, count in counts.items()]


def _arena(subject: _Subject, limit: Any) -> _Figures:
    support = subject.support
    if not support.runs:
        raise ValueError(f"the file has no arena, as microcontrollers do not run it: {support.reason}")
    if support.on_chip is None or support.arena is None:
        raise ValueError("the arena of a chip of 32 bits cannot be measured here: install mcufit and Node")
    return [_exact(support.arena)]


def _cycles(subject: _Subject, limit: Any) -> _Figures:
    report = compile_file(subject.file.content, subject.npu, system=None, memory=None)
    if report.on_cpu:
        left = ", ".join(report.on_cpu)
        raise ValueError(f"the cycles of {left} are not estimated: {subject.npu} leaves them to the processor")
    return [_exact(report.cycles, subject.npu)]


def _latency_ratio(subject: _Subject, limit: Any) -> _Figures:
    files = [subject.file, subject.compared]
    return [_in_processes(subject, files, limit, of=lambda times: times[:, 0] / times[:, 1])]


def _latency_ms(subject: _Subject, limit: Any) -> _Figures:
    return [_in_processes(subject, [subject.file], limit, of=lambda times: times[:, 0])]


_TURNS = 31
_LOOKS = (4, 6, 9, 13, 19)  # processes after which it is tried to tell


def _in_processes(
    subject: _Subject, files: Sequence[ModelFile], limit: float, *, of: Callable[[np.ndarray], np.ndarray]
) -> CheckFigure:
    """Measure files in turns in one process after the other, until the interval lies on one side of the limit.

    The median of each process is one number. Its logarithm has Student's interval over the processes; as the
    interval is looked at several times, each time counts as a part of the allowed error.

    Args:
        subject: The check.
        files: The files that take turns.
        limit: The limit.
        of: Returns the number of each turn, from the milliseconds of shape (turns, files).
    """
    level = 1 - (1 - subject.confidence) / len(_LOOKS)
    logs: list[float] = []
    low = high = math.nan
    for look in _LOOKS:
        while len(logs) < look:
            times = times_in_turns(files, turns=_TURNS, is_reversed=bool(len(logs) % 2), timeout=subject.timeout)
            logs.append(math.log(float(np.median(of(times)))))
        low, high = mean_interval(np.array(logs), level=level) or (math.nan, math.nan)
        if math.exp(low) > limit or math.exp(high) <= limit:
            break
    return CheckFigure("", math.exp(float(np.mean(logs))), math.exp(low), math.exp(high))


def _drop(subject: _Subject, limit: Any) -> _Figures:
    report = _measured_damage(subject, limit)
    return [_lost(subject, "", report.drop, report.low, report.high)]


def _drop_per_class(subject: _Subject, limit: Any) -> _Figures:
    report = _measured_damage(subject, limit)
    if report.task != "classification":
        raise ValueError("the outputs are not scores of classes, so no class has an accuracy; remove the rule")
    return _of_rows(subject, [row for row in report.rows if row.grouping == "class"])


def _drop_per_group(subject: _Subject, limit: Any) -> _Figures:
    return _of_rows(subject, _measured_damage(subject, limit).rows)


def _of_rows(subject: _Subject, rows: Sequence[DamageRow]) -> _Figures:
    missing = subject.damage.without_samples
    if missing:
        raise ValueError(f"there are no samples of {listed_classes(missing)}; add some of each class")
    return [_lost(subject, row.name, row.drop, row.low, row.high) for row in rows]


def _measured_damage(subject: _Subject, limit: float) -> DamageReport:
    report = subject.damage
    if report.task == "classification" and has_nothing_to_lose(report.before.score, limit):
        raise ValueError(
            f"the accuracy of the baseline is {report.before.score:.1%}, so no file can lose more than {limit:.1%}; "
            "check the labels"
        )
    return report


def _lost(subject: _Subject, part: str, drop: float, low: float | None, high: float | None) -> CheckFigure:
    """Return a loss with its interval. Files with the same outputs on all samples have lost exactly nothing."""
    if subject.is_same:
        return _exact(0, part)
    if low is None or high is None:
        return _without_number(part, NOT_MEASURED, "a single sample has no interval")
    return CheckFigure(part, float(drop), float(low), float(high))


def _difference(subject: _Subject, limit: Any) -> _Figures:
    expected = _outputs(subject.baseline_run, "the baseline")
    _outputs(subject.run, "the file")
    if subject.run.outputs.keys() != expected.keys():
        raise ValueError(f"the file has the outputs {[*subject.run.outputs]}, and the baseline {[*expected]}")
    report = compare_run(subject.run, expected, tolerance=limit)
    if report.max_abs_diff is None or report.scale is None:
        return [_without_number("", FAILED, report.reason)]
    return [_exact(report.max_abs_diff / report.scale)]


def _runtimes(subject: _Subject, limit: Sequence[str]) -> _Figures:
    figures = []
    for name in limit:
        try:
            reason = _RUNTIMES[name](subject)
            figures.append(_without_number(name, FAILED if reason else PASSED, f"{name}: {reason}" if reason else ""))
        except (ImportError, ValueError) as error:
            figures.append(_without_number(name, NOT_MEASURED, f"{name}: {reason_of(error)}"))
    return figures


def _in_litert(subject: _Subject) -> str:
    run = subject.run
    if run.reason and subject.x is not None:
        sample_free = run_in_child(subject.file, None, timeout=subject.timeout)
        if not sample_free.reason:
            raise ValueError(f"the file does not run on the samples: {run.reason}")
    broken = [key for key, output in run.outputs.items() if not np.isfinite(output).all()]
    return run.reason or (f"output {broken[0]!r} has values that are not finite" if broken else "")


def _in_micro(subject: _Subject) -> str:
    support = subject.support
    if support.runs and support.on_chip is None:
        raise ValueError("the interpreter of 32 bits cannot run here; install mcufit and Node")
    return support.reason


def _in_browser(subject: _Subject) -> str:
    if subject.web_result is None:
        raise ValueError(
            "it does not run here; open the page that `tfprune web` writes, and pass its result as `web_result` "
            "(--web RESULT)"
        )
    rows = read_web_result(subject.web_result).files
    digest = hashlib.sha256(subject.content).hexdigest()
    row = next((row for row in rows if row.sha256 == digest), None)
    if row is None:
        names = ", ".join(row.name for row in rows) or "no file"
        raise ValueError(f"the result of the page is of other files ({names}); write the page again with this file")
    return "" if row.passed else row.reason or "it failed"


_RUNTIMES: dict[str, Callable[[_Subject], str]] = {
    "litert": _in_litert,
    "micro": _in_micro,
    "browser": _in_browser,
}


# How rules compare, and how numbers are printed.


@dataclass(frozen=True)
class _Comparison:
    """How a figure is held against a limit.

    Attributes:
        words: What stands before the limit in a sentence.
        judge: Returns the verdict on a figure.
        excess: Returns how far a figure is beyond the limit: the largest is the worst.
    """

    words: str
    judge: Callable[[CheckFigure, Any], str]
    excess: Callable[[CheckFigure, Any], float]


def _judge_most(figure: CheckFigure, limit: float) -> str:
    low, high = figure.low, figure.high
    assert low is not None and high is not None
    return FAILED if low > limit else PASSED if high <= limit else NOT_MEASURED


def _judge_least(figure: CheckFigure, limit: float) -> str:
    low, high = figure.low, figure.high
    assert low is not None and high is not None
    return FAILED if high < limit else PASSED if low >= limit else NOT_MEASURED


_AT_MOST = _Comparison("at most", _judge_most, lambda figure, limit: figure.value or 0.0)
_AT_LEAST = _Comparison("at least", _judge_least, lambda figure, limit: -(figure.value or 0.0))
_AMONG = _Comparison("only", lambda figure, names: PASSED if figure.part in names else FAILED, lambda *_: 0.0)
_RUNS_IN = _Comparison("runs in", lambda figure, names: figure.verdict, lambda *_: 0.0)


def _in_bytes(value: float) -> str:
    return f"{value:,.0f} bytes"


def _plain(value: float) -> str:
    return f"{value:.3g}"


def _fraction(value: float) -> str:
    return f"{value:.4f}".rstrip("0").rstrip(".") if abs(value) < 1 else f"{value:.4g}"


def _times(value: float) -> str:
    return f"{value:.3f}x"


def _in_ms(value: float) -> str:
    return f"{value:.4g} ms"


def _in_cycles(value: float) -> str:
    return f"{value:,.0f} cycles"


# The values that a policy may give.


@dataclass(frozen=True)
class _Number:
    """A number in a range.

    Attributes:
        kind: `int`, or `float`, which takes integers, too.
        least: The smallest value.
        most: The largest one.
    """

    kind: type
    least: float
    most: float = math.inf

    @property
    def text(self) -> str:
        kind = "an integer" if self.kind is int else "a number"
        return (
            f"{kind} of at least {self.least:g}"
            if self.most == math.inf
            else (f"{kind} from {self.least:g} to {self.most:g}")
        )

    def holds(self, value: Any) -> bool:
        is_number = isinstance(value, int if self.kind is int else (int, float)) and not isinstance(value, bool)
        return is_number and math.isfinite(value) and self.least <= value <= self.most


@dataclass(frozen=True)
class _Names:
    """A list of names.

    Attributes:
        choices: The names that there are; empty for any.
    """

    choices: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return f"a list of {', '.join(map(repr, self.choices)) if self.choices else 'names'}"

    def holds(self, value: Any) -> bool:
        is_list = isinstance(value, (list, tuple)) and bool(value) and all(isinstance(name, str) for name in value)
        return is_list and (not self.choices or {*value} <= {*self.choices})


@dataclass(frozen=True)
class _Choice:
    """A name.

    Attributes:
        choices: The names that there are.
    """

    choices: tuple[str, ...]

    @property
    def text(self) -> str:
        return f"one of {', '.join(map(repr, self.choices))}"

    def holds(self, value: Any) -> bool:
        return value in self.choices


@dataclass(frozen=True)
class _Rule:
    """A rule that a policy may have.

    Attributes:
        value: The values that it takes.
        measure: Returns figures of a file.
        compare: How these are held against the limit.
        unit: Returns a number as text.
        about: A comment for a new policy.
        needs: The arguments of `check` that it needs; `"labels"` are those in its data.
    """

    value: _Number | _Names
    measure: Callable[[_Subject, Any], _Figures]
    compare: _Comparison
    unit: Callable[[float], str]
    about: str
    needs: tuple[str, ...] = ()

    @property
    def unsure(self) -> str:
        """The advice for an interval that is too wide."""
        return "add samples" if "labels" in self.needs else "run it on a quieter machine, or leave a wider margin"


_COUNT, _SHARE, _RATIO = _Number(int, 1), _Number(float, 0, 1), _Number(float, 0.01)
_LABELED = ("baseline", "data", "labels")

_RULES: dict[str, _Rule] = {
    "max_bytes": _Rule(_COUNT, _bytes, _AT_MOST, _in_bytes, "bytes of the file as it is stored"),
    "max_packed_bytes": _Rule(_COUNT, _packed_bytes, _AT_MOST, _in_bytes, "bytes after `tfprune.export.pack`"),
    "max_bytes_ratio": _Rule(
        _RATIO, _bytes_ratio, _AT_MOST, _times, "unpacked bytes, as a multiple of the baseline's", ("baseline",)
    ),
    "min_zeros": _Rule(_SHARE, _zeros, _AT_LEAST, _fraction, "fraction of the weights that are zero"),
    "operators": _Rule(_Names(), _operators, _AMONG, str, "the operators that the file may use"),
    "runtimes": _Rule(
        _Names(tuple(_RUNTIMES)),
        _runtimes,
        _RUNS_IN,
        str,
        "where it has to run: litert, micro (a chip of 32 bits), browser (with --web RESULT)",
    ),
    "max_arena": _Rule(_COUNT, _arena, _AT_MOST, _in_bytes, "bytes of RAM on a microcontroller of 32 bits"),
    "max_cycles": _Rule(
        _COUNT, _cycles, _AT_MOST, _in_cycles, "cycles of one run, as its compiler estimates them; with npu"
    ),
    "max_latency_ratio": _Rule(
        _RATIO, _latency_ratio, _AT_MOST, _times, "time of one run, as a multiple of the baseline's", ("baseline",)
    ),
    "max_latency_ms": _Rule(
        _Number(float, 0),
        _latency_ms,
        _AT_MOST,
        _in_ms,
        "processor time of one run: it differs from machine to machine, so prefer max_latency_ratio",
    ),
    "max_drop": _Rule(
        _Number(float, 0), _drop, _AT_MOST, _fraction, "accuracy lost on all samples, or error gained", _LABELED
    ),
    "max_drop_per_class": _Rule(
        _SHARE, _drop_per_class, _AT_MOST, _fraction, "accuracy lost by each class", _LABELED
    ),
    "max_drop_per_group": _Rule(
        _Number(float, 0),
        _drop_per_group,
        _AT_MOST,
        _fraction,
        "the same for each class and each value of --groups",
        (*_LABELED, "groups"),
    ),
    "max_output_difference": _Rule(
        _Number(float, 0),
        _difference,
        _AT_MOST,
        _plain,
        "difference of outputs, a fraction of the largest; remove it if the model is trained again",
        ("baseline", "data"),
    ),
}
_CONFIDENCE = 0.95
_SETTINGS: dict[str, _Number | _Choice] = {
    "confidence": _Number(float, 0.5, 0.9999),
    "npu": _Choice(ACCELERATORS),
}


# A policy: a TOML file with one key for each rule.

_LARGEST_POLICY = 2**20  # bytes
_KEY = re.compile(r"""\s*(?:\[+\s*)?(?:"([^"]*)"|'([^']*)'|([\w-]+))\s*[\].=]""")


@dataclass(frozen=True)
class _Policy:
    """A checked policy.

    Attributes:
        name: How it is called in messages.
        limits: The limits by rule.
        lines: The line of each key, counted from 1; empty for a policy that is not a file.
        confidence: The coverage of the intervals.
        npu: The NPU whose cycles count; empty for none.
    """

    name: str
    limits: dict[str, Any]
    lines: dict[str, int]
    confidence: float = _CONFIDENCE
    npu: str = ""

    @classmethod
    def read(cls, policy: str | os.PathLike[str] | Mapping[str, Any]) -> _Policy:
        """Read and check a policy.

        Raises:
            TypeError: If it is neither a path nor a dict, or a value has another type.
            ValueError: If it cannot be read, is not TOML, has no rules, an unknown key, or a value out of range.
        """
        if isinstance(policy, Mapping):
            name, values, lines = "the policy", dict(policy), dict[str, int]()
        elif isinstance(policy, (str, os.PathLike)):
            name = Path(policy).name
            with reading(policy, expected="a policy in TOML", advice="`tfprune check FILE --init PATH` writes one"):
                with Path(policy).open("rb") as stream:
                    content = stream.read(_LARGEST_POLICY + 1)
                if len(content) > _LARGEST_POLICY:
                    raise ValueError(f"more than {_LARGEST_POLICY:,} bytes")
                text = content.decode("utf-8")
                values, lines = _parse(text)
        else:
            raise ArgumentTypeError(
                "policy", "`policy` to be the path of a TOML file, or a dict of rules", found=type(policy).__name__
            )
        for key, value in values.items():
            _check_key(key, value, where=_where(name, lines.get(key)))
        limits = {key: value for key, value in values.items() if key in _RULES}
        if not limits:
            raise ValueError(
                f"Expected a rule in {name}. Received: none, so that every file would pass. Add one, such as "
                "max_bytes = 100000."
            )
        if "max_cycles" in limits and "npu" not in values:
            where = _where(name, lines.get("max_cycles"))
            raise ValueError(f'Expected the NPU of max_cycles in {where}. Received: none. Add npu = "ethos-u55-128".')
        return cls(name, limits, lines, float(values.get("confidence", _CONFIDENCE)), values.get("npu", ""))


def _where(name: str, line: int | None) -> str:
    return name if line is None else f"line {line} of {name}"


def _parse(text: str) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the values of a TOML text, and the line of each key.

    Raises:
        ValueError: If it is not TOML, with the line of the mistake.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    lines: dict[str, int] = {}
    rows = text.splitlines()
    twice = ""
    for number, match in ((number, _KEY.match(row)) for number, row in enumerate(rows, 1)):
        key = match and next(part for part in match.groups() if part is not None)
        if key and lines.setdefault(key, number) != number:
            twice = twice or f"{key} for a second time at line {number}, after line {lines[key]}"
    try:
        return tomllib.loads(text), lines
    except tomllib.TOMLDecodeError as error:
        raise ValueError(
            twice or str(error).replace("at end of document", f"at line {len(rows)}, the last")
        ) from error


def _check_key(key: Any, value: Any, *, where: str) -> None:
    known: dict[str, _Number | _Names | _Choice] = {
        **{name: rule.value for name, rule in _RULES.items()},
        **_SETTINGS,
    }
    if isinstance(value, dict):
        raise ValueError(f"Expected rules without tables in {where}. Received: [{key}]. Remove this line.")
    if key not in known:
        close = difflib.get_close_matches(str(key).lower().replace("-", "_"), known, n=1)
        advice = f" Did you mean {close[0]}?" if close else f" There are: {', '.join(known)}."
        raise ValueError(f"Expected a known rule in {where}. Received: {printable(str(key))}.{advice}")
    if not known[key].holds(value):
        unknown = _unknown_name(known[key], value)
        kinds = (str,) if isinstance(known[key], _Choice) else (int, float, list)
        error = ValueError if isinstance(value, kinds) and not isinstance(value, bool) else TypeError
        raise error(f"Expected {key} in {where} to be {known[key].text}. Received: {value!r}.{unknown}")


def _unknown_name(kind: _Number | _Names | _Choice, value: Any) -> str:
    """Return a question about a name, or the first one in a list, that is none of the choices."""
    names = [value] if isinstance(kind, _Choice) else value
    if isinstance(kind, _Number) or not isinstance(names, (list, tuple)):
        return _percent_advice(kind, value)
    for name in names:
        close = difflib.get_close_matches(str(name).lower(), kind.choices, n=1)
        if name not in kind.choices and close:
            return f" Did you mean {close[0]!r}?"
    return ""


def _percent_advice(kind: _Number | _Names | _Choice, value: Any) -> str:
    is_percentage = kind == _SHARE and isinstance(value, (int, float)) and 1 < value <= 100
    return f" Write {value / 100:g} for {value:g} percent." if is_percentage else ""


# Check a file against a policy.


def check(
    source: Source,
    policy: str | os.PathLike[str] | Mapping[str, Any],
    *,
    baseline: Source | None = None,
    groups: Mapping[str, ArrayLike] | ArrayLike | None = None,
    output: str | int | None = None,
    data: Any = None,
    web_result: str | os.PathLike[str] | None = None,
    timeout: float = EVALUATE_TIMEOUT,
    verbose: int | str = "auto",
) -> CheckReport:
    """Check whether a file keeps a policy: its size, memory and speed, and what each class lost against a baseline.

    Use it as a gate in continuous integration, so that no change makes a file larger, slower or worse for one class
    unnoticed. A rule that cannot be measured does not pass. `tfprune check FILE --init policy.toml` writes a policy
    of a file as it is.

    Args:
        source: A path, or the bytes of a .tflite file: plain, gzip, xz or packed.
        policy: The path of a TOML file, or a dict: a limit for each rule, and `confidence`, the coverage of the
            intervals (default 0.95), and `npu`, the NPU whose cycles count. The rules are `max_bytes`,
            `max_packed_bytes`, `max_bytes_ratio`, `min_zeros`, `operators`, `runtimes`, `max_arena`, `max_cycles`,
            `max_latency_ratio`, `max_latency_ms`, `max_drop`, `max_drop_per_class`, `max_drop_per_group` and
            `max_output_difference`.
        baseline: The file before the change. Default None, which suits rules of one file only.
        groups: Arrays of shape (samples,) by name, as in `damage`. Default None.
        output: The name or index of the output whose accuracy is compared, for files with several. Default None.
        data: A tuple (x, y), or samples alone, for rules of outputs and accuracy. Default None.
        web_result: The JSON of a page of `web`, as evidence of a run in a browser. Default None.
        timeout: Seconds after which a run of a file is stopped. Default 3600.
        verbose: 0 shows nothing, 1 a progress bar, 2 one line at the end. `"auto"` (the default) shows the bar in a
            terminal or a notebook, once the call has taken some seconds.

    Returns:
        A report with a row for each rule, `markdown()` for a pull request, and `junit()`. A number with an interval,
        as latencies and drops have, passes if all of the interval keeps the limit, fails if none of it does, and is
        not measured else.

    Raises:
        TypeError: If an argument or a value of the policy has another type.
        ValueError: If the policy has a mistake, which is reported with its line, a rule needs an argument that is
            missing, or a file cannot be read.

    Example:
        >>> print(tfprune.export.check("digits.tflite", {"max_bytes": 61_000, "operators": ["FULLY_CONNECTED"]}))
        digits.tflite passes the policy.
        <BLANKLINE>
        rule       limit                 measured         verdict
        ---------  --------------------  ---------------  -------
        max_bytes  at most 61,000 bytes  60,... bytes     passes
        operators  only FULLY_CONNECTED  FULLY_CONNECTED  passes
    """
    rules = _Policy.read(policy)
    check_number(timeout, "timeout", above=0)
    check_verbose(verbose)
    x, y = _samples_and_labels(data)
    _check_needs(rules, {"baseline": baseline, "data": x, "labels": y, "groups": groups})
    subject = _Subject(
        source,
        ModelFile.open(source),
        None if baseline is None else ModelFile.open(baseline),
        x,
        y,
        groups,
        output,
        web_result,
        rules.confidence,
        rules.npu,
        timeout,
    )
    rows = []
    with Progress(len(rules.limits), verbose=verbose, unit="rule") as progress:
        for name, limit in rules.limits.items():
            rows.append(_row(name, limit, subject, line=rules.lines.get(name)))
            progress.add()
    before = "" if baseline is None else _short(baseline)
    return CheckReport(_short(source), rules.name, before, rules.confidence, tuple(rows))


def _short(source: Source) -> str:
    """Return the name of a file without its folders."""
    return Path(source).name if isinstance(source, (str, os.PathLike)) else source_name(source)


def _samples_and_labels(data: Any) -> tuple[Any, Any]:
    """Return x and y; None for y of samples alone, and for both of no data."""
    if data is None or isinstance(data, (np.ndarray, Mapping)):
        return data, None
    return samples_and_answers(data, argument="data")


_MISSING = {
    "baseline": ("`baseline`", "the file before the change", "Pass that file"),
    "data": ("`data`", "samples that both files run on", "Pass some hundred samples"),
    "labels": ("labels in `data`", "the class of each sample", "Pass samples and labels"),
    "groups": ("`groups`", "the group of each sample", "Pass the groups, or use max_drop_per_class"),
}


def _check_needs(policy: _Policy, given: Mapping[str, Any]) -> None:
    """Refuse rules that need an argument which is missing, before anything runs."""
    for name in policy.limits:
        for need in _RULES[name].needs:
            if given[need] is None:
                text, meaning, advice = _MISSING[need]
                argument = "data" if need == "labels" else need
                where = _where(policy.name, policy.lines.get(name))
                raise ArgumentError(
                    argument,
                    f"{text}, {meaning}, for the rule {name} in {where}",
                    found="samples alone" if need == "labels" else "none",
                    advice=f"{advice}, or remove the rule.",
                )


def _row(name: str, limit: Any, subject: _Subject, *, line: int | None) -> CheckRow:
    """Measure one rule, and compare."""
    rule = _RULES[name]
    names = isinstance(rule.value, _Names)
    limit_text = f"{rule.compare.words} {', '.join(limit) if names else rule.unit(limit)}"
    try:
        figures = [_judged(figure, rule.compare, limit) for figure in rule.measure(subject, limit)]
    except (ImportError, ValueError) as error:
        return CheckRow(name, limit, line, NOT_MEASURED, limit_text, "-", _sentence(error))
    figures.sort(key=lambda figure: (VERDICTS.index(figure.verdict), -rule.compare.excess(figure, limit)))
    verdict = worst_verdict(figure.verdict for figure in figures)
    measured = _names_text(figures, verdict) if names else _number_text(figures[0], rule.unit)
    reason = "" if verdict == PASSED else _reason(figures, rule, limit_text, verdict)
    return CheckRow(name, limit, line, verdict, limit_text, measured, reason, tuple(figures))


def _sentence(error: Exception) -> str:
    return " ".join(reason_of(error).split())


def _judged(figure: CheckFigure, comparison: _Comparison, limit: Any) -> CheckFigure:
    return figure if figure.verdict else replace(figure, verdict=comparison.judge(figure, limit))


def _names_text(figures: Sequence[CheckFigure], verdict: str) -> str:
    return ", ".join(figure.part for figure in figures if figure.verdict == verdict)


def _number_text(figure: CheckFigure, unit: Callable[[float], str]) -> str:
    if figure.value is None or figure.low is None or figure.high is None:
        return "-"
    text = f"{figure.part}: {unit(figure.value)}" if figure.part else unit(figure.value)
    return text if figure.low == figure.high else f"{text} ({unit(figure.low)} to {unit(figure.high)})"


_MOST_PARTS = 5  # in a reason


def _reason(figures: Sequence[CheckFigure], rule: _Rule, limit_text: str, verdict: str) -> str:
    """Say which figures break a limit, or are too uncertain to be compared with it."""
    bad = [figure for figure in figures if figure.verdict == verdict]
    more = f", and {len(bad) - _MOST_PARTS} more" if len(bad) > _MOST_PARTS else ""
    if isinstance(rule.value, _Names) or bad[0].reason:
        texts = [figure.reason or f"{figure.part} is not in the list" for figure in bad[:_MOST_PARTS]]
        return f"{', '.join(texts)}{more}"
    text = f"{', '.join(_number_text(figure, rule.unit) for figure in bad[:_MOST_PARTS])}{more}"
    if verdict == FAILED:
        return f"{text}, where {limit_text} is allowed"
    return f"{text} does not tell whether it is {limit_text}; {rule.unsure}"


# A policy of a file as it is, for `tfprune check FILE --init PATH`.

_SLACK = 0.01  # of sizes
_FIRST_LIMITS = {
    "max_bytes_ratio": "1.01",
    "max_latency_ratio": "1.1",
    "max_drop": "0.01",
    "max_drop_per_class": "0.03",
    "max_drop_per_group": "0.03",
    "max_output_difference": "5e-6",  # right files of floats differ by 2e-6 at most
}
_HEAD = """\
# Policy of `tfprune check`, written for {name} as it is. Each line is a rule: change its limit, or remove it.
# A rule behind a # is off. Those below "Against a baseline" need --baseline FILE, the file before a change.
# A rule that cannot be measured does not pass: the exit code is then 2, and 1 if a rule is broken.
"""


def first_policy(
    source: Source,
    *,
    baseline: Source | None = None,
    data: Any = None,
    groups: Any = None,
    timeout: float = EVALUATE_TIMEOUT,
) -> str:
    """Return a policy in TOML that a file keeps as it is, with a comment for each rule.

    Rules that need a baseline, data or groups are on if these are given.

    Raises:
        ValueError: If the file cannot be read.
    """
    x, y = _samples_and_labels(data)
    given = {"baseline": baseline, "data": x, "labels": y, "groups": groups}
    file = ModelFile.open(source)
    subject = _Subject(source, file, None, x, y, groups, None, None, _CONFIDENCE, "", timeout)
    limits = {**_first_limits(subject), **_FIRST_LIMITS}
    lines = [_HEAD.format(name=printable(_short(source)))]
    for title, is_alone in (("The file alone", True), ("Against a baseline", False)):
        lines.append(f"# {title}")
        for name, rule in _RULES.items():
            if bool(rule.needs) is is_alone:
                continue
            is_on = name in limits and all(given[need] is not None for need in rule.needs)
            lines.append(f"{'' if is_on else '# '}{name} = {limits.get(name, _EXAMPLES.get(name))}  # {rule.about}")
        lines.append("")
    lines.append(f"# confidence = {_CONFIDENCE}  # of the intervals of latencies and drops")
    lines.append('# npu = "ethos-u55-128"  # the NPU of max_cycles')
    return "\n".join([*lines, ""])


_EXAMPLES = {"min_zeros": "0.8", "max_arena": "60000", "max_cycles": "200000", "max_latency_ms": "5.0"}


def _first_limits(subject: _Subject) -> dict[str, str]:
    """Return the limits that a file keeps by a little, as TOML."""
    limits = {}
    for name, rule in (("max_bytes", _bytes), ("max_packed_bytes", _packed_bytes), ("max_arena", _arena)):
        value = _value_now(subject, rule)
        if value is not None:
            limits[name] = f"{math.ceil(value * (1 + _SLACK))}"
    zeros = _value_now(subject, _zeros)
    if zeros:
        limits["min_zeros"] = f"{math.floor(1000 * zeros) / 1000:g}"
    limits["operators"] = _listed(subject.file.graph.ops)
    limits["runtimes"] = _listed(["litert", *(["micro"] if "max_arena" in limits else [])])
    return limits


def _value_now(subject: _Subject, measure: Callable[[_Subject, Any], _Figures]) -> float | None:
    """Return a number of the file; None if it has none, or nothing here can measure it."""
    try:
        return measure(subject, None)[0].value
    except (ImportError, ValueError):
        return None


def _listed(names: Iterable[str]) -> str:
    return f"[{', '.join(map(json.dumps, names))}]"  # a string of JSON is one of TOML
