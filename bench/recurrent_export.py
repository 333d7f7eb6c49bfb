"""Every recurrent network of the tests of channels, pruned by half and exported for latency, in this order."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from common import Row

sys.path.append(str(Path(__file__).parents[1] / "tests/helpers"))

from recurrent import CASES, MASKS, network

import tfprune
from tfprune.export import to_tflite


def measure() -> list[Row]:
    refused, differences = [], []
    with tempfile.TemporaryDirectory() as folder:
        for case in [(*case, mask) for case in CASES for mask in MASKS]:
            try:
                differences.append(_difference(*case, path=Path(folder) / "model.tflite"))
            except ValueError as error:
                refused.append(case)
                print(f"{case}: {error}", file=sys.stderr)
    count = len(refused) + len(differences)
    what = f"{count} recurrent networks (kind x states x direction x mask), optimize='latency': not exported"
    return [
        Row(what, str(len(refused)), "0", not refused),
        Row("the largest difference from Keras among them", f"{max(differences, default=0):.1e}", "", True),
    ]


def _difference(kind: str, states: str, is_bidirectional: bool, mask: str, *, path: Path) -> float:
    """Export a network of which half of the channels are masked; return the difference that the export measured."""
    model, data = network(kind, states=states, mask=mask, is_bidirectional=is_bidirectional)
    wrapped = tfprune.wrap(model, pattern="channel")
    tfprune.update_masks(wrapped, 0.5)
    return to_tflite(wrapped, path, optimize="latency", check_on=data).max_abs_diff


if __name__ == "__main__":
    for row in measure():
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
