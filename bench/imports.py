"""How long the imports take, and that they load neither Keras nor TensorFlow."""

from __future__ import annotations

import statistics
import subprocess
import sys

from common import Row, at_most

PROBE = """
import sys, time
start = time.perf_counter()
import {module}
print(time.perf_counter() - start, "keras" in sys.modules or "tensorflow" in sys.modules)
"""


def measure(module: str, bar: float) -> list[Row]:
    runs = []
    for _ in range(7):
        command = [sys.executable, "-c", PROBE.format(module=module)]
        runs.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    pure = all(loaded == "False" for _, loaded in runs)
    return [
        at_most(f"import {module}", statistics.median(float(seconds) for seconds, _ in runs), bar, unit=" s"),
        Row(f"import {module} loads keras or tensorflow", "no" if pure else "yes", "no", pure),
    ]


if __name__ == "__main__":
    for row in measure("tfprune", 0.3) + measure("tfprune.export.device.runner", 0.5):
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
