"""Training that is sparse from the first step: RigL and SET against NumPy, exact counts, slots, and resumed runs."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers
from tiers import first

import tfprune
from tfprune import patterns
from tfprune.masking.grow import _stay
from tfprune.schedules import Alternating, Constant, Polynomial

RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 8, 8, 2)).astype("float32")
Y = RNG.normal(size=(32, 3)).astype("float32")
X1, Y1 = X[:, 0, :, 0], Y[:, :1]
PATHS = ("conv/kernel", "lstm/kernel", "lstm/recurrent_kernel", "out/kernel")


def network(latent: str = "keep", optimizer: str = "adam") -> keras.Model:
    """Return a model with a convolution, a recurrent layer and a dense layer."""
    keras.utils.set_random_seed(1)
    conv = layers.Conv2D(6, 3, activation="tanh", name="conv")
    stack = [conv, layers.Reshape((6, 36)), layers.LSTM(5, name="lstm"), layers.Dense(3, name="out")]
    model = tfprune.wrap(keras.Sequential([keras.Input(X.shape[1:]), *stack]), latent=latent)
    model.compile(optimizer, "mse")
    return model


def small(latent: str = "keep", optimizer: str = "sgd", **arguments) -> keras.Model:
    keras.utils.set_random_seed(1)
    model = tfprune.wrap(
        keras.Sequential([keras.Input((8,)), layers.Dense(1, use_bias=False, name="out")]),
        latent=latent,
        **arguments,
    )
    model.compile(optimizer, "mse")
    return model


def callback(by: str = "gradient", *, end: float = 0.75, **arguments) -> tfprune.PruningCallback:
    data = {"data": (X, Y)} if by == "gradient" else {}
    grow = tfprune.Grow(by, end=end)
    return tfprune.PruningCallback(Constant(0.8), every=3, allocation="erk", grow=grow, **data, **arguments)


def kernels(model: keras.Model) -> dict[str, tuple[np.ndarray, np.ndarray, keras.Variable]]:
    """Return values, mask and variable of each pruned weight, by its path."""
    return {
        f"{layer.name}/{name}": (kernel.variable.numpy(), layer.masks[name].numpy(), kernel.variable)
        for layer in model.layers
        if isinstance(layer, tfprune.Pruned)
        for name, kernel in layer.kernels.items()
    }


class Record(keras.callbacks.Callback):
    """Keep values and masks after each step, and check that nothing under a mask has a value or a slot."""

    def __init__(self):
        super().__init__()
        self.states = []

    def on_train_batch_end(self, batch, logs=None):
        by_path = kernels(self.model)
        assert tuple(by_path) == PATHS
        for values, mask, variable in by_path.values():
            slots = [slot for slot in self.model.optimizer.variables if variable.path.replace("/", "_") in slot.name]
            assert len(slots) == 2  # m and v of Adam
            for array in (values, *slots):
                assert np.count_nonzero(np.asarray(array)[~mask]) == 0
        self.states.append({path: (values, mask) for path, (values, mask, _) in by_path.items()})


def fit(model: keras.Model, *callbacks, epochs: int = 4, **arguments) -> keras.callbacks.History:
    return model.fit(
        X, Y, batch_size=8, shuffle=False, epochs=epochs, verbose=0, callbacks=list(callbacks), **arguments
    )


def rigl(weights, gradient, mask, *, kept: int, stays: int) -> np.ndarray:
    """Return RigL's new mask by sorting: what stays by magnitude, the rest by gradient; no ties."""
    order = np.argsort(-np.where(mask, np.abs(weights), -1).ravel(), kind="stable")
    new = np.zeros(mask.size, bool)
    new[order[: min(stays, int(mask.sum()))]] = True
    free = [index for index in np.argsort(-np.abs(gradient).ravel(), kind="stable") if not new[index]]
    new[free[: kept - int(new.sum())]] = True
    return new.reshape(mask.shape)


def test_the_fraction_falls_as_in_the_paper():
    grow = tfprune.Grow(end=1000)
    assert [round(grow.at(step).fraction, 3) for step in (0, 250, 500, 750, 1000, 9000)] == [
        *(0.3, 0.256, 0.15, 0.044, 0, 0),
    ]
    assert tfprune.Grow().resolve(400, first=8) == tfprune.Grow(end=308)
    with pytest.raises(ValueError, match=re.escape("Expected `end` in steps. Received: end=0.75")):
        tfprune.Grow().at(3)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.floats(0, 0.98), st.floats(0.01, 1))
def test_a_mask_is_that_of_numpy(seed, size, sparsity, fraction):
    random = np.random.default_rng(seed)
    weights, gradient = random.normal(size=(2, size)), random.normal(size=(2, size))
    mask = random.random((2, size)) < random.random()
    pattern = patterns.Unstructured()
    stays = _stay(pattern, np.abs(weights), shown=mask, sparsity=sparsity, fraction=fraction)
    share = 1 - (1 - sparsity) * (1 - fraction)
    count = 0 if share == 1 else max(2 * size - round(share * 2 * size), 1)
    kept = max(2 * size - round(sparsity * 2 * size), 1)
    new = pattern(np.where(stays, np.inf, np.abs(gradient)), sparsity)
    np.testing.assert_array_equal(new, rigl(weights, gradient, mask, kept=kept, stays=count))
    assert new.sum() == kept


@pytest.mark.parametrize("latent", ["keep", "zero"])
def test_update_masks_swaps_by_magnitude_and_gradient(latent):
    model = small(latent)
    weights = np.array([0.5, -0.1, 0.9, 0.2, 0.7, -0.3, 0.05, 0.4], "float32")
    mask = np.array([1, 1, 0, 1, 0, 1, 0, 0], bool)
    layer = model.get_layer("out")
    layer.layer.kernel.assign(weights[:, None])
    layer.set_mask("kernel", mask[:, None])
    tfprune.update_masks(model, 0.5, grow=tfprune.Grow("gradient", fraction=0.5), data=(X1, Y1))
    sparse = weights * mask
    gradient = 2 * X1.T @ (X1 @ sparse - Y1[:, 0]) / len(X1)
    expected = rigl(weights, gradient, mask, kept=4, stays=2)
    np.testing.assert_array_equal(layer.masks["kernel"].numpy()[:, 0], expected)
    # Entries that were masked start at 0, whatever they were before.
    np.testing.assert_array_equal(layer.layer.kernel.numpy()[:, 0], np.where(expected, sparse, 0))
    assert (expected & ~mask).any()


def test_a_layer_that_is_called_twice_grows_by_the_gradient_of_both_calls():
    keras.utils.set_random_seed(1)
    inputs, shared = keras.Input((8,)), layers.Dense(8, use_bias=False, name="shared")
    model = tfprune.wrap(keras.Model(inputs, shared(shared(inputs))))
    model.compile("sgd", "mse")
    tfprune.update_masks(model, 0.75, grow=tfprune.Grow("random", fraction=1.0))
    ((weights, mask, _),) = kernels(model).values()
    hidden = X1 @ weights
    error = 2 * (hidden @ weights - X1) / X1.size
    gradient = X1.T @ error @ weights.T + hidden.T @ error
    tfprune.update_masks(model, 0.75, grow=tfprune.Grow(fraction=0.5), data=(X1, X1))
    expected = rigl(weights, gradient, mask, kept=16, stays=8)
    np.testing.assert_array_equal(model.get_layer("shared").masks["kernel"].numpy(), expected)


@pytest.mark.parametrize(("by", "latent"), first(("gradient", "keep"), ("gradient", "zero"), ("random", "keep")))
def test_a_fit_keeps_its_counts_and_grows_from_zero(by, latent):
    model, record = network(latent), Record()
    history = fit(model, callback(by), record)
    assert history.history["sparsity"] == [pytest.approx(0.8, abs=2e-3)] * 4
    counts = {path: {int(state[path][1].sum()) for state in record.states} for path in PATHS}
    assert all(len(each) == 1 for each in counts.values()), counts
    total = sum(mask.size for _, mask, _ in kernels(model).values())
    assert sum(each.pop() for each in counts.values()) == pytest.approx(0.2 * total, abs=2)
    moved = []
    for before, after in zip(record.states, record.states[1:], strict=False):
        grown = {path: after[path][1] & ~before[path][1] for path in PATHS}
        assert all(np.count_nonzero(after[path][0][grown[path]]) == 0 for path in PATHS)
        moved.append(sum(int(each.sum()) for each in grown.values()))
    due = [step for step in range(2, 17) if moved[step - 2]]
    assert due == [3, 6, 9]  # at 12, three quarters of the fit, the fraction is 0
    assert moved[1] > moved[7]


def test_the_first_masks_are_drawn_at_random_unless_there_are_some():
    model, dense = small(), small().get_layer("out").layer.kernel.numpy()
    layer, masks = model.get_layer("out"), set()
    start = tfprune.Grow("random", fraction=1.0)
    for seed in range(20):
        tfprune.update_masks(model, 0.5, grow=tfprune.Grow("random", fraction=1.0, seed=seed))
        masks.add(layer.masks["kernel"].numpy().tobytes())
    assert len(masks) > 10
    fresh = small()
    tfprune.update_masks(fresh, 0.5, grow=start)
    by_hand = fresh.get_layer("out").masks["kernel"].numpy()
    np.testing.assert_array_equal(fresh.get_layer("out").layer.kernel.numpy(), np.where(by_hand, dense, 0))
    random_model, magnitude = small(), small()
    tfprune.update_masks(magnitude, 0.5)
    before = magnitude.get_layer("out").masks["kernel"].numpy()
    for each, expected in ((random_model, by_hand), (magnitude, before)):
        growing = tfprune.PruningCallback(Constant(0.5), every=9, grow="random")
        each.fit(X1, Y1, verbose=0, batch_size=16, callbacks=[growing])
        np.testing.assert_array_equal(each.get_layer("out").masks["kernel"].numpy(), expected)


@pytest.mark.programs
@pytest.mark.parametrize("by", ["random", "gradient"])
def test_a_resumed_fit_goes_on_as_one_that_was_not_stopped(by, tmp_path):
    data = {"data": (X1, Y1)} if by == "gradient" else {}

    def go_on(model: keras.Model, **epochs) -> np.ndarray:
        growing = tfprune.PruningCallback(Constant(0.5), every=2, grow=tfprune.Grow(by, fraction=0.9, end=40), **data)
        model.fit(X1, Y1, batch_size=8, shuffle=False, verbose=0, callbacks=[growing], **epochs)
        return model.get_layer("out").masks["kernel"].numpy()

    whole, stopped = small(optimizer="adam"), small(optimizer="adam")
    masks = go_on(whole, epochs=4)
    before = go_on(stopped, epochs=2)
    stopped.save(tmp_path / "model.keras")
    resumed = keras.models.load_model(tmp_path / "model.keras")
    after = go_on(resumed, epochs=4, initial_epoch=2)
    np.testing.assert_array_equal(masks, after)
    assert by == "gradient" or (before != after).any()
    for weight, resumed_weight in zip(whole.variables, resumed.variables, strict=True):
        np.testing.assert_allclose(weight.numpy(), resumed_weight.numpy(), atol=1e-5)


def test_blocks_grow_whole():
    model = small(pattern=patterns.Block(1, 2))
    for step in range(3):
        tfprune.update_masks(model, 0.5, grow=tfprune.Grow("random", fraction=0.5, seed=step))
        mask = model.get_layer("out").masks["kernel"].numpy().reshape(-1, 2)
        assert mask.sum() == 4 and set(mask.sum(axis=1)) == {0, 2}


def test_gradual_pruning_may_grow_too():
    model = small()
    growing = tfprune.PruningCallback(Polynomial(0.5, end=12), every=2, grow=tfprune.Grow("random", end=12))
    model.fit(X1, Y1, verbose=0, batch_size=2, callbacks=[growing])
    assert model.get_layer("out").masks["kernel"].numpy().sum() == 4


def test_alternating_phases_bring_entries_back_as_zero_and_end_sparse():
    class Count(keras.callbacks.Callback):
        kept: list[int] = []

        def on_train_batch_end(self, batch, logs=None):
            self.kept.append(int(self.model.get_layer("out").masks["kernel"].numpy().sum()))
            if len(self.kept) == 6:  # back at this step, and not trained since
                self.values = self.model.get_layer("out").layer.kernel.numpy()

    model, count = small(latent="zero"), Count()
    schedule = Alternating(0.5, begin=4, end=12, cycles=2)
    model.fit(X1, Y1, verbose=0, batch_size=2, callbacks=[tfprune.PruningCallback(schedule, every=1), count])
    assert count.kept == [8, 8, 8, 4, 4, 8, 8, 4, 4, 8, 8, 4, 4, 4, 4, 4]
    assert np.count_nonzero(count.values) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"grow": "gradients"}, "Expected `grow` to be None, 'gradient', 'random', or a tfprune.Grow. Received"),
        ({"grow": "random", "regrow": False}, "Expected `grow` with a sparsity, and with regrow=True. Received"),
        ({"grow": "gradient"}, "Expected data, as grow='gradient' needs evidence: the mean over batches of dL/dw"),
        ({"grow": "random", "data": (X1, Y1)}, "Expected no `data`, because no criterion uses it"),
    ],
)  # fmt: skip
def test_what_cannot_grow_is_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        tfprune.update_masks(small(), 0.5, **arguments)


def test_other_patterns_and_budgets_are_refused_by_name():
    model = small(pattern=patterns.NM(2, 4))
    with pytest.raises(ValueError, match=r"Received: out, which is wrapped with pattern=NM\(n=2, m=4\)"):
        tfprune.update_masks(model, 0.5, grow="random")
    with pytest.raises(ValueError, match=r"Received: out, which is wrapped with pattern=NM"):
        model.fit(X1, Y1, verbose=0, callbacks=[tfprune.PruningCallback(Constant(0.5), grow="random")])
    with pytest.raises(ValueError, match=r"Received: grow='random', budget=Budget"):
        tfprune.PruningCallback(Constant(0.5), grow="random", budget=tfprune.budget(flops=0.5))
    for arguments, message in [
        ({"fraction": 1.5}, "Expected `fraction` to be a number from 0 to 1"),
        ({"end": 0}, "Expected `end` above 0"),
        ({"by": "magnitude"}, "Expected `by` to be 'gradient' or 'random'"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            tfprune.Grow(**arguments)
