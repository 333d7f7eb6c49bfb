"""One model of each kind that `wrap` takes, for the battery of test_kinds.py; some classes serve other tests, too."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from styles import COPIED

PACKAGE = "tests.kinds"
Pair = namedtuple("Pair", "left right")


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


# Graphs.


def sequential() -> keras.Model:
    stack = [
        layers.Dense(6, activation="relu", name="first"),
        layers.BatchNormalization(),
        layers.Dense(2, name="last"),
    ]
    return keras.Sequential([keras.Input((4,)), *stack], name="stack")


def branches() -> keras.Model:
    image = keras.Input((6, 6, 3), name="image")
    x = layers.Conv2D(4, 3, padding="same", name="conv")(image)
    left = layers.SeparableConv2D(4, 3, padding="same", name="separable")(x)
    right = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.Add()([left, right, x * 2.0])
    return keras.Model(image, layers.Dense(3, name="head")(layers.GlobalAveragePooling2D()(x)), name="branches")


def shared_layer() -> keras.Model:
    first, second, dense = keras.Input((4,)), keras.Input((4,)), layers.Dense(3, name="tied")
    return keras.Model(
        [first, second], layers.Dense(1, name="out")(layers.Concatenate()([dense(first), dense(second)]))
    )


def nested() -> keras.Model:
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="dense")], name="inner")
    deeper = keras.Sequential([keras.Input((4,)), inner, layers.Dense(4, name="dense")], name="deeper")
    inputs = keras.Input((4,))
    return keras.Model(inputs, layers.Dense(2, name="dense")(deeper(inputs)))


def shared_nested() -> keras.Model:
    tower = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="dense")], name="tower")
    first, second = keras.Input((4,)), keras.Input((4,))
    return keras.Model([first, second], layers.Subtract()([tower(first), tower(second)]))


def dictionaries() -> keras.Model:
    inputs = {"a": keras.Input((4,), name="a"), "b": keras.Input((3,), name="b")}
    joined = layers.Concatenate()([inputs["a"], inputs["b"]])
    return keras.Model(inputs, {"y": layers.Dense(2, name="y")(joined), "z": layers.Dense(1, name="z")(inputs["b"])})


def several_outputs() -> keras.Model:
    inputs = keras.Input((5, 4))
    sequence, *state = layers.LSTM(3, return_sequences=True, return_state=True, name="lstm")(inputs)
    decoded = layers.GRU(3, name="gru")(sequence, initial_state=state[0])
    attended = layers.MultiHeadAttention(2, 2, name="mha")(sequence, value=inputs, use_causal_mask=True)
    return keras.Model(inputs, [decoded, attended])


def tokens() -> keras.Model:
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(9, 4, mask_zero=True, name="embedding")(inputs)
    return keras.Model(inputs, layers.Bidirectional(layers.LSTM(3), name="both")(x))


class Scaled(layers.Layer):
    """A user's layer, never registered with Keras."""

    def __init__(self, units, factor=2.0, **kwargs):
        super().__init__(**kwargs)
        self.units, self.factor = units, factor

    def build(self, input_shape):
        self.kernel = self.add_weight(name="kernel", shape=(input_shape[-1], self.units))

    def call(self, inputs):
        return self.factor * keras.ops.matmul(inputs, self.kernel)

    def get_config(self):
        return {**super().get_config(), "units": self.units, "factor": self.factor}


class WideDense(layers.Dense):
    """A subclass of a registered layer."""


def swish_like(x):
    return x * keras.ops.sigmoid(2 * x)


def custom() -> keras.Model:
    inputs = keras.Input((4,))
    x = Scaled(5, factor=3.0, name="scaled")(inputs)
    x = WideDense(4, activation=swish_like, kernel_constraint=keras.constraints.MaxNorm(2.0), name="wide")(x)
    return keras.Model(inputs, layers.Lambda(lambda t: t * 4.0, name="lambda")(x))


def normalized() -> keras.Model:
    norm = layers.Normalization(name="norm")
    norm.adapt(np.random.default_rng(3).normal(5, 2, size=(64, 4)))
    return keras.Sequential([keras.Input((4,)), norm, layers.Dense(2, name="dense")])


class Nameless(layers.Dense):
    """A layer whose configuration holds its own arguments alone, as Keras allows."""

    def get_config(self):
        return {"units": self.units}


class Times(layers.Layer):
    """A layer without weights that takes no name."""

    def __init__(self, factor=3):
        super().__init__()
        self.factor = factor

    def call(self, inputs):
        return self.factor * inputs

    def get_config(self):
        return {"factor": self.factor}


def functional(*parts: layers.Layer, inputs: Any = None) -> keras.Model:
    inputs = outputs = keras.Input((4,)) if inputs is None else inputs
    for part in parts:
        outputs = part(outputs)
    return keras.Model(inputs, outputs)


# Subclassed models.


@keras.saving.register_keras_serializable(PACKAGE)
class Encoder(keras.Model):
    """Hold a layer and a seed, and take an argument."""

    def __init__(self, units=4, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.dense = layers.Dense(units, "tanh")
        self.dropout = layers.Dropout(0.3, seed=1)

    def call(self, inputs, training=None):
        return self.dropout(self.dense(inputs), training=training)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable(PACKAGE)
class Residual(layers.Layer):
    """A layer with sublayers and without `build`: it gets its weights when it is called."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(5)
        self.normalization = layers.BatchNormalization()

    def call(self, inputs, training=None):
        return inputs + self.normalization(self.dense(inputs), training=training)


@keras.saving.register_keras_serializable(PACKAGE)
class Everything(keras.Model):
    """Nested models, lists, dicts, one layer under two names, a weight, a metric and a seed of its own."""

    def __init__(self, width=5, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.encoder = Encoder(width, name="encoder")
        self.blocks = [Residual(), {"out": layers.Dense(3, name="out"), "answer": 42}]
        self.backbone = keras.Sequential([keras.Input((5,)), layers.Dense(5)])
        self.scale = self.add_weight(name="scale", shape=(), initializer="ones")
        self.batches = keras.metrics.Sum(name="batches")
        self.generator = keras.random.SeedGenerator(3)
        self.again = self.encoder

    def call(self, inputs, training=None):
        hidden = self.blocks[0](self.encoder(inputs["a"], training=training))
        hidden = self.backbone(hidden) + self.again(inputs["b"])
        return {"y": self.blocks[1]["out"](hidden) * self.scale}

    def answer(self):
        return self.blocks[1]["answer"]

    def get_config(self):
        return {"name": self.name, "width": self.width}


@keras.saving.register_keras_serializable(PACKAGE)
class Builds(keras.Model):
    """Create layers in `build`, and build those of `__init__` there."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.Dense(6)

    def build(self, input_shape):
        self.first.build(input_shape)
        self.second = layers.Dense(input_shape[-1])
        self.second.build((input_shape[0], 6))
        self.offset = self.add_weight(name="offset", shape=(input_shape[-1],), initializer="zeros")

    def call(self, inputs):
        return self.second(self.first(inputs)) + self.offset


class Autoencoder(keras.Model):
    """Take models, have no configuration and no `call`, and train by a step of its own."""

    def __init__(self, encoder, decoder):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.loss_tracker = keras.metrics.Mean(name="loss")

    @property
    def metrics(self):
        return [self.loss_tracker]

    def train_step(self, data):
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = ops.mean(ops.square(data - self.decoder(self.encoder(data, training=True), training=True)))
        self.optimizer.apply_gradients(
            zip(tape.gradient(loss, self.trainable_variables), self.trainable_variables, strict=True)
        )
        self.loss_tracker.update_state(loss)
        return {"loss": self.loss_tracker.result()}


class NoArguments(keras.Model):
    """What a first subclassed model looks like: Keras itself cannot build it from its configuration."""

    def __init__(self):
        super().__init__()
        self.hidden = layers.Dense(8, "relu")
        self.out = layers.Dense(1)

    def call(self, inputs):
        return self.out(self.hidden(inputs))


@keras.saving.register_keras_serializable(PACKAGE)
class AroundGraph(keras.Model):
    """A Functional subclass, with arguments of its own in its configuration, as backbones have."""

    def __init__(self, units, **kwargs):
        inputs = keras.Input((5,))
        super().__init__(inputs, layers.Dense(units, name="inside")(inputs), **kwargs)
        self.units = units

    def get_config(self):
        return {"units": self.units, "name": self.name}


@keras.saving.register_keras_serializable(PACKAGE)
class Composed(keras.Model):
    """Take a model, and take its own configuration apart to build it."""

    def __init__(self, encoder, **kwargs):
        super().__init__(**kwargs)
        self.encoder = encoder
        self.head = layers.Dense(2, name="head")

    def call(self, inputs):
        return self.head(self.encoder(inputs))

    def get_config(self):
        return {"encoder": keras.saving.serialize_keras_object(self.encoder), "name": self.name}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config.pop("encoder")), **config)


@keras.saving.register_keras_serializable(PACKAGE)
class FeedForward(layers.Layer):
    """Build layers in `build`, so that a copy is built, and its layers numbered, before it is wrapped."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.up, self.down = layers.Dense(8), layers.Dense(5)

    def build(self, input_shape):
        self.up.build(input_shape)
        self.down.build((*input_shape[:-1], 8))

    def call(self, inputs):
        return self.down(self.up(inputs))


def autoencoder() -> Autoencoder:
    encoder = keras.Sequential([keras.Input((6,)), layers.Dense(8, "relu"), layers.Dense(3)], name="encoder")
    decoder = keras.Sequential([keras.Input((3,)), layers.Dense(6)], name="decoder")
    return Autoencoder(encoder, decoder)


@keras.saving.register_keras_serializable(PACKAGE)
class TiedByAttribute(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.embedding = layers.Embedding(12, 4, name="embedding")

    def call(self, inputs):
        return self.embedding(inputs) @ ops.transpose(self.embedding.embeddings)

    def get_config(self):
        return {"name": self.name}


@keras.saving.register_keras_serializable(PACKAGE)
class Bound(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4, name="dense")
        self.steps = (lambda inputs: self.dense(inputs), self.shift)

    def shift(self, inputs):
        return self.dense(inputs) + 1

    def call(self, inputs):
        return self.steps[0](inputs) + self.steps[1](inputs)

    def get_config(self):
        return {"name": self.name}


# Functional subclasses.


class Block(layers.Layer):
    """A layer whose configuration is broken, as nobody ever asked for it, and that holds its layers twice."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.up, self.down = layers.Dense(2 * width, name="up"), layers.Dense(width, name="down")
        self.both = keras.Sequential([self.up, self.down])
        self.initializers = [lambda: 1, lambda: 2]

    def build(self, input_shape):
        self.both.build(input_shape)
        self.built = True

    def call(self, inputs):
        return inputs + self.both(inputs)

    def get_config(self):
        return {**super().get_config(), "width": self.never_set}


@keras.saving.register_keras_serializable(PACKAGE)
class Backbone(keras.Model):
    """Keep its layers in attributes, a tensor of its graph among them, as backbones do."""

    def __init__(self, depth=2, width=4, **kwargs):
        embedding = layers.Embedding(20, width, name="embedding")
        blocks = [Block(width, name=f"block_{index}") for index in range(depth)]
        tokens = keras.Input((None,), dtype="int32", name="tokens")
        x = first = embedding(tokens)
        for block in blocks:
            x = block(x)
        super().__init__({"tokens": tokens}, x, **kwargs)
        self.embedding, self.blocks = embedding, blocks
        self.depth, self.width = depth, width
        self.ends = {"first": first, "last": x}

    def by_hand(self, tokens):
        """Call the layers directly, as a generation loop does."""
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return x

    def get_config(self):
        return {"depth": self.depth, "width": self.width, "name": self.name}


@keras.saving.register_keras_serializable(PACKAGE)
class Tokenizer(layers.Layer):
    """Its table is no part of its configuration."""

    def __init__(self, table=None, **kwargs):
        super().__init__(**kwargs)
        self.table = table

    def encode(self, texts):
        return np.array([[self.table[word] for word in text.split()] for text in texts])


class TakesTexts(keras.Model):
    """What tasks have in common."""

    def scores(self, texts):
        return self({"tokens": ops.convert_to_tensor(self.tokenizer.encode(texts))})

    def get_config(self):
        parts = {"backbone": self.backbone, "tokenizer": self.tokenizer}
        return {"name": self.name} | {key: keras.saving.serialize_keras_object(part) for key, part in parts.items()}

    @classmethod
    def from_config(cls, config):
        parts = {name: keras.saving.deserialize_keras_object(config.pop(name)) for name in ("backbone", "tokenizer")}
        return cls(**parts, **config)


@keras.saving.register_keras_serializable(PACKAGE)
class Task(TakesTexts):
    """Call a head on the outputs of a backbone, and compile itself."""

    def __init__(self, backbone, tokenizer, **kwargs):
        outputs = layers.Dense(20, name="head")(backbone(backbone.input))
        super().__init__(backbone.input, outputs, **kwargs)
        self.backbone, self.tokenizer = backbone, tokenizer
        self.compile("adam", "mse")


@keras.saving.register_keras_serializable(PACKAGE)
class Tied(TakesTexts):
    """Call the embedding, which the backbone calls, once more."""

    def __init__(self, backbone, tokenizer, **kwargs):
        outputs = backbone.embedding(backbone.input["tokens"]) * backbone(backbone.input)
        super().__init__(backbone.input, outputs, **kwargs)
        self.backbone, self.tokenizer = backbone, tokenizer


# Layers as scripts write them.


class Patches(layers.Layer):
    """Cut a row into patches; no weights."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def call(self, x):
        return ops.reshape(x, (-1, x.shape[1] // self.size, self.size))


class Numbers(layers.Layer):
    """Add a vector for each position; its `get_config` forgets an argument."""

    def __init__(self, count, dim):
        super().__init__()
        self.count = count
        self.projection = layers.Dense(dim)
        self.positions = layers.Embedding(count, dim)

    def call(self, x):
        return self.projection(x) + self.positions(ops.arange(self.count))

    def get_config(self):
        return {**super().get_config(), "count": self.count}


class TransformerBlock(layers.Layer):
    """A transformer block; one layer in it gets its weights when it is called."""

    def __init__(self, dim, heads, rate=0.1):
        super().__init__()
        self.norms, self.spare = [], None
        for _ in range(2):
            self.norms.append(layers.LayerNormalization())
            self.attention = layers.MultiHeadAttention(heads, dim)  # the first one is tracked, and not called
        self.feed_forward = keras.Sequential([layers.Dense(2 * dim, "relu"), layers.Dense(dim)])
        self.dropout = layers.Dropout(rate, seed=1)
        self.gate = Gate()

    def call(self, x, training=None):
        x = self.norms[0](x + self.dropout(self.attention(x, x), training=training))
        return self.gate(self.norms[1](x + self.feed_forward(x)))


class Gate(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4, "sigmoid")

    def call(self, x):
        return x * self.dense(x)


class OwnWeights(layers.Layer):
    """Take a function, and create weights of its own, the frozen one first, and layers in another order."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.first = None
        self.second = layers.Dense(4)
        self.noise = keras.random.SeedGenerator(3)

    def build(self, shape):
        self.offset = self.add_weight(name="offset", shape=(shape[-1],), trainable=False, initializer="ones")
        self.kernel = self.add_weight(
            name="kernel",
            shape=(shape[-1], 4),
            regularizer=keras.regularizers.OrthogonalRegularizer(),
            constraint=keras.constraints.MaxNorm(2.0),
        )
        self.first = layers.Dense(4)
        self.first.build(shape)
        self.second.build(shape)

    def call(self, x):
        return self.function(ops.matmul(x, self.kernel) + self.offset) + self.first(x) - self.second(x)


def by_hand(x):
    return ops.tanh(x)


def transformer() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((12,))
    x = Numbers(3, 4)(Patches(4)(inputs))
    x = OwnWeights(by_hand)(TransformerBlock(4, 2)(x))
    return keras.Model(inputs, layers.Dense(2, name="head")(layers.Flatten()(x)))


class Stepping(keras.Model):
    """A Functional model with a training step of its own."""

    def train_step(self, data):
        return {**super().train_step(data), "mine": 1.0}


class Holder(keras.Model):
    """A class without a configuration around a graph of such layers."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, x):
        return self.inner(x)


@dataclass(frozen=True)
class Kind:
    """A kind of model.

    Args:
        build: Make the model.
        x: A batch for it; without, one is drawn for its graph.
        ways: How it can be wrapped.
        is_saved: Whether Keras can save it.
        call: What to call if not the model.
    """

    build: Callable[[], keras.Model]
    x: Any = None
    ways: tuple[str, ...] = ("copy", "in place")
    is_saved: bool = True
    call: Callable[..., Any] = lambda model, x, **options: model(x, **options)


def everything() -> keras.Model:
    model = Everything(5, name="all")
    model(EVERYTHING)
    model.scale.assign(1.5)
    return model


def called(model: keras.Model, x: Any) -> keras.Model:
    model(x)
    return model


def in_a_graph(model: keras.Model, width: int) -> keras.Model:
    return functional(model, layers.Dense(2, name="head"), inputs=keras.Input((width,)))


def backbone() -> keras.Model:
    return Backbone(name="backbone")


def backbone_in_a_graph() -> keras.Model:
    inside = backbone()
    return keras.Model(inside.input, layers.Dense(2, name="head")(inside(inside.input)))


def task(kind: type[keras.Model] = Task) -> keras.Model:
    return kind(backbone(), Tokenizer(WORDS), name="task")


def nameless(build: Callable[..., keras.Model]) -> keras.Model:
    return build(Nameless(5, name="mine"), Times(), Nameless(6), layers.Dense(2, name="out"))


def stack(*parts: layers.Layer) -> keras.Model:
    return keras.Sequential([keras.Input((4,)), *parts])


def composed() -> keras.Model:
    return Composed(keras.Sequential([keras.Input((5,)), layers.Dense(4, name="inner")]))


def feed_forward() -> keras.Model:
    return keras.Sequential([keras.Input((5,)), FeedForward(name="feed"), FeedForward(name="forward")])


EVERYTHING = {"a": random(8, 5), "b": random(8, 5, seed=1)}
TOKENS = {"tokens": np.arange(12).reshape(3, 4)}
INDICES = np.arange(24).reshape(8, 3) % 12
WORDS = {word: index for index, word in enumerate(["the", "quick", "brown", "fox", "a", "lazy", "dog"])}
IN_PLACE = ("in place",)
ROWS = random(8, 4)
KINDS = {
    "a stack": Kind(sequential),
    "branches": Kind(branches),
    "a shared layer": Kind(shared_layer),
    "models in models": Kind(nested),
    "a shared model": Kind(shared_nested),
    "dictionaries": Kind(dictionaries),
    "several outputs": Kind(several_outputs),
    "tokens": Kind(tokens),
    "a user's layers": Kind(custom, is_saved=False),
    "adapted": Kind(normalized),
    "nameless layers in a stack": Kind(lambda: nameless(stack), is_saved=False),
    "nameless layers in a graph": Kind(lambda: nameless(functional), is_saved=False),
    "a class of everything": Kind(everything, EVERYTHING),
    "layers made in build": Kind(lambda: called(Builds(), ROWS), ROWS),
    "a class in a graph": Kind(lambda: in_a_graph(Encoder(6, name="encoder"), 5)),
    "a class that takes a model": Kind(lambda: called(composed(), random(8, 5)), random(8, 5)),
    "layers built at once": Kind(feed_forward),
    "weights tied by an attribute": Kind(lambda: called(TiedByAttribute(), INDICES), INDICES),
    "functions over the model": Kind(lambda: called(Bound(), ROWS), ROWS),
    "no arguments": Kind(lambda: called(NoArguments(), ROWS), ROWS, IN_PLACE, is_saved=False),
    "no configuration": Kind(
        autoencoder, random(8, 6), IN_PLACE, is_saved=False, call=lambda model, x: model.decoder(model.encoder(x))
    ),
    **{
        name: Kind(build, ROWS, is_saved=False)
        for style in COPIED
        for name, build in {
            f"style {style.__name__}": lambda style=style: called(style(), ROWS),
            f"style {style.__name__} in a graph": lambda style=style: in_a_graph(style(), 4),
        }.items()
    },
    "a backbone": Kind(backbone, TOKENS),
    "a backbone in a graph": Kind(backbone_in_a_graph, TOKENS),
    "a task": Kind(task, TOKENS),
    "a task of tied weights": Kind(lambda: task(Tied), TOKENS),
    "layers of scripts": Kind(transformer, is_saved=False),
    "layers of scripts in a class": Kind(
        lambda: called(Holder(transformer()), random(8, 12)), random(8, 12), IN_PLACE, is_saved=False
    ),
}
