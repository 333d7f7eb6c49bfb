"""Build a model of KerasHub with fewer rows in its tables of tokens, and compare it with the whole one."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import keras
import numpy as np

from tfprune.compact.same_class.class_arguments import build_with_arguments, check_class, dicts_in
from tfprune.compact.same_class.removed_branches import NoClass
from tfprune.keras_models.copying.twin import class_config
from tfprune.keras_models.models.layers import as_numpy, paired, rename, walk
from tfprune.keras_models.models.low_rank import train_alike
from tfprune.keras_models.tracing.same_outputs import as_arrays
from tfprune.keras_models.tracing.sample_inputs import numbers_for

ARGUMENT = "vocabulary_size"  # by which the classes of KerasHub count their tokens


def token_rows(model: keras.Model) -> int:
    """Return how many tokens a model has rows for.

    Raises:
        TypeError: If it is not a Keras model.
        ValueError: If it is not a model whose tables of tokens can be made smaller.
    """
    counts = set(_counts(class_config(model))) if check_class(model).is_functional_subclass else set()
    if len(counts) != 1:
        numbers = f"the numbers {sorted(counts)}" if counts else "none"
        raise ValueError(
            f"Expected a backbone or task of KerasHub with one {ARGUMENT}, such as Gemma3CausalLM or BertBackbone. "
            f"Received: {model.name!r} of class {type(model).__name__} with {numbers}."
        )
    return counts.pop()


def with_rows(model: keras.Model, rows: np.ndarray, *, count: int) -> keras.Model:
    """Build a model of the same class with some rows of its tables of tokens.

    Args:
        model: A backbone or task of KerasHub.
        rows: The ids of the tokens that remain, in order.
        count: How many tokens it has rows for.

    Raises:
        ValueError: If its class makes other layers with fewer tokens.
    """
    config = deepcopy(class_config(model))
    for arguments in dicts_in(config):
        if arguments.get(ARGUMENT) == count:
            arguments[ARGUMENT] = len(rows)
    try:
        smaller = build_with_arguments(model, config)
        values = [
            _rows_of(as_numpy(variable), tuple(other.shape), rows, count)
            for variable, other in zip(model.variables, smaller.variables, strict=True)
        ]
    except (NoClass, ValueError) as error:
        raise ValueError(
            f"Expected a class that can be built with fewer tokens. Received: {model.name!r} of class "
            f"{type(model).__name__}: {error}. Trim the vocabulary first, and remove channels or blocks afterwards."
        ) from None
    rename(smaller, [layer.name for _, layer in walk(model)])
    train_alike(paired(model, smaller))
    for variable, value in zip(smaller.variables, values, strict=True):
        variable.assign(value)
    return smaller


def compare(model: Any, smaller: Any, *, rows: np.ndarray, ids: Sequence[int]) -> float:
    """Return the largest difference of two models' outputs on some tokens, of the scores those of the rows.

    Args:
        model: The whole model.
        smaller: The one with some rows.
        rows: The ids of its tokens in the whole model.
        ids: Tokens of the smaller model.
    """
    inputs = numbers_for(model.input, length=len(ids))
    outputs = []
    for network, tokens in ((smaller, np.asarray(ids)), (model, rows[np.asarray(ids)])):
        inputs = {
            name: keras.ops.cast(np.broadcast_to(tokens, value.shape), value.dtype) if "token_ids" in name else value
            for name, value in inputs.items()
        }
        outputs.append(as_arrays(network(inputs, training=False)))
    apart = 0.0
    for array, expected in zip(*outputs, strict=True):
        whole = expected[..., rows] if array.shape != expected.shape else expected
        apart = max(apart, float(np.abs(array - whole).max(initial=0)))
    return apart


def _counts(config: Any) -> list[int]:
    return [part[ARGUMENT] for part in dicts_in(config) if type(part.get(ARGUMENT)) is int]


def _rows_of(values: np.ndarray, shape: tuple[int, ...], rows: np.ndarray, count: int) -> np.ndarray:
    """Return the entries of a variable for some tokens, along the axis in which its shape differs."""
    if values.shape == shape:
        return values
    differing = [axis for axis, pair in enumerate(zip(values.shape, shape, strict=True)) if pair[0] != pair[1]]
    if len(differing) != 1 or (values.shape[differing[0]], shape[differing[0]]) != (count, len(rows)):
        raise ValueError(f"a weight of shape {values.shape} would have the shape {shape}")
    return values.take(rows, axis=differing[0])
