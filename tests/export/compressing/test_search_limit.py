"""What a search may lose, of any metric: absolute and relative, of an error too, and of one of several outputs."""

from dataclasses import replace
from html import unescape

import keras
import numpy as np
import pytest
from stub_trials import DATA, SCORE, stub_search

from tfprune.base.limit import Limit
from tfprune.base.spec import ArgumentError
from tfprune.export import Runner, Search, compress
from tfprune.export.compressing.compress import _SearchLimit
from tfprune.export.compressing.evaluate import FileMetric
from tfprune.export.compressing.report import _compress_page
from tfprune.export.micro.micro import Micro


def test_the_goal_is_in_the_unit_of_the_metric():
    metric = FileMetric("mae", "min")
    goal = _SearchLimit(Limit(max_relative_drop=0.1), metric).goal("bytes", 50.0, None, samples=100, search=Search())
    assert (goal.max_drop, goal.noise) == (5.0, pytest.approx(0.1))
    assert goal.drop_of(0.25) == 1.25, "an error counts no samples"
    assert goal.drop_left(2.5) == 0.5
    goal = _SearchLimit(Limit(0.01), FileMetric()).goal("bytes", 0.9, Micro(flash=9000), samples=250, search=Search())
    assert (goal.max_drop, goal.noise, goal.budgets) == (0.01, 0.002, {"bytes": 9000})
    assert (goal.sample, goal.drop_of(0.25), goal.drop_of(1)) == (0.004, pytest.approx(0.006), 0.01)
    search = Search(max_bytes=700, max_latency_ms=2.5)
    goal = _SearchLimit(Limit(0.01), FileMetric()).goal("bytes", 0.9, None, samples=250, search=search)
    assert goal.budgets == {"bytes": 700, "latency_ms": 2.5}


def test_a_relative_limit_of_a_search_is_that_of_the_original_model(tmp_path):
    report = stub_search(tmp_path, max_drop=Limit(max_relative_drop=0.01))
    assert report.max_drop == pytest.approx(0.01 * SCORE)
    assert any(file.drop > report.max_drop for file in report.tried)
    assert all(file.drop <= report.max_drop for file in report.front)
    with pytest.raises(ValueError, match="of the same run"):
        stub_search(tmp_path, max_drop=Limit(max_relative_drop=0.02))


def test_files_keep_a_size_and_a_latency_together(tmp_path):
    wanted = {"max_drop": 0.02, "max_latency_ms": 0.3, "optimize": "latency"}
    report = stub_search(tmp_path, max_bytes=40_000, **wanted)
    assert report.front and all(file.bytes <= 40_000 and file.latency_ms <= 0.3 for file in report.front)
    assert any(file.bytes > 40_000 for file in report.tried) and any(file.latency_ms > 0.3 for file in report.tried)
    assert ("| largest latency ms | 0.3 |" in report.card()) and report.budgets == {
        "bytes": 40_000,
        "latency_ms": 0.3,
    }
    with pytest.raises(ValueError, match="of the same run"):
        stub_search(tmp_path, max_bytes=39_000, **wanted)


def test_what_the_closest_files_miss_is_said(tmp_path):
    bounds = {"max_bytes": 2000, "max_latency_ms": 0.001}
    words = (
        r"max_drop=0.0001 of 'accuracy' and at most 2,000 bytes and at most 0.001 ms. Received: 4 files, none of "
        r"which fits. The closest: (\w+ (loses 0\.\d+, )?has [\d,.]+ bytes, has [\d.]+ ms(; |\. )){3}All trials"
    )
    with pytest.raises(ValueError, match=words):
        stub_search(tmp_path, max_drop=0.0001, trials=2, optimize="latency", **bounds)


@pytest.mark.parametrize(
    ("changes", "argument"),
    [
        ({"max_bytes": 9, "target": "micro"}, "max_bytes"),
        ({"max_latency_ms": 9, "jobs": 2}, "jobs"),
        ({"max_bytes": 0}, "max_bytes"),
        ({"max_cycles": 0}, "max_cycles"),
        ({"max_latency_ms": 0.0}, "max_latency_ms"),
    ],
)
def test_bounds_that_do_not_go_together_are_refused(changes, argument, tmp_path):
    with pytest.raises(ArgumentError) as raised:
        stub_search(tmp_path, **changes)
    assert raised.value.argument == argument
    assert not [*tmp_path.iterdir()]


def test_a_drop_in_percent_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"max_drop=5\. For 5 % pass 0\.05\."):
        stub_search(tmp_path, max_drop=5)
    assert not [*tmp_path.iterdir()]


def test_a_regression_without_a_metric_is_refused(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    data = DATA[0], DATA[1] / 3
    with pytest.raises(ValueError, match="Expected classes in `y`.* not whole numbers.*metric='mae'"):
        compress(model, data, data, folder=tmp_path, verbose=0)
    assert not [*tmp_path.rglob("*.npz")], "the next search may have a metric"


def test_the_page_shows_smaller_errors_higher(found):
    report, _ = found
    small, large = (replace(report.dense, drop=drop, score=2 + drop, recipe=None) for drop in (0.0, 1.0))
    page = _compress_page(
        replace(
            report, metric="mae", mode="min", max_drop=1.5, front=(large, small), tried=(small, large), dense=small
        )
    )
    heights = {title.partition("<")[0][-6:]: float(height) for height, title in _dots(page)}
    assert heights["2.0000"] < heights["3.0000"]  # pixels from above
    assert replace(report, mode="min", dense=large).baseline == 2


def _dots(page):
    for part in unescape(page).split("<circle ")[1:]:
        yield part.partition('cy="')[2].partition('"')[0], part.partition("<title>")[2].partition("</title>")[0]


@pytest.fixture(scope="module")
def two_headed():
    """A trained model of a class and a number, and data for training and validation."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(900, 8)).astype("float32")
    y = {"kind": (x[:, 0] > 0).astype(int), "size": (10 + x[:, 1:4].sum(axis=1) + draw.normal(size=900))[:, None]}
    keras.utils.set_random_seed(0)
    entry = keras.Input((8,), name="x")
    hidden = keras.layers.Dense(24, "relu", name="hidden")(keras.layers.Dense(24, "relu", name="first")(entry))
    heads = {"kind": keras.layers.Dense(2, "softmax", name="kind"), "size": keras.layers.Dense(1, name="size")}
    model = keras.Model(entry, {name: head(hidden) for name, head in heads.items()}, name="two")
    loss = {"kind": "sparse_categorical_crossentropy", "size": "mse"}
    model.compile(keras.optimizers.Adam(1e-2), loss, metrics={"size": [keras.metrics.RootMeanSquaredError(name="r")]})
    model.fit(x[:700], {name: each[:700] for name, each in y.items()}, epochs=15, verbose=0)
    parts = [({name: each[part] for name, each in y.items()}) for part in (slice(700), slice(700, None))]
    return model, (x[:700], parts[0]), (x[700:], parts[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    "limit", [Limit(max_relative_drop=0.3, metric="mae", output="size"), Limit(0.3, metric="r", output="size")]
)
def test_a_true_search_by_the_error_of_one_of_two_outputs(two_headed, limit, tmp_path):
    model, data, (x, y) = two_headed

    def error(numbers):
        away = numbers - y["size"]
        return np.mean(np.abs(away)) if limit.metric == "mae" else np.sqrt(np.mean(np.square(away)))

    report = compress(model, data, (x, y), folder=tmp_path, max_drop=limit, search=Search(trials=2), verbose=0)
    before = error(model.predict(x, verbose=0)["size"])
    assert report.metric == f"size_{limit.metric}"
    assert report.max_drop == pytest.approx(limit.max_drop or 0.3 * before, rel=1e-4)
    assert report.best.bytes < report.dense.bytes
    for file in report.front:
        runner = Runner(tmp_path / file.file)
        numbers = runner.predict(x)[[info.name for info in runner.outputs].index("size")]
        assert file.score == pytest.approx(error(numbers), rel=1e-4)
        assert file.drop == pytest.approx(error(numbers) - before, abs=1e-3)
        assert file.drop <= report.max_drop
