"""A small vision transformer on digits loses heads and hidden units, is reconstructed, and fine-tuned.

    python sample_apps/prune_transformer.py              # two minutes
    python sample_apps/prune_transformer.py --smoke      # less than one

Attention heads are ranked by the loss without them, hidden units of the feed-forward networks by how well the others
can replace them. The remaining weights are reconstructed on the training images, without labels.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before Keras loads TensorFlow, which is noisy

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import tfprune
from tfprune.export import Runner, benchmark, to_tflite
from tfprune.report import table

BLOCKS, TOKENS, WIDTH, HEADS, HIDDEN = 4, 16, 48, 4, 192
Data = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # images and labels to train on, then to test on


@keras.saving.register_keras_serializable(package="prune_transformer")
class Positions(keras.layers.Layer):
    """Add a learned vector to each position."""

    def build(self, input_shape: tuple[int, ...]) -> None:
        self.table = self.add_weight(name="table", shape=input_shape[1:], initializer="random_normal")

    def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        return inputs + self.table


def follow_positions(flow, call):  # noqa: ANN001, ANN201
    """Say how the layer passes channels on: unchanged, each with one entry of the last axis of the table."""
    layout = flow.inputs(call)[0]
    flow.record(call.layer, {"table": layout[1:]})
    return [layout]


tfprune.register_shrinkable(Positions, follow_positions)


def main() -> None:
    options = parse()
    data, epochs = digits(), 3 if options.smoke else options.epochs
    if options.smoke:
        print("--smoke: three epochs and few images to reconstruct on, too few for a good accuracy")
    options.output.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(options.seed)
    model = train(build(), data, epochs=epochs, rate=0.002)
    lines = [row("dense", model, data)]

    attention, units = budget(model, options.sparsity)
    heads = attention * HEADS
    print(f"Budget: {heads} of {BLOCKS * HEADS} heads and {HIDDEN - units} of {HIDDEN} units of each block go.")
    print("Each layer keeps a head, so fewer go where one would lose all.")
    smaller, images = model, data[0][:256] if options.smoke else data[0]
    for what, shares in (("heads", heads / (BLOCKS * HEADS)), ("units", 1 - units / HIDDEN)):
        if shares > 0:
            plan = plan_for(what, smaller, data, shares)
            print(f"\n{plan}")
            masked = tfprune.zero_channels(smaller, plan)
            lines.append(row(f"{what} removed", masked, data))
            better, _ = tfprune.reconstruct(masked, smaller, images)
            smaller = tfprune.shrink(better, plan)
            lines.append(row("reconstructed, shrunk", smaller, data))
    smaller = train(smaller, data, epochs=max(epochs // 4, 1), rate=0.0005)
    lines.append(row("fine-tuned", smaller, data))
    print("\n" + table(["model", "test accuracy", "FLOPs", "parameters"], lines))
    print(
        "\n"
        + table(
            ["file", "test accuracy", "bytes", "latency, ms"],
            [
                export(exported, options.output / f"{name}.tflite", data)
                for name, exported in (("dense", model), ("small", smaller))
            ],
        )
    )
    print(f"\nFiles: {options.output}")


def build() -> keras.Model:
    layers = keras.layers
    image = keras.Input((8, 8, 1), name="image")
    x = layers.Reshape((TOKENS, WIDTH))(layers.Conv2D(WIDTH, 2, strides=2, name="patches")(image))
    x = Positions(name="positions")(x)
    for block in range(BLOCKS):
        y = layers.LayerNormalization()(x)
        y = layers.MultiHeadAttention(HEADS, WIDTH // HEADS, name=f"attention_{block}")(y, y)
        x = layers.Add()([x, y])
        y = layers.Dense(HIDDEN, activation="gelu", name=f"hidden_{block}")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(WIDTH, name=f"back_{block}")(y)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(image, layers.Dense(10, name="class")(x))


def budget(model: keras.Model, sparsity: float) -> tuple[int, int]:
    """Return how many layers' worth of heads to remove, and how many hidden units of each block to keep."""
    attention = model.get_layer("attention_0").count_params()
    feed_forward = model.get_layer("hidden_0").count_params() + model.get_layer("back_0").count_params()
    return tfprune.transformers.transformer_budget(
        sparsity, block_count=BLOCKS, attention=attention, feed_forward=feed_forward, width=HIDDEN
    )


def plan_for(what: str, model: keras.Model, data: Data, sparsity: float) -> tfprune.ShrinkPlan:
    """Plan to remove the heads with the least effect on the loss, or the units that the others replace best."""
    x, y = data[0][:256], data[1][:256]
    if what == "heads":
        scores = tfprune.transformers.rank_heads(model, (x, y), loss=LOSS)
        return tfprune.plan_shrink(model, sparsity, criterion=scores, allocation="global")
    return tfprune.plan_shrink(model, sparsity, criterion=tfprune.rank_channels(model, x), filters="hidden")


LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def train(model: keras.Model, data: Data, *, epochs: int, rate: float) -> keras.Model:
    x, y, _, _ = data
    steps = epochs * -(-len(x) // 64)
    model.compile(keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(rate, steps)), LOSS)
    model.fit(x, y, batch_size=64, epochs=epochs, verbose=0)
    return model


def row(name: str, model: keras.Model, data: Data) -> list[str]:
    _, _, x, y = data
    right = float(np.mean(model.predict(x, verbose=0).argmax(axis=1) == y))
    plan = tfprune.plan_shrink(model, 0.0)
    return [name, f"{right:.1%}", f"{plan.flops:,}", f"{plan.parameters:,}"]


def export(model: keras.Model, path: Path, data: Data) -> list[str]:
    """Export a model, and measure the file."""
    _, _, x, y = data
    report = to_tflite(model, path, check_on=x[:100])
    right = float(np.mean(Runner(path).predict(x).argmax(axis=1) == y))
    return [path.name, f"{right:.1%}", f"{report.bytes:,}", f"{benchmark(path, runs=500).median_ms:.3f}"]


def digits() -> Data:
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype("float32").reshape(-1, 8, 8, 1)
    x, test_x, y, test_y = train_test_split(images, labels, test_size=0.25, random_state=0, stratify=labels)
    return x, y, test_x, test_y


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Remove heads and hidden units of a small vision transformer.")
    parser.add_argument("--smoke", action="store_true", help="try the program, with three epochs")
    parser.add_argument(
        "--sparsity",
        type=float,
        default=0.5,
        help="fraction of block parameters to remove (default: %(default)s)",
    )
    parser.add_argument("--epochs", type=int, default=40, help="epochs of the first training (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the initial weights (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, default=Path("transformer-output"), metavar="DIR", help="folder for the files"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
