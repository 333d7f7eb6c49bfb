"""Bars of the calls that run files, as a terminal shows them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from terminal import terminal

from tfprune.export import benchmark, rewrite, verify

FILE = Path(__file__).parents[2] / "saved" / "packed.tfz"
CALLS = {
    "second": lambda folder, **more: verify(FILE, timeout=60, **more),
    "process": lambda folder, **more: benchmark(FILE, runs=1, warmup=0, cool_down=0, **more),
    "form": lambda folder, **more: rewrite(FILE, folder / "new.tflite", optimize="dense", **more),
}


@pytest.mark.parametrize("unit", CALLS)
def test_a_call_that_may_take_long_counts_to_the_end(unit, tmp_path):
    with terminal() as shown:
        CALLS[unit](tmp_path, verbose=1)
    assert re.match(r"(\d+)/\1 .*" + unit, shown.seen()[-1])
    with pytest.raises(ValueError, match="`verbose` to be"):
        CALLS[unit](tmp_path, verbose=3)


def test_a_quick_call_shows_nothing(tmp_path):
    with terminal(seconds=60.0) as shown:
        for call in CALLS.values():
            call(tmp_path)
    assert shown.seen() == []
