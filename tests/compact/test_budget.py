"""Budgets: the least that meets them, against trying every number of channels."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from graphs import RandomGraph
from refusals import REFUSAL, refusals, refused
from tiers import first

import tfprune
from tfprune import budget, plan_shrink, shrink
from tfprune.allocation import LayerThreshold

layers = keras.layers


def stack(*widths):
    hidden = [layers.Dense(width, name=f"hidden_{place}") for place, width in enumerate(widths)]
    return keras.Sequential([keras.Input((10,)), *hidden, layers.Dense(2, name="out")])


@pytest.mark.parametrize("name", first("flops", "parameters", "bytes"))
@pytest.mark.parametrize("limit", first(0.3, 0.7))
@pytest.mark.parametrize("base", ["uniform", "global"])
def test_a_budget_is_met_by_removing_no_more_than_it_takes(name, limit, base):
    model = stack(9, 14)
    plan = plan_shrink(model, budget(**{name: limit}, allocation=base))
    most = limit * getattr(plan.network, name)(plan.network.all_kept())
    costs = {}
    for removed in range(23):
        tried = plan_shrink(model, removed / 23, allocation=base)
        costs[removed] = getattr(tried.network, name)(tried.keep)
    least = min(removed for removed, cost in costs.items() if cost <= most)
    assert getattr(plan.network, name)(plan.keep) == costs[least]


def test_of_several_limits_all_are_met():
    model = stack(40, 40)
    plan = plan_shrink(model, budget(flops=0.9, parameters=500))
    assert plan.parameters_kept <= 500 and plan.flops_kept <= 0.9 * plan.flops
    tight = plan_shrink(model, budget(flops=0.1, parameters=500))
    assert tight.flops_kept <= 0.1 * tight.flops


def test_bytes_are_those_of_the_weights():
    model = RandomGraph(3).images()
    plan = plan_shrink(model, budget(bytes=0.5))
    smaller = shrink(model, plan)
    assert sum(weight.value.numpy().nbytes for weight in smaller.weights) == plan.network.bytes(plan.keep)


def test_a_latency_is_measured_on_plain_smaller_models():
    model, seen = tfprune.wrap(stack(40, 40)), []

    def measure(candidate):
        seen.append(candidate)
        return float(candidate.count_params())

    plan = plan_shrink(model, budget(latency=0.4, measure=measure))
    assert plan.parameters_kept <= 0.4 * plan.parameters
    assert 2 < len(seen) < 10
    assert all(type(layer) is layers.Dense for one in seen for layer in one.layers[1:])


def test_a_budget_that_cannot_be_met_says_how_close_it_comes():
    with pytest.raises(
        ValueError, match=r"Received: flops=0.005. .* flops of 26 where 2 are allowed. Raise the limit, or"
    ):
        plan_shrink(stack(8, 8), budget(flops=0.005))
    with pytest.raises(ValueError, match="the model still has flops of 68 where 3 are allowed"):  # 10 + 1 x 8 + 8 x 2
        plan_shrink(stack(8, 8), budget(flops=0.01), filters="hidden_0")


def test_channels_in_fit_end_within_the_budget():
    wrapped = tfprune.wrap(stack(32, 24), pattern="channel")
    wrapped.compile("sgd", "mse")
    data = np.ones((64, 10), "float32")
    schedule = tfprune.schedules.Polynomial(0.5, end=12)
    callback = tfprune.PruningCallback(schedule, every=4, budget=budget(flops=0.3))
    wrapped.fit(data, np.zeros((64, 2)), batch_size=4, callbacks=[callback], verbose=0)
    plan = plan_shrink(wrapped)
    assert 0.2 * plan.flops < plan.flops_kept <= 0.3 * plan.flops


def test_part_of_the_way_to_a_budget():
    wrapped, half = tfprune.wrap(stack(64, 64), pattern="channel"), budget(parameters=0.5)
    flops = []
    for progress in (0.0, 0.5, 1.0):
        tfprune.update_masks(wrapped, half.at(progress))
        plan = plan_shrink(wrapped)
        flops.append(plan.parameters_kept / plan.parameters)
    assert flops[0] == 1 and 0.7 < flops[1] <= 0.75 and 0.45 < flops[2] <= 0.5


@pytest.mark.parametrize(
    REFUSAL,
    refusals(
        {"flops": [0.0, 1.5, 50], "bytes": [100, 0], "latency": [0.5]},
        {"flops": ["50%"], "parameters": ["half", True]},
        together=[
            ("latency", {"latency": 50.0, "measure": len}),
            ("latency", {"flops": 0.5, "measure": len}),
            ("allocation", {"flops": 0.5, "allocation": "fair"}),
        ],
    ),
)
def test_what_is_no_budget_is_refused(kind, argument, changes):
    with refused(kind, argument):
        budget(**changes)


def test_a_budget_is_a_fraction_or_an_amount():
    with pytest.raises(ValueError, match=r"Expected a limit, such as budget\(flops=0.5\)"):
        budget()
    with pytest.raises(ValueError, match=r"Received: flops=50. For 50 % of the cost now pass flops=0.5\.$"):
        budget(flops=50)


def test_where_a_budget_does_not_belong_it_is_refused():
    weights = tfprune.wrap(stack(8))
    with pytest.raises(
        ValueError, match="masks of their own have: hidden_0/kernel, out/kernel. Wrap it with pattern="
    ):
        tfprune.update_masks(weights, budget(flops=0.5))
    schedule, half = tfprune.schedules.Constant(0.5, begin=0), budget(flops=0.5)
    for call in (tfprune.update_masks, plan_shrink):
        with pytest.raises(
            TypeError, match=r"Pass the budget in place of the sparsity: plan_shrink\(model, budget\)"
        ):
            call(weights, 0.5, allocation=half)
    with pytest.raises(TypeError, match="Pass the budget in place of the sparsity"):
        plan_shrink(weights, allocation=half)
    with pytest.raises(TypeError, match=r"or PruningCallback\(schedule, budget=budget\)"):
        tfprune.PruningCallback(schedule, allocation=half)
    for call in (tfprune.update_masks, plan_shrink):
        with pytest.raises(ValueError, match=r"Received: allocation='global'. Pass budget\(..., allocation=...\)"):
            call(weights, half, allocation="global")
    with pytest.raises(TypeError, match="sparsity=None"):
        tfprune.update_masks(weights, None)
    with pytest.raises(TypeError, match="Received: budget=0.5"):
        tfprune.PruningCallback(schedule, budget=0.5)
    measured = budget(latency=0.5, measure=len)
    with pytest.raises(ValueError, match="Measure once, before training"):
        tfprune.PruningCallback(schedule, budget=measured)


def test_a_budget_splits_by_an_allocation_of_its_own():
    model, threshold = stack(20, 30), LayerThreshold(threshold=0.1, depth=2.0)
    plan = plan_shrink(model, budget(parameters=0.5, allocation=threshold))
    removed = sum(row.channels - row.kept for row in plan.rows)
    tried = plan_shrink(model, removed / 50, allocation=threshold)
    assert np.array_equal(tried.keep, plan.keep)
    assert 0.4 < plan.parameters_kept / plan.parameters <= 0.5
    uniform = plan_shrink(model, budget(parameters=0.5))
    assert not np.array_equal(uniform.keep, plan.keep)


def test_a_latency_in_steps_of_eight_channels_is_met_layer_by_layer():
    model = stack(80, 80, 80)  # all of which would cross a step at once

    def measure(candidate):
        return float(sum(-(-layer.units // 8) for layer in candidate.layers if hasattr(layer, "units")))

    plan = plan_shrink(model, budget(latency=17, measure=measure))
    assert measure(shrink(model, plan)) == 17
    kept = sorted(row.kept for row in plan.rows if row.kept < row.channels)
    assert len(kept) == 3 and -(-kept[0] // 8) < -(-kept[-1] // 8)


def test_flops_of_attention_by_hand():
    x = keras.Input((6, 4))
    y = layers.MultiHeadAttention(num_heads=2, key_dim=3)(x, x)
    plan = plan_shrink(keras.Model(x, layers.Dense(5)(y)), 0.0)
    kernels = 4 * (4 * 6) + 4 * 5  # queries, keys, values and the output; Dense
    assert plan.flops == 2 * (6 * kernels + 6 * 6 * (3 + 3) * 2)  # scores and sums of values, of two heads
