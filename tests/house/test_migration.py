"""The code of docs/howto/migration.md runs: tfmot's way with the import changed, and tfprune's own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import tfprune

TEXT = (Path(__file__).parents[2] / "docs" / "howto" / "migration.md").read_text(encoding="utf-8")
IMPORT, SETUP, *BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
SECTIONS = re.findall(r"^## (.*)$", TEXT, flags=re.MULTILINE)[:-2]  # the last two are tables
QUICK = {SECTIONS[0]}  # in `make test`; all others in `make test-ci`
PLACES = [
    pytest.param(place, id=name, marks=[] if name in QUICK else [pytest.mark.programs])
    for place, name in enumerate(SECTIONS)
]


def test_every_use_is_shown_both_ways():
    assert len(BLOCKS) == 2 * len(SECTIONS)
    for before, after in zip(BLOCKS[::2], BLOCKS[1::2], strict=True):
        assert "import tensorflow_model_optimization as tfmot\n" in before
        assert "import tfprune\n" in after
        assert "tfmot" not in after


def run(code: str) -> dict:
    names: dict = {}
    exec(compile(SETUP + code, "migration.md", "exec"), names)
    return names


def holds_wrappers(names: dict) -> bool:
    """Tell whether a model was wrapped."""
    models = [thing for thing in names.values() if isinstance(thing, names["keras"].Model)]
    return any(isinstance(layer, tfprune.Pruned) for model in models for layer in model.layers)


@pytest.mark.parametrize("place", PLACES)
def test_code_for_tfmot_runs_with_one_import_changed(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    old, new = IMPORT.splitlines()
    names = run(BLOCKS[2 * place].replace(old.removeprefix("# "), new))
    assert names["tfmot"] is tfprune.tfmot
    assert holds_wrappers(names)


@pytest.mark.parametrize("place", PLACES)
def test_code_in_our_own_words_runs(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run(BLOCKS[2 * place + 1])
    assert holds_wrappers(names)


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)(.*?)\)", TEXT))
def test_links_lead_somewhere(link):
    path, _, place = link.partition("#")
    target = (Path(__file__).parents[2] / "docs" / "howto" / path).resolve()
    headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert place in {heading.lower().replace(" ", "-") for heading in headings}
