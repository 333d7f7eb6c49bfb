"""What the callback says of layers that are frozen, whose weights it cannot prune."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
from callback_runs import X, Y, fit, plain
from tiers import first

import tfprune
from tfprune.schedules import Constant, Polynomial


def frozen(*names: str, pattern="unstructured") -> keras.Model:
    """Return a model with kernels of 100 and 20 entries, some of its layers frozen."""
    model = tfprune.wrap(plain(), pattern=pattern)
    for name in names:
        model.get_layer(name).trainable = False
    model.compile("sgd", "mse")
    return model


def warned(model, *callbacks, **arguments) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        fit(model, *callbacks, **arguments)
    return [str(warning.message) for warning in caught if "sparsity" in str(warning.message)]


@pytest.mark.parametrize("allocation", first("uniform", "global", {"": 0.8}))
@pytest.mark.parametrize(
    ("names", "listed", "reach"),
    [
        (("hidden",), "hidden/kernel (1 of 2 weights under masks)", 16 / 120),
        (("out",), "out/kernel (1 of 2 weights under masks)", 80 / 120),
        (("hidden", "out"), "hidden/kernel, out/kernel (2 of 2 weights under masks)", 0),
    ],
)
def test_what_is_frozen_and_what_can_be_reached_is_said_before_and_after(allocation, names, listed, reach):
    model = frozen(*names)
    start, end = warned(model, tfprune.PruningCallback(Polynomial(0.8, end=8), every=1, allocation=allocation))
    assert f"Frozen layers get no zeros: {listed}. This fit can reach a sparsity of {reach:.4f} instead of" in start
    assert f"Training ended at a sparsity of {reach:.4f} instead of 0.8000, because frozen" in end and listed in end
    kernels = [model.get_layer(name).layer.kernel.numpy() for name in ("hidden", "out")]
    zeros = sum(np.count_nonzero(kernel == 0) for kernel in kernels)
    assert zeros / 120 == pytest.approx(reach)


def test_rules_that_leave_frozen_weights_alone_and_frozen_zeros_are_no_reason_to_warn():
    model = frozen("hidden")
    assert warned(model, tfprune.PruningCallback(Constant(0.8), allocation={"": None})) == []
    model = tfprune.wrap(plain())
    tfprune.update_masks(model, 0.8)
    model.get_layer("hidden").trainable = False
    model.compile("sgd", "mse")
    assert warned(model, tfprune.PruningCallback(Constant(0.8))) == []


def test_a_model_without_trainable_weights_makes_no_steps_and_says_why():
    model = tfprune.wrap(plain())
    model.trainable = False
    model.compile("sgd", "mse")
    _, end = warned(model, tfprune.PruningCallback(Polynomial(0.8, end=8), every=1))
    assert "Training ended at a sparsity of 0.0000 instead of 0.8000, because frozen layers got no zeros" in end


def test_a_schedule_that_goes_on_after_the_fit_warns_of_its_end_alone():
    messages = warned(frozen("hidden"), tfprune.PruningCallback(Polynomial(0.8, end=50), every=2))
    assert len(messages) == 2 and "before the pruning schedule did at step 50" in messages[1]


def test_channels_of_frozen_layers_are_named():
    keras.utils.set_random_seed(1)
    stack = [keras.layers.Dense(8, name=name) for name in ("a", "b", "c")]
    model = tfprune.wrap(
        keras.Sequential([keras.Input((10,)), *stack, keras.layers.Dense(2, name="d")]), pattern="channel"
    )
    model.get_layer("c").trainable = False
    model.compile("sgd", "mse")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        model.fit(X, Y, callbacks=[tfprune.PruningCallback(Constant(0.5))], verbose=0)
    start, end = (str(warning.message) for warning in caught)
    assert "Frozen layers get no zeros: c/kernel (1 of 4 weights under masks). Their channels stay." in start
    sparsity = tfprune.sparsity_report(model).sparsity
    assert f"Training ended at a sparsity of {sparsity:.4f}, because frozen layers got no zeros: c/kernel" in end
