"""The arguments of a class: find those that count something, and build a model anew with other numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras

from tfprune.compact.same_class.removed_branches import NoClass
from tfprune.keras_models.copying.twin import fresh_copy
from tfprune.keras_models.models.anatomy import Anatomy, Kind, check_model
from tfprune.keras_models.models.layers import quantized_already
from tfprune.keras_models.tracing.trace_failure import FAILURES, describe
from tfprune.masking.wrapping.pruned import check_without_masks


def check_class(model: keras.Model) -> Kind:
    """Return how a model is put together that is to be built anew with other arguments.

    Raises:
        TypeError: If it is not a Keras model.
        ValueError: If it has masks, or is quantized.
    """
    anatomy = Anatomy.of(model)
    check_model(anatomy)
    check_without_masks(model)
    if reason := quantized_already(model):
        raise ValueError(f"Expected a model that is not quantized yet. Received: {model.name!r}. {reason}")
    return anatomy.kind


def dicts_in(config: Any) -> Iterator[dict[str, Any]]:
    """Yield every dict in a configuration, the outermost first: arguments of a model, and of layers in it."""
    if isinstance(config, dict):
        yield config
    if isinstance(config, (dict, list, tuple)):
        for value in list(config.values() if isinstance(config, dict) else config):
            yield from dicts_in(value)


def build_with_arguments(
    model: keras.Model, config: dict[str, Any], *, build: Callable[..., keras.Model] = fresh_copy
) -> keras.Model:
    """Build a model of the same class from other arguments; weights are not copied.

    Args:
        model: A Functional subclass.
        config: What `class_config` returns for it, with other numbers.
        build: Called with the model and `origin`, the configuration.

    Raises:
        NoClass: If the class does not take these arguments.
    """
    try:
        return build(model, origin=config)
    except FAILURES as error:  # code of the class, run on arguments that it may not take
        raise NoClass(describe(error)) from None
