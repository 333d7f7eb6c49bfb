"""The README's code runs as it stands, prints what the README shows, and is the first code of the site."""

import contextlib
import io
import re
from pathlib import Path

import numpy as np
import pytest
from page_blocks import BLOCK, words

README = Path(__file__).parents[2] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_first_block_is_short_and_near_the_top():
    lines = README.read_text(encoding="utf-8").splitlines()
    code = [line for line in BLOCKS[0].splitlines() if line.strip()]
    assert len(code) <= 13
    assert lines.index("```", lines.index("```python")) <= 35


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """Run the first block; return the names it defines, what it printed, and its folder."""
    folder, names, printed = tmp_path_factory.mktemp("readme"), {}, io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        exec(compile(BLOCKS[0], "README.md", "exec"), names)
    return names, printed.getvalue(), folder


def test_first_block_prunes_and_exports(first):
    names, printed, folder = first
    report = names["tfprune"].sparsity_report(names["model"])
    assert report.sparsity == pytest.approx(0.9, abs=1e-4)
    assert (folder / "digits.tfz").stat().st_size < 10_000
    assert "non-zero" in printed and "digits.tfz" in printed
    labels = names["tfprune"].export.Runner(folder / "digits.tfz").predict(names["x"] / 16).argmax(axis=1)
    assert np.mean(labels == names["y"]) > 0.9


def test_both_pages_show_the_program_and_what_it_prints(first):
    pages = [README, README.parent / "docs" / "index.md"]
    (_, code), (kind, shown) = BLOCK.findall(pages[0].read_text(encoding="utf-8"))[:2]
    assert BLOCK.findall(pages[1].read_text(encoding="utf-8"))[:2] == [("python", code), (kind, shown)]
    assert kind == "text" and words(shown) == words(first[1])


def test_the_level_of_the_log_is_set_before_tensorflow_is_imported():
    assert BLOCKS[0].index('os.environ["TF_CPP_MIN_LOG_LEVEL"]') < BLOCKS[0].index("import keras")


def test_it_fits_on_a_screen_or_two():
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 110 and max(map(len, lines)) <= 100
    assert max(len(line) for block in BLOCKS for line in block.splitlines()) <= 88  # the site's front page
    assert "```python" in lines[:30]
    assert len(BLOCKS) == 2  # all other code is on the pages, whose own test runs it


def test_device_block_runs_the_file_of_the_first_with_nothing_but_its_folder(first, monkeypatch, capsys):
    monkeypatch.chdir(first[2])
    names = {}
    exec(compile(BLOCKS[-1], "README.md", "exec"), names)
    assert "[" in capsys.readouterr().out
    samples = (first[0]["x"][:3] / 16).astype(np.float32)
    expected = first[0]["model"].predict(samples, verbose=0)
    assert names["runner"].predict(samples) == pytest.approx(expected, abs=1e-4)
