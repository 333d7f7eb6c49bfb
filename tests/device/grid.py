"""Run the files of make_grid.py in three runtimes and print one table: python grid.py FOLDER [RUNTIME]."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table
from run import RUNTIMES, devices, is_bad, outcome, results, tell

COLUMNS = ("model", "format", "sparse", "form", "kernels", "bytes")
KINDS = ("refused", "wrong", "crash")  # as check.py and run.py name what is not agreement


def main() -> int:
    folder, console = Path(sys.argv[1]).resolve(), Console(width=150)
    files = json.loads((folder / "files.json").read_text(encoding="utf-8"))
    rows = [row for of_model in files.values() for row in of_model]
    written = {model: [row for row in of_model if "refusal" not in row] for model, of_model in files.items()}
    runtimes = devices(sys.argv[2:] or RUNTIMES, folder.parent, console)
    by_file = results(runtimes, folder, written)
    console.print(_table(rows, list(runtimes), by_file))
    for row in rows:
        for reason in row.get("failed", []):
            console.print(f"not taken: {row['file']}: {reason}", soft_wrap=True, markup=False)
        if "refusal" in row:
            console.print(f"no file: {row['file']}: {row['refusal']}", soft_wrap=True, markup=False)
    tell(by_file, console)
    missing = sum("refusal" in row for row in rows)
    for name in runtimes:
        counts = Counter(_kind(row) for (runtime, _), row in by_file.items() if runtime == name)
        console.print(f"{name}: {_text(counts)}")
    counts = Counter(_kind(row) for row in by_file.values())
    console.print(
        f"{len(rows)} files of {len(files)} networks, {len(runtimes)} runtimes: {_text(counts)}, {missing} not made"
    )
    return int(bool(missing) or any(is_bad(name, row) for (name, _), row in by_file.items()))


def _table(rows: list[dict], names: list[str], by_file: dict[tuple[str, str], dict]) -> Table:
    table = Table(*COLUMNS, "allowed", *names, title="largest difference from Keras, relative to the largest output")
    for row in rows:
        cells = [f"{row[name]:,}" if name == "bytes" else row[name] for name in COLUMNS]
        outcomes = [outcome(by_file[name, row["file"]]) if "refusal" not in row else "no file" for name in names]
        table.add_row(*cells, f"{row['tolerance']:g}", *outcomes)
    return table


def _kind(row: dict) -> str:
    return next((kind for kind in KINDS if kind in row), "agree")


def _text(counts: Counter[str]) -> str:
    return ", ".join(f"{counts[kind]} {kind}" for kind in ("agree", *KINDS))


if __name__ == "__main__":
    sys.exit(main())
