"""A small vision transformer, whole, and with half of its heads and hidden units and with zeros, in four ways."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import keras
from keras import layers

import tfprune
from sample_apps.data.fashion_mnist import Data
from sample_apps.data.lines import Line
from sample_apps.four_ways.networks import CLASSES
from sample_apps.four_ways.runs import AFTER, CALIBRATION, measured, train
from tfprune.export import Quantization, benchmark

NAME, WHOLE, SMALL = "ViT", "all", "half of the heads and units, 70 % zeros"
MIXED, TRAINED = "mixed after training", "trained for int8"
PATCH, HEADS, BLOCKS = 7, 4, 2
SPARSITY, SCORED, TIMED = 0.7, 256, 300
LOSS = keras.losses.SparseCategoricalCrossentropy()


@keras.saving.register_keras_serializable(package="four_ways")
class Positions(layers.Layer):
    """Add a learned vector to each position."""

    def build(self, input_shape: tuple[int, ...]) -> None:
        self.table = layers.Embedding(*input_shape[1:], name="table")
        self.table.build(input_shape[1:2])
        super().build(input_shape)

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        return inputs + self.table(keras.ops.arange(inputs.shape[1]))


def follow_positions(flow: Any, call: Any) -> list[Any]:
    """Say how the layer passes channels on: unchanged, each with one entry of the last axis of the table."""
    layout = flow.inputs(call)[0]
    flow.record(call.layer, {"embeddings": layout[1:]})
    return [layout]


tfprune.register_shrinkable(Positions, follow_positions)


def vit(shape: tuple[int, ...], width: int) -> keras.Model:
    image = keras.Input(shape, name="image")
    patches = layers.Conv2D(width, PATCH, strides=PATCH, name="patches")(image)
    tensor = Positions(name="positions")(layers.Reshape((-1, width))(patches))
    for block in range(BLOCKS):
        normal = layers.LayerNormalization(name=f"normal_{block}")(tensor)
        attention = layers.MultiHeadAttention(HEADS, width // HEADS, name=f"attention_{block}")
        tensor = layers.Add()([tensor, attention(normal, normal)])
        hidden = layers.LayerNormalization(name=f"normal_{block}_hidden")(tensor)
        hidden = layers.Dense(2 * width, "gelu", name=f"hidden_{block}")(hidden)
        tensor = layers.Add()([tensor, layers.Dense(width, name=f"back_{block}")(hidden)])
    pooled = layers.GlobalAveragePooling1D()(layers.LayerNormalization(name="normal")(tensor))
    return keras.Model(image, layers.Dense(CLASSES, activation="softmax", name="class")(pooled))


def one_network(seed: int, data: Data, options: argparse.Namespace) -> Iterator[Line]:
    """Train a transformer, and take four ways from there; the same for one that is smaller and gets zeros."""
    keras.utils.set_random_seed(seed)
    whole = vit(data[0].shape[1:], 4 * options.width)
    train(whole, data, rate=2e-3, epochs=options.epochs)
    smaller = tfprune.wrap(halved(whole, data))
    schedule = tfprune.schedules.Polynomial(SPARSITY, begin=0.2, end=0.75)
    callbacks = [tfprune.PruningCallback(schedule, every=20)]
    train(smaller, data, rate=1e-3, epochs=max(options.epochs // 2, 1), callbacks=callbacks)
    models = {SMALL: smaller} if options.smoke else {WHOLE: whole, SMALL: smaller}
    for weights, model in models.items():
        for line in four_ways(model, f"{seed}-{'whole' if weights == WHOLE else 'small'}", data, options):
            print(f"{NAME}, {weights}, seed {seed}, {line['way']}: {line['accuracy']:.2%}", flush=True)
            yield {"seed": seed, "network": NAME, "weights": weights, **line}


def halved(model: keras.Model, data: Data) -> keras.Model:
    """Remove half of the heads, those with the least effect on the loss, and the units that others replace best."""
    x, y = data[0][:SCORED], data[1][:SCORED]
    scores = tfprune.transformers.rank_heads(model, (x, y), loss=LOSS)
    model = tfprune.shrink(model, tfprune.plan_shrink(model, 0.5, criterion=scores))
    scores = tfprune.rank_channels(model, x)
    return tfprune.shrink(model, tfprune.plan_shrink(model, 0.5, criterion=scores, filters="hidden"))


def four_ways(model: keras.Model, name: str, data: Data, options: argparse.Namespace) -> Iterator[Line]:
    """Go on in float and while the model rounds, and export both."""
    calibration = data[0][:CALIBRATION]
    in_float = {"float": {}, AFTER: {"quantize": "int8", "calibration": calibration}}
    in_float[MIXED] = {"quantize": Quantization("int8", skip="normal"), "calibration": calibration}
    # Normalizations compute in float, between rounded numbers.
    rounding = {TRAINED: {"quantize": Quantization("int8", allow_float=True)}}
    copy = tfprune.quantize_aware(model)  # first: the model itself goes on in float
    for own, exports in ((model, in_float), (copy, rounding)):
        train(own, data, rate=5e-4, epochs=options.fine_tuning)
        keras_says = own.evaluate(data[2], data[3], verbose=0)[1]
        for way, arguments in exports.items():
            path = options.output / f"vit-{name}-{way.replace(' ', '_')}.tfz"
            found = measured(own, data, path, **arguments)
            milliseconds = benchmark(path, runs=TIMED).min_ms
            yield {"way": way, "keras": keras_says, **found, "ms": milliseconds}
