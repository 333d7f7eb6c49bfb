"""The command line, run as a user runs it; most of it in this process."""

import argparse
import contextlib
import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from file_graphs import FileGraph
from tiers import in_test_ci

import tfprune
from tfprune.base.spec import ArgumentError, ArgumentWarning, warn_user
from tfprune.export.command_line.cli import main
from tfprune.export.command_line.options import printed
from tfprune.export.device.runner import Runner
from tfprune.export.file.container import encode, read_model
from tfprune.export.file.document import load_objects, save_objects
from tfprune.export.file.inspect import inspect
from tfprune.export.keras_side import loading
from tfprune.export.keras_side.loading import load_keras


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
    arguments = ["export", f"{folder}/model.keras", f"{folder}/model.tflite.gz", "--compress", "gzip"]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main([*arguments, "--check-on", f"{folder}/samples.npy", "--json"]) == 0
    (folder / "export.json").write_text(printed.getvalue())
    return folder


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.mark.programs
def test_as_a_program_export_prints_json_only_and_writes_the_same_file(folder, tmp_path):
    options = ["--compress", "gzip", "--check-on", f"{folder}/samples.npy", "--json"]
    command = [
        sys.executable,
        "-m",
        "tfprune.export.command_line.cli",
        "export",
        f"{folder}/model.keras",
        "new.tflite.gz",
    ]
    done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["bytes"] == (tmp_path / "new.tflite.gz").stat().st_size
    assert (tmp_path / "new.tflite.gz").read_bytes() == (folder / "model.tflite.gz").read_bytes()


@pytest.mark.parametrize(
    ("installed", "named", "backend"),
    [
        (("jax",), None, "jax"),
        (("jax",), "torch", "torch"),
        (("jax", "torch"), None, None),
        (("jax", "tensorflow"), None, None),
    ],
)
def test_keras_runs_on_jax_where_it_is_the_only_backend(installed, named, backend, monkeypatch):
    environment = {"KERAS_BACKEND": named} if named else {}
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: name if name in installed else None)
    loading.choose_backend()
    assert environment.get("KERAS_BACKEND") == backend


@pytest.mark.parametrize(("level", "seen"), [("3", ""), (None, ""), ("0", "oneDNN is on")])
def test_messages_of_the_start_are_hidden_unless_a_user_asks_for_them(level, seen, monkeypatch, capfd):
    if level is None:
        monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    else:
        monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", level)
    monkeypatch.setattr(keras.ops, "zeros", lambda count: os.write(2, b"oneDNN is on"))
    load_keras()
    assert capfd.readouterr().err == seen


def test_export_writes_the_stripped_model_and_prints_json_only(folder):
    report = json.loads((folder / "export.json").read_text())
    assert report["sparsity"] == pytest.approx(0.75)
    assert report["bytes"] == (folder / "model.tflite.gz").stat().st_size
    samples = np.load(folder / "samples.npy")
    plain = tfprune.strip(keras.saving.load_model(folder / "model.keras"))
    expected = plain.predict(samples, verbose=0)
    assert Runner(folder / "model.tflite.gz").predict(samples) == pytest.approx(expected, abs=1e-5)


def test_export_writes_a_model_card_beside_the_file(folder, capsys, tmp_path):
    (tmp_path / "small.tflite").write_bytes(read_model(folder / "model.tflite.gz"))
    arguments = ["export", tmp_path / "small.tflite", tmp_path / "smaller.tflite", "--optimize", "dense", "--card"]
    code, out, _ = run(capsys, *arguments)
    card = (tmp_path / "smaller.tflite.md").read_text(encoding="utf-8")
    assert code == 0 and "# smaller.tflite\n" in card and "| base model | small.tflite |" in card
    size = (tmp_path / "smaller.tflite").stat().st_size
    assert f"| bytes | {size:,} |" in card


def test_export_fixes_the_batch_and_knows_the_web(folder, capsys, tmp_path):
    (tmp_path / "small.tflite").write_bytes(read_model(folder / "model.tflite.gz"))
    for name, option in (("fixed.tflite", ("--batch", "2")), ("web.tflite", ("--target", "web"))):
        code, _, err = run(capsys, "export", tmp_path / "small.tflite", tmp_path / name, *option)
        assert code == 0, err
    assert [Runner(tmp_path / name).inputs[0].shape[0] for name in ("fixed.tflite", "web.tflite")] == [2, 1]
    arguments = ["export", tmp_path / "small.tflite", tmp_path / "no.tflite"]
    for options, message in (
        (("--target", "web", "--optimize", "dense"), "--optimize size or 'latency' with --target web"),
        (("--target", "web", "--arena", "5000"), "Expected --target micro with --arena. Received: --target web."),
        (("--batch", "0"), "Expected --batch to be an integer"),
    ):
        code, _, err = run(capsys, *arguments, *options)
        assert (code, message in err) == (2, True), err


def test_export_writes_labels_and_normalization(folder, capsys, tmp_path):
    (tmp_path / "small.tflite").write_bytes(read_model(folder / "model.tflite.gz"))
    arguments = ["export", tmp_path / "small.tflite", tmp_path / "named.tfz", "--compress", "packed"]
    (tmp_path / "labels.txt").write_text("cat\ndog\nélan\n", encoding="utf-8")
    named = [*arguments, "--labels", tmp_path / "labels.txt"]
    code, out, err = run(capsys, *named, "--mean", "1", "--std", "2", "--json")
    assert code == 0, err
    report, inspected = json.loads(out), inspect(tmp_path / "named.tfz")
    assert report["path"] == str(tmp_path / "named.tfz")
    assert (report["bytes"], report["tflite_bytes"]) == (inspected.file_bytes, inspected.unpacked_bytes)
    assert [*inspected.labels.values()] == [("cat", "dog", "élan")]
    assert [*inspected.normalization.values()] == [((1.0,), (2.0,))]
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "labels.txt").write_bytes(before["labels.txt"][:8])
    for options, message in (
        (named, "Expected --labels to name the 3 entries"),
        ([*arguments, "--mean", "1"], "Expected both --mean and --std"),
        ([*arguments, "--mean", "1", "--std", "0"], "Expected --std to be a number above 0"),
        ([*arguments[:2], tmp_path / "x.bin", *arguments[3:], "--mean", "1", "--std", "2"], "whose suffix"),
        ([*arguments, "--labels", tmp_path / "small.tflite"], "UTF-8 with --labels"),
        ([*arguments, "--labels", tmp_path / "none.txt"], "UTF-8 with --labels"),
    ):
        code, _, err = run(capsys, *options)
        assert (code, message in err) == (2, True), err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before | {"labels.txt": b"cat\ndog\n"}


def test_export_refuses_a_file_that_is_not_what_the_labels_say(folder, capsys):
    samples = np.load(folder / "samples.npy")
    model = keras.saving.load_model(folder / "model.keras")
    labels = model.predict(samples, verbose=0).argmax(axis=1)
    labels[:4] = (labels[:4] + 1) % 3
    np.save(folder / "labels.npy", labels)
    paths = [folder / "model.keras", folder / "labelled.tflite"]
    code, out, _ = run(
        capsys, "export", *paths, "--evaluate-on", f"{folder}/samples.npy,{folder}/labels.npy", "--json"
    )
    assert (code, json.loads(out)["lost"][0]["file"]) == (0, 0.9)
    code, _, error = run(capsys, "export", *paths, "--evaluate-on", folder / "samples.npy")
    assert code == 2
    assert "Expected --evaluate-on X,Y" in error


def test_inspect_counts_the_zeros(folder, capsys):
    code, out, _ = run(capsys, "inspect", folder / "model.tflite.gz", "--json")
    report = json.loads(out)
    assert code == 0
    assert (report["nnz"], report["size"]) == (90, 360)
    assert "FULLY_CONNECTED" in run(capsys, "inspect", folder / "model.tflite.gz")[1]


def test_names_of_a_file_cannot_steer_the_terminal(folder, capsys, tmp_path):
    model = load_objects(read_model(folder / "model.tflite.gz"))
    for tensor in model.subgraphs[0].tensors:
        tensor.name = "\x1b[2J\x07red\u202e\n\r".encode() + tensor.name
    model.signatureDefs = None
    (tmp_path / "file").write_bytes(save_objects(model))
    for command in (["inspect"], ["verify", "--samples", folder / "wide.npy"], ["micro", "--c-array", "class.cc"]):
        name, *more = command
        code, out, err = run(capsys, name, tmp_path / "file", *more)
        assert "red" in out + err or name == "micro"
        assert all(line.isprintable() for line in (out + err).split("\n"))
    assert r"\x1b[2J\x07red\u202e\n\r" in run(capsys, "inspect", tmp_path / "file")[1]


def test_verify_without_samples_runs_the_file(folder, capsys):
    code, out, _ = run(capsys, "verify", folder / "model.tflite.gz", "--json")
    assert code == 0
    assert json.loads(out)["passed"]
    assert "nothing: it runs" in run(capsys, "verify", folder / "model.tflite.gz")[1]


def test_verify_against_the_keras_model(folder, capsys):
    arguments = ["verify", folder / "model.tflite.gz", "--against", folder / "model.keras"]
    code, out, _ = run(capsys, *arguments, "--samples", folder / "samples.npy", "--json")
    assert code == 0
    assert json.loads(out)["max_abs_diff"] < 1e-5


def test_verify_against_another_file_with_and_without_samples(folder, capsys, tmp_path):
    path = folder / "model.tflite.gz"
    assert run(capsys, "verify", path, "--against", path, "--samples", folder / "samples.npy")[0] == 0
    graph = FileGraph(0, shape=(1, 5))
    (tmp_path / "a.tflite").write_bytes(graph.content(graph.dense(graph.input, 3)))
    graph = FileGraph(1, shape=(1, 5))
    (tmp_path / "b.tflite").write_bytes(graph.content(graph.dense(graph.input, 3)))
    code, out, _ = run(capsys, "verify", tmp_path / "a.tflite", "--against", tmp_path / "b.tflite", "--json")
    samples = np.random.default_rng(0).random((4, 5), np.float32)  # what is drawn, the same each time
    assert (code, run(capsys, "verify", tmp_path / "a.tflite", "--against", tmp_path / "a.tflite")[0]) == (1, 0)
    first, second = (Runner(tmp_path / f"{name}.tflite").predict(samples) for name in "ab")
    assert json.loads(out)["max_abs_diff"] == pytest.approx(np.abs(first - second).max(), rel=1e-5)


@pytest.mark.parametrize("name", ["nowhere.keras", "samples.npy"])
def test_what_cannot_be_compared_with_is_refused_before_keras_is_imported(name, folder, capsys, monkeypatch):
    monkeypatch.setattr(loading, "load_keras", None)
    arguments = [
        "verify",
        folder / "model.tflite.gz",
        "--against",
        folder / name,
        "--samples",
        folder / "samples.npy",
    ]
    code, _, err = run(capsys, *arguments)
    assert code == 2 and name in err


def test_verify_against_another_model_fails_with_code_1(folder, capsys, tmp_path):
    keras.utils.set_random_seed(1)
    keras.Sequential([keras.Input((6,)), keras.layers.Dense(40), keras.layers.Dense(3)]).save(
        tmp_path / "other.keras"
    )
    arguments = ["verify", folder / "model.tflite.gz", "--against", tmp_path / "other.keras"]
    code, out, _ = run(capsys, *arguments, "--samples", folder / "samples.npy")
    assert code == 1
    assert "differ" in out


def test_bench_measures(folder, capsys):
    code, out, _ = run(capsys, "bench", folder / "model.tflite.gz", "--runs", 5, "--json")
    assert code == 0
    assert json.loads(out)["median_ms"] > 0


def test_bench_measures_two_files(folder, capsys):
    file = folder / "model.tflite.gz"
    code, out, _ = run(capsys, "bench", file, "--against", file, "--runs", 5)
    assert code == 0
    assert "against" in out
    assert out.rstrip().endswith("times as fast.")
    code, out, _ = run(capsys, "bench", file, "--against", file, "--runs", 5, "--json")
    assert {name: report["file_bytes"] for name, report in json.loads(out).items()} == dict.fromkeys(
        ("against", "model"), file.stat().st_size
    )


def test_help_names_the_file_that_is_written_without_a_path(capsys):
    for command, suffix in (("prune", ".pruned.tflite"), ("shrink", ".small.tflite")):
        assert f"SOURCE with the suffix {suffix}" in " ".join(ask(capsys, command, "--help").split())


def ask(capsys, *arguments):
    """Return what a call prints that ends the program well, as --help does; nothing may go to stderr."""
    with pytest.raises(SystemExit) as stopped:
        main([*arguments])
    printed = capsys.readouterr()
    assert (stopped.value.code, printed.err) == (0, "")
    return printed.out


COMMANDS = [
    "demo",
    "compress",
    "prune",
    "shrink",
    "export",
    "inspect",
    "verify",
    "compare",
    "check",
    "bench",
    "train",
    "generate",
    "micro",
    "web",
    "reproduce",
    "completion",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_argument(command, capsys):
    out = ask(capsys, command, "--help")
    assert "--json" in out
    assert "%%" not in out


def test_help_lists_every_command(capsys):
    out = ask(capsys, "--help")
    assert [line.split()[0] for line in out.splitlines() if re.match(r" {4}\w", line)][-len(COMMANDS) :] == COMMANDS
    assert "90 %," in out
    assert len(out.splitlines()) < 60, "one sentence each, which fits a screen with the exit codes"


def test_a_warning_is_one_line_in_the_words_of_the_options(capsys, monkeypatch):
    def search(options):
        warn_user(ArgumentWarning("time", "time for 3 recipes or more", "60, and more", advice="Pass time=90."))
        return "done"

    monkeypatch.setattr("tfprune.export.command_line.commands._compress", search)
    code, out, err = run(capsys, "compress", "model.keras", "--train", "x.npy,y.npy")
    assert (code, out) == (0, "done\n")
    expected = "Expected time for 3 recipes or more. Received: --minutes 1, and more. Pass --minutes 1.5."
    assert err == f"tfprune: warning: {expected}\n"


def test_npus_are_listed_in_one_place_and_named_whole_in_errors(capsys):
    out = ask(capsys, "compress", "--help")
    assert "[--target TARGET]" in out
    assert "ethos-u65-256/512" in " ".join(out.split())
    with pytest.raises(SystemExit):
        main(["compress", "model.keras", "--train", "x.npy", "--target", "ethos-u55-12"])
    message = capsys.readouterr().err
    assert "one of micro, ethos-u55-32, ethos-u55-64" in message
    assert "Did you mean ethos-u55-128?" in message


def test_version_is_the_one_that_is_installed(capsys):
    assert ask(capsys, "--version") == f"tfprune {tfprune.__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_and_version_load_neither_keras_nor_tensorflow(arguments):
    command = [sys.executable, "-X", "importtime", "-m", "tfprune.export.command_line.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "argparse" in loaded, "the modules are listed"
    assert loaded.isdisjoint({"keras", "tensorflow"})


def test_without_a_command_the_help_is_printed(capsys):
    code, out, err = run(capsys)
    assert (code, out) == (2, "")
    assert err == ask(capsys, "--help")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["inspect", "nowhere.tflite"], ["nowhere.tflite"]),
        (["inspect", "{samples}"], ["samples.npy", "TFLite"]),
        (["export", "nowhere.keras", "x.tflite"], ["nowhere.keras", "does not exist"]),
        (["export", "{samples}", "x.tflite"], ["samples.npy", "Keras"]),
        (["export", "{keras}", "{folder}/missing/x.tflite"], ["missing"]),
        (["export", "{keras}", "x.tflite", "--quantize", "int8"], ["--calibration FILE"]),
        (["verify", "{file}", "--against", "{keras}"], ["--samples"]),
        (
            ["verify", "{file}", "--against", "{keras}", "--samples", "{wide}"],
            ["(samples, 6)", "--samples", "(2, 9)"],
        ),
        (["verify", "{file}", "--samples", "nowhere.npy"], ["nowhere.npy"]),
        (["bench", "{file}", "--runs", "0"], ["Expected --runs to be", "Received: --runs 0."]),
        (["export", "{keras}", "x.tfz"], ["Expected --compress packed with", "Received: no --compress,"]),
        (["export", "{keras}", "x.tflite", "--compress", "xz"], ["Expected no --compress", "end in .xz"]),
        (["export", "{keras}", "x.tflite", "--levels", "3"], ["with --levels, which", "--levels 3, no --quantize"]),
        (
            ["export", "{keras}", "x.tflite", "--recipe", "a", "--quantize", "dynamic"],
            ["no --quantize with --recipe"],
        ),
        (["export", "{keras}", "x.tflite", "--recipe-python", "a"], ["Expected --recipe with --recipe-python"]),
        (["export", "{keras}", "x.tflite", "--recipe", "nowhere.json"], ["in JSON with --recipe", "nowhere.json"]),
        (["export", "{keras}", "x.tflite", "--recipe", "a/b"], ["Expected the name of a recipe", "--recipe a/b"]),
        (["export", "{file}", "x.tflite", "--recipe", "a"], ["Expected a saved Keras model with --recipe"]),
        (
            ["export", "{keras}", "x.tflite", "--check-on", "x.npy,y.npy"],
            ["inputs only", "'x.npy,y.npy'. Pass x.npy."],
        ),
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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pune", "a.keras"], "one of demo, .* Received: pune. Did you mean prune?"),
        (["prune", "a.keras", "b.keras", "--sparsty", "0.5"], "Received: --sparsty. Did you mean --sparsity?"),
        (
            ["prune", "a.tflite", "b", "--sparsity", "60%"],
            "--sparsity to be a number. Received: 60%. Did you mean 0.6?",
        ),
        (["prune", "a.tflite", "b", "--seed", "1.5"], "Expected --seed to be a whole number. Received: 1.5."),
        (["export", "a.keras", "b", "--quantize", "int9"], "--quantize to be one of .* int9. Did you mean int8?"),
        (["inspect", "a.tflite", "--zzz=1"], "one of the options above. Received: --zzz.$"),
    ],
)
def test_a_misspelled_word_is_answered_with_the_right_one(arguments, words, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert re.search(words.replace("?", r"\?"), capsys.readouterr().err)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("A loss. Pass max_drop=0.02 or `tolerance`.", "A loss. Pass --max-drop 0.02 or --tolerance."),
        (
            "Pass max_drop=tfprune.Limit(max_relative_drop=0.05, metric='mae').",
            "Pass --max-relative-drop 0.05 --metric mae.",
        ),
        ("Pass max_drop=tfprune.Limit(0.1, metric='mae').", "Pass --max-drop 0.1 --metric mae."),
        ("Export it with to_tflite(tolerance=1).", "Export it with to_tflite(tolerance=1)."),
        ("Received: 'a/tolerance=3.npy' (tolerance=None).", "Received: 'a/tolerance=3.npy' (no --tolerance)."),
        (ArgumentError("data", "pairs in `data`", "1"), "Expected pairs in --train. Received: --train 1."),
    ],
)
def test_errors_and_warnings_name_the_options_that_were_typed(message, text):
    names = ("max_drop", "max_relative_drop", "metric", "tolerance", "train")
    options = argparse.Namespace(**dict.fromkeys(names), arguments={"data": "--train"})
    for form in (message, ValueError(message)) if isinstance(message, str) else (message,):
        assert printed(form, options) == text


@pytest.mark.parametrize("method", ["gzip", "xz", "packed"])
def test_a_compressed_file_is_written_anew(method, folder, capsys, tmp_path):
    plain = read_model(folder / "model.tflite.gz")
    (tmp_path / "model").write_bytes(encode(plain, method))
    code, _, err = run(capsys, "export", tmp_path / "model", tmp_path / "new.tflite", "--optimize", "dense")
    assert code == 0, err
    assert (tmp_path / "new.tflite").read_bytes() == plain


@pytest.fixture(scope="module")
def broken(folder, tmp_path_factory):
    """A folder of files that are damaged, cut short or of another kind."""
    path = tmp_path_factory.mktemp("broken")
    plain = keras.Sequential([keras.Input((6,)), keras.layers.Dense(40), keras.layers.Dense(3)])
    plain.save(path / "whole.h5")
    _write_samples(path)
    for name, cut in [("whole.h5", 3000), ("whole.npz", 40)]:
        (path / f"cut{Path(name).suffix}").write_bytes((path / name).read_bytes()[:-cut])
    whole = bytearray((folder / "model.keras").read_bytes())
    (path / "cut.keras").write_bytes(whole[:-100])
    whole[len(whole) // 2] ^= 255
    (path / "flipped.keras").write_bytes(whole)
    (path / "text.keras").write_text("a text")
    (path / "empty.keras").touch()
    (path / "folder.keras").mkdir()
    with zipfile.ZipFile(folder / "model.keras") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    _zip(path / "nothing.keras", {"x": b"y"})
    _zip(path / "weights.keras", parts | {"model.weights.h5": parts["model.weights.h5"][:500]})
    _zip(path / "json.keras", parts | {"config.json": b'{"a": 1'})
    _zip(path / "list.keras", parts | {"config.json": b"[1, 2]"})
    config = parts["config.json"].replace(b'"units": 40', b'"units": 1000000000')
    _zip(path / "units.keras", parts | {"config.json": config})
    config = parts["config.json"].replace(
        b'"kernel_constraint": null', b'"kernel_constraint": [' + b"0, " * 2000 + b"0]"
    )
    _zip(path / "constraint.keras", parts | {"config.json": config})
    doubled = keras.Sequential([keras.Input((6,)), keras.layers.Lambda(lambda x: x * 2), keras.layers.Dense(3)])
    doubled.save(path / "lambda.keras")
    doubled.save(path / "lambda.h5")
    return path


def _write_samples(path):
    samples = np.random.default_rng(0).random((40, 6), dtype=np.float32)
    np.savez(path / "whole.npz", samples=samples)
    flipped = bytearray((path / "whole.npz").read_bytes())
    flipped[300] ^= 255
    (path / "flipped.npz").write_bytes(flipped)
    np.save(path / "one.npy", np.float32(3))
    np.savez(path / "one.npz", samples=samples, temperature=np.float32(3))
    np.savez(path / "objects.npz", samples=np.array([{}], dtype=object))
    with (path / "huge.npy").open("wb") as stream:
        header = {"descr": "<f4", "fortran_order": False, "shape": (10**15,)}
        np.lib.format.write_array_header_1_0(stream, header)
    np.save(path / "open.npy", samples)
    (path / "open.npy").write_bytes((path / "open.npy").read_bytes().replace(b"}", b" ", 1))  # its header has no end


def _zip(path, parts):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


MODELS = {
    "cut.keras": "cut short",
    "text.keras": "not an archive",
    "empty.keras": "empty",
    "flipped.keras": "CRC",
    "nothing.keras": "config.json",
    "weights.keras": "truncated",
    "json.keras": "delimiter",
    "list.keras": "list indices",
    "units.keras": "more memory than a file of its size explains" if sys.platform == "linux" else "",
    "cut.h5": "truncated",
    "folder.keras": "a folder",
    "lambda.keras": "safe_mode",
    "lambda.h5": "safe_mode",
}
SAMPLES = {
    "cut.npz": "zip file",
    "flipped.npz": "CRC",
    "huge.npy": "promises more than it holds",
    "open.npy": "EOF",
    "one.npy": "its array is a single value",
    "one.npz": "temperature is a single value",
    "objects.npz": "Python objects",
    "cut.h5": "as neither of them does",
    "cut.keras": "zip file",
    "folder.keras": "a folder",
}


def check_refusal(capsys, file, words, *arguments):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert len(err.strip().splitlines()) == 1, err
    assert err.startswith("tfprune: Expected a"), err
    assert f"Received: {str(file)!r}: " in err, err
    assert all(word in err for word in words), err


@pytest.mark.parametrize("name", [in_test_ci(name) if name == "units.keras" else name for name in MODELS])
def test_a_model_that_cannot_be_loaded_is_named(name, broken, capsys, tmp_path):
    file = broken / name
    check_refusal(capsys, file, (MODELS[name], "to_tflite"), "export", file, tmp_path / "x.tflite")
    assert list(tmp_path.iterdir()) == []


def test_what_keras_says_of_a_large_configuration_is_cut_short(broken, capsys, tmp_path):
    code, out, err = run(capsys, "export", broken / "constraint.keras", tmp_path / "x.tflite")
    assert (code, out) == (2, "")
    assert "constraint identifier: [0, 0," in err, err
    assert len(err) < 2000


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_that_cannot_be_read_are_named(name, broken, folder, capsys, tmp_path):
    file, model, target = broken / name, folder / "model.keras", tmp_path / "x.tflite"
    check_refusal(capsys, file, (SAMPLES[name],), "verify", folder / "model.tflite.gz", "--samples", file)
    check_refusal(capsys, file, ("numpy.save",), "export", model, target, "--check-on", file)
    check_refusal(capsys, file, ("numpy.save",), "export", model, target, "--quantize", "int8", "--calibration", file)
    assert list(tmp_path.iterdir()) == []


def test_what_is_read_is_not_written(folder, broken, capsys, tmp_path):
    for name in ("model.tflite.gz", "model.keras", "samples.npy"):
        shutil.copy(folder / name, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    file, model, samples = before
    (tmp_path / "link").symlink_to(file)
    for arguments in (
        ["inspect", file, "--html", file],
        ["inspect", file, "--html", tmp_path / "link"],
        ["export", model, model],
        ["export", model, samples, "--check-on", samples],
        ["export", file, samples, "--check-on", samples],
        ["export", model, samples, "--quantize", "int8", "--calibration", samples],
    ):
        code, _, err = run(capsys, *arguments)
        assert code == 2
        assert "Expected a path to write that is not read as well" in err
    assert {path: path.read_bytes() for path in before} == before
    assert run(capsys, "export", file, file, "--compress", "gzip")[0] == 0, (
        "a .tflite file is written anew in its place"
    )


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="children are looked for in /proc")
def test_an_export_that_is_killed_leaves_the_old_file_and_nothing_else(folder, tmp_path):
    """SIGTERM to one process and SIGKILL to another, while the converter works in its own."""
    for end in (signal.SIGTERM, signal.SIGKILL):
        export = _export_in(tmp_path / end.name, folder)
        temporary = tmp_path / end.name / "temporary"
        _wait_until(lambda: _children(temporary))  # noqa: B023 (called at once)
        export.send_signal(end)
        assert export.wait(60) == {signal.SIGTERM: 143, signal.SIGKILL: -9}[end]
        _wait_until(lambda: not _children(temporary))  # noqa: B023
        assert list(temporary.glob("*tfprune*")) == []  # TensorFlow leaves some of its own
        assert (tmp_path / end.name / "model.tflite").read_bytes() == b"old"
        assert [path.name for path in (tmp_path / end.name).iterdir() if path != temporary] == ["model.tflite"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="children are looked for in /proc")
@pytest.mark.parametrize("wait", [0, 0.4, 1.0])
def test_a_program_that_is_ended_while_it_exports_leaves_nothing_for_long(wait, folder, tmp_path, monkeypatch):
    code = f"""
import keras
from tfprune.export import to_tflite
to_tflite(keras.saving.load_model({str(folder / "model.keras")!r}), "model.tflite", verbose=0)"""
    for end in (signal.SIGTERM, signal.SIGKILL):
        temporary = tmp_path / end.name / "temporary"
        temporary.mkdir(parents=True)
        monkeypatch.setenv("TMPDIR", str(temporary))
        program = subprocess.Popen([sys.executable, "-c", code], cwd=temporary.parent)
        _wait_until(lambda: list(temporary.glob("tfprune-*")))  # noqa: B023 (called at once)
        time.sleep(wait)
        program.send_signal(end)
        assert program.wait(60) == -end
        _wait_until(lambda: not _children(temporary))  # noqa: B023
        if end == signal.SIGKILL:  # the next process does it
            time.sleep(1.5)
            start = "from tfprune.base.folders import TemporaryFolder; TemporaryFolder().cleanup()"
            subprocess.run([sys.executable, "-c", start], check=True)
        assert list(temporary.glob("*tfprune*")) == []
        assert list(temporary.parent.iterdir()) == [temporary]


def _export_in(place, folder):
    (place / "temporary").mkdir(parents=True)
    (place / "model.tflite").write_bytes(b"old")
    command = [
        sys.executable,
        "-m",
        "tfprune.export.command_line.cli",
        "export",
        str(folder / "model.keras"),
        "model.tflite",
    ]
    return subprocess.Popen(command, cwd=place, env=os.environ | {"TMPDIR": str(place / "temporary")})


def _children(temporary):
    """Return the processes whose output goes into a folder there; one that has ended has none."""
    numbers = []
    for path in Path("/proc").glob("[0-9]*/fd/1"):
        try:
            output = str(path.readlink())
        except OSError:  # it has ended
            continue
        if output.startswith(f"{temporary}/tfprune-"):
            numbers.append(path.parts[2])
    return numbers


def _wait_until(happened):
    end = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_reader_that_has_enough_is_no_error(folder):
    program = f"{sys.executable} -m tfprune.export.command_line.cli inspect {folder / 'model.tflite.gz'}"
    done = subprocess.run(
        ["sh", "-c", f"({program}; echo code $? >&2) | true"], capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == "code 0"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_report_that_cannot_be_printed_is_an_error(folder):
    program = f"{sys.executable} -m tfprune.export.command_line.cli inspect {folder / 'model.tflite.gz'}"
    done = subprocess.run(["sh", "-c", f"{program} > /dev/full"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "tfprune: Cannot print the report: No space left on device. Free some space, or print it elsewhere."
    ]


def test_ctrl_c_prints_one_line(folder, capsys, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("tfprune.export.file.inspect.inspect", stop)
    code, out, err = run(capsys, "inspect", folder / "model.tflite.gz")
    assert (code, out, err) == (130, "", "tfprune: stopped\n")


def test_an_error_of_the_system_is_one_line_that_names_the_file(folder, capsys, monkeypatch):
    def fill(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "trials/x.npz")

    monkeypatch.setattr("tfprune.export.file.inspect.inspect", fill)
    code, out, err = run(capsys, "inspect", folder / "model.tflite.gz")
    assert (code, out, err) == (2, "", "tfprune: 'trials/x.npz': No space left on device.\n")


def test_a_missing_package_says_what_to_install(capsys, monkeypatch, folder):
    monkeypatch.setitem(sys.modules, "tfprune.export.command_line.demo", None)
    code, _, err = run(capsys, "demo", "--output", folder / "demo")
    assert code == 2
    assert "tfprune[demo]" in err
