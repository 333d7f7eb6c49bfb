"""PruneLowMagnitude: a pruned layer that carries its schedule, as tfmot's wrapper does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfprune.base.spec import check_count
from tfprune.keras_models.models.kernels import kernels
from tfprune.keras_models.models.layers import as_numpy
from tfprune.masking.wrapping.pruned import Pruned
from tfprune.patterns import NM, Block, Pattern, Unstructured
from tfprune.tfmot.schedules import ConstantSparsity, PolynomialDecay, PruningSchedule, check_pruning_schedule

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


def pattern_of(block_size: Sequence[int], pooling: str, sparsity_m_by_n: Sequence[int] | None) -> Pattern:
    """Return the pattern that tfmot's arguments describe.

    Args:
        block_size: Inputs and outputs per block, the order of a Dense kernel's axes.
        pooling: `"AVG"` or `"MAX"`.
        sparsity_m_by_n: Zeros and length of a group, or None.

    Raises:
        ValueError: If a value is out of its range, or both blocks and groups are given.
        TypeError: If a size is not an int.

    Example:
        >>> pattern_of((4, 1), "AVG", None), pattern_of((1, 1), "AVG", (1, 4))
        (Block(rows=1, cols=4), NM(n=3, m=4))
    """
    inputs, outputs = _two_counts(block_size, "block_size")
    if pooling not in ("AVG", "MAX"):
        raise ValueError(f"Expected 'AVG' or 'MAX'. Received: block_pooling_type={pooling!r}.")
    is_block = (inputs, outputs) != (1, 1)
    if sparsity_m_by_n is not None:
        zeros, length = _two_counts(sparsity_m_by_n, "sparsity_m_by_n")
        if is_block or zeros >= length:
            raise ValueError(
                f"Expected m zeros in every n entries with m < n, and no blocks beside them. Received: "
                f"sparsity_m_by_n={sparsity_m_by_n!r}, block_size={block_size!r}."
            )
        return NM(length - zeros, length)
    if not is_block:
        return Unstructured()
    return (Block if pooling == "AVG" else MaxBlock)(outputs, inputs)


def _two_counts(value: Any, argument: str) -> tuple[int, int]:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ValueError(f"Expected two integers. Received: {argument}={value!r}.")
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
        check_pruning_schedule(pruning_schedule)
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
