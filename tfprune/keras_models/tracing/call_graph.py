"""Any model as a flat graph: a subclassed one by a symbolic call, which `open_layers` then looks into."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

from tfprune.keras_models.models.anatomy import Anatomy, Kind
from tfprune.keras_models.models.graph import flatten
from tfprune.keras_models.tracing.sample_inputs import fixed_shape
from tfprune.keras_models.tracing.trace_failure import FAILURES, describe


def call_graph(anatomy: Anatomy) -> keras.Model:
    """Return a Functional model without plain models nested in it, over the layers of a model.

    Args:
        anatomy: Of a model that `check_followable` accepts.

    Raises:
        ValueError: If it cannot be called on symbolic tensors.
    """
    return flatten(anatomy.model) if anatomy.kind.has_graph else _called(anatomy.model)


def check_followable(anatomy: Anatomy) -> None:
    """Refuse a model whose calls cannot be seen.

    Raises:
        ValueError: If it is not built, or does something besides calling the graph that it is built around.
    """
    model, is_code = anatomy.model, anatomy.kind is Kind.CODE
    if (anatomy.kind.has_graph and model.built) or (is_code and _shapes(model) is not None):
        return
    raise ValueError(
        f"Expected a built Sequential or Functional model, or one whose code can be traced. Received: "
        f"{model.name!r} of class {type(model).__name__}, whose layers cannot be followed. Build it as "
        f"keras.Model(inputs, outputs)."
        + (" Or call it on a batch first, if it is a subclassed one." if is_code else "")
    )


def _shapes(model: keras.Model) -> Any:
    """Return the shapes that a subclassed model was built with; None if it was not."""
    config = model.get_build_config() if model.built else None
    return (config or {}).get("input_shape") or (config or {}).get("shapes_dict")


def _called(model: keras.Model) -> keras.Model:
    """Return a graph of one call of a subclassed model, on whichever numbers it takes."""
    for inputs in _candidates(_shapes(model)):
        try:
            return keras.Model(inputs, model(inputs), name=f"call_of_{model.name}")
        except FAILURES as error:
            reason = describe(error)
    raise ValueError(
        f"Expected a model that can be called on symbolic tensors. Received: {model.name!r} of class "
        f"{type(model).__name__}, whose layers cannot be followed: {reason}. Build it as keras.Model(inputs, "
        f"outputs)."
    )


def _candidates(shapes: Any) -> Iterator[Any]:
    """Yield symbolic inputs of the shapes, of floats and of integers, with open sizes and without."""
    for is_fixed in (False, True):
        for dtype in ("float32", "int32"):

            def like(shape: tuple[int | None, ...], is_fixed: bool = is_fixed, dtype: str = dtype) -> Any:
                return keras.Input(batch_shape=fixed_shape(shape) if is_fixed else (None, *shape[1:]), dtype=dtype)

            yield keras.tree.map_shape_structure(like, shapes)
