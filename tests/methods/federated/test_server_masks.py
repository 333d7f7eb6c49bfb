"""Masks that the server sets, PruneFL and FedMask on Flower, and clients that mean harm, against plain loops."""

from __future__ import annotations

import logging

import flower_app
import keras
import numpy as np
import pytest

pytest.importorskip("flwr", reason="flwr is not installed (extra `federated`)")
from flower_here import Here
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from tfprune.federated import (
    FedMask,
    FedMaskClient,
    MaskedClient,
    MaskedFedAvg,
    PruneFL,
    TrimmedMean,
    Update,
    masked_average,
    pack_masks,
)

MODEL = flower_app.make_model()  # all clients of this process, which take turns, use it
FIRST = MODEL.weights
SECONDS = (0.1, None, 0.1, None)
SHARED = [np.arange(24).reshape(4, 6) % 3 == 0, None, np.arange(6).reshape(6, 1) % 2 == 0, None]


@pytest.fixture(autouse=True)
def a_server(monkeypatch):
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def data(number, turn):
    x = np.random.default_rng((number, turn)).normal(size=(8, 4)).astype("float32")
    return x, x[:, :1] * (number + 1)


def blank():
    MODEL.set_masks([None] * len(FIRST))
    return MODEL


def number_of(context):
    return context.node_config["partition-id"]


def start(strategy, *, spoil=lambda reply, turn: reply, rounds=2, nodes=None, **functions):
    grid = Here(spoil, **({"nodes": nodes} if nodes else {}), **functions)
    result = strategy.start(grid=grid, initial_arrays=ArrayRecord(FIRST), num_rounds=rounds)
    return grid, result.arrays.to_numpy_ndarrays()


def train(message, context):
    client = MaskedClient(message, context, blank())
    flower_app.fit(MODEL, number_of(context), client.round)
    return client.trained({"num-examples": 8})


def test_the_server_can_set_one_mask_for_all_and_returns_the_model_under_it():
    strategy = MaskedFedAvg(masks=SHARED, fraction_evaluate=0.0)
    grid, arrays = start(strategy, train=train)
    server = FIRST
    for turn in (1, 2):
        updates = []
        for number in (0, 1):
            blank().set_masks(SHARED)
            MODEL.set_weights(server)
            flower_app.fit(MODEL, number, turn)
            updates.append(MODEL.weights)
        server = masked_average(updates, [SHARED] * 2, client_weights=[1, 1], server=server)
    for array, other, mask in zip(arrays, server, SHARED, strict=True):
        np.testing.assert_array_equal(array, other if mask is None else np.where(mask, other, 0))
    sizes = [len(message.content["update"]["data"]) for _, _, node, message in grid.asked if node == 11]
    assert sizes[1] < sizes[0]  # the masks travel once
    for mask, other in zip(strategy.masks, SHARED, strict=True):
        np.testing.assert_array_equal(mask, other)


def test_a_client_under_other_masks_than_the_servers_is_left_out(caplog):
    def of_its_own(message, context):
        client = MaskedClient(message, context, blank())
        if number_of(context):
            MODEL.set_masks([~SHARED[0], None, None, None])
        return client.trained({"num-examples": 8})

    strategy = MaskedFedAvg(masks=SHARED, fraction_evaluate=0.0)
    with caplog.at_level(logging.WARNING, "tfprune"):
        start(strategy, train=of_its_own, rounds=1)
    assert "without node 22: Expected an update under the masks of the server" in caplog.text


def test_the_returned_model_has_no_value_that_nobody_has_trained():
    """Two clients with masks of their own; the union of these is what is left, and what evaluate_fn sees."""
    seen = []
    for returned, votes in (("union", 1), ("majority", 2)):
        strategy = MaskedFedAvg(returned=returned, fraction_evaluate=0.0)
        grid = Here()
        result = strategy.start(
            grid=grid,
            initial_arrays=ArrayRecord(FIRST),
            num_rounds=1,
            evaluate_fn=lambda turn, arrays: seen.append(arrays.to_numpy_ndarrays()),
        )
        owned = []
        for number in (0, 1):
            flower_app.prune(blank(), number)
            owned.append(MODEL.masks)
        arrays = result.arrays.to_numpy_ndarrays()
        for index in (0, 2):
            kept = np.sum([masks[index] for masks in owned], axis=0) >= votes
            np.testing.assert_array_equal(arrays[index] != 0, kept)
            np.testing.assert_array_equal(strategy.masks[index], kept)
            np.testing.assert_array_equal(seen[-1][index], arrays[index])
    np.testing.assert_array_equal(seen[0][0], FIRST[0])  # before the first round


def test_entries_that_a_robust_rule_never_averages_are_not_returned():
    strategy = MaskedFedAvg(average=TrimmedMean(0.2, min_owners=2), fraction_evaluate=0.0)
    _, arrays = start(strategy, rounds=1, train=flower_app.train)
    owned = []
    for number in (0, 1):
        flower_app.prune(blank(), number)
        owned.append(MODEL.masks)
    for index in (0, 2):
        np.testing.assert_array_equal(arrays[index] != 0, owned[0][index] & owned[1][index])


def test_prune_fl_on_flower_is_a_plain_loop():
    method = PruneFL(seconds=SECONDS, constant=1.0, change_rate=0.5, density=0.5, every=2)

    def train(message, context):
        client = MaskedClient(message, context, blank())
        total = method.fit(MODEL, data(number_of(context), client.round), optimizer=sgd(), loss="mse")
        return client.trained({"num-examples": 8 * (number_of(context) + 1)}, gradients=total)

    strategy = MaskedFedAvg(method=method, fraction_evaluate=0.0)
    grid, arrays = start(strategy, train=train, rounds=4)
    server, masks = FIRST, [np.ones((4, 6), bool), None, np.ones((6, 1), bool), None]
    squares, changes = [np.zeros(array.shape) for array in FIRST], []
    for turn in range(1, 5):
        updates = []
        for number in (0, 1):
            blank().set_masks(masks)
            MODEL.set_weights(server)
            total = method.fit(MODEL, data(number, turn), optimizer=sgd(), loss="mse")
            squares = [one + 8 * (number + 1) * np.square(other) for one, other in zip(squares, total, strict=True)]
            updates.append(MODEL.weights)
        server = masked_average(updates, [masks] * 2, client_weights=[8, 16], server=server)
        if turn % 2 == 0:
            masks = method.masks(server, masks, squares=squares, round=turn)
            changes.append(masks)
    for index in (0, 2):
        np.testing.assert_array_equal(strategy.masks[index], masks[index])
        np.testing.assert_array_equal(arrays[index], np.where(masks[index], server[index], 0))
    assert sum(int((changes[1][index] & ~changes[0][index]).sum()) for index in (0, 2)) > 0  # some have come back
    up = [row.up for row in strategy.traffic.rows]
    assert up[1] > up[2]  # squares travel when they are due


def sgd():
    return keras.optimizers.SGD(0.2)


def test_squares_that_are_due_and_do_not_come_leave_the_client_out(caplog):
    method = PruneFL(seconds=SECONDS, constant=1.0, every=1)
    with caplog.at_level(logging.WARNING, "tfprune"):
        start(MaskedFedAvg(method=method, fraction_evaluate=0.0), train=train, rounds=1)
    assert "Expected squared gradients. Received: none. Pass gradients= to MaskedClient.trained." in caplog.text


def test_fed_mask_on_flower_is_a_plain_loop_and_sends_bits():
    method = FedMask(sparsity=0.5, learning_rate=30.0)

    def train(message, context):
        client = FedMaskClient(message, context, blank(), method)
        client.fit(data(number_of(context), client.round), loss="mse")
        return client.trained({"num-examples": 8 * (number_of(context) + 1)})

    strategy = MaskedFedAvg(method=method, fraction_evaluate=0.0)
    _, arrays = start(strategy, train=train, rounds=3)
    scores, averaged = [method.scores(FIRST)] * 2, None
    for turn in (1, 2, 3):
        if turn > 1:
            scores = [method.personal(own, averaged) for own in scores]
        blank()
        scores = [
            method.fit(MODEL, data(number, turn), scores=scores[number], weights=FIRST, loss="mse")
            for number in (0, 1)
        ]
        masks = [method.masks(own) for own in scores]
        averaged = method.average(masks, client_weights=[8, 16])
    for index in (0, 2):
        union = masks[0][index] | masks[1][index]
        np.testing.assert_array_equal(arrays[index], np.where(union, FIRST[index], 0))
    assert (masks[0][0] != method.masks(method.scores(FIRST))[0]).any()  # something was learned
    packed = len(pack_masks(masks[0]))
    assert all(abs(row.up - 2 * packed) < 8 for row in strategy.traffic.rows)
    assert strategy.traffic.rows[2].down < strategy.traffic.rows[0].down


def test_fed_mask_leaves_out_answers_of_another_round_or_with_weights(caplog):
    method = FedMask(sparsity=0.5)

    def spoil(reply, turn):
        masks = method.masks(method.scores(FIRST))
        update = (
            {"data": Update(FIRST, None, turn).encode()} if turn == 2 else {"data": pack_masks(masks), "round": 9}
        )
        content = {"update": ConfigRecord(update), "metrics": MetricRecord({"num-examples": 1})}
        return Message(RecordDict(content), 22, "train")

    def train(message, context):
        return FedMaskClient(message, context, blank(), method).trained({"num-examples": 8})

    with caplog.at_level(logging.WARNING, "tfprune"):
        start(MaskedFedAvg(method=method, fraction_evaluate=0.0), spoil=lying(spoil), train=train)
    assert "of round 1. Received: one of round 9" in caplog.text
    assert (
        "round 2 goes on without node 22: Expected an update of round 2. Received: one of round None" in caplog.text
    )


def lying(make):
    """Return what replaces the content of an answer, which keeps its node."""

    def spoil(reply, turn):
        reply.content = make(reply, turn).content
        return reply

    return spoil


def poison(reply, turn):
    like = [np.full_like(array, 1e6) for array in FIRST]
    content = {"update": ConfigRecord({"data": Update(like, None, turn).encode()})}
    return Message(RecordDict(content | {"metrics": MetricRecord({"num-examples": 1e15})}), 22, "train")


def test_one_hostile_client_ruins_a_mean_and_not_a_median():
    nodes, honest = {11: 0, 22: 1, 33: 2, 44: 3}, []
    for number in (0, 2, 3):
        blank().set_weights(FIRST)
        flower_app.fit(MODEL, number, 1)
        honest.append(MODEL.weights)
    found = {}
    for name, options in {
        "mean": {},
        "median": {"average": "median"},
        "clip": {"clip_norm": 1.0, "max_examples": 8},
    }.items():
        strategy = MaskedFedAvg(fraction_evaluate=0.0, **options)
        found[name] = start(strategy, spoil=lying(poison), nodes=nodes, train=train, rounds=1)[1]
    assert min(np.abs(array).min() for array in found["mean"]) > 9e5
    for array, values in zip(found["median"], zip(*honest, strict=True), strict=True):
        assert (np.min(values, axis=0) <= array).all() and (array <= np.max(values, axis=0)).all()
    clipped = np.sqrt(sum(np.sum((one - first) ** 2) for one, first in zip(found["clip"], FIRST, strict=True)))
    assert clipped < 1.0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"average": "mode"}, ValueError, "`average`"),
        ({"clip_norm": 0}, ValueError, "`clip_norm` to be a number above 0"),
        ({"max_examples": -1}, ValueError, "`max_examples` to be a number above 0"),
        ({"returned": "all"}, ValueError, "`returned`"),
        ({"method": "PruneFL"}, TypeError, "`method` to be a PruneFL, a FedMask or None. Received: str"),
        (
            {"method": FedMask(0.5), "average": "median"},
            ValueError,
            "Expected no `masks`, `clip_norm` or `average` with FedMask",
        ),
    ],
)
def test_bad_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        MaskedFedAvg(**options)


def test_prune_fl_with_costs_of_another_model_is_refused():
    method = PruneFL(seconds=(0.1,), constant=1.0)
    with pytest.raises(ValueError, match="`seconds` of PruneFL for 4 arrays"):
        start(MaskedFedAvg(method=method, fraction_evaluate=0.0), train=train)
