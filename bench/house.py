"""How large the house is: modules, lines of code, and names that nobody outside needs: `make bench house`.

Lines of code are those that hold a token, without comments and docstrings.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "house"))

import test_architecture as house  # noqa: E402
from common import Row  # noqa: E402

import tfprune  # noqa: E402

NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def lines_of_code(paths: Iterable[Path]) -> int:
    return sum(_lines_of_code(path.read_text(encoding="utf-8")) for path in paths)


def _lines_of_code(source: str) -> int:
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


def names_for_nobody(*, by_folder: bool) -> int:
    """Count functions and classes without an underscore that only their own module, or its folder, uses."""
    used = house.used_from_outside(by_folder=by_folder)
    return sum(
        isinstance(node, (ast.FunctionDef, ast.ClassDef))
        and not node.name.startswith("_")
        and (module, node.name) not in used
        and not house.is_offered(module, node.name)
        for module, tree in house.TREES.items()
        if module not in house.FACADES
        for node in tree.body
    )


def measure() -> list[Row]:
    modules = [path for path in house.MODULES.values() if path.stem != "__init__"]
    counts = [
        ("modules", len(modules), house.MOST_MODULES),
        ("names in tfprune", len(tfprune.__all__), 50),
        ("lines of code in both halves", lines_of_code(house.MODULES.values()), 43_000),
        ("lines of code in tests", lines_of_code((ROOT / "tests").rglob("*.py")), 43_000),
        ("lines of code in bench", lines_of_code((ROOT / "bench").rglob("*.py")), None),
        ("names that nobody outside of their module needs", names_for_nobody(by_folder=False), 250),
        ("names that nobody outside of their folder needs", names_for_nobody(by_folder=True), None),
    ]
    return [
        Row(what, str(value), "none" if most is None else f"<= {most}", most is None or value <= most)
        for what, value, most in counts
    ]


if __name__ == "__main__":
    for row in measure():
        sys.stdout.write("\t".join([row.what, row.measured, row.bar, "yes" if row.holds else "NO"]) + "\n")
