"""The index of all pages for language models, llms.txt, at the root of the site."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from make_llms_txt import index


def write_index(app: Any, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        Path(app.outdir, "llms.txt").write_text(index("{}.html"), encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    app.connect("build-finished", write_index)
    return {"parallel_read_safe": True}
