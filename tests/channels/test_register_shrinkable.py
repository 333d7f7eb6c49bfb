"""Rules from outside the library, by public names alone: what they accept, and what they refuse."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tfprune

layers = keras.layers


class Mixer(layers.Layer):
    """A dense layer over the last axis, or with `flips` one that reverses the channels."""

    def __init__(self, units, *, flips=False, **options):
        super().__init__(**options)
        self.units, self.flips = units, flips

    def build(self, shape):
        self.kernel = self.add_weight(name="kernel", shape=(shape[-1], self.units))
        self.shift = self.add_weight(name="shift", shape=(self.units,), initializer="random_normal")

    def call(self, inputs):
        inputs = keras.ops.flip(inputs, axis=-1) if self.flips else inputs
        return keras.ops.matmul(inputs, self.kernel) + self.shift

    def get_config(self):
        return {**super().get_config(), "units": self.units, "flips": self.flips}


def mix(flow, call):
    layer, shape = call.layer, call.outputs[0].shape
    if layer.flips:
        raise tfprune.NoRule("it flips its channels")
    inputs = flow.along(flow.inputs(call)[0], -1)
    outputs = flow.fresh(layer.units, name=layer.name)
    size = call.inputs[0].shape[-1] if inputs is None else inputs
    flow.record(
        layer,
        {"kernel": (inputs, outputs), "shift": (outputs,)},
        config={"units": outputs},
        work=[(flow.positions(shape, -1), (size, outputs))],
    )
    return [flow.placed(len(shape), -1, outputs)]


tfprune.register_shrinkable(Mixer, mix)


def network(*middle):
    stack = [
        keras.Input((5, 3)),
        Mixer(8, name="first"),
        *middle,
        Mixer(6, name="second"),
        layers.Dense(2, name="out"),
    ]
    return keras.Sequential(stack)


def reasons(plan):
    return {entry.layer: entry.reason for entry in plan.skipped}


class Scale(layers.Layer):
    """One factor for each channel that arrives: no argument counts them."""

    def build(self, shape):
        self.factors = self.add_weight(name="factors", shape=(shape[-1],), initializer="random_normal")

    def call(self, inputs):
        return inputs * self.factors


def scale(flow, call):
    layout = flow.inputs(call)[0]
    flow.record(call.layer, {"factors": layout[-1:]})
    return [layout]


tfprune.register_shrinkable(Scale, scale)


def test_a_layer_whose_input_alone_counts_its_weights_gets_smaller():
    keras.utils.set_random_seed(1)
    model = network(Scale(name="scale"))
    plan = tfprune.plan_shrink(model, 0.5)
    smaller, data = tfprune.shrink(model, plan), np.random.default_rng(0).normal(size=(2, 5, 3))
    assert smaller.get_layer("scale").factors.shape == (4,)
    np.testing.assert_allclose(smaller(data), tfprune.zero_channels(model, plan)(data), atol=1e-6)


def test_a_rule_accepts():
    keras.utils.set_random_seed(1)
    model = network()
    plan = tfprune.plan_shrink(model, 0.5)
    assert {row.group: (row.channels, row.kept) for row in plan.rows} == {
        "first": (8, 4),
        "second": (6, 3),
        "out": (2, 2),
    }
    assert plan.flops == 2 * 5 * (3 * 8 + 8 * 6 + 6 * 2)
    assert plan.flops_kept == 2 * 5 * (3 * 4 + 4 * 3 + 3 * 2)
    smaller, data = tfprune.shrink(model, plan), np.random.default_rng(1).normal(size=(4, 5, 3))
    assert [weight.shape for weight in smaller.get_layer("second").weights] == [(4, 3), (3,)]
    np.testing.assert_allclose(smaller(data), tfprune.zero_channels(model, plan)(data), atol=1e-6)


def test_a_rule_refuses_and_the_plan_says_why():
    plan = tfprune.plan_shrink(network(Mixer(7, flips=True, name="flipper")), 0.5)
    assert {row.group: row.kept for row in plan.rows} == {"first": 8, "second": 3, "out": 2}
    assert reasons(plan) == {"first": "flipper: it flips its channels", "out": "an output of the model"}
    assert "first    flipper: it flips its channels" in str(plan)


def test_along_refuses_channels_along_another_axis():
    class Last(layers.Layer):
        def call(self, inputs):
            return inputs

    def follow(flow, call):
        return [flow.placed(3, -1, flow.along(flow.inputs(call)[0], -1))]

    tfprune.register_shrinkable(Last, follow)
    plan = tfprune.plan_shrink(network(layers.Permute((2, 1)), Last(name="last"), layers.Permute((2, 1))), 0.5)
    assert reasons(plan)["first"] == "last: it takes channels along axis 2 only"


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        (lambda layout: [], "its rule returns 0 layouts for 1 outputs"),
        (lambda layout: [layout[:2]], "gives an output of shape (None, 5, 8) channels of sizes [None, None]"),
        (lambda layout: [(None, None, layout[2][:4])], "channels of sizes [None, None, 4]"),
    ],
)
def test_a_rule_that_returns_what_does_not_fit_is_named(returned, reason):
    class Wrong(layers.Layer):
        def call(self, inputs):
            return inputs

    tfprune.register_shrinkable(Wrong, lambda flow, call: returned(flow.inputs(call)[0]))
    assert reason in reasons(tfprune.plan_shrink(network(Wrong(name="wrong")), 0.5))["first"]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((Mixer(3),), TypeError, r"Expected a subclass of keras.layers.Layer. Received: layer_class=<Mixer"),
        ((int,), TypeError, "Expected a subclass of keras.layers.Layer. Received: layer_class=<class 'int'>"),
        ((Mixer, "dense"), ValueError, "\"elementwise\" or a function. Received: rule='dense'"),
        ((Mixer, 3), TypeError, '"elementwise" or a function. Received: rule=3'),
    ],
)
def test_what_cannot_be_registered_is_refused(arguments, error, text):
    with pytest.raises(error, match=text):
        tfprune.register_shrinkable(*arguments)
