"""Trials that truly train: the program of a recipe makes the same files, and trials end in time."""

import json
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from small_search import made, runner

from tfprune import Distillation
from tfprune.export.compressing import evaluate
from tfprune.export.compressing.evaluate import FileEvaluator, LateError, TrialRunner, _loaded
from tfprune.export.compressing.trials import Recipe, read_trial, recipe_code, training_recipe

HALF = Recipe(0.5, 0.5, "unstructured", False, 600, 19, 1, 1e-3, 3)
PAIRS = replace(HALF, flops=1.0, pattern="2:4")
CHAINS = {
    "channels alone, then channels and zeros that round": [
        replace(HALF, sparsity=0.0),
        replace(HALF, flops=0.4, sparsity=0.8, quantize_aware=True, rounds=2),
    ],
    "channels alone, that round": [
        replace(HALF, sparsity=0.0),
        replace(HALF, flops=0.4, sparsity=0.0, quantize_aware=True),
    ],
    "two of four that round, then channels": [
        replace(PAIRS, quantize_aware=True),
        replace(PAIRS, flops=0.7, seed=4),
    ],
    "with the original model as teacher": [
        replace(HALF, flops=1.0, teacher_weight=0.5, temperature=3.0),
        replace(HALF, teacher_weight=0.5, temperature=3.0, quantize_aware=True),
    ],
}


class NoFiles(FileEvaluator):
    """Measures nothing, for trials of which only the model counts."""

    def formats(self, recipe):
        return ()


@pytest.mark.slow
@pytest.mark.filterwarnings("error:No weight of:UserWarning")
@pytest.mark.parametrize("name", CHAINS)
def test_the_program_of_recipes_that_go_on_makes_the_same_files(name, tmp_path, monkeypatch):
    first, second = CHAINS[name][0], replace(CHAINS[name][1], after=CHAINS[name][0])
    begun = runner(kind=NoFiles).run(first, 600.0)
    arrays = runner().run(second, 600.0, begun["model"])
    model, (x, y), _, _ = made()
    monkeypatch.chdir(tmp_path)
    model.save("model.keras")
    assert read_trial(arrays).tried
    for index, file in enumerate(read_trial(arrays).tried):
        exec(file.code.replace("x, y = ...", "pass"), {"x": x, "y": y})
        assert Path("model.tflite").read_bytes() == arrays[f"file_{index}"].tobytes(), file.code


def test_zeros_go_on_from_those_of_the_recipe_before():
    second = replace(HALF, sparsity=0.8, after=HALF)
    assert (HALF.initial, second.initial) == (0.0, 0.5)
    code = recipe_code(second, "", batch_size=32)
    assert "Polynomial(0.5, end=" in code and "Polynomial(0.8, initial=0.5, end=" in code


@pytest.mark.programs
def test_a_teacher_alone_makes_labels_of_no_account():
    model, (x, y), *_ = made()
    models = {}
    for weight, labels in [(1.0, y), (1.0, 1 - y), (0.0, y)]:
        recipe = replace(HALF, teacher_weight=weight, temperature=2.0)
        arrays = replace(runner(kind=NoFiles), train_data=(x, labels)).run(recipe, 60.0)
        assert read_trial(arrays).name == ("flops50_zeros50_taught_19steps" if weight else "flops50_zeros50_19steps")
        models[weight, labels[0]] = arrays["model"]
    taught, otherwise, alone = ([weight.numpy() for weight in _loaded(each).weights] for each in models.values())
    assert all(np.array_equal(*pair) for pair in zip(taught, otherwise, strict=True))
    assert not all(np.array_equal(*pair) for pair in zip(taught, alone, strict=True))


def test_a_teacher_is_a_part_of_the_shortest_recipe():
    how = Distillation(temperature=4, weight=0.25)
    recipe = training_recipe(19, samples=600, batch_size=32, distillation=how)
    assert recipe.distillation == how
    assert Recipe.read(recipe.as_dict()) == recipe
    assert training_recipe(19, samples=600, batch_size=32).distillation is None


def test_a_trial_is_stored_under_the_names_of_earlier_versions():
    arrays = runner(kind=NoFiles).run(None, 1.0)
    fields = json.loads(str(arrays["trial"]))
    names = {"recipe", "tried", "seconds", "training", "reason", "ended", "is_kept"}
    assert fields.keys() == names
    assert (fields["recipe"], fields["tried"], fields["training"], fields["reason"]) == (None, [], 0.0, "")


def earlier(recipe):
    """Return the fields of a recipe as they were before a model could teach or lose blocks."""
    added = ("teacher_weight", "temperature", "dropped", "depth")
    return {name: value for name, value in recipe.as_dict().items() if name not in added}


EARLIER = {
    "recipe": {**earlier(HALF), "after": earlier(PAIRS)},
    "tried": [
        {
            "recipe": {**earlier(HALF), "after": earlier(PAIRS)},
            "quantize": "int8",
            "bytes": 10,
            "packed_bytes": 9,
            "score": 0.9,
            "drop": 0.1,
            "latency_ms": None,
            "arena_bytes": None,
            "code": "",
            "file": "",
            "test_score": None,
        }
    ],
    "seconds": 3.0,
    "training": 2.0,
    "reason": "",
    "ended": 0.0,
    "is_kept": False,
}


def test_a_trial_of_an_earlier_version_is_read():
    recipe = {"flops", "sparsity", "pattern", "quantize_aware", "samples", "steps", "rounds", "learning_rate", "seed"}
    assert EARLIER["recipe"].keys() == recipe | {"after"}
    content = np.zeros(1, np.uint8)
    stored = {"trial": np.array(json.dumps(EARLIER)), "ended": np.array(7.0), "model": content, "file_0": content}
    trial = read_trial(stored)
    assert trial.recipe == trial.tried[0].recipe == replace(HALF, after=PAIRS)
    assert (trial.seconds, trial.training, trial.ended, trial.is_kept) == (3.0, 2.0, 7.0, True)
    assert (trial.tried[0].bytes, trial.tried[0].drop) == (10, 0.1)


def test_a_trial_without_time_is_given_up():
    with pytest.raises(LateError):
        runner().run(HALF, 0.0)


def test_a_recipe_that_cannot_be_met_makes_no_file_and_says_why():
    arrays = runner().run(replace(HALF, flops=0.0001), 60.0)
    trial = read_trial(arrays)
    assert (trial.tried, trial.is_kept) == ((), False)
    assert trial.reason.startswith("Expected")


def test_a_model_that_cannot_be_exported_is_an_error():
    class Refusing(FileEvaluator):
        def measure(self, model, recipe, *, quantize, batch_size):
            raise ValueError("Expected a model that can be exported. Received: none.")

    with pytest.raises(ValueError, match="can be exported"):
        runner(kind=Refusing).run(None, 60.0)


def refuse(path):
    raise ValueError(f"Expected a model that can be loaded. Received: {path}.")


def test_a_model_that_cannot_be_loaded_is_not_kept(monkeypatch):
    monkeypatch.setattr(TrialRunner, "apply_recipe", lambda self, *_: self.model)
    assert "model" in runner(kind=NoFiles).run(HALF, 60.0)
    monkeypatch.setattr(evaluate, "load_model", refuse)
    assert "model" not in runner(kind=NoFiles).run(HALF, 60.0)


def test_a_model_without_channels_to_remove_gets_zeros():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((12,)), keras.layers.Dense(2, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    linear = runner(model, kind=NoFiles)
    assert not linear.can_shrink
    assert runner().can_shrink
    trial = read_trial(linear.run(replace(HALF, flops=1.0), 60.0))
    assert not trial.reason


@pytest.mark.programs
def test_a_step_is_timed_and_settings_are_read():
    small = runner()
    assert 0 < small.seconds_per_step(600.0) < 5
    assert (small.samples, small.learning_rate) == (600, pytest.approx(0.001))
