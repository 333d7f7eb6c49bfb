"""Pages that have moved: each old address of the site leads to the new one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

MOVED = {
    "transformers": "reference/kerashub",
    "raspberry_pi": "howto/raspberry_pi",
    "migration": "howto/migration",
    "study": "gallery/study",
    "language_model": "gallery/prune_language_model",
    "papers/f_statistic": "papers/screening",
    "papers/federated": "papers/federated_pruning",
    "reference/channels": "reference/shrinking",
    "reference/concepts": "reference/concept_rules",
    "reference/federated": "reference/federated_strategies",
    "reference/few_shot": "reference/prune_few_shot",
    "reference/growth": "reference/depth_and_experts",
    "reference/speed": "reference/latency",
}
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>This page has moved</title>
<meta http-equiv="refresh" content="0; url={address}">
<link rel="canonical" href="{address}">
<script>location.replace({script} + location.hash)</script>
<p>This page has moved to <a href="{address}">{address}</a>.</p>
"""


def write_redirects(app: Any, error: Exception | None) -> None:
    """Write a page at each old address. A link to a heading keeps its heading."""
    if error is not None or app.builder.format != "html":
        return
    for old, new in MOVED.items():
        page = Path(app.outdir, f"{old}.html")
        address = os.path.relpath(f"{new}.html", Path(old).parent).replace(os.sep, "/")
        page.write_text(PAGE.format(address=address, script=json.dumps(address)), encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    app.connect("build-finished", write_redirects)
    return {"parallel_read_safe": True}
