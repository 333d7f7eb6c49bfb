"""The state of optimizers follows the weights: the map by hand, the next step, refusals; cosines of first moments."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from residual_blocks import BLOCK, X, residual
from tiers import first

import tfprune
from tfprune.models.by_attributes import Origin

ops = keras.ops
Y = X[:, :2]


def trained(model, optimizer="adam"):
    model.compile(optimizer, "mse", run_eagerly=True)  # two steps take less time than tracing one
    for start in (0, 8):
        model.train_on_batch(X[start : start + 8], Y[start : start + 8])
    return model


def slots(model, weight):
    """Return what Adam keeps for a weight: two variables for each, in their order, after count and learning rate."""
    index = [id(variable) for variable in model.trainable_variables].index(id(weight))
    momentum, velocity = model.optimizer.variables[2:][2 * index : 2 * index + 2]
    assert momentum.name.endswith("_momentum") and velocity.name.endswith("_velocity")
    return {"momentum": np.asarray(momentum), "velocity": np.asarray(velocity)}


@pytest.fixture(scope="module")
def base():
    return trained(residual())


@pytest.fixture(scope="module")
def grown_base(base):
    return tfprune.growth.grow_depth(base)


@pytest.mark.parametrize("order", ["interpose", "stack"])
def test_moments_follow_every_copy(base, order):
    grown, report = tfprune.growth.grow_depth(base, order=order, keep_last=1)
    grown.compile(tfprune.growth.carry_optimizer(base, grown, origins=report.origins), "mse")
    assert type(grown.optimizer) is type(base.optimizer) and grown.optimizer is not base.optimizer
    assert int(grown.optimizer.iterations) == 2
    names = [(f"block_{row.place}_{part}", f"block_{row.block}_{part}") for row in report.rows for part in PARTS]
    for new, old in [*names, ("head", "head")]:
        for part in ("kernel", "bias"):
            ours, theirs = (
                slots(model, getattr(model.get_layer(name), part)) for model, name in ((grown, new), (base, old))
            )
            assert all(np.array_equal(ours[name], theirs[name]) and theirs[name].any() for name in ours)


PARTS = ("hidden", "out")


@pytest.mark.parametrize("name", first("adagrad", "sgd", "nadam"))
def test_blocks_take_the_next_step_that_they_would_have_taken(name):
    """Zeroed copies change neither outputs nor gradients of the other blocks: only the optimizer could."""
    optimizer = keras.optimizers.get(name)
    optimizer.learning_rate = 0.03
    if name == "sgd":
        optimizer.momentum = 0.9
    model = trained(residual(2), optimizer)
    grown, report = tfprune.growth.grow_depth(model, zero_output=True, samples=X)
    grown.compile(tfprune.growth.carry_optimizer(model, grown, origins=report.origins), "mse")
    for each in (model, grown):
        each.train_on_batch(X, Y)
    names = [(row.place, row.block) for row in report.rows if not row.is_copy]
    assert names == [(0, 0), (2, 1)]
    for place, block in names:
        ours, theirs = grown.get_layer(f"block_{place}_hidden"), model.get_layer(f"block_{block}_hidden")
        np.testing.assert_allclose(ours.kernel, theirs.kernel, rtol=1e-5, atol=1e-7)


@pytest.mark.programs
def test_under_masks_moments_stay_zero_in_copies():
    model = tfprune.wrap(residual())
    model.compile("adam", "mse")
    model.train_on_batch(X, Y)
    tfprune.update_masks(model, 0.5)
    model.train_on_batch(X, Y)
    grown, report = tfprune.growth.grow_depth(model)
    grown.compile(tfprune.growth.carry_optimizer(model, grown, origins=report.origins), "mse")
    layer = grown.get_layer("block_3_hidden")
    momentum = slots(grown, layer.layer.kernel)["momentum"]
    assert momentum.any()
    assert not momentum[~np.asarray(layer.masks["kernel"])].any()
    grown.train_on_batch(X, Y)
    assert not np.asarray(layer.layer.kernel)[~np.asarray(layer.masks["kernel"])].any()


@pytest.mark.programs
def test_what_was_frozen_starts_anew_and_loss_scales_come_along():
    model = residual(2)
    model.get_layer("block_0_hidden").trainable = False
    trained(model, keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01), initial_scale=64.0))
    grown, report = tfprune.growth.grow_depth(model)
    for layer in grown.layers:
        layer.trainable = True
    grown.compile(tfprune.growth.carry_optimizer(model, grown, origins=report.origins), "mse")
    inner = [np.asarray(slot) for slot in grown.optimizer.inner_optimizer.variables[2:]]
    is_frozen = [not slot.any() for slot in inner]
    assert is_frozen == [place in (0, 1) and part < 4 for place in range(4) for part in range(8)] + [False] * 4
    assert float(grown.optimizer.dynamic_scale) == 64
    assert int(grown.optimizer.inner_optimizer.iterations) == 2


def test_cosines_by_hand(base):
    grown, report = tfprune.growth.grow_depth(base)
    other, dropped = tfprune.transformers.drop_blocks(base, [2])
    for model in (grown, other):
        trained(model)
    printed = tfprune.growth.moment_cosines(
        base, {"deep": (grown, report.origins), "short": (other, dropped.origins)}
    )
    cosines = {(row.first, row.second): row.cosine for row in printed.rows}

    def folded(model, origins):
        total = {}
        for weight, origin in zip(model.weights, origins, strict=True):
            total[origin.weight] = total.get(origin.weight, 0) + slots(model, weight)["momentum"]
        return total

    deep, short = folded(grown, report.origins), folded(other, dropped.origins)
    keys = sorted(deep.keys() & short.keys())
    assert len(deep) == 14 and len(keys) == 10  # the dropped block had two layers
    a, b = (np.concatenate([moments[key].ravel() for key in keys]) for moments in (deep, short))
    assert cosines["deep", "short"] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-6)
    assert [*cosines] == [("base", "deep"), ("base", "short"), ("deep", "short")]
    assert str(printed).count("\n") == 4


def test_the_way_back_is_the_transpose_of_the_way_there():
    random = np.random.default_rng(0)
    shared = Origin(0, 0, ((0, 2), (1,)), ((0.9, 0.1), (1.0,)))
    for origin, shape in [
        (Origin(0, 1, ((0, 2), (1,), (0,))), (4, 3)),
        (Origin(0, -1, ((1,), (0, 1))), (5, 2)),
        (shared, (3, 2)),
    ]:
        old = random.normal(size=shape)
        there = origin.follow(old)
        new, back = random.normal(size=there.shape), np.zeros(shape)
        origin.add_back(new, back)
        assert (there * new).sum() == pytest.approx((old * back).sum())


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda m, g, o: tfprune.growth.carry_optimizer("model", g, origins=o), TypeError, "keras.models.load_model"),
        (
            lambda m, g, o: tfprune.growth.carry_optimizer(m, g, origins="report"),
            TypeError,
            r"grow_depth\(model\)\[1\].origins",
        ),
        (
            lambda m, g, o: tfprune.growth.carry_optimizer(m, g, origins=o[:-1]),
            ValueError,
            "the call that made this model",
        ),
        (
            lambda m, g, o: tfprune.growth.carry_optimizer(m, m, origins=o),
            ValueError,
            "the call that made this model",
        ),
        (
            lambda m, g, o: tfprune.growth.carry_optimizer(g, g, origins=o),
            ValueError,
            "the call that made|compiled and trained",
        ),
        (lambda m, g, o: tfprune.growth.moment_cosines(m, [g]), TypeError, "Expected `grown` to map names"),
        (lambda m, g, o: tfprune.growth.moment_cosines(m, {"a": (g, o)}), ValueError, "which has no optimizer"),
    ],
)
def test_wrong_arguments_are_refused(base, grown_base, call, kind, text):
    grown, report = grown_base
    with pytest.raises(kind, match=text):
        call(base, grown, report.origins)


@pytest.mark.programs
def test_optimizers_with_values_of_other_shapes_or_without_a_first_moment_are_refused():
    model = trained(residual(2), "adafactor")
    grown, report = tfprune.growth.grow_depth(model, blocks=BLOCK)
    with pytest.raises(ValueError, match="Received: Adafactor, which keeps others"):
        tfprune.growth.carry_optimizer(model, grown, origins=report.origins)
    with pytest.raises(ValueError, match="first moments, such as Adam.* Received: Adafactor"):
        tfprune.growth.moment_cosines(model, {})
