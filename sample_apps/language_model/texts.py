"""English of three kinds, from Debian packages: the Bible, a database's documentation, and a dictionary of slang.

Each text is a list of sections in documents (a book, a page, a letter). Documents are split, never sections: none is
both calibrated on and measured.
"""

from __future__ import annotations

import gzip
import itertools
import random
import re
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

DOC = Path("/usr/share/doc")
INSTALL = "apt-get install sword-text-web libsword-utils postgresql-doc jargon-text"
LEAST = 200  # characters of a section
VERSE = re.compile(r"\$\$\$(.+) (\d+):(\d+)$")
NO_TEXT = re.compile(r"<note.*?</note>|<title.*?</title>|<[^>]*>")
NUMBER = re.compile(r"^(?:Chapter |Appendix )?(?:[A-Z]|\d+)(?:\.\d+)*\.\s+")
ENTRY = re.compile(r"^   :(.+?):(?: .*)?$", re.MULTILINE)
GOSPELS = ("Matthew", "Mark", "Luke", "John")  # share verses: Luke is measured, none is calibrated on


class Section(NamedTuple):
    document: str
    title: str
    text: str


class Text(NamedTuple):
    """Sections of documents for calibration, validation and testing."""

    calibration: list[Section]
    choice: list[Section]
    evaluation: list[Section]


def load(name: str) -> Text:
    """Return one of TEXTS, split by document.

    Raises:
        FileNotFoundError: If its package is not installed.
    """
    if name == "bible":
        sections = list(bible())
        rest = [section for section in sections if section.document not in GOSPELS]
        luke = [section for section in sections if section.document == "Luke"]
        return Text(*map(_shuffled, _apart(rest, 6, first=0)), luke)
    rest, evaluation = _apart(list(TEXTS[name]()), 2, first=1)
    return Text(*map(_shuffled, (*_apart(rest, 6, first=0), evaluation)))


def _apart(sections: list[Section], every: int, *, first: int) -> tuple[list[Section], list[Section]]:
    """Split sections in two: all others, and those of every `every`-th document."""
    documents = sorted({section.document for section in sections})
    taken = set(documents[first::every])
    return (
        [section for section in sections if section.document not in taken],
        [section for section in sections if section.document in taken],
    )


def _shuffled(sections: list[Section]) -> list[Section]:
    """Return the sections in an order in which the first few are of many documents, the same one each time."""
    return random.Random(0).sample(sections, len(sections))


def bible() -> Iterator[Section]:
    """Yield the chapters of the World English Bible, notes and headings left out."""
    command = ["mod2imp", "engWEB2015eb"]
    try:
        text = subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        raise _missing("the World English Bible", f"from `{' '.join(command)}`", error) from error
    chapters: dict[tuple[str, str], list[str]] = {}
    place = None
    for line in text.splitlines():
        if line.startswith("$$$"):
            found = VERSE.match(line)
            place = (found[1], found[2]) if found and found[3] != "0" else None  # verse 0 is a heading
        elif place:
            chapters.setdefault(place, []).append(NO_TEXT.sub("", line))
    for (book, chapter), verses in chapters.items():
        yield Section(book, f"{book} {chapter}", _line(" ".join(verses)))


def documentation() -> Iterator[Section]:
    """Yield the sections of the PostgreSQL manual: paragraphs only, without tables, listings and navigation."""
    pages = sorted(DOC.glob("postgresql-doc-*/html/*.html"))
    if not pages:
        raise _missing("the PostgreSQL manual", f"in {DOC}/postgresql-doc-*/html", "no pages")
    for page in pages:
        if page.stem in ("bookindex", "index", "biblio") or page.stem.startswith("release"):
            continue
        reader = _Reader()
        reader.feed(page.read_text(encoding="utf-8"))
        for title, paragraphs in reader.sections:
            text = "\n".join(line for line in map(_line, paragraphs) if line)
            if len(text) >= LEAST:
                yield Section(page.stem, NUMBER.sub("", _line(title).removesuffix(" #")), text)


def jargon() -> Iterator[Section]:
    """Yield the entries of the Jargon File; a document is all entries that begin with the same two letters."""
    path = DOC / "jargon-text" / "jargon.txt.gz"
    if not path.is_file():
        raise _missing("the Jargon File", f"in {path}", "no such file")
    parts = ENTRY.split(gzip.decompress(path.read_bytes()).decode("utf-8"))
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        body = body.partition("\n\nChapter ")[0]
        paragraphs = re.split(r"\n\s*\n", re.sub(r"[{}]", "", body))
        text = "\n".join(line for line in map(_line, paragraphs) if line)
        if len(text) >= LEAST:
            yield Section(title[:2].lower(), title, text)


def made_up() -> Iterator[Section]:
    """Yield documents of few words that often come in one order."""
    chance = random.Random(0)
    for document in range(12):
        places = itertools.accumulate(chance.choice((1, 1, 1, 2)) for _ in range(400))
        yield Section(f"document {document}", "made up", " ".join(f"word{place % 30}" for place in places))


TEXTS = {"bible": bible, "documentation": documentation, "jargon": jargon}


class _Reader(HTMLParser):
    """Collects titles, and the paragraphs that follow each."""

    def __init__(self) -> None:
        super().__init__()
        self.sections: list[tuple[str, list[str]]] = []
        self.closing: list[str] = []  # tags of a title or paragraph, or of what is left out

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self.closing and self.closing[0] in ("table", "pre"):
            self.closing += [tag] * (tag == self.closing[0])
        elif tag in ("table", "pre"):
            self.closing = [tag]
        elif tag in ("h1", "h2", "h3", "h4"):
            self.closing = [tag]
            self.sections.append(("", []))
        elif tag == "p" and self.sections:
            self.closing = [tag]
            self.sections[-1][1].append("")

    def handle_endtag(self, tag: str) -> None:
        if self.closing and self.closing[-1] == tag:
            self.closing.pop()

    def handle_data(self, data: str) -> None:
        if not self.closing or self.closing[0] in ("table", "pre"):
            return
        title, paragraphs = self.sections[-1]
        if self.closing[0] == "p":
            paragraphs[-1] += data
        else:
            self.sections[-1] = (title + data, paragraphs)


def _line(text: str) -> str:
    return " ".join(text.split())


def _missing(what: str, where: str, found: object) -> FileNotFoundError:
    return FileNotFoundError(f"Expected {what} {where}. Received: {found}. To install it: {INSTALL}.")
