"""The code and the commands of tutorials and how-to guides run, page by page, and print what the page shows."""

from __future__ import annotations

import contextlib
import io
import logging
import shlex
from pathlib import Path

import pytest
from page_blocks import BLOCK, printed_and_shown

from tfprune.export.command_line import cli

DOCS = Path(__file__).parents[2] / "docs"
NOTEBOOKS = {path.stem for path in (DOCS / "notebooks").glob("*.ipynb")}  # run in test_notebooks.py
PAGES = [path for path in sorted((DOCS / "tutorials").glob("*.md")) if path.stem not in NOTEBOOKS]
PAGES += sorted((DOCS / "howto").glob("*.md"))
SHORT = {"own_loop", "save_and_resume"}  # seconds each, so that `make test` runs them


def run(code, names):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "page", "exec"), names)
    return printed.getvalue()


def call(line):
    """Run a command of the command line."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert cli.main(shlex.split(line, comments=True)[1:]) == 0
    return printed.getvalue()


@pytest.fixture(autouse=True)
def log_as_it_was():
    """Take back what a page sets for the log of the library."""
    log = logging.getLogger("tfprune")
    handlers = [*log.handlers]
    yield
    log.setLevel(logging.NOTSET)
    log.handlers[:] = handlers


def marked(page):
    return pytest.param(page, id=page.stem, marks=[] if page.stem in SHORT else [pytest.mark.programs])


@pytest.mark.parametrize("page", map(marked, PAGES))
def test_a_page_does_what_it_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if page.stem == "federated":
        pytest.importorskip("flwr", reason="flwr is not installed (extra `federated`)")
    if page.stem == "microcontrollers":
        pytest.importorskip("tflite_micro", reason="tflite-micro is not installed (extra `micro`)")
    names = {}

    def do(kind, content):
        return run(content, names) if kind == "python" else "".join(map(call, content.splitlines()))

    for printed, shown in printed_and_shown(page, do):
        assert printed == shown


def test_first_code_of_the_site_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, code = BLOCK.search((DOCS / "index.md").read_text(encoding="utf-8")).groups()
    assert "digits.tfz" in run(code, {})
