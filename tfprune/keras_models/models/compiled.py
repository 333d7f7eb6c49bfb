"""What a model is compiled with, and copies that train and are judged as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras

from tfprune.base.spec import check_choice
from tfprune.keras_models.models.anatomy import check_keras
from tfprune.keras_models.models.calls import recurrent_states

METRIC_MODES = ("max", "min")
OF_A_STEP = ("train_step", "compute_loss", "compute_metrics")


def check_compiled(model: Any) -> None:
    """Refuse what cannot be trained or judged.

    Raises:
        TypeError: If it is not a model.
        ValueError: If it is not compiled.
    """
    check_keras(model)
    if not model.compiled:
        raise ValueError(
            f"Expected a compiled model. Received: {model.name!r}, which is not. Call "
            f"model.compile(loss=..., metrics=[...]) first."
        )


def compile_like(copy: keras.Model, model: keras.Model, *, advice: str, **changes: Any) -> keras.Model:
    """Compile a copy with the arguments of a model, its optimizer anew; return the copy.

    Args:
        copy: What to compile.
        model: A compiled model.
        advice: What a user can do where Keras cannot save and load what the model was compiled with.
        **changes: Arguments of `compile` to take instead.

    Raises:
        ValueError: If Keras cannot save and load what the model was compiled with.
    """
    try:
        arguments = keras.saving.deserialize_keras_object(model.get_compile_config())
        copy.compile(**{**arguments, **changes})
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Expected a model compiled with what Keras can save and load. Received: {model.name!r}, whose loss, "
            f"metrics or own `compile` it cannot. {advice}."
        ) from error
    if hasattr(model, "sampler"):  # an argument of KerasHub's `compile` that the configuration lacks
        copy.sampler = model.sampler
    return copy


def create_variables(model: keras.Model, data: tuple[Any, Any], *, batch_size: int) -> None:
    """Create the variables of the optimizer and of the metrics, which are otherwise created in the first step.

    TensorFlow traces a step twice in which variables are created, which takes seconds for a model of many layers.

    Args:
        model: A compiled model. One that trains in its own way, preprocesses or keeps states gets those of the
            optimizer only.
        data: Samples and labels, (x, y), in arrays.
        batch_size: Samples in a batch of training.
    """
    model.optimizer.build(model.trainable_variables)
    own = [getattr(type(model), name) is not getattr(keras.Model, name) for name in OF_A_STEP]
    keeps_states = next(recurrent_states(model), None) is not None
    if any(own) or keeps_states or getattr(model, "preprocessor", None) is not None:
        return
    x, y = keras.tree.map_structure(lambda array: _as_in_fit(array[:batch_size]), data)
    outputs = model(x, training=False)
    model.compute_loss(x, y, outputs, sample_weight=None)
    model.compute_metrics(x, y, outputs, sample_weight=None)
    model.reset_metrics()


def _as_in_fit(array: Any) -> Any:
    """Return a tensor as `fit` makes it: numbers with fractions get Keras' own type."""
    is_float = "float" in keras.backend.standardize_dtype(array.dtype)
    return keras.ops.convert_to_tensor(array, dtype=keras.config.floatx() if is_float else None)


def measured(model: keras.Model, metric: str, *, arguments: dict[str, Any]) -> float:
    """Evaluate a model and return one of its metrics.

    Raises:
        ValueError: If the model does not report it.
    """
    values = model.evaluate(**arguments, verbose=0, return_dict=True)
    if metric not in values:
        raise ValueError(
            f"Expected `metric` to be one of {', '.join(map(repr, values))}. Received: metric={metric!r}. "
            f"Compile the model with metrics=[{metric!r}] to have it."
        )
    return float(values[metric])


def sign_of(metric: str, mode: str | None) -> int:
    """Return 1 if a larger metric is better, -1 if a smaller one is.

    Args:
        metric: Its name.
        mode: "max" or "min"; None finds it out for accuracies and losses.

    Raises:
        TypeError: If the metric is not a name.
        ValueError: If the mode is needed and not given, or unknown.
    """
    if not isinstance(metric, str):
        raise TypeError(f"Expected `metric` to be a name, such as 'accuracy' or 'loss'. Received: metric={metric!r}.")
    mode = mode or mode_of(metric)
    if mode is None:
        raise ValueError(
            f"Expected `mode` with a metric that is not an accuracy or a loss. Received: metric={metric!r}, "
            f"mode=None. Pass mode='max' if a larger {metric!r} is better, or mode='min' if a smaller one is."
        )
    check_choice(mode, "mode", choices=METRIC_MODES)
    return 1 if mode == "max" else -1


def mode_of(metric: str) -> str | None:
    """Return "max" for an accuracy and "min" for a loss; None for other metrics, whose names do not tell."""
    return "max" if "acc" in metric else "min" if metric.endswith("loss") else None


def arguments_of(data: Any, *, argument: str = "data") -> dict[str, Any]:
    """Return data as arguments of `fit` and `evaluate`.

    Args:
        data: What the user passed.
        argument: The name it was passed under, for the message.

    Raises:
        TypeError: If `data` is neither a tuple nor a dataset that can be read again and again.
        ValueError: For a tuple of another length.
    """
    if isinstance(data, tuple):
        if len(data) not in (2, 3):
            raise ValueError(
                f"Expected `{argument}` to be (x, y) or (x, y, sample weights). Received: {len(data)} parts."
            )
        return dict(zip(("x", "y", "sample_weight"), data, strict=False))
    is_set = hasattr(data, "__iter__") or hasattr(data, "__getitem__")
    if not is_set or hasattr(data, "shape") or isinstance(data, (Iterator, list, dict, str)):
        raise TypeError(
            f"Expected `{argument}` to be a tuple (x, y), or a dataset that can be read again and again, such as a "
            f"tf.data.Dataset. Received: an object of type {type(data).__name__}."
        )
    return {"x": data}


def loss_of(model: keras.Model, loss: Any) -> Callable:
    """Return the loss that is given as itself, by its name or as a function, or that a model is compiled with.

    Raises:
        ValueError: If there is none, or the model has several outputs.
    """
    loss = getattr(model, "loss", None) if loss is None else loss
    outputs = keras.tree.flatten(getattr(model, "outputs", None) or [None])  # a subclassed model names none
    if loss is None or len(outputs) > 1:
        raise ValueError(
            f"Expected a model with one output and a loss. Received: {model.name!r} with {len(outputs)} and "
            f"loss={loss!r}. Compile the model, or pass `loss`, such as 'sparse_categorical_crossentropy'."
        )
    return keras.losses.get(loss)


def batch_loss(loss: Callable, outputs: Any, *, targets: Any, advice: str = "") -> float:
    """Return the mean loss of one batch.

    Args:
        loss: What `loss_of` returns.
        outputs: What the model returned.
        targets: The targets of the batch; None if the data have none.
        advice: What else a user can do who has no targets.

    Raises:
        ValueError: If there are no targets.
    """
    if targets is None:
        raise ValueError(f"Expected `data` with targets, (x, y). Received: inputs alone.{advice}")
    outputs = keras.ops.cast(outputs, keras.config.floatx())  # as in `fit`: 16-bit floats have three digits
    return float(keras.ops.mean(loss(keras.ops.convert_to_tensor(targets), outputs)))
