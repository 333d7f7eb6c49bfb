"""Small networks as files of the stock converter: each is made once in a run of the tests, for all of its workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from once import filled_once

KINDS = ("float32", "float16", "dynamic", "int8")


@dataclass(frozen=True)
class Export:
    """A file, data for it, and Keras' outputs on that data.

    Attributes:
        path: The plain .tflite.
        inputs: What `predict` takes.
        expected: What Keras gives: an array or a list of arrays.
        kernels: Keras' kernels, as NumPy arrays.
    """

    path: Path
    inputs: Any
    expected: Any
    kernels: tuple[np.ndarray, ...] = ()

    @property
    def data(self) -> bytes:
        return self.path.read_bytes()


def convert(model: Any, kind: str = "float32", data: Any = None, *, io: str = "float32") -> bytes:
    """Convert a model with TensorFlow's converter, as another exporter would."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if kind != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if kind == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if kind in ("int8", "int16x8"):
        wide = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        converter.representative_dataset = lambda: ([row[None]] for row in data)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8 if kind == "int8" else wide]
        converter.inference_input_type = converter.inference_output_type = tf.as_dtype(io)
    return converter.convert()


def prune(model: Any, *, block: int = 1, fraction: float = 0.9) -> Any:
    """Zero kernels at random, runs of `block` inputs at a time; give biases values, so that outputs are not zero."""
    random = np.random.default_rng(5)
    for weight in model.weights:
        if len(weight.shape) < 2:
            weight.assign(weight + random.normal(size=weight.shape) * 0.1)
            continue
        mask = random.random((-(-weight.shape[0] // block), *weight.shape[1:])) > fraction
        mask = np.repeat(mask, block, axis=0)[: weight.shape[0]]
        weight.assign(random.normal(size=weight.shape) * mask / np.sqrt(weight.shape[-1]))
    return model


def image() -> tuple[Any, np.ndarray]:
    """Convolutions of every kind, a transposed one, and a dense layer."""
    import keras
    from keras import layers

    inputs = keras.Input((12, 12, 8), batch_size=1, name="image")
    x = layers.Conv2D(32, 3, strides=2, activation="relu", padding="same")(inputs)
    x = layers.DepthwiseConv2D(5, depth_multiplier=2, padding="same")(x)
    x = layers.Conv2D(300, 1, activation="relu6")(x)
    x = layers.Conv2D(64, 3, groups=4)(x)
    x = layers.Conv2DTranspose(32, 3)(x)
    x = layers.GlobalMaxPooling2D()(x)
    data = np.random.default_rng(3).normal(size=(3, 12, 12, 8)).astype(np.float32)
    return prune(keras.Model(inputs, layers.Dense(48)(x))), data


def words() -> tuple[Any, np.ndarray]:
    """An embedding, attention, a kernel used on both sides of an operator that XNNPACK has not, two outputs."""
    import keras
    from keras import layers

    inputs = keras.Input((6,), dtype="int32", name="words")
    x = layers.Embedding(500, 32)(inputs)
    x = layers.MultiHeadAttention(2, 32)(x, x)
    shared = layers.Dense(32)
    x = shared(keras.ops.cumsum(shared(x), axis=1))
    data = np.random.default_rng(3).integers(0, 500, (3, 6)).astype(np.int32)
    return prune(keras.Model(inputs, [layers.Dense(24, name="a")(layers.Flatten()(x)), shared(x)])), data


def steps() -> tuple[Any, np.ndarray]:
    """Recurrent layers: their kernels lie in the graphs of loops."""
    import keras
    from keras import layers

    inputs = keras.Input((5, 40), batch_size=1, name="steps")
    x = layers.LSTM(48, return_sequences=True)(inputs)
    data = np.random.default_rng(3).normal(size=(3, 5, 40)).astype(np.float32)
    return prune(keras.Model(inputs, layers.Dense(40)(layers.Bidirectional(layers.GRU(32))(x)))), data


def blocks() -> tuple[Any, np.ndarray]:
    """Two dense layers, the first with zeros in fours."""
    import keras

    layers = [keras.layers.Dense(128, activation="relu"), keras.layers.Dense(20, use_bias=False)]
    model = prune(keras.Sequential([keras.Input((256,)), *layers]), block=4)
    model.layers[1].kernel.assign(np.random.default_rng(0).normal(size=(128, 20)))
    return model, np.random.default_rng(1).normal(size=(5, 256)).astype(np.float32)


def mixed() -> tuple[Any, np.ndarray]:
    """A strided convolution, a 1x1 convolution and a dense layer, for any batch."""
    import keras
    from keras import layers

    inputs = keras.Input((12, 12, 3), name="image")
    x = layers.Conv2D(32, 3, strides=2, activation="relu")(inputs)
    x = layers.Flatten()(layers.Conv2D(96, 1, activation="relu")(x))
    data = np.random.default_rng(0).random((6, 12, 12, 3), dtype="float32")
    return prune(keras.Model(inputs, layers.Dense(24)(x))), data


def unpruned() -> tuple[Any, np.ndarray]:
    """Layers of all kinds that a file can be pruned in, without zeros, for any batch; two outputs."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(4)
    inputs = keras.Input((8, 8, 4), name="image")
    x = layers.Conv2D(16, 3, strides=2, activation="relu", padding="same")(inputs)
    x = layers.DepthwiseConv2D(3, padding="same")(x)
    x = layers.Conv2D(24, 1, activation="relu", groups=2)(x)
    x = layers.Conv2DTranspose(12, 3, strides=2, padding="same", activation="relu")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, [layers.Dense(6, name="a")(x), layers.Dense(3, use_bias=False, name="b")(x)])
    random = np.random.default_rng(4)
    scenes = random.normal(size=(3, 8, 8, 4))  # samples that have something in common, as data have
    return model, (random.normal(size=(48, 3)) @ scenes.reshape(3, -1)).reshape(48, 8, 8, 4).astype(np.float32)


NETWORKS: dict[str, Callable[[], tuple[Any, np.ndarray]]] = {
    "image": image,
    "words": words,
    "steps": steps,  # whose loops the converter cannot turn into integers
    "blocks": blocks,
    "mixed": mixed,
    "unpruned": unpruned,
}


def export_of(temporary: pytest.TempPathFactory, name: str, kind: str) -> Export:
    """Return a network of the table in a number format."""

    def fill(folder: Path) -> None:
        model, data = NETWORKS[name]()
        write(folder, name, convert(model, kind, data), model, data)

    return read(filled_once(temporary, f"export-{name}-{kind}", fill), name)


def write(folder: Path, name: str, content: bytes, model: Any, inputs: Any) -> None:
    """Write a file, and beside it what `read` returns."""
    (folder / f"{name}.tflite").write_bytes(content)
    kernels = [weight for weight in model.get_weights() if weight.ndim > 1]
    rows = model.inputs[0].shape[0]
    parts = {"inputs": inputs, "expected": model.predict(inputs, batch_size=rows, verbose=0), "kernels": kernels}
    np.savez(folder / f"{name}.npz", **{key: array for part in parts for key, array in _flat(part, parts[part])})


def read(folder: Path, name: str) -> Export:
    """Read what `write` wrote."""
    with np.load(folder / f"{name}.npz") as archive:
        arrays = {key: archive[key] for key in archive.files}
    parts = {part: _whole(part, arrays) for part in ("inputs", "expected")}
    kernels = tuple(array for key, array in arrays.items() if key.startswith("kernels/"))
    return Export(folder / f"{name}.tflite", kernels=kernels, **parts)


def _flat(part: str, value: Any) -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(value, Mapping):
        yield from ((f"{part}/{key}", array) for key, array in value.items())
    elif isinstance(value, list):
        yield from ((f"{part}/{number}", array) for number, array in enumerate(value))
    else:
        yield part, np.asarray(value)


def _whole(part: str, arrays: Mapping[str, np.ndarray]) -> Any:
    if part in arrays:
        return arrays[part]
    named = {key.removeprefix(f"{part}/"): array for key, array in arrays.items() if key.startswith(f"{part}/")}
    return [*named.values()] if all(key.isdigit() for key in named) else named


def run_resized(content: bytes, arrays: Iterable[np.ndarray], **options: Any) -> list[np.ndarray]:
    """Run a file as LiteRT's own pages show it, on inputs of any batch: resize, allocate, set, invoke."""
    interpreter = Interpreter(model_content=content, **options)
    for detail, array in zip(interpreter.get_input_details(), arrays, strict=True):
        interpreter.resize_tensor_input(detail["index"], array.shape)
    interpreter.allocate_tensors()
    for detail, array in zip(interpreter.get_input_details(), arrays, strict=True):
        interpreter.set_tensor(detail["index"], array)
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]
