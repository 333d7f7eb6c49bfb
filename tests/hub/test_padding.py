"""Texts with padding against the same texts without it: what pruning makes of them is the same."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tfprune
from tfprune.methods.one_shot.removal import OutputLoss, run
from tfprune.models.graph import trace_to_run
from tfprune.models.training import Batches

keras_hub = pytest.importorskip("keras_hub", reason="keras-hub is not installed")
hub_models = pytest.importorskip("hub_models")

COUNT, LENGTH, PADDED = 24, 5, 12
IDS = np.random.default_rng(0).integers(1, hub_models.VOCABULARY, (COUNT, LENGTH))


def texts(model, length):
    """Return the texts, filled up to a length with a token that would change all that is measured."""
    ids = np.full((COUNT, length), 3)
    ids[:, :LENGTH] = IDS
    every = {"token_ids": ids, "padding_mask": np.int64(np.arange(length) < LENGTH) + 0 * ids, "segment_ids": 0 * ids}
    return {tensor.name: every[tensor.name] for tensor in model.inputs}


def reconstruct(model, x):
    pruned = tfprune.wrap(model)
    tfprune.update_masks(pruned, 0.5)
    return tfprune.reconstruct(pruned, model, samples=x, verbose=0)[0].get_weights()


def prune_weights(model, x):
    return tfprune.prune_weights(model, x, 0.5, allocation="uniform", verbose=0)[0].get_weights()


def prune_units(model, x):
    return tfprune.prune_units(model, x, 0.4, verbose=0)[0].get_weights()


def _loss(model, x, judge):
    """Return the loss of the model with half of its weights, as a plan judges it."""
    smaller = hub_models.randomized(type(model).__name__)
    smaller.set_weights([weight * 0.5 for weight in model.get_weights()])
    loss = OutputLoss(trace_to_run(model), list(Batches(x, model, batch_size=10)), judge=judge)
    return [np.array(loss(lambda arrays: run(smaller, arrays)))]


def distance(model, x):
    return _loss(model, x, "distance")


def perplexity(model, x):
    return _loss(model, x, "perplexity")


def rank_blocks(model, x):
    return [
        np.array([row.similarity for row in tfprune.transformers.rank_blocks(model, x, criterion="similarity").rows])
    ]


def rank_experts(model, x):
    return [np.array([[row.reap, row.frequency] for row in tfprune.experts.rank(model, x).rows])]


def narrow(model, x):
    return tfprune.transformers.narrow(model, x, hidden_dim=8, verbose=0)[0].get_weights()


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (reconstruct, "BertBackbone"),
        (prune_weights, "BertBackbone"),
        (prune_units, "BertBackbone"),
        (distance, "BertBackbone"),
        (perplexity, "Gemma3Backbone"),
        (rank_blocks, "GPT2Backbone"),
        (rank_experts, "MixtralBackbone"),
        (narrow, "Qwen3Backbone"),
    ],
)
@pytest.mark.programs
def test_it_is_left_out(function, name):
    model = hub_models.randomized(name)
    short, padded = (function(model, texts(model, length)) for length in (LENGTH, PADDED))
    for one, other in zip(short, padded, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_a_batch_of_padding_alone_is_refused():
    model = hub_models.randomized("BertBackbone")
    x = texts(model, LENGTH)
    x["padding_mask"][:] = 0
    with pytest.raises(
        ValueError, match=r"tokens in `samples`. Received: a batch in which all of token_ids is padding"
    ):
        prune_units(model, x)


def test_keras_masks_count_as_well():
    keras.utils.set_random_seed(0)
    ids = keras.Input((None,), dtype="int32")
    states = keras.layers.Embedding(hub_models.VOCABULARY, 8, mask_zero=True)(ids)
    states = keras.layers.Dense(6, "tanh")(keras.layers.LSTM(8, return_sequences=True)(states))
    model = keras.Model(ids, keras.layers.Dense(3)(states))
    padded = np.pad(IDS, ((0, 0), (0, PADDED - LENGTH)))
    for one, other in zip(prune_weights(model, IDS), prune_weights(model, padded), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
