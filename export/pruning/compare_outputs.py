"""Compare the outputs of two files on samples, and tell when samples hardly change them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from tfprune.export.pruning.prune_tflite_report import OutputError

BLOCK = 2**20  # numbers that are in double precision at the same time
HARDLY = 0.03  # of the size of an output: samples without preprocessing reach 0.002 to 0.03, right ones 0.1 to 1
MANY = 16  # samples that are all of the same class


def compare_outputs(
    dense: Mapping[str, np.ndarray], pruned: Mapping[str, np.ndarray], *, held: int
) -> list[OutputError]:
    """Compare the outputs of two files on the last samples.

    Args:
        dense: The outputs of the dense file for all samples, by which their variation is measured.
        pruned: Those of the pruned file for the last ones.
        held: How many these are.
    """
    rows = []
    for name, values in dense.items():
        outputs = np.atleast_1d(pruned[name])
        right = np.atleast_1d(values)[-len(outputs) :]
        spread = _deviation(values)
        pairs = zip(_blocks(outputs), _blocks(right), strict=True)
        error = float(np.sqrt(sum(np.square(ours - theirs).sum() for ours, theirs in pairs) / outputs.size))
        has_classes = _has_classes(right, rows=held)
        agreement = float((outputs.argmax(axis=1) == right.argmax(axis=1)).mean()) if has_classes else None
        rows.append(OutputError(name, error / spread if spread > 0 else None, agreement))
    return rows


def constant_outputs(dense: Mapping[str, np.ndarray], *, samples: int) -> list[str]:
    """Return a warning for each output that hardly varies over the samples."""
    warnings = []
    for name, values in dense.items():
        size = float(np.sqrt(sum(np.square(block).sum() for block in _blocks(values)) / max(values.size, 1)))
        part = _deviation(values) / size if size else 0.0
        text = ""
        if values.ndim and len(values) == samples > 1 and part < HARDLY:
            text = f"hardly changes: its standard deviation over the samples is {part:.1%} of its size"
        elif samples >= MANY and _has_classes(values, rows=samples) and len({*values.argmax(axis=1).tolist()}) == 1:
            text = "has its largest entry at the same index for all samples"
        if text:
            warnings.append(f"output {name!r} of the dense file {text}. Check the preprocessing.")
    return warnings


def _has_classes(values: np.ndarray, *, rows: int) -> bool:
    return values.ndim == 2 and values.shape[1] > 1 and len(values) == rows


def _deviation(values: np.ndarray) -> float:
    """Return the standard deviation over the samples: the root of the mean variance of the entries."""
    if not values.ndim:
        return 0.0
    return float(np.sqrt(sum(block.var(axis=0).sum() for block in _blocks(values)) / max(values[0].size, 1)))


def _blocks(values: np.ndarray) -> Iterator[np.ndarray]:
    """Yield some entries of all samples at a time, in double precision."""
    flat = values.reshape(len(values) if values.ndim else 1, -1)
    step = max(1, BLOCK // max(len(flat), 1))
    for start in range(0, flat.shape[1], step):
        yield flat[:, start : start + step].astype(np.float64)
