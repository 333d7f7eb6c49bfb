"""A streaming network for wake words: trained on whole windows, and run on one step at a time with ring buffers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

import tfprune
from sample_apps.wake.sound import BANDS

STRIDE, FIRST = 3, 5  # frames from one step to the next, and those that the first convolution sees
KERNELS = (5, 9, 13, 21)  # steps that each depthwise convolution sees
LAST = 5  # steps that the last layer sees
STEPS = sum(kernel - 1 for kernel in KERNELS) + LAST
FRAMES = FIRST + STRIDE * (STEPS - 1)  # of a window, a second and a half


@keras.saving.register_keras_serializable(package="wake")
class Ring(layers.Layer):
    """The last steps of its input: all that it is given or, where it streams, those of the runs before as well.

    Args:
        steps: The number of steps that it keeps from one run to the next.
        streams: Whether it is given a step at a time, of a batch of one.
    """

    def __init__(self, steps: int, streams: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.steps, self.streams = steps, streams

    def build(self, shape: tuple[int | None, ...]) -> None:
        if self.streams:
            self.state = self.add_weight(
                name="state", shape=(1, self.steps, *shape[2:]), initializer="zeros", trainable=False
            )

    def call(self, inputs: Any) -> Any:
        if not self.streams:
            return inputs
        window = keras.ops.concatenate([self.state, inputs], axis=1)
        self.state.assign(window[:, -self.steps :])
        return window

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "steps": self.steps, "streams": self.streams}


def follow_ring(flow: Any, call: Any) -> list[Any]:
    """Let channels go through a ring as they are; its state has them as well."""
    (layout,) = flow.inputs(call)
    channels = flow.along(layout, -1)
    if call.layer.streams:
        flow.record(call.layer, {"state": (None, None, None, channels)})
    return [layout]


tfprune.register_shrinkable(Ring, follow_ring)


def network(width: int) -> keras.Model:
    """Return a network of windows, of so many channels."""
    inputs = keras.Input((None, BANDS), name="features")
    tensor = Ring(FIRST - STRIDE)(layers.Reshape((-1, 1, BANDS))(inputs))
    first = layers.Conv2D(width // 2, (FIRST, 1), (STRIDE, 1), activation="relu", use_bias=False, name="first")
    tensor = first(tensor)
    for number, kernel in enumerate(KERNELS):
        tensor = layers.DepthwiseConv2D((kernel, 1), name=f"steps_{number}")(Ring(kernel - 1)(tensor))
        tensor = layers.Conv2D(width, 1, use_bias=False, name=f"mix_{number}")(tensor)
        tensor = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(tensor))
    tensor = layers.Conv2D(1, (LAST, 1), activation="sigmoid", name="score")(Ring(LAST - 1)(tensor))
    return keras.Model(inputs, layers.Reshape((-1,))(tensor))


def scores_of(model: keras.Model, frames: np.ndarray) -> np.ndarray:
    """Return the score of each window of frames that follow each other, a step after the other."""
    return model.predict_on_batch(frames[np.newaxis])[0]


def streaming(model: keras.Model) -> keras.Model:
    """Return a network of the same weights that is given a step at a time."""

    def streamed(layer: layers.Layer) -> layers.Layer:
        config = layer.get_config()
        return type(layer).from_config({**config, "streams": True} if isinstance(layer, Ring) else config)

    inputs = keras.Input(batch_shape=(1, STRIDE, BANDS), name="features")
    twin = keras.models.clone_model(model, input_tensors=inputs, clone_function=streamed)
    for layer in model.layers:
        if layer.weights:
            twin.get_layer(layer.name).set_weights(layer.get_weights())
    return twin


def export(model: keras.Model, steps: np.ndarray, path: Path) -> None:
    """Write a streaming network as an int8 file, as microWakeWord does: a score of 8 bits for each step of frames.

    Args:
        model: The network of windows.
        steps: Steps that follow each other, of shape (steps, STRIDE, BANDS), which set the ranges.
        path: The file to write.
    """
    import tensorflow as tf

    twin = streaming(model)
    root = tf.Module()
    root.states = [variable.value for variable in twin.variables]  # what the file gives their first values
    call = tf.function(twin.call, input_signature=[tf.TensorSpec((1, STRIDE, BANDS), tf.float32)])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([call.get_concrete_function()], root)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.experimental_enable_resource_variables = converter._experimental_variable_quantization = True
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.representative_dataset = lambda: ([step[np.newaxis]] for step in steps)
    converter.inference_input_type, converter.inference_output_type = tf.int8, tf.uint8
    path.write_bytes(converter.convert())


def windows(frames: np.ndarray, ends: Sequence[int]) -> np.ndarray:
    """Return the windows of frames that end at these places."""
    return np.stack([frames[end - FRAMES : end] for end in ends])


def batches(
    positive: np.ndarray, negative: np.ndarray, size: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield batches without end: a quarter of them words, the rest windows of speech from any place."""
    random = np.random.default_rng(seed)
    words = size // 4
    while True:
        ends = random.integers(FRAMES, len(negative), size - words)
        x = np.concatenate([positive[random.integers(0, len(positive), words)], windows(negative, ends)])
        yield x, np.repeat(np.array([1.0, 0.0], np.float32), [words, size - words])[:, np.newaxis]
