"""Models with fewer units and heads that share what they have in common, against those that are made one by one."""

from __future__ import annotations

from functools import partial

import keras
import numpy as np
import pytest
from small_transformer import numpy, texts, transformer

import tfprune
from tfprune.compact.shrink import RunningModel
from tfprune.masking.strip import flat_copy
from tfprune.methods.one_shot.prune_units import UnitsAndHeads
from tfprune.methods.one_shot.removal import HeadOrder, find_removals, head_loss
from tfprune.models.anatomy import Anatomy
from tfprune.models.training import Batches

LEVELS = [(0, 2), (2, 0), (2, 5), (2, 3), (3, 3)]  # eighths of the units and of the heads


def grouped(block):
    return keras.layers.GroupQueryAttention(2, 4, 2, name=f"attention_{block}")


class Counted:
    def __init__(self, loss):
        self.loss, self.count = loss, 0

    def __call__(self, outputs):
        self.count += 1
        return self.loss(outputs)


@pytest.mark.parametrize("attention", [None, grouped])
def test_the_heads_of_each_level_are_those_that_are_chosen_anew_and_each_round_is_measured_once(attention):
    model = transformer(2, attention)
    running = RunningModel(flat_copy(Anatomy.of(model)))
    heads = find_removals(running)[1]
    batches = Batches(texts(8), running.graph.model, batch_size=8)
    arrays = next(iter(batches))[0]
    loss = Counted(head_loss(running.graph, batches, judge="distance"))
    order = HeadOrder(running, arrays, removals=heads, loss=loss)
    size = heads[0].group.bundles.size  # of a layer, as many as go in each full round
    levels = [
        (*[size] * (count // size), *[count % size] * bool(count % size))
        for count in (1, size, size + 1, 2 * size - 1)
    ]
    from_order = [order.kept(rounds) for rounds in levels]
    assert loss.count <= 2 * size + size  # the first round, and the second one without those that went
    anew = [HeadOrder(running, arrays, removals=heads, loss=loss).kept(rounds) for rounds in levels]
    for rounds, heads_of_order, other in zip(levels, from_order, anew, strict=True):
        assert sum(size - kept.sum() for kept in heads_of_order.values()) == sum(rounds)
        np.testing.assert_equal(heads_of_order, other)


@pytest.mark.programs
def test_models_of_all_levels_are_those_that_are_made_one_by_one():
    model, batches = transformer(2), [(texts(8, seed=seed),) for seed in range(2)]
    before = [values.copy() for values in model.get_weights()]
    parts = UnitsAndHeads(model, batches, criterion="activation", loss_of=partial(head_loss, judge="distance"))
    for units, heads in LEVELS:
        smaller = parts.smaller(units=units / 8, heads=heads / 8)
        sparsity = {"units": units / 8, "heads": heads / 8}
        with_zeros, report = tfprune.prune_units(model, batches, sparsity, verbose=0)
        expected = tfprune.shrink(with_zeros, report.plan)
        assert [weight.shape for weight in smaller.weights] == [weight.shape for weight in expected.weights]
        np.testing.assert_allclose(numpy(smaller(texts(4))), numpy(expected(texts(4))), atol=1e-4)
    for values, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(values, other)
