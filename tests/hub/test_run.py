"""The program behind `make hub`: one backbone goes as far as it goes, and what stops it is said."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from programs import started

RUN = Path(__file__).with_name("run.py")


@pytest.mark.slow
def test_one_backbone_has_a_row_with_every_step_and_the_table_counts_it(tmp_path):
    pytest.importorskip("keras_hub", reason="keras-hub is not installed")
    done = started(RUN, "DistilBertBackbone", folder=tmp_path)
    assert done.code == 0, done.stdout + done.stderr
    (row,) = map(json.loads, (tmp_path / "build/hub/rows.jsonl").read_text().splitlines())
    assert row["backbone"] == "DistilBertBackbone" and row["verdict"] == "holds"
    for step in ("wrap", "masks", "saved, loaded", "stripped", "exported", "planned"):
        assert row["steps"][step]["holds"], row["steps"][step]
    table = (tmp_path / "build/hub/table.md").read_text()
    assert "| DistilBert | 0 | " in table and "| 1 in all | 1 | 1 | 1 | 1 | 1 | " in table


def test_an_unknown_backbone_is_refused_by_name(monkeypatch):
    main = runpy.run_path(str(RUN))["main"]
    monkeypatch.setitem(main.__globals__, "_run", lambda *_: subprocess.CompletedProcess([], 0, "BertBackbone\n"))
    monkeypatch.setattr(sys, "argv", [str(RUN), "BertBackbone", "LeNet"])
    with pytest.raises(SystemExit, match="among BertBackbone. Received: LeNet$"):
        main()
