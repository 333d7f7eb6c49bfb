"""Pages are easy to read: short lines, short tutorials, one page of each name, and none of the banned phrases.

`python tests/house/test_pages.py` wraps the paragraphs with long lines anew.
"""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
EDITED = ("tutorials", "howto", "gallery", "explanation", "papers", "reference")
PAGES = [page for folder in EDITED for page in sorted((DOCS / folder).glob("*.md"))]
PAGES += [DOCS.parent / "sample_apps" / "README.md"]
LONGEST_LINE, LONGEST_TUTORIAL, MOST_PAGES = 100, 120, 60
FENCED = re.compile(r"^(```|:::+).*?^\1$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"`[^`]+`")
UNBROKEN = re.compile(r"`[^`]+`|\d %")
PHRASES = {
    r"\b(of|on) (its|your|their) own\b": "separate, custom, or nothing",
    r"\byour own\b": "your",
    r"\bso many\b": "the number",
    r"\bno wish\b": "you want",
    r"\b(weights|channels|layers|units|blocks|entries) that are left\b": "remaining",
    r"\bwhat (is|was|it|they|that|stays|goes|has|may|each)\b": "a noun",
    r"\b(is|are) told\b": "is reported",
    r"\bgo(es)? on (with|from|there|when)\b": "continues",
    r"\ball that\b": "everything, or a noun",
    r"\bnothing but\b": "only",
    r"\bbut for\b": "except",
    r", say\b": "for example",
    r"\bany way of\b": "a way",
    r"\bpays?\b": "helps, or saves",
    r"\bmakes good\b": "recovers",
    r"\bor so\b": "about",
    r"\bof another \w+ than\b": "with a different ...",
    r"\bwaits? for its\b": "is limited by",
    r"\bthe one taken\b": "the chosen file",
    r"\ba tie\b": "about equal",
    r"\b(wins?|won)\b": "recovers, is better, or the number",
    r"\bpromis(e|es|ed|ing)\b": "is expected to",
    r"\bin all[.,;:)]": "in total",
    r"\bunwrapped twin\b": "the same layer without a wrapper",
}


def prose(text: str) -> list[str]:
    """Return the lines of a page without code, tables and pictures."""
    return [line for line in FENCED.sub("", text).splitlines() if not line.startswith(("|", "![", "[!["))]


def long_lines(text: str) -> list[str]:
    """Return the lines of prose that could be broken, but are longer than `LONGEST_LINE`."""
    return [line for line in prose(text) if len(line) > LONGEST_LINE and " " in line.strip()]


def phrases(text: str) -> list[str]:
    """Return the phrases of `PHRASES` in a page, each with a better one."""
    words = CODE.sub("", " ".join(prose(text)))
    return [f"{match[0]}: {better}" for phrase, better in PHRASES.items() for match in re.finditer(phrase, words)]


def wrapped(text: str) -> str:
    """Return a page without long lines."""
    between = FENCED.sub("\0", text).split("\0")
    fences = [*(match[0] for match in FENCED.finditer(text)), ""]
    pieces = ("\n\n".join(map(wrapped_paragraph, piece.split("\n\n"))) for piece in between)
    return "".join(piece + fence for piece, fence in zip(pieces, fences, strict=True))


def wrapped_paragraph(text: str) -> str:
    items = re.split(r"\n(?=- |\d+\. )", text) if long_lines(text) else []
    return "\n".join(map(wrapped_item, items)) or text


def wrapped_item(text: str) -> str:
    words = UNBROKEN.sub(lambda part: part[0].replace(" ", "\0"), " ".join(text.split()))
    indent = " " * len(re.match(r"(- |\d+\. )?", words)[0])
    lines = textwrap.wrap(
        words, LONGEST_LINE, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(lines).replace("\0", " ")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_prose_is_wrapped(page):
    assert not long_lines(page.read_text(encoding="utf-8")), "Run `python tests/house/test_pages.py`."


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_avoids_phrases_that_have_to_be_read_twice(page):
    assert not phrases(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", sorted((DOCS / "tutorials").glob("*.md")), ids=lambda page: page.stem)
def test_a_tutorial_is_short(page):
    assert len(page.read_text(encoding="utf-8").splitlines()) <= LONGEST_TUTORIAL


def test_the_site_has_few_pages():
    pages = [page for page in DOCS.rglob("*.md") if "names" not in page.parts]
    assert len(pages) <= MOST_PAGES, "Put what few ask into the page of its neighbor."


def test_no_two_pages_have_one_name():
    pages = (page for page in DOCS.rglob("*.md") if "names" not in page.parts)
    counts = Counter(page.name for page in pages if page.name != "index.md")
    assert not {name for name, count in counts.items() if count > 1}


def test_the_checks_find_what_they_look_for():
    wide = "word " * 25
    assert long_lines(f"{wide}\n\n| {wide}|\n\n![{wide}](a.png)\n\n```\n{wide}\n```\n") == [wide]
    assert not long_lines(f"[{'a' * 100}](b.md)")
    assert phrases("A process of\nits own, `of its own`") == ["of its own: separate, custom, or nothing"]


def test_a_page_is_wrapped_anew_where_its_lines_are_long():
    short, fence, table = "short\nlines", f"```\n{'code ' * 30}\n```", f"| {'cell ' * 30}|"
    item = f"- {'word ' * 18}`some code` 80 % of it"
    text = f"{short}\n\n{item}\n\n{fence}\n\n{table}\n"
    assert wrapped(text) == text.replace(" `some code`", "\n  `some code`")


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(wrapped(page.read_text(encoding="utf-8")).rstrip("\n") + "\n", encoding="utf-8")
