"""Count the copies of whole models, and the models that Keras builds."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

import keras


@dataclass
class Counted:
    """What was made within a context: whole copies, and instances of Keras' models."""

    copies: int = 0
    models: int = 0


@contextmanager
def counted_models() -> Iterator[Counted]:
    """Count the instances of Keras' models."""
    counted, original = Counted(), keras.Operation.__new__

    def building(kind, *args, **kwargs):
        instance = original(kind, *args, **kwargs)
        counted.models += isinstance(instance, keras.Model)
        return instance

    with mock.patch.object(keras.Operation, "__new__", building):
        yield counted


@contextmanager
def counted_copies() -> Iterator[Counted]:
    """Count calls of `twin`, wherever it was imported, and instances of Keras' models."""
    import tfprune
    from tfprune.models.twin import twin

    for name in tfprune.__all__:
        getattr(tfprune, name)  # a module that is loaded later would keep the function that counts
    users = [module for name, module in list(sys.modules.items()) if name.startswith("tfprune")]
    users = [module for module in users if vars(module).get("twin") is twin]
    with counted_models() as counted:

        def counting(*args, **kwargs):
            counted.copies += 1
            return twin(*args, **kwargs)

        for module in users:
            module.twin = counting
        try:
            yield counted
        finally:
            for module in users:
                module.twin = twin
