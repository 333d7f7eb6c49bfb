"""Strategy and client on Flower: answers that cannot be used, and the simulation against a plain loop."""

from __future__ import annotations

import functools
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from programs import printed_by, started
from tiers import first

pytest.importorskip("flwr", reason="flwr is not installed (extra `federated`)")
import flower_app
from flower_here import Here
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

import tfprune
from tfprune.federated import MaskedClient, MaskedFedAvg, Update

HELPERS = Path(__file__).parents[2] / "helpers"


@pytest.fixture(autouse=True)
def a_server(monkeypatch):
    """Messages are made by a running app, which knows its number."""
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def run(grid, rounds=3, **options):
    model = flower_app.make_model()
    strategy = MaskedFedAvg(check_masks=model.check_masks, **options)
    result = strategy.start(grid=grid, initial_arrays=ArrayRecord(model.weights), num_rounds=rounds)
    return strategy, result, result.arrays.to_numpy_ndarrays()


def update_of(weights, masks, turn, samples=5):
    data = Update(weights, masks, turn).encode()
    return {"update": ConfigRecord({"data": data}), "metrics": MetricRecord({"num-examples": samples})}


def answer(reply, **changes):
    """Return an answer with another update."""
    model = flower_app.make_model()
    flower_app.prune(model, 1)
    parts = {"weights": model.weights, "masks": model.masks, "turn": 2} | changes
    return Message(RecordDict(update_of(**parts)), reply_to=_asked(reply))


def _asked(reply):
    """Return a message to the node that has answered."""
    return Message(RecordDict(), reply.metadata.src_node_id, "train")


def test_two_rounds_are_those_of_a_plain_loop():
    strategy, result, arrays = run(Here(), rounds=flower_app.ROUNDS)
    for one, other in zip(arrays, flower_app.plain_loop(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert result.train_metrics_clientapp[1]["number"] == pytest.approx(12 / 20)  # 8 samples of 0, 12 of 1
    assert [row.received for row in strategy.traffic.rows] == [2, 2]


def test_answers_are_averaged_in_the_order_of_clients_whatever_the_numbers_of_their_nodes():
    orders = []

    def first_of(records, weighted_by):
        orders.append([record["metrics"]["number"] for record in records])
        return MetricRecord(dict(records[0]["metrics"]))

    run(Here(nodes={11: 1, 22: 0}), rounds=1, train_metrics_aggr_fn=first_of)
    assert orders == [[0, 1]]


def test_only_what_a_mask_keeps_travels_once_the_server_knows_it():
    grid = Here()
    strategy, _, _ = run(grid)
    sizes = {(turn, kind, node): len(message.content["update"]["data"]) for turn, kind, node, message in grid.asked}
    assert sizes[2, "train", 11] < sizes[1, "train", 11]
    assert sizes[2, "train", 11] == sizes[3, "train", 11] == sizes[1, "evaluate", 11]
    first, second, third = strategy.traffic.rows
    assert first.up > second.up == third.up  # the masks are not sent again
    assert first.down == sum(size for (turn, *_), size in sizes.items() if turn == 1)
    dense = sum(array.nbytes for array in flower_app.make_model().weights)
    assert first.dense == (4 + 2) * dense


def dies(reply, turn):
    return Message(Error(0, "out of battery"), reply_to=_asked(reply)) if turn == 2 else reply


@pytest.mark.programs
def test_a_round_goes_on_without_a_client_that_dies_and_the_client_comes_back(caplog):
    grid = Here(dies)
    with caplog.at_level(logging.WARNING, "tfprune"):
        strategy, _, _ = run(grid)
    assert [row.received for row in strategy.traffic.rows] == [2, 1, 2]
    assert "round 2 goes on without node 22: it failed: out of battery" in caplog.text
    sizes = [len(message.content["update"]["data"]) for turn, kind, node, message in grid.asked if node == 22]
    assert sizes[4] > sizes[2] < sizes[0]  # in the third round it gets everything again


@functools.cache
def without_the_second():
    """Return what comes out where the second client dies in the second round."""
    return run(Here(dies))[2]


def model_arrays():
    return flower_app.make_model().weights


SPOILED = {
    "NaN": (lambda: {"weights": [np.full_like(array, np.nan) for array in model_arrays()]}, "finite numbers"),
    "another shape": (lambda: {"weights": model_arrays()[:2], "masks": None}, "of other shapes or dtypes"),
    "an old round": (lambda: {"turn": 1}, "of round 2. Received: one of round 1"),
    "no samples": (lambda: {"samples": 0}, "'num-examples' above 0, and at most"),
    "infinite samples": (lambda: {"samples": float("inf")}, "Received: inf"),
    "more samples than there are": (lambda: {"samples": 1e308}, "Received: 1e+308"),
    "NaN samples": (lambda: {"samples": float("nan")}, "Received: nan"),
}


@pytest.mark.programs
@pytest.mark.parametrize("kind", first(*SPOILED))
def test_a_round_goes_on_without_an_answer_that_cannot_be_used(kind, caplog):
    changes, reason = SPOILED[kind]
    spoil = lambda reply, turn: answer(reply, **changes()) if turn == 2 else reply  # noqa: E731
    with caplog.at_level(logging.WARNING, "tfprune"):
        strategy, _, arrays = run(Here(spoil))
    assert [row.received for row in strategy.traffic.rows] == [2, 1, 2]
    assert "round 2 goes on without node 22" in caplog.text and reason in caplog.text
    for one, other in zip(arrays, without_the_second(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({}, "Received: None"),
        ({"metrics": MetricRecord({"num-examples": 3})}, "an answer without one"),
        ({"update": ConfigRecord({"data": b"junk"}), "metrics": MetricRecord({"num-examples": 3})}, "4 bytes that"),
    ],
)
def test_answers_of_other_clients_are_left_out(content, reason, caplog):
    spoil = lambda reply, turn: Message(RecordDict(dict(content)), reply_to=_asked(reply))  # noqa: E731
    with caplog.at_level(logging.WARNING, "tfprune"):
        run(Here(spoil), rounds=1)
    assert reason in caplog.text


def test_a_mask_of_another_pattern_is_left_out(caplog):
    model = flower_app.make_model(tfprune.patterns.Block(2, 1))
    strategy = MaskedFedAvg(check_masks=model.check_masks, fraction_evaluate=0.0)
    with caplog.at_level(logging.WARNING, "tfprune"):
        result = strategy.start(grid=Here(), initial_arrays=ArrayRecord(model.weights), num_rounds=1)
    assert "mask of hidden/kernel with zeros as in Block" in caplog.text
    assert (
        not result.arrays and strategy.traffic.rows[0].received == 0
    )  # nothing came of it: the server's model is intact


def test_silent_and_doubled_answers_are_told(caplog):
    with caplog.at_level(logging.WARNING, "tfprune"):
        strategy, _, _ = run(Here(lambda reply, turn: [[], [reply, reply]][turn - 1]), rounds=2)
    assert "round 1 goes on without node 22: it did not answer" in caplog.text
    assert "round 2 goes on without node 22: it was not asked, or has answered before" in caplog.text
    assert [row.received for row in strategy.traffic.rows] == [1, 2]


def test_a_client_that_lost_its_masks_gets_everything_in_the_round_after():
    grid = Here()

    def forget(reply, turn):
        if turn == 1:
            grid.contexts[22].state.clear()
        return reply

    grid.spoil = forget
    strategy, _, _ = run(grid, fraction_evaluate=0.0)
    assert [row.received for row in strategy.traffic.rows] == [2, 1, 2]


def test_a_round_without_answers_leaves_the_model_of_the_server_as_it_is():
    grid = Here()
    grid.send_and_receive = lambda messages, timeout=None: grid.asked.append(list(messages)) or []
    run(grid, rounds=2, fraction_evaluate=0.0)
    first, second = (
        Update.decode(each[0].content["update"]["data"], like=model_arrays()) for each in grid.asked[::2]
    )
    for one, other in zip(first.weights, second.weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_message_without_an_update_is_refused():
    message, context = Message(RecordDict(), 11, "train"), Context(1, 11, {}, RecordDict(), {})
    with pytest.raises(ValueError, match="Use the strategy MaskedFedAvg"):
        MaskedClient(message, context, flower_app.make_model())
    with pytest.raises(TypeError, match="to be a MaskedModel or a MaskedTrainer. Received: Sequential"):
        MaskedClient(message, context, flower_app.make_model().model)


@pytest.mark.slow
def test_the_simulation_gives_the_numbers_of_a_plain_loop():
    printed = printed_by(HELPERS / "flower_app.py", folder=HELPERS, run=started)
    (line,) = [line for line in printed.splitlines() if line.startswith("RESULT ")]
    result = json.loads(line.removeprefix("RESULT "))
    for one, other in zip(result["arrays"], flower_app.plain_loop(), strict=True):
        np.testing.assert_allclose(np.array(one, "float32"), other, rtol=1e-6)
    assert [row["received"] for row in result["traffic"]["rows"]] == [2, 2]
    assert [metrics["round"] for metrics in result["metrics"]] == [1, 2]
