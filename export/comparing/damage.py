"""Compare a model before and after pruning: for each class, group and sample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tfprune.base.groups import read_groups
from tfprune.base.spec import check_drop, check_number
from tfprune.export.comparing.compare_classes import compare_classes
from tfprune.export.comparing.compare_numbers import compare_numbers
from tfprune.export.comparing.compare_tokens import compare_tokens
from tfprune.export.comparing.corruptions import Corruption, corrupted, corruptions_of
from tfprune.export.comparing.damage_report import FEW_SAMPLES, DamageReport
from tfprune.export.comparing.damage_rows import CorruptedScores, FlippedSample
from tfprune.export.comparing.labels import class_texts, comparable
from tfprune.export.comparing.outputs import can_run, outputs_of
from tfprune.export.device.running.evaluate import TIMEOUT, samples_and_answers

PICTURED_SAMPLES = 24  # kept for the page


def damage(
    before: Any,
    after: Any,
    data: Any,
    *,
    groups: Mapping[str, ArrayLike] | ArrayLike | None = None,
    class_names: Sequence[str] | None = None,
    task: str | None = None,
    output: str | int | None = None,
    confidence: float = 0.95,
    max_drop: float | None = None,
    max_drop_per_group: float | None = None,
    corruptions: str | Sequence[str] | Mapping[str, float | Corruption] | None = None,
    timeout: float = TIMEOUT,
) -> DamageReport:
    """Compare two models on the same samples: what each class and each group lost, and which samples flipped.

    Use it before you ship a pruned or quantized model. An average hides a class or a speaker that lost everything.
    Files and recorded outputs need neither Keras nor TensorFlow.

    Args:
        before: A .tflite file (a path or its bytes), a Keras model or another object with `predict`, or the recorded
            outputs as an array, batch first.
        after: The same of the smaller model.
        data: A tuple (x, y), or batches of such tuples; x alone, or (x, None), to compare without labels. x may be
            None if both outputs are recorded. y holds classes by number, one-hot rows, or numbers; for a language
            model with outputs of shape (texts, time, vocabulary) the number of each next token, (texts, time), and
            a negative number where there is none, as in padding.
        groups: Arrays of shape (samples,) by name, such as `{"speaker": speakers}`: whole numbers or strings. For a
            language model also (texts, time), such as the kind of each next token. Default None: the classes only,
            or frequent and rare tokens.
        class_names: The name of each class, for the report. Default None: the numbers.
        task: `"classification"`, `"regression"` or `"language"`. Default None: inferred from labels and outputs. With
            `"language"`, the outputs may also be the loss of each token, (texts, time).
        output: The name or index of the output to compare, for models that have several. Default None.
        confidence: The coverage of the intervals, between 0 and 1. Default 0.95. A group counts as harmed if its
            adjusted p-value is below 1 - `confidence`.
        max_drop: The accuracy that may be lost in all, 0.01 for one point, or the error that may be gained. Default
            None: no limit.
        max_drop_per_group: The same for each class and each group. Default None: no limit.
        corruptions: Names of corruptions: `"noise"` (0.2 of the standard deviation of the samples), `"blur"` (1 pass
            over neighbors), `"gain"` (times 0.5), `"shift"` (by 0.1 of the width or time). A dict changes these
            amounts, as `{"noise": 0.5}`, or adds functions from samples to samples. Both sides run on each. Default
            None.
        timeout: Seconds after which a file is stopped. Default 3600.

    Returns:
        A report that prints the worst groups first. Intervals of drops are those of Bonett and Price for paired
        answers (Student's for errors). Whether a group lost more than the other samples is decided by an exact
        permutation test (rank sums for errors), corrected for the number of groups by Benjamini and Hochberg.

    Raises:
        TypeError: If a side is not a file, model or array, or `groups` holds measured numbers.
        ValueError: If outputs are not finite, differ in shape or in meaning (logits and probabilities), labels or
            groups have another length, a file does not run, or a corruption is not known or has no samples.

    Example:
        >>> scores = np.eye(3)[[0, 0, 1, 1, 2, 2]]
        >>> report = damage(scores, scores[[0, 1, 4, 2, 4, 5]], (None, [0, 0, 1, 1, 2, 2]))
        >>> report.lost, report.rows[0].name, report.rows[0].drop
        (1, 'class 1', 0.5)
    """
    check_number(confidence, "confidence", above=0, below=1)
    limits = {"max_drop": max_drop, "max_drop_per_group": max_drop_per_group}
    for name, limit in limits.items():
        check_drop(limit, name, metric="")
    check_number(timeout, "timeout", above=0)
    functions = corruptions_of(corruptions)
    x, y = _samples_and_labels(data)

    def compare(samples: Any, groups: Any) -> DamageReport:
        sides = [
            outputs_of(side, samples, argument=name, output=output, timeout=timeout)
            for name, side in (("before", before), ("after", after))
        ]
        compared = comparable(sides[0], sides[1], y=y, task=task)
        if compared.task == "language":
            return compare_tokens(compared, groups, level=confidence)
        by_sample = read_groups(groups, len(compared.before))
        if compared.task == "regression":
            return compare_numbers(compared, by_sample, level=confidence)
        names = class_texts(class_names, compared.classes)
        return compare_classes(compared, by_sample, level=confidence, names=names)

    report = compare(x, groups)
    for name, limit in limits.items():
        check_drop(limit, name, metric="accuracy" if report.task == "classification" else "")
    scores = []
    for name, function in functions.items():
        _refuse_recorded(before, after)
        other = compare(corrupted(x, function, name=name), None)
        scores.append(CorruptedScores(name, other.before.score, other.after.score, other.drop, other.low, other.high))
    few = [f"{row.name} ({row.samples})" for row in report.rows if row.samples < FEW_SAMPLES]
    note = f"Too few samples for a firm answer (fewer than {FEW_SAMPLES}): {', '.join(few)}."
    return replace(
        report,
        max_drop=max_drop,
        max_drop_per_group=max_drop_per_group,
        corrupted=tuple(scores),
        notes=(*report.notes, *([note] if few else [])),
        pictured=_pictured(x, report.flips),
    )


def _refuse_recorded(before: Any, after: Any) -> None:
    """Refuse recorded outputs, which corruptions of the samples do not change."""
    for name, side in (("before", before), ("after", after)):
        if not can_run(side):
            raise ValueError(
                f"Expected a file or a model in `{name}` to run on corrupted samples. Received: recorded outputs. "
                "Leave `corruptions` out."
            )


def _samples_and_labels(data: Any) -> tuple[Any, Any]:
    """Return x and y; None for y where there are no labels."""
    is_pair = isinstance(data, tuple) and len(data) == 2
    if is_pair or (isinstance(data, Iterable) and not isinstance(data, (np.ndarray, Mapping, list, str, bytes))):
        return samples_and_answers(data, argument="data")
    if isinstance(data, list) and data and all(isinstance(batch, tuple) for batch in data):
        return samples_and_answers(data, argument="data")
    if not isinstance(data, (np.ndarray, Mapping, list)):
        raise TypeError(
            "Expected a tuple (x, y), batches of such tuples, or samples without labels in `data`. Received: a value "
            f"of type {type(data).__name__}."
        )
    return data, None


def _pictured(x: Any, flips: tuple[FlippedSample, ...]) -> dict[int, np.ndarray]:
    """Return the samples that the page may show, if each is one array."""
    if x is None or isinstance(x, (Mapping, list, tuple)) or not hasattr(x, "__getitem__"):
        return {}
    return {flip.index: np.asarray(x[flip.index]) for flip in flips[:PICTURED_SAMPLES]}
