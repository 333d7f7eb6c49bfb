"""compress: files are as accurate as it says, and a search that was killed finds the same ones."""

import json
import math
import subprocess
import sys
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import small_search
from pages import WIDTHS, measured_at, needs_browser
from small_search import made, search, short

from tfprune.export import Runner, compress
from tfprune.export.compressing import trial
from tfprune.export.compressing.measured_file import FileEvaluator, MeasuredFile
from tfprune.export.compressing.pareto_front import Limits
from tfprune.export.compressing.recipe import Recipe
from tfprune.export.compressing.search import Search
from tfprune.export.compressing.trial import TrialRunner
from tfprune.export.micro.micro import Micro

TRIALS = 4  # the second and third go on with the one before, and the last one trains longer


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("found")
    return search(folder, trials=TRIALS), folder


def test_files_get_right_what_the_report_says(found):
    report, folder = found
    _, _, (x, y), (test_x, test_y) = made()
    assert report.trials == TRIALS
    assert len(report.front) >= 2
    for one in report.front:
        runner = Runner(folder / one.file)
        assert np.mean(runner.predict(x).argmax(axis=1) == y) == pytest.approx(one.score)
        assert np.mean(runner.predict(test_x).argmax(axis=1) == test_y) == pytest.approx(one.test_score)
        assert one.drop == pytest.approx(report.dense.score - one.score)
        assert one.drop <= report.max_drop
        assert (folder / one.file).stat().st_size == one.bytes
    assert report.best.bytes < report.dense.bytes
    assert len({one.name for one in report.tried}) == len(report.tried)


def test_the_code_of_a_recipe_makes_the_same_file(found, tmp_path, monkeypatch):
    report, folder = found
    model, (x, y), _, _ = made()
    monkeypatch.chdir(tmp_path)
    model.save("model.keras")
    assert max(len(row.recipe.chain) for row in report.front if row.recipe) == 2
    for row in report.front:
        exec(row.code.replace("x, y = ...", "pass"), {"x": x, "y": y})
        assert Path("model.tflite").read_bytes() == (folder / row.file).read_bytes(), row.code


HALF = Recipe(0.5, 0.5, "unstructured", False, 600, 19, 1, 1e-3, 3)
PAIRS = replace(HALF, flops=1.0, pattern="2:4")
CHAINS = {
    "channels, then zeros that round": [HALF, replace(HALF, sparsity=0.8, quantize_aware=True, rounds=2)],
    "what rounds, then channels": [replace(HALF, flops=1.0, quantize_aware=True), replace(HALF, flops=0.4)],
    "two of four, then channels": [PAIRS, replace(PAIRS, flops=0.7, seed=4)],
    "channels alone": [replace(HALF, sparsity=0.0)],
}


@pytest.mark.filterwarnings("ignore:No weight of:UserWarning")
@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_the_code_of_recipes_that_go_on_makes_the_same_files(chain, tmp_path, monkeypatch):
    model, (x, y), validation, _ = made()
    evaluator = FileEvaluator(x[:100], validation, "accuracy", 1.0, "size", Micro(), None)
    runner, before, found = TrialRunner(model, (x, y), evaluator, 32), None, {}
    for recipe in chain:
        before = replace(recipe, after=before)
        found = runner.run(before, 600.0, found.get("model"))
    monkeypatch.chdir(tmp_path)
    model.save("model.keras")
    for index, one in enumerate(trial.read_trial(found).tried):
        exec(one.code.replace("x, y = ...", "pass"), {"x": x, "y": y})
        assert Path("model.tflite").read_bytes() == found[f"file_{index}"].tobytes(), one.code


def test_a_search_that_was_killed_finds_the_same(found, tmp_path):
    report, folder = found
    assert len({one.recipe.rounds for one in report.tried if one.recipe}) == 2
    child = subprocess.Popen([sys.executable, small_search.__file__, str(tmp_path), str(TRIALS), "1"])
    while child.poll() is None and not (tmp_path / "trials" / "trial-00000.npz").exists():
        time.sleep(0.01)
    time.sleep(0.3)  # in the middle of a trial
    child.kill()
    child.wait()
    search(tmp_path, trials=1)  # which was done, and whose files are not the last ones
    assert same(search(tmp_path, trials=TRIALS)) == same(report)
    assert files(tmp_path) == files(folder)


def same(report):
    """Return what does not depend on the clock."""
    rows = [{**row.as_dict(), "latency_ms": None} for row in (*report.front, *report.tried)]
    return rows, report.failed, report.trials


def files(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.tflite")}


def test_the_time_ends_a_search(tmp_path):
    began = time.monotonic()
    report = search(tmp_path, trials=None, time=4)
    assert report.trials < 40
    assert time.monotonic() - began < 60  # a busy machine; what a quiet one takes is measured in tests/bench


def test_a_trial_that_is_late_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(Search, "_expected", lambda self, recipe: 0.0)
    assert search(tmp_path, trials=None, time=4).seconds < 60
    kept = sorted(path.name for path in (tmp_path / "trials").glob("trial*"))
    assert kept == [f"trial-{number:05}.npz" for number in range(len(kept))]


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.words = [], ""

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)

    def handle_data(self, data):
        self.words += data


def test_the_page_shows_all_files_and_runs_nothing(found):
    report, folder = found
    page = Page()
    page.feed((folder / "report.html").read_text())
    assert "script" not in page.tags
    assert page.tags.count("svg") == 2
    assert page.tags.count("circle") == len(report.tried) + 2 * len(report.front)
    for one in report.front:
        assert one.file in page.words
        assert one.code in page.words
        assert f"{one.drop:+.4f}{one.test_score:.4f}" in page.words.replace("\n", "")
    assert json.loads((folder / "report.json").read_text()) == report.as_dict()


@needs_browser
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_the_page_fits_a_phone_and_a_desktop(found, tmp_path, width):
    _, folder = found
    measured = measured_at(width, (folder / "report.html").read_text(), tmp_path)
    assert measured["wide"] == []
    assert measured["needed"] <= measured["seen"]


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"max_drop": -0.1}, ValueError, "max_drop"),
        ({"time": 0}, ValueError, "time"),
        ({"trials": 0}, ValueError, "trials"),
        ({"target": "small"}, ValueError, "Expected `?target"),
        ({"metric": "exactness"}, ValueError, "Expected metrics named"),
        ({"batch_size": 0}, ValueError, "batch_size"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, changes, error, words):
    with pytest.raises(error, match=words):
        search(tmp_path, **changes)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("train", "validation", "error", "words"),
    [
        (lambda x, y: x, lambda x, y: (x, y), TypeError, "`train_data` to be a tuple"),
        (lambda x, y: (x,), lambda x, y: (x, y), TypeError, "Received: 1 parts"),
        (lambda x, y: (x, y), lambda x, y: (x[:0], y[:0]), ValueError, "samples in `validation_data`"),
        (lambda x, y: (x[:5], y), lambda x, y: (x, y), ValueError, "5 and 600 of them"),
    ],
)
def test_wrong_data_are_refused(tmp_path, train, validation, error, words):
    model, (x, y), _, _ = made()
    with pytest.raises(error, match=words):
        compress(model, train(x, y), validation(x, y), folder=tmp_path, verbose=0)
    assert not [*tmp_path.iterdir()]


def test_the_folder_of_another_search_is_refused(found):
    _, folder = found
    before = files(folder)
    with pytest.raises(ValueError, match="of the same run"):
        search(folder, max_drop=0.02)
    assert files(folder) == before


def test_a_model_that_cannot_be_loaded_is_the_begin_of_every_trial(tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "load_model", refuse)
    report = search(tmp_path, trials=TRIALS)
    assert not report.failed
    assert all(one.recipe is None or one.recipe.after is None for one in report.tried)


@pytest.mark.parametrize(("drop_left", "goes_on"), [(0.0, True), (-0.01, False)])
def test_nothing_goes_on_with_a_model_that_lost_too_much(tmp_path, monkeypatch, drop_left, goes_on):
    monkeypatch.setattr(Limits, "drop_left", lambda self, drop: drop_left)
    monkeypatch.setattr(Limits, "excess", lambda self, tried: 0.0)
    report = search(tmp_path, trials=2)
    assert any(one.recipe is not None and one.recipe.after is not None for one in report.tried) == goes_on


def searched(*made):
    """Return a search that has made files of these sizes and drops by these recipes."""
    done = [
        trial.Trial(recipe, (MeasuredFile(recipe, None, size, size, 0.9 - drop, drop),), 1.0, 1.0)
        for recipe, size, drop in made
    ]
    return Search(None, None, "bytes", Limits(0.01), 0, 1.0, done=done)


def outcomes(search, *best):
    """Return what is known of each trial, if the files of these ones are the front."""
    promised, files = search._promised(HALF), [search.done[index].tried[0] for index in best]
    return [search._outcome(one, files, promised[one.recipe]) for one in search.done]


def test_what_may_become_the_best_answer_is_smaller_and_may_lose_little_enough():
    files = [(1000, 0.0), (500, 0.005), (600, 0.02), (499, 0.02), (400, 0.3)]
    search = searched(*((replace(HALF, seed=index) if index else None, *one) for index, one in enumerate(files)))
    found = outcomes(search, 1, 0)
    assert [one.is_open for one in found] == [False, False, False, True, False]
    assert [one.is_hopeful for one in found] == [True, True, True, True, False]
    assert [one.front_gain > 0 for one in found] == [False, True, False, True, False]
    # From the first went on four, and the second is where the front ends.
    assert [one.gap_below for one in found] == pytest.approx([0.005 * math.log(2) / 5, 0.005 * math.log(2), 0, 0, 0])


def test_longer_training_makes_good_for_a_part_of_what_the_last_step_lost():
    short_step, long_step = replace(HALF, after=HALF), replace(HALF, rounds=4, after=HALF)
    on_long = replace(HALF, after=long_step)
    search = searched((None, 1000, -0.1), (HALF, 600, 0.01), (short_step, 400, 0.023), (long_step, 400, 0.012))
    search.done += searched((on_long, 300, 0.02), (replace(HALF, seed=9), 300, -0.02)).done
    found = outcomes(search, 1, 0)
    # Drops of 0.3 * 0.01, then 0.003 + 0.3 * 0.02; 0.012, which had it; 0.012 + 0.3 * 0.008.
    assert [one.drop_left for one in found] == pytest.approx([1.0, 0.7, 0.1, 0.0, 0.0, 1.0])
    assert [one.is_hopeful for one in found] == [True, True, True, False, False, True]
    sizes = [1000, 600, 400, 400 * 4**0.2, 300 * 4**0.44, 300]  # four times the size for a drop too many
    assert [one.promise for one in found] == pytest.approx([math.log(size / 1000) for size in sizes])


@pytest.mark.parametrize(
    ("seconds", "samples", "steps", "rounds"),
    [
        (60, 300, 10, 50),  # 5 seconds, as the first trial took, and not the sixtieth part; 10 batches are an epoch
        (900, 300, 10, 50),  # the sixtieth part would be 150 epochs
        (60, 64_000, 500, 1),  # a quarter of an epoch
        (900, 64_000, 1000, 1),  # half of one: 1500 steps do not go into 2000
    ],
)
def test_the_shortest_trial_trains_for_as_long_as_its_files_take(monkeypatch, seconds, samples, steps, rounds):
    monkeypatch.setattr(Search, "_pace", lambda self: 0.01)
    runner = SimpleNamespace(model=made()[0], train_data=(np.zeros((samples, 12)), None), batch_size=32)
    kept = SimpleNamespace(remember=lambda _, make: make())
    search = Search(runner, kept, "bytes", Limits(0.01), 0, seconds, done=[trial.Trial(None, (), 5.0, 0.0)])
    recipe = search._first_recipe()
    assert (recipe.steps, recipe.rounds) == (steps, rounds)


def refuse(path):
    raise ValueError(f"Expected a model that can be loaded. Received: {path}.")


def test_a_model_without_channels_to_remove_gets_zeros(tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((12,)), keras.layers.Dense(2, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    _, train, validation, _ = made()
    with short():
        report = compress(model, train, validation, folder=tmp_path, max_drop=1, trials=1, verbose=0)
    assert all(one.recipe is None or one.recipe.flops == 1 for one in report.tried)
    assert not report.failed
