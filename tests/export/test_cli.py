"""The command line, run as a user runs it."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest

import tfprune
from tfprune.export.cli import main
from tfprune.export.runtime import Runner


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a wrapped, pruned and saved model, samples, and the file that the export command made of it."""
    folder = tmp_path_factory.mktemp("cli")
    keras.utils.set_random_seed(0)
    model = tfprune.wrap(keras.Sequential([keras.Input((6,)), keras.layers.Dense(40), keras.layers.Dense(3)]))
    tfprune.update_masks(model, 0.75)
    model.save(folder / "model.keras")
    np.save(folder / "wide.npy", np.ones((2, 9), np.float32))
    np.save(folder / "samples.npy", np.random.default_rng(0).random((40, 6), dtype=np.float32))
    arguments = ["export", "model.keras", "model.tflite.gz", "--compress", "gzip", "--check-on", "samples.npy"]
    command = [sys.executable, "-m", "tfprune.export.cli", *arguments, "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (folder / "export.json").write_text(done.stdout)
    (folder / "export.err").write_text(done.stderr)
    return folder


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_export_writes_the_stripped_model_and_prints_json_only(folder):
    report = json.loads((folder / "export.json").read_text())
    assert report["sparsity"] == pytest.approx(0.75)
    assert report["bytes"] == (folder / "model.tflite.gz").stat().st_size
    assert (folder / "export.err").read_text() == ""
    samples = np.load(folder / "samples.npy")
    plain = tfprune.strip(keras.saving.load_model(folder / "model.keras"))
    expected = plain.predict(samples, verbose=0)
    assert Runner(folder / "model.tflite.gz").predict(samples) == pytest.approx(expected, abs=1e-5)


def test_inspect_counts_the_zeros(folder, capsys):
    code, out, _ = run(capsys, "inspect", folder / "model.tflite.gz", "--json")
    report = json.loads(out)
    assert code == 0
    assert (report["nnz"], report["size"]) == (90, 360)
    assert "FULLY_CONNECTED" in run(capsys, "inspect", folder / "model.tflite.gz")[1]


def test_verify_without_samples_runs_the_file(folder, capsys):
    code, out, _ = run(capsys, "verify", folder / "model.tflite.gz", "--json")
    assert code == 0
    assert json.loads(out)["passed"]


def test_verify_against_the_keras_model(folder, capsys):
    arguments = ["verify", folder / "model.tflite.gz", "--against", folder / "model.keras"]
    code, out, _ = run(capsys, *arguments, "--inputs", folder / "samples.npy", "--json")
    assert code == 0
    assert json.loads(out)["max_abs_diff"] < 1e-5


def test_verify_against_another_model_fails_with_code_1(folder, capsys, tmp_path):
    keras.utils.set_random_seed(1)
    keras.Sequential([keras.Input((6,)), keras.layers.Dense(40), keras.layers.Dense(3)]).save(
        tmp_path / "other.keras"
    )
    arguments = ["verify", folder / "model.tflite.gz", "--against", tmp_path / "other.keras"]
    code, out, _ = run(capsys, *arguments, "--inputs", folder / "samples.npy")
    assert code == 1
    assert "differ" in out


def test_bench_measures(folder, capsys):
    code, out, _ = run(capsys, "bench", folder / "model.tflite.gz", "--runs", 5, "--json")
    assert code == 0
    assert json.loads(out)["median_ms"] > 0


@pytest.mark.parametrize("command", ["demo", "inspect", "export", "verify", "bench"])
def test_help_explains_every_argument(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert "--json" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["inspect", "nowhere.tflite"], ["nowhere.tflite"]),
        (["inspect", "{samples}"], ["samples.npy", "TFLite"]),
        (["export", "nowhere.keras", "x.tflite"], ["nowhere.keras", "does not exist"]),
        (["export", "{samples}", "x.tflite"], ["samples.npy", "Keras"]),
        (["export", "{keras}", "{folder}/missing/x.tflite"], ["missing"]),
        (["export", "{keras}", "x.tflite", "--quantize", "int8"], ["--calibration FILE"]),
        (["verify", "{file}", "--against", "{keras}"], ["--inputs"]),
        (["verify", "{file}", "--against", "{keras}", "--inputs", "{wide}"], ["(samples, 6)", "--inputs", "(2, 9)"]),
        (["verify", "{file}", "--inputs", "nowhere.npy"], ["nowhere.npy"]),
        (["bench", "{file}", "--runs", "0"], ["runs"]),
        (["demo", "--output", "{samples}"], ["samples.npy"]),
    ],
)
def test_a_mistake_prints_one_line_and_exits_2(arguments, words, folder, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names = {
        "folder": folder,
        "samples": folder / "samples.npy",
        "wide": folder / "wide.npy",
        "keras": folder / "model.keras",
        "file": folder / "model.tflite.gz",
    }
    code, out, err = run(capsys, *[argument.format(**names) for argument in arguments])
    assert (code, out) == (2, "")
    assert len(err.strip().splitlines()) == 1
    assert all(word in err for word in words), err
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_says_what_to_install(capsys, monkeypatch, folder):
    monkeypatch.setitem(sys.modules, "tfprune.export.demo", None)
    code, _, err = run(capsys, "demo", "--output", folder / "demo")
    assert code == 2
    assert "tfprune[demo]" in err
