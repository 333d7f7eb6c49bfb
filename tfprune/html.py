"""Pieces of HTML for pages that load nothing: tables, bars, and text from outside that must stay text."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

from tfprune.page_style import STYLE
from tfprune.report import shortened

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
NAME = 110  # characters of a name shown


def document(title: str, parts: Sequence[str], *, kicker: str, footer: str) -> str:
    """Put sections under a title into one page that may load nothing and run nothing.

    Args:
        title: The title.
        parts: The sections, as HTML.
        kicker: What the page is about, above the title.
        footer: What made it, below all.
    """
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{text(title)}</title><style>{STYLE}</style></head><body>",
            f'<header><p class="kicker">{kicker}</p><h1>{text(title)}</h1></header><main>',
            *parts,
            f"</main><footer>{footer}</footer></body></html>\n",
        ]
    )


def text(content: str, length: int = NAME) -> str:
    """Make any text safe to stand in a page: of bounded length, without marks that turn it around."""
    shown = shortened(content, length)
    return escape("".join(sign if sign.isprintable() else "\ufffd" for sign in shown))


def name_text(content: str) -> str:
    """Mark up a name from outside, such as that of a layer."""
    return f'<span class="name">{text(content) or "(no name)"}</span>'


def facts(rows: Iterable[tuple[str, str, str]]) -> str:
    """Show the most important numbers, each with a name and what more there is to say."""
    cells = [f"<div><dt>{name}</dt><dd>{value}<small>{more}</small></dd></div>" for name, value, more in rows]
    return f'<dl class="facts">{"".join(cells)}</dl>'


def section(title: str, content: str) -> str:
    """Put content under a heading."""
    return f"<section><h2>{title}</h2>\n{content}</section>"


def rows_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out rows of HTML; the first cell of each names it, the others go right."""
    titles = "".join(f'<th scope="col">{title}</th>' for title in header)
    lines = []
    for first, *others in rows:
        cells = "".join(f"<td>{cell}</td>" for cell in others)
        lines.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def bar(parts: Iterable[tuple[str, float]]) -> str:
    """Draw parts of a length side by side; numbers beside it say the same to those who do not see it."""
    pieces = "".join(f'<i class="{kind}" style="width:{100 * part:.2f}%"></i>' for kind, part in parts)
    return f'<span class="bar" aria-hidden="true">{pieces}</span>'


def key(entries: Iterable[tuple[str, str]], more: str = "") -> str:
    """Say what the colors of bars mean."""
    spans = [f'<span><i class="{kind}"></i>{name}</span>' for kind, name in entries]
    return f'<p class="key">{"".join(spans)}{more}</p>'


def swatch(kind: str) -> str:
    """Draw the color of one part of a bar."""
    return f'<i class="swatch {kind}"></i>'


def image(png: bytes, alt: str, *, size: tuple[int, int]) -> str:
    """Put a PNG of so many lines and columns into the page itself; `alt` is HTML."""
    encoded = base64.b64encode(png).decode()
    return f'<img alt="{alt}" height="{size[0]}" width="{size[1]}" src="data:image/png;base64,{encoded}">'
