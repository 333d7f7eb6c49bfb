"""Averages under masks, against numbers worked out by hand and NumPy's own average."""

from __future__ import annotations

import numpy as np
import pytest
from refusals import refused

from tfprune.base.spec import ArgumentError, ArgumentTypeError
from tfprune.federated import TrimmedMean, clip_updates, masked_average

RANDOM = np.random.default_rng(0)


def test_an_entry_is_averaged_over_the_clients_that_own_it():
    """Worked out by hand. Without the masks, the zeros of clients that lack an entry would give [3.5, 1, 0]."""
    updates, masks = (
        [[np.array([2.0, 4, 9])], [np.array([4.0, 8, 9])]],
        [[np.array([1, 1, 0])], [np.array([1, 0, 0])]],
    )
    (averaged,) = masked_average(updates, masks, client_weights=(1, 3), server=[np.full(3, 7.0)])
    np.testing.assert_array_equal(averaged, [3.5, 4, 7])


def test_full_masks_are_plain_averages():
    updates = [[RANDOM.normal(size=(3, 4)).astype("float32"), RANDOM.normal(size=5)] for _ in range(4)]
    shares = [1, 2, 3.5, 0]
    for masks in ([None] * 4, [[np.ones((3, 4)), None]] * 4):
        averaged = masked_average(updates, masks, client_weights=shares, server=updates[0])
        for index, array in enumerate(averaged):
            arrays = np.array([update[index] for update in updates], "float64")
            wanted = np.tensordot(shares, arrays, 1) / sum(shares)
            np.testing.assert_allclose(array, wanted, rtol=1e-6, atol=1e-7)
            assert array.dtype == updates[0][index].dtype


def test_of_disjoint_masks_each_entry_is_its_owners():
    mask = RANDOM.random((6, 5)) < 0.5
    one, other = RANDOM.normal(size=(2, 6, 5))
    (averaged,) = masked_average(
        [[one], [other]], [[mask], [~mask]], client_weights=[9, 1], server=[np.zeros((6, 5))]
    )
    np.testing.assert_allclose(averaged, np.where(mask, one, other), rtol=1e-15)


def test_what_nobody_owns_keeps_the_value_of_the_server_bit_for_bit():
    server = RANDOM.normal(size=40).astype("float32")
    mask, before = RANDOM.random(40) < 0.3, server.copy()
    nan = np.where(mask, 1, np.nan)  # what a client does not own is not looked at
    (averaged,) = masked_average([[nan]], [[mask]], client_weights=[2], server=[server])
    np.testing.assert_array_equal(averaged, np.where(mask, 1, before))
    np.testing.assert_array_equal(server, before)
    assert averaged is not server
    (same,) = masked_average([[nan]], [[mask]], client_weights=[1], server=[server])
    assert same.tobytes() == averaged.tobytes()


def test_an_average_is_finite_or_nothing():
    updates = [[np.full(2, 1e308)], [np.full(2, 1e308)]]
    for weights, argument in (
        ([1e308, 1], "client_weights[0]"),
        ([1, np.nan], "client_weights[1]"),
        ([1, 1], "updates"),
    ):
        with refused(ArgumentError, argument):
            masked_average(updates, [None, None], client_weights=weights, server=[np.zeros(2)])


def test_a_client_of_weight_0_owns_nothing():
    (averaged,) = masked_average(
        [[np.ones(2)], [np.full(2, 5.0)]], [None, [[1, 0]]], client_weights=[0, 1], server=[[7.0, 7]]
    )
    assert averaged.tolist() == [5, 7]


def test_counts_are_rounded():
    (averaged,) = masked_average(
        [[np.array([1])], [np.array([4])]], [None, None], client_weights=[1, 1], server=[np.array([0])]
    )
    assert averaged.dtype == int and averaged.tolist() == [2]


def test_robust_averages_are_those_of_numpy_and_scipy():
    stats = pytest.importorskip("scipy.stats")
    clients, server = RANDOM.normal(size=(7, 40)), np.full(40, 9.0)
    masks = RANDOM.random((7, 40)) < 0.6
    masks[:, 0], masks[:, 1], masks[:, 2] = False, np.arange(7) < 2, np.arange(7) < 3
    arguments = [[array] for array in clients], [[mask] for mask in masks]
    others = {"client_weights": [1, 1e15, 1, 1, 1, 1, 1], "server": [server]}  # a weight decides nothing
    (median,) = masked_average(*arguments, **others, average="median")
    (trimmed,) = masked_average(*arguments, **others, average=TrimmedMean(0.2))
    (all_owners,) = masked_average(*arguments, **others, average=TrimmedMean(0.2, min_owners=1))
    for entry in range(40):
        values = clients[masks[:, entry], entry]
        if len(values) < 3:
            assert median[entry] == trimmed[entry] == 9
            assert all_owners[entry] == pytest.approx(values.mean() if len(values) else 9)
            continue
        count = int(np.ceil(0.2 * len(values)))  # SciPy rounds down: this many and a half of the owners
        wanted = stats.trim_mean(values, (count + 0.5) / len(values)) if count * 2 < len(values) else np.nan
        assert median[entry] == pytest.approx(np.median(values), rel=1e-12)
        assert trimmed[entry] == pytest.approx(wanted, rel=1e-12)
    assert masked_average(*arguments, **others, average=TrimmedMean(0.5))[0].tolist() == median.tolist()


def test_one_hostile_client_moves_a_robust_average_no_further_than_the_others_reach():
    honest = RANDOM.normal(size=(9, 50))
    for lie in (1e6, -1e6, 1e38):
        updates = [[array] for array in [*honest, np.full(50, lie)]]
        for rule in ("median", TrimmedMean(0.1)):
            (found,) = masked_average(
                updates, [None] * 10, client_weights=[100] * 9 + [1e15], server=[np.zeros(50)], average=rule
            )
            assert (found >= honest.min(axis=0)).all() and (found <= honest.max(axis=0)).all()


def test_a_client_of_weight_0_does_not_vote():
    updates = [[np.full(2, value)] for value in (1.0, 2.0, 3.0, 1e9)]
    (found,) = masked_average(
        updates, [None] * 4, client_weights=[1, 1, 1, 0], server=[np.zeros(2)], average="median"
    )
    assert found.tolist() == [2, 2]


def test_updates_are_clipped_by_the_norm_of_what_a_client_owns():
    server = [np.array([1.0, 1.0], "float32"), np.zeros((1, 2), "float32")]
    far = [np.array([4.0, 99.0], "float32"), np.array([[4.0, 0.0]], "float32")]
    masks = [np.array([1, 0]), None]
    [near], [same] = (
        clip_updates([far], [masks], server=server, clip_norm=norm) for norm in (2.5, 5.0)
    )  # owned: (3, 4), of norm 5
    np.testing.assert_allclose(near[0], [2.5, 99])
    np.testing.assert_allclose(near[1], [[2, 0]])
    assert near[0].dtype == np.float32
    for one, other in zip(same, far, strict=True):
        np.testing.assert_array_equal(one, other)


GOOD = {
    "updates": [[np.ones(2)], [np.ones(2)]],
    "masks": [None, None],
    "client_weights": [1, 1],
    "server": [np.ones(2)],
}


@pytest.mark.parametrize(
    ("kind", "argument", "bad"),
    [
        (ArgumentError, "client_weights", {"client_weights": [0, 0]}),
        (ArgumentError, "client_weights", {"client_weights": [1]}),
        (ArgumentError, "client_weights[1]", {"client_weights": [1, -1]}),
        (ArgumentError, "client_weights[1]", {"client_weights": [1, float("nan")]}),
        (ArgumentError, "updates", {"updates": [], "masks": [], "client_weights": []}),
        (ArgumentError, "masks", {"masks": [None]}),
        (ArgumentError, "masks[1]", {"masks": [None, [np.ones(3)]]}),
        (ArgumentError, "masks[1]", {"masks": [None, [np.array([1, 2])]]}),
        (ArgumentTypeError, "masks[1]", {"masks": [None, np.ones(2)]}),
        (ArgumentError, "updates[1]", {"updates": [[np.ones(2)], [np.ones(2), np.ones(2)]]}),
        (ArgumentError, "updates[1]", {"updates": [[np.ones(2)], [np.ones((2, 1))]]}),
        (ArgumentError, "updates[1]", {"updates": [[np.ones(2)], [np.array([1, np.inf])]]}),
        (ArgumentTypeError, "updates[1]", {"updates": [[np.ones(2)], [["a", "b"]]]}),
        (ArgumentTypeError, "server", {"server": np.ones(2)}),
        (ArgumentError, "average", {"average": "mode"}),
        (ArgumentTypeError, "average", {"average": TrimmedMean}),
    ],
)
def test_bad_input_is_refused(kind, argument, bad):
    arguments = GOOD | bad
    with refused(kind, argument):
        masked_average(arguments.pop("updates"), arguments.pop("masks"), **arguments)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrimmedMean(0.6), r"`trim` to be a number in \(0, 0.5\]"),
        (lambda: TrimmedMean(0.2, min_owners=0), "`min_owners`"),
        (
            lambda: clip_updates([[np.ones(2)]], [None], server=[np.ones(2)], clip_norm=0),
            "`clip_norm` to be a number above 0",
        ),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
