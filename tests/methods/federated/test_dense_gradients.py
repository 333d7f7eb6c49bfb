"""Gradients at masked entries, and FedMask and PruneFL on a wrapped Keras model against the same in plain NumPy."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tfprune
from tfprune.federated import FedMask, MaskedModel, PruneFL, dense_gradients, masked_average

L = keras.layers
CLIENTS, ROUNDS, RATE = 2, 20, 0.5
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(CLIENTS, 24, 5)).astype("float32")
Y = np.stack([np.tanh(x @ RANDOM.normal(size=(5, 2))) for x in X]).astype("float32")


@pytest.fixture(scope="module")
def network():
    """Return a wrapped model, tanh(x a + b) c + d, which the tests share: each sets its weights and masks."""
    keras.utils.set_random_seed(1)
    layers = [keras.Input((5,)), L.Dense(8, "tanh", name="hidden"), L.Dense(2, name="out")]
    return MaskedModel(tfprune.wrap(keras.Sequential(layers)))


@pytest.fixture(scope="module")
def first(network):
    return [array.astype("float64") for array in network.weights]


def gradients(weights, masks, x, y):
    """Return the gradients of the mean squared error with respect to mask * weight, by the chain rule."""
    a, b, c, d = (array if mask is None else array * mask for array, mask in zip(weights, masks, strict=True))
    x, y = x.astype("float64"), y.astype("float64")
    hidden = np.tanh(x @ a + b)
    slope = 2 * (hidden @ c + d - y) / y.size
    inner = slope @ c.T * (1 - hidden**2)
    return [x.T @ inner, inner.sum(axis=0), hidden.T @ slope, slope.sum(axis=0)]


def test_masked_entries_have_the_gradient_of_the_chain_rule(network, first):
    masks = [RANDOM.random((5, 8)) < 0.3, None, np.arange(16).reshape(8, 2) % 2 == 0, None]
    network.set_masks(masks)
    network.set_weights(first)
    before = network.weights
    found = dense_gradients(network, (X[0], Y[0]), loss="mse")
    for one, other in zip(found, gradients(first, masks, X[0], Y[0]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert np.count_nonzero(found[0][~masks[0]]) == (~masks[0]).sum()
    for one, other in zip(network.weights, before, strict=True):
        np.testing.assert_array_equal(one, other)


def halves(client):
    return [(X[client][rows], Y[client][rows]) for rows in (slice(12), slice(12, 24))]


def test_fed_mask_has_the_masks_of_numpy_for_20_rounds(network, first):
    method = FedMask(sparsity=0.6, learning_rate=60.0)
    personal = [method.scores(first)] * CLIENTS
    plain = [[np.array(score) if score is not None else None for score in method.scores(first)]] * CLIENTS
    revived, start = 0, method.masks(personal[0])
    for _ in range(ROUNDS):
        personal = [
            method.fit(network, halves(client), scores=personal[client], weights=first, loss="mse")
            for client in range(CLIENTS)
        ]
        shared = method.average([method.masks(scores) for scores in personal], client_weights=[1, 3])
        personal = [method.personal(scores, shared) for scores in personal]
        plain = plain_fed_mask([[*scores] for scores in plain], first)
        for scores, others in zip(personal, plain, strict=True):
            for index in (0, 2):
                np.testing.assert_array_equal(scores[index] > 0, others[index] > 0)
                revived += int(np.count_nonzero((scores[index] > 0) & ~start[index]))
    assert revived > 20


def plain_fed_mask(scores, weights):
    for client in range(CLIENTS):
        for x, y in halves(client):
            masks = [None if score is None else score > 0 for score in scores[client]]
            slopes = gradients(weights, masks, x, y)
            for index in (0, 2):
                sigmoid = 1 / (1 + np.exp(-scores[client][index]))
                step = 60.0 * slopes[index] * weights[index] * sigmoid * (1 - sigmoid)
                scores[client][index] = scores[client][index] - step
    for index in (0, 2):
        one, other = (scores[client][index] > 0 for client in range(CLIENTS))
        fraction = np.clip((one + 3.0 * other) / 4, 0.001, 0.999)
        for client in range(CLIENTS):
            scores[client][index][one & other] = np.log(fraction / (1 - fraction))[one & other]
    return scores


def test_prune_fl_has_the_masks_of_numpy_for_20_rounds(network, first):
    method = PruneFL(seconds=(0.02, None, 0.05, None), constant=1.0, change_rate=0.5, density=0.5, every=2)
    masks = [np.abs(first[0]) > 0.3, None, np.abs(first[2]) > 0.3, None]
    server, squares = first, [np.zeros(array.shape) for array in first]
    plain, plain_masks, plain_squares = first, masks, squares
    regrown = 0
    for turn in range(1, ROUNDS + 1):
        updates = []
        for client in range(CLIENTS):
            network.set_masks(masks)
            network.set_weights(server)
            total = method.fit(network, halves(client), optimizer=keras.optimizers.SGD(RATE), loss="mse")
            squares = [one + 24 * other**2 for one, other in zip(squares, total, strict=True)]
            updates.append(network.weights)
        server = masked_average(updates, [masks] * CLIENTS, client_weights=[24] * CLIENTS, server=server)
        plain, more = plain_round(plain, plain_masks)
        plain_squares = [one + other for one, other in zip(plain_squares, more, strict=True)]
        if method.is_due(turn):
            before = masks
            masks = method.masks(server, masks, squares=squares, round=turn)
            plain_masks = method.masks(plain, plain_masks, squares=plain_squares, round=turn)
            regrown += sum(int(np.count_nonzero(masks[index] & ~before[index])) for index in (0, 2))
        for index in (0, 2):
            np.testing.assert_array_equal(masks[index], plain_masks[index])
    assert regrown > 5
    np.testing.assert_allclose(server[0], plain[0], atol=1e-4)


def plain_round(server, masks):
    """Return the average of all clients after two steps each, and 24 times their squared sums of gradients."""
    models, squares = [], [np.zeros(array.shape) for array in server]
    for client in range(CLIENTS):
        weights = [array if mask is None else array * mask for array, mask in zip(server, masks, strict=True)]
        total = [np.zeros(array.shape) for array in server]
        for x, y in halves(client):
            slopes = gradients(weights, masks, x, y)
            total = [one + other for one, other in zip(total, slopes, strict=True)]
            weights = [
                weight - RATE * (slope if mask is None else slope * mask)
                for weight, slope, mask in zip(weights, slopes, masks, strict=True)
            ]
        models.append(weights)
        squares = [one + 24 * other**2 for one, other in zip(squares, total, strict=True)]
    means = [np.mean(arrays, axis=0) for arrays in zip(*models, strict=True)]
    kept = [
        mean if mask is None else np.where(mask, mean, old)
        for mean, mask, old in zip(means, masks, server, strict=True)
    ]
    return kept, squares


def test_statistics_and_frozen_weights_have_no_gradient_and_dropout_is_on():
    keras.utils.set_random_seed(0)
    layers = [keras.Input((5,)), L.BatchNormalization(), L.Dense(64), L.Dropout(0.5), L.Dense(2, trainable=False)]
    model = MaskedModel(tfprune.wrap(keras.Sequential(layers)))
    model.model.compile("sgd", "mse")
    before = model.weights
    found = dense_gradients(model, (X[0], Y[0]))
    assert [bool(array.any()) for array in found] == [True, True, False, False, True, True, False, False]
    one, other = (dense_gradients(model, (X[0][:1], Y[0][:1]))[5] != 0 for _ in range(2))
    assert 10 < one.sum() < 54 and (one != other).any()  # half of the units are dropped, other ones in each call
    for one, other in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda model: dense_gradients(model.model, (X[0], Y[0])), TypeError, "a MaskedModel. Received: Sequential"),
        (lambda model: dense_gradients(model, X[0], loss="mse"), ValueError, r"`data` to be \(x, y\)"),
        (lambda model: dense_gradients(model, (X[0], Y[0])), ValueError, "Expected a loss"),
        (lambda model: dense_gradients(model, (X[0][:, :3], Y[0]), loss="mse"), ValueError, "inputs of shape"),
    ],
)
def test_bad_input_is_refused(make, error, message, network):
    with pytest.raises(error, match=message):
        make(network)
