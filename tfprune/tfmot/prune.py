"""Pruning under tfmot's names: wrap, strip, schedules, policies and the callback."""

from __future__ import annotations

import abc
import functools
import math
import numbers
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers

from tfprune.allocation import Weight
from tfprune.base.spec import ArgumentError, ArgumentTypeError, Spec, check_count, check_sparsity
from tfprune.masking.pruned import Pruned, holds_pruned
from tfprune.masking.strip import (
    check_way_back,
    copy_with,
    flat_copy,
    masked_sparsity,
    plain_copy,
    pruned_layers,
    waits_for_data,
    warn_if_dense,
    wrappers,
)
from tfprune.masking.update_masks import set_masks
from tfprune.masking.wrap import is_unbuilt
from tfprune.models.anatomy import Anatomy, as_numpy, check_layers, check_model, expected_kernels, kernels
from tfprune.models.graph import Call, Graph, trace
from tfprune.models.training import check_optimizer, updates_of
from tfprune.patterns import NM, Block, Pattern, Unstructured
from tfprune.schedules import Constant, Polynomial

# The schedules of tfmot under its names: a step gives a pair, whether masks are due and the sparsity.


class PruningSchedule(Spec):
    """Base class of the schedules that travel with a pruned layer. Derive your own from it.

    A schedule of your own defines `__call__` and `get_config`. Register it with Keras, so that it can be saved. It
    may return scalars of TensorFlow, as schedules written for tfmot do.

    Example:
        >>> import keras
        >>> @keras.saving.register_keras_serializable(package="mine")
        ... class Half(PruningSchedule):
        ...     def __call__(self, step):
        ...         return step >= 100, 0.5
        ...
        ...     def get_config(self):
        ...         return {}
        >>> Half()(100)
        (True, 0.5)
    """

    def __call__(self, step: Any) -> tuple[Any, Any]:
        """Return whether masks are due before the batch `step` (the first is 1), and the sparsity in [0, 1)."""
        raise NotImplementedError

    @property
    def target(self) -> float | None:
        """The final sparsity of the schedule, None if it is not known."""
        return None

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Build the schedule from its arguments, or from tfmot's form of them, which names the class too."""
        return cls(**config.get("config", config))

    def _should_prune_in_step(self, step: Any, begin_step: int, end_step: int, frequency: int) -> bool:
        """Return True if masks are due; schedules written for tfmot call this by its name there."""
        window = Constant(0.0, begin=begin_step, end=None if end_step < 0 else end_step)
        return window.last_update(int(step) - 1, int(step), frequency) is not None


def _check_pruning_schedule(value: Any) -> None:
    """Refuse everything but a `PruningSchedule`.

    Raises:
        TypeError: If it is not a `PruningSchedule`.
    """
    if not isinstance(value, PruningSchedule):
        raise ArgumentTypeError(
            "pruning_schedule",
            "a PruningSchedule, such as PolynomialDecay(0.0, 0.8, 0, 1000)",
            f"{value!r} of type {type(value).__name__}",
        )


def _steps(value: Any, argument: str, *, least: int) -> int:
    """Return a number of steps as an int; floats without a fraction are taken, as `np.ceil` gives them."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool) and float(value).is_integer():
        value = int(float(value))
    return check_count(value, argument, least=least)


def _check_order(begin_step: int, end_step: int) -> None:
    if end_step < begin_step:
        raise ArgumentError(
            "begin_step", "`end_step` at or after `begin_step`", str(begin_step), beside={"end_step": end_step}
        )


@dataclass(frozen=True)
class PolynomialDecay(PruningSchedule):
    """Raise the sparsity fast at first, then more and more slowly, until `final_sparsity` is reached exactly.

    Args:
        initial_sparsity: Sparsity at the begin, the fraction of zeros in [0, 1).
        final_sparsity: Sparsity at the end, in [0, 1).
        begin_step: Batch of the first pruning, at least 0; the first batch is 1.
        end_step: Batch of the last pruning, at or after `begin_step`; it need not be a multiple of `frequency`.
        power: Exponent, greater than 0; 1 is a straight line.
        frequency: Batches between mask updates, at least 1.

    Raises:
        ValueError: If an argument is out of its range.
        TypeError: If an argument has the wrong type.

    Example:
        >>> schedule = PolynomialDecay(0.0, 0.875, begin_step=0, end_step=1000)
        >>> schedule(500), schedule(501)[0], schedule(1000)
        ((True, 0.765625), False, (True, 0.875))

    Reference:
        Zhu & Gupta, 2017, "To prune, or not to prune", arXiv:1710.01878, equation 1.
    """

    initial_sparsity: float
    final_sparsity: float
    begin_step: int
    end_step: int
    power: float = 3
    frequency: int = 100

    def __post_init__(self) -> None:
        self._hold(
            initial_sparsity=check_sparsity(self.initial_sparsity, "initial_sparsity"),
            final_sparsity=check_sparsity(self.final_sparsity, "final_sparsity"),
            begin_step=_steps(self.begin_step, "begin_step", least=0),
            end_step=_steps(self.end_step, "end_step", least=0),
            frequency=_steps(self.frequency, "frequency", least=1),
        )
        _check_order(self.begin_step, self.end_step)
        self._hold(power=self._curve.power)

    @property
    def _curve(self) -> Polynomial:
        return Polynomial(
            self.final_sparsity,
            initial=self.initial_sparsity,
            power=self.power,
            begin=self.begin_step,
            end=self.end_step,
        )

    @property
    def target(self) -> float:
        return self.final_sparsity

    def __call__(self, step: Any) -> tuple[bool, float]:
        is_due = self._should_prune_in_step(step, self.begin_step, self.end_step, self.frequency)
        return is_due, self._curve(int(step))


@dataclass(frozen=True)
class ConstantSparsity(PruningSchedule):
    """Hold one sparsity.

    Args:
        target_sparsity: The fraction of zeros, in [0, 1).
        begin_step: Batch of the first pruning, at least 0; the first batch is 1.
        end_step: Batch of the last mask update; -1 for no end.
        frequency: Batches between mask updates, at least 1.

    Raises:
        ValueError: If an argument is out of its range.
        TypeError: If an argument has the wrong type.

    Example:
        >>> ConstantSparsity(0.5, begin_step=100)(200)
        (True, 0.5)
    """

    target_sparsity: float
    begin_step: int
    end_step: int = -1
    frequency: int = 100

    def __post_init__(self) -> None:
        self._hold(
            target_sparsity=check_sparsity(self.target_sparsity, "target_sparsity"),
            begin_step=_steps(self.begin_step, "begin_step", least=0),
            end_step=_steps(self.end_step, "end_step", least=-1),
            frequency=_steps(self.frequency, "frequency", least=1),
        )
        if self.end_step != -1:
            _check_order(self.begin_step, self.end_step)

    @property
    def target(self) -> float:
        return self.target_sparsity

    def __call__(self, step: Any) -> tuple[bool, float]:
        is_due = self._should_prune_in_step(step, self.begin_step, self.end_step, self.frequency)
        return is_due, self.target_sparsity


# PruneLowMagnitude: a pruned layer that carries its schedule, as tfmot's wrapper does.

for _schedule in (ConstantSparsity, PolynomialDecay):
    keras.saving.register_keras_serializable(package="tfprune")(_schedule)


@keras.saving.register_keras_serializable(package="tfprune")
@dataclass(frozen=True)
class MaxBlock(Block):
    """Blocks that are ranked by their largest entry instead of by their mean.

    Example:
        >>> MaxBlock(1, 2)(np.array([[1.0, 9.0, 6.0, 6.0]]), 0.5)
        array([[ True,  True, False, False]])
    """

    def __call__(self, scores: np.ndarray, sparsity: float) -> np.ndarray:
        for axis, size in ((0, self.rows), (-1, self.cols)):
            starts = np.arange(0, scores.shape[axis], size)
            peaks = np.maximum.reduceat(scores, starts, axis=axis)
            scores = np.repeat(peaks, np.diff(starts, append=scores.shape[axis]), axis=axis)
        return super().__call__(scores, sparsity)  # the mean of a block's equal entries is their value


def _pattern_of(block_size: Sequence[int], pooling: str, sparsity_m_by_n: Sequence[int] | None) -> Pattern:
    """Return the pattern that tfmot's arguments describe.

    Args:
        block_size: Inputs and outputs per block, the order of a Dense kernel's axes.
        pooling: `"AVG"` or `"MAX"`.
        sparsity_m_by_n: Zeros and length of a group, or None.

    Raises:
        ValueError: If a value is out of its range, or both blocks and groups are given.
        TypeError: If a size is not an int.

    Example:
        >>> _pattern_of((4, 1), "AVG", None), _pattern_of((1, 1), "AVG", (1, 4))
        (Block(rows=1, cols=4), NM(n=3, m=4))
    """
    inputs, outputs = _two_counts(block_size, "block_size")
    if pooling not in ("AVG", "MAX"):
        raise ArgumentError("block_pooling_type", "'AVG' or 'MAX'", repr(pooling))
    is_block = (inputs, outputs) != (1, 1)
    if sparsity_m_by_n is not None:
        zeros, length = _two_counts(sparsity_m_by_n, "sparsity_m_by_n")
        if is_block or zeros >= length:
            raise ArgumentError(
                "sparsity_m_by_n",
                "m zeros in every n entries with m < n, and no blocks beside them",
                repr(sparsity_m_by_n),
                beside={"block_size": block_size},
            )
        return NM(length - zeros, length)
    if not is_block:
        return Unstructured()
    return (Block if pooling == "AVG" else MaxBlock)(outputs, inputs)


def _two_counts(value: Any, argument: str) -> tuple[int, int]:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ArgumentError(argument, "two integers", repr(value))
    return check_count(value[0], argument, least=1), check_count(value[1], argument, least=1)


@keras.saving.register_keras_serializable(package="tfprune")
class PruneLowMagnitude(Pruned):
    """Wrap a layer so that its weights are pruned on a schedule of its own, which `UpdatePruningStep` reads.

    Args:
        layer: The layer, built or not. It is used as it is, not copied. A layer of Keras without weights to prune,
            such as an activation, may be wrapped too, without effect.
        pruning_schedule: The sparsity before each batch.
        **kwargs: Arguments of `Pruned`.

    Raises:
        TypeError: If `pruning_schedule` is not a `PruningSchedule`.
        ValueError: As `Pruned` does.
    """

    def __init__(self, layer: keras.layers.Layer, *, pruning_schedule: PruningSchedule, **kwargs: Any) -> None:
        _check_pruning_schedule(pruning_schedule)
        super().__init__(layer, **kwargs)
        self.pruning_schedule = pruning_schedule
        self.pruning_step: Any = None  # a variable, once the layer is built
        if not hasattr(type(layer), "get_prunable_weights"):
            layer.get_prunable_weights = self._pruned_weights  # where scripts that print sparsity look for it

    def build(self, input_shape: Any = None) -> None:
        super().build(input_shape)
        # The batch of the last mask update: pruning continues from it when the weights get a new optimizer.
        self.pruning_step = self.add_weight(
            name="pruning_step", shape=(), dtype="int32", initializer="zeros", trainable=False
        )

    def unlike(self, schedule: PruningSchedule | None, pattern: Pattern | None) -> str:
        """Describe the difference from a wrapper with this schedule and pattern; None stands for any."""
        pairs = {"pruning_schedule": (self.pruning_schedule, schedule), "pattern": (self.pattern, pattern)}
        return " and ".join(
            f"{name}={own!r} instead of {asked!r}"
            for name, (own, asked) in pairs.items()
            # Schedules of the user's own need not compare equal.
            if asked is not None and (type(own), own.get_config()) != (type(asked), asked.get_config())
        )

    def _pruned_weights(self) -> list[keras.Variable]:
        return [kernel.variable for kernel in self.kernels.values()]

    @property
    def prunable_weights(self) -> list[keras.Variable]:
        """The pruned weights; none before the layer is built."""
        return self._pruned_weights()

    @property
    def pruning_vars(self) -> list[tuple[keras.Variable, keras.Variable, Any]]:
        """Each pruned weight with its mask and the smallest magnitude that the mask shows; 0 where it hides none."""
        return [
            (kernel.variable, self.masks[name], _threshold(as_numpy(kernel.variable), as_numpy(self.masks[name])))
            for name, kernel in self.kernels.items()
        ]

    @property
    def block_size(self) -> tuple[int, int]:
        """Inputs and outputs of a block."""
        return (self.pattern.cols, self.pattern.rows) if isinstance(self.pattern, Block) else (1, 1)

    def call(self, *args: Any, training: bool | None = None, **kwargs: Any) -> Any:
        if training and not self.is_managed:
            raise ValueError(
                f"Expected the callback that prunes layer {self.name!r} while it trains. Received: training without "
                f"it, which would prune nothing. Pass callbacks=[UpdatePruningStep()] to fit; in a loop of your own "
                f"call its set_model and on_train_begin before the first batch. If the first batch creates a layer, "
                f"call the model on data before you train it."
            )
        return super().call(*args, training=training, **kwargs)

    def load_own_variables(self, store: dict[str, Any]) -> None:
        super().load_own_variables(store)
        self.is_managed = self.is_managed or bool(as_numpy(self.pruning_step))  # may be fine-tuned as it is

    def choose_kernels(self) -> dict[str, Any]:
        offers_none = not any(kernel.mixes_inputs for kernel in kernels(self.layer))
        if offers_none and not self.weight_names and type(self.layer).__module__.startswith("keras."):
            return {}
        return super().choose_kernels()

    def saved_variables(self) -> dict[str, keras.Variable]:
        step = self.pruning_step
        return super().saved_variables() if step is None else {**super().saved_variables(), step.name: step}

    def shares(self, sparsity: float) -> dict[str, float]:
        """Return the sparsity of each weight that leaves as many of its entries as tfmot does, by name.

        tfmot rounds the number of entries kept, half to even, in single precision. With groups of m zeros in n, every
        group has its zeros when the schedule ends, whatever its final sparsity is.
        """
        return {name: self._share(kernel.matrix_shape, sparsity) for name, kernel in self.kernels.items()}

    def _share(self, shape: tuple[int, ...], sparsity: float) -> float:
        if isinstance(self.pattern, NM):
            target = self.pruning_schedule.target
            return (min(sparsity / target, 1.0) if target else 1.0) * (1 - self.pattern.n / self.pattern.m)
        if isinstance(self.pattern, Block):
            shape = (-(-shape[0] // self.pattern.rows), *shape[1:-1], -(-shape[-1] // self.pattern.cols))
        units = math.prod(shape)
        count = np.rint(np.float32(units) * (np.float32(1) - np.float32(sparsity)))
        return 1 - max(int(count), 1) / units

    def around(self, layer: keras.layers.Layer, **arguments: Any) -> Pruned:
        """Return such a wrapper, with other arguments where some are given, around a layer."""
        return super().around(layer, **{"pruning_schedule": self.pruning_schedule, **arguments})

    def settings(self) -> dict[str, Any]:
        schedule = keras.saving.serialize_keras_object(self.pruning_schedule)
        return {**super().settings(), "pruning_schedule": schedule}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Pruned:
        schedule = keras.saving.deserialize_keras_object(config["pruning_schedule"], custom_objects=custom_objects)
        return super().from_config({**config, "pruning_schedule": schedule}, custom_objects)


def _threshold(weight: np.ndarray, mask: np.ndarray) -> Any:
    smallest = 0.0 if mask.all() else np.abs(weight[mask]).min()
    return keras.ops.convert_to_tensor(smallest, dtype=str(weight.dtype))


# Policies of tfmot: which layers of a model to prune, and which models not to prune at all.

_ALWAYS = (
    layers.Add,
    layers.Multiply,
    layers.ZeroPadding2D,
    layers.ReLU,
    layers.LeakyReLU,
    layers.ELU,
    layers.Dropout,
)
_ACTIVATIONS = ("relu", "relu6", "leaky_relu", "elu", "sigmoid")
_OPERATIONS = ("Add", "Identity", "Multiply", "Subtract")  # of tensors, as in x + y


class PruningPolicy(abc.ABC):
    """Base class of all policies. Derive your own from it.

    Example:
        >>> class DenseOnly(PruningPolicy):
        ...     def allow_pruning(self, layer):
        ...         return isinstance(layer, keras.layers.Dense)
        ...
        ...     def ensure_model_supports_pruning(self, model):
        ...         pass
        >>> DenseOnly().allow_pruning(keras.layers.Flatten())
        False
    """

    @abc.abstractmethod
    def allow_pruning(self, layer: keras.layers.Layer) -> bool:
        """Return True if a layer of the model is to be pruned."""

    @abc.abstractmethod
    def ensure_model_supports_pruning(self, model: keras.Model) -> None:
        """Raise a ValueError for a model that cannot be pruned for the policy's purpose."""


class PruneForLatencyOnXNNPack(PruningPolicy):
    """Prune only the 1x1 convolutions of models that XNNPACK can run with its sparse kernels.

    The sparse part of a model starts after a 3x3 convolution of 3 input channels with strides of 2, which follows a
    zero padding of 1, and ends at a global average pooling. All layers between them have to be supported.

    Example:
        >>> policy = PruneForLatencyOnXNNPack()
        >>> policy.allow_pruning(layers.Conv2D(8, 1)), policy.allow_pruning(layers.Conv2D(8, 3))
        (True, False)

    Reference:
        Elsen et al., 2019, "Fast Sparse ConvNets", arXiv:1911.09723.
    """

    def allow_pruning(self, layer: keras.layers.Layer) -> bool:
        return isinstance(layer, layers.Conv2D) and layer.kernel_size == (1, 1)

    def ensure_model_supports_pruning(self, model: keras.Model) -> None:
        """Raise a ValueError that names the layer at fault if a model does not have this form.

        The layers of nested models are checked as if they were layers of the model itself.
        """
        graph = trace(flat_copy(Anatomy.of(Anatomy.of(model).graph or model)).model)
        entries = [call for call in graph.calls if any(graph.producer(tensor) is None for tensor in call.inputs)]
        starts = _frontier(entries, graph.consumers, lambda call: _is_stem(call.layer, _before(graph, call)))
        if not starts:
            raise ValueError(
                f"Expected every input of {model.name!r} to lead to ZeroPadding2D(1) and a Conv2D of 3 channels with "
                f"kernel_size=3, strides=2, padding='valid'. Received: one that does not."
            )
        exits = [call for call in graph.calls if graph.is_output(call)]
        ends = _frontier(exits, lambda call: _producers(graph, call), _is_pool)
        if not ends:
            raise ValueError(
                f"Expected every output of {model.name!r} to come from a GlobalAveragePooling2D. Received: one that "
                f"does not."
            )

        def is_end(call: Call) -> bool:
            if call not in ends and not _is_supported(call.layer, _before(graph, call)):
                raise ValueError(
                    f"Expected layers that run on XNNPACK's sparse kernels. Received: {call.layer.name!r} of type "
                    f"{type(call.layer).__name__} in {model.name!r}."
                )
            return call in ends

        _frontier([reader for call in starts for reader in graph.consumers(call)], graph.consumers, is_end)


def _producers(graph: Graph, call: Call) -> list[Call]:
    return [producer for tensor in call.inputs if (producer := graph.producer(tensor)) is not None]


def _before(graph: Graph, call: Call) -> list[Any]:
    """Return the layers and operations whose outputs a call takes."""
    return [producer.layer for producer in _producers(graph, call)]


def _frontier(
    sources: Iterable[Call], following: Callable[[Call], list[Call]], stops: Callable[[Call], bool]
) -> set[Call]:
    """Follow every path from the sources to the first call that stops it; an empty set if a path ends before."""
    ahead, seen, stopped = list(sources), set(sources), set()
    while ahead:
        call = ahead.pop()
        if stops(call):
            stopped.add(call)
            continue
        neighbors = following(call)
        if not neighbors:
            return set()
        ahead += [neighbor for neighbor in neighbors if neighbor not in seen]
        seen.update(neighbors)
    return stopped


def _is_pool(call: Call) -> bool:
    return isinstance(call.layer, layers.GlobalAveragePooling2D)


def _is_stem(layer: Any, before: list[Any]) -> bool:
    return (
        isinstance(layer, layers.Conv2D)
        and tuple(layer.kernel.shape[:3]) == (3, 3, 3)
        and layer.strides == (2, 2)
        and layer.padding == "valid"
        and _zero_padding(before) == 1
    )


def _zero_padding(before: list[Any]) -> int | None:
    """Return the zeros that the only layer before adds on every side; None if the sides differ."""
    if len(before) != 1 or not isinstance(before[0], layers.ZeroPadding2D):
        return None
    sizes = {size for side in before[0].padding for size in side}
    return sizes.pop() if len(sizes) == 1 else None


def _is_supported_depthwise(layer: Any, before: list[Any]) -> bool:
    is_plain = layer.depth_multiplier == 1 and layer.dilation_rate == (1, 1)
    if layer.kernel_size not in ((3, 3), (5, 5)) or not is_plain:
        return False
    if layer.padding == "same":
        return layer.strides == (1, 1)
    return layer.strides in ((1, 1), (2, 2)) and _zero_padding(before) == layer.kernel_size[0] // 2


_RULES: dict[type, Callable[[Any, list[Any]], bool]] = {
    layers.DepthwiseConv2D: _is_supported_depthwise,
    layers.Conv2D: lambda layer, before: (
        layer.kernel_size == layer.strides == layer.dilation_rate == (1, 1) and layer.groups == 1
    ),
    layers.GlobalAveragePooling2D: lambda layer, before: layer.keepdims,
    layers.BatchNormalization: lambda layer, before: layer.axis in (-1, 3),
    layers.UpSampling2D: lambda layer, before: layer.interpolation == "bilinear",
    layers.Activation: lambda layer, before: keras.activations.serialize(layer.activation) in _ACTIVATIONS,
}


def _is_supported(layer: Any, before: list[Any]) -> bool:
    if not isinstance(layer, keras.layers.Layer):
        return type(layer).__name__ in _OPERATIONS
    if isinstance(layer, _ALWAYS):
        return True
    return any(isinstance(layer, kind) and rule(layer, before) for kind, rule in _RULES.items())


# Wrap, strip and load under the names of tensorflow-model-optimization.

_DEFAULT = ConstantSparsity(0.5, 0)


def prune_low_magnitude(
    to_prune: Any,
    pruning_schedule: PruningSchedule = _DEFAULT,
    block_size: Sequence[int] = (1, 1),
    block_pooling_type: str = "AVG",
    pruning_policy: PruningPolicy | None = None,
    sparsity_m_by_n: Sequence[int] | None = None,
    **kwargs: Any,
) -> Any:
    """Wrap a model, a layer or a list of layers so that small weights become zero while it trains.

    Args:
        to_prune: A model, of which an uncompiled copy is returned, or a layer or a list of layers, which are
            wrapped as they are. Layers of a model or a list that cannot be pruned, or are pruned already, are left as
            they are. If all are pruned already with another schedule or pattern, it warns. A single layer that is
            pruned with the same schedule and pattern is returned.
        pruning_schedule: The sparsity before each batch, and how often masks are updated.
        block_size: Inputs and outputs of a block; zeros come in whole blocks.
        block_pooling_type: The score of a block: the mean (`"AVG"`) or the largest (`"MAX"`) of its magnitudes.
        pruning_policy: Chooses the layers of a model to prune; None takes all.
        sparsity_m_by_n: m zeros in every n consecutive inputs; the schedule decides when, and in how many groups.
        **kwargs: Arguments of the wrapper, for a single layer only.

    Returns:
        The wrapped copy, layer or list. A wrapper has its layer's name.

    Raises:
        ValueError: If `to_prune` is not a model, layer or list of layers.
        ValueError: If a model cannot be copied, is refused by the policy or, without a policy, has nothing to prune.
        ValueError: If a layer cannot be pruned, or is pruned already in another way.
        ValueError: If arguments exclude each other.
        TypeError: If another argument has the wrong type.

    Example:
        >>> from tfprune.tfmot import PolynomialDecay
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="hidden")])
        >>> schedule = PolynomialDecay(0.0, 0.75, begin_step=0, end_step=200)
        >>> prune_low_magnitude(model, pruning_schedule=schedule).get_layer("hidden").pruning_schedule == schedule
        True
    """
    pattern = _pattern_of(block_size, block_pooling_type, sparsity_m_by_n)
    _check_pruning_schedule(pruning_schedule)

    def wrapped(layer: keras.layers.Layer, **arguments: Any) -> PruneLowMagnitude:
        return PruneLowMagnitude(layer, pattern=pattern, pruning_schedule=pruning_schedule, **arguments)

    if isinstance(to_prune, keras.layers.Layer) and not isinstance(to_prune, keras.Model):
        if not isinstance(to_prune, PruneLowMagnitude):
            return wrapped(to_prune, **kwargs)
        _check_alike(to_prune, pattern, pruning_schedule)
        return to_prune
    if kwargs:
        raise ValueError(f"Expected other arguments with a single layer only. Received: {', '.join(kwargs)}.")
    if isinstance(to_prune, (list, tuple)):
        if all(isinstance(part, (Pruned, keras.layers.InputLayer)) for part in to_prune):
            _warn_if_unlike(to_prune, pattern, pruning_schedule)
        return [part if isinstance(part, (Pruned, keras.layers.InputLayer)) else wrapped(part) for part in to_prune]
    if not isinstance(to_prune, keras.Model):
        raise ValueError(f"Expected a Keras model, layer or list of layers. Received: {type(to_prune).__name__}.")
    if pruning_policy is not None:
        pruning_policy.ensure_model_supports_pruning(to_prune)
    anatomy = Anatomy.of(to_prune)
    (check_layers if is_unbuilt(to_prune) else check_model)(anatomy)
    names = _names_to_prune(anatomy, pattern, pruning_policy)
    copy = copy_with(anatomy, lambda path, layer: wrapped(layer, weights=names[path]) if path in names else None)
    check_way_back(Anatomy.of(copy))
    if not names:
        _warn_if_unlike([layer for _, layer in wrappers(to_prune)], pattern, pruning_schedule)
    if not holds_pruned(copy):
        _report_nothing(copy, pruning_policy)
    return copy


def _check_alike(layer: PruneLowMagnitude, pattern: Pattern, schedule: PruningSchedule) -> None:
    """Refuse a pruned layer that has another schedule or pattern."""
    difference = layer.unlike(schedule, pattern)
    if difference:
        raise ValueError(
            f"Expected a layer that is not pruned yet, or in the same way. Received: layer {layer.name!r}, which is "
            f"wrapped already, with {difference}. Use the wrapper that there is, or wrap the plain layer, "
            f"`wrapper.layer`."
        )


def _warn_if_unlike(layers: Iterable[Any], pattern: Pattern, schedule: PruningSchedule) -> None:
    """Warn if one of the layers, all pruned already, has another schedule or pattern than the user passed."""
    asked = None if schedule is _DEFAULT else schedule, None if pattern == Unstructured() else pattern
    differences = ((layer.name, layer.unlike(*asked)) for layer in layers if isinstance(layer, PruneLowMagnitude))
    name, difference = next((pair for pair in differences if pair[1]), ("", ""))
    if difference:
        warnings.warn(
            f"Layers that are pruned already are left as they are: {name!r} has {difference}. To prune them anew, "
            f"pass strip_pruning(model).",
            stacklevel=3,
        )


def _names_to_prune(anatomy: Anatomy, pattern: Pattern, policy: PruningPolicy | None) -> dict[str, list[str] | None]:
    """Return the weights of a model to prune, by the path of their layer; None if the wrapper has to find them."""
    find, is_open = (expected_kernels, True) if is_unbuilt(anatomy.model) else (kernels, False)
    names_by_path: dict[str, list[str] | None] = {}
    for path, layer in anatomy.leaves:
        if isinstance(layer, keras.Model) or holds_pruned(layer):
            continue
        if policy is not None and not policy.allow_pruning(layer):
            continue
        names = [kernel.path for kernel in find(layer) if kernel.mixes_inputs and kernel.takes(pattern)]
        if names:
            names_by_path[path] = None if is_open else names
    return names_by_path


def _report_nothing(model: keras.Model, policy: PruningPolicy | None) -> None:
    """Refuse a model of which nothing is wrapped; with a policy, which may intend it, warn."""
    if policy is None:
        raise ValueError(
            f"Expected a model with weights that can be pruned. Received: {model.name!r}, of which the pattern and "
            f"the kinds of its layers leave none. Name the weights of your layers with tfprune.register_prunable."
        )
    warnings.warn(
        f"Nothing of {model.name!r} will be pruned: {type(policy).__name__} and the pattern leave none of its "
        f"layers.",
        stacklevel=3,
    )


def strip_pruning(model: keras.Model) -> keras.Model:
    """Return a plain, uncompiled copy of a model without wrappers, the pruned entries zero.

    Args:
        model: A model that `prune_low_magnitude` returned, or that has layers which it wrapped.

    Raises:
        ValueError, TypeError: As `tfprune.strip` does.

    Example:
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> type(strip_pruning(prune_low_magnitude(model)).layers[0]).__name__
        'Dense'
    """
    copy = plain_copy(Anatomy.of(model))
    warn_if_dense(model)
    return copy


def prune_scope() -> AbstractContextManager[Any]:
    """Return a scope to load pruned models in. They load without it too, once tfprune is imported.

    Example:
        >>> model = prune_low_magnitude(keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)]))
        >>> model.save("pruned.keras")
        >>> with prune_scope():
        ...     model = keras.models.load_model("pruned.keras")
    """
    return keras.saving.custom_object_scope({"PruneLowMagnitude": PruneLowMagnitude})


# The callback of tensorflow-model-optimization: each layer on its own schedule.


class UpdatePruningStep(keras.callbacks.Callback):
    """Update the masks of layers that `prune_low_magnitude` wrapped, each on its own schedule.

    Steps are optimizer updates; the first batch is step 1, and masks are updated before the batch. A schedule that
    begins at step 0 begins with the first batch. With a new optimizer, each layer continues from its last mask
    update. If the first batch builds the model, its mask update is done at the end of that batch.

    In your own training loop, call `set_model(model)` with a model that has an `optimizer`, then `on_train_begin()`,
    and `on_train_batch_begin(batch)` before each batch. In `fit`, the sparsity is added to the logs.

    Example:
        >>> from tfprune.tfmot import prune_low_magnitude
        >>> model = prune_low_magnitude(keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)]))
        >>> model.compile("sgd", "mse")
        >>> x = keras.ops.ones((32, 8))
        >>> history = model.fit(x, x[:, :1], callbacks=[UpdatePruningStep()], verbose=0)
        >>> history.history["sparsity"]
        [0.5]
    """

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._layers: dict[str, PruneLowMagnitude] = {}
        self._offsets: dict[str, int] = {}
        self._sparsity: float | None = None
        for _, layer in wrappers(self.model):
            layer.is_managed = True
        optimizer = getattr(self.model, "optimizer", None)
        if optimizer is None:
            raise ValueError(
                f"Expected a model with an optimizer, whose updates are counted. Received: {self.model.name!r}, "
                f"which has none. Set model.optimizer = optimizer first, or compile the model."
            )
        check_optimizer(optimizer)
        self._seen = updates_of(optimizer)
        self._is_waiting = waits_for_data(self.model)
        if not self._is_waiting:
            self._start()

    def _start(self) -> None:
        """Find the layers, and the step from which each continues."""
        self._is_waiting = False
        if not wrappers(self.model):
            warnings.warn(
                f"Nothing will be pruned: model {self.model.name!r} has no pruned layers. Train the model that "
                f"prune_low_magnitude(model) returns.",
                stacklevel=2,
            )
            return
        layers = pruned_layers(self.model)
        self._layers = {path: layer for path, layer in layers if isinstance(layer, PruneLowMagnitude)}
        if not self._layers:
            raise ValueError(
                f"Expected layers with a schedule. Received: {self.model.name!r}, which tfprune.wrap made. Use "
                f"tfprune.PruningCallback(schedule), or prune_low_magnitude instead of wrap."
            )
        # The last mask update may belong to a batch that is not counted yet; further off, the optimizer is a new one.
        ahead = {path: int(as_numpy(layer.pruning_step)) - self._seen for path, layer in self._layers.items()}
        self._offsets = {path: steps if steps > 1 else 0 for path, steps in ahead.items()}

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Update the masks that are due before the next optimizer update."""
        if not self._is_waiting or not waits_for_data(self.model):
            self._update(updates_of(self.model.optimizer) + 1)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Do the mask update of the first batch if this batch has built the model."""
        if self._is_waiting:
            self._update(updates_of(self.model.optimizer))

    def _update(self, step: int) -> None:
        if self._is_waiting:
            self._start()
        seen, self._seen = self._seen, step
        shares: dict[str, float] = {}
        is_last = False
        for path, layer in self._layers.items():
            first, now = seen + self._offsets[path], step + self._offsets[path]
            due = _last_due(layer.pruning_schedule, first or -1, now)
            if due is not None:
                is_last |= due == getattr(layer.pruning_schedule, "end_step", None)
                sparsity = float(layer.pruning_schedule(due)[1])
                layer.pruning_step.assign(now)
                shares.update({f"{path}/{name}": share for name, share in layer.shares(sparsity).items()})
        if shares:
            split = functools.partial(_split, shares)
            set_masks(self.model, 0.0, allocation=split, regrow=not is_last)
            self._sparsity = masked_sparsity(self.model)

    def on_epoch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Put the sparsity into the logs; the first argument has the name it has in tfmot."""
        if logs is not None and self._sparsity is not None:
            logs["sparsity"] = self._sparsity

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        steps = {path: self._seen + offset for path, offset in self._offsets.items()}
        ends = {path: getattr(layer.pruning_schedule, "end_step", -1) for path, layer in self._layers.items()}
        early = [f"{path} (batch {steps[path]} of {end})" for path, end in ends.items() if end > steps[path]]
        if early:
            warnings.warn(
                f"Training ended before the pruning schedules of these layers did, and their final sparsity is not "
                f"reached: {', '.join(early)}. Train longer, or let the schedules end earlier.",
                stacklevel=2,
            )


def _last_due(schedule: PruningSchedule, previous: int, step: int) -> int | None:
    """Return the last step in (previous, step] at which masks are due, None if there is none."""
    return next((number for number in range(step, previous, -1) if bool(schedule(number)[0])), None)


def _split(shares: dict[str, float], weights: Sequence[Weight], sparsity: float) -> list[float | None]:
    return [shares.get(weight.path) for weight in weights]
