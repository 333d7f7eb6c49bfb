"""The end of a fit: what it warns of, and which of the other callbacks brought back weights of an earlier epoch."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import keras

from tfprune.masking.training.check_before_training import NOTICEABLE

_NOT_THE_USERS = ("keras", "tfprune")


def callbacks_of_fit(callback: keras.callbacks.Callback) -> list[keras.callbacks.Callback]:
    """Return the list of callbacks that Keras is going through; empty if Keras did not call this one.

    Keras tells a callback nothing about the others, so they are looked up in the calls that led here. What is
    appended to the list at the end of training is called after all others.
    """
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, keras.callbacks.CallbackList) and any(each is callback for each in caller.callbacks):
            return caller.callbacks
        frame = frame.f_back
    return []


def ended_early(step: int, *, end: float, sparsity: float, target: float) -> str:
    """Return the warning that training ended before the schedule did."""
    return (
        f"Training ended at step {step}, before the pruning schedule did at step {end}: the sparsity is "
        f"{sparsity:.4f} instead of {target:.4f}. Train longer, or let the schedule end earlier (end=0.7 ends it "
        f"after 70 % of the fit)."
    )


def restored_weights(
    callbacks: Sequence[keras.callbacks.Callback], *, sparsity: float, reached: float, epoch: int
) -> str:
    """Return the warning that a callback brought back weights with fewer zeros.

    Args:
        callbacks: All callbacks of the fit.
        sparsity: The sparsity after it, counted.
        reached: The sparsity that the last mask update left.
        epoch: The first epoch with the final sparsity, from 0.
    """
    return (
        f"{_who_restored(callbacks)}: the sparsity is {sparsity:.4f} instead of {reached:.4f}, which training had "
        f"reached. To keep only epochs with the final sparsity, pass start_from_epoch={epoch} to EarlyStopping; "
        f"other callbacks should ignore the epochs before."
    )


def _who_restored(callbacks: Sequence[keras.callbacks.Callback]) -> str:
    stopping = [
        each
        for each in callbacks
        if isinstance(each, keras.callbacks.EarlyStopping) and each.restore_best_weights and each.best_weights
    ]
    if stopping:
        return " and ".join(
            f"{type(each).__name__} brought back the weights of epoch {each.best_epoch + 1}" for each in stopping
        )
    names = [type(each).__name__ for each in callbacks if type(each).__module__.split(".")[0] not in _NOT_THE_USERS]
    return f"{' or '.join(names) or 'Another callback'} brought back weights of an earlier epoch"


def sparse_too_late(callbacks: Sequence[keras.callbacks.Callback], *, reached: float, epoch: int) -> list[str]:
    """Return a warning for each best checkpoint of an epoch with fewer zeros than training has reached.

    Args:
        callbacks: All callbacks of the fit.
        reached: The sparsity that the last mask update left.
        epoch: The first epoch with the final sparsity, from 0.
    """
    notes = []
    history = next((each for each in callbacks if isinstance(each, keras.callbacks.History)), None)
    for each in callbacks:
        if not (history and isinstance(each, keras.callbacks.ModelCheckpoint) and each.save_best_only):
            continue
        rows = zip(
            history.epoch, history.history.get(each.monitor, []), history.history.get("sparsity", []), strict=False
        )
        best = next(((number, sparsity) for number, value, sparsity in rows if value == each.best), None)
        if best and best[1] < reached - NOTICEABLE:
            notes.append(
                f"The best checkpoint, {each.filepath!r}, is of epoch {best[0] + 1} and has a sparsity of "
                f"{best[1]:.4f} instead of {reached:.4f}, which training reached. To keep only epochs with the final "
                f"sparsity, derive a class from {type(each).__name__} whose on_epoch_end does nothing if epoch < "
                f"{epoch}."
            )
    return notes
