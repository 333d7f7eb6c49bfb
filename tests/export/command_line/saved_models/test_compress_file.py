"""`tfprune compress`, on a saved model and samples in files, as a user runs it."""

import json

import keras
import numpy as np
import pytest
from small_search import short

from tfprune.export import Runner, micro_support
from tfprune.export.command_line.cli import main


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    x = np.random.default_rng(0).normal(size=(300, 6)).astype("float32")
    y = (x[:, :3].sum(axis=1) > 0).astype(int)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, epochs=10, verbose=0)
    model.save(folder / "model.keras")
    keras.Sequential.from_config(model.get_config()).save(folder / "uncompiled.keras")
    for name, array in {"x": x, "y": y, "none": x[:0], "no": y[:0], "beyond": y + 9}.items():
        np.save(folder / f"{name}.npy", array)
    return folder


@pytest.fixture
def run(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained)

    def run_command(line):
        with short():
            code = main(["compress", *line.split()])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run_command


def test_a_tenth_of_the_samples_judges_files(run, trained):
    code, out, _ = run(
        "model.keras --train x.npy,y.npy --max-drop 1 --trials 1 --folder found --test x.npy,y.npy --json"
    )
    report = json.loads(out)
    assert code == 0
    rows = {round(row["score"] * 30, 6) % 1 for row in report["tried"]}
    assert rows == {0.0}  # of 30 samples
    x, y = np.load("x.npy"), np.load("y.npy")
    for row in report["front"]:
        right = Runner(trained / "found" / row["file"]).predict(x).argmax(axis=1) == y
        assert right.mean() == pytest.approx(row["test_score"])
    assert (trained / "found" / "report.html").exists()


def test_for_a_microcontroller(run, trained):
    pytest.importorskip("tflite_micro", reason="tflite-micro is not installed (extra `micro`)")
    no_time = "--max-drop 1 --minutes 0.0001 --folder micro --json"  # for more than the model as it is
    code, out, _ = run(f"model.keras --train x.npy,y.npy --target micro --arena 60000 --flash 90000 {no_time}")
    assert code == 0
    (row,) = json.loads(out)["front"]
    path = trained / "micro" / row["file"]
    assert (path.stat().st_size, micro_support(path).arena) == (row["bytes"], row["arena_bytes"])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("model.keras --train x.npy,y.npy --arena 9000", "target='micro'"),
        ("model.keras --train x.npy", "Expected samples and labels, --train X,Y. Received: 'x.npy'"),
        ("model.keras --train x.npy,beyond.npy", "Expected labels from 0 to 1"),
        ("uncompiled.keras --train x.npy,y.npy", "Expected a compiled model"),
        ("model.keras --train x.npy,y.npy --max-drop -1", "--max-drop"),
        ("model.keras --train x.npy,y.npy --minutes 0", "--minutes"),
        ("model.keras --train x.npy,y.npy --trials 0", "trials"),
        ("model.keras --train x.npy,y.npy --target small", "target"),
        ("model.keras --train x.npy,y.npy --jobs 0", "jobs"),
        ("model.keras --train x.npy,y.npy --target latency --jobs 2", "jobs=1"),
        ("model.keras --train x.npy,y.npy --metric exactness", "Expected metrics named"),
        ("model.keras --train x.npy,y.npy --validation none.npy,no.npy", "--validation"),
        ("nothing.keras --train x.npy,y.npy", "which does not exist"),
    ],
)
def test_wrong_options_are_named(run, trained, line, words):
    code, out, err = run(f"{line} --folder refused")
    assert (code, out) == (2, "")
    assert words in err
    assert not (trained / "refused").exists()
