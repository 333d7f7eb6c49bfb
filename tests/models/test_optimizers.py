"""Which optimizer variable belongs to which weight, found without private names."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from tfprune.models.training import slots_by_variable


def trained(model: keras.Model, optimizer) -> keras.Model:
    """Return the model after one update in which every entry of a weight has its own gradient."""
    optimizer.build(model.trainable_variables)
    optimizer.apply([keras.ops.full_like(v, index + 1.0) for index, v in enumerate(model.trainable_variables)])
    return model


def names(model: keras.Model, optimizer) -> list[set[str]]:
    slots = slots_by_variable(optimizer, model.trainable_variables)
    return [{slot.name.rpartition("_")[2] for slot in slots[id(v)]} for v in model.trainable_variables]


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (keras.optimizers.SGD(0.1), set()),
        (keras.optimizers.SGD(0.1, momentum=0.9), {"momentum"}),
        (keras.optimizers.Adam(0.1), {"momentum", "velocity"}),
        (keras.optimizers.RMSprop(0.1, use_ema=True), {"velocity", "average"}),
        (keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1, momentum=0.9)), {"momentum"}),
    ],
    ids=["sgd", "momentum", "adam", "average", "loss_scale"],
)
def test_every_weight_has_its_slots(optimizer, expected):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(3), layers.Dense(3)])
    assert names(trained(model, optimizer), optimizer) == [expected] * 4


def test_weights_of_equal_paths_get_their_own_slots():
    towers = [keras.Sequential([keras.Input((3,)), layers.Dense(3, name="dense")]) for _ in range(3)]
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layers.Add()([tower(inputs) for tower in towers]))
    optimizer = keras.optimizers.Adam(0.1, beta_1=0.0)
    trained(model, optimizer)
    slots = slots_by_variable(optimizer, model.trainable_variables)
    for index, variable in enumerate(model.trainable_variables):
        momentum, velocity = slots[id(variable)]
        assert np.unique(momentum) == pytest.approx(index + 1.0)  # with beta_1 = 0 the gradient itself
        assert np.unique(velocity) == pytest.approx(0.001 * (index + 1.0) ** 2)


def test_a_name_that_begins_with_another_is_not_mistaken_for_it():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(3, name="a"), layers.Dense(3, name="a_kernel")])
    optimizer = keras.optimizers.SGD(0.1, momentum=0.5)
    trained(model, optimizer)
    slots = slots_by_variable(optimizer, model.trainable_variables)
    for index, variable in enumerate(model.trainable_variables):
        (momentum,) = slots[id(variable)]
        assert np.unique(momentum) == pytest.approx(-0.1 * (index + 1))


def test_without_an_optimizer_or_before_it_is_built_there_are_none():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(3)])
    for optimizer in (None, keras.optimizers.Adam()):
        assert list(slots_by_variable(optimizer, model.trainable_variables).values()) == [[], []]


def test_slots_of_another_shape_are_left_out():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4)])
    optimizer = keras.optimizers.Adafactor(0.1)
    trained(model, optimizer)
    for variable, slots in zip(
        model.trainable_variables, slots_by_variable(optimizer, model.trainable_variables).values(), strict=True
    ):
        assert all(slot.shape == variable.shape for slot in slots)
