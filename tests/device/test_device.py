"""The device tests themselves: what they must not miss."""

from __future__ import annotations

import importlib
import json
import lzma
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from tfprune.export.file.document import save_objects

HERE = Path(__file__).parent
CRASHING = f"""#!{sys.executable}
import json, os, signal, sys
folder, model, first = sys.argv[2:]
for file in ["a", "bad", "b", "worse"][int(first):]:
    print(json.dumps({{"file": file, "begun": True}}), flush=True)
    if file == "bad":
        os.kill(os.getpid(), signal.SIGSEGV)
    if file == "worse":
        sys.exit("no such kernel")
    print(json.dumps({{"file": file, "difference": 0.0}}), flush=True)
"""

EMPTY = save_objects(schema.ModelT(version=3, subgraphs=[schema.SubGraphT()]))  # a model whose graph holds nothing


class Outputs:
    """Stands in for a Runner: the first rows of what it was made with."""

    runtime = "none"
    arrays: list[np.ndarray] = []

    def __init__(self, path: Path) -> None:
        self.path = path

    def predict(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        return [array[: len(inputs[0])] for array in self.arrays]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Import a script of this folder, which finds its neighbours as it does when run."""
    monkeypatch.syspath_prepend(HERE)
    before = set(sys.modules)
    yield importlib.import_module
    for name in {path.stem for path in HERE.glob("*.py")} - before:  # other folders have scripts of these names
        sys.modules.pop(name, None)


@pytest.fixture
def checked(script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return what check.py says of a file that gives certain outputs where [2, 4] and [1, 1] are right."""
    check = script("check")
    samples = tmp_path / "samples.npz"
    np.savez(samples, input_0=np.zeros((2, 3)), output_0=np.array([2.0, 4.0]), output_1=np.ones(2))
    monkeypatch.setattr(check, "Runner", Outputs)
    monkeypatch.setattr(check.importlib.util, "find_spec", lambda name: None)  # there is no file to inspect

    def of(*outputs: list[float]) -> dict:
        monkeypatch.setattr(Outputs, "arrays", [np.array(output) for output in outputs])
        return check.check(tmp_path / "model.tflite", samples, 0.1)

    return of


def test_a_crash_is_put_down_to_its_file_and_the_files_after_it_still_run(script, tmp_path: Path) -> None:
    pytest.importorskip("rich")
    run = script("run")
    python = tmp_path / "python"
    python.write_text(CRASHING, encoding="utf-8")
    python.chmod(0o755)
    files = {"net": [{"file": name} for name in ("a", "bad", "b", "worse")]}
    by_file = run.results({"here": run.Device(python, {})}, tmp_path, files)
    assert {file: run.outcome(row) for (_, file), row in by_file.items()} == {
        "a": "0.0e+00",
        "bad": "CRASH",
        "b": "0.0e+00",
        "worse": "CRASH",
    }
    assert "-11" in by_file["here", "bad"]["crash"]
    assert "no such kernel" in by_file["here", "worse"]["crash"]


def test_right_outputs_agree_by_the_largest_relative_difference(checked) -> None:
    assert checked([2.0, 4.2], [1.0, 1.0])["difference"] == pytest.approx(0.05)


@pytest.mark.parametrize(
    "outputs",
    [
        ([2.0, 4.0], [1.0, 1.2]),
        ([2.0, 4.0], [1.0, np.nan]),
        ([np.nan, 4.0], [1.0, 1.0]),
        ([2.0, 4.0], [[1.0], [1.0]]),
        ([2.0, 4.0],),
    ],
)
def test_a_difference_or_no_number_or_another_shape_in_any_output_is_wrong(checked, outputs: tuple) -> None:
    assert "wrong" in checked(*outputs)


def test_a_packed_file_has_to_give_the_bytes_that_were_run(script, tmp_path: Path) -> None:
    check, run = script("check"), script("run")
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    plain.write_bytes(EMPTY)
    packed.write_bytes(lzma.compress(EMPTY))
    assert run.outcome(check.check_same(packed, plain)) == "same bytes"
    packed.write_bytes(lzma.compress(EMPTY + b"more"))
    assert run.outcome(check.check_same(packed, plain)) == "WRONG"
    packed.write_bytes(lzma.compress(EMPTY)[:-9])
    assert "cut short" in check.check_same(packed, plain)["wrong"]


@pytest.mark.parametrize("outputs", [(0.0, 1.0), (0.0, 0.9), (1.0, 1.0)])
def test_a_file_that_learns_something_else_or_nothing_is_wrong(
    script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outputs: tuple[float, float]
) -> None:
    """Outputs before and after training, where 1 is right."""
    check, trainer = script("check"), Outputs(tmp_path)
    np.savez(tmp_path / "samples.npz", input_0=np.zeros((2, 1)), label_0=np.zeros(2), output_0=np.ones(2))
    given = iter(outputs)
    trainer.predict = lambda x: np.full(len(x), next(given))
    trainer.load = lambda state: None
    trainer.masks = {"kernel": np.zeros(4, bool)}
    monkeypatch.setattr(check, "main", lambda arguments: 0)
    monkeypatch.setattr(check, "Trainer", lambda path: trainer)
    result = check.check_learning(tmp_path / "net.tfz", tmp_path / "samples.npz", 0.01)
    assert ("wrong" in result) == (outputs != (0.0, 1.0))


def test_a_network_whose_outputs_do_not_tell_is_refused(script, monkeypatch: pytest.MonkeyPatch) -> None:
    keras = pytest.importorskip("keras")
    models = script("models")

    def hardly_used() -> keras.Model:
        pixels = keras.Input((16,), name="pixels")
        scores = keras.layers.Dense(8)(pixels)
        return keras.Model(pixels, keras.layers.Dense(1, activation="sigmoid")(keras.layers.Rescaling(1e-6)(scores)))

    monkeypatch.setitem(models.MODELS, "hardly used", hardly_used)
    with pytest.raises(ValueError, match="Expected outputs of 'hardly used' that tell"):
        models.network("hardly used")


def test_the_grid_ends_with_an_error_for_a_wrong_file_and_names_it(
    script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("rich")
    grid = script("grid")
    row = {"model": "net", "format": "float32", "sparse": "no", "form": "float32", "kernels": "dense", "bytes": 1000}
    row |= {"tolerance": 1e-4, "failed": ["float32, sparse: killed by SIGSEGV"]}
    rows = [row | {"file": name} for name in ("good", "old", "bad")]
    (tmp_path / "files.json").write_text(json.dumps({"net": rows}), encoding="utf-8")
    outcomes = {"good": {"difference": 1e-6}, "old": {"refused": "Didn't find op"}, "bad": {"wrong": "differs"}}
    runtime = {"good": "here", "old": "tflite-runtime", "bad": "here"}
    monkeypatch.setattr(grid, "results", lambda *_: {(runtime[file], file): told for file, told in outcomes.items()})
    monkeypatch.setattr(grid, "_table", lambda *_: "")
    monkeypatch.setattr(grid, "devices", lambda *_: {"here": None})
    monkeypatch.setattr(sys, "argv", ["grid.py", str(tmp_path)])
    assert grid.main() == 1
    printed = capsys.readouterr().out
    assert "wrong: bad on here: differs" in printed
    assert "float32, sparse: killed by SIGSEGV" in printed
    assert printed.strip().endswith("1 agree, 1 refused, 1 wrong, 0 crash, 0 not made")
    del outcomes["bad"]
    (tmp_path / "files.json").write_text(json.dumps({"net": rows[:2]}), encoding="utf-8")
    assert grid.main() == 0
    runtime["old"] = "here"
    assert grid.main() == 1


@pytest.mark.parametrize(
    ("row", "runtime", "code"),
    [
        ({"difference": 0.0}, "native", 0),
        ({"refused": "Didn't find op"}, "tflite-runtime", 0),
        ({"refused": "Didn't find op"}, "native", 1),
        ({"refused": "Didn't find op"}, "emulated", 1),
        ({"wrong": "differs"}, "tflite-runtime", 1),
    ],
)
def test_a_refusal_is_an_answer_of_the_old_runtime_alone(
    script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: dict, runtime: str, code: int
) -> None:
    pytest.importorskip("rich")
    run, folder = script("run"), tmp_path / "device"
    folder.mkdir()
    (folder / "net").write_bytes(EMPTY)
    (folder / "files.json").write_text(json.dumps({"net": [{"file": "net", "tolerance": 0.1}]}), encoding="utf-8")
    monkeypatch.setattr(run, "devices", lambda *_: {runtime: None})
    monkeypatch.setattr(run, "results", lambda *_: {(runtime, "net"): row})
    monkeypatch.setattr(sys, "argv", ["run.py", str(folder)])
    assert run.main() == code
