"""Which files open while public calls run, and how often models and files are read: `make bench opened`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

from common import Row  # noqa: E402
from opened import calls, opened_by  # noqa: E402

# Bars: files; parses and checks of files together.
BARS = {
    "wrap": (10, 0),
    "wrap_channel": (18, 0),
    "strip": (7, 0),
    "update_masks": (13, 0),
    "plan_shrink": (20, 0),
    "shrink": (11, 0),
    "fit": (15, 0),
    "to_tflite": (28, 4),
    "to_tflite_int8": (31, 7),
    "to_tflite_latency_packed": (40, 10),
    "runner": (7, 1),
    "verify": (11, 3),
    "inspect": (9, 2),
    "sparsify": (8, 2),
    "prune_tflite": (22, 6),
}


def measure() -> list[Row]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, call in calls(Path(folder)):
            opened = opened_by(call)
            reads = opened.reads["parses"] + opened.reads["checks"]
            files, most = BARS.get(name, (len(opened.files), reads))
            sys.stderr.write(f"{name}: {' '.join(opened.files)}\n")
            rows.append(Row(f"{name}: files", str(len(opened.files)), f"<= {files}", len(opened.files) <= files))
            rows.append(Row(f"{name}: parses and checks of a file", str(reads), f"<= {most}", reads <= most))
    return rows


if __name__ == "__main__":
    for row in measure():
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
