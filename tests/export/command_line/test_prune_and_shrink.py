"""`tfprune prune` and `tfprune shrink`, on a saved model and samples in files, as a user runs them."""

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from file_graphs import FileGraph
from sklearn.datasets import load_digits

import tfprune
from tfprune.export.command_line.cli import main


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a trained model and its data: x, y to train on, xv, yv to measure on."""
    folder = tmp_path_factory.mktemp("trained")
    keras.utils.set_random_seed(0)
    x, y = load_digits(return_X_y=True)
    order = np.random.permutation(len(x))
    x, y = x[order].astype("float32") / 16, y[order]
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(64, "relu", name="first"),
            layers.Dense(32, "relu", name="second"),
            layers.Dense(10, name="head"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    model.fit(x[:1500], y[:1500], epochs=8, verbose=0)
    model.save(folder / "model.keras")
    model.compile()
    uncompiled = keras.models.clone_model(model)
    uncompiled.save(folder / "uncompiled.keras")
    for name, array in {"x": x[:1500], "y": y[:1500], "xv": x[1500:], "yv": y[1500:]}.items():
        np.save(folder / f"{name}.npy", array)
    np.save(folder / "narrow.npy", x[:40, :3])
    np.save(folder / "beyond.npy", y[:1500] + 99)
    np.save(folder / "one_hot.npy", np.eye(10)[y[:1500]])
    return folder


@pytest.fixture
def inside(trained, tmp_path, monkeypatch):
    """The folder of the test, with copies of the files; it is the current one."""
    monkeypatch.chdir(tmp_path)
    for path in trained.iterdir():
        shutil.copy(path, tmp_path)
    return tmp_path


def run(capsys, line):
    code = main(line.split())
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def accuracy(model):
    x, y = np.load("xv.npy"), np.load("yv.npy")
    return float(np.mean(model.predict(x, verbose=0).argmax(axis=1) == y))


def zeros(model):
    kernels = [np.asarray(layer.kernel) for layer in model.layers]
    return 1 - sum(np.count_nonzero(kernel) for kernel in kernels) / sum(kernel.size for kernel in kernels)


def test_prune_without_labels_solves_for_what_is_left(inside, capsys):
    code, out, err = run(capsys, "prune model.keras sparse.keras --sparsity 0.8 --data x.npy")
    assert (code, err) == (0, "")
    assert "all kernels" in out
    assert "before" not in out, "nothing can be measured without labels"
    dense, sparse = keras.saving.load_model("model.keras"), keras.saving.load_model("sparse.keras")
    assert zeros(sparse) == pytest.approx(0.8, abs=1e-3)
    masked_only = tfprune.wrap(dense)
    tfprune.update_masks(masked_only, 0.8, allocation="lamp")
    assert accuracy(sparse) > accuracy(masked_only)
    assert accuracy(sparse) > accuracy(dense) - 0.04


@pytest.mark.programs
def test_prune_by_alps_splits_the_zeros_by_owl(inside, capsys):
    line = "prune model.keras sparse.keras --sparsity 0.8 --data x.npy --criterion alps --allocation owl"
    assert run(capsys, line)[0] == 0
    sparse = keras.saving.load_model("sparse.keras")
    assert zeros(sparse) == pytest.approx(0.8, abs=1e-3)
    shares = [np.mean(np.asarray(layer.kernel) == 0) for layer in sparse.layers]
    assert max(shares) - min(shares) == pytest.approx(0.16, abs=0.01)


@pytest.mark.programs
def test_prune_by_a_criterion_solves_for_the_weights_that_are_left(inside, capsys):
    code, _, err = run(capsys, "prune model.keras sparse.keras --sparsity 0.8 --data x.npy --criterion magnitude")
    assert (code, err) == (0, "")
    dense = keras.saving.load_model("model.keras")
    masked = tfprune.wrap(dense)
    tfprune.update_masks(masked, 0.8, allocation="lamp")
    for layer, expected in zip(keras.saving.load_model("sparse.keras").layers, masked.layers, strict=True):
        np.testing.assert_array_equal(np.asarray(layer.kernel) != 0, np.asarray(expected.layer.kernel) != 0)


@pytest.mark.programs
def test_prune_with_epochs_trains_and_measures_both(inside, capsys):
    line = "prune model.keras sparse.keras --sparsity 0.9 --data x.npy,y.npy --validation xv.npy,yv.npy --epochs 4"
    code, out, err = run(capsys, f"{line} --json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    dense, sparse = keras.saving.load_model("model.keras"), keras.saving.load_model("sparse.keras")
    assert zeros(sparse) == pytest.approx(0.9, abs=1e-3)
    found = {metric["name"]: metric for metric in report["metrics"]}["accuracy"]
    assert found["before"] == pytest.approx(accuracy(dense))
    assert found["after"] == pytest.approx(accuracy(sparse))
    assert found["after"] > found["before"] - 0.04
    assert report["measured_on"] == "the validation data"
    assert report["bytes"] == (inside / "sparse.keras").stat().st_size
    assert sparse.compiled, "it can be evaluated as it is"


@pytest.mark.programs
def test_prune_in_groups_of_n_in_m(inside, capsys):
    code, _, err = run(capsys, "prune model.keras sparse.keras --sparsity 0.5 --data x.npy --pattern 2:4")
    assert code == 0, err
    kernel = np.asarray(keras.saving.load_model("sparse.keras").get_layer("first").kernel)
    assert np.all(np.count_nonzero(kernel.reshape(16, 4, 64), axis=1) <= 2)


def test_shrink_without_labels_removes_channels_at_once(inside, capsys):
    code, out, err = run(capsys, "shrink model.keras small.keras --budget parameters=0.5 --data x.npy")
    assert (code, err) == (0, "")
    dense, small = keras.saving.load_model("model.keras"), keras.saving.load_model("small.keras")
    assert small.count_params() <= dense.count_params() / 2
    assert f"{small.count_params():,}" in out
    assert accuracy(small) > accuracy(dense) - 0.06


@pytest.mark.programs
def test_shrink_with_labels_trains_in_rounds(inside, capsys):
    line = "shrink model.keras small.keras --budget flops=0.5 --budget bytes=100000 --data x.npy,y.npy --rounds 2"
    code, out, err = run(capsys, f"{line} --epochs 2 --round-to 4 --json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    small = keras.saving.load_model("small.keras")
    assert len(report["done"]["rounds"]) == 2
    assert small.get_layer("first").units % 4 == 0
    after = {metric["name"]: metric["after"] for metric in report["metrics"]}
    x, y = np.load("x.npy"), np.load("y.npy")
    assert after["accuracy"] == pytest.approx(small.evaluate(x, y, verbose=0, return_dict=True)["accuracy"])
    assert report["measured_on"] == "the training data"


@pytest.fixture
def file(inside):
    """A small .tflite file and samples for it."""
    graph = FileGraph(0, shape=(1, 6))
    Path("model.tflite").write_bytes(graph.content(graph.dense(graph.dense(graph.input, 16), 4)))
    np.save("samples.npy", np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32))


@pytest.mark.programs
def test_shrink_a_file(file, capsys):
    code, out, err = run(capsys, "shrink model.tflite small.tflite --budget flops=0.5 --samples samples.npy --json")
    assert code == 0, err
    report = json.loads(out)
    assert report["flops_kept"] <= 0.5 * report["flops"]
    assert Path("small.tflite").stat().st_size == report["file"]["bytes"]


TO_SAMPLES = "--sparsity 0.5 --samples samples.npy"
WRONG_FILES = {
    f"prune modell.tflite new.tflite {TO_SAMPLES}": ["which does not exist", "'model.tflite'?"],
    f"prune model new.tflite {TO_SAMPLES}": ["a .tflite file, or a model saved by Keras", "which does not exist"],
    f"prune folder new.tflite {TO_SAMPLES}": ["a .tflite file", "which is a folder"],
    f"prune network.pt new.tflite {TO_SAMPLES}": ["a .tflite file", "litert-torch", "from_pytorch.md"],
    "shrink network.onnx new.tflite --budget flops=0.5 --samples samples.npy": ["a .tflite file", "onnx2tf"],
    "prune model.tflite new.tflite --sparsity 0.5 --samples fold --range 0 1": ["does not exist", "'folder'?"],
    "inspect network.onnx": ["begins with", "onnx2tf", "from_onnx_and_yolo.md"],
    f"prune model.tflite model.tflite {TO_SAMPLES}": ["not read as well"],
    f"prune model.tflite samples.npy {TO_SAMPLES}": ["not read as well"],
    "shrink model.tflite model.tflite --budget flops=0.5 --samples samples.npy": ["not read as well"],
    f"prune model.tflite network.pt {TO_SAMPLES}": ["path='network.pt', which has the suffix of a PyTorch network"],
    "shrink model.tflite new.tflite --budget 0.5 --samples samples.npy": ["Expected --budget flops=LIMIT for"],
}


@pytest.mark.parametrize("line", WRONG_FILES)
def test_another_kind_of_file_is_named_and_nothing_is_written_over(file, capsys, line):
    for name in ("network.pt", "network.onnx"):
        Path(name).write_bytes(b"a trained network of another framework")
    Path("folder").mkdir()
    before = {path: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    code, _, err = run(capsys, line)
    assert code == 2 and all(word in err for word in WRONG_FILES[line]), err
    assert {path: path.read_bytes() for path in Path().iterdir() if path.is_file()} == before


WRONG_FOR_FILES = {
    "--budget flops=0.5": ["--samples FILE"],
    "--budget bytes=0.5 --samples samples.npy": ["--budget flops=LIMIT", "bytes=0.5"],
    "--budget flops=half --samples samples.npy": ["--budget flops=LIMIT", "flops=half"],
    "--budget flops=0.5 --samples samples.npy --epochs 2": ["--epochs", "a Keras model only"],
}


@pytest.mark.parametrize("line", WRONG_FOR_FILES)
def test_options_that_do_not_fit_a_file(file, capsys, line):
    code, _, err = run(capsys, f"shrink model.tflite small.tflite {line}")
    assert code == 2 and all(word in err for word in WRONG_FOR_FILES[line])
    assert not Path("small.tflite").exists()


PRUNE, SHRINK = "prune model.keras new.keras --sparsity 0.9", "shrink model.keras new.keras --budget flops=0.5"
MISTAKES = {
    f"{PRUNE} --data nowhere.npy": ["nowhere.npy", "does not exist"],
    "prune modell.keras new.keras --sparsity 0.9 --data x.npy": ["'modell.keras', which", "'model.keras'?"],
    f"{PRUNE} --data model.keras": ["model.keras", "samples"],
    f"{PRUNE} --data x.npy,model.keras": ["model.keras", "samples"],
    f"{PRUNE} --data x.npy,yv.npy": ["one label for each sample", "297", "1500"],
    f"{PRUNE} --data x.npy,y.npy,y.npy": ["at most two files"],
    f"{PRUNE} --data narrow.npy": ["(samples, 64)", "--data", "(40, 3)"],
    f"{PRUNE} --data x.npy,beyond.npy": ["from 0 to 9", "--data", "from 99 to 108"],
    f"{PRUNE} --data x.npy,one_hot.npy": ["(1500, 10)", "argmax"],
    f"{PRUNE} --data x.npy --validation xv.npy": ["--validation X,Y"],
    f"{PRUNE} --data x.npy --epochs 3": ["labels with --epochs"],
    f"{PRUNE} --data x.npy,y.npy --epochs -3": ["--epochs", "-3"],
    f"{PRUNE} --data x.npy --learning-rate 0.1": ["--epochs with --learning-rate"],
    f"{PRUNE} --data x.npy --pattern channel": ["N:M", "tfprune shrink"],
    f"{PRUNE} --data x.npy --pattern 2:4": ["at most 1 - n/m"],
    f"{PRUNE} --data x.npy --criterion wandas": ["--criterion", "'wanda'"],
    f"{PRUNE} --data x.npy,y.npy --epochs 1 --criterion sparsegpt": [
        "Expected --criterion",
        "--criterion sparsegpt.",
    ],
    f"{PRUNE} --data x.npy --allocation owls": ["Expected --allocation to be", "'alpha_pruning'", "'owl'?"],
    f"{PRUNE} --data x.npy --criterion ria --allocation error": ["--criterion ria", "'alps' or 'sparsegpt'"],
    f"{PRUNE} --data x.npy --criterion magnitude --allocation lambs": [
        "Expected --allocation to be",
        "'global', 'lamp' or 'flops'. Received: --allocation",
        "'lamp'?",
    ],
    f"{PRUNE} --data x.npy --batch-size 0": ["--batch-size"],
    f"{PRUNE} --data x.npy --max-samples 0": ["--max-samples"],
    f"{PRUNE} --data x.npy --samples x.npy": ["--samples", "a .tflite file only"],
    PRUNE: ["--data for a Keras model"],
    "prune uncompiled.keras new.keras --sparsity 0.9 --data x.npy,y.npy": ["uncompiled.keras", "without loss"],
    "prune model.keras new.keras --sparsity 90 --data x.npy": ["--sparsity", "0.9"],
    "prune model.keras new.h5 --sparsity 0.9 --data x.npy": [".keras", "new.h5"],
    "prune model.keras no/new.keras --sparsity 0.9 --data x.npy": ["does not exist"],
    "prune model.keras model.keras --sparsity 0.9 --data x.npy": ["not read as well"],
    "prune x.npy new.keras --sparsity 0.9 --data x.npy": ["x.npy", "saved by Keras"],
    f"{SHRINK} --data x.npy --rounds 2": ["labels with --rounds"],
    f"{SHRINK} --data x.npy --criterion f_statistic": ["class labels"],
    "shrink model.keras new.keras --data x.npy --budget speed=0.5": ["speed=0.5", "latency"],
    "shrink model.keras new.keras --data x.npy --budget flops=half": ["flops=half"],
    "shrink model.keras new.keras --data x.npy --budget flops=1.5": ["Expected --budget flops to be", "(0, 1)"],
    "shrink model.keras new.keras --data x.npy --budget parameters=50": ["For 50 % of", "--budget parameters=0.5"],
    "shrink model.keras new.keras --data x.npy --budget flops=0.001": [
        "can be met",
        "Received: --budget flops=0.001.",
    ],
    f"{SHRINK} --data x.npy --round-to 0": ["Expected --round-to to be", "Received: --round-to 0"],
    f"{SHRINK} --data x.npy,y.npy --epochs -1": ["Received: --epochs -1."],
    "prune model.keras new.keras --sparsity 1 --data x.npy": ["Received: --sparsity", "with tfprune shrink"],
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_prints_one_line_and_writes_nothing(line, inside, capsys):
    before = {path: path.read_bytes() for path in inside.iterdir()}
    code, out, err = run(capsys, line)
    assert (code, out) == (2, "")
    assert len(err.strip().splitlines()) == 1, err
    assert all(word in err for word in MISTAKES[line]), err
    assert {path: path.read_bytes() for path in inside.iterdir()} == before
