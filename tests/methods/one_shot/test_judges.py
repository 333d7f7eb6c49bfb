"""The losses by which smaller models are compared, against NumPy on the outputs of tiny models."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tfprune
from tfprune.compact.linear_map import GraphWalk
from tfprune.methods.one_shot.removal import OutputLoss, RemainingTokens, _NextTokens, run
from tfprune.models.graph import trace_to_run
from tfprune.models.training import batch_loss

TOKENS, KEPT = 12, np.array([1, 3, 4, 7, 9])
IDS = KEPT[np.random.default_rng(0).integers(0, len(KEPT), (4, 6))].astype("int32")


def writer(width, *, returns="scores", tokens=TOKENS, dtype="float32"):
    """Return a model of text with a reversible embedding."""
    keras.utils.set_random_seed(0)
    ids = keras.Input((None,), dtype="int32", name="token_ids")
    embedding = keras.layers.ReversibleEmbedding(tokens, width, name="tokens", dtype=dtype)
    states = keras.layers.Dense(width, "tanh", name="hidden", dtype=dtype)(embedding(ids))
    outputs = {"scores": lambda: embedding(states, reverse=True), "states": lambda: states}
    pooled = {"pooled": lambda: keras.layers.GlobalAveragePooling1D()(states)}
    model = keras.Model(ids, (outputs | pooled)[returns]())
    embedding.embeddings.assign(np.random.default_rng(1).normal(size=(tokens, width)))
    return model


def cross_entropy(scores, ids):
    scores = np.asarray(scores, "float64")[:, :-1]
    likely = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    return -np.mean(np.take_along_axis(likely, ids[:, 1:, np.newaxis], axis=-1))


def mean(next_tokens, outputs):
    total, count = next_tokens.sums(outputs, [IDS])
    return total / count


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("width", [5, 8, TOKENS])  # as many as tokens that remain, other, and as many as tokens
def test_scores_are_never_taken_for_hidden_states(width, dtype):
    model = writer(width, dtype=dtype)
    outputs = run(model, [IDS])
    scores = keras.ops.convert_to_numpy(keras.ops.cast(outputs[0], "float32"))
    graph = trace_to_run(model)
    assert mean(_NextTokens(graph, None), outputs) == pytest.approx(cross_entropy(scores, IDS), rel=1e-5)
    fewer = writer(width, tokens=len(KEPT), dtype=dtype)
    remaining = RemainingTokens(fewer, KEPT)
    expected = cross_entropy(scores[..., KEPT], np.searchsorted(KEPT, IDS))
    for some in (outputs[0], keras.ops.take(outputs[0], KEPT, axis=-1)):
        assert mean(_NextTokens(graph, remaining), [some]) == pytest.approx(expected, rel=1e-5)


def test_the_distance_is_that_of_the_remaining_tokens_whatever_a_model_has():
    model = writer(8)
    remaining = RemainingTokens(writer(8, tokens=len(KEPT)), KEPT)
    loss = OutputLoss(trace_to_run(model), [([IDS], None)], judge="distance", remaining=remaining)
    dense = np.asarray(model(IDS))[..., KEPT]
    other = dense + np.random.default_rng(2).normal(size=dense.shape).astype("float32")
    whole = np.full((*dense.shape[:-1], TOKENS), 100.0, "float32")  # far off for tokens that may go
    whole[..., KEPT] = other
    expected = np.mean(np.square(other - dense)) / np.mean(np.square(dense))
    assert loss(lambda arrays: [other]) == pytest.approx(expected, rel=1e-5)
    assert loss(lambda arrays: [whole]) == pytest.approx(expected, rel=1e-5)


def test_a_model_without_an_output_for_each_token_has_no_perplexity():
    with pytest.raises(ValueError, match=r"make logits of 12 tokens.*first output of shape \(None, 8\)"):
        OutputLoss(trace_to_run(writer(8, returns="pooled")), [([IDS], None)], judge="perplexity")
    states = writer(8, returns="states")
    scores = np.asarray(run(states, [IDS])[0]) @ np.asarray(states.get_layer("tokens").embeddings).T
    loss = OutputLoss(trace_to_run(states), [([IDS], None)], judge="perplexity")
    assert loss(lambda arrays: run(states, arrays)) == pytest.approx(cross_entropy(scores, IDS), rel=1e-5)


def test_texts_of_one_token_are_too_short_for_the_next_one():
    with pytest.raises(ValueError, match="texts of two tokens or more"):
        OutputLoss(trace_to_run(writer(8)), [([IDS[:, :1]], None)], judge="perplexity")


def test_outputs_of_a_walk_are_in_the_order_of_the_model_also_those_that_were_left_behind():
    x = keras.Input((3,))
    early = keras.layers.Dense(2, name="early")(x)
    late = keras.layers.Dense(4, name="late")(keras.layers.Dense(5, name="between")(early))
    model = keras.Model(x, [late, early])
    graph, numbers = trace_to_run(model), np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
    walk = GraphWalk(graph, [[numbers]])
    for end in range(len(graph.calls) + 1):
        walk.advance(end)
        for output, expected in zip(walk.outputs(0), model(numbers), strict=True):
            np.testing.assert_allclose(output, expected, rtol=1e-6)


def test_a_loss_of_16_bit_scores_has_more_than_three_digits():
    scores = keras.ops.cast(np.random.default_rng(0).normal(size=(4, 6, TOKENS)), "bfloat16")
    expected = cross_entropy(np.asarray(keras.ops.cast(scores, "float32")), IDS)

    def by_function(labels, outputs):
        return keras.losses.sparse_categorical_crossentropy(labels, outputs, from_logits=True)

    assert batch_loss(by_function, scores[:, :-1], targets=IDS[:, 1:]) == pytest.approx(expected, rel=1e-5)


def test_a_model_with_masks_and_sample_weights_are_refused():
    x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    block = [keras.layers.Dense(4, "relu", name=f"block_{index}") for index in range(2)]
    model = keras.Sequential([keras.Input((4,)), *block, keras.layers.Dense(1)])
    weights = (np.arange(8) < 4).astype("float32")
    with pytest.raises(ValueError, match="without sample weights in `data`"):
        tfprune.transformers.rank_blocks(model, (x, x[:, :1], weights), loss="mse")
    budget = tfprune.budget(parameters=0.6)
    with pytest.raises(ValueError, match="without sample weights in `samples`"):
        tfprune.plan_transformer(model, (x, x[:, :1], weights), budget=budget, judge="mse")
    with pytest.raises(ValueError, match="without masks.*Strip it first"):
        tfprune.plan_transformer(tfprune.wrap(model), x, budget=budget)
