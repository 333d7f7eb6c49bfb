"""What scripts read from tfmot's wrappers: `pruning_vars`, `block_size`, `get_prunable_weights`."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from tfprune import tfmot
from tfprune.tfmot.prune import PruneLowMagnitude
from tfprune.tfmot.sparsity.keras import UpdatePruningStep, prune_low_magnitude

X = np.random.default_rng(0).normal(size=(16, 8)).astype("float32")


def trained(**arguments) -> keras.Model:
    stack = [keras.Input((8,)), layers.Dense(6, name="first"), layers.Dense(2, name="last")]
    model = prune_low_magnitude(keras.Sequential(stack), **arguments)
    model.compile("sgd", "mse")
    model.fit(X, X[:, :2], callbacks=[UpdatePruningStep()], verbose=0)
    return model


def test_pruning_vars_are_weight_mask_and_the_smallest_magnitude_that_is_kept():
    wrapper = trained(pruning_schedule=tfmot.ConstantSparsity(0.75, 0)).get_layer("first")
    ((weight, mask, threshold),) = wrapper.pruning_vars
    assert weight is wrapper.layer.kernel
    assert 1 - np.mean(mask) == 0.75
    kept = np.abs(weight.numpy())[weight.numpy() != 0]
    assert len(kept) == 12
    assert float(threshold) == kept.min() > 0


def test_a_mask_that_hides_nothing_has_the_threshold_zero():
    wrapper = prune_low_magnitude(layers.Dense(3))
    assert wrapper.pruning_vars == []
    wrapper.build((None, 4))
    ((_, mask, threshold),) = wrapper.pruning_vars
    assert np.all(mask)
    assert float(threshold) == 0


@pytest.mark.parametrize("arguments", [{}, {"block_size": (2, 3)}, {"sparsity_m_by_n": (2, 4)}])
def test_block_size_counts_inputs_first(arguments):
    wrapper = prune_low_magnitude(layers.Dense(6), **arguments)
    assert wrapper.block_size == arguments.get("block_size", (1, 1))


def test_the_layer_inside_tells_its_pruned_weights():
    """As the printers of sparsity do that are copied from one script to the next."""
    model, found = trained(), {}
    for wrapper in model.layers:
        assert isinstance(wrapper, PruneLowMagnitude)
        for weight in wrapper.layer.get_prunable_weights():
            found[wrapper.name] = np.mean(weight.numpy() == 0)
        assert wrapper.prunable_weights == wrapper.layer.get_prunable_weights() == wrapper.get_prunable_weights()
    assert found == {"first": 0.5, "last": 0.5}


def test_a_layer_that_says_itself_what_is_pruned_is_left_as_it_is():
    class Biased(layers.Dense):
        def get_prunable_weights(self):
            return [self.kernel, self.bias]

    wrapper = prune_low_magnitude(Biased(3))
    wrapper.build((None, 4))
    assert [weight.name for weight in wrapper.layer.get_prunable_weights()] == ["kernel", "bias"]
    assert [tuple(weight.shape) for weight, _, _ in wrapper.pruning_vars] == [(4, 3), (3,)]


def test_files_and_stripped_models_know_nothing_of_it(tmp_path):
    model = trained()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert [len(wrapper.layer.get_prunable_weights()) for wrapper in loaded.layers] == [1, 1]
    assert not hasattr(tfmot.strip_pruning(loaded).get_layer("first"), "get_prunable_weights")
