"""compress for microcontrollers: what its files take and get right there, by the interpreter itself."""

import keras
import numpy as np
import pytest
from small_search import made, search

from tfprune.export import compress, micro_support
from tfprune.export.file.tflite.reader import read
from tfprune.export.micro.interpreter import run_files

pytest.importorskip("tflite_micro", reason="tflite-micro is not installed (extra `micro`)")
ARENA = 2_500  # bytes: the dense file takes more


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("micro")
    return search(folder, target="micro", trials=2, arena=ARENA), folder


def test_files_take_and_get_right_what_the_report_says(found):
    report, folder = found
    _, _, (x, y), (test_x, test_y) = made()
    assert report.dense.arena_bytes > ARENA
    for one in report.front:
        content = (folder / one.file).read_bytes()
        (run,) = run_files([content], [x])
        (test,) = run_files([content], [test_x])
        assert np.mean(run.outputs[0].argmax(axis=1) == y) == pytest.approx(one.score)
        assert np.mean(test.outputs[0].argmax(axis=1) == test_y) == pytest.approx(one.test_score)
        assert one.drop <= report.max_drop
        assert one.arena_bytes <= ARENA
        assert (len(content), micro_support(content).arena) == (one.bytes, one.arena_bytes)
        assert read(content).inputs[0].dtype == "int8"


def test_all_files_are_int8_and_none_is_timed(found):
    report, folder = found
    assert [one.quantize for one in report.tried] == ["int8"] * 3
    assert report.dense is report.tried[0]
    assert all(one.latency_ms is None for one in (*report.tried, *report.front))
    page = (folder / "report.html").read_text()
    assert "bytes of the arena" in page
    assert "milliseconds" not in page
    assert "times smaller than the dense int8 file" in str(report)


def test_the_code_of_a_recipe_makes_the_same_file(found, tmp_path, monkeypatch):
    report, folder = found
    model, (x, y), _, _ = made()
    monkeypatch.chdir(tmp_path)
    model.save("model.keras")
    exec(report.best.code.replace("x, y = ...", "pass"), {"x": x, "y": y})
    assert (tmp_path / "model.tflite").read_bytes() == (folder / report.best.file).read_bytes()


def test_the_nearest_file_is_named_where_none_fits(tmp_path):
    with pytest.raises(ValueError, match=r"arena=100. Received: 1 files.*The nearest, dense_int8, .* bytes of arena"):
        search(tmp_path, target="micro", time=0.01, arena=100)
    assert not [*tmp_path.glob("*.tflite")]


def test_a_missing_operator_is_named_before_training(tmp_path):
    model = keras.Sequential([keras.Input((12,)), keras.layers.Dense(2, "gelu")])
    model.compile("adam", "mse", metrics=["accuracy"])
    _, train, validation, _ = made()
    with pytest.raises(ValueError, match="has no GELU"):
        compress(model, train, validation, folder=tmp_path, target="micro", verbose=0)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"target": "size", "arena": 9000}, "target='micro'"),
        ({"target": "latency", "flash": 9000}, "target='micro'"),
        ({"flash": 0}, "flash"),
        ({"on": type("Board", (), {"run_module": None})()}, "not timed"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        search(tmp_path, **{"target": "micro", **changes})
    assert not [*tmp_path.iterdir()]
