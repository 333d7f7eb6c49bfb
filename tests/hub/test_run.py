"""The program behind `make hub`: one backbone goes as far as it goes, and what stops it is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from programs import forked, started

pytest.importorskip("keras_hub", reason="keras-hub is not installed")
pytestmark = pytest.mark.programs
RUN = Path(__file__).with_name("run.py")


@pytest.mark.slow
def test_one_backbone_has_a_row_with_every_step_and_the_table_counts_it(tmp_path):
    done = started(RUN, "DistilBertBackbone", folder=tmp_path)
    assert done.code == 0, done.stdout + done.stderr
    (row,) = map(json.loads, (tmp_path / "build/hub/rows.jsonl").read_text().splitlines())
    assert row["backbone"] == "DistilBertBackbone" and row["verdict"] == "holds"
    for step in ("wrap", "masks", "saved, loaded", "stripped", "exported", "planned"):
        assert row["steps"][step]["holds"], row["steps"][step]
    table = (tmp_path / "build/hub/table.md").read_text()
    assert "| DistilBert | 0 | " in table and "| 1 in all | 1 | 1 | 1 | 1 | 1 | " in table


def test_an_unknown_backbone_is_refused_by_name(tmp_path):
    done = forked(RUN, "BertBackbone", "LeNet", folder=tmp_path)
    assert done.code == 1 and "Received: LeNet" in done.stderr
