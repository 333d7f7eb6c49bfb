"""TrainingCost: the multiply-adds of training so far, compared with dense training."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import keras

from tfprune.keras_models.models.anatomy import kind_of
from tfprune.keras_models.models.graph import functional, retrace
from tfprune.keras_models.models.kernels import Kernel
from tfprune.masking.training.grow import GRADIENT
from tfprune.masking.training.pruning_callback import PruningCallback
from tfprune.masking.wrapping.masked_weights import count_kept
from tfprune.masking.wrapping.pruned import Pruned
from tfprune.masking.wrapping.pruned_layers import pruned_layers

Shape = tuple[Any, ...]  # None where a size is open
Calls = dict[int, list[tuple[list[Shape], list[Shape]]]]  # by the id of a layer: shapes of inputs and outputs

_TRANSPOSED = (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose)


class TrainingCost(keras.callbacks.Callback):
    """Report the multiply-adds of training so far, as a fraction of those of dense training, while `model.fit` runs.

    Use it to compare ways to train sparse models. The fraction is in `logs` as `training_cost` at the end of each
    epoch, and so in `History`. It is the cost in a runtime whose kernels skip zeros; Keras computes with them.

    A step counts as one forward pass and a backward pass of twice its size, in which zeros cost nothing, over the
    weights under masks. A mask update that adds entries by gradient counts as one more step, in which the gradients
    of the weights are dense: pass one batch as `data`.

    Args:
        pruning: The `PruningCallback` of the same fit. List it before this callback.

    Raises:
        TypeError: If `pruning` is not a `PruningCallback`.
        ValueError: When training begins, if the multiply-adds of a weight are not known: the shapes are not, the
            layer has several kernels and is not recurrent, or it is a convolution and recurrent.

    Example:
        >>> from tfprune import schedules, wrap
        >>> model = wrap(keras.Sequential([keras.Input((8,)), keras.layers.Dense(10)]))
        >>> model.compile("sgd", "mse")
        >>> pruning = PruningCallback(schedules.Constant(0.75), grow="random", every=2)
        >>> x = keras.ops.ones((32, 8))
        >>> model.fit(x, x[:, :1], callbacks=[pruning, TrainingCost(pruning)], verbose=0).history["training_cost"]
        [0.25]

    Reference:
        Evci et al., 2020, "Rigging the Lottery", arXiv:1911.11134, appendix H.
    """

    def __init__(self, pruning: PruningCallback) -> None:
        super().__init__()
        if not isinstance(pruning, PruningCallback):
            raise TypeError(
                f"Expected the PruningCallback of the same fit. Received: pruning={pruning!r} of type "
                f"{type(pruning).__name__}."
            )
        self.pruning = pruning

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._uses: dict[str, int] | None = None  # the first batch may build the model
        self._counted: Any = None
        self._dense = self._forward = 0  # nothing is counted yet
        self._spent = self._dense_spent = 0.0

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._first = batch
        self._read_masks()

    def _read_masks(self) -> None:
        """Count what a step costs with the masks of now, and the update that made them."""
        update = self.pruning.last_update
        if self._uses is not None and update == self._counted:
            return
        is_counted, self._uses = self._uses is not None, self._uses or _uses_by_path(self.model)
        dense, sparse = _multiply_adds(self.model, self._uses)
        grow = update and update[1]
        if is_counted and grow and grow.by == GRADIENT and grow.fraction:
            self._spent += 2 * self._forward + dense  # the masks before the update
        self._counted, self._dense, self._forward = update, dense, sparse

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        steps = min(batch + 1, self.params.get("steps") or math.inf) - self._first  # of one execution
        self._spent += 3 * self._forward * steps
        self._dense_spent += 3 * self._dense * steps
        self._read_masks()  # after the last batch, no other one would

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is not None:
            logs["training_cost"] = self._spent / self._dense_spent


def _multiply_adds(model: keras.Model, uses: dict[str, int]) -> tuple[int, int]:
    """Return the multiply-adds of one sample's forward pass of the weights under masks: dense, and without zeros."""
    dense = sparse = 0
    for path, layer in pruned_layers(model):
        for name, kernel in layer.kernels.items():
            dense += math.prod(kernel.variable.shape) * uses[f"{path}/{name}"]
            sparse += count_kept(layer.masks[name]) * uses[f"{path}/{name}"]
    return dense, sparse


def _uses_by_path(model: keras.Model) -> dict[str, int]:
    """Return how often an entry of each weight under a mask is multiplied for one sample, by the weight's path.

    Raises:
        ValueError: If it is not known.
    """
    calls, uses = _calls(model), {}
    for path, layer in pruned_layers(model):
        for name, kernel in layer.kernels.items():
            counts = [_uses(layer, kernel, *shapes) for shapes in calls[id(layer)]]
            if not counts or None in counts:
                raise ValueError(
                    f"Expected weights whose multiply-adds are known. Received: {path}/{name}, of "
                    f"{type(layer.layer).__name__}. Leave out TrainingCost, or leave out the weight with `filters`."
                )
            uses[f"{path}/{name}"] = sum(filter(None, counts))
    return uses


def _calls(model: keras.Model) -> Calls:
    """Return the shapes in each call of a layer, also in nested models, without the axis of samples."""
    calls: Calls = defaultdict(list)

    def shapes(structure: Any) -> list[Shape]:
        tensors = [leaf for leaf in keras.tree.flatten(structure) if isinstance(leaf, keras.KerasTensor)]
        return [tuple(tensor.shape[1:]) for tensor in tensors]

    def record(layer: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = layer(*args, **kwargs)
        if kind_of(layer).has_graph:
            inputs = [keras.Input(batch_shape=each.shape, dtype=each.dtype) for each in keras.tree.flatten(args)]
            inner = functional(layer)
            retrace(inner, record, inputs=keras.tree.pack_sequence_as(inner.input, inputs))
        else:
            calls[id(layer)].append((shapes((args, kwargs)), shapes(outputs)))
        return outputs

    if kind_of(model).has_graph:
        retrace(functional(model), record)
    return calls


def _uses(layer: Pruned, kernel: Kernel, inputs: list[Shape], outputs: list[Shape]) -> int | None:
    """Return how often an entry of a weight is multiplied for one sample in a call, None if it is not known."""
    inner = layer.layer
    if isinstance(inner, keras.layers.Embedding):
        return 0
    if len(inputs) != 1 or len(outputs) != 1:
        return None
    if isinstance(inner, (keras.layers.RNN, keras.layers.Bidirectional)):
        return inputs[0][0] if len(kernel.variable.shape) == 2 else None
    in_steps = isinstance(inner, keras.layers.TimeDistributed)
    if in_steps and isinstance(inner.layer, (keras.layers.RNN, keras.layers.Bidirectional)):
        return None
    if None in (*inputs[0], *outputs[0]) or len(layer.kernels) > 1 or not kernel.mixes_inputs:
        return None
    if isinstance(inner.layer if in_steps else inner, _TRANSPOSED):
        return math.prod(inputs[0]) // kernel.matrix_shape[-1]
    return math.prod(outputs[0]) // kernel.matrix_shape[0]
