"""TrainingCost: the multiply-adds of training so far, compared with dense training."""

from __future__ import annotations

import math
from typing import Any

import keras

from tfprune.base.renamed import renamed
from tfprune.keras_models.models.kernels import Kernel
from tfprune.masking.training.grow import GRADIENT
from tfprune.masking.training.pruning_callback import PruningCallback
from tfprune.masking.wrapping.masked_weights import count_kept
from tfprune.masking.wrapping.pruned import Pruned
from tfprune.masking.wrapping.pruned_layers import pruned_layers

_TRANSPOSED = (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose)


@renamed()
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
        ValueError: When training begins, if the multiply-adds of a weight are not known: the shapes are not, or the
            layer has several kernels and is not recurrent.

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
        self._counted: Any = None
        self._dense = self._forward = 0  # nothing is counted yet
        self._spent = self._dense_spent = 0.0

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        update = self.pruning.last_update
        if self._dense and update == self._counted:
            return
        dense, sparse = _multiply_adds(self.model)
        grow = update and update[1]
        if self._dense and grow and grow.by == GRADIENT and grow.fraction:
            self._spent += 2 * self._forward + dense  # the masks before the update
        self._counted, self._dense, self._forward = update, dense, sparse

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._spent += 3 * self._forward
        self._dense_spent += 3 * self._dense

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is not None:
            logs["training_cost"] = self._spent / self._dense_spent


def _multiply_adds(model: keras.Model) -> tuple[int, int]:
    """Return the multiply-adds of one sample's forward pass of the weights under masks: dense, and without zeros."""
    dense = sparse = 0
    for path, layer in pruned_layers(model):
        for name, kernel in layer.kernels.items():
            uses = _uses(layer, kernel)
            if uses is None:
                raise ValueError(
                    f"Expected weights whose multiply-adds are known. Received: {path}/{name}, of "
                    f"{type(layer.layer).__name__}. Leave out TrainingCost, or leave out the weight with `filters`."
                )
            dense += math.prod(kernel.variable.shape) * uses
            sparse += count_kept(layer.masks[name]) * uses
    return dense, sparse


def _uses(layer: Pruned, kernel: Kernel) -> int | None:
    """Return how often an entry of a weight is multiplied for one sample, None if it is not known."""
    inner = layer.layer
    if isinstance(inner, keras.layers.Embedding):
        return 0
    try:
        input_shape, output_shape = tuple(layer.input.shape[1:]), tuple(layer.output.shape[1:])
    except (AttributeError, ValueError):  # it was not called on symbolic tensors, or takes several
        return None
    if isinstance(inner, (keras.layers.RNN, keras.layers.Bidirectional)):
        return input_shape[0]
    if None in (*input_shape, *output_shape) or len(layer.kernels) > 1 or not kernel.mixes_inputs:
        return None
    outputs, inputs = kernel.matrix_shape[0], kernel.matrix_shape[-1]
    return math.prod(input_shape) // inputs if isinstance(inner, _TRANSPOSED) else math.prod(output_shape) // outputs
