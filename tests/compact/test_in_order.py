"""Reconstruction in one walk over a model: what is wanted, layers made of others, masks, and data kept apart."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from tiers import first

import tfprune
from tfprune.compact.linear_map import GraphWalk, _Spool
from tfprune.models.graph import flatten, trace

layers = keras.layers


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def numpy(value):
    return keras.ops.convert_to_numpy(value)


class Block(layers.Layer):
    """Attention and a gated feed-forward network, whose layers are not held in the order of their calls."""

    def __init__(self, width=12, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.down = layers.Dense(6, name="down")
        self.up = layers.Dense(width, activation="relu", name="up")
        self.gate = layers.EinsumDense("bti,ih->bth", (None, width), name="gate")
        self.attention = layers.MultiHeadAttention(2, 3, name="attention")
        self.unused = layers.Dense(2, name="unused")

    def build(self, shape):
        self.attention.build(shape, shape)
        self.up.build(shape)
        self.gate.build(shape)
        self.down.build((*shape[:-1], self.width))
        self.unused.build(shape)
        self.built = True

    def call(self, x):
        x = x + self.attention(x, x)
        return x + self.down(self.up(x) * self.gate(x))

    def get_config(self):
        return {**super().get_config(), "width": self.width}


def blocks(count=2):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((5, 6))
    for number in range(count):
        x = Block(name=f"block_{number}")(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


def clone(model):
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def without_units(model, gone):
    """Remove hidden units of every block by zeros, where they are made and where they are read."""
    pruned = clone(model)
    for layer in pruned.layers:
        if isinstance(layer, Block):
            for part in (layer.up, layer.gate):
                kernel = numpy(part.kernel).copy()
                kernel[:, gone] = 0
                part.kernel.assign(kernel)
            kernel = numpy(layer.down.kernel).copy()
            kernel[gone] = 0
            layer.down.kernel.assign(kernel)
    return pruned


def parts(block, x):
    """Return what a block's down projection gets, and its input of the whole."""
    x = keras.ops.convert_to_tensor(x)
    middle = x + block.attention(x, x)
    return numpy(middle), numpy(block.up(middle) * block.gate(middle)).reshape(-1, block.width).astype(float)


@pytest.mark.parametrize("targets", first("own", "dense"))
def test_the_layers_of_blocks_are_solved_one_by_one(targets):
    """For each block, the down projection is least squares by NumPy, on what the blocks before it return now."""
    model, x, gone = blocks(), normal(60, 5, 6), np.array([1, 4, 5, 9])
    kept = np.setdiff1d(np.arange(12), gone)
    pruned = without_units(model, gone)
    better, report = tfprune.reconstruct(pruned, model, x, targets=targets, ridge=1e-9)
    rows = {f"{row.layer}/{row.weight}": row for row in report.rows}
    assert all(row.after <= row.before for row in report.rows)
    if targets == "dense":
        assert [(one.layer, one.reason) for one in report.skipped] == [
            (f"block_{number}/unused/kernel", "it is not called") for number in (0, 1)
        ]
        held = normal(60, 5, 6, seed=1)
        errors = [np.mean((numpy(one(held)) - numpy(model(held))) ** 2) for one in (better, pruned)]
        assert errors[0] < errors[1]
    else:
        ours = x
        for number in (0, 1):
            dense, solved = model.get_layer(f"block_{number}"), better.get_layer(f"block_{number}")
            _, hidden = parts(dense, ours)
            kernel, bias = map(numpy, (dense.down.kernel, dense.down.bias))
            wanted = hidden @ kernel + bias
            seen = np.column_stack([hidden[:, kept], np.ones(len(hidden))])
            expected = np.linalg.lstsq(seen, wanted, rcond=None)[0]
            np.testing.assert_allclose(numpy(solved.down.kernel)[kept], expected[:-1], atol=1e-4)
            np.testing.assert_allclose(numpy(solved.down.bias), expected[-1], atol=1e-4)
            error = np.sum((seen @ expected - wanted) ** 2) / np.sum(wanted**2)
            assert rows[f"block_{number}/down/kernel"].after == pytest.approx(error, rel=1e-3)
            ours = numpy(solved(ours))
        assert rows["block_1/up/kernel"].before == 0
    assert not numpy(better.get_layer("block_0").down.kernel)[gone].any()


def test_all_layers_of_a_block_in_one_pass():
    model = blocks(1)
    pruned = without_units(model, np.array([0, 1]))
    _, report = tfprune.reconstruct(pruned, model, normal(20, 5, 6), reconstruction="parallel")
    assert [one.layer for one in report.skipped] == ["block_0/unused/kernel"]
    assert {row.weight for row in report.rows} == {
        *(f"attention/{part}/kernel" for part in ("query", "key", "value", "attention_output")),
        "up/kernel",
        "gate/kernel",
        "down/kernel",
        "kernel",
    }


def test_data_kept_apart_decide_whether_a_layer_gets_new_weights():
    """Two samples to fit and many inputs: the fit is perfect, and useless on all other data."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((40,)), layers.Dense(4, name="out")])
    pruned = clone(model)
    kernel = numpy(pruned.layers[0].kernel).copy()
    kernel[::4] = 0
    pruned.layers[0].kernel.assign(kernel)
    batches = [normal(30, 40, seed=1) * 3, normal(2, 40, seed=2)]
    better, report = tfprune.reconstruct(pruned, model, batches, holdout=0.5, ridge=1e-9)
    (row,) = report.rows
    expected = numpy(model(batches[0]))
    held = np.mean((numpy(pruned(batches[0])) - expected) ** 2) / np.mean(expected**2)
    assert row.held_before == pytest.approx(held, rel=1e-4)
    assert row.held_after > row.held_before and row.after == row.before
    np.testing.assert_array_equal(numpy(better.layers[0].kernel), kernel)
    assert "held out before" in str(report)
    mix = normal(10, 40)  # inputs that share ten causes
    plenty = [normal(300, 10, seed=seed) @ mix for seed in range(4)]
    better, report = tfprune.reconstruct(pruned, model, plenty, holdout=0.5)
    assert report.rows[0].held_after < report.rows[0].held_before
    assert (numpy(better.layers[0].kernel) != kernel).any()
    with pytest.raises(ValueError, match="at least two batches with a `holdout`"):
        tfprune.reconstruct(pruned, model, plenty[:1], holdout=0.5)
    with pytest.raises(ValueError, match="holdout"):
        tfprune.reconstruct(pruned, model, plenty, holdout=0.9)


def test_two_inputs_as_a_list():
    one, other = keras.Input((6,)), keras.Input((6,))
    model = keras.Model([one, other], layers.Dense(3)(layers.Concatenate()([one, other])))
    pruned = clone(model)
    pruned.layers[-1].kernel.assign(numpy(pruned.layers[-1].kernel) * (np.arange(12) % 3 > 0)[:, np.newaxis])
    a, b = normal(50, 6), normal(50, 6, seed=1)
    found = [
        tfprune.reconstruct(pruned, model, data, reconstruction=mode)[1].rows[0].after
        for data in ([a, b], ([a, b], np.zeros(50)), [([a[:25], b[:25]], None), ([a[25:], b[25:]], None)])
        for mode in ("sequential", "parallel")
    ]
    np.testing.assert_allclose(found, found[0], rtol=1e-4)


def test_masks_of_keras_reach_later_layers():
    """Padding is not seen by a recurrent layer, though other layers were solved between it and the embedding."""
    tokens = keras.Input((6,), dtype="int32")
    x = layers.Embedding(20, 8, mask_zero=True)(tokens)
    x = layers.Dense(8, name="first")(x)
    x = layers.Dense(8, name="second")(x)
    model = keras.Model(tokens, layers.Dense(3, name="last")(layers.LSTM(5)(x)))
    pruned = clone(model)
    for name in ("first", "second", "last"):
        kernel = pruned.get_layer(name).kernel
        kernel.assign(numpy(kernel) * (np.random.default_rng(0).random(kernel.shape) < 0.5))
    ids = np.random.default_rng(1).integers(0, 20, (60, 6))
    ids[:, 3:] = 0
    ids[:, 0] = 7
    better, report = tfprune.reconstruct(pruned, model, ids)
    reader = keras.Model(better.inputs, better.get_layer("last").input)
    target = keras.Model(model.inputs, model.get_layer("last").output)
    x, y = numpy(reader(ids)), numpy(target(ids))
    error = np.sum((numpy(better.get_layer("last")(x)) - y) ** 2) / np.sum(y**2)
    assert report.rows[-1].after == pytest.approx(error, rel=1e-3)


class Counting(layers.Dense):
    runs = 0

    def call(self, inputs):
        if not isinstance(inputs, keras.KerasTensor):
            Counting.runs += 1
        return super().call(inputs)


@pytest.mark.parametrize("depth", [4, 16])
@pytest.mark.parametrize("targets", first("own", "dense"))
def test_a_walk_is_linear_in_depth(depth, targets):
    """A layer is called for each kernel of its own, and to go on; not for each layer after it."""
    stack = [layer for _ in range(depth) for layer in (Counting(8, activation="relu"), layers.Dense(8))]
    model = keras.Sequential([keras.Input((8,)), *stack])
    pruned = clone(model)
    for layer in pruned.layers[1::2]:
        layer.kernel.assign(numpy(layer.kernel) * (np.arange(8) % 2)[:, np.newaxis])
    Counting.runs = 0
    tfprune.reconstruct(pruned, model, normal(20, 8), batch_size=10, targets=targets)
    assert Counting.runs <= depth * 2 * 2 * 2  # batches, models, and once for its kernel and once to go on


def test_a_walk_keeps_only_what_is_needed_later(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model = keras.Sequential([keras.Input((4,)), *[layers.Dense(4) for _ in range(6)]])
    graph = trace(flatten(clone(model)))
    walk = GraphWalk(graph, [[normal(3, 4)], [normal(2, 4)]])
    for end in range(1, 7):
        walk.advance(end)
        files = list(tmp_path.glob("*/*.npy"))
        assert len(files) == 2  # what the next call takes, and in the end the output


def test_tensors_come_back_with_their_types(tmp_path):
    spool = _Spool()
    for number, dtype in enumerate(["bfloat16", "float16", "float32", "int32", "bool"]):
        value = keras.ops.cast(keras.ops.arange(6) % 3, dtype)
        spool.put(number, 0, value)
        found = spool.get(number, 0)
        assert keras.backend.standardize_dtype(found.dtype) == dtype
        np.testing.assert_array_equal(
            numpy(keras.ops.cast(found, "float32")), numpy(keras.ops.cast(value, "float32"))
        )
    spool.drop(0)
    assert not spool.holds(0) and spool.holds(1)
