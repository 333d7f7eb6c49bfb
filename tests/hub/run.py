"""Take every backbone of KerasHub through masks and removal, and write a row for each: `make hub`.

python run.py [--converters [CONVERTER ...] --] [BACKBONE ...]: with `--converters` only the export, by each converter
that is installed or named, the one on TensorFlow's backend and the other on JAX's, in `build/hub/converters.md`.
"""

from __future__ import annotations

import argparse
import importlib.util
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
CONVERTERS = {
    "tensorflow": {"KERAS_BACKEND": "tensorflow", "TFPRUNE_CONVERTER": "tensorflow"},
    "litert": {  # compiling would take most of the time
        "KERAS_BACKEND": "jax",
        "TFPRUNE_CONVERTER": "litert",
        "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
    },
}
PACKAGES = {"tensorflow": "tensorflow", "litert": "litert_converter"}
NAMES = "from hub_models import BACKBONES; print(*BACKBONES)"

Row = dict[str, Any]


def row(name: str, converter: str = "") -> Row:
    """Return what became of each step, by its name, and a verdict: a process of its own, with a time limit."""
    command = [sys.executable, str(Path(__file__).with_name("backbone.py")), name]
    try:
        done = _run([*command, "export"], CONVERTERS[converter]) if converter else _run(command)
    except subprocess.TimeoutExpired as late:
        text, verdict = (late.stdout or b"").decode(), f"took more than {LIMIT} s"
    else:
        text, verdict = done.stdout, runpy.run_path(str(TESTS / "zoo/run.py"))["verdict"](done)
    steps = [json.loads(line) for line in text.splitlines() if line.startswith('{"step": ')]
    return {"backbone": name, "steps": {step.pop("step"): step for step in steps}, "verdict": verdict}


def _run(command: list[str], variables: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(path for path in (HELPERS, os.environ.get("PYTHONPATH")) if path)
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": paths, **(variables or {})}
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


def by_converters(wanted: list[str], converters: list[str]) -> str:
    """Export backbones by each converter; return a table, how many of them each and all together export, and why."""
    lines = [f"| backbone | {' | '.join(converters)} |", f"|---|{'---|' * len(converters)}"]
    reasons, held = [], dict.fromkeys([*converters, "one of them"], 0)
    for name in wanted:
        rows = {converter: row(name, converter) for converter in converters}
        steps = {converter: each["steps"].get("exported") for converter, each in rows.items()}
        for converter, step in steps.items():
            if step is None or not step["holds"]:
                why = rows[converter]["verdict"] if step is None else step["value"]
                reasons.append(_reason(f"{name}, {converter}: {why}"))
                sys.stdout.write(f"{reasons[-1]}\n")
            held[converter] += bool(step and step["holds"])
        held["one of them"] += any(step and step["holds"] for step in steps.values())
        lines.append(f"| {name.removesuffix('Backbone')} | {' | '.join(map(_cell, steps.values()))} |")
        sys.stdout.write(f"{lines[-1]}\n")
        sys.stdout.flush()
    totals = "".join(f"{converter} {count}, " for converter, count in held.items())
    return "\n".join([*lines, "", f"Exported of {len(wanted)}: {totals.removesuffix(', ')}.", "", *reasons, ""])


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("backbones", nargs="*")
    parser.add_argument("--converters", nargs="*", choices=CONVERTERS)
    options = parser.parse_args()
    backend = {} if importlib.util.find_spec("tensorflow") else CONVERTERS["litert"]
    known = _run([sys.executable, "-c", NAMES], backend).stdout.split()
    wanted = options.backbones or known
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise SystemExit(f"Expected backbones among {', '.join(known)}. Received: {', '.join(unknown)}")
    folder = Path("build/hub")
    folder.mkdir(parents=True, exist_ok=True)
    if options.converters is not None:
        installed = [name for name, package in PACKAGES.items() if importlib.util.find_spec(package)]
        text = by_converters(wanted, options.converters or installed)
        (folder / "converters.md").write_text(text, encoding="utf-8")
        sys.stdout.write(f"\n{text}")
        return 0
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
