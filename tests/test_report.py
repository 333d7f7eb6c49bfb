"""Reports: tables by hand, JSON, and ratios that name their base."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError

import pytest

from tfprune.report import Skipped, table
from tfprune.wrapping.sparsity_report import SparsityReport, WeightRow

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
    assert str(report).split("\n")[2].split() == ["every", "kernel", "0", "0", "0.0%"]


def test_str_by_hand():
    assert str(REPORT).split("\n") == [
        "weight               shape    entries  non-zero  sparsity",
        "-------------------  -------  -------  --------  --------",
        "block_1/conv/kernel  3x3x2x4       72        18     75.0%",
        "dense/kernel         100x20     2,000     1,500     25.0%",
        "pruned weights                  2,072     1,518     26.7%",
        "every kernel                    3,072     2,518     18.0%",
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
        "every kernel                       72        18     75.0%",
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


def test_reports_are_values():
    assert SparsityReport((CONV, DENSE), (Skipped("norm", "has only scales"),), 2518, 3072) == REPORT
    with pytest.raises(FrozenInstanceError):
        REPORT.total_nnz = 3
    with pytest.raises(FrozenInstanceError):
        CONV.nnz = 3
