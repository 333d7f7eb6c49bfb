"""Public names in code, such as `tfprune.wrap` or `to_tflite`, link to their page of the reference."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx import addnodes

import tfprune
import tfprune.export

DOORS = ("concepts", "experts", "federated", "few_shot", "growth", "research", "transformers")
CALL = re.compile(r"([A-Za-z_][\w.]*)(\(.*\))?", re.DOTALL)


def public_names() -> dict[str, str]:
    """Return the full name of each public name, by the forms in which texts write it.

    A short name stands for itself if it cannot be taken for an argument: it has a capital letter or an underscore.
    Any short name does if it is called, as in `strip(model)`.
    """
    names: dict[str, str] = {}
    for package in (tfprune, tfprune.export):
        names |= {name: f"{package.__name__}.{name}" for name in package.__all__ if name != "__version__"}
    for module in ("allocation", "criteria", "patterns", "report", "schedules"):
        for name in getattr(tfprune, module).__all__:
            names[f"{module}.{name}"] = f"tfprune.{module}.{name}"
    for door in DOORS:
        targets = {name: f"tfprune.{door}.{name}" for name in getattr(tfprune, door).__all__}
        names |= {f"{door}.{name}": target for name, target in targets.items()}
        if door not in ("experts", "federated"):  # whose names alone are words for other things, too
            names |= targets
    for module, reports in tfprune._REPORTS.items():
        names |= {name: f"tfprune.{module}.{name}" for name in reports}
    full = {f"tfprune.{name}": target for name, target in names.items() if target == f"tfprune.{name}"}
    return names | full | {f"tfprune.export.{name}": f"tfprune.export.{name}" for name in tfprune.export.__all__}


def target_of(code: str, names: dict[str, str]) -> str | None:
    """Return the public name that a piece of code is, or calls."""
    found = CALL.fullmatch(code)
    if not found or found[1] not in names:
        return None
    is_clear = found[2] or "." in found[1] or "_" in found[1] or found[1] != found[1].lower()
    return names[found[1]] if is_clear else None


def link_names(app: Any, document: nodes.document) -> None:
    """Put a reference around each piece of code that is a public name, unless it is in a link or heading already."""
    names = public_names()
    for code in list(document.findall(nodes.literal)):
        target = target_of(code.astext(), names)
        if target is None or _is_taken(code):
            continue
        where = {"refdomain": "py", "reftype": "obj", "reftarget": target, "refdoc": app.env.docname}
        reference = addnodes.pending_xref("", refexplicit=True, refwarn=True, **where)
        code.replace_self(reference)
        reference += code


def _is_taken(code: nodes.Node) -> bool:
    taken = (nodes.reference, nodes.title, addnodes.pending_xref, addnodes.desc_signature)
    while code.parent is not None:
        code = code.parent
        if isinstance(code, taken):
            return True
    return False


def setup(app: Any) -> dict[str, bool]:
    app.connect("doctree-read", link_names)
    return {"parallel_read_safe": True}
