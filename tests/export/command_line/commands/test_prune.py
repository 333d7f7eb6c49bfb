"""`tfprune prune` on a .tflite file."""

import json

import numpy as np
import pytest

from tfprune.export.command_line.cli import main


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
    "--sparsity 1.6 --samples x.npy": "sparsity",
    "--sparsity 0.6 --samples nowhere.npy": "nowhere.npy",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_mistakes(line, inside, capsys):
    before = sorted(inside.iterdir())
    assert main(["prune", "model.tflite", *line.split()]) == 2
    assert MISTAKES[line] in capsys.readouterr().err
    assert sorted(inside.iterdir()) == before
