"""The number formats of a search: what may be asked for, what trials make, and what the policy makes of it."""

import os
from dataclasses import replace

import keras
import numpy as np
import pytest
from small_search import evaluator, made
from stub_trials import StubRunner

import tfprune.export.compressing.policy as searching
from tfprune.base.folders import RunFolder
from tfprune.export import EdgeQuantizer, Search, compress
from tfprune.export.compressing.evaluate import FileEvaluator, TrialRunner
from tfprune.export.compressing.policy import Goal, SearchLoop
from tfprune.export.compressing.trials import Recipe, read_trial
from tfprune.export.file.reader import read

HALF = Recipe(0.5, 0.5, "unstructured", False, 600, 19, 1, 1e-3, 3)


@pytest.mark.parametrize(
    ("formats", "error", "words"),
    [
        ("int8", TypeError, "`formats` to be a list of names. Received: formats='int8'"),
        ([], ValueError, "to name some formats, each once"),
        (["int8", "int8"], ValueError, "to name some formats, each once"),
        (["float32", "int9"], ValueError, "Received: formats='int9'. Did you mean 'int8'?"),
        ([EdgeQuantizer("a"), EdgeQuantizer("a", python="b")], ValueError, "to name some formats, each once"),
        ([8], TypeError, "or an EdgeQuantizer"),
        (["int8", "mixed"], ValueError, "Expected 'float32' and 'int8' in `formats` with 'mixed'"),
    ],
)
def test_formats_that_cannot_be_are_refused(formats, error, words):
    with pytest.raises(error, match=words):
        Search(formats=formats)


def test_formats_come_in_one_order_and_not_for_microcontrollers(tmp_path):
    assert Search(formats=["int4", "mixed", "int8", "float32"]).formats == ("float32", "int8", "int4", "mixed")
    recipe = EdgeQuantizer("dynamic_wi4_afp32")
    assert Search(formats=[recipe, "int8", "float32"]).formats == ("float32", "int8", recipe)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    data = np.zeros((4, 3), "float32"), np.zeros(4, int)
    with pytest.raises(ValueError, match="Expected no `formats` and no recipe for a microcontroller"):
        compress(model, data, data, target="micro", folder=tmp_path, search=Search(formats=["float32"]))


def test_recipes_are_exported_in_these_formats():
    formats = ("float32", "float16", "int8", "mixed")
    wanted = FileEvaluator(None, (None, None), None, 0.9, "size", number_formats=formats)
    assert wanted.formats(HALF) == (None, "float16", "int8")
    assert wanted.formats(replace(HALF, quantize_aware=True)) == ("int8",)
    recipe = EdgeQuantizer("dynamic_wi4_afp32")
    assert replace(wanted, number_formats=("float32", recipe)).formats(HALF) == (None, recipe)


@pytest.mark.parametrize(
    ("formats", "is_trained"), [((None,), False), (("float16", "int4"), False), (("float16", "int8"), True)]
)
def test_training_becomes_quantization_aware_only_for_int8(formats, is_trained, tmp_path, monkeypatch):
    runner = replace(StubRunner(), formats=formats)
    monkeypatch.setattr(searching, "time", runner.clock)
    kept = RunFolder(tmp_path, settings={}, arrays=[])
    kept.remember("steps", lambda: {"steps": np.array(40)})
    trials = list(SearchLoop(runner, kept, Goal("bytes", 0.005), 0, 1e6, max_trials=12).run())
    assert {file.quantize for trial in trials for file in trial.tried} == {*formats}
    assert any(trial.recipe.quantize_aware for trial in trials[1:]) == is_trained


@pytest.mark.programs
def test_a_mixed_file_is_made_where_int8_loses_more_and_its_program_makes_it(tmp_path, monkeypatch):
    model, data, _, _ = made()
    formats = ("float32", "float16", "int8", "mixed")
    judged = replace(evaluator(), number_formats=formats, mixed_from=-1.0)
    arrays = TrialRunner(model, data, judged, 32).run(None, 100.0)
    trial = read_trial(arrays)
    assert [file.quantize for file in trial.tried] == [None, *formats[1:]]
    mixed, content = trial.tried[-1], arrays["file_3"].tobytes()
    kinds = {tensor.dtype for tensor in read(content).weights}
    assert kinds == {"float32", "int8"} and mixed.name == "dense_mixed"
    assert trial.tried[2].bytes <= mixed.bytes <= 1.2 * trial.tried[2].bytes
    monkeypatch.chdir(tmp_path)
    model.save("model.keras")
    exec(mixed.code.replace("x, y = ...", "pass"), {"x": data[0]})
    assert (tmp_path / "model.tflite").read_bytes() == content
    easy = replace(judged, mixed_from=1.0)
    assert easy.operators_in_float([(file, arrays[f"file_{index}"]) for index, file in enumerate(trial.tried)]) == []


@pytest.mark.programs
@pytest.mark.skipif("EDGE_QUANTIZER_PYTHON" not in os.environ, reason="EDGE_QUANTIZER_PYTHON names no Python")
def test_a_file_is_made_by_a_recipe_and_its_program_makes_it(tmp_path, monkeypatch):
    model, data, _, _ = made()
    recipe = EdgeQuantizer("dynamic_wi4_afp32", python=os.environ["EDGE_QUANTIZER_PYTHON"])
    arrays = TrialRunner(model, data, replace(evaluator(), number_formats=("float32", recipe)), 32).run(None, 100.0)
    dense, file = read_trial(arrays).tried
    content = arrays["file_1"].tobytes()
    assert file.name == "dense_dynamic_wi4_afp32" and file.bytes < dense.bytes
    assert {tensor.dtype for tensor in read(content).weights} == {"int4"}
    monkeypatch.chdir(tmp_path)
    model.save("model.keras")
    exec(file.code.replace("x, y = ...", "pass"), {"x": data[0]})
    assert (tmp_path / "model.tflite").read_bytes() == content
