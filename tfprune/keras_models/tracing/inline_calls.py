"""Let layers run their code at once where they are called, instead of being recorded as one step of a graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import keras

from tfprune.keras_models.copying.in_place import classes_changed, derive
from tfprune.keras_models.tracing.trace_failure import FAILURES


class TraceFailures(list):
    """The layers whose code failed, the innermost first, each with the error."""

    def add(self, layer: keras.layers.Layer, error: BaseException) -> None:
        if not any(other is error for _, other in self):
            self.append((layer, error))


@contextmanager
def inline_calls(layers: Iterable[keras.layers.Layer], failed: TraceFailures) -> Iterator[None]:
    """Call the code of some layers directly within the context.

    Args:
        layers: The layers.
        failed: Gets the innermost layer whose code raises, with the error, which goes on.
    """
    with classes_changed(layers, lambda kind: _running(kind, failed)):
        yield


def _running(kind: Any, failed: TraceFailures) -> Any:
    """Return a subclass whose instances run their code when they are called: Python looks a call up in the class."""

    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = keras.tree.map_structure(_dense, (args, kwargs))
        try:
            return self.call(*args, **kwargs)
        except FAILURES as error:
            failed.add(self, error)
            raise

    return derive(kind, __call__=run)


def _dense(value: Any) -> Any:
    """Return a tensor that is not sparse: a product with a constant is so symbolically, and norms do not take it."""
    is_sparse = isinstance(value, keras.KerasTensor) and value.sparse
    return keras.ops.convert_to_tensor(value, sparse=False) if is_sparse else value
