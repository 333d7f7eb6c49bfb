"""Take every backbone of KerasHub through masks and removal, and write a row for each: `make hub`."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
HELPERS = os.pathsep.join([str(TESTS / "helpers"), str(TESTS / "zoo")])
STEPS = ["wrap", "masks", "saved, loaded", "stripped", "exported", "planned", "shrunk", "reconstructed"]
LIMIT = 300  # seconds of one backbone
NAMES = "from hub_models import BACKBONES; print(*BACKBONES)"

Row = dict[str, Any]


def row(name: str) -> Row:
    """Return what became of each step, by its name, and a verdict: a process of its own, with a time limit."""
    command = [sys.executable, str(Path(__file__).with_name("backbone.py")), name]
    try:
        done = _run(command)
    except subprocess.TimeoutExpired as late:
        text, verdict = (late.stdout or b"").decode(), f"took more than {LIMIT} s"
    else:
        text, verdict = done.stdout, runpy.run_path(str(TESTS / "zoo/run.py"))["verdict"](done)
    steps = [json.loads(line) for line in text.splitlines() if line.startswith('{"step": ')]
    return {"backbone": name, "steps": {step.pop("step"): step for step in steps}, "verdict": verdict}


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(path for path in (HELPERS, os.environ.get("PYTHONPATH")) if path)
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": paths}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=LIMIT, check=False)


def markdown(rows: list[Row]) -> str:
    """Return the rows as a table, how many hold in each column, and below it the reasons of those that do not."""
    lines = [f"| backbone | {' | '.join(STEPS)} |", f"|---|{'---|' * len(STEPS)}"]
    reasons = []
    for each in rows:
        cells = [_cell(each["steps"].get(step)) for step in STEPS]
        lines.append(f"| {each['backbone'].removesuffix('Backbone')} | {' | '.join(cells)} |")
        reasons += [
            _reason(f"{each['backbone']}, {name}: {step['value']}")
            for name, step in each["steps"].items()
            if not step["holds"]
        ]
        reasons += [] if each["verdict"] == "holds" else [_reason(f"{each['backbone']}: {each['verdict']}")]
    totals = [sum(each["steps"].get(step, {}).get("holds", False) for each in rows) for step in STEPS]
    lines.append(f"| {len(rows)} in all | {' | '.join(map(str, totals))} |")
    return "\n".join([*lines, "", *reasons, ""])


def _reason(text: str) -> str:
    """Return an item of a list: the start of a message, without the converter's places in the graph."""
    text = textwrap.shorten(re.sub(r"loc\(.*\): ", "", text), 400, placeholder=" ...")
    return textwrap.fill(text, 100, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)


def _cell(step: Row | None) -> str:
    if step is None:
        return "-"
    return step["value"] if step["holds"] else "refused"


def main() -> int:
    known = _run([sys.executable, "-c", NAMES]).stdout.split()
    wanted = sys.argv[1:] or known
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise SystemExit(f"Expected backbones among {', '.join(known)}. Received: {', '.join(unknown)}")
    folder = Path("build/hub")
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        for name in wanted:
            rows.append(row(name))
            sys.stdout.write(f"{name}: {' '.join(_mark(rows[-1], step) for step in STEPS)} {rows[-1]['verdict']}\n")
            file.write(json.dumps(rows[-1]) + "\n")
            file.flush()
    (folder / "table.md").write_text(markdown(rows), encoding="utf-8")
    sys.stdout.write(f"\n{markdown(rows)}")
    return int(any(each["verdict"] != "holds" for each in rows))


def _mark(row: Row, step: str) -> str:
    return "-" if step not in row["steps"] else "yes" if row["steps"][step]["holds"] else "no"


if __name__ == "__main__":
    sys.exit(main())
