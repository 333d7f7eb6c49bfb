"""The code and the commands of tutorials and how-to guides run, page by page, and print what the page shows."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

from tfprune.export import cli

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [path for folder in ("tutorials", "howto") for path in sorted((DOCS / folder).glob("*.md"))]
BLOCK = re.compile(r"```(python|text|sh)\n(.*?)```", re.DOTALL)


def words(printed):
    """Return the lines of a text without numbers, which Keras puts at the end of names too, and what they shape."""
    lines = [re.sub(r"[-\d.,e+_\s]+", "", line) for line in printed.splitlines()]
    return [line for line in lines if line]


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_does_what_it_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names, printed = {}, ""
    for kind, content in BLOCK.findall(page.read_text(encoding="utf-8")):
        if kind == "python":
            printed = run(content, names)
        elif kind == "sh":
            printed = "".join(call(line) for line in content.splitlines())
        else:
            assert words(content) == words(printed)


def test_first_code_of_the_site_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, code = BLOCK.search((DOCS / "index.md").read_text(encoding="utf-8")).groups()
    assert "digits.tfz" in run(code, {})
