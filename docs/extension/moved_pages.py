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
    "papers/f_statistic": "papers/few_shot",
    "papers/federated": "papers/federated_pruning",
    "reference/channels": "reference/shrinking",
    "reference/concepts": "reference/methods",
    "reference/federated": "reference/methods",
    "reference/few_shot": "reference/methods",
    "reference/growth": "reference/shrinking",
    "howto/sensitivity": "howto/choose",
    "howto/see_what_happens": "howto/save_and_resume",
    "howto/own_loop": "howto/save_and_resume",
    "howto/own_layers": "explanation/models",
    "howto/recipes_of_edge_quantizer": "howto/export_a_file",
    "explanation/speed": "howto/make_zeros_fast",
    "gallery/pruned_files": "gallery/small_networks",
    "gallery/browser": "howto/run_in_a_browser",
    "howto/device_in_the_loop": "howto/other_machines",
    "howto/search_on_a_cluster": "howto/other_machines",
    "reference/command_line": "howto/commands",
    "gallery/search_results": "howto/choose_a_limit",
    "reference/schedules": "reference/training",
    "reference/allocation": "reference/training",
    "reference/criteria": "reference/training",
    "reference/patterns": "reference/training",
    "reference/one_shot": "reference/shrinking",
    "reference/depth_and_experts": "reference/shrinking",
    "reference/concept_rules": "reference/methods",
    "reference/prune_few_shot": "reference/methods",
    "reference/federated_strategies": "reference/methods",
    "reference/research": "reference/methods",
    "reference/latency": "reference/files",
    "reference/quantizing": "reference/files",
    "reference/reports": "reference/files",
    "explanation/glossary": "reference/arguments",
    "papers/gradual": "gallery/study",
    "gallery/f_statistic": "papers/few_shot",
    "gallery/concept_requirements": "papers/concepts",
    "gallery/few_shot_glyphs": "papers/few_shot",
    "gallery/federated_watch": "papers/federated_pruning",
    "gallery/federated_results": "papers/federated_pruning",
    "gallery/grow_language_model": "papers/growth",
    "gallery/write_on_a_pi": "gallery/prune_language_model",
    "papers/putri": "gallery/prune_language_model",
    "gallery/fashion_cnn": "gallery/small_networks",
    "gallery/wrist_exercises": "gallery/small_networks",
    "gallery/shrink_mobilenet": "gallery/small_networks",
    "gallery/distillation_results": "gallery/small_networks",
    "gallery/prune_transformer": "gallery/small_networks",
    "gallery/custom_loop": "gallery/small_networks",
    "gallery/schedule_results": "gallery/small_networks",
    "gallery/damage_results": "gallery/small_networks",
    "gallery/int8_four_ways": "gallery/int8_results",
    "gallery/micro_results": "gallery/spoken_language",
    "howto/trim_a_vocabulary": "howto/smaller_language_model",
    "papers/screening": "papers/few_shot",
    "reference/speed": "reference/files",
    "explanation/zeros": "explanation/models",
    "explanation/search_policy": "howto/choose_a_limit",
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
