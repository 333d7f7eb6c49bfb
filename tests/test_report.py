"""Reports: tables by hand, JSON, and ratios that name their base."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest

from tfprune.masking.strip import SparsityReport, WeightRow
from tfprune.report import Report, Skipped, skipped_table, table

CONV = WeightRow("block_1/conv", "kernel", (3, 3, 2, 4), 72, 18)
DENSE = WeightRow("dense", "kernel", (100, 20), 2000, 1500)
REPORT = SparsityReport((CONV, DENSE), (Skipped("norm", "has only scales"),), 2518, 3072)


def test_table_by_hand():
    text = table(["layer", "nnz"], [["conv", 12], ["a longer one", 3.5]])
    assert text.split("\n") == [
        "layer         nnz",
        "------------  ---",
        "conv           12",
        "a longer one  3.5",
    ]


def test_what_a_terminal_would_act_on_is_shown_as_escapes():
    hostile = "a\x1b[2J\x07\nb\u202ec\u2028\udc80 \u00e9\u2026"
    (*_, line) = table(["layer", "nnz"], [[hostile, 1]]).split("\n")
    assert line == r"a\x1b[2J\x07\nb\u202ec\u2028\udc80 " + "\u00e9\u2026    1"


def test_table_header_may_be_the_widest_and_cells_empty():
    text = table(["layer", "reason"], [["a", ""], ["", None]], left=2)
    assert text.split("\n") == ["layer  reason", "-----  ------", "a", "       None"]


@pytest.mark.parametrize(
    ("left", "line"), [(0, " a   b   c"), (1, "a    b   c"), (2, "a   b    c"), (3, "a   b   c")]
)
def test_table_alignment(left, line):
    assert table(["11", "22", "33"], [["a", "b", "c"]], left=left).split("\n")[2] == line


def test_table_takes_rows_once_and_may_have_none():
    assert table(["a"], (row for row in [["b"], ["c"]])) == "a\n-\nb\nc"
    assert table(["layer", "nnz"], []) == "layer  nnz\n-----  ---"


def test_row():
    assert CONV.path == "block_1/conv/kernel"
    assert CONV.sparsity == 0.75
    assert WeightRow("a", "kernel", (2, 5), 10, 0).sparsity == 1.0
    assert WeightRow("a", "kernel", (2, 5), 10, 10).sparsity == 0.0


def test_sums():
    assert (REPORT.size, REPORT.nnz) == (2072, 1518)
    assert REPORT.sparsity == 1 - 1518 / 2072
    assert REPORT.total_sparsity == 1 - 2518 / 3072


def test_a_model_without_kernels_has_sparsity_zero():
    report = SparsityReport((), (), 0, 0)
    assert (report.sparsity, report.total_sparsity, report.nnz, report.size) == (0.0, 0.0, 0, 0)
    assert str(report).split("\n")[2].split() == ["all", "kernels", "0", "0", "0.0%"]


def test_str_by_hand():
    assert str(REPORT).split("\n") == [
        "weight               shape    entries  non-zero  sparsity",
        "-------------------  -------  -------  --------  --------",
        "block_1/conv/kernel  3x3x2x4       72        18     75.0%",
        "dense/kernel         100x20     2,000     1,500     25.0%",
        "pruned weights                  2,072     1,518     26.7%",
        "all kernels                     3,072     2,518     18.0%",
        "",
        "skipped  reason",
        "-------  ---------------",
        "norm     has only scales",
    ]


def test_str_leaves_out_what_says_nothing_new():
    text = str(SparsityReport((CONV,), (), 18, 72))
    assert text.split("\n") == [
        "weight               shape    entries  non-zero  sparsity",
        "-------------------  -------  -------  --------  --------",
        "block_1/conv/kernel  3x3x2x4       72        18     75.0%",
        "all kernels                        72        18     75.0%",
    ]


def test_as_dict_is_json():
    expected = {
        "sparsity": REPORT.sparsity,
        "nnz": 1518,
        "size": 2072,
        "total_sparsity": REPORT.total_sparsity,
        "total_nnz": 2518,
        "total_size": 3072,
        "rows": [
            {
                "layer": "block_1/conv",
                "weight": "kernel",
                "shape": [3, 3, 2, 4],
                "size": 72,
                "nnz": 18,
                "sparsity": 0.75,
            },
            {"layer": "dense", "weight": "kernel", "shape": [100, 20], "size": 2000, "nnz": 1500, "sparsity": 0.25},
        ],
        "skipped": [{"layer": "norm", "reason": "has only scales"}],
    }
    assert REPORT.as_dict() == expected
    assert json.loads(json.dumps(REPORT.as_dict())) == expected


@dataclasses.dataclass(frozen=True)
class Nested(Report):
    parts: dict[int, tuple[Report, ...]]
    value: object = None


def test_reports_inside_of_tuples_and_dicts_turn_into_plain_values():
    text = '{"parts": {"1": [{"layer": "norm", "reason": "has only scales"}], "2": []}, "value": null}'
    assert Nested({1: (Skipped("norm", "has only scales", Skipped.NO_KERNEL),), 2: ()}).as_dict() == json.loads(text)


@pytest.mark.parametrize("value", [b"a file", np.ones(2), {1}], ids=lambda value: type(value).__name__)
def test_what_json_does_not_know_is_refused(value):
    with pytest.raises(TypeError, match="Expected plain values and reports in a report. Received: "):
        Nested({}, value).as_dict()


def test_what_was_skipped_is_filtered_by_its_kind():
    kinds = {name: value for name, value in vars(Skipped).items() if name.isupper() and name != "JSON_NAMES"}
    assert len({*kinds.values()}) == len(kinds) > 5
    assert Skipped("norm", "has only scales").kind == Skipped.OTHER
    # The reason is what it says; the kind is for programs and no part of what it is.
    assert Skipped("norm", "has only scales", Skipped.NO_KERNEL) == Skipped("norm", "has only scales")


def test_a_table_of_nothing_skipped_is_nothing():
    assert skipped_table([]) == ""
    assert skipped_table(entry for entry in [Skipped("norm", "small")]).split("\n") == [
        *("", "", "skipped  reason", "-------  ------", "norm     small")
    ]


def test_many_layers_skipped_for_one_reason_are_one_row():
    frozen = [Skipped(f"block_{number}", "frozen") for number in range(20)]
    table_of_all = skipped_table([Skipped("norm", "small"), *frozen, Skipped("head", "small")])
    assert table_of_all.split("\n")[4:] == [
        "norm                 small",
        "block_0 and 19 more  frozen",
        "head                 small",
        "`as_dict()` lists all of them, and so does --json on the command line.",
    ]
    assert "more" not in skipped_table(frozen[:3])


def test_reports_turn_into_json_in_one_place():
    root = Path(__file__).parents[1]
    texts = {
        path: path.read_text(encoding="utf-8")
        for half in ("tfprune", "export")
        for path in (root / half).rglob("*.py")
    }
    for idea in (r"def as_dict\(", r'"skipped", "reason"\]'):
        assert [path.relative_to(root).as_posix() for path, text in texts.items() if re.search(idea, text)] == [
            "tfprune/report.py"
        ]


def test_reports_are_values():
    assert SparsityReport((CONV, DENSE), (Skipped("norm", "has only scales"),), 2518, 3072) == REPORT
    with pytest.raises(FrozenInstanceError):
        REPORT.total_nnz = 3
    with pytest.raises(FrozenInstanceError):
        CONV.nnz = 3
