"""A Keras model as a .tflite file that goes on learning on a device, checked step by step against Keras."""

from __future__ import annotations

import functools
import itertools
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfprune.base.folders import TemporaryFolder
from tfprune.base.output import Progress, check_verbose
from tfprune.base.spec import ArgumentError, ArgumentTypeError, check_count, check_number, check_regex
from tfprune.export.device.processes import read_job, run_job, write_job
from tfprune.export.file import schema
from tfprune.export.file.container import check_destination, check_suffix, encode, write_atomically
from tfprune.export.file.document import (
    add_constant,
    add_operator,
    add_tensor,
    inputs_of,
    operator_name,
    with_metadata,
)
from tfprune.export.file.model_file import ModelFile
from tfprune.export.file.report import FileReport, certified, shape_text
from tfprune.export.keras_side.convert import JOB, SAVED_MODEL, convert_apart
from tfprune.export.keras_side.prepare import (
    Signature,
    in_float32,
    in_float64,
    read_copy,
    signature,
    strip_for_export,
    unrolled,
    write_copy,
)
from tfprune.export.keras_side.trainable_forms import register_gradients, trainable_dropout, trainable_forms
from tfprune.export.rewriting.trainer import (
    CHECK,
    LABELS,
    METADATA,
    RATE,
    RESULT,
    SEED,
    WEIGHT,
    Task,
    Trainer,
    Weight,
    run_steps,
)
from tfprune.masking.strip import statistics_owners, wrappers
from tfprune.models.anatomy import Anatomy, as_numpy, check_keras
from tfprune.report import install, table

_STEPS = 10  # that are trained both ways before a file is written
_CLOSE = 1e-5  # of a loss, or of 1 if the loss is smaller
_CLOSE_OUTPUTS = 1e-4  # of the largest output, before training
_WORTH_IT = 1024  # bytes of a constant: an operator takes about 100
_TIMEOUT = 3600.0
_ENVIRONMENT = {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1"}
_TRACED = "traced"
_POSITIONS = "positions"  # begins the names of variables that hold them
_PARTS = {"all": "every weight", "last": "the last layer with weights", "biases": "biases, and weights of norms"}
_RESERVED = (LABELS, WEIGHT, RATE, SEED)


@dataclass(frozen=True)
class TrainerReport(FileReport):
    """What a trainer file holds, and how closely its training follows Keras'.

    Attributes:
        path: The file.
        bytes: Its size.
        trained: How many entries of weights are trained.
        entries: How many entries the model has, zeros included.
        batch_size: Samples in a step.
        loss: The name of the loss.
        optimizer: The name of the optimizer.
        learning_rate: The learning rate of a step that is given none.
        steps: How many steps were trained both ways.
        difference: The largest difference between the losses of Keras and of the file, as a fraction of the loss, or
            of 1 if the loss is smaller.
        exact_difference: The same between the file and layers of Keras that compute in float64; None where it was
            not needed.
        rounding: The same between Keras in float32 and in float64; None where it was not needed.
        runtime: The interpreter, with its version.

    Example:
        >>> report = to_trainer(model, "digits_trainer.tflite", trains="last")
        >>> report.trained, report.optimizer
        (210, 'Adam')
    """

    path: str
    bytes: int
    trained: int
    entries: int
    batch_size: int
    loss: str
    optimizer: str
    learning_rate: float
    steps: int
    difference: float
    exact_difference: float | None
    rounding: float | None
    runtime: str

    def __str__(self) -> str:
        allowed = f"limit: {_CLOSE:g} of the loss"
        if self.exact_difference is not None:
            allowed = f"from float64 by {self.exact_difference:.3g}, Keras by {self.rounding:.3g}"
        rows = [
            ("bytes", f"{self.bytes:,}"),
            ("trained", f"{self.trained:,} of {self.entries:,} entries"),
            ("batch", f"{self.batch_size}"),
            ("loss", self.loss),
            ("optimizer", f"{self.optimizer}, learning rate {self.learning_rate:g}"),
            ("losses", f"of {self.steps} steps differ from Keras' by {self.difference:.3g} ({allowed})"),
            ("checked on", self.runtime),
        ]
        return table(["trainer", self.path], rows, left=2)


@certified
def to_trainer(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    trains: str | Sequence[str] = "all",
    max_density: float | None = None,
    loss: Any = None,
    optimizer: keras.optimizers.Optimizer | str | None = None,
    check_on: Any = None,
    compress: str | None = None,
    batch_size: int = 16,
    verbose: int | str = "auto",
) -> TrainerReport:
    """Export a model as a file that a device trains further, with NumPy and LiteRT alone.

    Use it where a model should learn from data that stays on the device; `Trainer` runs the file. Wrappers are
    stripped first. Entries under a mask stay zero and take no memory: for each pruned kernel the file holds the
    values of the other entries, and their positions. In a model without wrappers, the zeros of kernels stay zeros,
    except in kernels of zeros only. The file computes with builtin operators: its gradients are TensorFlow's, of
    layers that are written in other operators. Ten steps are trained by Keras and by the file, and their losses
    compared, before the file is written.

    The file has the signatures `train`, `evaluate`, `infer`, `save` and `restore`, and `gradients` if kernels are
    pruned: those of the loss at all entries of what is trained, zeros included.

    Args:
        model: A built model with one output, on the TensorFlow backend or with classes that another process can
            import. It is left untouched.
        path: Where the file is written, exactly as given, such as `"watch.tfz"`.
        trains: What is trained: `"all"` (the default), `"last"` for the last layer with weights, `"biases"` for
            biases and the weights of norms, or one regular expression or several, searched in the paths of weights,
            such as `"dense"`. A layer of which nothing is trained computes as in inference.
        max_density: The fraction of each kernel for which the file has room, in (0, 1], so that masks may keep more
            entries on the device than now, or any at 1. It holds for kernels under wrappers, and in a model without
            them for those that are not zero. None (the default) has room for the entries that are kept now, as has
            a kernel that keeps more than the fraction.
        loss: A loss of Keras, its name, or a function of labels and outputs. None (the default) is the one that the
            model was compiled with.
        optimizer: An optimizer of Keras or its name, which begins anew. None (the default) is the one that the model
            was compiled with.
        check_on: A tuple (x, y) of arrays, from which the ten batches are taken. None (the default) draws them.
        compress: None (the default) for a plain file, or `"packed"`, `"xz"` or `"gzip"`, as for `to_tflite`.
        batch_size: Samples in a step, at least 1. Default 16.
        verbose: As in Keras: 0 shows nothing, 1 a progress bar, 2 one line at the end. `"auto"` (the default) shows
            the bar in a terminal or a notebook, once the call has taken some seconds.

    Returns:
        A report of the file that was written, and of its check.

    Raises:
        TypeError: If `model` is not a Keras model, or an argument has another type.
        ValueError: If the model has several outputs or an open shape, an argument does not fit, the converter fails,
            or the losses differ. A file that was at `path` before is then untouched.

    Example:
        >>> report = to_trainer(model, "digits_trainer.tfz", compress="packed", check_on=(x, y))
        >>> print(report)
        trainer     digits_trainer.tfz
        ----------  ---...
        ...
    """
    destination = check_destination(path)
    check_suffix(destination, compress)
    check_verbose(verbose)
    check_count(batch_size, "batch_size", least=1)
    check_keras(model, keras.Model)
    if max_density is not None:
        check_number(max_density, "max_density", above=0, most=1)
    recipe = _Recipe.of(model, loss=loss, optimizer=optimizer, batch=batch_size)
    plain = strip_for_export(model, finds_unread=False).model
    inputs = signature(plain)
    _check_shapes(plain, inputs)
    trained = _choose(plain, trains)
    weights = _weights(model, plain, trained, max_density)
    data = _samples(plain, inputs, recipe, check_on)
    with Progress(3, verbose=verbose, unit="step") as progress, TemporaryFolder() as name:
        folder = Path(name)
        task, expected = _traced(plain, inputs, recipe, weights, data, folder)
        progress.add()
        signatures = ["train", "evaluate", "infer", "save", "restore", *(["gradients"] if task.is_pruned else [])]
        write_job(folder, JOB, settings={"quantize": None, "signatures": signatures, "holds_variables": True})
        file = ModelFile.open(convert_apart(folder, plain, quantize=None)).after(_store_once, _slim, _as_distances)
        task = replace(task, channels=_channels(plain, task))
        content = with_metadata(file.content, {METADATA: task.as_bytes()})
        progress.add()
        runtime, difference, exact_difference, rounding = _compare(content, data, expected, folder)
        progress.add()
    content = encode(content, compress)
    write_atomically(destination, content)
    return TrainerReport(
        path=str(destination),
        bytes=len(content),
        trained=sum(weight.count for weight in weights),
        entries=plain.count_params(),
        batch_size=batch_size,
        loss=task.loss,
        optimizer=task.optimizer,
        learning_rate=task.learning_rate,
        steps=_STEPS,
        difference=difference,
        exact_difference=exact_difference,
        rounding=rounding,
        runtime=runtime,
    )


# What is trained, with what, and on what.


@dataclass(frozen=True)
class _Recipe:
    """A loss, an optimizer and a batch size.

    Attributes:
        loss: A Loss of Keras, or a function of labels and outputs.
        optimizer: What builds an optimizer, as Keras serializes it.
        learning_rate: Its learning rate, which is an input of the file.
        batch: Samples in a step.
    """

    loss: Any
    optimizer: dict[str, Any]
    learning_rate: float
    batch: int

    @classmethod
    def of(cls, model: keras.Model, *, loss: Any, optimizer: Any, batch: int) -> _Recipe:
        compiled = getattr(model, "compiled", False)
        values = {"loss": loss, "optimizer": optimizer}
        for argument, value in values.items():
            if value is None and not (compiled and getattr(model, argument, None)):
                raise ArgumentError(
                    argument,
                    f"`{argument}`, or a model that was compiled with one",
                    found=f"None, and {model.name!r}, which is not compiled",
                    advice=f"Compile the model, or pass {argument}={'mse' if argument == 'loss' else 'adam'!r}.",
                )
        loss = model.loss if loss is None else loss
        if isinstance(loss, list | tuple | Mapping):
            raise ArgumentError("loss", "one loss", f"{loss!r}", advice="Pass loss=, of the one output.")
        optimizer = keras.optimizers.get(model.optimizer if optimizer is None else optimizer)
        config = keras.optimizers.serialize(optimizer)
        rate = float(as_numpy(keras.ops.convert_to_tensor(optimizer.learning_rate)))
        config["config"]["learning_rate"] = rate
        return cls(keras.losses.get(loss), config, rate, batch)

    @property
    def loss_name(self) -> str:
        return getattr(self.loss, "__name__", type(self.loss).__name__)

    @property
    def is_sum(self) -> bool:
        return getattr(self.loss, "reduction", None) == "sum"

    @property
    def takes_classes(self) -> bool:
        return "sparse" in re.sub(r"[^a-z]", "", self.loss_name.lower())

    @property
    def ignores_a_class(self) -> bool:
        """Whether a label outside of the classes is one of samples that do not count."""
        return getattr(self.loss, "ignore_class", None) is not None

    def value(self, labels: Any, outputs: Any, weight: Any) -> Any:
        """Return the loss of a batch, weighted by sample."""
        if isinstance(self.loss, keras.losses.Loss):
            return self.loss(labels, outputs, sample_weight=weight)
        losses = self.loss(labels, outputs)
        return keras.ops.mean(losses * keras.ops.reshape(weight, (-1, *[1] * (len(losses.shape) - 1))))

    def as_settings(self) -> dict[str, Any]:
        config = keras.losses.serialize(self.loss)
        return {"loss": config, "optimizer": self.optimizer, "rate": self.learning_rate, "batch": self.batch}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> _Recipe:
        loss = keras.losses.deserialize(settings["loss"])
        return cls(loss, settings["optimizer"], settings["rate"], settings["batch"])


def _check_shapes(model: keras.Model, inputs: Signature) -> None:
    if len(model.outputs) != 1:
        raise ArgumentError(
            "model",
            "a model with one output",
            found=f"{model.name!r}, which has {len(model.outputs)}",
            advice="Give one of them: keras.Model(model.inputs, model.outputs[0]).",
        )
    for entry in inputs.inputs:
        if None in entry.shape[1:]:
            raise ArgumentError(
                "model",
                "inputs whose shapes are known, except for the batch",
                found=f"{entry.name!r} of shape {shape_text(entry.shape)}",
                advice="Build the model with the length in keras.Input(shape).",
            )
        if entry.name in _RESERVED:
            raise ArgumentError(
                "model",
                f"inputs with other names than {', '.join(_RESERVED)}",
                found=repr(entry.name),
                advice="Rename the input: keras.Input(shape, name='x').",
            )


def _choose(model: keras.Model, trains: str | Sequence[str]) -> set[str]:
    """Return the paths of the weights that are trained."""
    weights = {weight.path: weight for weight in model.trainable_variables}
    if trains == "all":
        paths = set(weights)
    elif trains == "biases":
        paths = {path for path, weight in weights.items() if len(weight.shape) == 1}
    elif trains == "last":
        leaves = [layer for _, layer in Anatomy.of(model).leaves if layer.trainable_weights]
        paths = {weight.path for layer in leaves[-1:] for weight in layer.trainable_weights}
    else:
        expressions = [trains] if isinstance(trains, str) else trains
        if not isinstance(expressions, Sequence):
            raise ArgumentTypeError("trains", "`trains` to be a string or a list of them", repr(trains))
        compiled = [check_regex(each, "trains") for each in expressions]
        paths = {path for path in weights if any(each.search(path) for each in compiled)}
    if not paths:
        raise ArgumentError(
            "trains",
            f"`trains` to choose weights: {', '.join(map(repr, _PARTS))}, or a part of a path",
            found=f"{trains!r}, which chooses none of {', '.join(map(repr, list(weights)[:5]))}",
        )
    return paths


def _weights(source: keras.Model, plain: keras.Model, trained: set[str], max_density: float | None) -> list[Weight]:
    """Describe the weights that are trained, with the positions of entries that no mask hides."""
    masks = _masks(source, plain)
    weights = []
    for variable in plain.trainable_variables:
        if variable.path not in trained:
            continue
        mask = masks.get(variable.path)
        positions = None if mask is None else _positions(mask, max_density)
        weights.append(Weight(variable.path, tuple(variable.shape), positions))
    return weights


def _channels(model: keras.Model, task: Task) -> tuple[Any, ...]:
    """Return which weights make the channels of statistics, where masks may hide channels."""
    if not task.is_pruned or not task.statistics:
        return ()
    owners = statistics_owners(model, model.weights)
    return tuple(owners.as_lists(dict(enumerate(task.paths))))


def _positions(mask: np.ndarray, max_density: float | None) -> np.ndarray | None:
    """Return the flat positions of kept entries, and behind them room for others; None if all are kept for good."""
    kept = np.flatnonzero(mask).astype(np.int32)
    if max_density is None:
        return None if mask.all() else kept
    room = max(math.ceil(max_density * mask.size) - len(kept), 0)
    return np.pad(kept, (0, room), constant_values=mask.size)


def _masks(source: keras.Model, plain: keras.Model) -> dict[str, np.ndarray]:
    """Return the masks of kernels by path: those of the wrappers, or the zeros of a model without any."""
    owners = {
        id(kernel.variable): as_numpy(layer.masks[name]).astype(bool)
        for _, layer in wrappers(source)
        for name, kernel in layer.kernels.items()
    }
    if not owners:
        kernels = {weight.path: as_numpy(weight) != 0 for weight in plain.weights if len(weight.shape) > 1}
        return {path: mask for path, mask in kernels.items() if mask.any()}
    pairs = zip(_without_masks(source), plain.weights, strict=True)
    return {weight.path: owners[id(each)] for each, weight in pairs if id(each) in owners}


def _without_masks(model: keras.Model) -> list[keras.Variable]:
    """Return the weights of a model, wrapped or not, in the order of its stripped copy."""
    beside = {id(each) for _, layer in wrappers(model) for each in layer.saved_variables().values()}
    return [each for each in model.weights if id(each) not in beside]


@contextmanager
def _only_trained(model: keras.Model, paths: set[str]) -> Iterator[None]:
    """Let a layer of which nothing is trained compute as in inference; put all back afterwards."""
    layers = [layer for _, layer in Anatomy.of(model).leaves]
    before = [(each, each.trainable) for layer in layers for each in (*layer.weights, layer)]
    try:
        for layer in layers:
            weights = layer.trainable_weights
            if weights and not paths & {weight.path for weight in weights}:
                layer.trainable = False
        yield
    finally:
        for each, flag in before:
            each.trainable = flag


# Batches on which Keras and the file are compared.


def _samples(model: keras.Model, inputs: Signature, recipe: _Recipe, check_on: Any) -> dict[str, np.ndarray]:
    """Return the inputs and the labels of ten batches, by name."""
    count = _STEPS * recipe.batch
    if check_on is None:
        return inputs.random(count, model=model) | {LABELS: _random_labels(model, recipe, count)}
    if not isinstance(check_on, tuple) or len(check_on) != 2:
        raise ArgumentTypeError("check_on", "`check_on` to be a tuple (x, y)", type(check_on).__name__)
    arrays = inputs.arrays(check_on[0], "check_on")
    labels = np.asarray(check_on[1])
    rows = len(next(iter(arrays.values())))
    if len(labels) != rows or not rows:
        raise ArgumentError("check_on", "as many labels as samples, at least one", f"{rows} and {len(labels)}")
    labels = labels.astype(np.int32 if np.issubdtype(labels.dtype, np.integer) else np.float32)
    order = np.arange(count) % rows
    return {name: array[order] for name, array in (arrays | {LABELS: labels}).items()}


def _random_labels(model: keras.Model, recipe: _Recipe, count: int) -> np.ndarray:
    random, shape = np.random.default_rng(0), model.outputs[0].shape
    if recipe.takes_classes:
        return random.integers(0, shape[-1], (count, *shape[1:-1])).astype(np.int32)
    name = recipe.loss_name.lower()
    if "categorical" in name or "kl" in name:
        return np.eye(shape[-1], dtype=np.float32)[random.integers(0, shape[-1], (count, *shape[1:-1]))]
    if "binary" in name:
        return random.integers(0, 2, (count, *shape[1:])).astype(np.float32)
    return random.standard_normal((count, *shape[1:])).astype(np.float32)


# Trace the signatures, and train the same steps by Keras, where TensorFlow is.


def _traced(
    model: keras.Model,
    inputs: Signature,
    recipe: _Recipe,
    weights: Sequence[Weight],
    data: Mapping[str, np.ndarray],
    folder: Path,
) -> tuple[Task, dict[str, np.ndarray]]:
    """Write the SavedModel of the signatures; return what the file does, and what Keras gives for these batches."""
    with in_float32(model):
        if keras.backend.backend() == "tensorflow":
            return _trace(model, inputs, recipe, weights, data, folder)
        things = write_copy(model, folder)
    positions = {weight.path: weight.positions for weight in weights if weight.positions is not None}
    arrays = {f"data/{name}": array for name, array in data.items()}
    arrays |= {f"positions/{path}": each for path, each in positions.items()}
    settings = {"things": things, "trained": [weight.path for weight in weights], **recipe.as_settings()}
    write_job(folder, _TRACED, settings=settings, arrays=arrays)
    completed = run_job(_trace_copy, folder, timeout=_TIMEOUT, environment=_ENVIRONMENT, package="tensorflow")
    if not completed.ok:
        raise ValueError(f"Expected a model that TensorFlow can train. Received: {completed.reason}.")
    settings, arrays = read_job(folder, _TRACED)
    return Task.from_bytes(json.dumps(settings).encode()), arrays


def _trace_copy(folder: Path) -> None:
    """Do the job of `_traced` in a process on TensorFlow."""
    settings, arrays = read_job(folder, _TRACED)
    model = read_copy(folder, settings["things"])
    weights = [
        Weight(each.path, tuple(each.shape), arrays.get(f"positions/{each.path}"))
        for each in model.trainable_variables
        if each.path in settings["trained"]
    ]
    data = {name.removeprefix("data/"): array for name, array in arrays.items() if name.startswith("data/")}
    recipe = _Recipe.from_settings(settings)
    task, expected = _trace(model, signature(model), recipe, weights, data, folder)
    write_job(folder, _TRACED, settings=json.loads(task.as_bytes()), arrays=expected)


def _trace(
    model: keras.Model,
    inputs: Signature,
    recipe: _Recipe,
    weights: Sequence[Weight],
    data: Mapping[str, np.ndarray],
    folder: Path,
) -> tuple[Task, dict[str, np.ndarray]]:
    try:
        import tensorflow as tf
    except ImportError as error:
        raise ValueError(
            f"Expected TensorFlow, which differentiates the model. Received: {error}. Run {install('train')}."
        ) from error
    register_gradients(tf)
    with _only_trained(model, {weight.path for weight in weights}):
        steps = _Steps(tf, model, inputs, recipe, weights, labels=data[LABELS])
        expected = steps.by_keras(data)
        with unrolled(model):  # loops have no gradient in TFLite
            steps.write(folder / SAVED_MODEL)
    return steps.task(), expected


class _Steps:
    """The signatures of a file, traced by TensorFlow.

    Args:
        tf: TensorFlow.
        model: A model without wrappers.
        inputs: Its inputs.
        recipe: What trains it.
        weights: What is trained.
        labels: Labels of the type and the shape that the file takes.
    """

    def __init__(
        self,
        tf: Any,
        model: keras.Model,
        inputs: Signature,
        recipe: _Recipe,
        weights: Sequence[Weight],
        *,
        labels: np.ndarray,
    ) -> None:
        self._tf, self._model, self._inputs, self._recipe, self._weights = tf, model, inputs, recipe, weights
        self._labels = tf.TensorSpec((recipe.batch, *labels.shape[1:]), labels.dtype, name=LABELS)
        by_path = {variable.path: variable for variable in model.trainable_variables}
        values = [weight.values(as_numpy(by_path[weight.path])) for weight in weights]
        self._values = [keras.Variable(each, dtype="float32", name=f"values_{n}") for n, each in enumerate(values)]
        self._positions = {
            weight.path: tf.Variable(weight.positions[:, None], name=f"{_POSITIONS}_{n}")
            for n, weight in enumerate(weights)
            if weight.positions is not None
        }
        self._optimizer = keras.optimizers.deserialize(recipe.optimizer)
        self._optimizer.build(self._values)
        layers = [layer for _, layer in Anatomy.of(model).leaves if layer.trainable]
        statistics = [each for layer in layers for each in layer.non_trainable_weights if each.dtype == "float32"]
        self._statistics = {
            each.path: keras.Variable(as_numpy(each), trainable=False, name=f"statistic_{n}")
            for n, each in enumerate(statistics)
        }

        paths = {weight.path for weight in weights}
        frozen = [each for each in model.trainable_variables if each.path not in paths]
        self._constants = {each.path: as_numpy(each).copy() for each in frozen}
        self._fixed = [as_numpy(each).copy() for each in model.non_trainable_variables]

    def task(self) -> Task:
        """Describe the file."""
        recipe, output = self._recipe, self._model.outputs[0].shape
        return Task(
            loss=recipe.loss_name,
            optimizer=type(self._optimizer).__name__,
            learning_rate=recipe.learning_rate,
            batch=recipe.batch,
            inputs=tuple(self._inputs.names),
            classes=int(output[-1]) if recipe.takes_classes and not recipe.ignores_a_class else None,
            is_sum=recipe.is_sum,
            weights=tuple(self._weights),
            statistics=tuple(self._statistics),
            slots=tuple(map(_owner, self._optimizer.variables)),
            paths=tuple(each.path for each in self._model.weights),
        )

    def by_keras(self, data: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Train the batches with the layers and the functions of Keras as they are, and put the weights back.

        Returns:
            The losses, those of layers that compute in float64 (NaN if a layer cannot), and the outputs of the first
            batch before training.
        """
        model = self._model
        first = {name: data[name][: self._recipe.batch] for name in self._inputs.names}
        outputs = as_numpy(model(self._inputs.pack(first), training=False))
        losses = self._keras_losses(data)
        try:
            with in_float64(model):
                exact_losses = self._keras_losses(data)
        except (
            TypeError,
            ValueError,
            self._tf.errors.OpError,
        ):  # a layer with constants of float32, or such a kernel
            exact_losses = np.full(len(losses), np.nan)
        return {"losses": losses, "exact_losses": exact_losses, "outputs": outputs}

    def _keras_losses(self, data: Mapping[str, np.ndarray]) -> np.ndarray:
        model, tf = self._model, self._tf
        before = [as_numpy(each).copy() for each in model.variables]
        by_path = {variable.path: variable for variable in model.trainable_variables}
        variables = [by_path[weight.path] for weight in self._weights]
        masks = [weight.mask().astype(np.float32) for weight in self._weights]
        optimizer = keras.optimizers.deserialize(self._recipe.optimizer)
        optimizer.build(variables)
        step = tf.function(functools.partial(self._keras_step, optimizer, variables, masks))
        try:
            batches = [{name: tf.constant(each[part]) for name, each in data.items()} for part in self._parts()]
            return np.array([float(step(values, tf.constant([n]))) for n, values in enumerate(batches)])
        finally:
            for variable, value in zip(model.variables, before, strict=True):
                variable.assign(value)

    def _parts(self) -> list[slice]:
        return [slice(n * self._recipe.batch, (n + 1) * self._recipe.batch) for n in range(_STEPS)]

    def _keras_step(
        self, optimizer: Any, variables: Sequence[Any], masks: Sequence[Any], values: dict[str, Any], seed: Any
    ) -> Any:
        """Train one batch, and return its loss."""
        tf, inputs = self._tf, {name: values[name] for name in self._inputs.names}
        with tf.GradientTape() as tape, trainable_dropout(tf, seed):
            outputs = tf.cast(self._model(self._inputs.pack(inputs), training=True), tf.float32)
            loss = self._recipe.value(values[LABELS], outputs, tf.ones((self._recipe.batch,)))
            loss = tf.add_n([loss, *(tf.cast(each, loss.dtype) for each in self._model.losses)])
        gradients = tape.gradient(loss, [each.value for each in variables])
        pairs = zip(gradients, masks, strict=True)
        optimizer.apply([tf.convert_to_tensor(each) * mask for each, mask in pairs], variables)
        return loss

    def write(self, folder: Path) -> None:
        """Write the SavedModel."""
        tf, state = self._tf, self._state()
        home = tf.Module()
        home.state = state
        inputs = self._specs(self._recipe.batch)
        weight = tf.TensorSpec((self._recipe.batch,), name=WEIGHT)
        labeled = {**inputs, LABELS: self._labels, WEIGHT: weight}
        training = {**labeled, RATE: tf.TensorSpec((1,), name=RATE), SEED: tf.TensorSpec((1,), tf.int32, name=SEED)}
        stored = {
            f"state_{n}": tf.TensorSpec(_at_least_1d(each.shape), each.dtype, name=f"state_{n}")
            for n, each in enumerate(state)
        }
        specs = {
            "train": (self._train, training),
            "evaluate": (self._evaluate, labeled),
            "infer": (self._infer, self._specs(None)),
            "save": (self._save, {}),
            "restore": (self._restore, stored),
        }
        if any(each.positions is not None for each in self._weights):
            specs["gradients"] = (self._gradients, {**labeled, SEED: training[SEED]})
        home.functions = {
            name: tf.function(function).get_concrete_function(**arguments)
            for name, (function, arguments) in specs.items()
        }
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(home, str(folder), signatures=home.functions, options=options)

    def _specs(self, batch: int | None) -> dict[str, Any]:
        return {
            entry.name: self._tf.TensorSpec((batch or entry.shape[0], *entry.shape[1:]), entry.dtype, name=entry.name)
            for entry in self._inputs.inputs
        }

    def _state(self) -> list[Any]:
        variables = [*self._values, *self._statistics.values(), *self._optimizer.variables]
        return [*(each.value for each in variables), *self._positions.values()]

    def _train(self, **values: Any) -> dict[str, Any]:
        tf = self._tf
        rate, seed = values.pop(RATE), values.pop(SEED)
        with trainable_forms(tf, seed=seed):
            entries = [tf.convert_to_tensor(each.value) for each in self._values]
            loss, _, statistics = self._forward(self._dense(entries), values, training=True)
            gradients = tf.gradients(loss, entries, unconnected_gradients="zero")
        self._optimizer.learning_rate.assign(tf.reshape(rate, ()))
        self._optimizer.apply([tf.convert_to_tensor(each) for each in gradients], self._values)
        for variable, value in zip(self._statistics.values(), statistics, strict=True):
            variable.assign(value)
        total = tf.add_n([tf.reduce_sum(tf.abs(each.value)) for each in self._values])  # NaN if one entry is
        return {"loss": tf.reshape(loss, (1,)), "total": tf.reshape(total, (1,))}

    def _gradients(self, **values: Any) -> dict[str, Any]:
        tf = self._tf
        with trainable_forms(tf, seed=values.pop(SEED)):
            dense = self._dense([tf.convert_to_tensor(each.value) for each in self._values])
            loss, *_ = self._forward(dense, values, training=True)
            gradients = tf.gradients(loss, dense, unconnected_gradients="zero")
        named = {f"gradient_{n}": tf.convert_to_tensor(each) for n, each in enumerate(gradients)}
        return {"loss": tf.reshape(loss, (1,)), **named}

    def _evaluate(self, **values: Any) -> dict[str, Any]:
        dense = self._dense([self._tf.convert_to_tensor(each.value) for each in self._values])
        loss, outputs, _ = self._forward(dense, values, training=False)
        return {"loss": self._tf.reshape(loss, (1,)), "outputs": outputs}

    def _infer(self, **values: Any) -> dict[str, Any]:
        dense = self._dense([self._tf.convert_to_tensor(each.value) for each in self._values])
        return {"outputs": self._called(dense, values, training=False)[0]}

    def _save(self) -> dict[str, Any]:
        tf = self._tf
        return {f"state_{n}": tf.reshape(each, _at_least_1d(each.shape)) for n, each in enumerate(self._state())}

    def _restore(self, **values: Any) -> dict[str, Any]:
        for n, variable in enumerate(self._state()):
            variable.assign(self._tf.reshape(values[f"state_{n}"], variable.shape))
        return {"done": self._tf.ones((1,))}

    def _dense(self, values: Sequence[Any]) -> list[Any]:
        """Return the weights in their shapes: values go to their positions, and those behind the end nowhere."""
        tf, dense = self._tf, []
        for weight, value in zip(self._weights, values, strict=True):
            if weight.positions is not None:
                size = math.prod(weight.shape)
                places = tf.convert_to_tensor(self._positions[weight.path])
                value = tf.reshape(tf.slice(tf.scatter_nd(places, value, (size + 1,)), (0,), (size,)), weight.shape)
            dense.append(value)
        return dense

    def _forward(self, dense: Sequence[Any], values: dict[str, Any], *, training: bool) -> tuple[Any, Any, list[Any]]:
        """Return the loss, the outputs and the new statistics."""
        labels, weight = values.pop(LABELS), values.pop(WEIGHT)
        outputs, statistics, others = self._called(dense, values, training=training)
        loss = self._recipe.value(labels, outputs, weight)
        return loss + self._tf.add_n(others) if others else loss, outputs, statistics

    def _called(
        self, dense: Sequence[Any], values: Mapping[str, Any], *, training: bool
    ) -> tuple[Any, list[Any], list[Any]]:
        tf, model = self._tf, self._model
        by_path = dict(zip([weight.path for weight in self._weights], dense, strict=True))
        weights = [by_path.get(each.path, self._constants.get(each.path)) for each in model.trainable_variables]
        before = [
            tf.convert_to_tensor(self._statistics[each.path].value if each.path in self._statistics else constant)
            for each, constant in zip(model.non_trainable_variables, self._fixed, strict=True)
        ]
        outputs, after, losses = model.stateless_call(
            weights, before, self._inputs.pack(values), training=training, return_losses=True
        )
        new = {each.path: value for each, value in zip(model.non_trainable_variables, after, strict=True)}
        return outputs, [new[path] for path in self._statistics], losses


def _owner(slot: keras.Variable) -> int:
    """Return the index of the weight that an array of an optimizer belongs to, which its name tells; -1 for none."""
    number = re.search(r"values_(\d+)(?:_|$)", slot.path)
    return int(number[1]) if number else -1


def _at_least_1d(shape: Any) -> tuple[int, ...]:
    return tuple(shape) or (1,)


# Make the file smaller.


def _store_once(model: schema.ModelT) -> bool:
    """Let steps compute the kernels that gradients read with their axes in another order, and store each once."""
    known: dict[bytes, list[tuple[int, np.ndarray]]] = {}
    buffers, changed = set(), False
    for graph in model.subgraphs:
        constants = ((n, tensor) for n, tensor in enumerate([*graph.tensors]) if tensor.buffer not in buffers)
        for index, tensor in constants:
            data = _data(model, tensor)
            if len(data) < _WORTH_IT or tensor.type != schema.TensorType.FLOAT32:
                continue
            values = np.asarray(data, np.uint8).view("<f4").reshape(tensor.shape) + np.float32(0)  # no negative zeros
            alike = known.setdefault(np.sort(values, axis=None).tobytes(), [])
            pair = next(((buffer, order) for buffer, each in alike if (order := _order(each, values))), None)
            if pair is None:
                alike.append((tensor.buffer, values))
                buffers.add(tensor.buffer)
            else:
                _reorder(model, graph, index, buffer=pair[0], order=pair[1])
                changed = True
    return changed


def _order(stored: np.ndarray, values: np.ndarray) -> tuple[int, ...]:
    """Return the order of the axes of some values in which they stand in other values; empty if in none."""
    orders = itertools.permutations(range(values.ndim))
    return next((each for each in orders if np.array_equal(values.transpose(each).ravel(), stored.ravel())), ())


def _reorder(
    model: schema.ModelT, graph: schema.SubGraphT, index: int, *, buffer: int, order: tuple[int, ...]
) -> None:
    """Make a constant the transpose of another one, in which its axes stand in this order."""
    tensor = graph.tensors[index]
    shape = np.array([tensor.shape[axis] for axis in order], np.int32)
    source = add_tensor(graph, tensor, shape=shape, buffer=buffer)
    back = add_constant(model, graph, name=b"", values=np.argsort(order).astype(np.int32))
    add_operator(
        model, graph, name="TRANSPOSE", inputs=[source, back], outputs=[index], options=schema.TransposeOptionsT()
    )
    tensor.buffer = 0


def _slim(model: schema.ModelT) -> bool:
    """Leave out what takes a fifth of the graphs and says nothing: names, empty scales and empty buffers."""
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            tensor.name = None  # signatures have names of their own
            if tensor.quantization is not None and tensor.quantization.scale is None:
                tensor.quantization = None
            if not len(_data(model, tensor)):
                tensor.buffer = 0
    return True


def _as_distances(model: schema.ModelT) -> bool:
    """Store positions as distances from one to the next, of a byte each: the file adds them up when it is loaded."""
    changed = False
    for graph in model.subgraphs:
        names = {
            int(operator.outputs[0]): operator.builtinOptions.sharedName
            for operator in graph.operators
            if operator_name(model, operator) == "VAR_HANDLE"
        }
        for operator in [each for each in graph.operators if operator_name(model, each) == "ASSIGN_VARIABLE"]:
            handle, index = inputs_of(operator)
            data = _data(model, graph.tensors[index])
            if not names.get(handle, b"").startswith(_POSITIONS.encode()) or not len(data):
                continue
            distances = np.diff(np.asarray(data, np.uint8).view("<i4"), prepend=np.int32(0))
            if distances.max() <= np.iinfo(np.uint8).max:
                _add_up(model, graph, operator, distances.astype(np.uint8))
                changed = True
    return changed


def _add_up(model: schema.ModelT, graph: schema.SubGraphT, assign: schema.OperatorT, distances: np.ndarray) -> None:
    """Let an operator assign the sums of distances."""
    types, shape = schema.TensorType, np.array([len(distances), 1], np.int32)
    source = add_constant(model, graph, name=b"", values=distances[:, None])
    axis = add_constant(model, graph, name=b"", values=np.zeros((), np.int32))
    numbers, sums = (add_tensor(graph, schema.TensorT(type=types.INT32, shape=shape, buffer=0)) for _ in range(2))
    assign.inputs = np.array([assign.inputs[0], sums], np.int32)
    options = schema.CumsumOptionsT()
    add_operator(model, graph, name="CUMSUM", inputs=[numbers, axis], outputs=[sums], options=options)
    cast = schema.CastOptionsT(inDataType=types.UINT8, outDataType=types.INT32)
    add_operator(model, graph, name="CAST", inputs=[source], outputs=[numbers], options=cast)


def _data(model: schema.ModelT, tensor: schema.TensorT) -> Any:
    data = model.buffers[tensor.buffer].data
    return () if data is None else data


# Compare, and bring what was learned back.


def _compare(
    content: bytes, data: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], folder: Path
) -> tuple[str, float, float | None, float | None]:
    """Train the batches by the file in another process; refuse losses and outputs that differ."""
    (folder / f"{CHECK}.tflite").write_bytes(content)
    write_job(folder, CHECK, arrays=data)
    completed = run_job(run_steps, folder, timeout=_TIMEOUT)
    if not completed.ok:
        raise ValueError(f"Expected a file that LiteRT trains. Received: {completed.reason}. Nothing was written.")
    settings, arrays = read_job(folder, RESULT)
    outputs, wanted = arrays["outputs"], expected["outputs"]
    error, limit = (
        float(np.abs(outputs - wanted).max(initial=0)),
        _CLOSE_OUTPUTS * float(np.abs(wanted).max(initial=0)),
    )
    if not error <= limit:
        raise ValueError(
            f"Expected outputs before training within {limit:.3g} of Keras'. Received: a difference of {error:.3g}. "
            "Nothing was written."
        )
    losses, exact = expected["losses"], expected["exact_losses"]
    size = np.maximum(1, np.abs(losses))
    difference, from_exact, rounding = (
        np.abs(one - other) / size
        for one, other in ((arrays["losses"], losses), (arrays["losses"], exact), (losses, exact))
    )
    if (difference <= _CLOSE).all():
        return settings["runtime"], float(difference.max()), None, None
    allowed = np.maximum(_CLOSE, 2 * np.maximum.accumulate(rounding))
    if (from_exact <= allowed).all():
        return settings["runtime"], float(difference.max()), float(from_exact.max()), float(rounding.max())
    excess = difference - _CLOSE if np.isnan(exact).any() else from_exact - allowed
    step = int(np.argmax(excess))
    raise ValueError(
        f"Expected losses within {_CLOSE:g} of Keras', or as close to float64 as Keras is. Received: in step "
        f"{step + 1} the loss {arrays['losses'][step]:.7g}, where Keras has {losses[step]:.7g}, and "
        f"{exact[step]:.7g} in float64. Nothing was written. If rounding decides, as in deep models, a smaller "
        "learning rate helps: the device can choose another."
    )


def load_trained(model: keras.Model, trainer: Trainer) -> None:
    """Set the weights, statistics and masks that a trainer has learned in the model that was exported.

    Args:
        model: The model that `to_trainer` exported, or one of the same layers, wrapped or not. It changes.
        trainer: The trainer; `load` a state from a device into it first.

    Raises:
        TypeError: If an argument has another type.
        ValueError: If the model is of other layers. It is then as before.

    Example:
        >>> trainer = Trainer("digits_trainer.tfz")
        >>> trainer.load("learned.npz")
        >>> load_trained(model, trainer)
    """
    check_keras(model, keras.Model)
    if not isinstance(trainer, Trainer):
        raise ArgumentTypeError("trainer", "a tfprune.export.Trainer", type(trainer).__name__)
    weights, masks, in_order = trainer.weights, trainer.masks, _without_masks(model)
    variables = dict(zip(trainer.task.paths, in_order, strict=False))
    shapes = {path: tuple(variables[path].shape) if path in variables else None for path in weights}
    other = next((path for path, value in weights.items() if shapes[path] != value.shape), None)
    if other is not None or len(in_order) != len(trainer.task.paths):
        raise ArgumentError(
            "trainer",
            f"a trainer of {model.name!r}",
            found=f"one of another model, with {other or trainer.task.paths[-1]!r}",
            advice="Give the model that was exported.",
        )
    owners = {
        id(kernel.variable): (layer, name) for _, layer in wrappers(model) for name, kernel in layer.kernels.items()
    }
    for path, value in weights.items():
        variable = variables[path]
        if id(variable) in owners and path in masks:
            layer, name = owners[id(variable)]
            layer.set_mask(name, masks[path])
        variable.assign(value)
