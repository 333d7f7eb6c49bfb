"""Norms by block: by hand, their trend, and the step where a stack starts again."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from residual_blocks import BLOCK, residual

import tfprune


def scaled(factors):
    model = residual(len(factors), width=6, hidden=40, bias=0)
    for index, factor in enumerate(factors):
        for part in ("hidden", "out"):
            kernel = model.get_layer(f"block_{index}_{part}").kernel
            kernel.assign(factor * kernel / np.sqrt(np.mean(np.square(kernel))))
    return model


def test_norms_by_hand():
    profile = tfprune.growth.norm_profile(residual(2))
    model = residual(2)
    for row in profile.rows:
        kernels = [np.asarray(model.get_layer(f"block_{row.block}_{part}").kernel) for part in ("hidden", "out")]
        expected = np.mean([np.linalg.norm(kernel) / kernel.size**0.5 for kernel in kernels])
        assert row.norm == pytest.approx(expected, rel=1e-6)
        assert row.layer == f"block_{row.block}_hidden"


@pytest.mark.parametrize(
    ("factors", "trend"),
    [
        ([1.0, 1.1, 1.2, 1.3], "rising"),
        ([1.0, 1.1, 1.3, 1.2], "rising"),  # a dip at the end, as in the source
        ([1.3, 1.2, 1.1, 1.0], "falling"),
        ([1.0, 1.01, 1.02, 1.03], "flat"),
        ([1.0, 1.4, 0.9, 1.2], "flat"),
    ],
)
def test_the_trend(factors, trend):
    profile = tfprune.growth.norm_profile(scaled(factors), blocks=BLOCK)
    assert profile.trend == trend
    assert f"The norms are {trend} (" in str(profile)
    assert profile.as_dict()["trend"] == trend
    slope = np.cov(range(4), factors)[0, 1] / np.var(range(4), ddof=1)
    assert profile.rise == pytest.approx(3 * slope / np.mean(factors), rel=1e-4)
    assert profile.seam == pytest.approx(abs(factors[-1] - factors[0]) / np.abs(np.diff(factors)).mean(), rel=1e-3)


@pytest.mark.programs
def test_interposed_copies_keep_the_profile_and_stacked_ones_do_not():
    model = tfprune.wrap(scaled([1.0, 1.2, 1.4]))
    trends = [
        tfprune.growth.norm_profile(tfprune.growth.grow_depth(model, order=order)[0]).trend
        for order in ("interpose", "stack")
    ]
    assert trends == ["rising", "flat"]


def test_blocks_without_kernels_are_refused():
    x = inputs = keras.Input((4,))
    for index in range(2):
        x = keras.layers.Add()([x, keras.layers.LayerNormalization(name=f"block_{index}_norm")(x)])
    with pytest.raises(ValueError, match="block 0 of .* begins with 'block_0_norm' and has none"):
        tfprune.growth.norm_profile(keras.Model(inputs, x), blocks=BLOCK)
