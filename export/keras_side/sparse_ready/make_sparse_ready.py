"""Rewrite a model, without changing what it computes, into one that XNNPACK can run sparse."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tfprune.export.keras_side.sparse_ready.mirror_plan import MirrorPlan, MirrorStep, plan_mirroring
from tfprune.export.keras_side.sparse_ready.mirrorable import CONVOLUTIONS
from tfprune.export.keras_side.sparse_ready.pooled_vectors import rewrite_vectors
from tfprune.keras_models.models.anatomy import Anatomy, check_keras
from tfprune.keras_models.models.graph import Call, Graph, flatten, is_plain, retrace, trace, unused_name
from tfprune.keras_models.models.layers import walk
from tfprune.masking.wrapping.strip import plain_copy

layers = keras.layers


def make_sparse_ready(model: keras.Model) -> keras.Model:
    """Return an equal model in the form that XNNPACK, the runtime's library of kernels, can run sparse.

    What it computes stays the same up to rounding; so do the names of its layers, and its inputs and outputs.

    - Convolutions with a stride get the same padding on both sides. With `padding="same"` on an even size TensorFlow
      pads after the last row only. So the image is mirrored, and every kernel with it: then the padding comes
      before the first row, and one more after the last row changes nothing.
    - 1x1 convolutions after the last global pool become `Dense` layers, and `Dense` layers in a squeeze-and-excite
      gate 1x1 convolutions.

    Layers that are not known to work on mirrored maps get the original maps. `tfprune.export.sparse_inference` says
    what then still runs dense, and why. Call it before or after training and pruning: a wrapped model is stripped
    first, and comes back with its zeros and without wrappers.

    Args:
        model: A built Sequential or Functional model, channels last, nested models included. It is left untouched.

    Returns:
        An uncompiled Functional model without nested models, which loads without tfprune.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If `model` is not a graph of layers, has no convolution or takes channels first, if a convolution
            with a stride has maps of unknown size, or if a shared layer would have to be changed in two ways.

    Example:
        >>> image = keras.Input((32, 32, 3))
        >>> maps = keras.layers.Conv2D(8, 3, strides=2, padding="same", name="stem")(image)
        >>> model = keras.Model(image, keras.layers.GlobalAveragePooling2D()(maps))
        >>> ready = make_sparse_ready(model)
        >>> ready.get_layer("stem_pad").padding, ready.get_layer("stem").padding
        (((1, 1), (1, 1)), 'valid')
    """
    check_keras(model)
    # Stripped again, because the layers of the copy have been called several times and so look shared.
    return plain_copy(Anatomy.of(become_sparse_ready(plain_copy(Anatomy.of(model)))))


def become_sparse_ready(plain: keras.Model) -> keras.Model:
    """Do what `make_sparse_ready` does to a plain model in place: its layers change, and the model is used up.

    Raises:
        ValueError: As `make_sparse_ready` does.
    """
    _check(plain)
    return mirror(rewrite_vectors(flatten(plain)))


def _check(model: keras.Model) -> None:
    """Refuse a model that cannot be rewritten, or that has no convolution."""
    if not is_plain(model):
        raise ValueError(
            f"Expected a Sequential or Functional model. Received: {model.name!r} of class {type(model).__name__}, "
            f"whose own code calls its layers. Build it as keras.Model(inputs, outputs)."
        )
    convolutions = [layer for _, layer in walk(model) if type(layer) in CONVOLUTIONS]
    if not convolutions:
        raise ValueError(
            f"Expected a model with 2-D convolutions. Received: {model.name!r}, which has none. Export it without "
            f"this step: XNNPACK's sparse kernels are for convolutional networks."
        )
    for layer in convolutions:
        if layer.data_format == "channels_first":
            raise ValueError(
                f"Expected channels last. Received: layer {layer.name!r} with data_format='channels_first', which "
                f"TFLite has no operators for. Build the model again with data_format='channels_last'."
            )


def mirror(model: keras.Model) -> keras.Model:
    """Return a flat model with symmetric padding where its layers allow; its layers are changed."""
    graph = trace(model)
    steps = plan_mirroring(graph)
    return _Mirroring(graph, steps).apply() if steps.changes else model


class _Mirroring:
    """Apply the plan: reverse kernels, and mirror maps where regions begin and end."""

    def __init__(self, graph: Graph, steps: MirrorPlan) -> None:
        self.graph = graph
        self.steps = iter(steps.steps)
        self.names = {operation.name for operation in graph.model.operations}
        # The tensors that are mirrored, and along which axes; each is kept alive, so that its id stays its own.
        self.mirrored: dict[int, tuple[keras.KerasTensor, tuple[int, ...]]] = {}
        self.flipped: dict[tuple[int, tuple[int, ...]], keras.KerasTensor] = {}
        self.layers: dict[int, Any] = {}
        for call, step in zip(graph.calls, steps.steps, strict=True):
            if id(call.layer) not in self.layers:
                self.layers[id(call.layer)] = _changed(call, step)

    def apply(self) -> keras.Model:
        """Return the model made of the changed layers."""
        model = retrace(self.graph.model, self.call)
        outputs = keras.tree.map_structure(lambda tensor: self.oriented(tensor, ()), model.output)
        return keras.Model(model.input, outputs, name=model.name)

    def call(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a layer on maps that are mirrored as planned."""
        step = next(self.steps)
        args, kwargs = keras.tree.map_structure(lambda leaf: self.oriented(leaf, step.mirrored), (args, kwargs))
        if step.padding is not None and type(layer) in CONVOLUTIONS:
            args = (self.padded(args[0], step.padding, layer), *args[1:])
        outputs = self.layers[id(layer)](*args, **kwargs)
        for tensor in keras.tree.flatten(outputs):
            self.mirrored[id(tensor)] = tensor, step.mirrored
        return outputs

    def oriented(self, value: Any, wanted: tuple[int, ...]) -> Any:
        """Return a map mirrored along the axes that are wanted; anything else unchanged."""
        if not isinstance(value, keras.KerasTensor) or len(value.shape) != 4:
            return value
        _, mirrored = self.mirrored.get(id(value), (value, ()))
        axes = tuple(axis for axis in (1, 2) if (axis in wanted) != (axis in mirrored) and value.shape[axis] != 1)
        if not axes:
            return value
        if (id(value), axes) not in self.flipped:
            mirrored = value
            for axis in axes:  # one at a time: of several axes tflite-runtime 2.14 takes the first alone, silently
                mirrored = keras.ops.flip(mirrored, (axis,))
            self.flipped[id(value), axes] = mirrored
        return self.flipped[id(value), axes]

    def padded(self, value: Any, padding: Any, layer: Any) -> Any:
        """Return the input of a convolution with zeros around it, or with entries cropped."""
        zeros = tuple((max(before, 0), max(after, 0)) for before, after in padding)
        crops = tuple((max(-before, 0), max(-after, 0)) for before, after in padding)
        nothing = ((0, 0), (0, 0))
        if zeros != nothing:
            name = unused_name(f"{layer.name}_pad", self.names)
            value = layers.ZeroPadding2D(zeros, name=name, dtype=layer.dtype_policy)(value)
        if crops != nothing:
            name = unused_name(f"{layer.name}_crop", self.names)
            value = layers.Cropping2D(crops, name=name, dtype=layer.dtype_policy)(value)
        return value


def _changed(call: Call, step: MirrorStep) -> Any:
    """Return the layer of a call with its kernel reversed and its new padding."""
    layer = call.layer
    if type(layer) in CONVOLUTIONS:
        layer = layer if step.padding is None else _without_padding(layer, call.inputs[0].shape[-1])
        kernel = layer.depthwise_kernel if isinstance(layer, layers.SeparableConv2D) else layer.kernel
        kernel.assign(np.flip(keras.ops.convert_to_numpy(kernel), tuple(axis - 1 for axis in step.mirrored)))
    elif step.padding is not None:
        setattr(layer, "padding" if isinstance(layer, layers.ZeroPadding2D) else "cropping", step.padding)
    return layer


def _without_padding(layer: Any, channels: int) -> Any:
    """Return a copy of a convolution that adds no padding; a layer itself remembers the sizes that it saw first."""
    copy = type(layer).from_config({**layer.get_config(), "padding": "valid"})
    copy.build((None, None, None, channels))
    for variable, counterpart in zip(layer.weights, copy.weights, strict=True):
        counterpart.assign(variable)
    return copy
