"""Links of a page to files outside of docs/, which work in a checkout and have to work on the site.

A file that has a page of its own is linked to that page. Other files and folders become plain text, until
`REPOSITORY` holds the address under which the repository's files can be read.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1]
REPOSITORY = ""  # such as https://example.org/tfprune/blob/main
PAGES = {
    "README.md": "index.md",
    "sample_apps": "gallery/index.md",
    "sample_apps/README.md": "gallery/index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CONTRIBUTING.md#how-to-add": "contributing.md#how-to-add",
    "CHANGELOG.md": "changelog.md",
}
LINK = re.compile(r"(?<!!)\[([^\[\]]+)\]\(((?:\.\./)+[^()\s]+)\)")


def point_inside(app: Any, page: str, source: list[str]) -> None:
    """Rewrite the links of a page that leave docs/."""
    folder = (DOCS / page).parent
    source[0] = LINK.sub(lambda link: _inside(link, folder), source[0])


def _inside(link: re.Match[str], folder: Path) -> str:
    text, target = link.groups()
    file, mark, heading = target.partition("#")
    file = os.path.relpath(folder / file, DOCS)
    if not file.startswith(".."):
        return link[0]
    file = file.removeprefix("../")
    page = PAGES.get(f"{file}{mark}{heading}") or PAGES.get(file)
    if page:
        return f"[{text}]({os.path.relpath(DOCS / page, folder)})"
    return f"[{text}]({REPOSITORY}/{file})" if REPOSITORY else text


def setup(app: Any) -> dict[str, bool]:
    app.connect("source-read", point_inside)
    return {"parallel_read_safe": True}
