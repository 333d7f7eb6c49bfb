"""Token ids beyond the vocabulary, which some backends read as others in silence."""

import numpy as np
import pytest
from small_transformer import TOKENS, texts, transformer

import tfprune

LABELS = np.zeros((4, 6, 3), "float32")


def rank_blocks(model, ids):
    return tfprune.transformers.rank_blocks(model, ids, criterion="similarity")


def drop_blocks(model, ids):
    return tfprune.transformers.drop_blocks(model, count=1, data=(ids, LABELS), loss="mse")


def rank_heads(model, ids):
    return tfprune.transformers.rank_heads(model, (ids, LABELS), loss="mse", verbose=0)


def rank_channels(model, ids):
    return tfprune.rank_channels(model, ids, verbose=0)


def reconstruct(model, ids):
    return tfprune.reconstruct(model, model, samples=ids, verbose=0)


@pytest.mark.parametrize("function", [rank_blocks, drop_blocks, rank_heads, rank_channels, reconstruct])
def test_they_are_refused(function):
    ids = texts(4)
    ids[1, 2] = TOKENS
    with pytest.raises(ValueError, match=rf"token ids from 0 to {TOKENS - 1} in `\w+`. Received: ids with {TOKENS}"):
        function(transformer(2), ids)
