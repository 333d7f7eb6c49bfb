"""Feed damaged answers of a board, job files, folders of a search, archives that lie, and texts of a file.

`make fuzz TARGETS="messages jobs folders archives texts"`, or `untrusted.py messages --runs 20000`. `interrupts`
breaks off calls of a language model's file. What is a finding stands in tests/helpers/damaged.py. A case is its
number: `--first` runs it again.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.append(str(Path(__file__).parents[1] / "helpers"))

from damaged import fuzz  # noqa: E402 (which stands there)

RUNS = {"messages": 20_000, "jobs": 10_000, "folders": 10_000, "archives": 2000, "texts": 10_000, "interrupts": 200}


def main() -> int:
    """Run the targets one after the other; return 1 when there is a finding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(RUNS)} (default: all)")
    parser.add_argument("--runs", type=int, help=f"cases of each target (default: {RUNS})")
    parser.add_argument("--first", type=int, default=1, help="the number of the first case (default: %(default)s)")
    options = parser.parse_args()
    if unknown := set(options.targets) - set(RUNS):
        parser.error(f"no such target: {', '.join(unknown)}")
    failed = False
    for target in options.targets or RUNS:
        cases = range(options.first, options.first + (options.runs or RUNS[target]))
        findings, ends = fuzz(target, cases)
        print(f"{target}: {len(findings)} finding(s) in {len(cases):,} cases: {dict(ends)}", *findings, sep="\n")
        failed |= bool(findings)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
