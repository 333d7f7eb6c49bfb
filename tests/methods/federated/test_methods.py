"""LotteryFL, FedMask and PruneFL, against the papers' rules in plain loops, and all choices tried."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from refusals import refused

from tfprune.base.spec import ArgumentError
from tfprune.federated import FedMask, LotteryFL, PruneFL
from tfprune.methods.federated.masks import _best_ratio

RANDOM, ONES = np.random.default_rng(0), [np.ones(2)]


def arrays(seed=0):
    random = np.random.default_rng(seed)
    return [random.normal(size=(6, 5)), random.normal(size=5), random.normal(size=(5, 4)), random.normal(size=5)]


FULL = [np.ones((6, 5)), None, np.ones((5, 4)), np.array([1, 0, 1, 1, 1])]  # the last are statistics


def test_lottery_drops_the_smallest_and_rewinds_exactly():
    lottery, initial, masks = LotteryFL(sparsity=0.8, prune_rate=0.3, min_accuracy=0.5), arrays(), FULL
    for turn in range(1, 20):
        trained = arrays(turn)
        weights, fewer = lottery.prune(trained, masks, initial_weights=initial, accuracy=0.9)
        for index in (0, 2):
            before, after = np.asarray(masks[index], bool), fewer[index]
            assert not (after & ~before).any()  # it only shrinks
            lost = before & ~after
            if lost.any():
                assert np.abs(trained[index][lost]).max() <= np.abs(trained[index][after]).min()
                assert lost.sum() <= round(0.3 * before.sum())
        if all(np.array_equal(one, other) for one, other in zip(masks, fewer, strict=True) if one is not None):
            break
        for index in (0, 2):
            np.testing.assert_array_equal(weights[index], np.where(fewer[index], initial[index], 0))
        np.testing.assert_array_equal(weights[1], initial[1])
        np.testing.assert_array_equal(weights[3], np.where([1, 0, 1, 1, 1], initial[3], 0))
        masks = fewer
    assert turn < 10
    assert [int(masks[index].sum()) for index in (0, 2)] == [6, 4]  # 80 % of 30 and 20 are gone


def test_lottery_waits_until_the_model_is_good_enough():
    lottery, trained = LotteryFL(sparsity=0.8, min_accuracy=0.5), arrays(1)
    weights, masks = lottery.prune(trained, FULL, initial_weights=arrays(), accuracy=0.5)
    for one, other in zip(masks, FULL, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(weights[0], trained[0])
    assert weights[3][1] == 0  # what the client does not own is not there


def test_lottery_ends_at_its_target():
    lottery, half = LotteryFL(sparsity=0.5, prune_rate=0.9), [np.arange(10).reshape(2, 5) < 5]
    weights, masks = lottery.prune([np.ones((2, 5))], half, initial_weights=[np.zeros((2, 5))], accuracy=1.0)
    np.testing.assert_array_equal(masks[0], half[0])
    assert weights[0].sum() == 5


def test_learned_masks_follow_the_gradient():
    """A weight whose removal lowers the loss loses its score: the loss here is the sum of the masked weights."""
    method, weights = FedMask(sparsity=0.5, learning_rate=4.0), [np.array([[2.0, -3.0], [1.0, -0.5]]), np.ones(2)]
    scores = method.scores(weights)
    np.testing.assert_array_equal(scores[0], [[1, 1], [-1, -1]])
    assert scores[1] is None
    slope = np.exp(-1.0) / (1 + np.exp(-1.0)) ** 2  # of the sigmoid at 1 and at -1
    stepped = method.step(scores, [np.ones((2, 2)), np.ones(2)], weights=weights)
    np.testing.assert_allclose(stepped[0], np.array([[1, 1], [-1, -1]]) - 4 * slope * weights[0])
    np.testing.assert_array_equal(method.masks(stepped)[0], [[False, True], [False, False]])


def test_only_entries_of_two_clients_are_shared():
    method = FedMask(sparsity=0.5)
    masks = [[np.array([[1, 1, 0, 0]]), None], [np.array([[1, 0, 1, 0]]), None], [np.array([[1, 0, 1, 0]]), None]]
    (fraction, is_shared), rest = method.average(masks, client_weights=[2, 1, 1])
    np.testing.assert_array_equal(fraction, [[1, 0.5, 0.5, 0]])
    np.testing.assert_array_equal(is_shared, [[True, False, True, False]])
    personal = method.personal([np.array([[-1.0, -1, -1, -1]]), None], [(fraction, is_shared), rest])
    np.testing.assert_array_equal(method.masks(personal)[0], [[True, False, False, False]])
    assert personal[1] is None and personal[0][0, 1] == -1


def test_the_best_ratio_is_that_of_all_choices():
    for seed in range(200):
        random = np.random.default_rng(seed)
        gains, costs = random.exponential(size=8), random.uniform(0.05, 1, 8)
        gain, cost = random.exponential(), random.uniform(0.1, 2)
        chosen = _best_ratio(gains, costs, gain=gain, cost=cost)
        tried = [np.array(choice, bool) for choice in itertools.product([0, 1], repeat=8)]
        best = max((gain + gains[each].sum()) / (cost + costs[each].sum()) for each in tried)
        assert (gain + gains[chosen].sum()) / (cost + costs[chosen].sum()) == pytest.approx(best, rel=1e-12)


def test_a_limit_takes_the_best_first():
    chosen = _best_ratio(np.array([5.0, 9, 7]), np.ones(3), gain=0.0, cost=1.0, most=2)
    assert chosen.tolist() == [False, True, True]
    assert not _best_ratio(np.empty(0), np.empty(0), gain=1.0, cost=1.0).any()


def test_prune_fl_by_a_plain_loop():
    weights, masks = arrays(), [RANDOM.random((6, 5)) < 0.5, None, RANDOM.random((5, 4)) < 0.5, None]
    squares = [RANDOM.exponential(size=array.shape) for array in weights]
    method = PruneFL(seconds=(0.02, None, 0.05, None), constant=1.0, change_rate=0.4, halving=100)
    found = method.masks(weights, masks, squares=squares, round=100)
    base, candidates, gain, time = {}, [], squares[1].sum() + squares[3].sum(), 1.0
    for index, seconds in ((0, 0.02), (2, 0.05)):
        alive = sorted(np.flatnonzero(masks[index]), key=lambda at, index=index: abs(weights[index].flat[at]))
        stays = set(alive[int(0.2 * len(alive)) :])  # 0.4 has halved once
        base[index] = stays
        gain += sum(squares[index].flat[at] for at in stays)
        time += seconds * len(stays)
        rest = set(range(weights[index].size)) - stays
        candidates += [
            (squares[index].flat[at] / seconds, squares[index].flat[at], seconds, index, at) for at in rest
        ]
    for ratio, more, seconds, index, at in sorted(candidates, reverse=True):
        if ratio <= gain / time:
            break
        gain, time = gain + more, time + seconds
        base[index].add(at)
    for index in (0, 2):
        assert set(np.flatnonzero(found[index])) == base[index]
    assert found[1] is None and found[3] is None


def test_the_density_is_a_limit():
    method = PruneFL(seconds=(1e-9,), constant=1.0, density=0.5)
    (mask,) = method.masks([RANDOM.normal(size=(4, 5))], [np.zeros((4, 5))], squares=[np.ones((4, 5))], round=0)
    assert mask.sum() == 10


@pytest.mark.parametrize(
    ("kind", "argument", "make"),
    [
        (ArgumentError, "sparsity", lambda: LotteryFL(sparsity=80)),
        (ArgumentError, "prune_rate", lambda: LotteryFL(sparsity=0.8, prune_rate=0)),
        (ArgumentError, "votes", lambda: FedMask(sparsity=0.5, votes=0)),
        (ArgumentError, "client_weights", lambda: FedMask(sparsity=0.5).average([[None]], client_weights=[0])),
        (
            ArgumentError,
            "masks",
            lambda: FedMask(sparsity=0.5).average([[None], [np.ones(2)]], client_weights=[1, 1]),
        ),
        (ArgumentError, "seconds", lambda: PruneFL(seconds=(0.0,), constant=1.0)),
        (ArgumentError, "constant", lambda: PruneFL(seconds=(1.0,), constant=0)),
        (
            ArgumentError,
            "seconds",
            lambda: PruneFL(seconds=(None,), constant=1.0).masks(ONES, ONES, squares=ONES, round=0),
        ),
        (
            ArgumentError,
            "squares",
            lambda: PruneFL(seconds=(1.0,), constant=1.0).masks([np.ones(2)], [None], squares=[-np.ones(2)], round=0),
        ),
        (
            ArgumentError,
            "weights",
            lambda: LotteryFL(sparsity=0.5).prune([np.ones(2)], [None], initial_weights=[np.ones(3)], accuracy=1.0),
        ),
    ],
)
def test_bad_input_is_refused(kind, argument, make):
    with refused(kind, argument):
        make()
