"""Certificates and `tfprune reproduce`, against hashlib and json: what is recorded, made again, and refused."""

import hashlib
import json
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from programs import started
from tiers import in_test_ci

import tfprune
from tfprune import export
from tfprune.export.command_line.cli import main

RANDOM = np.random.default_rng(0)
X = RANDOM.random((48, 8), np.float32)
Y = np.arange(48) % 3


def network():
    keras.utils.set_random_seed(0)
    layers = [keras.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(3, "softmax")]
    model = keras.Sequential(layers)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Write a folder with a model, a file of it, pruned, samples, and certificates of both files."""
    folder = tmp_path_factory.mktemp("made")
    model = network()
    model.save(folder / "model.keras")
    np.save(folder / "x.npy", X)
    report = export.to_tflite(model, folder / "dense.tflite", check_on=X)
    report.certificate().save(folder / "dense.json")
    pruned = export.prune_tflite(folder / "dense.tflite", folder / "pruned.tflite", X, sparsity=0.5)
    pruned.certificate().save(folder / "pruned.json")
    return folder


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    for path in made.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def reproduce(capsys, *words):
    code = main(["reproduce", *map(str, words)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def changed(name, **fields):
    """Write a certificate with other fields beside it."""
    Path("changed.json").write_text(json.dumps({**json.loads(Path(name).read_text()), **fields}))
    return "changed.json"


def test_a_certificate_holds_hashes_the_call_versions_and_checks(folder):
    content = json.loads(Path("pruned.json").read_text())
    data = Path("pruned.tflite").read_bytes()
    assert content["file"] == {
        "name": "pruned.tflite",
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
    }
    assert content["function"] == "prune_tflite" and content["arguments"]["sparsity"] == 0.5
    source = hashlib.sha256(Path("dense.tflite").read_bytes()).hexdigest()
    assert content["arguments"]["source"] == {"file": source, "name": "dense.tflite"}
    array = hashlib.sha256(b"float32[48, 8]" + X.tobytes()).hexdigest()
    assert content["arguments"]["samples"] == {"array": array, "shape": [48, 8], "dtype": "float32"}
    assert content["versions"]["python"] == sys.version.split()[0]
    assert content["versions"]["numpy"] == np.__version__ and content["versions"]["keras"] == keras.__version__
    assert "ai-edge-litert" in content["checks"]["file"]["runtime"]


@pytest.mark.programs
def test_what_changes_after_the_call_is_not_in_its_certificate(tmp_path):
    model, samples = network(), X.copy()
    before = hashlib.sha256(b"float32[48, 8]" + samples.tobytes()).hexdigest()
    report = export.to_tflite(model, tmp_path / "model.tflite", check_on=samples)
    first = report.certificate().arguments["model"]["model"]
    samples[:] = 0
    model.layers[0].kernel.assign(model.layers[0].kernel * 2)
    arguments = report.certificate().arguments
    assert arguments["check_on"]["array"] == before and arguments["model"]["model"] == first
    other = export.to_tflite(model, tmp_path / "model.tflite", check_on=samples).certificate()
    assert other.arguments["model"]["model"] != first


@pytest.mark.parametrize("name", ["pruned", in_test_ci("dense")])
def test_the_same_bytes_are_made_again(name, folder, capsys):
    code, out, err = reproduce(capsys, f"{name}.json", "--file", f"{name}.tflite", "--output", "again.tflite")
    assert code == 0 and "EQUAL" in out, err
    assert Path("again.tflite").read_bytes() == Path(f"{name}.tflite").read_bytes()


def test_other_bytes_are_exit_code_1(folder, capsys):
    arguments = json.loads(Path("pruned.json").read_text())["arguments"]
    code, out, _ = reproduce(capsys, changed("pruned.json", arguments={**arguments, "sparsity": 0.25}))
    assert code == 1 and "DIFFERENT" in out


def test_another_python_is_a_note(folder, capsys):
    versions = json.loads(Path("pruned.json").read_text())["versions"]
    code, out, _ = reproduce(capsys, changed("pruned.json", versions={**versions, "python": "3.99.0"}))
    assert code == 0 and "python 3.99.0, and here it is" in out


@pytest.mark.parametrize("lacking", ["dense.tflite", "x.npy"])
def test_missing_inputs_are_named_before_any_work(lacking, folder, capsys, monkeypatch):
    monkeypatch.setattr(export, "prune_tflite", None)
    if lacking == "x.npy":
        np.save("x.npy", X + 1)
    else:
        Path(lacking).unlink()
    code, _, err = reproduce(capsys, "pruned.json")
    words = "float32 of shape [48, 8]" if lacking == "x.npy" else "'dense.tflite'"
    assert code == 2 and words in err and err.count("\n") == 1


REFUSED = {
    "newer": ({"version": 2}, "newer than 1"),
    "no certificate": ({"format": "x"}, "it is not one"),
    "a field of another type": ({"versions": {"numpy": 3}}, "another type"),
    "a field too many": ({"more": 3}, "'more'"),
    "a path as name": ({"file": {"name": "../x", "sha256": "0" * 64, "bytes": 1}}, "no name"),
    "another version": ({"versions": {"numpy": "0.1"}}, "numpy 0.1, and here it is"),
    "a missing runtime": ({"versions": {"ethos-u-vela-x": "1"}}, "not installed"),
    "another function": ({"function": "load_trained"}, "'load_trained'"),
    "an unknown class": ({"arguments": {"x": {"class": "Popen", "values": {}}}}, "'Popen'"),
    "an object of Keras that is not": ({"arguments": {"x": {"keras": "Popen", "of": "os", "config": {}}}}, "Popen"),
    "an odd value": ({"arguments": {"x": {"run": "me"}}}, "not a value of a certificate"),
    "code": ({"code": {"mine": "0" * 64}}, "no --import mine"),
    "another command": ({"command": ["demo"]}, "a command line that writes a file"),
    "a device": ({"command": ["compress", "m.keras", "--train", "x", "--on", "a", "--ssh=-o x"]}, "--on"),
    "a program": (
        {"command": ["export", "m", "o", "--recipe", "r", "--recipe-python", "/bin/sh"]},
        "no --recipe-python",
    ),
    "an unknown argument": ({"arguments": {"nothing": 1}}, "nothing"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_one_sentence_and_exit_code_2(name, folder, capsys):
    fields, words = REFUSED[name]
    code, out, err = reproduce(capsys, changed("pruned.json", **fields))
    assert (code, out) == (2, "") and words in err and err.count("\n") == 1


def test_a_certificate_of_another_file_and_a_text_that_is_none(folder, capsys):
    code, _, err = reproduce(capsys, "pruned.json", "--file", "dense.tflite")
    assert code == 2 and "which is another one" in err
    Path("text.json").write_text("nothing")
    code, _, err = reproduce(capsys, "text.json")
    assert code == 2 and "Expected a certificate of tfprune" in err


OWN = """
from pathlib import Path

import keras

Path("it_ran").touch()


@keras.saving.register_keras_serializable()
class Twice(keras.layers.Layer):
    def call(self, x):
        return 2 * x
"""


@pytest.mark.programs
def test_own_code_runs_only_if_it_is_named_and_has_not_changed(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("own_twice.py").write_text(OWN)
    import own_twice

    model = keras.Sequential([keras.Input((8,)), own_twice.Twice(), keras.layers.Dense(3)])
    model.save("model.keras")
    np.save("x.npy", X)
    certificate = export.to_tflite(model, "model.tflite", check_on=X).certificate()
    certificate.save("own.json")
    assert certificate.code == {"own_twice": hashlib.sha256(OWN.encode()).hexdigest()}
    Path("it_ran").unlink()
    code, _, err = reproduce(capsys, "own.json")
    assert code == 2 and "no --import own_twice" in err
    assert reproduce(capsys, "own.json", "--import", "own_twice")[0] == 0
    del sys.modules["own_twice"]
    Path("own_twice.py").write_text(OWN + "\n")
    code, _, err = reproduce(capsys, "own.json", "--import", "own_twice")
    assert code == 2 and "has changed" in err and not Path("it_ran").exists()


@pytest.mark.programs
def test_the_command_line_is_the_recipe_of_a_file_that_it_wrote(folder, capsys):
    words = ["model.keras", "labeled.tflite", "--check-on", "x.npy", "--labels", "labels.txt"]
    Path("labels.txt").write_text("a\nb\nc\n")
    assert main(["export", *words, "--certificate", "labeled.json"]) == 0
    content = json.loads(Path("labeled.json").read_text())
    assert content["command"] == ["export", *words]
    names = ("model.keras", "x.npy", "labels.txt")
    assert content["inputs"] == {name: hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in names}
    capsys.readouterr()
    code, out, err = reproduce(capsys, "labeled.json")
    assert code == 0 and "EQUAL" in out, err
    Path("elsewhere").mkdir()
    Path("labels.txt").rename("elsewhere/names.txt")
    assert reproduce(capsys, "labeled.json", "--from", "elsewhere")[0] == 2  # under another name it has to be named
    assert reproduce(capsys, "labeled.json", "--from", "elsewhere/names.txt")[0] == 0


def test_a_saved_model_has_no_certificate(folder, capsys):
    words = ["prune", "model.keras", "s.keras", "--sparsity", "0.5", "--data", "x.npy", "--certificate", "s.json"]
    assert main(words) == 2
    assert "the time when it was saved" in capsys.readouterr().err


WRITERS = {
    "to_tflite": lambda model, path: export.to_tflite(model, path),
    "int8": lambda model, path: export.to_tflite(model, path, quantize="int8", calibration=X),
    "packed": lambda model, path: export.to_tflite(model, path, compress="packed"),
    "rewrite": lambda model, path: export.rewrite("dense.tflite", path, batch=1),
    "prune_tflite": lambda model, path: export.prune_tflite("dense.tflite", path, X, sparsity=0.5),
    "shrink_tflite": lambda model, path: export.shrink_tflite("dense.tflite", path, X, flops=0.8),
    "to_trainer": lambda model, path: export.to_trainer(
        model, path, trains="last", loss="sparse_categorical_crossentropy", check_on=(X, Y)
    ),
}


@pytest.mark.parametrize("name", ["rewrite", *map(in_test_ci, sorted(WRITERS.keys() - {"rewrite"}))])
def test_a_writer_makes_equal_bytes_twice(name, folder):
    model = network()
    paths = [Path(word).with_suffix(".tfz" if name == "packed" else ".tflite") for word in ("first", "second")]
    for path in paths:
        report = WRITERS[name](model, path)
        assert report.certificate().file["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.programs
@pytest.mark.parametrize("name", ["dense", "pruned"])
def test_a_new_process_with_another_hash_seed_makes_equal_bytes(name, folder):
    program = "import sys; from tfprune.export.command_line.cli import main; sys.exit(main(sys.argv[1:]))"
    for seed in ("1", "2"):
        ended = started("-c", program, "reproduce", f"{name}.json", folder=folder, PYTHONHASHSEED=seed)
        assert ended.code == 0, ended.stdout + ended.stderr


@pytest.mark.programs
def test_a_search_has_a_certificate_of_each_file(tmp_path):
    search = export.Search(trials=1, batch_size=16)
    data = (X, Y)
    report = export.compress(
        network(), data, data, max_drop=tfprune.Limit(0.3), time=600, search=search, folder=tmp_path, verbose=0
    )
    for path in report.paths:
        certificate = report.certificate(path=path)
        assert certificate.file["sha256"] == hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert certificate.arguments["search"] == {"class": "Search", "values": {"trials": 1, "batch_size": 16}}
    assert [note.partition(":")[0] for note in certificate.notes] == [
        "the search trained as many steps as fit into its time"
    ]
