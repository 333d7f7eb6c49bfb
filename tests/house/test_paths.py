"""What the pages name exists, and tests stand in folders of the rooms that they test."""

from __future__ import annotations

import functools
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "sample_apps/README.md", "Makefile")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
PLACES = [ROOT, ROOT / "tfprune", ROOT / "sample_apps"]  # where a path that a page names may begin
# Folders of tests that belong to no room: of the whole, of both halves, or of what is around the library.
ALSO = {"methods"}  # folders of rooms that hold modules, too
SINGLE = {"criteria", "evidence"}  # modules in no folder, whose tests are several files
OTHERS = {"backends", "device", "export", "fuzz", "helpers", "house", "hub", "readers", "saved", "zoo"}


def rooms(package: Path) -> set[str]:
    """Return the innermost folders of modules, as paths."""
    folders = {path.parent for path in package.rglob("*/__init__.py")}
    return {folder.relative_to(package).as_posix() for folder in folders if not folders & set(folder.iterdir())}


def folders(tests: Path, *others: str) -> set[str]:
    folders = {path.parent.relative_to(tests) for path in tests.rglob("*/test_*.py")}
    return {path.as_posix() for path in folders if path.parts and path.parts[0] not in others}


def test_each_folder_of_tests_has_its_room_and_each_room_its_tests():
    assert folders(ROOT / "tests", *OTHERS) - ALSO - SINGLE == rooms(ROOT / "tfprune")
    assert all((ROOT / "tfprune" / f"{name}.py").is_file() for name in SINGLE)
    assert folders(ROOT / "tests" / "export") == rooms(ROOT / "export")


@pytest.mark.parametrize(("tests", "package"), [("tests", "tfprune"), ("tests/export", "export")])
def test_a_test_outside_of_the_folders_is_named_like_its_module(tests, package):
    modules = {path.stem for path in (ROOT / package).glob("*.py")}
    assert {path.stem.removeprefix("test_") for path in (ROOT / tests).glob("test_*.py")} <= modules


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_files_that_a_page_names_exist(page):
    named = set(
        re.findall(r"(?<![\w/.*-])[\w-]+(?:/[\w-]+)*/[\w*-]+\.(?:py|md|toml)\b", page.read_text(encoding="utf-8"))
    )
    built_files = {"build/device/files.json"}
    missing = {
        name for name in named - built_files if not any([*place.glob(name)] for place in [*PLACES, page.parent])
    }
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_names_that_a_page_names_exist(page):
    for name in set(re.findall(r"(?<![\w./-])tfprune(?:\.[A-Za-z_]\w*)+", page.read_text(encoding="utf-8"))):
        first, *rest = name.split(".")
        functools.reduce(getattr, rest, importlib.import_module(first))
