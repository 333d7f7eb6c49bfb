"""The study: its grid, its results on disk, what it computes from them, its data, and each part run for seconds."""

from __future__ import annotations

import json
import math
import random
import re
import subprocess
import threading
from collections import Counter
from pathlib import Path

import keras
import numpy as np
import pytest
from once import filled_once
from programs import forked, printed_by

import tfprune
from sample_apps.study import digits as digits_study
from sample_apps.study import grid, language, report, results, runner, summary, training, translation

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "sample_apps" / "study" / "results"


def study(*arguments, expect=0, **environment):
    """Run the study's command line; return what it printed."""
    ended = forked("-m", "sample_apps.study", *arguments, folder=ROOT, **environment)
    assert ended.code == expect, ended.stderr[-2000:]
    return ended.stderr if expect else ended.stdout


def whole(name, seeds=1):
    return grid.expand(name, grid.read_config(name), seeds=seeds, smoke=False)


# The grid.


def test_a_grid_holds_what_the_configuration_says():
    runs = whole("image", seeds=2)
    widths = [f"width {width}" for width in (0.25, 0.26, 0.34, 0.5, 0.51, 0.75, 1.0)]
    expected = [(width, 0.0) for width in widths] + [("width 1.0", sparsity) for sparsity in (0.5, 0.75, 0.9, 0.95)]
    expected += [("inception", sparsity) for sparsity in (0.0, 0.5, 0.75, 0.875)]
    assert [(run["size"], run["sparsity"], run["seed"]) for run in runs] == [
        (*pair, seed) for seed in (0, 1) for pair in expected
    ]


@pytest.mark.parametrize("name", grid.STUDIES)
def test_dense_and_sparse_models_of_a_size_train_alike(name):
    alike = {}
    for run in whole(name):
        if not run["series"].startswith("window"):  # where the learning rate is what is compared
            alike.setdefault(run["size"], []).append((run["model"], run["training"]))
    assert all(all(other == first for other in others) for first, *others in alike.values())


@pytest.mark.parametrize("name", grid.STUDIES)
def test_settings_are_told_apart_and_survive_json(name):
    runs = whole(name, seeds=2)
    lines = [json.dumps(run, sort_keys=True) for run in runs]
    assert len(set(lines)) == len(lines)
    assert [json.loads(line) for line in lines] == runs


# Results on disk.


def test_results_are_appended_and_found_again(tmp_path):
    path = tmp_path / "folder" / "digits.jsonl"
    first, second = whole("digits")[:2]
    assert results.read(path) == []
    results.append(path, {**first, "quality": 97.5})
    results.append(path, {**second, "quality": 96.0})
    lines = results.read(path)
    assert [line["quality"] for line in lines] == [97.5, 96.0]
    assert results.of(lines, second)["quality"] == 96.0
    assert results.of(lines, {**second, "seed": 1}) is None
    assert results.of(lines, {**second, "replicas": 2}) is None
    assert results.of([{**second, "replicas": 2}], second) is None


def test_half_a_line_is_not_read_and_makes_room(tmp_path):
    path = tmp_path / "digits.jsonl"
    results.append(path, {"quality": 1})
    with path.open("ab") as file:
        file.write(b'{"quality": 2, "nn')
    assert results.read(path) == [{"quality": 1}]
    results.append(path, {"quality": 3})
    assert results.read(path) == [{"quality": 1}, {"quality": 3}]


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "digits.jsonl"
    path.write_bytes(b'{"quality": 1}\n<<<<<<< ours\n{"quality": 2}\n')
    with pytest.raises(ValueError, match=re.escape(f"line 2 of {path}")):
        results.read(path)


# What is computed from them.

CONFIG = {
    "metric": "perplexity",
    "better": "lower",
    "training": {},
    "pruning": {"allocation": "uniform"},
    "sizes": {"small": {}, "medium": {}, "large": {}},
    "runs": [
        {"series": "dense", "size": ["small", "medium", "large"]},
        {"series": "sparse", "size": "large", "sparsity": [0.8, 0.95], "against": ["dense", "other"]},
        {"series": "other", "size": "large", "sparsity": [0.8], "pruning": {"allocation": "erk"}},
    ],
}
FOUND = {  # quality for each of two seeds, and non-zeros
    ("dense", "small", 0.0): ((110, 114), 50),
    ("dense", "medium", 0.0): ((100, 100), 300),
    ("dense", "large", 0.0): ((90, 92), 1000),
    ("sparse", "large", 0.8): ((91, 93), 200),
    ("sparse", "large", 0.95): ((109, 111), 50),
    ("other", "large", 0.8): ((90, 90), 200),
}


def lines_of(groups):
    lines = []
    for settings in grid.expand("made up", CONFIG, seeds=2, smoke=False):
        qualities, nnz = groups[settings["series"], settings["size"], settings["sparsity"]]
        sizes = {"dense": 4 * 1000, "packed": 5 * nnz}
        measured = {
            "quality": qualities[settings["seed"]],
            "nnz": nnz,
            "bytes": sizes,
            "seconds": 2 + settings["seed"],
            **({"lost": 10 + settings["seed"]} if settings["size"] == "small" else {}),
        }
        lines.append({**settings, **measured, "warnings": ["low"] if nnz == 50 else [], "machine": "one core"})
    return lines


def test_seeds_are_put_together():
    groups = summary.groups("made up", CONFIG, lines_of(FOUND)[::-1], smoke=False)
    assert [(group.series, group.size, group.sparsity) for group in groups] == list(FOUND)
    small = groups[0]
    assert small.qualities == {0: 110, 1: 114}
    assert small.mean == 112
    assert small.deviation == pytest.approx(math.sqrt(8))  # (2^2 + 2^2) / (2 - 1)
    assert (small.nnz, small.bytes["packed"], small.seconds, small.warned) == (50, 250, 2.5, 2)


def test_lines_of_another_configuration_are_left_out():
    lines = lines_of(FOUND)
    lines[0]["training"] = {"epochs": 1}
    groups = summary.groups("made up", CONFIG, lines, smoke=False)
    assert groups[0].qualities == {1: 114}
    assert math.isnan(groups[0].deviation)


def test_a_sparse_model_is_compared_with_the_next_larger_dense_one_and_with_its_like():
    groups = summary.groups("made up", CONFIG, lines_of(FOUND), smoke=False)
    compared = summary.comparisons(CONFIG, groups)
    assert [
        (comparison.of.sparsity, comparison.against.series, comparison.against.size) for comparison in compared
    ] == [
        (0.8, "dense", "medium"),  # 300 non-zeros, where the sparse one has 200
        (0.95, "dense", "small"),  # exactly as many
        (0.8, "other", "large"),
    ]
    assert [comparison.gain for comparison in compared] == [8, 2, -2]  # the perplexity is lower by so much
    # Of gains seed by seed: 9 and 7, 1 and 3, -1 and -3.
    assert [comparison.deviation for comparison in compared] == pytest.approx([math.sqrt(2)] * 3)
    assert [comparison.verdict for comparison in compared] == ["better", "better", "worse"]


def test_seeds_that_only_one_of_two_has_are_not_compared():
    groups = summary.groups("made up", CONFIG, lines_of(FOUND), smoke=False)
    medium, sparse = groups[1], groups[3]
    sparse.qualities[2] = 0
    assert summary.compare(sparse, medium, "lower").gain == 8
    medium.qualities.clear()
    assert summary.compare(sparse, medium, "lower") is None


def test_a_difference_within_the_deviation_is_a_tie():
    groups = summary.groups("made up", CONFIG, lines_of(FOUND), smoke=False)
    small, sparse = groups[0], groups[4]
    small.qualities.update({0: 108, 1: 114})  # gains of -1 and 3
    assert summary.compare(sparse, small, "lower").verdict == "tie"


def test_one_seed_decides_nothing():
    groups = summary.groups("made up", CONFIG, lines_of(FOUND)[:6], smoke=False)
    assert {comparison.verdict for comparison in summary.comparisons(CONFIG, groups)} == {"one seed"}


def test_the_report_has_every_group_and_comparison(tmp_path, monkeypatch):
    path = tmp_path / "made up.jsonl"
    for line in lines_of(FOUND):
        results.append(path, line)
    monkeypatch.setattr(grid, "read_config", lambda study: CONFIG)
    table, figure = report.write("made up", path, smoke=False)
    text = table.read_text(encoding="utf-8")
    assert "| dense | small | - | 112.00 ± 2.83 | 2 | 50 | 4.0 | 0.2 | 2 | 2 of 2 | 10.5 % |" in text
    assert "| sparse | 80.0% | 200 | dense, medium | 300 | +8.00 ± 1.41 | better |" in text
    assert len(re.findall("^\\|", text, re.MULTILINE)) == 2 + 6 + 2 + 3
    first = figure.read_bytes()
    assert first.startswith(b"\x89PNG")
    report.write("made up", path, smoke=False)
    assert figure.read_bytes() == first


@pytest.mark.parametrize("name", [path.stem for path in sorted(FOLDER.glob("*.jsonl"))])
def test_committed_tables_are_those_of_the_committed_results(name, tmp_path):
    committed = FOLDER / f"{name}.jsonl"
    path = tmp_path / committed.name
    path.write_bytes(committed.read_bytes())
    table, _ = report.write(name, path, smoke=False)
    text = table.read_text(encoding="utf-8")
    assert text == committed.with_suffix(".md").read_text(encoding="utf-8")
    document = (ROOT / "docs" / "gallery" / "study.md").read_text(encoding="utf-8")
    assert all(part.strip() in document for part in text.split("\n\n"))


# The data.


def test_the_bible_is_split_into_books_and_words(monkeypatch):
    text = (
        "$$$Ruth 1:0\n<title>A heading</title>\n"
        "$$$Ruth 1:1\nIn the <w lemma='x'>days</w>,<note>a note</note> Naomi’s son.\n"
        "$$$I John 2:3\nHe went.\n"
    )
    monkeypatch.setattr(language.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, text))
    assert language.bible() == {
        "Ruth": ["in", "the", "days", ",", "naomi’s", "son", "."],
        "I John": ["he", "went", "."],
    }


def test_words_to_predict_are_the_next_words():
    words = [f"word{number}" for number in range(80)]
    numbers = {word: place for place, word in enumerate(words, start=1) if place != 40}
    x, y = language.windows(words, numbers)
    expected = [place if place != 40 else 0 for place in range(1, 81)]
    assert x.shape == y.shape == (2, language.WINDOW)
    assert x.ravel().tolist() == expected[:70]
    assert y.ravel().tolist() == expected[1:71]


@pytest.fixture
def installed(request):
    """Load the data of a part; skip where its Debian packages are missing."""
    try:
        return request.param.load(seed=0, smoke=False)
    except FileNotFoundError as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize("installed", [language], indirect=True)
def test_the_bible_has_the_size_that_the_page_tells(installed):
    assert installed.words - 1 == 7811
    held_out = installed.test_y.size / (installed.test_y.size + installed.y.size)
    assert round(1 / held_out) == 14
    frequencies = Counter(installed.y.ravel().tolist())
    logarithms = [math.log((1 + frequencies[word]) / (installed.y.size + 7812)) for word in installed.test_y.ravel()]
    assert round(math.exp(-np.mean(logarithms)), -1) == 350


@pytest.mark.parametrize("installed", [translation], indirect=True)
def test_the_dictionary_has_the_size_that_the_page_tells(installed):
    entries = translation.dictionary()
    assert sum(map(len, entries)) == 21704
    train, _ = translation.split(entries)
    assert round(1 / (1 - len(installed.y) / len(train))) == 6
    assert installed.pieces.vocab_size() == 2000


@pytest.mark.slow
def test_missing_data_are_told_with_the_command_that_gets_them(monkeypatch, tmp_path):
    message = study("run", "language", "--jobs", 2, "--output", tmp_path, expect=1, PATH=str(tmp_path))
    assert "apt-get install sword-text-web libsword-utils" in message
    assert "Traceback" not in message
    monkeypatch.setattr(translation, "DICTIONARY", tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match="apt-get install trans-de-en"):
        translation.dictionary()


def test_words_of_the_test_books_alone_are_unknown(monkeypatch):
    books = {name: ["known", "new"] * 50 for name in language.TEST_BOOKS} | {
        "Ruth": ["known", "rare"] * 2 + ["known"] * 96
    }
    monkeypatch.setattr(language, "made_up", lambda: books)
    data = language.load(seed=0, smoke=True)
    assert data.words == 2  # the unknown one, and "known", which is seen three times
    assert set(data.test_x[:, ::2].ravel()) | set(data.test_x[:, 1::2].ravel()) == {0, 1}
    assert data.test_x.mean() == pytest.approx(0.5, abs=0.02)
    assert data.x.mean() > 0.9


def test_the_perplexity_is_that_of_the_test_books():
    data = language.load(seed=0, smoke=True)
    model = language.build(data, width=4, dropout=0.5)
    logits = model.predict(data.test_x, verbose=0).astype("float64")
    right = np.take_along_axis(logits, data.test_y[..., np.newaxis], axis=-1)[..., 0]
    losses = np.log(np.exp(logits).sum(axis=-1)) - right
    assert language.score(model, data) == pytest.approx(np.exp(losses.mean()), rel=1e-5)


def test_before_training_each_word_is_as_likely_as_it_is_frequent():
    data = language.load(seed=0, smoke=True)
    model = language.build(data, width=4, dropout=0.5)
    model.get_layer("softmax").kernel.assign(np.zeros((4, data.words)))
    likely = np.exp(model.predict(data.x[:1], verbose=0)[0, 0])
    counts = Counter(data.y.ravel().tolist())
    assert likely.sum() == pytest.approx(1, abs=1e-5)
    assert likely[5] / likely[7] == pytest.approx((counts[5] + 1) / (counts[7] + 1), rel=1e-4)


def test_whole_sentences_are_taken_out_of_the_dictionary(monkeypatch, tmp_path):
    path = tmp_path / "de-en"
    path.write_text(
        "# a comment\n"
        "Anfang {m} [geh.] | Das ist (erst) der Anfang.; Es beginnt. | am Anfang"
        " :: beginning | This is the start. | at first\n"
        "Haus {n} :: house\n"
        "Ja. | Er geht jetzt heim. :: Yes. | He goes home now. | too many\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(translation, "DICTIONARY", path)
    assert translation.dictionary() == [[("Das ist der Anfang.", "This is the start.")]]


def test_no_held_out_sentence_is_trained_on():
    entries = [[(f"Das ist {n}.", f"This is {n}."), (f"Es war {n}.", f"It was {n}.")] for n in range(40)]
    entries[20].append(("Das ist 1.", "This is one."))
    train, test = translation.split(entries)
    assert len(train) == 2 * 38
    assert test == entries[0] + entries[20][:2]


def test_translations_end_at_the_first_end():
    class Parrot:
        """Says what it was given, a place later, and then END."""

        def predict(self, inputs, **_):
            german, _ = inputs
            logits = np.zeros((*german.shape, 10), "float32")
            np.put_along_axis(logits, np.where(german == 0, translation.END, german)[..., np.newaxis], 1, axis=-1)
            return logits

    german = translation.padded([[5, 6, 7], [9]])
    assert [line.tolist() for line in translation.translate(Parrot(), german)] == [[5, 6, 7], [9]]


def test_pieces_are_learned_from_the_sentences_to_train_on(monkeypatch):
    train, test = translation.split(translation.made_up())
    learn, seen = translation.learn_pieces, []
    monkeypatch.setattr(translation, "learn_pieces", lambda pairs, size: seen.extend(pairs) or learn(pairs, size))
    data = translation.load(seed=0, smoke=True)
    assert seen == train
    assert set(data.references) <= {english for _, english in test}


def test_right_translations_have_the_full_score():
    data = translation.load(seed=0, smoke=True)
    answers = {
        tuple(german): [*data.pieces.encode(english), translation.END]
        for german, english in zip(data.test_x.tolist(), data.references, strict=True)
    }

    class Translator:
        """Knows the references."""

        def predict(self, inputs, **_):
            logits = np.zeros((*inputs[0].shape, data.pieces.vocab_size()), "float32")
            for row, german in zip(logits, inputs[0].tolist(), strict=True):
                for place, piece in enumerate(answers[tuple(german)]):
                    row[place, piece] = 1
            return logits

    assert translation.score(Translator(), data) == pytest.approx(100)


# Trainings.


def test_the_callback_prunes_as_the_configuration_says():
    once = training.callback(0.9, schedule="one-shot", begin=600, end=600, every=20, allocation="erk")
    assert (once.schedule.begin, once.schedule.end, once.schedule.target) == (600, 600, 0.9)
    assert once.allocation == "erk"
    turns = training.callback(
        0.8, schedule="gradual", begin=0.1, end=0.7, every=5, allocation=["one", "two", "three"]
    )
    assert list(turns.allocation) == ["one", "two", "three"]
    bounds = [(turn.begin, turn.end) for turn in turns.allocation.values()]
    assert np.allclose(bounds, [(0.1, 0.3), (0.3, 0.5), (0.5, 0.7)])
    assert {turn.final for turn in turns.allocation.values()} == {0.8}


def test_rigl_sees_another_batch_in_each_update():
    data = digits_study.load(seed=0, smoke=True)
    fresh = training.batch_of(data, size=64, seed=3)
    first, second = (next(iter(fresh))[0].numpy() for _ in range(2))
    assert first.shape == second.shape == (64, 64) and (first != second).any()
    settings = {"begin": 0, "end": 690, "every": 20, "allocation": "erk", "seed": 3}
    callback = training.callback(0.9, schedule="RigL", data=fresh, **settings)
    assert (callback.schedule.begin, callback.schedule.target, callback.every) == (0, 0.9, 20)
    assert callback.grow == tfprune.Grow("gradient", end=690, seed=3) and callback.data is fresh


def test_a_learning_rate_that_drops_once():
    optimizer = training.optimizer(920, name="sgd", rate=0.1, momentum=0.9, decay={"at": 600, "to": 0.001})
    assert [float(optimizer._learning_rate(step)) for step in (0, 600, 601)] == pytest.approx([0.1, 0.1, 0.001])
    assert optimizer.momentum == 0.9


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Run the shortest part of the study once; return its settings, its results, and the folder that holds them."""

    def run(folder):
        assert "3/3" in study("run", "digits", "--smoke", "--jobs", 1, "--output", folder)

    folder = filled_once(tmp_path_factory, "study-digits", run)
    settings = grid.expand("digits", grid.read_config("digits"), seeds=1, smoke=True)
    return settings, results.read(folder / "digits.jsonl"), folder


@pytest.mark.slow
def test_a_training_is_measured(digits):
    _, (dense, sparse, late), _ = digits
    assert dense["entries"] == dense["nnz"] == 64 * 256 + 256 * 128 + 128 * 10
    assert sparse["nnz"] == sum(size - round(0.9 * size) for size in (64 * 256, 256 * 128, 128 * 10))
    assert dense["bytes"]["dense"] == 4 * dense["entries"]
    assert sparse["bytes"]["bit mask"] == 4 * sparse["nnz"] + dense["entries"] // 8
    assert sparse["bytes"]["packed"] < sparse["bytes"]["dense"] / 5
    assert late["nnz"] < sparse["nnz"]
    assert dense["warnings"] == sparse["warnings"] == []
    assert 70 < dense["quality"] <= 100


def test_words_without_an_embedding_are_counted():
    embedding = keras.layers.Embedding(4, 3)
    model = keras.Sequential([keras.Input((2,), dtype="int32"), embedding, keras.layers.Dense(2)])
    assert training.lost(model) == 0
    embedding.embeddings.assign([[0, 0, 0], [0, 0.1, 0], [0, 0, 0], [1, 1, 1]])
    assert training.lost(model) == 50
    assert training.lost(keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])) is None


def test_warnings_of_a_training_are_kept():
    late = grid.expand("digits", grid.read_config("digits"), seeds=1, smoke=True)[2]
    late["training"]["optimizer"]["decay"] = {"at": 5, "to": 0.001}
    _, told = training.fit(digits_study, digits_study.load(seed=0, smoke=True), late)
    assert len(told) == 1
    assert "the learning rate is 0.001, less than a tenth of its peak" in told[0]


@pytest.mark.slow
def test_results_are_gone_on_from_only_when_asked(digits):
    _, _, folder = digits
    message = study("run", "digits", "--smoke", "--output", folder, expect=1)
    assert "Received: 3 in" in message
    assert "--resume" in message
    assert "0 trainings to do, 3 done before" in study("run", "digits", "--smoke", "--resume", "--output", folder)


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "package"), [("processes", "keras"), ("dask", "distributed"), ("ray", "ray")])
def test_every_backend_gives_the_same_numbers(digits, backend, package, tmp_path):
    pytest.importorskip(package, reason=f"needs `pip install {package}`")
    settings, expected, _ = digits
    path = tmp_path / "digits.jsonl"
    results.append(path, expected[0])  # done before: two are left
    arguments = ["--resume", "--jobs", 2, "--backend", backend, "--output", tmp_path]
    assert "2 trainings to do, 1 done before" in study("run", "digits", "--smoke", *arguments)
    lines = results.read(path)
    assert len(lines) == 3
    for row, reference in zip(settings, expected, strict=True):
        assert {**results.of(lines, row), "seconds": 0} == {**reference, "seconds": 0}


@pytest.mark.slow
def test_a_thread_that_draws_random_numbers_changes_no_training(digits):
    settings, (_, expected, _), _ = digits
    ended = threading.Event()

    def draw():  # as a worker of Dask does
        while not ended.wait(0.001):
            random.random()

    drawing = threading.Thread(target=draw)
    drawing.start()
    try:
        line = runner.train_apart(settings[1])
    finally:
        ended.set()
        drawing.join()
    assert {**line, "seconds": 0} == {**expected, "seconds": 0}


def test_a_training_apart_that_fails_says_why(monkeypatch):
    monkeypatch.setattr(runner, "TRAIN", "import sample_apps.study.nothing")
    with pytest.raises(RuntimeError, match="No module named 'sample_apps.study.nothing'"):
        runner.train_apart({})


SHARED = """
import sys
import tensorflow as tf
from sample_apps.study import __main__, training
fit = training.fit
def counted(*arguments):
    print("replicas:", tf.distribute.get_strategy().num_replicas_in_sync)
    return fit(*arguments)
training.fit = counted
__main__.main()
"""


@pytest.mark.slow
def test_the_digits_run_on_replicas_that_share_each_training(digits, tmp_path):
    program = tmp_path / "shared.py"
    program.write_text(SHARED, encoding="utf-8")
    options = ["--smoke", "--jobs", 1, "--replicas", 2, "--output", tmp_path]
    printed = printed_by(program, "run", "digits", *options, folder=ROOT, PYTHONPATH=str(ROOT))
    lines = results.read(tmp_path / "digits.jsonl")
    assert len(lines) == len(grid.expand("digits", grid.read_config("digits"), seeds=1, smoke=True))
    assert printed.count("replicas: 2") == len(lines)
    for line, reference in zip(lines, digits[1], strict=True):
        assert line["nnz"] == reference["nnz"]
        assert line["quality"] == pytest.approx(reference["quality"], abs=2)  # sums are added up in another order


@pytest.mark.slow
@pytest.mark.parametrize(("name", "replicas"), [("image", 1), ("language", 2), ("translation", 1)])
def test_each_part_runs_on_made_up_data(name, replicas, tmp_path):
    printed = study("run", name, "--smoke", "--jobs", 1, "--replicas", replicas, "--output", tmp_path)
    count = len(grid.expand(name, grid.read_config(name), seeds=1, smoke=True))
    assert f"{count}/{count}" in printed
    assert "made-up data" in printed
    dense, *_, sparse = sorted(results.read(tmp_path / f"{name}.jsonl"), key=lambda row: row["sparsity"])
    assert dense["nnz"] == dense["entries"]
    assert all(row["bytes"]["dense"] == 4 * row["entries"] for row in (dense, sparse))
    assert sparse["nnz"] < sparse["entries"]
    assert (name == "image") == (sparse["lost"] is None)
    if name == "image":  # the first convolution and the depthwise ones stay whole
        assert (sparse["entries"], sparse["nnz"]) == (266_880, 136_320)
    assert all(math.isfinite(row["quality"]) for row in (dense, sparse))
    if replicas == 1:  # what ran on more is not compared with what did not
        assert "Written" in study("report", name, "--smoke", "--output", tmp_path)


@pytest.mark.programs
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "digits", "--jobs", "0"], "expected an integer of at least 1, received '0'"),
        (["run", "digits", "--address", "tcp://host:1"], "Expected --backend dask or ray with --address"),
        (["report"], "Expected results in --output"),
    ],
)
def test_mistakes_are_told(arguments, message, tmp_path):
    ended = forked("-m", "sample_apps.study", *arguments, "--output", tmp_path, folder=ROOT)
    assert ended.code != 0
    assert message in ended.stderr
