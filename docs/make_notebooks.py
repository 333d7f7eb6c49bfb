"""Make docs/notebooks from the tutorials of the same names, so that both say the same: make notebooks.

Prose, code and commands become cells. Blocks of printed text are left out: running the notebook prints them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
from extension.outside_links import REPOSITORY
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

DOCS = Path(__file__).parent
NAMES = (
    "quickstart",
    "from_tfmot",
    "channels_and_latency",
    "keep_what_is_needed",
    "transformers",
    "train_for_int8",
    "best_file",
)
BLOCK = re.compile(r"^```(python|text|sh)\n(.*?)\n```$", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^(?=## )", re.MULTILINE)
LINK = re.compile(r"\]\((?![a-z]+:|#)([^()\s]+)\)")
MYST = re.compile(r"^(?:```|:::)\{\w+\}.*|\{\w+\}`.*?`", re.MULTILINE)
# To be `%pip install --quiet "tfprune[demo]"` alone once that is on PyPI.
INSTALL = """\
# Installs tfprune where it is missing, as in Colab. It is not on PyPI yet: build a wheel in a checkout first, with
# `pip wheel --no-deps --wheel-dir dist .`, and put it beside this notebook (in Colab: among the files on the left).
from importlib.util import find_spec
from pathlib import Path

if find_spec("tfprune") is None:
    wheel = max(Path().glob("tfprune-*.whl"), default=None)
    assert wheel, "There is no wheel of tfprune beside this notebook."
    %pip install --quiet "{wheel}[demo]\""""


def make(folder: Path) -> None:
    """Write a notebook for each name into a folder."""
    for name in NAMES:
        text = (DOCS / "tutorials" / f"{name}.md").read_text(encoding="utf-8")
        notebook = new_notebook(cells=cells(text), metadata={"language_info": {"name": "python"}}, nbformat_minor=5)
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.validate(notebook)
        (folder / f"{name}.ipynb").write_text(f"{nbformat.writes(notebook)}\n", encoding="utf-8", newline="\n")


def cells(text: str) -> list[nbformat.NotebookNode]:
    """Return the cells of a page of docs/tutorials, and one after the first that installs the library."""
    title, *others = _cells(text)
    notebook_cells = [title, new_code_cell(INSTALL), *others]
    for number, cell in enumerate(notebook_cells):
        cell.id = f"cell-{number}"  # at random otherwise
    return notebook_cells


def _cells(text: str) -> Iterator[nbformat.NotebookNode]:
    # Between the blocks, which `split` returns as their kind and content, is prose.
    prose, *blocks = BLOCK.split(text)
    yield from _prose(prose)
    for kind, content, prose in zip(blocks[::3], blocks[1::3], blocks[2::3], strict=True):
        if kind == "python":
            yield new_code_cell(content)
        elif kind == "sh":
            yield from (new_code_cell(f"!{line}") for line in content.splitlines())
        yield from _prose(prose)


def _prose(text: str) -> Iterator[nbformat.NotebookNode]:
    """Yield a cell for each section, so that it can be folded."""
    foreign = MYST.search(text)
    if foreign:
        raise ValueError(f"Expected plain Markdown for a notebook. Received: {foreign[0]}. Use words, and links.")
    for section in HEADING.split(text):
        if section.strip():
            yield new_markdown_cell(LINK.sub(_link, section.strip()))


def _link(link: re.Match[str]) -> str:
    file = os.path.normpath(DOCS / "tutorials" / link[1])
    if REPOSITORY:
        return f"]({REPOSITORY}/{os.path.relpath(file, DOCS.parent)})"
    return f"]({os.path.relpath(file, DOCS / 'notebooks')})"  # leads somewhere in a checkout


if __name__ == "__main__":
    make(DOCS / "notebooks")
