"""Rankings of blocks, against models without each of them."""

from __future__ import annotations

import numpy as np
import pytest
from residual_blocks import X, by_hand, residual
from small_transformer import texts, transformer

import tfprune

Y = by_hand(residual(), [0, 1, 2], X) + 0.1


def test_the_loss_without_each_block_is_that_of_the_model_without_it():
    model = residual()
    ranking = tfprune.transformers.rank_blocks(model, (X, Y), loss="mse", batch_size=5)
    for row in ranking.rows:
        left = [block for block in range(3) if block != row.block]
        assert row.loss == pytest.approx(np.square(by_hand(model, left, X) - Y).mean(), rel=1e-4)
    assert ranking.loss == pytest.approx(0.01, rel=1e-3)
    assert list(ranking.order) == sorted(range(3), key=lambda block: ranking.rows[block].loss)


def test_the_loss_is_that_the_model_is_compiled_with():
    model = residual()
    model.compile("sgd", "mae")
    assert tfprune.transformers.rank_blocks(model, (X, Y)).loss == pytest.approx(0.1, rel=1e-3)


def test_the_similarity_is_the_cosine_of_what_goes_in_and_out():
    model = residual()
    ranking = tfprune.transformers.rank_blocks(model, X, criterion="similarity")
    assert ranking.loss is None
    before = X
    for row in ranking.rows:
        hidden = model.get_layer(f"block_{row.block}_hidden")
        after = before + np.asarray(model.get_layer(f"block_{row.block}_out")(hidden(before)))
        cosine = (before * after).sum(-1) / np.linalg.norm(before, axis=-1) / np.linalg.norm(after, axis=-1)
        assert row.similarity == pytest.approx(cosine.mean(), abs=1e-5)
        before = after
    assert list(ranking.order) == sorted(range(3), key=lambda block: -ranking.rows[block].similarity)


@pytest.mark.parametrize("by", ["loss", "similarity"])
def test_a_block_that_does_nothing_is_missed_least(by):
    model = transformer(3)
    for name in ("attention_1", "back_1"):
        for variable in model.get_layer(name).weights:
            variable.assign(np.zeros(variable.shape))
    x = texts(8)
    ranking = tfprune.transformers.rank_blocks(model, (x, np.asarray(model(x)) + 0.1), criterion=by, loss="mse")
    assert ranking.order[0] == 1
    assert ranking.rows[1].similarity == pytest.approx(1, abs=1e-6)
    smaller, report = tfprune.transformers.drop_blocks(model, ranking.order[:1], samples=x)
    assert report.is_function_preserving
    assert f"{'whole model is 0.0100' if by == 'loss' else ''}" in str(ranking)
    assert ranking.as_dict()["order"][0] == 1


def test_what_cannot_be_ranked_is_refused():
    with pytest.raises(ValueError, match="one output and a loss"):
        tfprune.transformers.rank_blocks(residual(), (X, Y))
    with pytest.raises(ValueError, match="with targets"):
        tfprune.transformers.rank_blocks(residual(), X, loss="mse")
    with pytest.raises(ValueError, match="Expected `criterion`"):
        tfprune.transformers.rank_blocks(residual(), X, criterion="norm")
    with pytest.raises(TypeError, match="Expected a Keras model"):
        tfprune.transformers.rank_blocks("model", X)
    with pytest.raises(ValueError, match="NaN"):
        tfprune.transformers.rank_blocks(residual(), X * np.nan, criterion="similarity")
