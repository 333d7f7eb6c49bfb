"""Whole models with zeros, by each criterion and allocation; SparseGPT against a slow version."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest

import tfprune
from tfprune import prune_weights
from tfprune.methods.one_shot.prune_weights import _recurrent_maps
from tfprune.patterns import NM, Block, Unstructured
from tfprune.solving.least_squares import GramMoments, solve
from tfprune.solving.zeros import _alps, _sparse_gpt, wanda_mask

layers = keras.layers


def problem(seed, inputs=16, outputs=6, rows=200):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(rows, 8)) @ generator.normal(size=(8, inputs)) + 0.3 * generator.normal(
        size=(rows, inputs)
    )
    weights = generator.normal(size=(outputs, inputs))
    moments = GramMoments(inputs, outputs)
    moments.add_inputs(x)
    return moments.aimed_at(weights), weights


def slow_sparse_gpt(gram, weights, step, count, width=1):
    """Remove column by column with the inverse of what is ahead, without factors."""
    left, mask = weights.copy(), np.ones(weights.shape, dtype=bool)
    for column in range(weights.shape[1]):
        if column % step == 0:
            costs = np.stack(
                [
                    cost_of_block(gram[one:, one:], left[:, one : one + width])
                    for one in range(column, min(column + step, weights.shape[1]), width)
                ],
                axis=1,
            )
            for part in count(costs):
                first = column + part[1] * width
                mask[part[0], first : first + width] = False
        ahead = np.linalg.inv(gram[column:, column:])
        gone = np.where(mask[:, column], 0, left[:, column])
        left[:, column:] -= np.outer(gone / ahead[0, 0], ahead[0])
    return mask, np.where(mask, left, 0)


def cost_of_block(gram, block):
    """The first weights are removed together, and all after them make up for it: w inv(inv(H)_BB) w."""
    size = block.shape[1]
    return np.einsum("oi,ij,oj->o", block, np.linalg.inv(np.linalg.inv(gram)[:size, :size]), block)


def lowest_half(costs):
    order = np.argsort(costs, axis=None, kind="stable")[: costs.size // 2]
    return list(zip(*np.unravel_index(order, costs.shape), strict=True))


def lowest_half_of_pairs(costs):
    pairs = lowest_half(costs[::2] + costs[1::2])
    return [(2 * row + one, column) for row, column in pairs for one in range(2)]


def two_of_four(costs):
    return [(row, column) for row, some in enumerate(costs) for column in np.argsort(some)[:2]]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("pattern", "step", "count", "width"),
    [
        (Unstructured(), 16, lowest_half, 1),
        (NM(2, 4), 4, two_of_four, 1),
        (Block(1, 4), 16, lowest_half, 4),
        (Block(2, 4), 16, lowest_half_of_pairs, 4),
    ],
    ids=["unstructured", "2:4", "1x4", "2x4"],
)
def test_sparse_gpt_is_its_slow_version(seed, pattern, step, count, width):
    moments, weights = problem(seed)
    mask, left = _sparse_gpt(moments, weights, inputs=16, pattern=pattern, sparsity=0.5, ridge=0)
    expected_mask, expected = slow_sparse_gpt(moments.gram, weights, step, count, width)
    np.testing.assert_array_equal(mask, expected_mask)
    np.testing.assert_allclose(left, expected, atol=1e-8)


@pytest.mark.parametrize("seed", range(6))
def test_an_update_helps_and_exact_least_squares_more(seed):
    moments, weights = problem(seed)
    mask, left = _sparse_gpt(moments, weights, inputs=16, pattern=Unstructured(), sparsity=0.5, ridge=1e-6)
    exact = solve(moments, weights * mask, free=mask, ridge=1e-9)
    errors = [moments.errors(found).sum() for found in (exact, left, weights * mask)]
    assert errors[0] <= errors[1] * (1 + 1e-9) < errors[2]


def test_wanda_compares_the_weights_of_one_output():
    moments = GramMoments(3, 2)
    moments.add_inputs(np.diag([10.0, 1.0, 0.1]))
    weights = np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
    mask = wanda_mask(moments, weights, pattern=Unstructured(), sparsity=2 / 3)
    np.testing.assert_array_equal(mask, [[True, False, False], [True, False, False]])


def test_wanda_compares_the_blocks_of_the_same_outputs():
    moments, weights = problem(2)
    mask = wanda_mask(moments, weights, pattern=Block(2, 4), sparsity=0.5, positions=2)
    scores = np.abs(weights) * np.sqrt(np.diagonal(moments.gram))
    for first in range(0, 6, 2):
        sums = scores[first : first + 2].sum(axis=0).reshape(4, 4).sum(axis=1)
        kept = np.repeat(sums >= np.sort(sums)[2], 4)
        np.testing.assert_array_equal(mask[first : first + 2], [kept, kept])


@pytest.mark.parametrize("seed", range(3))
def test_alps_chooses_better_blocks(seed):
    moments, weights = problem(seed)
    settings = {"inputs": 16, "pattern": Block(1, 4), "sparsity": 0.5, "ridge": 1e-6}
    blocks, by_alps = _alps(moments, weights, **settings)
    _, by_sparse_gpt = _sparse_gpt(moments, weights, **settings)
    assert Block(1, 4).allows(blocks) and Block(1, 4).sparsity_of(blocks) == 0.5
    assert moments.errors(by_alps).sum() < moments.errors(by_sparse_gpt).sum()


def test_dead_inputs_lose_their_weights_first():
    moments, weights = problem(1)
    for array in (moments.gram, moments.gram.T):
        array[[2, 9]] = 0
    mask, left = _sparse_gpt(moments, weights, inputs=16, pattern=Unstructured(), sparsity=0.5, ridge=0.01)
    assert not mask[:, [2, 9]].any() and np.isfinite(left).all()
    assert not wanda_mask(moments, weights, pattern=NM(2, 4), sparsity=0.5)[:, [2, 9]].any()


def attentive():
    keras.utils.set_random_seed(0)
    series = keras.Input((None, 8))
    x = layers.Add()([series, layers.MultiHeadAttention(2, 4, name="attention")(series, series)])
    x = layers.Dense(24, activation="relu", name="hidden")(x)
    return keras.Model(series, layers.Dense(4, name="out")(x))


shared = functools.cache(attentive)  # for what is refused


def data(seed=0):
    generator = np.random.default_rng(seed)
    return (generator.normal(size=(40, 5, 3)) @ generator.normal(size=(3, 8))).astype("float32")


def kernels(model):
    return {
        weight.path: keras.ops.convert_to_numpy(weight) for weight in model.weights if weight.path.endswith("/kernel")
    }


@pytest.mark.parametrize(
    ("method", "pattern"),
    [
        *[("sparsegpt", pattern) for pattern in ("unstructured", NM(2, 4), Block(1, 4))],
        *[("alps", NM(2, 4)), ("wanda", Block(1, 4)), ("ria", "unstructured"), ("ria", NM(2, 4))],
    ],
    ids=str,
)
def test_a_model_with_zeros(method, pattern):
    model, x = attentive(), data()
    before = [values.copy() for values in model.get_weights()]
    sparse, report = prune_weights(model, x, criterion=method, pattern=pattern, allocation="uniform")
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    names = [f"{row.layer}/{row.weight}" for row in report.rows]
    heads = [f"attention/{name}/kernel" for name in ("query", "value", "key", "attention_output")]
    assert {*names} == {*heads, "hidden/kernel", "out/kernel"} and len(names) == 6
    for path, values in kernels(sparse).items():
        assert np.mean(values == 0) == pytest.approx(0.5, abs=0.02)
        if pattern != "unstructured":
            matrix = values.reshape(24 if path.startswith("out/") else 8, -1).T
            counts = (matrix.reshape(len(matrix), -1, 4) != 0).sum(axis=2)
            assert np.isin(counts, 2 if pattern == NM(2, 4) else (0, 4)).all()
    for row in report.rows:
        assert row.after < row.before if method in ("sparsegpt", "alps") else row.after == row.before


def test_masks_of_a_wrapped_model():
    wrapped, x = tfprune.wrap(attentive()), data()
    sparse, _ = prune_weights(wrapped, x, sparsity=0.6, allocation="uniform")
    for name in ("hidden", "out"):
        layer = sparse.get_layer(name)
        values = keras.ops.convert_to_numpy(layer.layer.kernel)
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer.masks["kernel"]), values != 0)
        assert np.mean(values == 0) == pytest.approx(0.6, abs=0.02)
    plain, _ = prune_weights(tfprune.strip(wrapped), x, sparsity=0.6, allocation="uniform")
    expected = keras.ops.convert_to_numpy(plain(x))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(sparse(x)), expected, atol=1e-5)


def test_convolutions_and_what_follows_them():
    keras.utils.set_random_seed(0)
    stack = [layers.Conv2D(8, 3, name="first"), layers.Conv2D(6, 2, groups=2, name="grouped"), layers.Flatten()]
    model = keras.Sequential([keras.Input((7, 7, 4)), *stack, layers.Dense(5, name="last")])
    x = np.random.default_rng(0).normal(size=(30, 7, 7, 4)).astype("float32")
    sparse, report = prune_weights(model, x, pattern=NM(2, 4))
    assert all(row.after < row.before for row in report.rows) and len(report.rows) == 3
    for values in kernels(sparse).values():
        matrix = np.moveaxis(values, -1, 0).reshape(-1, 4)
        assert ((matrix != 0).sum(axis=1) == 2).all()


def test_zeros_are_where_the_outputs_depend_on_them_least():
    keras.utils.set_random_seed(0)
    series = keras.Input((12,))
    loud, quiet = (layers.Dense(16, name=name)(series) for name in ("loud", "quiet"))
    total = layers.Add()([loud, layers.Rescaling(0.03)(quiet)])
    model = keras.Model(series, [total, layers.Dense(3, name="second")(loud)])
    x = np.random.default_rng(0).normal(size=(64, 12)).astype("float32")
    sparse, _ = prune_weights(model, x, 0.5, allocation="outputs")
    zeros = {path.split("/")[0]: values == 0 for path, values in kernels(sparse).items()}
    assert np.mean(np.concatenate([values.ravel() for values in zeros.values()])) == pytest.approx(0.5, abs=0.02)
    assert zeros["quiet"].mean() > 0.8 and zeros["loud"].mean() < 0.4


def test_outputs_beyond_the_squares_of_float32_are_compared_as_well():
    scales = 1.0, 2.0**80  # the biases are 0, so that the outputs grow by the same factor
    zeros = [zeros_of(prune_weights(mlp(), rows() * scale, 0.5, allocation="outputs")[0]) for scale in scales]
    assert zeros[1] == pytest.approx(zeros[0], abs=0.03)


def output_error(model, other, x):
    outputs, others = (keras.ops.convert_to_numpy(each(x)) for each in (model, other))
    return float(np.square(outputs - others).mean() / outputs.var(axis=0).mean())


@pytest.mark.programs
def test_targets_of_the_dense_model_mend_errors_of_earlier_layers():
    keras.utils.set_random_seed(0)
    hidden = [layers.Dense(24, activation="relu") for _ in range(4)]
    model = keras.Sequential([keras.Input((8,)), *hidden, layers.Dense(24)])
    x, held = np.random.default_rng(0).normal(size=(2, 500, 8)).astype("float32")
    errors = [
        output_error(model, prune_weights(model, x, 0.6, allocation="uniform", targets=targets)[0], held)
        for targets in ("dense", "own")
    ]
    assert errors[0] < 0.9 * errors[1]


def test_outputs_that_never_vary():
    with pytest.raises(ValueError, match="outputs of the model differ.*allocation='uniform'"):
        prune_weights(attentive(), np.ones((20, 5, 8), "float32"), allocation="outputs")


def mlp():
    keras.utils.set_random_seed(0)
    hidden = [layers.Dense(24, activation="relu", name=name) for name in ("first", "second")]
    return keras.Sequential([keras.Input((8,)), *hidden, layers.Dense(16, name="third")])


def rows(seed=0):
    return np.random.default_rng(seed).normal(size=(200, 8)).astype("float32")


def zeros_of(model):
    return {path.split("/")[-2]: float(np.mean(values == 0)) for path, values in kernels(model).items()}


def test_outputs_change_less_with_alps():
    model, x = mlp(), rows()
    settings = {"allocation": "uniform", "targets": "own"}
    errors = [
        sum(row.after for row in prune_weights(model, x, 0.7, criterion=criterion, **settings)[1].rows)
        for criterion in ("alps", "sparsegpt")
    ]
    assert errors[0] < 0.9 * errors[1]


def test_only_kernels_that_filters_match_are_pruned():
    sparse, report = prune_weights(mlp(), rows(), 0.5, filters=["second", "^third/kernel$"], allocation="uniform")
    assert zeros_of(sparse) == {"first": 0.0, "second": 0.5, "third": 0.5}
    assert not report.skipped
    sparse, _ = prune_weights(mlp(), rows(), 0.5, filters=lambda layer: layer.units == 16, criterion="wanda")
    assert zeros_of(sparse) == {"first": 0.0, "second": 0.0, "third": 0.5}


@pytest.mark.parametrize("allocation", ["outputs", "error", "owl", "alpha_pruning", "erk", "global", "lamp"])
def test_each_allocation_gives_the_overall_sparsity(allocation):
    model = mlp()
    before = [values.copy() for values in model.get_weights()]
    sparse, _ = prune_weights(model, rows(), 0.5, allocation=allocation)
    zeros = np.concatenate([values.ravel() == 0 for values in kernels(sparse).values()])
    assert zeros.mean() == pytest.approx(0.5, abs=0.004)
    for values, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(values, other)


def test_blocks_are_split_by_what_they_cost_and_those_of_before_stay():
    model, pattern = attentive(), Block(1, 4)
    once, _ = prune_weights(model, data(), 0.5, pattern=pattern, allocation={"hidden": 0.8, "/": 0.2})
    twice, _ = prune_weights(once, data(), 0.6, pattern=pattern)
    masks = {
        path: values.reshape(24 if path.startswith("out/") else 8, -1).T != 0
        for path, values in kernels(twice).items()
    }
    zeros = {path: pattern.sparsity_of(mask) for path, mask in masks.items()}
    sizes = [mask.size for mask in masks.values()]
    assert zeros["hidden/kernel"] > 0.79
    assert np.average([*zeros.values()], weights=sizes) == pytest.approx(0.6, abs=0.03)


@pytest.mark.parametrize(
    ("inputs", "positions", "sparsity"), [(1, 9, 2 / 3), (3, 9, 1 / 3), (40, 4, 0.5), (130, 2, 0.9)]
)
def test_sparse_gpt_reaches_the_sparsity_of_a_convolution(inputs, positions, sparsity):
    columns, outputs = inputs * positions, 1 if inputs == 1 else 10
    moments, weights = problem(3, inputs=columns, outputs=outputs)
    settings = {"pattern": Unstructured(), "sparsity": sparsity, "ridge": 0.01, "positions": positions}
    mask, _ = _sparse_gpt(moments, weights, inputs=columns, **settings)
    assert np.count_nonzero(~mask) == round(sparsity * mask.size)


def test_sparse_gpt_keeps_blocks_within_a_position():
    moments, weights = problem(3, inputs=24)  # 4 positions of 6 inputs, in blocks of 4 and 2
    mask, left = _sparse_gpt(moments, weights, inputs=24, pattern=Block(1, 4), sparsity=0.5, ridge=0, positions=4)
    kept = mask.reshape(6, 4, 6)
    assert Block(1, 4).allows(kept) and Block(1, 4).sparsity_of(kept) == 0.5
    blocks = [slice(first + at, first + min(at + 4, 6)) for first in range(0, 24, 6) for at in (0, 4)]
    means = np.stack(
        [
            cost_of_block(moments.gram[block.start :, block.start :], weights[:, block]) / (block.stop - block.start)
            for block in blocks
        ],
        axis=1,
    )
    expected = means > np.sort(means, axis=None)[23]
    np.testing.assert_array_equal([[row[block].all() for block in blocks] for row in mask], expected)
    np.testing.assert_array_equal(left != 0, mask)


def test_a_dict_spares_a_kernel_of_a_pattern():
    sparse, report = prune_weights(attentive(), data(), pattern=NM(2, 4), allocation={"hidden": None})
    zeros = {path: np.mean(values == 0) for path, values in kernels(sparse).items()}
    assert zeros["hidden/kernel"] == 0 and zeros["out/kernel"] == 0.5


def test_a_dict_gives_single_kernels_their_sparsity():
    sparse, report = prune_weights(mlp(), rows(), 0.5, allocation={"first": 0.25, "third": None})
    assert zeros_of(sparse) == {"first": 0.25, "second": 0.5, "third": 0.0}
    assert [row.layer for row in report.rows] == ["first", "second"] and not report.skipped


def test_owl_counts_the_products_of_weights_and_inputs():
    model, x = mlp(), rows()
    x[:, 0] *= 1000  # most entries of the first kernel are far below the mean of the products now
    shares = zeros_of(prune_weights(model, x, 0.5, allocation="owl", criterion="wanda")[0])
    assert shares["first"] == min(shares.values())
    assert max(shares.values()) - min(shares.values()) == pytest.approx(0.16, abs=0.03)


@pytest.mark.parametrize("allocation", ["owl", "alpha_pruning"])
def test_biases_do_not_count_in_a_split(allocation):
    keras.utils.set_random_seed(0)
    hidden = [layers.Dense(units, activation="relu") for units in (64, 2, 64)]
    sparse, _ = prune_weights(keras.Sequential([keras.Input((2,)), *hidden]), rows()[:, :2], allocation=allocation)
    zeros = np.concatenate([values.ravel() == 0 for values in kernels(sparse).values()])
    assert zeros.mean() == pytest.approx(0.5, abs=0.004)


def test_error_gives_zeros_to_kernels_whose_outputs_change_least():
    keras.utils.set_random_seed(0)
    series = keras.Input((8,))
    spare, full = (layers.Dense(24, name=name) for name in ("spare", "full"))
    model = keras.Model(series, layers.Add()([layers.Rescaling(100.0)(spare(series)), full(series)]))
    kernel = keras.ops.convert_to_numpy(spare.kernel).copy()
    kernel[np.random.default_rng(0).random(kernel.shape) < 0.8] *= 0.001
    spare.kernel.assign(kernel)
    shares = zeros_of(prune_weights(model, rows(), 0.5)[0])
    assert shares["spare"] > 0.75 and shares["full"] < 0.25
    with pytest.raises(ValueError, match="allocation='owl' can split. .* which .* would get 1.*allocation='error'"):
        prune_weights(model, rows() * np.array([9, *[1] * 7]), 0.97, allocation="owl")


@pytest.mark.parametrize("criterion", ["sparsegpt", "wanda"])
def test_samples_that_leave_a_layer_without_inputs(criterion):
    model = mlp()
    second = model.get_layer("first")
    second.bias.assign(-1e6 * np.ones(24))
    with pytest.raises(
        ValueError, match="inputs of second/kernel are 0. Pass more samples, or leave .* by `filters`"
    ):
        prune_weights(model, rows(), 0.5, criterion=criterion, allocation="uniform")
    sparse, _ = prune_weights(model, rows(), 0.5, criterion=criterion, allocation="uniform", filters="first")
    assert zeros_of(sparse)["first"] == 0.5


def test_depthwise_kernels_are_reported_or_refused_by_name():
    keras.utils.set_random_seed(0)
    stack = [layers.DepthwiseConv2D(3, name="depthwise"), layers.Conv1D(4, 2, name="along")]
    model = keras.Sequential(
        [keras.Input((8, 8, 4)), stack[0], layers.Reshape((36, 4)), stack[1], layers.GlobalAveragePooling1D()]
    )
    x = np.random.default_rng(0).normal(size=(20, 8, 8, 4)).astype("float32")
    sparse, report = prune_weights(model, x, 0.5, criterion="alps")
    assert zeros_of(sparse) == {"depthwise": 0.0, "along": 0.5}
    assert [skipped.layer for skipped in report.skipped] == ["depthwise/kernel"]
    with pytest.raises(ValueError, match=r"match depthwise/kernel \(depthwise kernels .* are never pruned here"):
        prune_weights(model, x, 0.5, filters="depthwise")


def sequences(seed=0):
    generator = np.random.default_rng(seed)
    return (generator.normal(size=(24, 4, 3)) @ generator.normal(size=(3, 6))).astype("float32")


def recurrent(layer):
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((4, 6)), layer, layers.Dense(4, name="out")])


@pytest.mark.parametrize(
    ("layer_class", "criterion"), [(layers.LSTM, "sparsegpt"), (layers.GRU, "alps"), (layers.SimpleRNN, "wanda")]
)
def test_kernels_of_recurrent_layers(layer_class, criterion):
    model, x = recurrent(layer_class(8, name="recurrent")), sequences()
    sparse, report = prune_weights(model, x, 0.5, criterion=criterion, allocation="uniform")
    names = [f"{row.layer}/{row.weight}" for row in report.rows]
    assert names == ["recurrent/kernel", "recurrent/recurrent_kernel", "out/kernel"] and not report.skipped
    assert all(row.after < row.before or criterion == "wanda" for row in report.rows)
    weights = [keras.ops.convert_to_numpy(each) for each in sparse.weights if "kernel" in each.name]
    assert [np.mean(each == 0) for each in weights] == [0.5] * 3


@pytest.mark.parametrize("backward", [False, True])
def test_the_states_before_a_step_are_those_that_the_layer_returns(backward):
    layer = layers.LSTM(5, return_sequences=True, go_backwards=backward)
    x = sequences()
    expected = keras.ops.convert_to_numpy(layer(x))  # in the order of its steps
    (_, states), _ = _recurrent_maps(layer, "lstm")
    before = states.seen(x).reshape(4, 24, 5).transpose(1, 0, 2)
    np.testing.assert_allclose(before[:, 1:], expected[:, :-1], atol=1e-6)
    assert not before[:, 0].any()


def test_recurrent_kernels_whose_states_are_not_known():
    series, state = keras.Input((4, 6)), keras.Input((8,))
    started = layers.GRU(8, name="started")(series, initial_state=state)
    reset = layers.GRU(8, reset_after=False, name="reset")(series)
    both = layers.Bidirectional(layers.LSTM(4, name="lstm"), name="both")(series)
    masked = layers.SimpleRNN(4, name="masked")(layers.Masking()(series))
    model = keras.Model([series, state], layers.Concatenate()([started, reset, both, masked]))
    _, report = prune_weights(model, [sequences(), np.ones((24, 8), "float32")], 0.5, allocation="uniform")
    assert len(report.rows) == 7 and {row.layer for row in report.rows} == {"started", "reset", "both", "masked"}
    reasons = {skipped.layer: skipped.reason for skipped in report.skipped}
    assert "initial states" in reasons["started/recurrent_kernel"]
    assert "reset_after=False" in reasons["reset/recurrent_kernel"]
    assert "or a mask" in reasons["masked/recurrent_kernel"]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"criterion": "best"}, "criterion"),
        ({"pattern": "channel"}, r"'unstructured', N:M such as '2:4', or blocks such as '1x4'"),
        ({"pattern": NM(2, 4), "sparsity": 0.8}, "at most 1 - n/m"),
        ({"sparsity": 1.5}, "sparsity"),
        ({"pattern": NM(2, 4), "allocation": "outputs"}, "allocation='uniform' with .*NM"),
        ({"criterion": "wanda", "allocation": "outputs"}, "allocation='uniform' with criterion='wanda'"),
        ({"allocation": "largest"}, "allocation"),
        ({"targets": "labels"}, "targets"),
        ({"allocation": {"hiden": 0.5}}, "every pattern of `allocation` to match .* 'hiden'"),
        ({"allocation": {"hidden": 1.0}}, "sparsity of hidden/kernel"),
        ({"allocation": "alpha_pruning", "sparsity": 0.9}, "of which .* would get"),
        ({"allocation": "owl", "pattern": NM(2, 4)}, "allocation='uniform' with pattern=NM"),
        ({"allocation": {"hidden": 0.7}, "pattern": NM(2, 4)}, "Received: 0.7 for hidden/kernel. .* at most 1 - n/m"),
        ({"filters": "hiden"}, "`filters` to match"),
        ({"filters": lambda layer: False}, "match none of attention/query/kernel"),
    ],
)
def test_settings_that_cannot_be(settings, reason):
    with pytest.raises(ValueError, match=reason):
        prune_weights(shared(), data(), **settings)
