"""How many files open while a public call runs, and how often it reads its model or file: the table may only fall.

`PYTHONPATH=tests/helpers python tests/house/test_opened.py` writes the table where values fell, never a larger value.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import tomllib
from opened import measured, opened_by

TABLE = Path(__file__).with_name("opened.toml")


def table() -> dict[str, dict[str, int]]:
    return tomllib.loads(TABLE.read_text(encoding="utf-8"))


@pytest.mark.programs
def test_no_call_opens_more_files_than_the_table_says_and_what_opens_fewer_is_written_there():
    now, allowed = measured(), table()
    more = {name: row for name, row in now.items() if _is_more(row, allowed[name])}
    assert more == {}, "what a call opens may only fall: see `make bench opened` for the files"
    assert now == allowed, "it fell: PYTHONPATH=tests/helpers python tests/house/test_opened.py writes the table"


def _is_more(row: dict[str, int], allowed: dict[str, int]) -> bool:
    return any(value > allowed[kind] for kind, value in row.items())


def test_a_file_counts_once_where_a_function_of_it_runs():
    from tfprune.schedules import Polynomial

    opened = opened_by(lambda: [Polynomial(0.5, end=10).sparsity_at(step) for step in range(3)])
    assert "tfprune/schedules.py" in opened.files
    assert opened.reads == {"parses": 0, "checks": 0, "anatomies": 0}


if __name__ == "__main__":
    old = table() if TABLE.exists() else {}
    lines = ["# Written by tests/house/test_opened.py: values may only fall.\n"]
    for name, row in measured().items():
        before = old.get(name, row)
        lines.append(
            f"\n[{name}]\n" + "".join(f"{kind} = {min(value, before[kind])}\n" for kind, value in row.items())
        )
    TABLE.write_text("".join(lines), encoding="utf-8")
