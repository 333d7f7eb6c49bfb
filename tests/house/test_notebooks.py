"""The notebooks are made from the tutorials of the same names, whose code test_guides.py runs."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed (extra `dev`)")
DOCS = Path(__file__).parents[2] / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))


@pytest.fixture
def maker(monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    return importlib.import_module("make_notebooks")


def test_there_is_a_notebook_for_each_start():
    assert {path.stem for path in NOTEBOOKS} >= {"quickstart", "from_tfmot", "channels_and_latency", "transformers"}


def test_the_notebooks_say_what_the_pages_say(maker, tmp_path):
    maker.make(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in NOTEBOOKS}
    for path in NOTEBOOKS:
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), "The page was changed: run `make notebooks`."


PAGE = """# A title

Needs [a page](../install.md#a-heading), [one beside](other.md) and [another site](https://example.org).

## First

```python
print(1)
```

```text
1
```

It printed.

## Second

```sh
tfprune inspect a.tfz
tfprune bench a.tfz  # twice
```

```
pip wheel .
```
"""


def test_a_page_becomes_cells(maker, monkeypatch):
    monkeypatch.setattr(maker, "REPOSITORY", "")
    title, install, *rest = maker.cells(PAGE)
    assert (title.cell_type, title.source) == (
        "markdown",
        "# A title\n\nNeeds [a page](../install.md#a-heading), [one beside](../tutorials/other.md) and "
        "[another site](https://example.org).",
    )
    assert "%pip install" in install.source
    assert [(cell.cell_type, cell.source) for cell in rest] == [
        ("markdown", "## First"),
        ("code", "print(1)"),
        ("markdown", "It printed."),
        ("markdown", "## Second"),
        ("code", "!tfprune inspect a.tfz"),
        ("code", "!tfprune bench a.tfz  # twice"),
        ("markdown", "```\npip wheel .\n```"),
    ]
    assert len({cell.id for cell in (title, install, *rest)}) == 9


def test_links_leave_the_checkout_once_the_repository_has_an_address(maker, monkeypatch):
    monkeypatch.setattr(maker, "REPOSITORY", "https://example.org/tfprune/blob/main")
    assert "[a page](https://example.org/tfprune/blob/main/docs/install.md#a-heading)" in maker.cells(PAGE)[0].source


@pytest.mark.parametrize("text", ["```{note}\nA note.\n```", ":::{note}\nA note.\n:::", "See {doc}`install`."])
def test_what_a_notebook_cannot_show_is_refused(maker, text):
    with pytest.raises(ValueError, match="Expected plain Markdown"):
        maker.cells(f"# A title\n\n{text}\n")


def test_relative_links_lead_somewhere(maker):
    links = [
        link
        for path in NOTEBOOKS
        for cell in nbformat.read(path, as_version=4).cells
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", cell.source if cell.cell_type == "markdown" else "")
    ]
    assert bool(links) != bool(maker.REPOSITORY)
    assert not [link for link in links if not (DOCS / "notebooks" / link).exists()]


def test_a_page_offers_its_notebook(maker, monkeypatch):
    links = importlib.import_module("extension.notebook_links")
    monkeypatch.setattr(links, "REPOSITORY", "")
    page = ["# A title\n\nText.\n"]
    links.offer_notebook(None, "tutorials/quickstart", page)
    assert page[0].startswith("# A title\n\n")
    assert "](../notebooks/quickstart.ipynb)" in page[0]
    assert "colab.research" not in page[0]
    monkeypatch.setattr(links, "REPOSITORY", "https://github.com/someone/tfprune/blob/main")
    page = ["# A title\n\nText.\n"]
    links.offer_notebook(None, "tutorials/quickstart", page)
    address = "https://colab.research.google.com/github/someone/tfprune/blob/main/docs/notebooks/quickstart.ipynb"
    assert f"]({address})" in page[0]
    page = ["# A title\n"]
    links.offer_notebook(None, "tutorials/trained_model_on_a_pi", page)
    assert page == ["# A title\n"]
