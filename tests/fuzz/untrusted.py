"""Feed damaged answers of a board, job files, folders of a search, archives that lie, and texts of a file.

`make fuzz TARGETS="messages jobs folders archives texts"`, or `untrusted.py messages --runs 20000`, or `--minutes 5`
for each target. `interrupts` breaks off calls of a language model's file. What is a finding stands in
tests/helpers/damaged.py. A case is its number: `--first` runs it again.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from itertools import count, takewhile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.append(str(Path(__file__).parents[1] / "helpers"))

from damaged import fuzz  # noqa: E402 (which stands there)

RUNS = {"messages": 20_000, "jobs": 10_000, "folders": 10_000, "archives": 2000, "texts": 10_000, "interrupts": 200}


def main() -> int:
    """Run the targets one after the other; return 1 when there is a finding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(RUNS)} (default: all)")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--runs", type=int, help=f"cases of each target (default: {RUNS})")
    length.add_argument("--minutes", type=float, help="how long to run each target, instead of a number of cases")
    parser.add_argument("--first", type=int, default=1, help="the number of the first case (default: %(default)s)")
    options = parser.parse_args()
    if unknown := set(options.targets) - set(RUNS):
        parser.error(f"no such target: {', '.join(unknown)}")
    failed = False
    for target in options.targets or RUNS:
        last = options.first + (options.runs or RUNS[target])
        cases = range(options.first, last) if options.minutes is None else for_minutes(options.minutes, options.first)
        findings, ends = fuzz(target, cases)
        counts = f"{len(findings)} finding(s), {ends.total():,} other cases: {dict(ends)}"
        print(f"{target}: {counts}", *findings, sep="\n", flush=True)
        failed |= bool(findings)
    return int(failed)


def for_minutes(minutes: float, first: int) -> Iterator[int]:
    """Yield numbers of cases until the time is over."""
    end = time.monotonic() + 60 * minutes
    return takewhile(lambda _: time.monotonic() < end, count(first))


if __name__ == "__main__":
    sys.exit(main())
