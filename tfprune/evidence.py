"""Gather evidence: one pass over data that records the facts that criteria need, and changes nothing in the model.

Everything is reduced batch by batch, so that memory does not grow with the data. No fact is known here by name:
`facts` describes each one. Start at `Gatherer`.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.base.arrays import input_axes, matrix_axes, output_axes, parse_equation, spell_out
from tfprune.base.spec import ArgumentError
from tfprune.criteria import Criterion
from tfprune.facts import HESSIAN_GRADIENTS, INPUTS, MEAN, OUTPUTS, ClassMoments, UnknownFact
from tfprune.gradients import (
    FactRequest,
    Gradients,
    HessianGradients,
    Loss,
    Subject,
    requests_of,
    synaptic_flows,
    training_loss,
)
from tfprune.models.anatomy import Kernel, placeholder, walk
from tfprune.models.graph import hooked_calls, read_only_scope
from tfprune.models.training import Batch, batches, check_batch, check_source, classes_of

# Where the tensors that a layer takes and returns hold the units of its kernel.

# By the names of weights: what they read or make stays inside the layer.
_INSIDE = {
    INPUTS: {
        "pointwise_kernel": "its inputs stay inside the separable layer",
        "recurrent_kernel": "its inputs are the states of the recurrent layer",
        "embeddings": "its inputs are indices",
        "reverse_embeddings": "it shares its layer with another direction",
    },
    OUTPUTS: {
        "depthwise_kernel": "its outputs stay inside the separable layer",
        "reverse_embeddings": "it shares its layer with another direction",
    },
}


def _by_unit(tensor: Any, side: str, *, kernel: Kernel, layer: keras.layers.Layer) -> Any:
    """Return an input or output of a layer as a tensor (samples, positions, units), or an `UnknownFact`.

    Units lie along the last axis, or where the layer's `data_format` or `equation` says. The outputs of a recurrent
    layer are repeated for each of its gates.

    Args:
        tensor: The first argument of the layer, or what it returns.
        side: `INPUTS` or `OUTPUTS`.
        kernel: The kernel whose units are returned.
        layer: The layer that holds the kernel.
    """
    inside = _INSIDE[side].get(kernel.variable.name)
    if inside:
        return UnknownFact(inside)
    if side == OUTPUTS and isinstance(tensor, (list, tuple)):
        tensor = tensor[0]  # a recurrent layer may return its states as well
    if not hasattr(tensor, "shape"):
        return UnknownFact(f"its layer has several {side}")
    count, rank = _count(kernel, side), len(tensor.shape)
    axes = [axis % rank for axis in _axes(kernel, side, layer, rank) if -rank <= axis < rank]
    size = math.prod(tensor.shape[axis] or 0 for axis in axes) if axes else 0
    whole = count * getattr(layer, "groups", 1) if side == INPUTS else count
    has_gates = side == OUTPUTS and hasattr(layer, "state_size")
    gates = whole // size if has_gates and size else 1
    if 0 in axes or size * gates != whole:
        return UnknownFact(f"its {whole} {side} are not found in a tensor of shape {tuple(tensor.shape)}")
    rest = [axis for axis in range(1, rank) if axis not in axes]
    order = [0, *rest, *axes]
    tensor = tensor if order == sorted(order) else ops.transpose(tensor, order)
    tensor = ops.reshape(tensor, (ops.shape(tensor)[0], -1 if rest else 1, size))
    return ops.tile(tensor, (1, 1, gates)) if gates > 1 else tensor


def _units(kernel: Kernel, side: str) -> list[int]:
    """Return the dimensions of a kernel that are its units."""
    return input_axes(kernel.axes) if side == INPUTS else output_axes(kernel.axes)


def _count(kernel: Kernel, side: str) -> int:
    return math.prod(kernel.variable.shape[axis] for axis in _units(kernel, side))


def _axes(kernel: Kernel, side: str, layer: keras.layers.Layer, rank: int) -> list[int]:
    """Return the axes of a tensor that hold the units, in the kernel's order."""
    if isinstance(layer, keras.layers.EinsumDense):
        equation = parse_equation(layer.equation)
        if side == INPUTS and equation.batched:
            return []  # each position has inputs of its own
        letters = spell_out(equation.inputs if side == INPUTS else equation.outputs, rank)
        return [letters.index(equation.kernel[axis]) for axis in _units(kernel, side)]
    if getattr(layer, "data_format", None) == "channels_first":
        _, positions, _ = matrix_axes(kernel.axes)
        return [-1 - len(positions)]
    return [-1]


# What the layers of a model take and return, reduced batch by batch in the compiled model.


class RecordingModel(keras.Model):
    """A model in inference that returns, in place of its outputs, what facts measure of its layers.

    Args:
        model: The model.
        requests: Facts of inputs and outputs.
    """

    def __init__(self, model: keras.layers.Layer, requests: Sequence[FactRequest]) -> None:
        super().__init__(dtype="float32", autocast=False)
        self.model = model
        self._run = _recording(model, requests)
        self.unknown: dict[str, UnknownFact] = {}
        self.built = True

    def call(self, inputs: Any) -> dict[str, list[Any]]:
        records, unknown = self._run(inputs)
        self.unknown.update(unknown)
        return records


def _recording(model: keras.layers.Layer, requests: Sequence[FactRequest]) -> Callable:
    """Return a function that calls the model and returns what was measured, one tensor for each call of a layer."""

    def run(inputs: Any) -> tuple[dict[str, list[Any]], dict[str, UnknownFact]]:
        records: dict[str, list[Any]] = {}
        unknown: dict[str, UnknownFact] = {}

        def on_call(layer: keras.layers.Layer, given: Any, returned: Any) -> None:
            for request in requests:
                if request.hooked is layer:
                    side, kernel = request.fact.recorded, request.subject.kernel
                    units = _by_unit(given if side == INPUTS else returned, side, kernel=kernel, layer=request.holder)
                    if isinstance(units, UnknownFact):
                        unknown[request.key] = units
                    else:
                        records.setdefault(request.key, []).append(_reduced(request, ops.cast(units, "float32")))

        with read_only_scope(model), hooked_calls([request.hooked for request in requests], on_call):
            model(inputs, training=False)
        return records, unknown

    return run


def _reduced(request: FactRequest, units: Any) -> Any:
    count = units.shape[2]
    return request.checked(request.fact.reduce(units, ops), (None, count) if request.fact.needs_labels else (count,))


class _Activations:
    """Facts of a model's inputs and outputs, combined over batches in float64.

    Args:
        model: The model.
        requests: Facts of inputs and outputs.
    """

    def __init__(self, model: keras.layers.Layer, requests: Sequence[FactRequest]) -> None:
        self._model, self._requests = RecordingModel(model, requests), requests
        self._needs_labels = any(request.fact.needs_labels for request in requests)
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._sums: dict[str, Any] = {}
        self._counts: Counter[str] = Counter()
        self._moments: dict[str, ClassMoments] = {}
        self._unknown: dict[str, UnknownFact] = {}

    def record(self, batch: Batch) -> None:
        """Record one batch."""
        labels = classes_of(batch) if self._needs_labels else None
        records = self._model.predict_on_batch(batch.x)
        for request in self._requests:
            for values in records.get(request.key, ()):
                if request.fact.needs_labels:
                    self._add_by_class(request.key, values, labels)
                else:
                    self._sums[request.key] = self._sums.get(request.key, 0.0) + np.asarray(values, dtype=np.float64)
                    self._counts[request.key] += 1

    def _add_by_class(self, key: str, values: np.ndarray, labels: Any) -> None:
        if len(values) == len(labels):
            self._moments.setdefault(key, ClassMoments(values.shape[1])).add(values, labels)
        else:
            self._unknown[key] = UnknownFact(f"its layer saw {len(values)} samples of a batch of {len(labels)}")

    def combined(self) -> dict[str, Any]:
        """Return the recorded facts, by the keys of their requests."""
        uncalled = {request.key: UnknownFact("its layer was not called") for request in self._requests}
        means = {request.key for request in self._requests if request.fact.combine == MEAN}
        arrays = {key: total / self._counts[key] if key in means else total for key, total in self._sums.items()}
        return uncalled | arrays | self._moments | self._unknown | self._model.unknown


# Find which BatchNormalization takes the outputs of which layer.

_Normalizers = dict[int, keras.layers.BatchNormalization]


class _Silent(keras.Model):
    """A model called within another, in a graph of its own in which nothing is computed."""

    def __init__(self, model: keras.layers.Layer) -> None:
        super().__init__(dtype="float32", autocast=False)
        self.model = model
        self.built = True

    def call(self, inputs: Any) -> Any:
        with read_only_scope(self.model):
            return self.model(inputs, training=False)


def _normalizers(model: keras.layers.Layer) -> _Normalizers:
    """Return the BatchNormalization that takes what a layer returns, by the layer's id.

    Raises:
        ValueError: If the inputs of the model are not known, so that it cannot be called without data.
    """
    layers = [layer for _, layer in walk(model)]
    makers: dict[int, tuple[keras.layers.Layer, Any]] = {}
    layers_after: _Normalizers = {}

    def on_call(layer: keras.layers.Layer, given: Any, returned: Any) -> None:
        if isinstance(layer, keras.layers.BatchNormalization) and id(given) in makers:
            layers_after[id(makers[id(given)][0])] = layer
        # The innermost layer that returns a tensor made it. The tensor is kept, so that no other one gets its id.
        makers.setdefault(id(returned), (layer, returned))

    with hooked_calls(layers, on_call):
        _Silent(model)(_placeholders(model))
    return layers_after


def _placeholders(model: keras.layers.Layer) -> Any:
    if isinstance(model, keras.Sequential) and model.built:  # its `input` is the tensor that it was called on
        return placeholder(model.inputs[0])
    if getattr(model, "inputs", None):
        return keras.tree.map_structure(placeholder, model.input)
    config = model.get_build_config() or {}
    if not isinstance(config.get("input_shape"), (tuple, list)):
        raise ValueError(
            f"Expected a model with known inputs, to find which layers normalize the outputs of which. Received: "
            f"{model.name!r} of class {type(model).__name__} without them. Build it with model.build(input_shape)."
        )
    return keras.KerasTensor(tuple(config["input_shape"]))


# What stands around a weight in its model: facts that are read without data.


@dataclass(frozen=True, eq=False)
class _Surroundings:
    """The surroundings of a weight in its model, for facts that need no data.

    Attributes:
        path: The path of the weight in the model.
        variable: The weight in the user's model.
        layer: The innermost layer that holds the weight.
        hooked: The layer whose outputs are looked at: `layer`, or a loop around it.
        normalizers: A function that returns what `normalizers` does, called only if a fact asks.
        flows: A function that returns what `synaptic_flows` does, likewise.
    """

    path: str
    variable: keras.Variable
    layer: keras.layers.Layer
    hooked: keras.layers.Layer
    normalizers: Callable[[], _Normalizers]
    flows: Callable[[], dict[int, np.ndarray] | UnknownFact]

    @property
    def synaptic_flow(self) -> Any:
        """The synaptic flow through each entry of the weight, or why it is not known."""
        flows = self.flows()
        if isinstance(flows, UnknownFact):
            return flows
        return flows.get(id(self.variable), UnknownFact("it is frozen (trainable=False), so it has no gradient"))

    @property
    def normalizer(self) -> keras.layers.BatchNormalization | None:
        """The BatchNormalization that takes the outputs of the layer, None if there is none."""
        return self.normalizers().get(id(self.hooked))


def _facts_of_model(model: keras.layers.Layer, requests: Sequence[FactRequest]) -> dict[str, Any]:
    """Return facts that need no data, in float64, by the key of their requests."""
    once = functools.cache(lambda: _normalizers(model))
    origins = {
        id(each.subject.kernel.variable): each.subject.origin for each in requests if each.subject.origin is not None
    }
    flows = functools.cache(lambda: synaptic_flows(model, origins))
    facts = {}
    for request in requests:
        subject = request.subject
        variable = subject.kernel.variable if subject.origin is None else subject.origin
        around = _Surroundings(subject.path, variable, request.holder, request.hooked, once, flows)
        value = request.fact.reduce(around, ops)
        if not isinstance(value, UnknownFact):
            value = np.asarray(ops.convert_to_numpy(request.checked(value, request.shape)), dtype=np.float64)
        facts[request.key] = value
    return facts


# Gather evidence: one pass over data that records facts of a model and changes nothing in it.

Facts = dict[str, dict[str, Any]]  # by the path of the weight, then by the name of the fact


def check_needs(criteria: Iterable[Criterion], *, data: Any, loss: Any) -> None:
    """Refuse missing evidence, and data or a loss that no criterion uses.

    Raises:
        ValueError: If a criterion needs data and there is none, `data` or `loss` would have no effect, or a criterion
            needs a fact that is not registered.
    """
    criteria = list(dict.fromkeys(criteria))
    needed = {fact: criterion for criterion in criteria for fact in criterion.needed_facts()}
    for fact, criterion in needed.items():
        if data is None and fact.needs_data:
            raise ArgumentError(
                "data",
                f"data, as {criterion!r} needs evidence: {fact}",
                "None",
                advice="Pass data=(x, y) or a dataset to update_masks, PruningCallback or plan_shrink.",
            )
    uses = {"data": any(fact.needs_data for fact in needed), "loss": any(fact.needs_loss for fact in needed)}
    for name, value in (("data", data), ("loss", loss)):
        if value is not None and not uses[name]:
            raise ArgumentError(
                name,
                f"no `{name}`, because no criterion uses it",
                found=(
                    f"{name} of type {type(value).__name__}; criteria: {', '.join(map(repr, criteria)) or 'none'}"
                ),
                advice="Leave it out.",
            )


class Gatherer:
    """Gather evidence of a model's weights from data, and keep facts that add up from one pass to the next.

    Pass a gatherer as `data` to `update_masks` in a custom training loop, so that `criteria.Movement` adds up over
    the updates. A pass calls the model in inference once on each batch, and once more to differentiate the loss if a
    fact needs gradients. Memory does not grow with the number of batches. The model does not change. Padding counts
    like any other position.

    Args:
        model: The model, wrapped or not.
        data: A tuple (x, y) of arrays, a `tf.data.Dataset`, a `keras.utils.PyDataset`, or an iterable of batches.
        loss: A name, function or `keras.losses.Loss` for gradients. None (the default) takes the loss of `compiled`.
        compiled: The model that was compiled with the loss. None (the default) takes `model`.

    Raises:
        TypeError: If `data` is not a source of batches.
        ValueError: If `data` does not end.

    Example:
        >>> import numpy as np
        >>> from tfprune import update_masks, wrap
        >>> model = wrap(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]), criterion="wanda")
        >>> gatherer = Gatherer(model, np.ones((8, 4)))
        >>> update_masks(model, 0.5, data=gatherer).sparsity
        0.5
    """

    def __init__(
        self, model: keras.layers.Layer, data: Any, *, loss: Any = None, compiled: keras.Model | None = None
    ) -> None:
        check_source(data)
        self.model, self.data, self.loss = model, data, loss
        self._compiled = model if compiled is None else compiled
        self._before: dict[str, Any] = {}
        self._pass: _Pass | None = None

    def gather(self, subjects: Sequence[Subject]) -> Facts:
        """Return the facts that the criteria of some weights need, from one pass over the data.

        Raises:
            ValueError: If the data are empty, do not fit the model or hold NaN, or labels or a loss are missing.
        """
        facts: Facts = {subject.path: {} for subject in subjects}
        requests = requests_of(self.model, subjects, of_data=True)
        if not requests:  # all weights that need data may be frozen
            return facts
        compiled_for = [(request.subject.path, request.fact) for request in requests]
        if self._pass is None or self._pass.compiled_for != compiled_for:
            self._pass = _Pass(self.model, requests, lambda: training_loss(self._compiled, self.loss))
        results = self._pass.over(self.data)
        for request in requests:
            facts[request.subject.path][request.fact.name] = self._finished(request, results[request.key])
        return facts

    def _finished(self, request: FactRequest, value: Any) -> Any:
        fact = request.fact
        if isinstance(value, UnknownFact):
            return value
        value = value if fact.finish is None else fact.finish(value)
        if fact.over_passes is not None:
            value = fact.over_passes(self._before.get(request.key, 0.0), value, request.subject.latent())
            self._before[request.key] = value
        return value


class _Pass:
    """The compiled models that gather some facts, kept from pass to pass."""

    def __init__(self, model: keras.layers.Layer, requests: Sequence[FactRequest], loss: Callable[[], Loss]) -> None:
        self.compiled_for = [(request.subject.path, request.fact) for request in requests]
        self._model = model
        trained = {id(variable) for variable in model.trainable_variables}
        of_layers = [request for request in requests if not request.fact.needs_loss]
        of_loss = [request for request in requests if request.fact.needs_loss]
        derived = [request for request in of_loss if id(request.subject.kernel.variable) in trained]
        reason = UnknownFact("it is frozen (trainable=False), so it has no gradient")
        self._frozen = {request.key: reason for request in of_loss if request not in derived}
        once = [request for request in derived if request.fact.recorded != HESSIAN_GRADIENTS]
        twice = [request for request in derived if request not in once]
        self._reads: list[list[_Activations | Gradients | HessianGradients]] = [[]]  # the parts of each reading
        if of_layers:
            self._reads[0].append(_Activations(model, of_layers))
        if once:
            self._reads[0].append(Gradients(model, loss(), once))
        if twice:
            products = HessianGradients(model, loss(), twice)
            self._reads[0].append(products.first)
            self._reads.append([products])

    def over(self, data: Any) -> dict[str, Any]:
        """Read the data, and return what was recorded, by the key of its request."""
        records: dict[str, Any] = dict(self._frozen)
        for parts in self._reads:
            for part in parts:
                part.reset()
            for batch in batches(data):
                check_batch(batch, self._model)
                for part in parts:
                    part.record(batch)
            for part in parts:
                records |= part.combined()
        return records


def gather(model: keras.layers.Layer, subjects: Sequence[Subject], *, gatherer: Gatherer | None) -> Facts:
    """Return the facts that the criteria of some weights need: from the model, and from the gatherer's data."""
    facts: Facts = {subject.path: {} for subject in subjects} if gatherer is None else gatherer.gather(subjects)
    requests = requests_of(model, subjects, of_data=False)
    values = _facts_of_model(model, requests)
    for request in requests:
        facts[request.subject.path][request.fact.name] = values[request.key]
    return facts
