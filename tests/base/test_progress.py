"""Progress bars: who sees one, what it counts, and how its line ends."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import sys
from unittest import mock

import keras
import numpy as np
import pytest
from terminal import Terminal, lines_of, terminal
from tiers import in_test_ci

import tfprune
from tfprune.base import output
from tfprune.base.output import Progress

X = np.random.default_rng(0).normal(size=(16, 8)).astype("float32")
Y = X[:, :2]


def run(total, done=None, **settings):
    with Progress(total, unit="layer", **{"verbose": "auto", **settings}) as bar:
        for _ in range(total if done is None else done):
            bar.add()


def test_a_bar_counts_to_the_end():
    with terminal() as shown:
        run(3)
    (line,) = shown.seen()
    assert line.startswith("3/3 ━") and line.endswith("s/layer")


def test_a_bar_is_full_at_the_end_where_fewer_units_came():
    with terminal() as shown:
        run(5, done=2)
    assert shown.seen()[0].startswith("5/5 ")


def test_a_bar_shows_values_as_they_are():
    with terminal() as shown, Progress(2, verbose=1, unit="layer", shown=["error"]) as bar:
        bar.add(1, {"error": 3.0})
        bar.add(1, {"error": 1.0})
    assert shown.seen()[0].endswith("error: 1.0000")


def test_a_bar_shows_whole_numbers_without_decimals():
    with terminal() as shown, Progress(2, verbose=1, unit="layer", shown=["bytes", "trials"]) as bar:
        bar.add(1, {"bytes": 40_000, "trials": 0})
        bar.add(1, {"bytes": 12_345, "trials": 0})
    assert shown.seen()[0].endswith("bytes: 12,345 - trials: 0")


def test_an_error_ends_the_line_where_it_happened():
    with terminal() as shown, pytest.raises(ZeroDivisionError), Progress(4, verbose="auto", unit="layer") as bar:
        bar.add()
        1 / 0  # noqa: B018
    (line,) = shown.seen()
    assert line.startswith("1/4 ")


@pytest.mark.parametrize("verbose", ["auto", 1, 2])
def test_an_error_before_anything_is_drawn_leaves_no_line(verbose):
    with terminal() as shown, pytest.raises(ZeroDivisionError), Progress(4, verbose=verbose, unit="layer") as bar:
        if verbose == 2:  # which has one line, at the end
            bar.add()
        1 / 0  # noqa: B018
    assert shown.seen() == []


def test_a_quick_call_draws_nothing():
    with terminal(seconds=60.0) as shown:
        run(3)
    assert shown.seen() == []


def test_a_bar_appears_in_the_middle_of_a_call_that_lasts(monkeypatch):
    now = iter([0.0, 1.0, 3.5, 4.0])
    monkeypatch.setattr(output.time, "monotonic", lambda: next(now))
    with terminal(seconds=3.0) as shown:
        run(3)
    assert re.findall(r"\d/3", shown.getvalue()) == ["2/3", "3/3"]


def test_nobody_watches_a_file(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipykernel", sys)  # which a test may have imported
    with terminal(), contextlib.redirect_stdout(io.StringIO()) as file:
        run(3)
    assert file.getvalue() == ""


@pytest.mark.parametrize("is_closed", [True, False])
def test_a_program_without_a_console_goes_on(is_closed):
    stream = Terminal()
    stream.close()
    with terminal(), contextlib.redirect_stdout(stream if is_closed else None):
        run(3)


def test_a_notebook_is_watched():
    cell_output = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})
    with terminal(), contextlib.redirect_stdout(cell_output()) as cell:
        run(3)
    assert lines_of(cell.getvalue())[0].startswith("3/3 ")


def test_no_bar_where_keras_was_told_to_log():
    keras.config.disable_interactive_logging()
    try:
        with terminal() as shown:
            run(3)
    finally:
        keras.config.enable_interactive_logging()
    assert shown.seen() == []


@pytest.mark.parametrize(("verbose", "start"), [(0, None), (1, "3/3 ━"), (2, "3/3 - 0s - ")])
def test_a_number_means_what_it_means_in_keras(capsys, verbose, start):
    run(3, verbose=verbose)
    lines = lines_of(capsys.readouterr().out)
    assert len(lines) == (start is not None) and all(line.startswith(start) for line in lines)


def test_nothing_to_do_draws_nothing():
    with terminal() as shown:
        run(0, verbose=1)
    assert shown.seen() == []


@pytest.mark.parametrize(
    ("verbose", "error"), [("yes", ValueError), (3, ValueError), (True, TypeError), (None, TypeError)]
)
def test_verbose_is_checked(verbose, error):
    with pytest.raises(error, match="Expected `verbose`.*Received: verbose="):
        output.check_verbose(verbose)


def dense(*sizes):
    model = keras.Sequential([keras.Input((8,)), *(keras.layers.Dense(size, name=f"dense_{size}") for size in sizes)])
    model.compile("sgd", "mse")
    return model


def attention():
    series = keras.Input((4, 8))
    attended = keras.layers.MultiHeadAttention(3, 2, name="attention")(series, series)
    return keras.Model(series, keras.layers.Dense(2)(attended))


def scan(**verbose):
    tfprune.sensitivity(dense(4, 2), (X, Y), (0.5, 0.75), metric="loss", **verbose)


def heads(**verbose):
    tfprune.transformers.rank_heads(attention(), (X.reshape(4, 4, 8), np.ones((4, 4, 2))), loss="mse", **verbose)


def channels(**verbose):
    tfprune.rank_channels(dense(6, 4, 2), X, **verbose)


def reconstruct(*, reconstruction="sequential", **verbose):
    model = dense(6, 4, 2)
    plan = tfprune.plan_shrink(model, 0.5)
    tfprune.reconstruct(tfprune.zero_channels(model, plan), model, X, reconstruction=reconstruction, **verbose)


def single_weights(**verbose):
    tfprune.prune_weights(dense(6, 4, 2), X, **verbose)


def latency(**verbose):
    limit = tfprune.budget(latency=0.5, measure=lambda model: float(model.count_params()))
    tfprune.plan_shrink(dense(14, 2), limit, **verbose)


def rounds(**verbose):
    tfprune.prune_to(
        dense(8, 2), tfprune.budget(flops=0.5), (X, Y), fine_tuning=tfprune.FineTuning(rounds=2), **verbose
    )


def units(**verbose):
    tfprune.prune_units(dense(8, 6, 2), X, batch_size=4, **verbose)


def blocks(**verbose):
    layers = [keras.layers.Dense(8, name=f"block_{index}") for index in range(3)]
    tfprune.transformers.rank_blocks(keras.Sequential([keras.Input((8,)), *layers]), (X, X), loss="mse", **verbose)


def concepts(**verbose):
    tfprune.concepts.concept_rules(
        dense(4, 3, 2), X, {"right": X[:, 0] > 0, "up": X[:, 1] > 0}, layers="dense_4", **verbose
    )


CALLS = pytest.mark.parametrize(
    ("call", "count", "unit"),
    [
        (scan, 2 * 2, "evaluation"),  # weights times sparsities
        (heads, 3, "head"),
        (channels, 2, "group"),
        (reconstruct, 3, "layer"),
        (functools.partial(reconstruct, reconstruction="parallel"), 3, "layer"),
        (single_weights, 3, "layer"),
        # The model, the smallest one, four halvings of 16 channels, and two groups that go less far.
        (latency, 1 + 1 + 4 + 2, "candidate"),
        in_test_ci((rounds, 2 * (3 + 1), "step")),  # removed, reconstructed, trained, and the steps of the training
        (units, 2, "group"),
        (blocks, 1 + 3, "evaluation"),  # the whole model, and without each block
        (concepts, 1 * 2, "tree"),  # layers times concepts
    ],
)


@CALLS
def test_a_call_counts_its_units_one_by_one(call, count, unit):
    with terminal() as shown, mock.patch.object(keras.utils, "Progbar", Counting):
        call()
    assert Counting.counted == [*range(1, count + 1)] or unit == "step" and Counting.counted == [2, 3, 4, 6, 7, 8]
    (line,) = shown.seen()
    assert line.startswith(f"{count}/{count} ━") and f"s/{unit}" in line


class Counting(keras.utils.Progbar):
    """A bar that remembers what it was told."""

    counted: list[int]

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        Counting.counted = []

    def update(self, current, values=None, finalize=None):
        Counting.counted.append(current)
        super().update(current, values, finalize=finalize)


@CALLS
def test_a_call_shows_nothing_with_verbose_0(call, count, unit, capfd):
    with terminal() as shown:
        call(verbose=0)
    assert (shown.getvalue(), capfd.readouterr().out) == ("", "")


@CALLS
def test_a_call_checks_verbose_before_it_starts(call, count, unit):
    with pytest.raises(ValueError, match="Expected `verbose` to be an integer from 0 to 2. Received: verbose=3."):
        call(verbose=3)


def test_a_call_that_fails_ends_its_line():
    def measure(model):
        if model.count_params() < 100:
            raise RuntimeError("no board")
        return 1.0

    limit = tfprune.budget(latency=0.5, measure=measure)
    with terminal() as shown, pytest.raises(RuntimeError, match="no board"):
        tfprune.plan_shrink(dense(14, 2), limit)
    assert shown.seen()[0].startswith("1/8 ")


@pytest.mark.parametrize("verbose", [1, "auto"])
def test_a_program_without_keras_has_a_plain_bar(monkeypatch, verbose):
    monkeypatch.setitem(sys.modules, "keras", None)
    with terminal() as shown:
        run(3, verbose=verbose)
    assert shown.seen() == [f"3/3 [{'=' * 20}] 0s (layers)"]
    with terminal() as shown, pytest.raises(ZeroDivisionError), Progress(4, verbose=verbose, unit="layer") as bar:
        bar.add()
        1 / 0  # noqa: B018
    assert shown.seen() == [f"1/4 [{'=' * 5}{'.' * 15}] 0s (layers)"]


def test_one_line_at_the_end_without_keras(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    with terminal() as shown:
        run(2, verbose=2)
    assert shown.getvalue() == "2/2 0s (layers)\n"
