"""The code of the pages on migration runs: tfmot's way with the import changed, and tfprune's own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import tfprune

DOCS = Path(__file__).parents[2] / "docs"
TEXTS = [
    (DOCS / "howto" / f"{name}.md").read_text(encoding="utf-8") for name in ("migration", "migrate_quantization")
]
CODE = [re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL) for text in TEXTS]
IMPORT, SETUP = CODE[0][:2]
BLOCKS = [block for _, _, *blocks in CODE for block in blocks]
SECTIONS = [section for text in TEXTS for section in re.findall(r"^## (.*)$", text, flags=re.MULTILINE)]
QUICK = {SECTIONS[0]}  # in `make test`; all others in `make test-ci`
PLACES = [
    pytest.param(place, id=name, marks=[] if name in QUICK else [pytest.mark.programs])
    for place, name in enumerate(SECTIONS)
]


def test_both_pages_start_from_the_same_code():
    assert CODE[1][:2] == [IMPORT, SETUP]


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
    """Return True if a model was wrapped."""
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


@pytest.mark.parametrize("link", [link for text in TEXTS for link in re.findall(r"\]\((?!http)(.*?)\)", text)])
def test_links_lead_somewhere(link):
    path, _, place = link.partition("#")
    target = (DOCS / "howto" / path).resolve()
    headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert not place or place in {heading.lower().replace(" ", "-") for heading in headings}
