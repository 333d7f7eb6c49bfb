"""What coding assistants read: the index of the pages, and the page of commands, which run on a tiny model."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from tfprune.export.command_line import cli

ROOT = Path(__file__).parents[2]
SKILL = (ROOT / "SKILL.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", SKILL, re.DOTALL) for line in block.splitlines()]


def test_the_index_is_that_of_the_pages():
    spec = importlib.util.spec_from_file_location("make_llms_txt", ROOT / "docs/make_llms_txt.py")
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    committed = (ROOT / "llms.txt").read_text(encoding="utf-8")
    assert committed == maker.index(), "Run make llms."
    listed = re.findall(r"^- \[.+\]\((docs/.+\.md)\)", committed, re.MULTILINE)
    pages = {str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md") if "names" not in path.parts}
    assert {*listed} == pages - {"docs/changelog.md", "docs/contributing.md"}  # which include files of the root
    assert len(listed) == len({*listed})


def test_the_site_has_the_index_at_its_root(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    written = importlib.import_module("extension.llms_txt").write_index
    written(SimpleNamespace(outdir=tmp_path, builder=SimpleNamespace(format="html")), None)
    addresses = re.findall(
        r"^- \[.+\]\((.+)\.html\)", (tmp_path / "llms.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert "howto/commands" in addresses and all((ROOT / "docs" / f"{name}.md").is_file() for name in addresses)


def test_the_page_of_commands_is_one_page_with_the_head_that_assistants_read():
    assert re.match(r"---\nname: [a-z]+\ndescription: .{50,400}\n---\n", SKILL)
    lines = SKILL.splitlines()
    assert len(lines) <= 120
    named = set(re.findall(r"[\w/]+\.md\b|llms\.txt", SKILL)) & {"llms.txt", *re.findall(r"docs/[\w/]+\.md", SKILL)}
    assert len(named) > 3 and all((ROOT / name).is_file() for name in named)
    codes = cli._EPILOG.partition("exit codes:")[2]
    assert re.findall(r"^\| (\d) \|", SKILL, re.MULTILINE) == re.findall(r"^  (\d)  ", codes, re.MULTILINE)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_page_has_options_that_exist(line):
    assert cli._parser().parse_args(shlex.split(line)[1:]).command


@pytest.mark.slow
def test_the_commands_of_the_page_run_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(800, 8)).astype("float32")
    y = (x[:, 0] > 0).astype(int)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(2, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x[:640], y[:640], epochs=3, verbose=0)
    model.save("model.keras")
    for name, array in {"x": x[:640], "y": y[:640], "xv": x[640:], "yv": y[640:]}.items():
        np.save(f"{name}.npy", array)
    for line in COMMANDS:
        printed, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
            code = cli.main(shlex.split(line)[1:])
        assert code == 0, (line, printed.getvalue(), errors.getvalue())
    assert Path("sparse.tflite.md").is_file() and list(Path("compressed").glob("*.tflite.md"))
