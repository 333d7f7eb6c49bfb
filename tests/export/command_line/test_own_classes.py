"""Saved models with classes of their own, on the command line: which they are, and `--import`."""

from __future__ import annotations

import importlib
import sys
import textwrap

import keras
import numpy as np
import pytest

import tfprune
from tfprune.export.command_line.cli import main

MODULE = """
    import keras

    class Scale(keras.layers.Layer):
        def __init__(self, factor, **kwargs):
            super().__init__(**kwargs)
            self.factor = factor

        def call(self, x):
            return halved(x) * self.factor

    class Bare(keras.layers.Layer):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor

        def call(self, x):
            return self.factor * x

    def halved(x):
        return x / 2
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module in the current folder, which nothing has imported once the test begins to call commands."""
    (tmp_path / "mine.py").write_text(textwrap.dedent(MODULE))
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(16, 4)).astype("float32"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "mine", raising=False)  # of another test
    known = dict(keras.saving.get_custom_objects())
    module = importlib.import_module("mine")
    yield module
    keras.saving.get_custom_objects().clear()
    keras.saving.get_custom_objects().update(known)
    sys.modules.pop("mine", None)


def saved(layer: keras.layers.Layer) -> keras.Model:
    model = keras.Sequential(
        [keras.Input((4,)), layer, keras.layers.Dense(3, type(layer).call.__globals__["halved"])]
    )
    model.save("own.keras")
    sys.modules.pop("mine")
    return model


def run(capsys, line):
    code = main(line.split())
    printed = capsys.readouterr()
    return code, printed.out, printed.err


PRUNE = "prune own.keras sparse.keras --sparsity 0.5 --data x.npy"


def test_a_model_with_a_class_of_its_own_is_named_with_its_module_and_read_with_import(mine, capsys):
    model, x = saved(mine.Scale(3)), np.load("x.npy")
    for command in (PRUNE, "export own.keras own.tflite"):
        code, out, err = run(capsys, command)
        assert (code, out) == (2, "")
        assert "'own.keras', which was saved with Scale, halved. Add --import mine." in err
    code, _, err = run(capsys, f"{PRUNE} --import mine")
    assert (code, err) == (0, "")
    sparse = keras.saving.load_model("sparse.keras")
    assert tfprune.sparsity_report(sparse).sparsity == 0.5
    assert type(sparse.layers[0]).__name__ == "Scale"
    assert np.abs(sparse.predict(x, verbose=0) - model.predict(x, verbose=0)).mean() < 1


def test_a_module_that_is_not_there_is_named(mine, capsys):
    saved(mine.Scale(3))
    code, _, err = run(capsys, f"{PRUNE} --import your")
    assert code == 2
    assert "Expected a module with --import. Received: 'your': No module named 'your'. Run this in the folder" in err
    assert "Write its name, such as layers for layers.py" in run(capsys, f"{PRUNE} --import mine.py")[2]


def test_a_class_that_takes_no_keywords_is_refused_with_the_two_edits(mine, capsys):
    saved(mine.Bare(3))
    code, out, err = run(capsys, f"{PRUNE} --import mine")
    assert (code, out) == (2, "")
    assert "'own.keras': Bare.__init__() got an unexpected keyword argument 'trainable'. Let `__init__` take" in err
    assert "`get_config`" in err
    assert len(err) < 500


def test_a_class_of_the_program_itself_has_to_move_into_a_module(mine, capsys, monkeypatch):
    monkeypatch.setattr(mine.Scale, "__module__", "__main__")
    saved(mine.Scale(3))
    assert "saved with Scale, halved. Put them into a module" in run(capsys, PRUNE)[2]
