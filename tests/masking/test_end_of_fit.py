"""Callbacks that bring back, or save, weights of an epoch with fewer zeros: the end is counted, and they named."""

from __future__ import annotations

import warnings

import keras
import pytest
from callback_runs import X, Y, fit, make, sparsities
from tiers import first

import tfprune
from tfprune.masking.callback import _callbacks_of_fit
from tfprune.schedules import Polynomial

SLOW = Polynomial(0.8, end=45, power=1)  # 10 updates an epoch: 0.8 at the end of the fifth


class Cost(keras.callbacks.Callback):
    """A metric that is best after the second epoch, or the first of those that are kept."""

    def on_epoch_end(self, epoch, logs=None):
        logs["cost"] = abs(epoch - 1)


class OwnRestorer(keras.callbacks.Callback):
    """Bring back the weights after the first epoch, by code of one's own."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 0:
            self.first = self.model.get_weights()

    def on_train_end(self, logs=None):
        self.model.set_weights(self.first)


def pruning() -> tfprune.PruningCallback:
    return tfprune.PruningCallback(SLOW, every=3)


def stopping(**arguments) -> keras.callbacks.EarlyStopping:
    arguments = {"patience": 9, "mode": "min", "restore_best_weights": True, **arguments}
    return keras.callbacks.EarlyStopping("cost", **arguments)


def ordered(order, *callbacks):
    return callbacks if order == "pruning first" else callbacks[::-1]


def warned(model, *callbacks, epochs=6, ended=True) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        history = fit(model, Cost(), *callbacks, epochs=epochs)
    assert history["sparsity"][-1] == 0.8 or epochs < 5 or not ended
    return [str(warning.message) for warning in caught if "sparsity" in str(warning.message)]


ORDERS = first("pruning first", "pruning last")


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("other", "said"),
    [
        (stopping, "EarlyStopping brought back the weights of epoch 2: the sparsity is 0."),
        (OwnRestorer, "OwnRestorer brought back weights of an earlier epoch: the sparsity is 0."),
    ],
)
def test_weights_that_come_back_are_counted_and_their_callback_is_named(order, other, said):
    model = make()
    (message,) = warned(model, *ordered(order, pruning(), other()))
    sparsity = tfprune.sparsity_report(model).sparsity
    assert sparsity < 0.4
    assert said in message.replace("Cost or ", "") and f"is {sparsity:.4f} instead of 0.8000, which" in message
    assert "pass start_from_epoch=4 to EarlyStopping" in message


@pytest.mark.parametrize("order", ORDERS)
def test_what_the_message_advises_keeps_the_final_sparsity(order):
    model = make()
    assert warned(model, *ordered(order, pruning(), stopping(start_from_epoch=4))) == []
    assert sparsities(model) == [0.8, 0.8]


@pytest.mark.parametrize("order", ORDERS)
def test_a_fit_that_stops_early_says_the_sparsity_that_is_left(order):
    model = make()
    early, back = warned(model, *ordered(order, pruning(), stopping()), epochs=4)
    sparsity = tfprune.sparsity_report(model).sparsity
    assert (
        f"Training ended at step 40, before the pruning schedule did at step 45: the sparsity is {sparsity:.4f} "
        "instead of 0.8000. Train until step 45, or end the schedule at step 40 or earlier." in early
    )
    assert "EarlyStopping brought back the weights of epoch 2" in back


@pytest.mark.parametrize(
    ("end", "advice"),
    [
        (45, "or end the schedule at step 30 or earlier."),
        (0.75, "or end the schedule at a smaller fraction of the fit than end=0.75."),  # step 45
    ],
)
def test_early_stopping_within_the_schedule_is_named_first_with_advice_that_helps(end, advice):
    def run(**arguments) -> list[str]:
        stop = keras.callbacks.EarlyStopping("cost", mode="min", patience=1, **arguments)
        return warned(make(), tfprune.PruningCallback(Polynomial(0.8, end=end, power=1)), stop, ended=bool(arguments))

    (message,) = run()
    assert message.startswith("EarlyStopping ended training at step 30, before the pruning schedule did at step 45: ")
    assert "Pass start_from_epoch=4 to EarlyStopping, " in message and message.endswith(advice)
    assert run(start_from_epoch=4) == []


class FromEpoch(keras.callbacks.ModelCheckpoint):
    """The class that the message advises."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch >= 4:
            super().on_epoch_end(epoch, logs)


@pytest.mark.parametrize("order", ORDERS)
def test_a_best_checkpoint_with_fewer_zeros_is_named_and_the_advice_helps(order, tmp_path):
    arguments = {"monitor": "cost", "mode": "min", "save_best_only": True}
    path = str(tmp_path / "best.keras")
    (message,) = warned(make(), *ordered(order, pruning(), keras.callbacks.ModelCheckpoint(path, **arguments)))
    sparsity = tfprune.sparsity_report(keras.models.load_model(path)).sparsity
    assert f"The best checkpoint, {path!r}, is of epoch 2 and has a sparsity of {sparsity:.4f} instead of" in message
    assert "derive a class from ModelCheckpoint whose on_epoch_end does nothing if epoch < 4" in message
    model = make()
    assert warned(model, *ordered(order, pruning(), FromEpoch(path, **arguments))) == []
    assert tfprune.sparsity_report(keras.models.load_model(path)).sparsity == pytest.approx(0.8)


def test_a_list_that_is_used_twice_gets_one_more_callback():
    model, callback = make(), pruning()
    kept = keras.callbacks.CallbackList([callback, stopping()], add_history=True, model=model)
    for _ in range(2):
        with pytest.warns(UserWarning, match="before the pruning schedule did"):
            model.fit(X, Y, callbacks=kept, verbose=0)
        assert len(kept.callbacks) == 4


def test_a_callback_that_keras_does_not_call_has_no_others():
    assert _callbacks_of_fit(pruning()) == []
