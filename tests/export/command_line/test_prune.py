"""`tfprune prune` on a .tflite file."""

import argparse
import json

import numpy as np
import pytest

from tfprune.export import Runner
from tfprune.export.command_line.cli import main
from tfprune.export.command_line.options import file_samples


@pytest.fixture
def inside(exports, tmp_path, monkeypatch):
    export = exports("unpruned", "float32")
    (tmp_path / "model.tflite").write_bytes(export.data)
    np.save(tmp_path / "x.npy", export.inputs)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.programs
def test_a_file_and_some_samples(inside, capsys):
    assert (
        main(["prune", "model.tflite", "--samples", "x.npy", "--sparsity", "0.6", "--compress", "packed", "--json"])
        == 0
    )
    report = json.loads(capsys.readouterr().out)
    assert report["sparsity"] == pytest.approx(0.6, abs=0.02)
    assert report["file"]["bytes"] == (inside / "model.pruned.tfz").stat().st_size
    assert (
        main(["prune", "model.tflite", "nm.tflite", "--samples", "random", "--sparsity", "0.5", "--pattern", "2:4"])
        == 0
    )
    assert "random numbers, not data" in capsys.readouterr().out
    form = ["--optimize", "dense", "--batch", "1"]
    assert main(["prune", "model.tflite", "one.tflite", "--samples", "x.npy", "--sparsity", "0.6", *form]) == 0
    assert Runner(inside / "one.tflite").inputs[0].shape[0] == 1
    assert "DENSIFY" not in capsys.readouterr().out


MISTAKES = {
    "--sparsity 0.6": "--samples FILE for a .tflite file",
    "--sparsity 0.6 --samples x.npy --data x.npy": "--data with a Keras model only",
    "--sparsity 0.6 --samples x.npy --epochs 3": "--epochs with a Keras model only",
    "--sparsity 0.6 --samples x.npy --seed 3 --criterion snip": "--criterion and --seed with a Keras model only",
    "--max-drop 0.1 --samples x.npy": "--validation X,Y with --max-drop",
    "--max-error 0.1 --samples x.npy --metric mae": "--max-drop with --metric",
    "--max-error -1 --samples x.npy": "Expected --max-error",
    "--sparsity 0.6 --samples x.npy --range 0 1": "a folder of samples with --range",
    "--sparsity 0.6 --samples .": "a folder of images",
    "--sparsity 0.6 --samples x.npy --max-samples 2": "--max-samples to be",
    "--sparsity 1.6 --samples x.npy": "sparsity",
    "--sparsity 0.6 --samples nowhere.npy": "nowhere.npy",
}


def test_some_of_many_samples(cases, joined, tmp_path, capsys):
    """Evenly spaced, as --max-samples says, from an array or from the arrays of several inputs or signatures."""
    (tmp_path / "model.tflite").write_bytes(joined(cases["dense"].data, cases["int8"].data))
    np.save(tmp_path / "x.npy", np.arange(100))
    options = argparse.Namespace(
        source=str(tmp_path / "model.tflite"), samples=str(tmp_path / "x.npy"), range=None, max_samples=4
    )
    assert file_samples(options).tolist() == [0, 33, 66, 99]
    assert "Read 4 of 100 samples, evenly spaced." in capsys.readouterr().err
    np.savez(tmp_path / "two.npz", a=np.arange(3), b=np.zeros((3, 2)))
    options.samples = str(tmp_path / "two.npz")
    assert [len(array) for array in file_samples(options).values()] == [3, 3]
    assert not capsys.readouterr().err
    np.savez(tmp_path / "both.npz", **{"first/x": np.arange(9), "second/x/y": np.arange(3)})
    options.samples = str(tmp_path / "both.npz")
    by_signature = file_samples(options)
    assert by_signature["first"]["x"].tolist() == [0, 3, 5, 8]
    assert [*by_signature["second"]] == ["x/y"]


@pytest.mark.parametrize("line", MISTAKES)
def test_mistakes(line, inside, capsys):
    before = sorted(inside.iterdir())
    assert main(["prune", "model.tflite", *line.split()]) == 2
    assert MISTAKES[line] in capsys.readouterr().err
    assert sorted(inside.iterdir()) == before
