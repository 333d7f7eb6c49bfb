"""Numbers to be reached have no accuracy: each entrance that measures one says so, and names an error instead."""

import keras
import numpy as np
import pytest

from tfprune import Limit
from tfprune.export import compress, evaluate, prune_tflite, to_tflite, verify
from tfprune.export.command_line.cli import main
from tfprune.export.keras_side.convert import convert

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 6)).astype("float32")
TARGETS = {
    "numbers": (1, 3 + X[:, 0]),
    "whole numbers": (1, np.rint(100 + 10 * X[:, 0])),
    "a forecast": (6, 3 + X),
    "classes of an output without sigmoid": (1, (X[:, 0] > 0).astype(int)),
}


class Case:
    """A regression as a model, a file, and arrays in files."""

    def __init__(self, folder, outputs, y):
        self.folder, self.y = folder, y
        self.model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(outputs)])
        self.model.compile("sgd", "mse")
        self.model.save(folder / "model.keras")
        self.file = folder / "model.tflite"
        self.file.write_bytes(convert(self.model))
        np.save(folder / "x.npy", X)
        np.save(folder / "y.npy", y)
        self.limit = Limit(0.01, data=(X, y))
        self.searched = {"folder": folder / "searched", "verbose": 0}

    def run(self, *arguments):
        """Run the program in the folder's files; an argument that ends in a comma is a pair of arrays."""
        return main(
            [
                str(self.folder / word) if word.endswith((".keras", ".tflite", ".npy", "new")) else word
                for word in arguments
            ]
        )


ENTRANCES = {
    "evaluate": (lambda case: evaluate(case.file, (X, case.y)), "metrics='mae'"),
    "verify": (lambda case: verify(case.file, X, labels=case.y), "metrics='mae'"),
    "prune_tflite": (
        lambda case: prune_tflite(case.file, case.folder / "new", X, max_drop=case.limit),
        "metric='mae' in a tfprune.Limit",
    ),
    "to_tflite": (
        lambda case: to_tflite(case.model, case.folder / "new", max_drop=case.limit),
        "metric='mae' in a tfprune.Limit",
    ),
    "compress": (
        lambda case: compress(case.model, (X, case.y), (X, case.y), **case.searched),
        "metric='mae' in a tfprune.Limit",
    ),
    "tfprune verify": (
        lambda case: case.run("verify", "model.tflite", "--samples", "x.npy", "--labels", "y.npy"),
        "leave --labels out",
    ),
    "tfprune prune": (
        lambda case: case.run(
            *("prune", "model.tflite", "new", "--samples", "x.npy", "--max-drop", "0.01"),
            *("--validation", f"{case.folder}/x.npy,{case.folder}/y.npy"),
        ),
        "such as --metric mae.",
    ),
    "tfprune export": (
        lambda case: case.run(
            *("export", "model.keras", "new", "--evaluate-on", f"{case.folder}/x.npy,{case.folder}/y.npy")
        ),
        "such as --metric mae.",
    ),
    "tfprune compress": (
        lambda case: case.run(
            *("compress", "model.keras", "--train", f"{case.folder}/x.npy,{case.folder}/y.npy"),
            *("--folder", f"{case.folder}/searched by the program"),
        ),
        "such as --metric mae.",
    ),
}


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    made = {}

    def case(name):
        if name not in made:
            made[name] = Case(tmp_path_factory.mktemp("case"), *TARGETS[name])
        return made[name]

    return case


ALL = [(entrance, "numbers") for entrance in ENTRANCES]
REST = [("evaluate", targets) for targets in TARGETS if targets != "numbers"]


@pytest.mark.parametrize(("entrance", "targets"), ALL + REST)
def test_an_accuracy_of_numbers_is_refused_and_an_error_named(cases, capsys, entrance, targets):
    case = cases(targets)
    call, advice = ENTRANCES[entrance]
    try:
        assert call(case) == 2
        message = capsys.readouterr().err
    except ValueError as error:
        message = str(error)
    assert "for an accuracy. Received: " in message
    assert advice in message
    if entrance.startswith("tfprune "):  # options in place of arguments
        assert "`" not in message and "Limit" not in message
    assert not (case.folder / "new").exists() and not [*case.folder.glob("searched*/*.tfl*")]


def test_an_error_by_name_is_measured_instead(cases, capsys):
    case = cases("numbers")
    data = f"{case.folder}/x.npy,{case.folder}/y.npy"
    limit = ["--metric", "mae", "--max-relative-drop", "0.5"]
    assert case.run("export", "model.keras", str(case.folder / "kept"), "--evaluate-on", data, *limit) == 0
    expected = np.abs(case.model.predict(X, verbose=0)[:, 0] - case.y).mean()
    assert f"mae             {expected:.4f} (Keras: {expected:.4f})" in capsys.readouterr().out
