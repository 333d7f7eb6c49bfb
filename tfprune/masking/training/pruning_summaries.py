"""Summaries of training: the sparsity of a model, overall and of each weight, in TensorBoard."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import keras

from tfprune.base.spec import check_count
from tfprune.masking.wrapping.pruned_layers import pruned_layers, waits_for_data
from tfprune.masking.wrapping.sparsity_report import sparsity_report


class PruningSummaries(keras.callbacks.TensorBoard):
    """Write the sparsity, overall and of each pruned weight, beside all that `keras.callbacks.TensorBoard` writes.

    The names are `epoch_sparsity` and `epoch_sparsity/<path of the weight>`, or `batch_...`, in the event files of
    training. An epoch has the sparsity at its end, a batch the sparsity that it was trained with. The order of this
    callback and `PruningCallback` in the list does not matter.

    Args:
        log_dir: The folder of the event files.
        update_freq: `"epoch"`, `"batch"`, or the number of batches, at least 1, after which values are also written.
            Each time costs a pass over the weights, which counts the zeros.
        **kwargs: Other arguments of `keras.callbacks.TensorBoard`.

    Raises:
        TypeError: If `log_dir` is not a path, or `update_freq` is neither a string nor an int.
        ValueError: If `log_dir` is missing, `update_freq` is out of range, or the package tensorboard is not
            installed; when training begins, if the model has no pruned layers.

    Example:
        >>> from tfprune import PruningCallback, schedules, wrap
        >>> model = wrap(keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)]))
        >>> model.compile("sgd", "mse")
        >>> callbacks = [PruningCallback(schedules.Polynomial(0.5, end=0.75)), PruningSummaries("logs")]
        >>> x = keras.ops.ones((32, 8))
        >>> history = model.fit(x, x[:, :1], callbacks=callbacks, verbose=0)
    """

    def __init__(self, log_dir: str | Path = "", update_freq: str | int = "epoch", **kwargs: Any) -> None:
        if log_dir is None or log_dir == "":
            raise ValueError(
                f"Expected `log_dir`, the folder of the event files. Received: log_dir={log_dir!r}. Pass a path, for "
                f"example log_dir='logs'."
            )
        if not isinstance(log_dir, (str, os.PathLike)):
            raise TypeError(
                f"Expected `log_dir` to be a path. Received: log_dir={log_dir!r} of type {type(log_dir).__name__}."
            )
        if isinstance(update_freq, str):
            if update_freq not in ("epoch", "batch"):
                raise ValueError(
                    f"Expected `update_freq` to be 'epoch', 'batch' or a number of batches. Received: "
                    f"update_freq={update_freq!r}."
                )
        else:
            update_freq = check_count(update_freq, "update_freq", least=1)
        if importlib.util.find_spec("tensorboard") is None:  # Keras would find out in the middle of the first epoch
            raise ValueError(
                'Expected the package tensorboard. Received: not installed. Run pip install "tfprune[tensorboard]".'
            )
        super().__init__(log_dir, update_freq=update_freq, **kwargs)
        self._batch_count = 0
        self._of_batch: dict[str, float] = {}

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        if not waits_for_data(self.model):
            pruned_layers(self.model)
        self._batch_count = 0
        super().on_train_begin(logs)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_train_batch_begin(batch, logs)
        self._batch_count += 1
        is_written = self.update_freq != "epoch" and self._batch_count % self.update_freq == 0
        # Counted here because the masks at the batch's end depend on which callback is listed first.
        self._of_batch = self._sparsities() if is_written else {}

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_train_batch_end(batch, {**(logs or {}), **self._of_batch})

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_epoch_end(epoch, {**(logs or {}), **self._sparsities()})

    def _sparsities(self) -> dict[str, float]:
        report = sparsity_report(self.model)
        return {"sparsity": report.sparsity, **{f"sparsity/{row.path}": row.sparsity for row in report.rows}}
