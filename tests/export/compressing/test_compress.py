"""compress, on made-up trials: its arguments, files, report, page and errors, and a search that was killed."""

import errno
import html
import json
import os
import re
import subprocess
import sys
import time
import zlib
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import stub_trials
from refusals import REFUSAL, refusals, refused
from stub_trials import DATA, SCORE, TRIALS, StubRunner, content_of, small_model, stub_search, stubbed
from terminal import terminal

import tfprune.export.compressing.compress as compressing
from tfprune import Distillation, Limit
from tfprune.export import Micro, Remote, Search, compress
from tfprune.export.compressing import evaluate

MAE = Limit(0.1, metric="mae", mode="min")


def test_the_report_lists_what_was_measured_and_the_folder_has_the_best_files(found):
    report, folder = found
    assert (report.trials, len(report.tried)) == (TRIALS, len({file.name for file in report.tried}))
    assert (report.dense, report.baseline) == (report.tried[0], SCORE)
    within = [file for file in report.tried if file.drop <= report.max_drop]
    assert 2 <= len(report.front) < len(within)
    for file in report.front:
        assert not any(other.bytes <= file.bytes and other.drop < file.drop for other in within)
        assert (folder / file.file).read_bytes() == content_of(file.recipe, file.quantize).tobytes()
        assert file.test_score == pytest.approx(file.score - 0.01)
        assert file.latency_ms > 0, "files of the front are timed at the end"
    assert [file.bytes for file in report.front] == sorted(file.bytes for file in report.front)
    assert report.best.bytes < report.dense.bytes
    assert all((file.latency_ms is None) == (file not in report.front) for file in report.tried)
    assert set(report.front) <= {*report.tried}, "the same numbers in both lists"
    assert {path.name for path in folder.glob("*.tflite")} == {file.file for file in report.front}
    assert str(report.best.file).removesuffix(".tflite") in str(report)


def test_report_json_has_the_numbers_of_the_table(found):
    report, folder = found
    rows = json.loads((folder / "report.json").read_text())["front"]
    assert len(rows) == len(report.front)
    for row in rows:
        numbers = [row[name] for name in ("bytes", "packed_bytes", "latency_ms", "score", "drop", "test_score")]
        assert all(isinstance(number, (int, float)) for number in numbers)


def test_a_search_whose_disk_was_full_goes_on(found, tmp_path, monkeypatch):
    def full(stream, **arrays):
        if "trial" in arrays and "trial-00003" in "".join(str(path) for path in tmp_path.glob("trials/*")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        savez(stream, **arrays)

    savez = np.savez
    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        with pytest.raises(ValueError, match=r"Cannot write '.*trial-00004\.npz': No space left on device"):
            stub_search(tmp_path, trials=TRIALS)
    assert not [*tmp_path.glob("*.tflite")] and not [*tmp_path.glob("trials/.tfprune-*")]
    assert stub_search(tmp_path, trials=TRIALS).front == found[0].front


def test_with_a_limit_of_each_class_no_file_is_listed_that_breaks_it(found, tmp_path):
    """Made-up files lose twenty times as much of a rare class as on average."""
    report = stub_search(tmp_path, max_drop=Limit(0.01, max_drop_per_class=0.1), trials=TRIALS)
    assert report.front and all(file.worst_group.drop <= 0.1 for file in report.front)
    assert report.refused and all(file.drop <= 0.01 and file.worst_group.drop > 0.1 for file in report.refused)
    assert min(file.bytes for file in report.refused) < report.best.bytes
    assert {file.name for file in found[0].front if 20 * file.drop > 0.1}  # listed where only the average is limited
    shown = (tmp_path / "report.html").read_text()
    assert "What the average alone would have allowed" in shown and report.refused[0].name in shown
    assert report.refused[0].name in str(report) and "largest drop of each class" in report.card()
    assert json.loads((tmp_path / "report.json").read_text())["limits"] == {"max_drop_per_class": 0.1}
    assert stub_search(tmp_path, max_drop=Limit(0.01, max_drop_per_class=0.1), trials=TRIALS).front == report.front
    assert "would have allowed" not in (found[1] / "report.html").read_text()


def test_what_measures_files_gets_the_settings(tmp_path):
    runner, board = StubRunner(), Remote("pi@nowhere")
    stub_search(
        tmp_path, runner=runner, trials=1, max_drop=Limit(0.01, metric="accuracy"), on=board, batch_size=8, seed=5
    )
    evaluator = runner.evaluator
    assert np.array_equal(evaluator.calibration, DATA[0][:100])
    assert all(np.array_equal(part, whole) for part, whole in zip(evaluator.validation, DATA, strict=True))
    assert all(np.array_equal(part, whole) for part, whole in zip(runner.train_data, DATA, strict=True))
    assert (evaluator.metric.name, evaluator.baseline, evaluator.optimize) == ("accuracy", SCORE, "size")
    assert (evaluator.micro, evaluator.on, runner.batch_size) == (None, board, 8)
    assert runner.ran[1].seed == 5


def test_data_may_be_referred_to(tmp_path, found):
    np.savez(tmp_path / "data.npz", x=DATA[0], y=DATA[1])
    with stubbed() as runner:
        changes = {"folder": tmp_path / "there", "test_data": lambda: DATA, "search": Search(trials=TRIALS)}
        path = tmp_path / "data.npz"
        report = compress(small_model(), path, path, time=1e6, verbose=0, **changes)
    assert (report.front, report.tried) == (found[0].front, found[0].tried)
    assert runner.evaluator.reference.settings() == {"argument": "validation_data", "file": str(path)}
    with pytest.raises(ValueError, match="Expected `validation_data` to be an .npz file with the arrays x and y"):
        compress(small_model(), DATA, tmp_path / "none.npz", folder=tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


def test_several_boards_compare_each_file_with_the_dense_one(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "convert", lambda model: b"dense")
    runner, boards = StubRunner(), [Remote("pi@one"), Remote("pi@two")]
    stub_search(tmp_path, runner=runner, trials=1, on=boards)
    assert (runner.evaluator.on._devices, runner.evaluator.on._dense_file) == (boards, b"dense")
    with pytest.raises(ValueError, match="different devices in `on`"):
        stub_search(tmp_path, on=[boards[0], boards[0]])


def test_the_fastest_files_are_timed_once(tmp_path):
    report = stub_search(tmp_path, optimize="latency", max_drop=0.03, test_data=None)
    times = {file.name: file.latency_ms for file in report.tried}
    assert all(file.latency_ms == times[file.name] for file in report.front)
    assert report.best.latency_ms < min(times[name] for name in ("dense_float32", "dense_int8"))
    assert all(file.test_score is None for file in report.front)


def test_the_original_model_teaches_in_all_trials(tmp_path):
    how = Distillation(temperature=4)
    report = stub_search(tmp_path, trials=3, distillation=how)
    assert {file.recipe.distillation for file in report.tried if file.recipe} == {how}
    with pytest.raises(ValueError, match="of the same run"):
        stub_search(tmp_path, trials=3)


def test_a_teacher_without_classes_or_with_features_is_refused(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="outputs that tell classes"):
        compress(model, DATA, DATA, folder=tmp_path, search=Search(distillation=Distillation()), max_drop=MAE)
    with pytest.raises(ValueError, match="a Distillation without features"):
        Search(distillation=Distillation(features=["last"]))
    with pytest.raises(TypeError, match="`distillation` to be a tfprune.Distillation"):
        Search(distillation=True)
    assert not [*tmp_path.iterdir()]


def test_recipes_that_make_no_file_are_listed_with_the_reason(tmp_path):
    runner = StubRunner(fails=lambda recipe: recipe is not None and recipe.sparsity > 0.8)
    report = stub_search(tmp_path, runner=runner)
    assert report.failed
    assert all(line.endswith("steps: Expected a file. Received: none.") for line in report.failed)
    assert "Recipes without a file" in (tmp_path / "report.html").read_text()
    assert html.escape(report.failed[0]) in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_a_search_that_was_killed_finds_the_same(found, tmp_path):
    report, folder = found
    child = subprocess.Popen([sys.executable, stub_trials.__file__, str(tmp_path), str(TRIALS), "0.2"])
    while child.poll() is None and not (tmp_path / "trials" / "trial-00002.npz").exists():
        time.sleep(0.01)
    time.sleep(0.1)  # in the middle of a trial
    child.kill()
    child.wait()
    assert not (tmp_path / "report.json").exists()
    stub_search(tmp_path, trials=1)  # which was done, and whose files are not the last ones
    runner = StubRunner()
    assert same(stub_search(tmp_path, trials=TRIALS, runner=runner)) == same(report)
    assert 0 < len(runner.ran) < TRIALS
    assert files(tmp_path) == files(folder)


def same(report):
    """Return what does not depend on the clock and the folder."""
    return [file.as_dict() for file in (*report.front, *report.tried)], report.failed, report.trials


def files(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.tflite")}


def test_the_folder_has_the_names_that_it_had_in_earlier_versions(tmp_path):
    stub_search(tmp_path, trials=2, optimize="size", seed=4)
    steps = {"run", "baseline", "dense", "pace", "steps", "trial-00000", "trial-00001"}
    assert {path.stem for path in (tmp_path / "trials").iterdir()} == steps
    checksum = 0
    for array in (*small_model().get_weights(), *DATA, *DATA):
        checksum = zlib.crc32(array.tobytes(), checksum)
    run = {"max_drop": 0.01, "metric": "accuracy", "target": "size", "batch_size": 32, "seed": 4}
    with np.load(tmp_path / "trials" / "run.npz") as stored:
        assert json.loads(str(stored["run"])) == {**run, "checksum": checksum}


def test_the_folder_of_another_search_is_refused(found):
    _, folder = found
    before = files(folder)
    for changes in ({"max_drop": 0.02}, {"seed": 1}, {"batch_size": 16}, {"on": Remote("pi@nowhere")}):
        with pytest.raises(ValueError, match="of the same run"):
            stub_search(folder, **changes)
    assert files(folder) == before


@pytest.mark.parametrize(
    REFUSAL,
    refusals(
        {
            "max_drop": [-0.1, Limit(0.01, data=DATA), Limit(metric="mae")],
            "time": [0],
            "target": ["size"],
            "optimize": ["micro"],
        },
        {"search": [3]},
        together=[
            ("metric", {"max_drop": Limit(0.01, metric="exactness")}),
            ("mode", {"max_drop": Limit(0.01, metric="mae", mode="max")}),
            ("mode", {"max_drop": Limit(0.1, metric=len)}),
            ("groups", {"max_drop": Limit(0.01, max_drop_per_group=0.1, groups=[1, 2])}),
            ("jobs", {"optimize": "latency", "search": Search(jobs=2)}),
            ("optimize", {"optimize": "latency", "target": Micro(flash=9000)}),
        ],
    ),
)
def test_wrong_arguments_are_refused(tmp_path, kind, argument, changes):
    with refused(kind, argument):
        compress(small_model(), DATA, DATA, folder=tmp_path, **{"verbose": 0, **changes})
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("train", "validation", "error", "words"),
    [
        (lambda x, y: x, lambda x, y: (x, y), TypeError, "`data` to be a tuple"),
        (lambda x, y: (x,), lambda x, y: (x, y), TypeError, "Received: 1 parts"),
        (lambda x, y: (x, y), lambda x, y: (x[:0], y[:0]), ValueError, "samples in `validation_data`"),
        (lambda x, y: (x[:5], y), lambda x, y: (x, y), ValueError, "5 and 1280 of them"),
    ],
)
def test_wrong_data_are_refused(tmp_path, train, validation, error, words):
    with pytest.raises(error, match=words):
        compress(small_model(), train(*DATA), validation(*DATA), folder=tmp_path, verbose=0)
    assert not [*tmp_path.iterdir()]


def test_the_bar_shows_the_best_file_so_far_and_how_many_recipes_were_tried(tmp_path):
    with terminal() as shown:
        report = stub_search(tmp_path, trials=3, verbose="auto", time=200, runner=StubRunner(slept=0.1))
    parts = [part for part in re.sub(r"\x1b\[\d+m", "", shown.getvalue()).split("\r") if "recipes" in part]
    counts = [int(re.search(r"recipes: (\d+)\b", part)[1]) for part in parts]
    best = [int(re.search(r"best bytes: ([\d,]+)", part)[1].replace(",", "")) for part in parts]
    assert [*dict.fromkeys(counts)] == [0, 1, 2, 3]
    expected = [int(re.search(r"of about: (\d+)\b", part)[1]) for part in parts]
    assert expected[0] == 0 and {*expected[1:]} == {3}, "no more than `trials`"
    assert best == sorted(best, reverse=True)
    assert (best[0], best[-1]) == (min(file.bytes for file in report.tried if not file.recipe), report.best.bytes)
    assert all(re.search(r"\d+/200 ", part) for part in parts)


def test_the_nearest_file_is_named_where_none_fits(tmp_path):
    words = r"max_drop=0 of 'accuracy' and at most 1,000 bytes\. Received: 2 files, none.*dense_int8 loses 0.002, has"
    with pytest.raises(ValueError, match=words):
        stub_search(tmp_path, max_drop=0.0, max_bytes=1000, trials=1, runner=StubRunner(formats=("int8",)))
    assert not [*tmp_path.glob("*.tflite")]


@pytest.fixture
def board(monkeypatch):
    """Let models run on microcontrollers, of which the true check takes seconds."""
    pytest.importorskip("tflite_micro", reason="tflite-micro is not installed (extra `micro`)")
    monkeypatch.setattr(compressing, "micro_support", lambda model: SimpleNamespace(runs=True))
    return StubRunner(formats=("int8",))


def test_for_a_board_nothing_is_timed_and_files_keep_to_its_memory(tmp_path, board):
    report = stub_search(tmp_path, target=Micro(arena=5000, flash=40_000), runner=board, max_drop=0.03)
    assert board.evaluator.micro == Micro(arena=5000, flash=40_000)
    assert {file.quantize for file in report.tried} == {"int8"}
    assert report.dense is report.tried[0]
    assert report.dense.arena_bytes > 5000
    assert all(file.arena_bytes <= 5000 and file.bytes <= 40_000 for file in report.front)
    assert all(file.latency_ms is None for file in (*report.tried, *report.front))
    page = (tmp_path / "report.html").read_text()
    assert "bytes of the arena" in page
    assert "milliseconds" not in page
    assert "times smaller than the dense int8 file" in str(report)
    with np.load(tmp_path / "trials" / "run.npz") as stored:
        assert json.loads(str(stored["run"])).items() >= {"arena": 5000, "flash": 40_000, "target": "micro"}.items()


def test_the_nearest_file_to_a_board_is_named_where_none_fits(tmp_path, board):
    words = r"at most 100 bytes of arena. Received: 1 files.*The closest: dense_int8 .* bytes of arena"
    with pytest.raises(ValueError, match=words):
        stub_search(tmp_path, target=Micro(arena=100), runner=board, time=0.01)
    assert not [*tmp_path.glob("*.tflite")]


def test_files_for_a_microcontroller_are_not_timed_on_a_device(tmp_path):
    pytest.importorskip("tflite_micro", reason="tflite-micro is not installed (extra `micro`)")
    board = type("Board", (), {"run_job": None})()
    with pytest.raises(ValueError, match="not timed"):
        compress(small_model(), DATA, DATA, folder=tmp_path, target="micro", on=board, verbose=0)
    assert not [*tmp_path.iterdir()]


def test_a_missing_operator_is_named_before_training(tmp_path):
    pytest.importorskip("tflite_micro", reason="tflite-micro is not installed (extra `micro`)")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, "gelu")])
    model.compile("adam", "mse", metrics=["accuracy"])
    with pytest.raises(ValueError, match="has no GELU"):
        compress(model, DATA, DATA, folder=tmp_path, target="micro", verbose=0)
    assert not [*tmp_path.iterdir()]
