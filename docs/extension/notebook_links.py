"""A tutorial that is also a notebook says so below its title."""

from __future__ import annotations

from typing import Any

from extension.outside_links import DOCS, REPOSITORY

GITHUB = "https://github.com/"


def offer_notebook(_: Any, page: str, source: list[str]) -> None:
    """Put a link to its notebook into a page, and one that opens it in Colab if Colab can read it."""
    notebook = f"{page.replace('tutorials/', 'notebooks/')}.ipynb"
    if not page.startswith("tutorials/") or not (DOCS / notebook).exists():
        return
    line = f"This page is also [a notebook](../{notebook}) for Jupyter and Colab."
    if REPOSITORY.startswith(GITHUB):
        address = REPOSITORY.replace(GITHUB, "https://colab.research.google.com/github/")
        line += f" [Open it in Colab]({address}/docs/{notebook})."
    title, text = source[0].split("\n", 1)
    source[0] = f"{title}\n\n{line}\n{text}"


def setup(app: Any) -> dict[str, bool]:
    app.connect("source-read", offer_notebook)
    return {"parallel_read_safe": True}
