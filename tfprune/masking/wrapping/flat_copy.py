"""The plain, flat copy of a model in which channels are followed, and where each of its weights came from."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import keras
import numpy as np

from tfprune.criteria import Criterion, Evidence
from tfprune.criteria.base import finite
from tfprune.keras_models.channels.groups import NamedKernels, analyze, known_rule
from tfprune.keras_models.copying.twin import layer_inside, layer_pairs
from tfprune.keras_models.evidence.gatherer import Gatherer, gather
from tfprune.keras_models.evidence.scored_weight import Subject
from tfprune.keras_models.models.anatomy import Anatomy, Kind
from tfprune.keras_models.models.graph import functional
from tfprune.keras_models.models.layers import as_numpy
from tfprune.keras_models.tracing.call_graph import call_graph, check_followable
from tfprune.keras_models.tracing.open_layers import TracedGraph, open_layers
from tfprune.masking.wrapping.strip import plain_copy
from tfprune.masking.wrapping.transfer_weights import transfer_weights
from tfprune.solving.dependency_graph import ChanneledWeight, Network


@dataclass(frozen=True, eq=False)
class Source:
    """Where a weight of a flat copy came from.

    Attributes:
        layer: The layer of the model that was copied, perhaps a wrapper, that holds the weight, perhaps deep inside.
        path: The path of this layer.
        variable: The weight there.
    """

    layer: keras.layers.Layer
    path: str
    variable: keras.Variable


@dataclass(eq=False)
class FlatCopy:
    """A copy of a model without wrappers, without models nested in it, and with layers opened that hold others.

    Attributes:
        model: The copy, a Functional model.
        anatomy: That of the same layers in a model of the kind that was copied, `plain`.
        called: The calls of `plain` as a Functional model, before layers were opened: it runs on data of any size.
        layers: The plain model and its layers, at any depth.
        names: Their names before some were renamed.
        closed: Why the code of a layer could not be traced, by the id of the layer.
        is_open_shaped: Whether the copy takes the shapes that the model takes; otherwise sizes that are open there
            are fixed, and it is for looking at only.
        sources: Where each weight came from, by the id of the weight.
        is_used_up: Whether `plain` or one of its layers was handed out.
    """

    model: keras.Model
    anatomy: Anatomy
    called: keras.Model
    layers: list[keras.layers.Layer]
    names: list[str]
    closed: dict[int, str]
    is_open_shaped: bool
    sources: dict[int, Source]
    is_used_up: bool = False

    @property
    def plain(self) -> keras.Model:
        """A model of the kind that was copied, which takes the shapes that the model takes."""
        return self.anatomy.model

    @property
    def is_opened(self) -> bool:
        """Whether there are layers in it that are inside of others in the model."""
        return {id(layer) for layer in self.model.layers if layer.weights} != {
            id(layer) for _, layer in self.anatomy.leaves if layer.weights
        }

    def hand_out(self) -> keras.Model:
        """Return `plain`, with the names that its layers had; the copy is used up by this."""
        self.is_used_up = True
        self._rename(self.names)
        return self.plain

    def view(self) -> keras.Model:
        """Return a model over the layers of the copy; compiled, it leaves no trace in the copy."""
        whole = self.plain if self.is_opened else self.model
        return whole if whole is self.plain and self.anatomy.kind is Kind.CODE else functional(whole)

    def read_weights(self, model: keras.Model) -> None:
        """Take the weights that the model has now, and leave the names of the layers as they are."""
        flat_names = [layer.name for layer in self.layers]
        self._rename(self.names)  # by which layers are found
        transfer_weights(Anatomy.of(model), self.plain)
        self._rename(flat_names)

    def write_zeros(self, network: Network, keep: np.ndarray) -> None:
        """Write zeros wherever a kernel makes or reads a channel that is not kept."""
        for weight, variable in network.variables(self.model):
            mask = weight.mask(keep)
            if not mask.all():
                variable.assign(as_numpy(variable) * mask)

    def _rename(self, names: Iterable[str]) -> None:
        for layer, name in zip(self.layers, names, strict=True):
            layer.name = name

    @cached_property
    def network(self) -> Network:
        """Its channels."""
        return analyze(self.model, closed=self.closed)


def flat_copy(anatomy: Anatomy) -> FlatCopy:
    """Strip, flatten and open a model; it is left untouched.

    Raises:
        ValueError: If it cannot be followed.
    """
    check_followable(anatomy)
    plain = plain_copy(anatomy)
    plain_anatomy = Anatomy.of(plain)
    layers = [layer for _, layer in plain_anatomy.every]
    names = [layer.name for layer in layers]  # flattening changes some
    called = call_graph(plain_anatomy)
    opened = open_layers(called, is_known=lambda layer: known_rule(layer) is not None)
    _check_opened(anatomy.model, plain, opened)
    return FlatCopy(
        model=opened.model,
        anatomy=plain_anatomy,
        called=called,
        layers=layers,
        names=names,
        closed=opened.closed,
        is_open_shaped=opened.is_open_shaped,
        sources=dict(_sources(anatomy, plain)),
    )


def _sources(anatomy: Anatomy, plain: keras.Model) -> Iterator[tuple[int, Source]]:
    paths = {id(layer): path for path, layer in anatomy.leaves}
    for part, copy in layer_pairs(anatomy, plain):
        layer = part.model
        if part.kind is Kind.CODE:  # its layers come by themselves
            continue
        for variable, counterpart in zip(layer_inside(layer).weights, copy.weights, strict=True):
            yield id(counterpart), Source(layer, paths.get(id(layer), layer.name), variable)


def _check_opened(model: keras.Model, plain: keras.Model, opened: TracedGraph) -> None:
    """Refuse a subclassed model that is still one call."""
    if any(layer is plain for layer in opened.model.layers):
        reason = opened.closed.get(id(plain), "it has weights of its own; move them into a layer")
        raise ValueError(
            f"Expected a model whose calls can be traced. Received: {model.name!r} of class {type(model).__name__}, "
            f"whose layers cannot be followed: {reason}. Build it as keras.Model(inputs, outputs)."
        )


def score_kernels(
    copy: FlatCopy, named: NamedKernels, *, criterion: Criterion, gatherer: Gatherer | None
) -> dict[ChanneledWeight, Callable[[], np.ndarray]]:
    """Return a function for each kernel of a flat copy that computes its scores, once evidence was gathered.

    Args:
        copy: The flat copy.
        named: The kernels, with their paths and layers.
        criterion: The criterion.
        gatherer: What gathers evidence of the plain model of the copy; None without data.
    """
    subjects = {
        weight: Subject(
            path,
            kernel,
            criterion,
            functools.partial(as_numpy, kernel.variable),
            origin=copy.sources[id(kernel.variable)].variable,
        )
        for weight, (path, _, kernel) in named.items()
    }
    facts = gather(copy.model, list(subjects.values()), gatherer=gatherer)

    def scores(subject: Subject) -> np.ndarray:
        evidence = Evidence(subject.latent(), subject.path, subject.kernel.axes, facts[subject.path])
        return finite(criterion(evidence), subject.path)

    return {weight: functools.partial(scores, subject) for weight, subject in subjects.items()}
