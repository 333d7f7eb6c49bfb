"""The library prints nothing and configures no logging: what is worth knowing is logged under `tfprune`."""

from __future__ import annotations

import logging

import keras
import numpy as np

import tfprune


def dense(*sizes):
    layers = [keras.layers.Dense(size, name=f"dense_{index}") for index, size in enumerate(sizes)]
    return keras.Sequential([keras.Input((8,)), *layers], name="net")


def messages(caplog):
    records = [record for record in caplog.records if record.name != "tensorflow"]  # it warns by the tests before
    assert all(record.name.startswith("tfprune.") for record in records)
    return [record.getMessage() for record in records]


def test_wrap_says_what_it_leaves_alone(caplog):
    layers = [keras.layers.DepthwiseConv2D(3, name="depth"), keras.layers.Conv2D(4, 3)]
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers])
    with caplog.at_level(logging.INFO, "tfprune"):
        tfprune.wrap(model)
    first, *rest = messages(caplog)
    assert first == f"wrapped {model.name!r}: 1 weights under masks"
    assert [line.partition(":")[0] for line in rest] == ["left alone, depth"]


def test_wrap_logs_of_a_model_that_is_not_built(caplog):
    with caplog.at_level(logging.INFO, "tfprune"):
        tfprune.wrap(keras.Sequential([keras.layers.Dense(4), keras.layers.Dense(2)], name="open"))
    assert messages(caplog) == ["wrapped 'open', which its first batch builds"]


def test_a_callback_logs_where_it_starts_and_each_mask_update(caplog):
    model = tfprune.wrap(dense(4, 2))
    model.compile("sgd", "mse")
    x, schedule = np.ones((32, 8)), tfprune.schedules.Polynomial(0.5, end=8)
    pruning = tfprune.PruningCallback(schedule, every=4)
    with caplog.at_level(logging.DEBUG, "tfprune"):
        model.fit(x, x[:, :2], batch_size=4, callbacks=[pruning], verbose=0)
        model.fit(x, x[:, :2], batch_size=4, callbacks=[pruning], verbose=0)
    assert messages(caplog) == [
        f"pruning 'net' from step 0 on, at a sparsity of 0.0000, by {schedule!r}",
        "step 0: sparsity 0.0000",
        "step 4: sparsity 0.4500",  # 18 of 40 zeros: 0.4375 of each kernel, rounded
        "step 8: sparsity 0.5000",
        f"pruning 'net' from step 8 on, at a sparsity of 0.5000, by {schedule!r}",
        "step 8: sparsity 0.5000",
    ]


def test_a_run_that_goes_on_says_what_it_takes_over(caplog, tmp_path):
    hidden = keras.layers.Dense(8, activation="relu", name="hidden")
    model = keras.Sequential([keras.Input((4,)), hidden, keras.layers.Dense(2, name="out")])
    x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
    for kept in ("", "channels_000 was done before"):
        caplog.clear()
        with caplog.at_level(logging.INFO, "tfprune"):
            tfprune.prune_units(model, x, folder=tmp_path, verbose=0)
        first, last = [line for line in messages(caplog) if kept and kept in line], messages(caplog)[-1]
        assert len(first) == bool(kept)
        assert last.startswith("hidden: 4 of 8 stay, error ")


def test_a_latency_budget_logs_each_measurement(caplog):
    limit = tfprune.budget(latency=0.5, measure=lambda model: 10.0 * model.count_params())
    with caplog.at_level(logging.INFO, "tfprune"):
        plan = tfprune.plan_shrink(dense(16, 2), limit)
    kept = plan.parameters_kept
    assert f"a latency of {10 * kept:,} with {int(plan.keep.sum())} of 18 channels" in messages(caplog)
