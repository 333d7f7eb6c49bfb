"""The code and the commands of tutorials, guides and explanations run and print what the page shows."""

from __future__ import annotations

import ast
import contextlib
import io
import logging
import shlex
import shutil
from pathlib import Path

import pytest
from page_blocks import printed_and_shown

from tfprune.export.command_line import cli

DOCS = Path(__file__).parents[2] / "docs"
NOTEBOOKS = {path.stem for path in (DOCS / "notebooks").glob("*.ipynb")}
PAGES = sorted((DOCS / "tutorials").glob("*.md"))
TESTED_ELSEWHERE = {"migration", "migrate_quantization", "raspberry_pi"}  # by test_migration and test_raspberry_pi
PAGES += [path for path in sorted((DOCS / "howto").glob("*.md")) if path.stem not in TESTED_ELSEWHERE]
PAGES += sorted((DOCS / "explanation").glob("*.md"))
pytestmark = pytest.mark.programs  # tests of the parts that pages call stay in `make test`
LONG = {"best_file", "choose_a_limit", "other_machines"}  # which search for a minute or more


def run(code, names):
    """Run a block; return what it printed, and the value of its last line, which a notebook would show, too."""
    printed, tree = io.StringIO(), ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "page", "exec"), names)
        value = eval(compile(ast.Expression(last.value), "page", "eval"), names) if last else None
    return printed.getvalue(), value


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
    return pytest.param(page, id=page.stem, marks=[pytest.mark.slow] if page.stem in LONG else [])


@pytest.mark.parametrize("page", map(marked, PAGES))
def test_a_page_does_what_it_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if page.stem == "federated":
        pytest.importorskip("flwr", reason="flwr is not installed (extra `federated`)")
    if page.stem == "microcontrollers":
        pytest.importorskip("tflite_micro", reason="tflite-micro is not installed (extra `micro`)")
        pytest.importorskip("mcufit", reason="mcufit is not installed (extra `micro`)")
        if shutil.which("node") is None:
            pytest.skip("node is not installed")
    if page.stem == "other_machines":
        pytest.importorskip("distributed", reason="distributed is not installed (extra `dev`)")
        pytest.importorskip("ray", reason="Ray is not installed (extra `federated`)")
    names = {}

    def do(kind, content):
        if kind != "python":
            return "".join(map(call, content.splitlines()))
        printed, value = run(content, names)
        assert value is None or page.stem not in NOTEBOOKS, f"Name the value of the last line: {content}"
        return printed

    for printed, shown in printed_and_shown(page, do):
        assert printed == shown
