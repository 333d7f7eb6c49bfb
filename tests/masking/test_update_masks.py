"""Mask updates: exact counts, slots, latent values that come back, and errors that leave everything as it was."""

from __future__ import annotations

import dataclasses
import itertools
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tiers import first, in_test_all

import tfprune
from tfprune import patterns
from tfprune.masking import update_masks as masks
from tfprune.masking.strip import wrappers
from tfprune.models.anatomy import kernels, uses


def dense(units: int = 10, inputs: int = 10, **kwargs) -> keras.Model:
    return tfprune.wrap(keras.Sequential([keras.Input((inputs,)), layers.Dense(units, name="dense")]), **kwargs)


def conv_net() -> keras.Model:
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(7, 3, name="conv")(image)
    x = layers.Dense(11, name="middle")(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(image, layers.Dense(2, name="head")(x))
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))
    return model


def set_kernel(model: keras.Model, values, name: str = "dense") -> None:
    kernel = model.get_layer(name).layer.kernel
    kernel.assign(np.reshape(np.asarray(values, "float32"), kernel.shape))


def kernel_of(model: keras.Model, name: str = "dense") -> np.ndarray:
    return model.get_layer(name).layer.kernel.numpy()


def mask_of(model: keras.Model, name: str = "dense") -> np.ndarray:
    return model.get_layer(name).masks["kernel"].numpy()


def snapshot(model: keras.Model) -> list[np.ndarray]:
    return [variable.numpy() for variable in model.variables]


@pytest.mark.parametrize("sparsity", [0, 0.1, 0.37, 0.5, 0.8, 0.95, 0.999])
def test_every_weight_has_exactly_its_zeros(sparsity):
    model = tfprune.wrap(conv_net())
    report = tfprune.update_masks(model, sparsity)
    assert [row.path for row in report.rows] == ["conv/kernel", "middle/kernel", "head/kernel"]
    for row in report.rows:
        assert row.nnz == max(row.size - round(sparsity * row.size), 1)
        layer = model.get_layer(row.layer)
        truth = np.sort(np.abs(layer.latent("kernel")).ravel())[-row.nnz :]
        np.testing.assert_array_equal(
            np.sort(np.abs(layer.layer.kernel.numpy()[layer.masks["kernel"].numpy() > 0])), truth
        )


def test_ties_are_broken_by_position():
    model = dense(1, 6)
    set_kernel(model, [0.1, 0.1, 0.1, 0.1, 0.2, 0.3])
    assert tfprune.update_masks(model, 0.5).nnz == 3
    np.testing.assert_array_equal(mask_of(model).ravel(), [1, 0, 0, 0, 1, 1])
    flat = dense(1, 100)
    set_kernel(flat, np.ones(100))
    assert tfprune.update_masks(flat, 0.9).nnz == 10


def test_global_allocation_ranks_all_weights_together():
    model = tfprune.wrap(conv_net())
    values = np.concatenate([np.abs(kernel_of(model, name)).ravel() for name in ("conv", "middle", "head")])
    report = tfprune.update_masks(model, 0.8, allocation="global")
    threshold = np.sort(values)[round(0.8 * values.size)]
    for name in ("conv", "middle", "head"):
        layer = model.get_layer(name)
        np.testing.assert_array_equal(layer.masks["kernel"], np.abs(layer.latent("kernel")) >= threshold)
    assert report.size - report.nnz == round(0.8 * values.size)


@pytest.mark.parametrize("allocation", ["erk", "lamp"])
def test_other_allocations_reach_the_overall_sparsity(allocation):
    report = tfprune.update_masks(tfprune.wrap(conv_net()), 0.8, allocation=allocation)
    assert report.sparsity == pytest.approx(0.8, abs=2 / report.size)
    assert len({round(row.sparsity, 2) for row in report.rows}) > 1


def test_flops_are_counted_by_the_positions_of_each_kernel():
    """By hand, 8 x 8 x 3: 36 positions of a 3x3 convolution, and 1 of each dense layer."""
    report = tfprune.update_masks(tfprune.wrap(conv_net()), 0.8, allocation="flops")
    left = [36 * report.rows[0].nnz, *(row.nnz for row in report.rows[1:])]
    assert sum(left) == pytest.approx(0.2 * (36 * 3 * 3 * 3 * 7 + 7 * 11 + 11 * 2), abs=36)


def maps() -> keras.Model:
    image = keras.Input((9, 9, 3))
    x = layers.SeparableConv2D(6, 3, strides=2, padding="same")(layers.Conv2D(4, 3)(image))
    x = layers.Conv2DTranspose(5, 3, strides=2)(x)
    x = layers.DepthwiseConv2D(3, dilation_rate=2, depth_multiplier=2)(x)
    x = layers.LSTM(5, return_sequences=True)(layers.Dense(4)(layers.Reshape((-1, 10))(x)))
    return keras.Model(image, layers.Conv1D(2, 3, groups=1, padding="same")(x))


def test_multiplications_are_those_that_a_plan_counts():
    model = maps()
    counted = sum(
        uses(layer, kernel) * np.prod(kernel.variable.shape) for layer in model.layers for kernel in kernels(layer)
    )
    assert 2 * counted == tfprune.plan_shrink(model, tfprune.budget(flops=0.9)).flops


@pytest.mark.parametrize(
    ("layer", "shape", "found"),
    [
        (layers.Conv2D(4, 3, name="open"), (None, 8, 3), "open/kernel"),
        (layers.LSTM(4, name="open"), (None, 3), "open/kernel"),
        (layers.EinsumDense("abc,cde->abde", (None, 2, 3), name="einsum"), (5, 4), "einsum/kernel"),
    ],
)
def test_flops_refuse_a_weight_with_an_unknown_number_of_multiplications_before_training(layer, shape, found):
    """A fit that stops at its first mask update, minutes later, is what this prevents."""
    image = keras.Input(shape)
    model = tfprune.wrap(keras.Model(image, layer(image)))
    message = f"Received: {found}, which is multiplied an unknown number of times"
    before = snapshot(model)
    with pytest.raises(ValueError, match=message):
        tfprune.update_masks(model, 0.5, allocation="flops")
    model.compile("sgd", "mse")
    schedule = tfprune.schedules.Polynomial(0.5, begin=1, end=2)
    x = np.zeros((4, *(size or 6 for size in shape)), np.float32)
    with pytest.raises(ValueError, match=message):
        model.fit(
            x,
            model.predict(x, verbose=0),
            verbose=0,
            callbacks=[tfprune.PruningCallback(schedule, allocation="flops")],
        )
    assert all((now == then).all() for now, then in zip(snapshot(model)[: len(before)], before, strict=True))


def test_a_dict_gives_weights_their_own_sparsity():
    model = tfprune.wrap(conv_net())
    tfprune.update_masks(model, 0.3)
    before = mask_of(model, "head")
    rules = {"conv": 0.9, "head": None}
    rows = {row.layer: row for row in tfprune.update_masks(model, 0.5, allocation=rules).rows}
    assert {name: row.size - row.nnz for name, row in rows.items()} == {
        "conv": round(0.9 * 189),
        "middle": round(0.5 * 77),
        "head": round(0.3 * 22),
    }
    np.testing.assert_array_equal(mask_of(model, "head"), before)


def test_a_function_is_an_allocation():
    rows = tfprune.update_masks(tfprune.wrap(conv_net()), 0.5, allocation=lambda weights, s: [0, s, None]).rows
    assert [row.size - row.nnz for row in rows] == [0, round(77 / 2), 0]


def test_patterns_hold_in_keras_order():
    model = dense(6, 8, pattern=patterns.NM(2, 4))
    tfprune.update_masks(model, 0.5)
    assert (mask_of(model).T.reshape(6, 2, 4).sum(axis=2) == 2).all()
    blocks = dense(6, 8, pattern=patterns.Block(3, 4))
    tfprune.update_masks(blocks, 0.5)
    sums = mask_of(blocks).T.reshape(2, 3, 2, 4).sum(axis=(1, 3))
    assert sorted(sums.ravel()) == [0, 0, 12, 12]


@pytest.mark.parametrize("how", ["layer", "part"])
def test_a_frozen_layer_never_changes(how):
    if how == "layer":
        model = tfprune.wrap(conv_net())
        model.get_layer("middle").trainable = False
    else:
        inner = keras.layers.Bidirectional(layers.LSTM(3, name="one"), name="middle")
        model = tfprune.wrap(keras.Sequential([keras.Input((4, 2)), inner, layers.Dense(2)]))
        model.get_layer("middle").layer.forward_layer.trainable = False
    frozen = model.get_layer("middle")
    names = [name for name, kernel in frozen.kernels.items() if not kernel.variable.trainable]
    values = [frozen.kernels[name].variable.numpy() for name in names]
    report = tfprune.update_masks(model, 0.5)
    assert names and len(names) < len(report.rows)
    for name, value in zip(names, values, strict=True):
        np.testing.assert_array_equal(frozen.kernels[name].variable, value)
        assert frozen.masks[name].numpy().all()
    rows = {row.path: row for row in report.rows}
    assert all(rows[f"middle/{name}"].nnz == rows[f"middle/{name}"].size for name in names)
    assert sum(row.nnz < row.size for row in report.rows) == len(report.rows) - len(names)


def test_a_model_frozen_as_a_whole_is_left_alone():
    model = dense()
    model.trainable = False
    before = snapshot(model)
    assert tfprune.update_masks(model, 0.5).sparsity == 0
    for old, new in zip(before, snapshot(model), strict=True):
        np.testing.assert_array_equal(old, new)


OPTIMIZERS = {
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "adam": lambda: keras.optimizers.Adam(0.01, amsgrad=True),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01, momentum=0.5, centered=True),
    "nadam": lambda: keras.optimizers.Nadam(0.01),
    "adamax": lambda: keras.optimizers.Adamax(0.01),
    "adadelta": lambda: keras.optimizers.Adadelta(0.1),
    "lion": lambda: keras.optimizers.Lion(0.01),
    "ftrl": lambda: keras.optimizers.Ftrl(0.1, l1_regularization_strength=0.01),
    "adagrad": lambda: keras.optimizers.Adagrad(0.1),
    "adafactor": lambda: keras.optimizers.Adafactor(0.01),
    "lamb": lambda: keras.optimizers.Lamb(0.01),
    "average": lambda: keras.optimizers.SGD(0.1, momentum=0.9, use_ema=True, ema_overwrite_frequency=3),
    "loss_scale": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.1, momentum=0.9, weight_decay=0.1)
    ),
    "accumulation": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=3),
}
QUICK = {"momentum", "adam", "average", "loss_scale", "accumulation"}  # `make test-all` takes all optimizers
X = np.random.default_rng(4).normal(size=(64, 10)).astype("float32")
Y = np.random.default_rng(5).normal(size=(64, 10)).astype("float32")


@pytest.mark.parametrize("name", [name if name in QUICK else in_test_all(name) for name in OPTIMIZERS])
def test_masked_entries_stay_where_they_are_under_every_optimizer(name):
    model = dense()
    model.compile(OPTIMIZERS[name](), "mse")
    model.fit(X, Y, batch_size=16, epochs=2, verbose=0)
    tfprune.update_masks(model, 0.6)
    hidden, latent = mask_of(model) == 0, model.get_layer("dense").latent("kernel")
    divisors = ("_kernel_accumulator", "_kernel_velocity" if name == "adafactor" else "none")  # never zero
    slots = [v for v in model.optimizer.variables if tuple(v.shape) == (10, 10) and not v.name.endswith(divisors)]
    assert slots or name in ("adafactor", "adagrad")

    def check():
        assert np.count_nonzero(kernel_of(model)[hidden]) == 0
        np.testing.assert_array_equal(model.get_layer("dense").latent("kernel")[hidden], latent[hidden])
        for slot in slots:
            assert np.count_nonzero(slot.numpy()[hidden]) == 0, slot.name

    check()
    model.fit(X, Y, batch_size=16, epochs=5, verbose=0)  # 20 updates
    check()
    change = np.abs(model.get_layer("dense").latent("kernel") - latent)[~hidden]
    assert np.isfinite(change).all() and change.max() > 1e-5


def test_slots_of_survivors_and_of_other_weights_are_kept():
    model = tfprune.wrap(
        keras.Sequential([keras.Input((10,)), layers.Dense(10, name="dense"), layers.Dense(10, name="dense_k")])
    )
    model.compile(keras.optimizers.Adam(0.01), "mse")
    model.fit(X, Y, batch_size=16, verbose=0)
    before = {v.path: v.numpy() for v in model.optimizer.variables}
    tfprune.update_masks(model, 0.5, allocation={"dense_k/": None})
    for variable in model.optimizer.variables:
        expected = before[variable.path]
        if variable.path.split("/")[-1].startswith("dense_kernel_"):
            expected = expected * mask_of(model)
        np.testing.assert_array_equal(variable, expected)


def test_an_optimizer_of_a_loop_of_ones_own():
    model, optimizer = dense(), keras.optimizers.SGD(0.1, momentum=0.9)
    for step in range(6):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(X, training=True) - Y) ** 2)
        optimizer.apply_gradients(
            zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=True)
        )
        if step in (2, 4):
            tfprune.update_masks(model, 0.2 * step, optimizer=optimizer)
    hidden = mask_of(model) == 0
    assert hidden.sum() == 80
    momentum = next(v for v in optimizer.variables if tuple(v.shape) == (10, 10))
    assert np.count_nonzero(momentum.numpy()[hidden]) == 0 < np.count_nonzero(momentum)
    assert np.count_nonzero(kernel_of(model)[hidden]) == 0


def test_a_masked_weight_revives_when_the_survivors_shrink_below_it():
    model = dense(1, 4)
    set_kernel(model, [4, 3, 2, 1])
    tfprune.update_masks(model, 0.5)
    np.testing.assert_array_equal(kernel_of(model).ravel(), [4, 3, 0, 0])
    kernel = model.get_layer("dense").layer.kernel
    kernel.assign(kernel * keras.ops.reshape([1.0, 0.5, 1.0, 1.0], (4, 1)))
    tfprune.update_masks(model, 0.5)
    np.testing.assert_array_equal(kernel_of(model).ravel(), [4, 0, 2, 0])
    np.testing.assert_array_equal(model.get_layer("dense").latent("kernel").ravel(), [4, 1.5, 2, 1])
    tfprune.update_masks(model, 0)
    np.testing.assert_array_equal(kernel_of(model).ravel(), [4, 1.5, 2, 1])


def test_values_assigned_from_outside_are_ranked_instead_of_the_latents():
    model = dense(1, 4)
    set_kernel(model, [4, 3, 2, 1])
    tfprune.update_masks(model, 0.5)
    set_kernel(model, [1, 2, 3, 4])
    tfprune.update_masks(model, 0.5)
    np.testing.assert_array_equal(kernel_of(model).ravel(), [0, 0, 3, 4])


def test_weights_keep_their_zeros_while_masks_are_chosen():
    model = dense(1, 4)
    set_kernel(model, [4, 3, 2, 1])
    tfprune.update_masks(model, 0.5)
    seen = []

    def uniform(weights, sparsity):
        scores = weights[0].scores()
        seen.append([scores.ravel().tolist(), kernel_of(model).ravel().tolist()])
        return [sparsity]

    tfprune.update_masks(model, 0.25, allocation=uniform)
    assert seen == [[[4, 3, 2, 1], [4, 3, 0, 0]]]
    np.testing.assert_array_equal(kernel_of(model).ravel(), [4, 3, 2, 0])


def test_finite_weights_whose_sum_is_not_are_pruned():
    model = dense(4, 2)
    set_kernel(model, np.full((4, 2), 3e38))
    assert tfprune.update_masks(model, 0.5).sparsity == 0.5


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("allocation", ["uniform", "global", "lamp"])
def test_weights_that_are_not_finite_are_refused_and_nothing_changes(bad, allocation):
    model = tfprune.wrap(conv_net())
    tfprune.update_masks(model, 0.3)
    values = kernel_of(model, "head").copy()
    values[0, 0] = bad
    set_kernel(model, values, "head")
    before = snapshot(model)
    with pytest.raises(ValueError, match="Expected finite values in head/kernel. Received: NaN or infinity"):
        tfprune.update_masks(model, 0.5, allocation=allocation)
    for old, new in zip(before, snapshot(model), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_sparsity_the_pattern_cannot_reach_changes_nothing():
    model = tfprune.wrap(conv_net(), pattern=patterns.NM(2, 3))
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"at most 1 - n/m = 0.333333"):
        tfprune.update_masks(model, 0.5, allocation={"conv": 0.1})
    for old, new in zip(before, snapshot(model), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: tfprune.update_masks(dense(), 1.0), ValueError, "sparsity=1.0"),
        (lambda: tfprune.update_masks(dense(), 50), ValueError, "For 50 % pass 0.5"),
        (lambda: tfprune.update_masks(dense(), "half"), TypeError, "sparsity='half'"),
        (lambda: tfprune.update_masks(dense(), None), TypeError, "sparsity=None"),
        (lambda: tfprune.update_masks(conv_net(), 0.5), ValueError, "which has none. Use the model that"),
        (lambda: tfprune.update_masks(dense(), 0.5, allocation={"dnse": 0.1}), ValueError, "'dnse'"),
        (lambda: tfprune.update_masks(dense(), 0.5, allocation={"(": 0.1}), ValueError, "regular expressions"),
        (lambda: tfprune.update_masks(dense(), 0.5, allocation="even"), ValueError, "allocation='even'"),
        (lambda: tfprune.update_masks(tfprune.Pruned(layers.Dense(2, name="raw")), 0.5), ValueError, "Received: raw"),
        (lambda: tfprune.update_masks(dense(), 0.5, optimizer=keras.optimizers.Muon()), ValueError, "Received: Muon"),
        (lambda: tfprune.update_masks(dense(), 0.5, optimizer="adam"), TypeError, "optimizer='adam'"),
        (lambda: tfprune.update_masks("model", 0.5), TypeError, "Received: model='model'"),
        (lambda: tfprune.update_masks(_wrapped_twice(), 0.5), ValueError, "second/kernel, which are the same"),
        (lambda: masks.check_optimizer(_scaled_muon()), ValueError, "Received: Muon"),
        (
            lambda: masks.check_optimizer(keras.optimizers.ScheduleFreeAdamW()),
            ValueError,
            "keeps a copy of each weight",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()


def _wrapped_twice() -> keras.Model:
    layer = layers.Dense(3)
    layer.build((None, 2))
    first, second = (tfprune.Pruned(layer, name=name) for name in ("first", "second"))
    inputs = keras.Input((2,))
    return keras.Model(inputs, [first(inputs), second(inputs)])


def _scaled_muon() -> keras.optimizers.Optimizer:
    return keras.optimizers.LossScaleOptimizer(keras.optimizers.Muon())


def test_one_shot_pruning_needs_no_compile_and_works_on_one_layer():
    model = dense()
    assert tfprune.update_masks(model, 0.9).nnz == 10
    layer = tfprune.Pruned(layers.Dense(4))
    layer.build((None, 5))
    assert tfprune.update_masks(layer, 0.5).nnz == 10


def test_the_random_criterion_repeats_itself():
    first, second = dense(criterion="random"), dense(criterion="random")
    tfprune.update_masks(first, 0.5), tfprune.update_masks(second, 0.5)
    np.testing.assert_array_equal(mask_of(first), mask_of(second))
    assert 40 < np.count_nonzero(kernel_of(first)) <= 50


def test_a_share_that_a_pattern_cannot_reach_names_the_weight():
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, name="a"), keras.layers.Dense(8, name="b")])
    wrapped = tfprune.wrap(model, pattern=tfprune.patterns.NM(2, 4))
    kernel = wrapped.get_layer("a").kernels["kernel"].variable
    kernel.assign(kernel * 100)
    with pytest.raises(ValueError, match=r"^b/kernel cannot be pruned .* at most 1 - n/m = 0.5 .* Received: 0\.\d+"):
        tfprune.update_masks(wrapped, 0.4, allocation="global")
    assert tfprune.sparsity_report(wrapped).sparsity == 0


def test_an_error_halfway_leaves_every_variable_as_it_was():
    @dataclasses.dataclass(frozen=True)
    class Fails(tfprune.criteria.Criterion):
        def __call__(self, evidence):
            if evidence.path.startswith("b"):
                raise ValueError("no scores for b")
            return np.abs(evidence.weight)

    layers = [keras.layers.Dense(8, name="a"), keras.layers.Dense(8, name="b")]
    wrapped = tfprune.wrap(keras.Sequential([keras.Input((8,)), *layers]), criterion=Fails())
    wrapped.get_layer("a").set_mask("kernel", np.arange(64).reshape(8, 8) % 2)
    before = [np.array(variable) for variable in wrapped.variables]
    with pytest.raises(ValueError, match="no scores for b"):
        tfprune.update_masks(wrapped, 0.9)
    for variable, value in zip(wrapped.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_a_weight_that_an_allocation_looks_at_and_leaves_alone_stays_sparse():
    def look(weights, sparsity):
        return [None if weight.scores().size else sparsity for weight in weights]

    wrapped = tfprune.wrap(keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, name="a")]))
    tfprune.update_masks(wrapped, 0.5)
    before = [np.array(variable) for variable in wrapped.variables]
    tfprune.update_masks(wrapped, 0.9, allocation=look)
    for variable, value in zip(wrapped.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


SPLITS = ["uniform", "erk", "global", "lamp", {"mid": 0.999}]


@pytest.mark.parametrize(
    ("pattern", "sparsity", "allocation"),
    [
        *itertools.product(["unstructured", tfprune.patterns.Block(2, 2)], [0.999], SPLITS),
        (tfprune.patterns.NM(1, 2), 0.5, "uniform"),  # the most it takes
    ],
)
def test_no_sparsity_empties_a_layer(pattern, sparsity, allocation):
    stack = [keras.Input((2,)), layers.Dense(1, name="hidden"), layers.Dense(3, name="mid"), layers.Dense(2)]
    model = tfprune.wrap(keras.Sequential(stack), pattern=pattern)
    tfprune.update_masks(model, sparsity, allocation=allocation)
    rows = tfprune.sparsity_report(model).rows
    assert len(rows) >= 2 and all(row.nnz >= 1 for row in rows)


def changed(model: keras.Model, seed: int) -> None:
    """Give every kernel new values, as training does; masked entries keep their old ones."""
    random = np.random.default_rng(seed)
    for _, layer in wrappers(model):
        for name, kernel in layer.kernels.items():
            kernel.variable.assign(random.normal(size=kernel.variable.shape) * layer.masks[name].numpy())


def test_without_regrowth_by_hand():
    model = dense(1, 6)
    set_kernel(model, [6, 5, 4, 3, 2, 1])
    tfprune.update_masks(model, 1 / 3)
    set_kernel(model, [0.6, 0.5, 4, 0.3, 0, 0])  # all but one have shrunk below the masked 2 and 1
    tfprune.update_masks(model, 0.5, regrow=False)
    np.testing.assert_array_equal(kernel_of(model).ravel(), np.float32([0.6, 0.5, 4, 0, 0, 0]))
    tfprune.update_masks(model, 1 / 6, regrow=False)  # a lower sparsity: the largest of the masked come back
    np.testing.assert_array_equal(kernel_of(model).ravel(), np.float32([0.6, 0.5, 4, 0, 2, 1]))
    tfprune.update_masks(model, 0.5)
    np.testing.assert_array_equal(kernel_of(model).ravel(), np.float32([0, 0, 4, 0, 2, 1]))


@pytest.mark.parametrize("criterion", first("magnitude", "random"))
@pytest.mark.parametrize(
    ("pattern", "allocation"),
    [
        *[("unstructured", allocation) for allocation in ("uniform", "erk", "global", "lamp")],
        *[(pattern, "uniform") for pattern in (patterns.Block(1, 2), patterns.NM(1, 8))],
        *[("channel", "global"), (patterns.Block(1, 2), "lamp")],
    ],
)
def test_without_regrowth_masks_only_lose_entries(pattern, allocation, criterion):
    """The counts are those of an update that may regrow, from a model without masks."""
    model, fresh = (tfprune.wrap(conv_net(), pattern=pattern, criterion=criterion) for _ in range(2))
    tfprune.update_masks(model, 0.4, allocation=allocation)
    changed(model, seed=1)
    before = [mask.numpy() for _, layer in wrappers(model) for mask in layer.masks.values()]
    report = tfprune.update_masks(model, 0.6, allocation=allocation, regrow=False)
    after = [mask.numpy() for _, layer in wrappers(model) for mask in layer.masks.values()]
    for old_mask, new_mask in zip(before, after, strict=True):
        assert not (new_mask & ~old_mask).any()
    if pattern == "unstructured":  # blocks and channels of different sizes give different counts of entries
        assert report.nnz == tfprune.update_masks(fresh, 0.6, allocation=allocation).nnz
