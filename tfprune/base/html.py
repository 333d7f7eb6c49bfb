"""Pieces of HTML for pages that load nothing: tables, bars, and escaped text from outside."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

from tfprune.report import shortened

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
LONGEST_NAME = 110  # in characters


def document(title: str, parts: Sequence[str], *, kicker: str, footer: str) -> str:
    """Put sections under a title into one page that may load nothing and run nothing.

    Args:
        title: The title.
        parts: The sections, as HTML.
        kicker: The subject of the page, above the title.
        footer: The program that made it, at the end.
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


def text(content: str, length: int = LONGEST_NAME) -> str:
    """Make any text safe to stand in a page: of bounded length, without marks that turn it around."""
    shown = shortened(content, length)
    return escape("".join(sign if sign.isprintable() else "\ufffd" for sign in shown))


def name_text(content: str) -> str:
    """Mark up a name from outside, such as that of a layer."""
    return f'<span class="name">{text(content) or "(no name)"}</span>'


def facts(rows: Iterable[tuple[str, str, str]]) -> str:
    """Show the most important numbers, each with a name and a remark."""
    cells = [f"<div><dt>{name}</dt><dd>{value}<small>{more}</small></dd></div>" for name, value, more in rows]
    return f'<dl class="facts">{"".join(cells)}</dl>'


def section(title: str, content: str) -> str:
    """Put content under a heading."""
    return f"<section><h2>{title}</h2>\n{content}</section>"


def rows_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out rows of HTML; the first cell is the heading of its row, the others are aligned to the right."""
    titles = "".join(f'<th scope="col">{title}</th>' for title in header)
    lines = []
    for first, *values in rows:
        cells = "".join(f"<td>{cell}</td>" for cell in values)
        lines.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def bar(parts: Iterable[tuple[str, float]]) -> str:
    """Draw parts of a length side by side; screen readers skip it, so give the numbers beside it."""
    pieces = "".join(f'<i class="{kind}" style="width:{100 * part:.2f}%"></i>' for kind, part in parts)
    return f'<span class="bar" aria-hidden="true">{pieces}</span>'


def key(entries: Iterable[tuple[str, str]], more: str = "") -> str:
    """Explain the colors of bars."""
    spans = [f'<span><i class="{kind}"></i>{name}</span>' for kind, name in entries]
    return f'<p class="key">{"".join(spans)}{more}</p>'


def swatch(kind: str) -> str:
    """Draw the color of one part of a bar."""
    return f'<i class="swatch {kind}"></i>'


def image(png: bytes, alt: str, *, size: tuple[int, int]) -> str:
    """Embed a PNG of a size (height, width) in the page; `alt` is HTML."""
    encoded = base64.b64encode(png).decode()
    return f'<img alt="{alt}" height="{size[0]}" width="{size[1]}" src="data:image/png;base64,{encoded}">'


# System fonts, one column on phones, light or dark as the reader's system is.
STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --paper: #fff; --wash: #f6f8fa; --line: #d8dee4;
  --values: #3d7bc4; --places: #9ec3ea; --dense: #d5dce3; --yes: #1a7f37; --no: #9a6700; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --soft: #9aa5b1; --paper: #12161b; --wash: #1a2027; --line: #303842;
    --values: #4f8fd9; --places: #9cc0e8; --dense: #3a444f; --yes: #4ac26b; --no: #d4a72c; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 66rem; padding: 2rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums; }
h1 { margin: 0; font-size: 1.6rem; line-height: 1.25; font-weight: 650; letter-spacing: -0.01em; }
h2 { margin: 3rem 0 0.25rem; font-size: 1.15rem; font-weight: 650; }
a { color: inherit; }
h1, .name { overflow-wrap: anywhere; }
p { margin: 0.25rem 0 1rem; max-width: 44rem; }
.soft, .kicker, caption, figcaption, footer { color: var(--soft); }
.kicker { margin: 0 0 0.25rem; font-size: 0.85rem; }
.name { font: 0.85rem/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; }
dl.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: 1rem 1.5rem;
  margin: 1.75rem 0 0; padding: 1rem 0; border-block: 1px solid var(--line); }
.facts dt { font-size: 0.85rem; color: var(--soft); }
.facts dd { margin: 0; font-size: 1.35rem; line-height: 1.3; font-weight: 600; }
.facts dd small { display: block; font-size: 0.85rem; font-weight: 400; color: var(--soft); }
table { width: 100%; border-collapse: collapse; font-size: 0.92rem; }
caption { text-align: left; padding-bottom: 0.4rem; font-size: 0.85rem; }
th, td { padding: 0.4rem 0 0.4rem 0.9rem; text-align: right; vertical-align: top;
  border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { padding-left: 0; text-align: left; }
th { font-weight: 400; }
thead th { font-size: 0.85rem; color: var(--soft); white-space: nowrap; }
td { white-space: nowrap; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
td.text { white-space: normal; text-align: left; overflow-wrap: anywhere; }
table + table { margin-top: 1.5rem; }
.soft { font-weight: 400; }
tr.best th, tr.best td { font-weight: 600; }
.bar { display: flex; height: 0.5rem; margin-top: 0.3rem; min-width: 4rem; background: none; }
h2 + .bar { margin: 0.75rem 0; height: 0.75rem; }
.bar i { display: block; height: 100%; min-width: 0; }
i.v { background: var(--values); }
i.p { background: var(--places); }
i.d { background: var(--dense); }
.key { display: flex; flex-wrap: wrap; gap: 0.25rem 1.25rem; margin: 0 0 0.75rem; font-size: 0.85rem;
  color: var(--soft); }
.key i, .swatch { display: inline-block; width: 0.75rem; height: 0.75rem; margin-right: 0.4rem;
  vertical-align: -0.06rem; }
.key img { width: 6rem; height: 0.75rem; margin: 0 0.4rem; vertical-align: -0.06rem; border: 1px solid var(--line);
  image-rendering: pixelated; }
details { border-bottom: 1px solid var(--line); }
details:first-of-type { border-top: 1px solid var(--line); }
summary { display: grid; grid-template-columns: 1fr auto; gap: 0 1rem; padding: 0.65rem 0 0.75rem; cursor: pointer;
  list-style: none; }
summary::-webkit-details-marker { display: none; }
summary:focus-visible { outline: 2px solid var(--values); outline-offset: 2px; }
summary .name { position: relative; padding-left: 1.1rem; }
summary .name::before { content: "+"; position: absolute; left: 0; color: var(--soft); }
details[open] > summary .name::before { content: "\\2212"; }
summary .what { font-size: 0.85rem; color: var(--soft); padding-left: 1.1rem; }
summary .size { text-align: right; white-space: nowrap; }
summary .part { text-align: right; white-space: nowrap; font-size: 0.85rem; color: var(--soft); }
summary .bar { grid-column: 1 / -1; margin-left: 1.1rem; }
.weight { display: grid; grid-template-columns: 16rem minmax(0, 1fr); gap: 1rem 2rem;
  padding: 0.5rem 0 1.75rem 1.1rem; }
figure { margin: 0; }
figure img { display: block; width: 100%; max-width: 16rem; height: auto; border: 1px solid var(--line);
  image-rendering: pixelated; }
figcaption { margin-top: 0.4rem; font-size: 0.85rem; line-height: 1.4; }
.why { display: block; font-size: 0.85rem; color: var(--soft); overflow-wrap: anywhere; max-width: 48rem; }
ul { margin: 0 0 1rem; padding-left: 1.1rem; max-width: 48rem; overflow-wrap: anywhere; }
ul:empty { display: none; }
li { margin-bottom: 0.3rem; }
.yes { color: var(--yes); }
.no { color: var(--no); }
.notes dt { font-weight: 600; }
.notes dd { margin: 0 0 0.6rem; max-width: 44rem; }
footer { margin-top: 3rem; font-size: 0.85rem; }
@media (max-width: 40rem) {
  body { padding: 1.25rem 1rem 3rem; }
  .wide { display: none; }
  .weight { grid-template-columns: minmax(0, 1fr); padding-left: 0; }
  th, td { padding-left: 0.6rem; }
}
@media print { details { break-inside: avoid; } }
"""
