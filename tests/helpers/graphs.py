"""Random graphs of layers, for what has to hold of any model."""

from __future__ import annotations

import keras
import numpy as np

import tfprune

layers = keras.layers
ACTIVATIONS = ("relu", "sigmoid", "tanh", "swish", "softplus", "hard_sigmoid", "gelu", None)


class RandomGraph:
    """Draws layers onto each other, as the generator says, until there are enough.

    Args:
        seed: Of the generator.
    """

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)
        self.shared: dict[int, keras.layers.Layer] = {}

    def pick(self, *choices):
        return choices[int(self.generator.integers(len(choices)))]

    def count(self, least: int = 2, most: int = 9) -> int:
        return int(self.generator.integers(least, most + 1))

    def images(self) -> keras.Model:
        """Return a network on images: branches, gates, residuals, groups, and a head of dense layers."""
        image = keras.Input((int(self.pick(7, 8)), 8, 3))
        maps = [self.conv(image)]
        for _ in range(self.count(2, 6)):
            maps.append(getattr(self, self.pick(*IMAGE_STEPS))(maps[-1], maps))
        vector = self.pick(layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D, layers.Flatten)()(maps[-1])
        return self.trained(keras.Model(image, self.head(vector)))

    def sequences(self) -> keras.Model:
        """Return a network on sequences: recurrence, attention, convolutions in time."""
        series = keras.Input((6, 4))
        tensors = [layers.Dense(self.count(4, 8))(series)]
        for _ in range(self.count(1, 4)):
            tensors.append(getattr(self, self.pick(*SEQUENCE_STEPS))(tensors[-1], tensors))
        is_known = tensors[-1].shape[1] is not None
        vector = self.pick(layers.GlobalAveragePooling1D, *[layers.Flatten] * is_known)()(tensors[-1])
        return self.trained(keras.Model(series, self.head(vector)))

    def vectors(self) -> keras.Model:
        """Return a network of dense layers with branches, shared layers and nested models."""
        vector = keras.Input((5,))
        tensors = [self.dense(vector)]
        for _ in range(self.count(2, 6)):
            tensors.append(getattr(self, self.pick(*VECTOR_STEPS))(tensors[-1], tensors))
        return self.trained(keras.Model(vector, self.head(tensors[-1])))

    def head(self, x):
        if self.pick(True, False):
            x = self.dense(x)
        return layers.Dense(3, activation=self.pick(None, "softmax"))(x)

    def trained(self, model: keras.Model) -> keras.Model:
        """Give all weights values as training leaves them: no zero biases, no unit scales."""
        for weight in model.weights:
            values = self.generator.normal(0, 0.4, weight.shape)
            weight.assign(np.abs(values) + 0.5 if "variance" in weight.path else values)
        return model

    def dense(self, x, _=None):
        return layers.Dense(self.count(), activation=self.pick(*ACTIVATIONS), use_bias=self.pick(True, False))(x)

    def conv(self, x, _=None):
        options = {
            "padding": self.pick("same", "valid") if x.shape[1] > 3 else "same",
            "use_bias": self.pick(True, False),
        }
        return layers.Conv2D(self.count(), self.pick(1, 3), activation=self.pick(*ACTIVATIONS), **options)(x)

    def grouped(self, x, _):
        groups = self.pick(*(count for count in (2, 3, 4, 1) if x.shape[-1] % count == 0))
        return layers.Conv2D(groups * self.count(1, 3), 3, padding="same", groups=groups)(x)

    def depthwise(self, x, _):
        return layers.DepthwiseConv2D(3, padding="same", depth_multiplier=self.pick(1, 2), activation="relu")(x)

    def separable(self, x, _):
        return layers.SeparableConv2D(self.count(), 3, padding="same", depth_multiplier=self.pick(1, 2))(x)

    def transposed(self, x, _):
        return layers.Conv2DTranspose(self.count(), 2, padding="same", activation="relu")(x)

    def norm(self, x, _):
        groups = self.pick(*(count for count in (1, 2, x.shape[-1]) if x.shape[-1] % count == 0))
        return self.pick(
            layers.BatchNormalization(),
            layers.GroupNormalization(groups),
            layers.LayerNormalization(),
            layers.PReLU(),
        )(x)

    def pool(self, x, _):
        kinds = [layers.ZeroPadding2D(1), layers.UpSampling2D(1), layers.Dropout(0.5), layers.Identity()]
        if min(x.shape[1:3]) > 3:
            kinds += [layers.MaxPooling2D(2), layers.AveragePooling2D(2), layers.Cropping2D(1)]
        return self.pick(*kinds)(x)

    def gate(self, x, _):
        """Squeeze and excite."""
        squeezed = layers.GlobalAveragePooling2D(keepdims=self.pick(True, False))(x)
        if len(squeezed.shape) == 2:
            squeezed = layers.Reshape((1, 1, x.shape[-1]))(squeezed)
        narrow = layers.Conv2D(self.count(), 1, activation="relu")(squeezed)
        return layers.Multiply()([x, layers.Conv2D(x.shape[-1], 1, activation="sigmoid")(narrow)])

    def residual(self, x, _):
        branch = self.depthwise(layers.Conv2D(x.shape[-1], 3, padding="same", activation="swish")(x), None)
        return layers.Add()([x, branch]) if branch.shape[-1] == x.shape[-1] else branch

    def joined(self, x, tensors):
        others = [other for other in tensors if other.shape[1:-1] == x.shape[1:-1]]
        return layers.Concatenate()([x, self.pick(*others)])

    def expression(self, x, _):
        return self.pick(lambda: x * 2 + 1, lambda: keras.ops.relu6(x + 3.0) * x, lambda: keras.ops.abs(x) - x)()

    def met(self, x, tensors):
        others = [other for other in tensors if other.shape == x.shape]
        return self.pick(layers.Add, layers.Subtract, layers.Maximum, layers.Average)()([x, self.pick(*others)])

    def twice(self, x, _):
        """One layer, called on two tensors."""
        size = x.shape[-1]
        layer = layers.Dense(size, activation="tanh")
        return layer(layer(x))

    def nested(self, x, _):
        inner = keras.Input(x.shape[1:])
        hidden = layers.Dense(self.count(), activation="relu", name=f"inside_{self.count(0, 1)}")(inner)
        return keras.Model(inner, layers.Dense(self.count())(hidden))(x)

    def folded(self, x, _):
        if x.shape[-1] % 2:
            return self.dense(x)
        return layers.Flatten()(layers.Permute((2, 1))(layers.Reshape((x.shape[-1], 1))(x)))

    def recurrent(self, x, _):
        kind = self.pick(layers.LSTM, layers.GRU, layers.SimpleRNN)
        return kind(self.count(2, 5), return_sequences=True, use_bias=self.pick(True, False))(x)

    def stateful_pair(self, x, _):
        """A decoder that starts from an encoder's states."""
        units = self.count(2, 5)
        encoded, *states = layers.LSTM(units, return_sequences=True, return_state=True)(x)
        return layers.LSTM(units, return_sequences=True)(encoded, initial_state=states)

    def bidirectional(self, x, _):
        inner = self.pick(layers.LSTM, layers.GRU)(self.count(2, 5), return_sequences=True)
        return layers.Bidirectional(inner, merge_mode=self.pick("concat", "sum", "mul"))(x)

    def distributed(self, x, _):
        return layers.TimeDistributed(layers.Dense(self.count(), activation="relu"))(x)

    def attention(self, x, _):
        heads = self.pick(2, 3, 4)
        if self.pick(True, False):
            return layers.Add()([x, layers.MultiHeadAttention(heads, 3, output_shape=x.shape[-1])(x, x)])
        return layers.GroupQueryAttention(3, 2 * heads, heads)(x, x)

    def einsum(self, x, _):
        split = layers.EinsumDense("abc,cde->abde", (None, self.count(2, 3), self.count(2, 3)), bias_axes="de")(x)
        return layers.EinsumDense("abde,def->abf", (None, self.count()), activation="relu")(split)

    def conv_in_time(self, x, _):
        return layers.Conv1D(self.count(), 3, padding=self.pick("same", "causal"), activation="relu")(x)

    def norm_of_sequences(self, x, _):
        return self.pick(layers.LayerNormalization(), layers.BatchNormalization(), layers.SpatialDropout1D(0.2))(x)


IMAGE_STEPS = (
    *("conv", "conv", "grouped", "depthwise", "separable", "transposed", "norm", "norm", "pool", "gate", "residual"),
    *("joined", "expression", "met"),
)
SEQUENCE_STEPS = (
    *("recurrent", "stateful_pair", "bidirectional", "distributed", "attention", "attention", "einsum", "dense"),
    *("conv_in_time", "norm_of_sequences", "joined", "met"),
)
VECTOR_STEPS = ("dense", "dense", "twice", "nested", "folded", "joined", "met", "expression")


@keras.saving.register_keras_serializable(package="tests")
class Positions(layers.Layer):
    """Adds a learned vector to each place: a layer of a user's own."""

    def build(self, input_shape):
        self.table = self.add_weight(name="table", shape=input_shape[1:], initializer="random_normal")

    def call(self, inputs):
        return inputs + self.table


def follow_positions(flow, call):
    layout = flow.inputs(call)[0]
    flow.record(call.layer, {"table": layout[1:]})
    return [layout]


tfprune.register_shrinkable(Positions, follow_positions)
tfprune.register_prunable(Positions, table="po")


def small_vit(blocks: int = 2, width: int = 16, heads: int = 4) -> keras.Model:
    """Return a vision transformer on images of 16 px: patches of 4 px, blocks of attention and dense layers."""
    image = keras.Input((16, 16, 3))
    x = layers.Conv2D(width, 4, strides=4, name="patches")(image)
    x = Positions(name="positions")(layers.Reshape((16, width))(x))
    for block in range(blocks):
        y = layers.LayerNormalization(name=f"norm_{block}")(x)
        y = layers.MultiHeadAttention(heads, width // heads, name=f"attention_{block}")(y, y)
        x = layers.Add()([x, y])
        y = layers.LayerNormalization()(x)
        y = layers.Dense(2 * width, activation="gelu", name=f"wide_{block}")(y)
        x = layers.Add()([x, layers.Dense(width, name=f"narrow_{block}")(y)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(image, layers.Dense(5, name="out")(x))


def residual(width: int = 8) -> keras.Model:
    """Return one block as MobileNetV2 has them, with what comes before and after."""
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(width, 3, padding="same", name="stem")(image)
    y = layers.BatchNormalization(name="norm")(layers.Conv2D(2 * width, 1, name="expand")(x))
    y = layers.DepthwiseConv2D(3, padding="same", activation="relu6", name="depthwise")(y)
    x = layers.Add()([x, layers.Conv2D(width, 1, name="project")(y)])
    return keras.Model(image, layers.Dense(4, name="out")(layers.GlobalAveragePooling2D()(x)))


class Subclassed(keras.Model):
    """A model of code."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, inputs):
        return self.dense(inputs)


def subclassed() -> keras.Model:
    """Return a built model that is no graph."""
    model = Subclassed()
    model(np.ones((1, 4)))
    return model
