"""Copies of models with some layers replaced; the weights are another step, and another module's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import keras

from tfprune.keras_models.copying.class_config import layer_states, plain_parts, set_layer_states
from tfprune.keras_models.copying.functional_subclass import replace_in_graph, restore_functional_subclass
from tfprune.keras_models.copying.rebuild import Replace, rebuild
from tfprune.keras_models.copying.subclassed import reassemble, restore
from tfprune.keras_models.models.anatomy import Anatomy, Kind


class CopyMode(Enum):
    """How models with classes of their own are copied."""

    WRAPPED = "wrapped"  # as instances that are saved with their wrappers
    ORIGINAL_CLASS = "original_class"  # as instances of the classes that the user wrote


class _Copiers(NamedTuple):
    code: Callable[..., keras.Model]
    functional_subclass: Callable[..., keras.Model]


_COPIERS = {
    CopyMode.WRAPPED: _Copiers(reassemble, replace_in_graph),
    CopyMode.ORIGINAL_CLASS: _Copiers(restore, restore_functional_subclass),
}


@dataclass(frozen=True)
class _Copying:
    """One copy that is made: what takes the place of layers, and in which mode."""

    replace: Replace
    mode: CopyMode

    def by_configuration(self, anatomy: Anatomy) -> keras.Model:
        """Copy a graph by the configurations of its layers."""
        copy = rebuild(anatomy, self.part)
        _restore_states(anatomy, copy)
        return copy

    def by_class(self, anatomy: Anatomy) -> keras.Model:
        """Copy a Functional subclass by the arguments of its class."""
        return _COPIERS[self.mode].functional_subclass(anatomy, self.replace)

    def by_code(self, anatomy: Anatomy) -> keras.Model:
        """Copy a model by running the code that creates its layers."""
        return _COPIERS[self.mode].code(anatomy, self.part)

    def part(self, path: str, part: Anatomy) -> keras.layers.Layer | None:
        """Return the replacement of a layer, or of a model that its own class or code builds."""
        if part.kind is Kind.CODE:
            return _COPIERS[self.mode].code(part, self.part, path=path)
        if part.kind is Kind.FUNCTIONAL_SUBCLASS:
            return _COPIERS[self.mode].functional_subclass(part, self.replace, path=path)
        return self.replace(path, part.model)


# How each kind of model is copied; where there are two ways, the second is tried when the first one is refused.
_WAYS: dict[Kind, tuple[Callable[[_Copying, Anatomy], keras.Model], ...]] = {
    Kind.GRAPH: (_Copying.by_configuration,),
    Kind.CODE: (_Copying.by_code,),
    Kind.FUNCTIONAL_SUBCLASS: (_Copying.by_class, _Copying.by_configuration),
    Kind.PLAIN_SUBCLASS: (_Copying.by_configuration, _Copying.by_class),
}


def copy_model(anatomy: Anatomy, replace: Replace, *, mode: CopyMode = CopyMode.WRAPPED) -> keras.Model:
    """Return an uncompiled copy of a model in which some layers are replaced; weights are not copied.

    Args:
        anatomy: Of a built model. It is left untouched.
        replace: Called with the path of each layer and the layer, or a copy of it; returns the replacement, of which
            the copy may use the configuration only, or None to keep a copy of the layer.
        mode: How models with classes of their own are copied.

    Raises:
        ValueError: If the model cannot be copied.
    """
    copying, refusals = _Copying(replace, mode), []
    for way in _WAYS[anatomy.kind]:
        try:
            return way(copying, anatomy)
        except ValueError as error:
            refusals.append(error)
    raise refusals[0]


def _restore_states(anatomy: Anatomy, copy: keras.Model) -> None:
    """Set on the models in a graph what the configuration of their class does not hold."""
    for part, counterpart in zip(anatomy.parts, copy.layers, strict=True):
        if part.kind is Kind.FUNCTIONAL_SUBCLASS:
            set_layer_states(plain_parts(counterpart), layer_states(plain_parts(part.model)))
        elif part.kind.has_graph:
            _restore_states(part, counterpart)
