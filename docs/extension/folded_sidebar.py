"""The sidebar of a page opens the branch of that page only, so that the names of the reference are not on every page.

With all branches, which furo can open without loading a page, more than half of each page is its sidebar.
"""

from __future__ import annotations

from typing import Any


def fold(app: Any, page: str, template: str, context: dict[str, Any], document: Any) -> None:
    """Let furo ask for a tree of pages in which the other branches are closed."""
    whole = context.get("toctree")
    if whole:
        context["toctree"] = lambda **options: whole(**{**options, "collapse": True})


def setup(app: Any) -> dict[str, bool]:
    app.connect("html-page-context", fold, priority=100)  # before furo
    return {"parallel_read_safe": True}
