"""Random graphs of what counts, names, orders or joins channels, which `plan_shrink` has to follow or leave alone."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from graphs import RandomGraph

import tfprune

layers, ops = keras.layers, keras.ops
MOST_CHANNELS = 16
ALLOCATIONS = ("uniform", "global", "lamp")


@keras.saving.register_keras_serializable(package="tests")
class BySize(layers.Layer):
    """Divides by a root of the sum over all channels, which is not a number for half of all inputs."""

    def call(self, inputs):
        return inputs / (1 + ops.sqrt(ops.sum(inputs, axis=-1, keepdims=True)))


@keras.saving.register_keras_serializable(package="tests")
class RunningSum(layers.Layer):
    def call(self, inputs):
        return ops.cumsum(inputs, axis=-1)


class ChannelGraph(RandomGraph):
    """Draws one operation after the other onto the channels of small dense and convolutional layers."""

    def build(self, kinds: Sequence[str]) -> keras.Model:
        """Return a network with these operations, each a name in `KINDS`, with layers between some of them."""
        positions = self.pick((), (6,), (6,), (4, 4))
        x = given = keras.Input((*positions, 3), batch_size=self.pick(None, 3))
        self.tensors = [self.dense(x), self.dense(x)]
        for kind in kinds:
            x = self.pick(*self.tensors[-2:])
            if x.shape[-1] < 2 or x.shape[-1] > MOST_CHANNELS or self.pick(True, False, False):
                x = self.dense(x)
            x = getattr(self, kind)(x)
            self.tensors.append(x)
            if self.pick(True, False):
                self.tensors.append(self.met(x))
        x = self.dense(self.tensors[-1]) if self.pick(True, False) else self.tensors[-1]
        x = layers.Flatten()(x) if len(x.shape) < 3 or self.pick(True, False) else self.averaged(x)
        return self.trained(keras.Model(given, layers.Dense(3)(x)))

    def averaged(self, x):
        return ops.mean(x, axis=tuple(range(1, len(x.shape) - 1)))

    def met(self, x, _=None):
        """Combine a tensor with another one of its shape."""
        others = [other for other in self.tensors if tuple(other.shape) == tuple(x.shape)]
        other = self.pick(*others, layers.Dense(x.shape[-1])(x))
        return self.pick(lambda: x + other, lambda: layers.Multiply()([other, x]), lambda: ops.maximum(x, other))()

    def even(self, x, by: int = 2):
        """Return a tensor whose channels can be split into as many parts."""
        return x if x.shape[-1] % by == 0 else layers.Dense(by * self.count(1, 4), activation="tanh")(x)

    def other(self, x):
        """Return a tensor with the same positions."""
        return self.pick(*[other for other in self.tensors if other.shape[:-1] == x.shape[:-1]], x)

    def constant(self, *shape: int) -> np.ndarray:
        return self.generator.normal(size=shape).astype("float32")

    # By their indices

    def roll(self, x):
        shift = int(self.generator.integers(-12, 13))
        return self.pick(lambda: ops.roll(x, shift, axis=-1), lambda: ops.roll(x, (1, shift), axis=(1, -1)))()

    def roll_of_all_axes(self, x):
        return ops.roll(x, self.count(), axis=self.pick(None, 1))

    def take_in_another_order(self, x):
        return ops.take(x, self.generator.permutation(x.shape[-1]).tolist(), axis=-1)

    def take_some(self, x):
        some = self.generator.integers(-x.shape[-1], x.shape[-1], size=self.count(1, 6))
        return ops.take(x, self.pick(some, some.tolist()), axis=len(x.shape) - 1)

    def take_one(self, x):
        index = int(self.generator.integers(x.shape[-1]))
        return ops.concatenate([ops.take(x, index, axis=-1)[..., None], x], axis=-1)

    def take_a_table(self, x):
        return ops.max(ops.take(x, self.generator.integers(x.shape[-1], size=(2, self.count())), axis=-1), axis=-2)

    def take_positions(self, x):
        return ops.take(x, [*range(x.shape[1])][::-1], axis=1) if len(x.shape) > 2 else x

    def take_along_axis(self, x):
        return ops.take_along_axis(x, ops.argsort(x, axis=-1), axis=-1)

    def slice(self, x):
        first, last = sorted(self.generator.integers(0, x.shape[-1], size=2).tolist())
        return x[..., first : last + 1 : self.pick(1, 1, 2)]

    def reverse(self, x):
        return self.pick(x[..., ::-1], ops.flip(x, axis=-1), ops.flip(x, axis=1))

    def pick_one(self, x):
        index = int(self.generator.integers(x.shape[-1]))
        return x * x[..., index : index + 1] + x[..., index][..., None]

    def unstack(self, x):
        parts = ops.unstack(x, axis=-1)
        return ops.stack([parts[index] for index in self.generator.permutation(len(parts))], axis=-1)

    def update_a_slice(self, x):
        start = int(self.generator.integers(x.shape[-1]))
        return ops.slice_update(x, [0] * (len(x.shape) - 1) + [start], x[..., start : start + 1] + 1)

    # By their number

    def split(self, x):
        first, second = ops.split(self.even(x), 2, axis=-1)
        return self.pick(
            lambda: ops.concatenate([second, first], axis=-1),
            lambda: first * ops.sigmoid(second),
            lambda: ops.concatenate([second, first, second], axis=-1),
        )()

    def split_at(self, x):
        first, second = ops.split(x, [self.count(1, x.shape[-1] - 1)], axis=-1)
        return ops.concatenate([second, first], axis=-1)

    def array_split(self, x):
        parts = ops.array_split(x, 2, axis=-1)
        return ops.concatenate(parts[::-1], axis=-1)

    def shuffle(self, x):
        x = self.even(x, by=self.pick(2, 3))
        rank, by = len(x.shape), 2 if x.shape[-1] % 2 == 0 else 3
        apart = layers.Reshape((*x.shape[1:-1], by, x.shape[-1] // by))(x)
        if self.pick(True, False):
            apart = ops.reshape(x, (-1, *x.shape[1:-1], x.shape[-1] // by, by))
        turned = ops.transpose(apart, (*range(rank - 1), rank, rank - 1))
        return ops.reshape(turned, (-1, *x.shape[1:]))

    def maxout(self, x):
        x = self.even(x)
        return ops.max(ops.reshape(x, (-1, *x.shape[1:-1], x.shape[-1] // 2, 2)), axis=self.pick(-1, -2))

    def shared_reshape(self, x):
        x = self.even(x)
        other = layers.Dense(x.shape[-1])(self.other(x))
        apart = layers.Reshape((*x.shape[1:-1], x.shape[-1] // 2, 2))
        return ops.concatenate([ops.max(apart(x), axis=-1), ops.max(apart(other), axis=-1)], axis=-1)

    def shared_model(self, x):
        inputs = keras.Input(x.shape[1:])
        inner = keras.Model(inputs, ops.roll(inputs, self.count(1, 3), axis=-1))
        return ops.concatenate([inner(x), inner(layers.Dense(x.shape[-1])(self.other(x)))], axis=-1)

    def squeeze(self, x):
        return ops.squeeze(ops.expand_dims(x, axis=1)) if x.shape[0] is None else x

    def broadcast(self, x):
        return ops.broadcast_to(x, (3, *x.shape[1:])) if x.shape[0] else x

    def tile(self, x):
        return ops.tile(x, [1] * (len(x.shape) - 1) + [2])

    def repeat(self, x):
        some = self.pick(2, 2, self.generator.integers(1, 3, size=x.shape[-1]).tolist())
        return ops.repeat(x, some, axis=-1)

    def pad(self, x):
        return ops.pad(x, [[0, 0]] * (len(x.shape) - 1) + [[1, self.count(0, 2)]])

    def one_hot(self, x):
        return ops.one_hot(ops.argmax(x, axis=-1), x.shape[-1]) + x

    def top_k(self, x):
        return ops.top_k(x, self.count(1, x.shape[-1]))[0]

    def depth_to_space(self, x):
        if len(x.shape) < 4 or x.shape[1] % 2 or x.shape[2] % 2:
            return x
        return self.pick(ops.depth_to_space(self.even(x, by=4), 2), ops.space_to_depth(x, 2))

    def embedding(self, x):
        vectors = layers.Embedding(7, self.count())(ops.cast(ops.abs(x) * 2, "int32") % 7)
        return ops.mean(vectors, axis=self.pick(-2, -1))

    # All at once

    def sums(self, x):
        reduce = self.pick(ops.sum, ops.mean, ops.max, ops.std, ops.logsumexp, ops.median)
        return x * reduce(x, axis=-1, keepdims=True)

    def running(self, x):
        return self.pick(
            lambda: ops.cumsum(x, axis=self.pick(-1, 1)),
            lambda: ops.sort(x, axis=-1),
            lambda: ops.diff(x, axis=-1),
            lambda: RunningSum()(self.dense(x)),
            lambda: BySize()(ops.abs(x)),
        )()

    def soften(self, x):
        return self.pick(
            lambda: ops.softmax(x, axis=self.pick(-1, 1)),
            lambda: ops.log_softmax(x),
            lambda: ops.normalize(x),
            lambda: layers.Softmax()(x),
            lambda: layers.Activation("softmax")(x),
        )()

    def two_channels(self, x):
        """An operation without a rule on two channels, of which a single one may be left."""
        return RunningSum()(layers.Dense(2)(x))

    def constants(self, x):
        size = x.shape[-1]
        return self.pick(
            lambda: x * self.constant(size),
            lambda: ops.clip(x, (-np.abs(self.constant(size))).tolist(), np.abs(self.constant(size)).tolist()),
            lambda: ops.where(self.constant(size) > 0, x, 0.0),
            lambda: ops.maximum(self.constant(1, size), x),
            lambda: layers.Rescaling(self.constant(size).tolist())(x),
        )()

    def products(self, x):
        size, other = x.shape[-1], self.other(x)
        return self.pick(
            lambda: x @ self.constant(size, self.count()),
            lambda: ops.tensordot(x, self.constant(size, 4), axes=1),
            lambda: ops.einsum("...c,...c->...c", x, x),
            lambda: ops.max(ops.einsum("...c,...d->...cd", x, other), axis=self.pick(-1, -2)),
            lambda: x * ops.einsum("...c,...c->...", x, x)[..., None],
        )()

    def masking(self, x):
        x = layers.Masking()(layers.Dense(self.count(), activation="relu")(x))
        return layers.GRU(3, return_sequences=True)(x) if len(x.shape) == 3 else x

    # Layers

    def join(self, x):
        parts = [x, self.other(x), *self.pick([x], [ops.roll(x, 1, axis=-1)], [])]
        return layers.Concatenate()([parts[index] for index in self.generator.permutation(len(parts))])

    def join_positions(self, x):
        if len(x.shape) < 3:
            return x
        last = self.constant(3, *x.shape[1:]) if x.shape[0] else ops.roll(x, 2, axis=-1)
        return ops.concatenate([ops.flip(x, axis=-1), x, last], axis=1)[:, : x.shape[1]]

    def stack(self, x):
        axis = self.pick(-1, -2)
        stacked = ops.stack([x, self.pick(x, layers.Dense(x.shape[-1])(x))], axis=axis)
        return self.pick(ops.max(stacked, axis=axis), ops.reshape(stacked, (-1, *x.shape[1:-1], 2 * x.shape[-1])))

    def group_norm(self, x):
        x = self.even(x)
        return layers.GroupNormalization(self.pick(1, 2, -1))(x)

    def norm(self, x):
        kind = self.pick(
            layers.LayerNormalization, layers.RMSNormalization, layers.BatchNormalization, layers.UnitNormalization
        )
        axis = self.pick(-1, 1)
        return kind(axis=-1 if kind is layers.RMSNormalization else axis)(x)  # Keras' own runs on the last axis only

    def turned(self, x):
        """Do something along the positions, while the channels stand on another axis."""
        if len(x.shape) < 3:
            return x
        turned = ops.swapaxes(x, -1, 1)
        done = self.pick(
            lambda: layers.GroupNormalization(1)(turned),
            lambda: layers.BatchNormalization()(turned),
            lambda: ops.softmax(turned),
            lambda: layers.PReLU()(turned),
            lambda: layers.Dense(turned.shape[-1])(turned),
            lambda: layers.Dense(2)(ops.mean(turned, axis=1, keepdims=True)) + turned[..., :2],
        )()
        return ops.moveaxis(done, 1, -1)

    def convolve(self, x):
        if len(x.shape) != 3:
            return x
        x = self.even(x)
        return self.pick(
            lambda: layers.Conv1D(2 * self.count(1, 3), 3, padding="same", groups=2)(x),
            lambda: layers.DepthwiseConv1D(3, padding="same", depth_multiplier=2, activation="tanh")(x),
            lambda: layers.SeparableConv1D(self.count(), 3, padding="same", depth_multiplier=2)(x),
            lambda: layers.Conv1DTranspose(self.count(), 2, padding="same")(x),
        )()

    def recur(self, x):
        if len(x.shape) != 3:
            return x
        kind, activation = self.pick(layers.LSTM, layers.GRU), self.pick("tanh", "softmax")
        return kind(self.count(2, 5), activation=activation, return_sequences=True)(x)

    def attend(self, x):
        if len(x.shape) != 3:
            return x
        return self.pick(
            lambda: layers.MultiHeadAttention(2, 3)(x, x),
            lambda: layers.Attention()([x, x]),
            lambda: layers.GroupQueryAttention(2, 4, 2)(x, x),
        )()

    def narrow(self, x):
        """Join a layer with a single channel, and one with two, to others that share their channels."""
        parts = [layers.Dense(count)(x) for count in (1, 2, 4)]
        return ops.concatenate(parts, axis=-1) + layers.Dense(7)(x)


KINDS = tuple(
    name
    for name, value in vars(ChannelGraph).items()
    if callable(value) and name not in ("build", "averaged", "met", "even", "other", "constant") and name[0] != "_"
)


def outcome(kinds: Sequence[str], seed: int) -> str:
    """Shrink a graph; tell whether channels were removed, or all had to stay.

    Raises:
        AssertionError: If the smaller model computes something else than the masked one, or has other sizes.
    """
    model = ChannelGraph(seed).build(kinds)
    try:
        plan = tfprune.plan_shrink(model, 0.45, allocation=ALLOCATIONS[seed % 3])
    except ValueError as error:
        assert "Expected channels that can be removed" in str(error), error
        return "kept"
    smaller, masked = tfprune.shrink(model, plan), tfprune.zero_channels(model, plan)
    data = np.random.default_rng(seed).normal(size=(3, *model.input_shape[1:])).astype("float32")
    expected = np.asarray(masked(data, training=False))
    assert np.isfinite(expected).all(), "the graph computes numbers that are not finite"
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(smaller(data, training=False), expected, atol=1e-5 * scale, rtol=0)
    assert smaller.count_params() == plan.parameters_kept
    return "removed" if plan.parameters_kept < plan.parameters else "kept"
