"""Train smaller models of a run: fine-tuning, a guard of the metric, and a dense model as the teacher."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.base.limit import GroupDrop, GroupLimits, Limit, check_can_lose, largest_drop
from tfprune.base.output import Progress
from tfprune.base.spec import ArgumentError, ArgumentTypeError, check_choice, check_count, check_drop, check_number
from tfprune.compact.reconstruct import RECONSTRUCTIONS
from tfprune.models.anatomy import as_numpy, check_keras, walk
from tfprune.models.graph import OnCall, check_graph, hooked_calls, is_plain
from tfprune.models.training import (
    Batch,
    arguments_of,
    batches,
    check_batch,
    compile_like,
    create_variables,
    inner_optimizers,
    measured,
    mode_of,
    sign_of,
    size_of,
)

# Distillation: how a dense model teaches a pruned one.


@dataclass(frozen=True)
class Distillation:
    """Train with the loss (1 - weight) * loss on the labels + weight * (outputs + features).

    Pass it to `distilled`, or to `prune_to` in `FineTuning(distillation=...)`. The term of the outputs is T^2 times
    the Kullback-Leibler divergence between the classes of teacher and student, both softened by the temperature T.
    The term of a feature is the mean squared difference between the outputs of a layer in both models, divided by
    their mean square in the teacher. Regularization losses are not weighted.

    Args:
        temperature: T, above 0: with a larger one, the student learns more about the wrong classes. None leaves the
            outputs out, for models that are not classifiers. Default 3.
        weight: The weight of the teacher in the loss, in (0, 1]. Default 0.5.
        features: Names of layers whose outputs are compared, or a dict from the student's layers to the teacher's.
            Layers with different numbers of channels cannot be compared. Default ().

    Raises:
        TypeError: If `temperature` or `weight` is not a number, or a name is not a string.
        ValueError: If a number is out of range, or there is neither a temperature nor a feature.

    Example:
        >>> Distillation(temperature=4, features=["last"])
        Distillation(temperature=4.0, weight=0.5, features=(('last', 'last'),))

    Reference:
        Hinton et al., 2015, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531.
    """

    temperature: float | None = 3.0
    weight: float = 0.5
    features: Iterable[str] | Mapping[str, str] = ()

    def __post_init__(self) -> None:
        if self.temperature is not None:
            object.__setattr__(self, "temperature", float(check_number(self.temperature, "temperature", above=0)))
        object.__setattr__(self, "weight", float(check_number(self.weight, "weight", above=0, most=1)))
        object.__setattr__(self, "features", _pairs(self.features))
        if self.temperature is None and not self.features:
            raise ArgumentError(
                "temperature",
                "a temperature or features to compare",
                "None and no features",
                advice="Leave the temperature out, or name layers: features=['last'].",
            )

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The layers of the features: of the student, and of the teacher."""
        return self.features  # type: ignore[return-value]


def check_distillation(value: Any, name: str) -> Distillation:
    """Return a Distillation.

    Raises:
        TypeError: If it is something else.
    """
    if not isinstance(value, Distillation):
        raise ArgumentTypeError(
            name,
            f"`{name}` to be a tfprune.Distillation",
            repr(value),
            advice="Pass tfprune.Distillation(temperature=4).",
        )
    return value


def _pairs(features: Any) -> tuple[tuple[str, str], ...]:
    """Return the names of layers, those of the student with those of the teacher."""
    is_listed = isinstance(features, Iterable) and not isinstance(features, (str, bytes))
    listed = list(features.items() if isinstance(features, Mapping) else features) if is_listed else [features]
    pairs = tuple((entry, entry) if isinstance(entry, str) else tuple(entry) for entry in listed if _is_entry(entry))
    if not is_listed or len(pairs) < len(listed):
        raise ArgumentTypeError(
            "features", "`features` to be a list of names of layers, or a dict of such names", repr(features)
        )
    return pairs


def _is_entry(entry: object) -> bool:
    is_pair = isinstance(entry, (tuple, list)) and len(entry) == 2 and all(isinstance(name, str) for name in entry)
    return isinstance(entry, str) or is_pair


# FineTuning: how `prune_to` reconstructs and trains the smaller models, in one value.


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """How many rounds `prune_to` takes, and how it reconstructs and trains the model in each.

    Pass it as `fine_tuning=` where `epochs` is not enough. Without it, `prune_to` takes the defaults below.

    Args:
        rounds: The number of rounds, at least 1. With more rounds, each removes fewer channels. Default 3; a plan is
            carried out in one round.
        every: Training steps in each round, at least 1, in place of `epochs`. None (the default) trains for `epochs`.
        optimizer: An optimizer, such as `keras.optimizers.SGD(schedule)`, or its name; each round starts with a fresh
            copy. None (the default) takes the optimizer that the model was compiled with; if it has a learning-rate
            schedule, a tenth of the schedule's largest rate replaces it.
        callbacks: Keras callbacks for the training of each round. Epochs are counted over all rounds. The callbacks
            see the metrics of `validation_data`, if there are any. Default ().
        distillation: How the original model teaches the smaller ones, such as `tfprune.Distillation(temperature=4)`.
            None (the default) trains on the labels alone.
        reconstruction: `"sequential"` (the default) or `"parallel"`, as in `reconstruct`; parallel is faster for deep
            models.
        max_samples: How many samples of `data` reconstruction and criteria use, at least 1, rounded up to whole
            batches. Default 512.
        batch_size: Samples in a batch if the data are arrays, at least 1. None (the default) takes 32. A dataset is
            already batched.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a number is out of range, or `reconstruction` is another string.

    Example:
        >>> FineTuning(rounds=5, batch_size=64).max_samples
        512
    """

    rounds: int = 3
    every: int | None = None
    optimizer: str | keras.optimizers.Optimizer | None = None
    callbacks: Sequence[keras.callbacks.Callback] = ()
    distillation: Distillation | None = None
    reconstruction: str = "sequential"
    max_samples: int = 512
    batch_size: int | None = None

    def __post_init__(self) -> None:
        for name in ("rounds", "max_samples"):
            check_count(getattr(self, name), name, least=1)
        for name in ("every", "batch_size"):
            if getattr(self, name) is not None:
                check_count(getattr(self, name), name, least=1)
        if self.optimizer is not None and not isinstance(self.optimizer, (str, keras.optimizers.Optimizer)):
            raise ArgumentTypeError(
                "optimizer",
                "`optimizer` to be a Keras optimizer or its name",
                repr(self.optimizer),
                advice="Pass a learning-rate schedule inside of an optimizer: keras.optimizers.Adam(schedule).",
            )
        object.__setattr__(self, "callbacks", check_callbacks(self.callbacks))
        if self.distillation is not None:
            check_distillation(self.distillation, "distillation")
        check_choice(self.reconstruction, "reconstruction", choices=RECONSTRUCTIONS)


def check_callbacks(callbacks: Any) -> tuple[keras.callbacks.Callback, ...]:
    """Return callbacks as a tuple.

    Raises:
        TypeError: If they are not a list of Keras callbacks.
    """
    is_list = isinstance(callbacks, (list, tuple))
    if not is_list or not all(isinstance(each, keras.callbacks.Callback) for each in callbacks):
        raise ArgumentTypeError("callbacks", "`callbacks` to be a list of Keras callbacks", f"{callbacks!r:.100}")
    return tuple(callbacks)


# Measures the models of a run: one metric, as the first was compiled, and what each class and group lost.

_DEFAULT_METRIC = "loss"
_ADVICE = "Call plan_shrink, reconstruct and shrink yourself, and compile and train what they return"


class MetricGuard:
    """The metric of models on the same data.

    Args:
        model: The first model, compiled.
        arguments: The data, as arguments of `evaluate`.
        limit: The metric, its direction, and how much a model may lose against the first.
        labeled: Samples and labels, for limits of classes and groups; None if `limit` has none.

    Raises:
        ValueError: If the model does not report the metric, it is not known which direction is better and there is a
            `max_drop`, it is an accuracy and `max_drop` above 1 or all that it has, or the outputs are not scores of
            classes and there are limits of classes or groups.
    """

    def __init__(
        self,
        model: keras.Model,
        arguments: dict[str, Any],
        *,
        limit: Limit,
        labeled: tuple[Any, Any] | None = None,
    ) -> None:
        self.metric = metric = limit.metric if isinstance(limit.metric, str) else _DEFAULT_METRIC
        check_drop(limit.max_drop, "max_drop", metric=metric)
        self._model, self._arguments = model, arguments
        is_known = limit.bounds_metric or limit.mode is not None or mode_of(metric)
        self._sign = sign_of(metric, limit.mode) if is_known else 0
        self.before = self(model)
        check_can_lose(limit, {metric: self.before})
        self.max_drop = largest_drop(limit, self.before)
        self._x: Any = None
        self._groups: GroupLimits | None = None
        if labeled is not None:
            self._x, y = labeled
            self._groups = GroupLimits.of(limit, model.predict(self._x, verbose=0), y)

    def __call__(self, model: keras.Model) -> float:
        copy = model if model.compiled else compile_like(model, self._model, advice=_ADVICE, optimizer="sgd")
        return measured(copy, self.metric, arguments=self._arguments)

    def drop(self, value: float) -> float:
        """Return how much worse a value is than the first model's."""
        return self._sign * (self.before - value)

    def worst_group(self, model: keras.Model) -> GroupDrop | None:
        """Return the class or group that exceeds its limit most, or is nearest to it; None without such limits."""
        return None if self._groups is None else self._groups.worst(model.predict(self._x, verbose=0))

    def allows(self, value: float, worst_group: GroupDrop | None = None) -> bool:
        """Return True if a value, and what the worst group lost, are good enough; NaN is not."""
        is_within = self.max_drop is None or self.drop(value) <= self.max_drop
        return is_within and (worst_group is None or worst_group.excess <= 0)

    def is_worse(self, value: float, than: float) -> bool:
        """Return True if a value is worse than another, as NaN is; never if the better direction is not known."""
        return self._sign != 0 and not (math.isnan(than) or self._sign * (value - than) >= 0)


# Outputs of models that tell classes, as logits, whether they are logits or probabilities.


def _logits_of(model: keras.Model) -> Callable[[Any], list[Any]]:
    """Return a function from the outputs of a model to logits in float32; log p are logits of probabilities p.

    Raises:
        ValueError: If an output is not one of classes that exclude each other.
    """
    turns = [_as_logits(output, model) for output in _outputs(model)]
    return lambda outputs: [turn(each) for turn, each in zip(turns, keras.tree.flatten(outputs), strict=True)]


def _outputs(model: keras.Model) -> list[keras.KerasTensor]:
    return keras.tree.flatten(getattr(model, "outputs", None) or [None])


def _as_logits(output: keras.KerasTensor | None, model: keras.Model) -> Callable[[Any], Any]:
    if output is None:  # of a class with code of its own
        return lambda values: ops.cast(values, "float32")
    activation = _activation(output, model)
    if len(output.shape) < 2 or output.shape[-1] == 1 or activation == "sigmoid":
        raise ArgumentError(
            "temperature",
            "outputs that tell classes, logits or softmax, with a temperature",
            found=f"{model.name!r} with an output of shape {output.shape}{activation and f' after {activation}'}",
            advice=(
                "Pass temperature=None, and features=[...] with the name of the last layer to compare the "
                "outputs as they are."
            ),
        )
    if activation == "softmax":
        return lambda values: ops.log(ops.maximum(ops.cast(values, "float32"), keras.backend.epsilon()))
    return lambda values: ops.cast(values, "float32")


def _activation(output: keras.KerasTensor, model: keras.Model) -> str:
    """Return the name of what a graph does last before an output: "softmax", "sigmoid" or another."""
    for operation in getattr(model, "operations", model.layers):
        tensors = operation.outputs if isinstance(operation, keras.Model) else keras.tree.flatten(operation.output)
        index = next((index for index, tensor in enumerate(tensors) if tensor is output), None)
        if index is None:
            continue
        if isinstance(operation, keras.Model) and is_plain(operation):
            return _activation(operation.outputs[index], operation)
        function = getattr(operation, "activation", None)
        return getattr(function, "__name__", "") if function else type(operation).__name__.lower()
    return ""


# The part of a teacher in the loss: how far outputs and features of a student are from the teacher's.


class _DistillationLoss:
    """The part of a teacher in the loss.

    No list, dict or layer, so Keras does not take the teacher for a part of the model that holds this.

    Args:
        student: A graph of layers.
        teacher: Any model with outputs of the same shapes.
        how: What is compared.

    Raises:
        ValueError: If they share weights or differ in their outputs, a layer is not found, or outputs that are
            compared as classes are not.
    """

    def __init__(self, student: keras.Model, teacher: keras.Model, how: Distillation) -> None:
        _check_apart(student, teacher)
        _check_shapes(student, teacher)
        self.how, self._teacher = how, teacher
        self._pairs = [(_layer(student, own, "model"), _layer(teacher, other, "teacher")) for own, other in how.pairs]
        self._logits = None if how.temperature is None else (_logits_of(student), _logits_of(teacher))
        self._heard: dict[int, Any] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hear what the student's layers return in a training step."""
        self._heard = {}
        with hooked_calls([own for own, _ in self._pairs], _into(self._heard)):
            yield
        self._heard = {}

    def loss(self, x: Any, y_pred: Any) -> Any:
        """Return the part of the teacher: of the outputs and of the features, added up."""
        features: dict[int, Any] = {}
        with hooked_calls([other for _, other in self._pairs], _into(features)):
            outputs = self._teacher(x, training=False)
        parts = []
        if self._logits:
            # By its name, Keras 3.15 takes the function instead, and compares logits as if they were probabilities.
            divergence = keras.losses.KLDivergence()
            compare = keras.distillation.LogitsDistillation(self.how.temperature, divergence).compute_loss
            students, teachers = self._logits
            pairs = zip(teachers(outputs), students(y_pred), strict=True)
            parts = [compare(ops.stop_gradient(shown), own) for shown, own in pairs]
        return sum(parts) + sum(
            _distance(self._heard[id(own)], ops.stop_gradient(features[id(other)]), own) for own, other in self._pairs
        )


def _into(heard: dict[int, Any]) -> OnCall:
    def on_call(layer: keras.layers.Layer, inputs: Any, outputs: Any) -> None:
        heard[id(layer)] = ops.cast(outputs, "float32")

    return on_call


def _distance(own: Any, other: Any, layer: keras.layers.Layer) -> Any:
    """Return the mean squared difference, relative to the mean square of what the teacher shows."""
    if own.shape[1:] != other.shape[1:]:
        raise ValueError(
            f"Expected features of the same shape in student and teacher. Received: {layer.name!r} with "
            f"{tuple(own.shape[1:])} and {tuple(other.shape[1:])}. Name a layer that keeps its channels."
        )
    return ops.mean(ops.square(own - other)) / (ops.mean(ops.square(other)) + keras.backend.epsilon())


def _layer(model: keras.Model, name: str, argument: str) -> keras.layers.Layer:
    """Return the layer of a name or path."""
    by_path = {path: layer for path, layer in walk(model) if path}
    by_name = {layer.name: layer for layer in reversed(by_path.values())}
    if name not in by_path and name not in by_name:
        raise ArgumentError(
            "features",
            f"`features` among the layers of the {argument}, {', '.join(map(repr, by_path))}",
            found=repr(name),
        )
    return by_path.get(name) or by_name[name]


def _check_apart(student: keras.Model, teacher: keras.Model) -> None:
    shared = {id(weight) for weight in student.weights} & {id(weight) for weight in teacher.weights}
    if shared:
        raise ArgumentError(
            "teacher",
            "a teacher with weights of its own",
            found=f"{teacher.name!r}, which shares {len(shared)} of its weights with {student.name!r}",
            advice="Copy it first: keras.models.clone_model, then set_weights.",
        )


def _check_shapes(student: keras.Model, teacher: keras.Model) -> None:
    own, other = (
        [tuple(output.shape) for output in keras.tree.flatten(getattr(model, "outputs", None) or [])]
        for model in (student, teacher)
    )
    if own and other and own != other:
        raise ArgumentError(
            "teacher", "student and teacher with outputs of the same shapes", found=f"{own} and {other}"
        )


# distilled: put a teacher into the training loss of a model.


def distilled(model: keras.Model, teacher: keras.Model, distillation: Distillation | None = None) -> keras.Model:
    """Return a model over the same layers and weights, with a teacher in its training loss.

    Use it with gradual pruning, where the dense model teaches the pruned one: compile and fit the returned model,
    with a `PruningCallback` as usual, then strip or shrink `model`, whose weights were trained. The teacher is called
    on each batch, so data augmentation works, and is left unchanged. `evaluate` and `val_loss` report the loss
    without the teacher. Saving stores the student as a plain model, without the teacher.

    Args:
        model: The student: a built Sequential or Functional model, wrapped or not.
        teacher: A model with outputs of the same shapes. It is not trained.
        distillation: The weight of the teacher and the outputs that are compared. None (the default) takes
            `tfprune.Distillation()`.

    Returns:
        The model to compile and fit.

    Raises:
        TypeError: If a model is not a Keras model, or `distillation` is not a `Distillation`.
        ValueError: If the student is not a graph of layers, a layer is not found, or the models share weights or
            differ in the shapes of their outputs.
        ValueError: If there is a temperature, and the outputs are not classes.

    Example:
        >>> import tfprune
        >>> dense = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16), keras.layers.Dense(4)])
        >>> student = tfprune.wrap(dense)
        >>> training = tfprune.distilled(student, dense, tfprune.Distillation(temperature=4))
        >>> training.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> callback = tfprune.PruningCallback(tfprune.schedules.Polynomial(0.5, end=1.0), every=1)
        >>> history = training.fit(keras.ops.ones((8, 8)), keras.ops.zeros(8), callbacks=[callback], verbose=0)
        >>> tfprune.sparsity_report(tfprune.strip(student)).sparsity
        0.5

    Reference:
        Hinton et al., 2015, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531.
    """
    check_graph(model)
    check_keras(teacher, argument="teacher")
    settings = Distillation() if distillation is None else check_distillation(distillation, "distillation")
    return _Distilled(model, distillation=_DistillationLoss(model, teacher, settings))


@keras.saving.register_keras_serializable(package="tfprune", name="Distilled")
class _Distilled(keras.Model):
    """The graph of a student with another training loss."""

    def __init__(self, student: keras.Model, *, distillation: _DistillationLoss) -> None:
        if isinstance(student, keras.Sequential):  # whose `input` is what it was called on
            super().__init__(student.inputs[0], student.outputs[0], name=student.name)
        else:
            super().__init__(student.input, student.output, name=student.name)
        self._distillation = distillation

    def train_step(self, *args: Any) -> Any:
        with self._distillation.listening():
            return super().train_step(*args)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        own = super().compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training)
        if not training:
            return own
        weight, regularization = self._distillation.how.weight, sum(self.losses)  # which counts in full
        return (1 - weight) * own + weight * (self._distillation.loss(x, y_pred) + regularization)

    def get_config(self) -> dict[str, Any]:
        return self._plain().get_config()

    def _plain(self) -> keras.Model:
        return keras.Model(self.input, self.output, name=self.name, trainable=self.trainable)

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> keras.Model:
        return keras.Model.from_config(config, custom_objects)


# Trains the smaller models of a run, each by the same arguments and with an optimizer of its own.

_BATCH_SIZE = 32  # that of `fit`
_FINE_TUNING_RATE = 0.1  # of the largest rate of a schedule: at its peak, a trained model would be trained anew


class Trainer:
    """How models are compiled and trained.

    Args:
        model: The first model, compiled, which teaches.
        arguments: Those of `fit`.
        epochs: Epochs of a training.
        fine_tuning: The other settings of a training. Without an optimizer, that of the first model, with a rate for
            fine-tuning in place of a learning-rate schedule.

    Raises:
        TypeError: If `epochs` is not an integer.
        ValueError: If `epochs` is negative, or the optimizer is not known.
    """

    def __init__(
        self,
        model: keras.Model,
        arguments: dict[str, Any],
        *,
        epochs: int,
        fine_tuning: FineTuning,
    ) -> None:
        self._model, self._arguments, self._callbacks = model, arguments, fine_tuning.callbacks
        self.every, self.distill = fine_tuning.every, fine_tuning.distillation
        self.epochs = check_count(epochs, "epochs", least=0)
        optimizer = fine_tuning.optimizer
        self.optimizer = _at_constant_rate(model.optimizer) if optimizer is None else _settings_of(optimizer)

    def compiled(self, smaller: keras.Model) -> keras.Model:
        """Return a model to train: the smaller one itself, or one over its layers that a teacher teaches.

        Its optimizer has its variables.
        """
        training = smaller if self.distill is None else distilled(smaller, self._model, self.distill)
        changes = {"optimizer": keras.optimizers.deserialize(self.optimizer)} if self.optimizer else {}
        compile_like(training, self._model, advice=_ADVICE, **changes)
        if training is not smaller:
            compile_like(smaller, self._model, advice=_ADVICE, optimizer=training.optimizer)
        data = self._arguments["x"], self._arguments.get("y")
        if self.epochs and all(isinstance(array, np.ndarray) for array in keras.tree.flatten(data)):
            create_variables(training, data, batch_size=self._arguments.get("batch_size") or _BATCH_SIZE)
        else:
            training.optimizer.build(training.trainable_variables)
        return training

    def settings(self) -> dict[str, Any]:
        """Return the settings that a training depends on, besides callbacks and data."""
        batch = self._arguments.get("batch_size")
        trained = {"epochs": self.epochs, "every": self.every, "batch_size": batch, "optimizer": self.optimizer}
        return {**trained, "distill": repr(self.distill)}

    def steps(self) -> int:
        """Return about how many steps a training has, for a bar."""
        return self.every or self.epochs * (_steps_per_epoch(self._arguments) or 1)

    def fit(self, training: keras.Model, number: int, progress: Progress) -> None:
        """Train in the round of this number, from 1; epochs are counted over all rounds."""
        epochs = self.every or self.epochs  # at least one step an epoch
        own: list[keras.callbacks.Callback] = [] if self.every is None else [_StopAfter(self.every)]
        own += [_Ticks(progress, by_epoch=_steps_per_epoch(self._arguments) is None)] if progress.is_shown else []
        training.fit(
            **self._arguments,
            initial_epoch=(number - 1) * epochs,
            epochs=number * epochs,
            callbacks=[*self._callbacks, *own],
            verbose=0,
        )


class _StopAfter(keras.callbacks.Callback):
    """End a training after so many steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._steps = steps

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._done = 0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._done += 1
        self.model.stop_training = self.model.stop_training or self._done >= self._steps


class _Ticks(keras.callbacks.Callback):
    """Move a bar as training goes on."""

    def __init__(self, progress: Progress, *, by_epoch: bool) -> None:
        super().__init__()
        self._progress, self._by_epoch = progress, by_epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if not self._by_epoch:
            self._progress.add()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self._by_epoch:
            self._progress.add()


def _settings_of(optimizer: str | keras.optimizers.Optimizer) -> dict[str, Any]:
    settings = keras.optimizers.serialize(keras.optimizers.get(optimizer))
    if isinstance(optimizer, str):  # Keras counts the optimizers that it made in their names: a run could not go on
        settings["config"]["name"] = re.sub(r"_\d+$", "", settings["config"]["name"])
    return settings


def _at_constant_rate(optimizer: keras.optimizers.Optimizer) -> dict[str, Any] | None:
    """Return the settings of an optimizer with constant rates in place of its schedules; None if it has none."""
    settings = [part.get_config() for part in inner_optimizers(optimizer)]
    has_schedule = any(_is_schedule(each.get("learning_rate")) for each in settings)
    return _with_constant_rates(keras.optimizers.serialize(optimizer)) if has_schedule else None


def _with_constant_rates(settings: Any) -> Any:
    if isinstance(settings, list):
        return [_with_constant_rates(value) for value in settings]
    if not isinstance(settings, dict):
        return settings
    return {
        name: _fine_tuning_rate(value)
        if name == "learning_rate" and _is_schedule(value)
        else _with_constant_rates(value)
        for name, value in settings.items()
    }


def _is_schedule(rate: Any) -> bool:
    """Return True if a setting is a schedule, rather than a number or a function of no argument."""
    return isinstance(rate, dict) and rate.get("class_name") not in ("function", "__lambda__")


def _fine_tuning_rate(schedule: dict[str, Any]) -> float:
    """Return the part of a schedule's largest rate that fine-tuning takes."""
    try:
        rate_at = keras.optimizers.schedules.deserialize(schedule)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Expected a model compiled with a learning-rate schedule that Keras can save and load. Received: "
            f"{schedule.get('class_name')!r}. Pass FineTuning(optimizer=...), or register the schedule with "
            f"keras.saving.register_keras_serializable."
        ) from error
    return _FINE_TUNING_RATE * max(float(as_numpy(rate_at(step))) for step in (0, *(2**power for power in range(21))))


def _steps_per_epoch(arguments: dict[str, Any]) -> int | None:
    """Return the number of batches in an epoch; None if the data do not tell."""
    data = arguments["x"]
    if "y" in arguments:
        rows = len(keras.tree.flatten(data)[0])
        return -(-rows // (arguments.get("batch_size") or 32))
    if isinstance(data, keras.utils.PyDataset):
        return data.num_batches
    count = int(data.cardinality()) if hasattr(data, "cardinality") else len(data) if hasattr(data, "__len__") else -1
    return count if count > 0 else None


# The data of a run: to train on, to measure on, and the first samples, that scores and reconstruction use.


class RunData:
    """Data, checked before anything is done.

    Args:
        model: The first model, compiled.
        data: The training data: a tuple, or a dataset.
        validation: The validation data; None takes the first samples of `data`.
        batch_size: Samples in a batch of arrays, or None.
        max_samples: How many of the first samples are read, rounded up to whole batches.
        is_bound: Whether what is measured on the validation data decides something.

    Raises:
        TypeError: If something is not data.
        ValueError: If data are empty, without labels, of another shape or not finite, or missing.
    """

    def __init__(
        self,
        model: keras.Model,
        data: Any,
        validation: Any,
        *,
        batch_size: int | None,
        max_samples: int,
        is_bound: bool,
    ) -> None:
        self._data, self._validation = data, validation
        self._batch = {} if batch_size is None else {"batch_size": batch_size}
        self._to_train = self._arguments(data, "data")
        self.first = _first_batches(data, model, max_samples=max_samples)
        _check_labels(model, self.first[0], "data")
        if validation is not None:
            arguments_of(validation, argument="validation_data")
            _check_labels(model, next(batches(validation, argument="validation_data")), "validation_data")
        elif is_bound:
            raise ArgumentError(
                "validation_data",
                "`validation_data` with max_drop, because training data do not show what a round costs",
                "None",
                advice="Pass samples that are not trained on, (x, y).",
            )

    def to_fit(self, *, is_watched: bool) -> dict[str, Any]:
        """Return the arguments of `fit`; callbacks that watch see the validation data, too."""
        seen = {"validation_data": self._validation} if is_watched and self._validation is not None else {}
        return {**self._to_train, **seen}

    def to_judge(self) -> dict[str, Any]:
        """Return the arguments of `evaluate`."""
        if self._validation is None:
            return self._arguments(_joined(self.first), "data")
        return self._arguments(self._validation, "validation_data")

    def labeled(self) -> tuple[Any, Any]:
        """Return the validation data as one batch, samples and labels."""
        parts = [*batches(self._validation, rows=None, argument="validation_data")]
        x, y, *_ = _joined(parts) if len(parts) > 1 else parts[0]
        return x, y

    def arrays(self) -> Iterator[np.ndarray]:
        """Yield the arrays of the first samples."""
        for batch in self.first:
            yield from (leaf for leaf in keras.tree.flatten(tuple(batch)) if leaf is not None)

    def _arguments(self, data: Any, argument: str) -> dict[str, Any]:
        arguments = arguments_of(data, argument=argument)
        if self._batch and argument == "data" and "y" not in arguments:
            raise ArgumentError(
                "batch_size",
                "`batch_size` with arrays only",
                f"{self._batch['batch_size']} and a dataset of type {type(data).__name__}, which is already batched",
                advice="Leave it out.",
            )
        return {**arguments, **(self._batch if "y" in arguments else {})}


def _check_labels(model: keras.Model, batch: Batch, argument: str) -> None:
    if batch.y is None and model.loss is not None:
        raise ArgumentError(
            argument,
            f"`{argument}` with labels, which the loss of {model.name!r} compares",
            found="inputs only",
            advice="Pass (x, y), or a dataset of such pairs.",
        )


def _first_batches(data: Any, model: keras.Model, *, max_samples: int) -> list[Batch]:
    """Return the first batches, until they hold `max_samples` samples or more."""
    first_batches, count = [], 0
    for batch in batches(data):
        check_batch(batch, model)
        first_batches.append(batch)
        count += size_of(batch)
        if count >= max_samples:
            break
    return first_batches


def _joined(parts: list[Batch]) -> tuple:
    """Return batches as one: (x, y) or (x, y, sample weights)."""
    columns = [[batch.x for batch in parts], [batch.y for batch in parts], [batch.sample_weight for batch in parts]]
    return tuple(
        keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *column)
        for column in columns
        if column[0] is not None
    )
