"""The residual stream of a model of KerasHub: which axes of which weights have its width, and the narrower model."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfprune.compact.same_class.class_arguments import build_with_arguments, check_class, dicts_in
from tfprune.compact.same_class.exchanged import Resized
from tfprune.compact.same_class.removed_branches import NoClass
from tfprune.keras_models.copying.twin import class_config
from tfprune.keras_models.models.layers import walk

ARGUMENT = "hidden_dim"  # by which classes of KerasHub call the width of the stream
HEAD_SIZES = {"head_dim": "num_query_heads", "key_value_dim": "num_heads"}  # and the heads that it is derived from


@dataclass(frozen=True, eq=False)
class Stream:
    """The residual stream of a model.

    Attributes:
        width: Its hidden dimensions.
        axes: For each variable of the model, the axes along which it has these.
        tables: The indices of the variables that embed tokens.
        tied: Whether such a table makes the scores of the tokens, too.
    """

    width: int
    axes: tuple[tuple[int, ...], ...]
    tables: tuple[int, ...]
    tied: bool

    def kept(self, values: Sequence[np.ndarray], dimensions: np.ndarray) -> list[np.ndarray]:
        """Return the entries of all variables for some dimensions."""
        entries = []
        for array, axes in zip(values, self.axes, strict=True):
            for axis in axes:
                array = array.take(dimensions, axis=axis)
            entries.append(array)
        return entries


def width_of(model: keras.Model) -> int:
    """Return the width of a model's residual stream.

    Raises:
        TypeError: If it is not a Keras model.
        ValueError: If its class does not count one width, or it has masks or is quantized.
    """
    is_class = check_class(model).is_functional_subclass
    widths = [part[ARGUMENT] for part in _dicts_with_width(class_config(model))] if is_class else []
    if len(widths) != 1:
        counted = f"several: {widths}" if widths else "none"
        raise ValueError(
            f"Expected a backbone or task of KerasHub with one {ARGUMENT}, such as Gemma3CausalLM or Qwen3Backbone. "
            f"Received: {model.name!r} of class {type(model).__name__} with {counted}. Remove hidden units, heads or "
            f"blocks: tfprune.plan_transformer."
        )
    return widths[0]


def build_narrower(model: keras.Model, width: int) -> tuple[keras.Model, Stream]:
    """Build a model of the same class with a narrower stream; weights are not copied.

    Args:
        model: A model that `width_of` accepts.
        width: The hidden dimensions of the new model.

    Raises:
        ValueError: If its class makes other weights smaller, too, or none.
    """
    config = deepcopy(class_config(model))
    arguments = _dicts_with_width(config)[0]
    whole = arguments[ARGUMENT]
    for name, heads in HEAD_SIZES.items():
        if name in arguments and arguments[name] is None and arguments.get(heads):
            arguments[name] = whole // arguments[heads]
    arguments[ARGUMENT] = width
    try:
        if any(isinstance(layer, Resized) for _, layer in walk(model)):
            raise NoClass("some of its layers have other sizes than its arguments say")
        narrower = build_with_arguments(model, config)
        axes = tuple(
            _axes_of(variable.path, tuple(variable.shape), tuple(other.shape), (whole, width))
            for variable, other in zip(model.variables, narrower.variables, strict=True)
        )
    except (NoClass, ValueError) as error:
        raise ValueError(
            f"Expected a class in which {ARGUMENT} sets the width of the residual stream alone, such as those of "
            f"Gemma 3, Qwen3 and Mistral. Received: {model.name!r} of class {type(model).__name__}: {error}. Narrow "
            f"a model before you remove channels from it; in other classes, remove hidden units, heads or blocks: "
            f"tfprune.plan_transformer."
        ) from None
    tables = [layer for _, layer in walk(model) if isinstance(layer, keras.layers.Embedding)]
    inside = {id(layer.embeddings) for layer in tables}
    return narrower, Stream(
        whole,
        axes,
        tuple(index for index, variable in enumerate(model.variables) if id(variable) in inside and axes[index]),
        any(getattr(layer, "tie_weights", False) for layer in tables),
    )


def _dicts_with_width(config: Any) -> list[dict[str, Any]]:
    return [part for part in dicts_in(config) if type(part.get(ARGUMENT)) is int]


def _axes_of(
    path: str, shape: tuple[int, ...], narrower: tuple[int, ...], widths: tuple[int, int]
) -> tuple[int, ...]:
    """Return the axes along which a weight follows the width of the stream.

    Raises:
        ValueError: If another axis changes with it, as where the size of a head is the width by the heads.
    """
    differing = [axis for axis, sizes in enumerate(zip(shape, narrower, strict=True)) if sizes[0] != sizes[1]]
    if any((shape[axis], narrower[axis]) != widths for axis in differing):
        raise ValueError(f"its weight {path} of shape {shape} would have the shape {narrower}")
    return tuple(differing)
