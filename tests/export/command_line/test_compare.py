"""`tfprune compare`: what it prints, and its exit codes."""

import json

import numpy as np
import pytest

from tfprune.export import damage
from tfprune.export.command_line.cli import main

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 4, 400)
BEFORE = np.eye(4)[LABELS]
AFTER = np.where((np.arange(400) % 4 == 0)[:, None] & (LABELS == 2)[:, None], np.eye(4)[0], BEFORE)


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arrays = {"before": BEFORE, "after": AFTER, "x": RNG.random((400, 8, 8)), "y": LABELS, "room": LABELS % 2}
    for name, array in arrays.items():
        np.save(f"{name}.npy", array)
    return tmp_path


def run(capsys, *arguments):
    code = main(["compare", *arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_it_prints_the_report(files, capsys):
    code, out, _ = run(capsys, "before.npy", "after.npy", "--data", "x.npy,y.npy", "--groups", "room.npy")
    expected = damage(BEFORE, AFTER, (RNG.random((400, 8, 8)), LABELS), groups={"room": LABELS % 2})
    assert (code, out) == (
        0,
        f"{expected}\n\nNo limit was set: with --max-drop the exit code is 1 if more is lost.\n",
    )
    code, out, _ = run(capsys, "before.npy", "after.npy", "--data", "x.npy", "--json")
    assert code == 0
    assert json.loads(out)["task"] == "agreement"


@pytest.mark.parametrize(
    ("options", "expected"),
    [(["--max-drop-per-group", "0.1"], 1), (["--max-drop-per-group", "0.9"], 0), (["--max-drop", "0.01"], 1)],
)
def test_the_exit_code_says_whether_limits_are_kept(options, expected, files, capsys):
    code, out, _ = run(capsys, "before.npy", "after.npy", "--data", "x.npy,y.npy", *options)
    assert code == expected
    assert ("Limit exceeded" in out) == bool(expected)
    assert "No limit was set" not in out


def test_logits_without_labels_name_the_option_that_compares_classes(files, capsys):
    np.save("before.npy", 5 * BEFORE - 1)
    np.save("after.npy", 5 * AFTER - 1)
    out = run(capsys, "before.npy", "after.npy", "--data", "x.npy")[1]
    assert "mean absolute error" in out
    assert "--task classification" in out
    out = run(capsys, "before.npy", "after.npy", "--data", "x.npy", "--task", "classification")[1]
    assert "agreement" in out
    assert "--task" not in out


def test_the_page_is_written(files, capsys):
    assert run(capsys, "before.npy", "after.npy", "--data", "x.npy,y.npy", "--html", "page.html")[0] == 0
    assert "class 2" in (files / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["before.npy", "after.npy", "--data", "x.npy,y.npy,z.npy"], "--data X"),
        (["before.npy", "nowhere.npy", "--data", "x.npy,y.npy"], "nowhere.npy"),
        (["before.npy", "nowhere.tflite", "--data", "x.npy,y.npy"], "nowhere.tflite"),
        (["before.npy", "after.npy", "--data", "x.npy,y.npy", "--html", "x.npy"], "not read"),
        (["before.npy", "after.npy", "--data", "x.npy,y.npy", "--groups", "x.npy"], "digitize"),
    ],
)
def test_what_cannot_be_done_is_exit_code_2(arguments, text, files, capsys):
    code, _, error = run(capsys, *arguments)
    assert code == 2
    assert text in error
