"""Mixtures of experts of one's own: copies, merged and dropped experts, masks, and what does not compute the same."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
from refusals import refused

import tfprune
from tfprune.base.spec import ArgumentError, ArgumentTypeError
from tfprune.methods.experts.change import ExpertRanking, RankedExpert

ops = keras.ops


@keras.saving.register_keras_serializable(package="tests")
class Mixture(keras.layers.Layer):
    """Experts of one hidden layer each, with gates of several kinds."""

    def __init__(self, num_experts=4, top_k=2, gate="softmax", **kwargs):
        super().__init__(**kwargs)
        self.num_experts, self.top_k, self.gate = num_experts, top_k, gate
        self.router = keras.layers.Dense(num_experts, name="router")

    def build(self, shape):
        self.router.build(shape)
        width = shape[-1]
        self.up = self.add_weight(name="up_kernel", shape=(self.num_experts, width, 6))
        self.down = self.add_weight(name="down_kernel", shape=(self.num_experts, 6, width))
        self.built = True

    def call(self, x):
        logits = self.router(x)
        scores = ops.sigmoid(logits) if "sigmoid" in self.gate else ops.softmax(logits)
        gates, chosen = ops.top_k(scores, self.top_k)
        if "normalized" in self.gate:
            gates = gates / ops.sum(gates, axis=-1, keepdims=True)
        share = ops.sum(gates[..., None] * ops.one_hot(chosen, self.num_experts), axis=-2)
        hidden = ops.relu(ops.einsum("bi,eih->beh", x, self.up))
        return ops.einsum("beh,eho,be->bo", hidden, self.down, share)

    def get_config(self):
        own = {"num_experts": self.num_experts, "top_k": self.top_k, "gate": self.gate}
        return {**super().get_config(), **own}


tfprune.experts.register(Mixture, {"router/kernel": 1, "router/bias": 0, "up_kernel": 0, "down_kernel": 0})
X = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")


def mixture(gate="softmax"):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((4,))
    for index in range(2):
        x = keras.layers.Add()([x, Mixture(gate=gate, name=f"mixture_{index}")(x)])
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    for weight in model.weights:
        weight.assign(weight + 0.3 * keras.random.normal(weight.shape))
    return model


def apart(one, other):
    return np.abs(np.asarray(one(X)) - np.asarray(other(X))).max()


@pytest.mark.parametrize("gate", ["softmax", "softmax normalized", "sigmoid normalized"])
@pytest.mark.parametrize("factor", [2, 3])
def test_doubled_experts_with_k_doubled_compute_the_same(gate, factor):
    model = mixture(gate)
    grown, report = tfprune.experts.grow(model, factor, noise=0, samples=X)
    assert apart(grown, model) <= 1e-5
    assert report.is_function_preserving
    assert not report.warning
    assert [(row.experts, row.top_k) for row in report.rows] == [((4, 4 * factor), (2, 2 * factor))] * 2
    assert all(row.nnz[1] == factor * row.nnz[0] for row in report.rows)
    assert type(grown.layers[1]).__name__ == "Mixture"


def test_gates_that_are_not_normalized_and_a_fixed_k_are_flagged():
    _, report = tfprune.experts.grow(mixture("sigmoid"), noise=0, samples=X)
    assert report.is_function_preserving is False
    assert "not normalized" in report.warning
    assert report.warning in str(report)
    _, fixed = tfprune.experts.grow(mixture(), noise=0, grow_top_k=False, samples=X)
    assert fixed.is_function_preserving is False
    assert "copies take the place of others" in fixed.warning
    assert fixed.rows[0].top_k == (2, 2)


@pytest.mark.parametrize("noise", [0, 0.01])
def test_copies_stay_equal_without_noise_and_diverge_with_it(noise):
    grown, _ = tfprune.experts.grow(mixture(), noise=noise)
    grown.compile(keras.optimizers.SGD(0.05), "mse")
    grown.fit(X, X[:, :2], epochs=3, verbose=0)
    up = np.asarray(grown.get_layer("mixture_0").up)
    distance = np.abs(up[:4] - up[4:]).max()
    assert distance == 0 if noise == 0 else distance > 1e-4


def test_noise_is_a_hundredth_of_the_spread_and_for_copies_only():
    model = mixture()
    grown, report = tfprune.experts.grow(model, 2, noise=0.01, seed=1)
    before, after = (np.asarray(one.get_layer("mixture_0").up) for one in (model, grown))
    np.testing.assert_array_equal(after[:4], before)
    assert (after[4:] - before).std() == pytest.approx(0.01 * before.std(), rel=0.3)
    assert report.copies == (4, 5, 6, 7)
    again, _ = tfprune.experts.grow(model, 2, noise=0.01, seed=1)
    assert apart(again, grown) == 0


def test_interleaved_copies_stand_after_their_experts():
    model = mixture()
    grown, report = tfprune.experts.grow(model, 2, order="interleave", noise=0, samples=X)
    assert report.groups == ((0,), (0,), (1,), (1,), (2,), (2,), (3,), (3,))
    assert (report.copies, report.siblings[1]) == ((1, 3, 5, 7), (2, 3))
    assert apart(grown, model) <= 1e-5
    before, after = (np.asarray(each.get_layer("mixture_0").up) for each in (model, grown))
    np.testing.assert_array_equal(after, np.stack([before, before], axis=1).reshape(8, *before.shape[1:]))
    noisy, _ = tfprune.experts.grow(model, 2, order="interleave", noise=0.1)
    after = np.asarray(noisy.get_layer("mixture_0").up)
    np.testing.assert_array_equal(after[::2], before)
    assert np.abs(after[1::2] - before).max() > 0
    back, _ = tfprune.experts.drop(noisy, report.copies, top_k=2)
    assert apart(back, model) == 0


@pytest.mark.parametrize("random", ["router", "experts"])
def test_random_baselines_draw_the_router_or_the_copies_and_nothing_else(random):
    model = tfprune.wrap(mixture())
    tfprune.update_masks(model, 0.5)
    grown, report = tfprune.experts.grow(model, 2, noise=0, random=random, seed=3, samples=X)
    assert report.is_function_preserving is False
    assert random in report.warning
    before, after = (each.get_layer("mixture_0").layer for each in (model, grown))
    for name, old, new in [
        ("router", before.router.kernel, after.router.kernel),
        ("experts", np.moveaxis(before.up, 0, -1), np.moveaxis(after.up, 0, -1)),
    ]:
        old, new = np.asarray(old), np.asarray(new)
        doubled = np.concatenate([old, old], axis=-1)
        if name != random:
            np.testing.assert_array_equal(new, doubled)
            continue
        is_equal = np.isclose(new, doubled) & (doubled != 0)
        assert is_equal[..., :4].any() == (random == "experts")
        assert not is_equal[..., 4:].any()
        np.testing.assert_array_equal(new == 0, doubled == 0)
    drawn = np.asarray(after.router.kernel if random == "router" else after.up[4:])
    trained = np.asarray(before.router.kernel if random == "router" else before.up)
    assert drawn[drawn != 0].std() == pytest.approx(trained.std(), rel=0.5)


@pytest.mark.programs
def test_moments_of_experts_are_repeated_and_merged():
    model = mixture()
    model.compile("adam", "mse")
    model.train_on_batch(X, X[:, :2])

    def momentum(of, weight):
        index = [id(variable) for variable in of.trainable_variables].index(id(weight))
        return np.asarray(of.optimizer.variables[2 + 2 * index])

    grown, report = tfprune.experts.grow(model, 2, order="interleave")
    grown.compile(tfprune.growth.carry_optimizer(model, grown, origins=report.origins), "mse")
    old, new = (each.get_layer("mixture_1") for each in (model, grown))
    np.testing.assert_array_equal(momentum(grown, new.up), np.repeat(momentum(model, old.up), 2, axis=0))
    of_router = momentum(model, old.router.kernel)
    np.testing.assert_array_equal(momentum(grown, new.router.kernel), np.repeat(of_router, 2, axis=1))
    assert of_router.any()
    merged, report = tfprune.experts.merge(model, [[0, 3], [1], [2]])
    merged.compile(tfprune.growth.carry_optimizer(model, merged, origins=report.origins), "mse")
    old, new = (momentum(each, each.get_layer("mixture_0").down) for each in (model, merged))
    np.testing.assert_allclose(new, np.stack([(old[0] + old[3]) / 2, old[1], old[2]]), rtol=1e-6)


def test_active_parameters_by_hand():
    model = mixture()  # two mixtures of 4 experts, 2 of which are used, and a head of 2 outputs
    experts, router, head = 4 * (4 * 6 + 6 * 4), 4 * 4 + 4, 4 * 2 + 2
    advice = tfprune.growth.growth_compute(model)
    assert advice.parameters == 2 * (experts + router) + head
    assert advice.active_parameters == 2 * (experts // 2 + router) + head
    assert advice.operations == 6 * advice.active_parameters * 20 * advice.active_parameters
    assert tfprune.growth.growth_compute(tfprune.wrap(model)) == advice
    assert set(advice.as_dict()) == {"parameters", "active_parameters", "tokens", "operations"}


@pytest.mark.parametrize("wrapped", [False, True])
def test_grow_then_merge_or_drop_is_the_identity_bit_for_bit(wrapped):
    model = mixture()
    if wrapped:
        model = tfprune.wrap(model)
        tfprune.update_masks(model, 0.5)
    grown, report = tfprune.experts.grow(model, 3, noise=0)
    assert report.siblings == tuple((i, i + 4, i + 8) for i in range(4))
    merged, _ = tfprune.experts.merge(grown, report.siblings, top_k=2)
    dropped, last = tfprune.experts.drop(grown, report.copies, top_k=2, samples=X)
    for back in (merged, dropped):
        assert all(np.array_equal(*pair) for pair in zip(back.get_weights(), model.get_weights(), strict=True))
        np.testing.assert_array_equal(back(X), model(X))
    assert last.is_function_preserving


def test_masks_and_latent_values_follow_and_noise_fills_no_zero():
    model = tfprune.wrap(mixture())
    tfprune.update_masks(model, 0.75)
    before = tfprune.sparsity_report(model)
    grown, report = tfprune.experts.grow(model, 2, noise=0.5, seed=0)
    nnz = {(row.layer, row.weight): row.nnz for row in before.rows}
    for row in tfprune.sparsity_report(grown).rows:
        assert row.nnz == nnz[row.layer, row.weight] * (1 if "dense" in row.layer else 2)
    assert all(row.nnz[1] == 2 * row.nnz[0] for row in report.rows)
    ours, theirs = (one.get_layer("mixture_0") for one in (grown, model))
    np.testing.assert_array_equal(ours.masks["up_kernel"], np.concatenate([theirs.masks["up_kernel"]] * 2))
    hidden = ~np.asarray(theirs.masks["up_kernel"])
    np.testing.assert_array_equal(ours.latent("up_kernel")[4:][hidden], theirs.latent("up_kernel")[hidden])
    assert (np.asarray(ours.layer.up)[4:][hidden] == 0).all()


def test_a_merged_expert_is_the_mean_of_its_group():
    model = mixture()
    merged, report = tfprune.experts.merge(model, [[0, 2], [1], [3]])
    before, after = (one.get_layer("mixture_1") for one in (model, merged))
    np.testing.assert_allclose(after.up[0], (np.asarray(before.up)[0] + np.asarray(before.up)[2]) / 2, rtol=1e-6)
    np.testing.assert_array_equal(after.down[1:], np.asarray(before.down)[[1, 3]])
    kernel = np.asarray(before.router.kernel)
    np.testing.assert_allclose(after.router.kernel[:, 0], kernel[:, [0, 2]].mean(axis=1), rtol=1e-6)
    assert report.rows[0].experts == (4, 3)
    assert report.as_dict()["groups"] == [[0, 2], [1], [3]]
    assert report.as_dict()["siblings"] == [[0], [1], [2]]


def test_merged_masks_keep_what_any_keeps_and_no_latent_value_of_it():
    model = tfprune.wrap(mixture())
    tfprune.update_masks(model, 0.5)
    merged, _ = tfprune.experts.merge(model, [[0, 1], [2], [3]])
    before, after = (one.get_layer("mixture_0") for one in (model, merged))
    masks, latents = np.asarray(before.masks["up_kernel"]), before.latent("up_kernel")
    keep = masks[0] | masks[1]
    np.testing.assert_array_equal(after.masks["up_kernel"][0], keep)
    expected = np.where(keep, (latents * masks)[:2].mean(axis=0), latents[:2].mean(axis=0))
    np.testing.assert_allclose(after.latent("up_kernel")[0], expected, rtol=1e-6)


def test_masks_of_a_pattern_that_does_not_hold_for_the_merged_expert_are_refused():
    model = tfprune.wrap(mixture(), pattern=tfprune.patterns.NM(1, 4))
    tfprune.update_masks(model, 0.7)
    with pytest.raises(ValueError, match="experts that can be merged under NM"):
        tfprune.experts.merge(model, [[0, 1], [2], [3]])


def test_an_expert_that_is_never_used_is_missed_by_nobody(tmp_path):
    model = mixture()
    for index in range(2):
        router = model.get_layer(f"mixture_{index}").router
        router.bias.assign(np.array([0, 0, -1e3, 0]))
    smaller, report = tfprune.experts.drop(model, [2], samples=X)
    assert report.is_function_preserving
    assert report.samples == 32
    smaller.save(tmp_path / "smaller.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "smaller.keras")(X), smaller(X))


def test_layers_lose_other_numbers_of_experts(tmp_path):
    model, drop = mixture(), {"mixture_0": [1], "mixture_1": [0, 2, 3]}
    for path, experts in drop.items():
        bias = model.get_layer(path).router.bias
        bias.assign(np.where(np.isin(np.arange(4), experts), -1000, np.asarray(bias)))  # never used
    smaller, report = tfprune.experts.drop(model, drop, samples=X)
    assert apart(smaller, model) <= 1e-5
    assert [(row.experts, row.top_k) for row in report.rows] == [((4, 3), (2, 2)), ((4, 1), (2, 1))]
    smaller.save(tmp_path / "smaller.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "smaller.keras")(X), smaller(X))
    grown, again = tfprune.experts.grow(smaller, 2, noise=0, samples=X)
    assert again.is_function_preserving and [row.experts for row in again.rows] == [(3, 6), (1, 2)]


def ranking_of(importances):
    rows = [
        RankedExpert(f"mixture_{layer}", expert, reap=value, frequency=1.0)
        for layer, values in enumerate(importances)
        for expert, value in enumerate(values)
    ]
    return ExpertRanking(tuple(rows), "reap")


def test_the_lowest_of_each_layer_by_a_number_for_each():
    ranking = ranking_of([(3, 1, 2, 4), (1, 2, 3, 0)])
    assert ranking.lowest({"mixture_0": 2, "mixture_1": 1}) == {"mixture_0": (1, 2), "mixture_1": (3,)}
    with pytest.raises(ValueError, match="`count` for each of 'mixture_0', 'mixture_1'. Received: 'mixture_0'"):
        ranking.lowest({"mixture_0": 2})


def test_merged_experts_have_the_weight_of_their_importance():
    model = mixture()
    for index, order in enumerate([(0, 1, 0, 1), (0, 0, 1, 1)]):  # whose directions in the router are the same
        kernel = model.get_layer(f"mixture_{index}").router.kernel
        kernel.assign(np.asarray([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]])[:, list(order)] * [1, 2, 3, 4])
        model.get_layer(f"mixture_{index}").router.bias.assign(np.zeros(4))
    ranking = ranking_of([(3, 3, 1, 2), (1, 4, 0, 2)])
    merged, report = tfprune.experts.merge(model, 2, ranking=ranking)
    assert [row.experts for row in report.rows] == [(4, 2)] * 2
    for index, groups in enumerate([{0: (0, 2), 1: (1, 3)}, {0: (0, 1), 1: (2, 3)}]):
        before, after = (np.asarray(each.get_layer(f"mixture_{index}").up) for each in (model, merged))
        importances = ranking.importances()[f"mixture_{index}"]
        for new, old in groups.items():
            total = sum(importances[expert] for expert in old)
            expected = sum(importances[expert] / total * before[expert] for expert in old)
            np.testing.assert_allclose(after[new], expected, atol=1e-6)
    plain, _ = tfprune.experts.merge(model, [[0, 2], [1, 3]], ranking=ranking)
    np.testing.assert_allclose(plain.get_layer("mixture_0").up, merged.get_layer("mixture_0").up, atol=1e-6)


def test_a_layer_alone():
    layer = mixture().get_layer("mixture_0")
    grown, report = tfprune.experts.grow(layer, 2, noise=0, samples=X)
    assert apart(grown, layer) <= 1e-5
    assert report.is_function_preserving
    assert tfprune.experts.grow(layer, 2)[1].is_function_preserving is None


class Other(Mixture):
    pass


shared = functools.cache(mixture)  # for what is refused


@pytest.mark.parametrize(
    ("kind", "argument", "call"),
    [
        (
            ArgumentError,
            "model_or_layer",
            lambda: tfprune.experts.grow(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])),
        ),
        (ArgumentTypeError, "model_or_layer", lambda: tfprune.experts.grow("model")),
        (ArgumentError, "model_or_layer", lambda: tfprune.experts.grow(Mixture())),
        (ArgumentError, "factor", lambda: tfprune.experts.grow(shared(), 1)),
        (ArgumentError, "noise", lambda: tfprune.experts.grow(shared(), noise=-1)),
        (ArgumentError, "order", lambda: tfprune.experts.grow(shared(), order="interpose")),
        (ArgumentError, "random", lambda: tfprune.experts.grow(shared(), random="gate")),
        (ArgumentTypeError, "router", lambda: tfprune.experts.register(Mixture, {"a": 0}, router=1)),
        (ArgumentError, "drop", lambda: tfprune.experts.drop(shared(), [4])),
        (ArgumentError, "drop", lambda: tfprune.experts.drop(shared(), range(4))),
        (ArgumentError, "top_k", lambda: tfprune.experts.drop(shared(), [0], top_k=4)),
        (ArgumentTypeError, "drop", lambda: tfprune.experts.drop(shared(), 2)),
        (ArgumentError, "merge", lambda: tfprune.experts.merge(shared(), [[0, 1], [2]])),
        (ArgumentTypeError, "merge", lambda: tfprune.experts.merge(shared(), [0, 1])),
        (ArgumentError, "merge", lambda: tfprune.experts.merge(shared(), [[0, 1, 2, 3], []])),
        (ArgumentTypeError, "merge", lambda: tfprune.experts.merge(shared(), 2)),
        (ArgumentTypeError, "ranking", lambda: tfprune.experts.merge(shared(), 2, ranking={})),
        (ArgumentError, "merge", lambda: tfprune.experts.merge(shared(), 4, ranking=ranking_of([range(4)] * 2))),
        (ArgumentError, "ranking", lambda: tfprune.experts.merge(shared(), 2, ranking=ranking_of([range(4)]))),
        (ArgumentError, "axes", lambda: tfprune.experts.register(Mixture, {})),
        (ArgumentTypeError, "axes", lambda: tfprune.experts.register(Mixture, "router")),
        (ArgumentTypeError, "layer_class", lambda: tfprune.experts.register("Mixture", {"a": 0})),
    ],
)
def test_wrong_arguments_are_refused(kind, argument, call):
    with refused(kind, argument):
        call()


def test_a_router_that_is_not_known_cannot_be_drawn():
    tfprune.experts.register(Other, {"up_kernel": 0, "down_kernel": 0})
    model = keras.Sequential([keras.Input((4,)), Other()])
    with pytest.raises(ValueError, match="weights of the router .* none among up_kernel, down_kernel"):
        tfprune.experts.grow(model, random="router")
    with pytest.raises(ValueError, match="known router in .* none among up_kernel, down_kernel"):
        tfprune.experts.rank(model, X)  # which would silence its rows with the experts


@pytest.mark.parametrize(
    ("weights", "text"),
    [({"gate/kernel": 1}, "without 'gate/kernel'"), ({"up_kernel": 2}, "4 experts along axis 2 of 'up_kernel'")],
)
def test_a_registration_that_does_not_fit_is_refused(weights, text):
    tfprune.experts.register(Other, weights)
    model = keras.Sequential([keras.Input((4,)), Other()])
    with pytest.raises(ValueError, match=text):
        tfprune.experts.grow(model)
