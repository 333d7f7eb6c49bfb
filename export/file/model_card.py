"""Model cards in Markdown: what is known about a file, for the people who get it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tfprune.report import printable

TAGS = ("tflite", "litert", "tfprune")
HUB_METRICS = ("accuracy", "mae", "mse")  # names that the Hugging Face Hub knows
_MARKS = re.compile(r"([\\`*_{}\[\]<>#!|~&$@:^])|(?<=www)(\.)")  # what Markdown, HTML, or a link could start with


def model_card(
    title: str,
    sections: Iterable[tuple[str, Sequence[Sequence[str]]]],
    *,
    metrics: Iterable[str] = (),
    tags: Iterable[str] = (),
    code: str = "",
) -> str:
    """Return a model card: the front matter that the Hugging Face Hub reads, and one table in each section.

    Args:
        title: The name of the model.
        sections: The heading of each section, and the rows of its table, the first of which is its header. Sections
            without further rows are left out. All texts are escaped.
        metrics: The names of the metrics; names that the Hub does not know are left out of the front matter.
        tags: More tags for the front matter, words of the library.
        code: A program that makes the file; empty if it is not known.

    Example:
        >>> print(model_card("a_b", [("Size", [["", ""], ["bytes", "1,200"]])]), end="")
        ---
        tags:
        - tflite
        - litert
        - tfprune
        ---
        <BLANKLINE>
        # a\\_b
        <BLANKLINE>
        A TFLite file, made with tfprune.
        <BLANKLINE>
        ## Size
        <BLANKLINE>
        |  |  |
        |---|---|
        | bytes | 1,200 |
    """
    hub_metrics = [metric for metric in HUB_METRICS if metric in {*metrics}]
    front = ["---", "tags:", *(f"- {tag}" for tag in (*TAGS, *tags))]
    front += ["metrics:", *(f"- {metric}" for metric in hub_metrics)] if hub_metrics else []
    lines = [*front, "---", "", f"# {escaped(title)}", "", "A TFLite file, made with tfprune."]
    for heading, rows in sections:
        if len(rows) > 1:
            cells = [f"| {' | '.join(map(escaped, row))} |" for row in rows]
            lines += ["", f"## {heading}", "", cells[0], f"|{'---|' * len(rows[0])}", *cells[1:]]
    if code:
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", code)), default=0))
        lines += ["", "## Program", "", f"{fence}python", code.rstrip(), fence]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Return a text that Markdown shows as it is, in one line: names in files and models come from anywhere.

    Example:
        >>> print(escaped("conv_1|<b> http://x"))
        conv\\_1\\|\\<b\\> http\\://x
    """
    return _MARKS.sub(lambda match: "\\" + match[0], printable(text))
