"""The program behind `make hub`: one backbone goes as far as it goes, and what stops it is said."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("keras_hub", reason="keras-hub is not installed")
pytestmark = pytest.mark.programs
RUN = Path(__file__).with_name("run.py")


def make_hub(folder: Path, *names: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, RUN, *names], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_one_backbone_has_a_row_with_every_step_and_the_table_counts_it(tmp_path):
    done = make_hub(tmp_path, "DistilBertBackbone")
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = map(json.loads, (tmp_path / "build/hub/rows.jsonl").read_text().splitlines())
    assert row["backbone"] == "DistilBertBackbone" and row["verdict"] == "holds"
    for step in ("wrap", "masks", "saved, loaded", "stripped", "exported", "planned"):
        assert row["steps"][step]["holds"], row["steps"][step]
    table = (tmp_path / "build/hub/table.md").read_text()
    assert "| DistilBert | 0 | " in table and "| 1 in all | 1 | 1 | 1 | 1 | 1 | " in table


def test_an_unknown_backbone_is_refused_by_name(tmp_path):
    done = make_hub(tmp_path, "BertBackbone", "LeNet")
    assert done.returncode == 1 and "Received: LeNet" in done.stderr
