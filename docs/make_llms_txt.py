"""Write llms.txt, an index of all pages for language models, from the pages: `make llms`."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TARGET = ROOT / "llms.txt"
# Folders, by their headings, in the order of the site.
FOLDERS = {
    "Start": "",
    "Tutorials": "tutorials",
    "How-to guides": "howto",
    "Explanation": "explanation",
    "Gallery": "gallery",
    "Papers": "papers",
    "Reference": "reference",
}
HEAD = """\
# tfprune

> Pruning for Keras 3, and compressed TFLite files that are run and checked before they are written.

SKILL.md lists the commands, the exit codes, and the order in which to decide.
"""


def index(link: str = "docs/{}.md") -> str:
    """Return the index; `link` turns the name of a page, such as `howto/choose`, into its address."""
    parts = [HEAD]
    for heading, folder in FOLDERS.items():
        pages = [page for page in sorted((DOCS / folder).glob("*.md")) if title(page)]
        lines = [entry(page, link) for page in pages]
        parts.append(f"## {heading}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def entry(page: Path, link: str) -> str:
    """Return the line of a page: its title and address, and the first sentence of its text."""
    address = link.format(page.relative_to(DOCS).with_suffix("").as_posix())
    sentence = first_sentence(page) or ", ".join(names_of(page))
    return f"- [{title(page)}]({address}){sentence and f': {sentence}'}"


def title(page: Path) -> str:
    """Return the heading of a page; empty for a page that includes a file of another folder."""
    found = re.search(r"^# (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1].replace("`", "") if found else ""


def first_sentence(page: Path) -> str:
    """Return the first sentence of a page, without links; empty for a page that begins with a directive or a list."""
    body = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    body = body[re.search(r"^# ", body, re.MULTILINE).start() :]
    paragraphs = [" ".join(part.split()) for part in body.split("\n\n")[1:]]
    text = next((part for part in paragraphs if re.match(r"[\w`*\[(]", part)), "")
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return re.sub(r":$", ".", re.split(r"(?<=[.?!]) (?=[A-Z0-9`])", text)[0])


def names_of(page: Path) -> list[str]:
    """Return the names that a page of the reference lists, without those of reports."""
    listed = re.findall(r"^ {3,}~?([\w.]+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return [f"`{name}`" for name in listed if not name.endswith("Report")]


if __name__ == "__main__":
    TARGET.write_text(index(), encoding="utf-8")
