"""The page on KerasHub: its code runs, and its table is that of the committed results."""

from __future__ import annotations

import contextlib
import io
import json
import re
import runpy
from pathlib import Path

import pytest

pytest.importorskip("keras_hub", reason="keras-hub is not installed")
PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "kerashub.md").read_text(encoding="utf-8")
ROWS = Path(__file__).with_name("rows.jsonl")  # what `make hub` wrote


@pytest.mark.programs
def test_the_code_of_the_page_runs(tmp_path):
    names, printed = {}, io.StringIO()
    with contextlib.chdir(tmp_path), contextlib.redirect_stdout(printed):
        for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
            exec(compile(block, "docs/reference/kerashub.md", "exec"), names)
    assert printed.getvalue().splitlines()[0] == "0.5 BertBackbone"
    assert isinstance(names["smaller"], type(names["backbone"]))
    assert names["smaller"].count_params() < names["backbone"].count_params()
    assert (tmp_path / "bert.tflite").is_file()


def test_the_table_is_that_of_the_committed_rows():
    rows = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]
    assert runpy.run_path(str(ROWS.with_name("run.py")))["markdown"](rows).strip() in PAGE
