"""Data and training: batches, compiled losses and metrics, variables of optimizers, and token ids."""

from __future__ import annotations

import itertools
import math
import numbers
import operator
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from tfprune.base.limit import refuse_text
from tfprune.base.spec import ArgumentError, ArgumentTypeError, call_it, check_choice
from tfprune.models.anatomy import check_keras, recurrent_states, walk
from tfprune.models.graph import Graph

# Data, read batch by batch, each checked before it reaches the model.

_ROWS = 32  # of arrays in one batch, as in `fit` and `predict`


class Batch(NamedTuple):
    """Inputs, and what is known of them; any may be a structure of arrays.

    `classes` are the labels that criteria compare, where `y` numbers the classes of one episode only.
    """

    x: Any
    y: Any = None
    sample_weight: Any = None
    classes: Any = None


def check_kind(data: Any, *, argument: str = "data") -> None:
    """Refuse what holds no batches.

    Args:
        data: What the user passed.
        argument: The name it was passed under, for the message.

    Raises:
        TypeError: If `batches` cannot read it.
    """
    is_known = isinstance(data, (Iterable, keras.utils.PyDataset)) or hasattr(data, "shape")
    if isinstance(data, (str, bytes)) or not is_known:
        raise ArgumentTypeError(
            argument,
            f"`{argument}` to be a tuple (x, y) of arrays, a dataset, or an iterable of batches",
            found=f"an object of type {type(data).__name__}",
            advice=call_it(data),
        )


def check_source(data: Any, *, argument: str = "data") -> None:
    """Refuse what holds no batches, or never ends.

    Raises:
        TypeError: If `batches` cannot read it.
        ValueError: If it is a dataset without an end.
    """
    check_kind(data, argument=argument)
    endless = hasattr(data, "cardinality") and int(data.cardinality()) == -1
    if endless or (isinstance(data, keras.utils.PyDataset) and data.num_batches is None):
        raise ArgumentError(
            argument,
            f"`{argument}` to end",
            found="a dataset without an end, as after repeat()",
            advice=f"Pass a part of it, such as {argument}.take(100).",
        )


def batches(
    data: Any, *, rows: int | None = _ROWS, inputs: int | None = None, argument: str = "data"
) -> Iterator[Batch]:
    """Yield the batches of arrays, a dataset or an iterable.

    Args:
        data: A tuple (x,), (x, y) or (x, y, sample weights) of arrays, or x alone, cut into batches; a
            `tf.data.Dataset`, a `keras.utils.PyDataset` or an iterable, of batches in one of these forms.
        rows: Samples in a batch of arrays; None takes all of them as one batch.
        inputs: Number of inputs of the model. With several, a list or tuple of arrays is x. With one, a batch may be
            a list [x, y], as PyTorch's loaders give it. None, if it is not known, takes a tuple as (x, y), a list
            of arrays in a batch as x.
        argument: The name that the user passed `data` under, for messages.

    Raises:
        TypeError: If a batch holds numbers in lists instead of arrays.
        ValueError: If there is no sample, a batch has more parts than (x, y, sample weights), or its arrays differ
            in length.
    """
    is_empty = True
    for batch in _read(data, rows, inputs, argument):
        if size_of(batch, argument=argument):
            is_empty = False
            yield batch
    if is_empty:
        raise ArgumentError(
            argument, f"`{argument}` with at least one sample", found="none", advice="Is an iterator used up?"
        )


def _read(data: Any, rows: int | None, inputs: int | None, argument: str) -> Iterator[Batch]:
    if hasattr(data, "shape") or isinstance(data, (Mapping, tuple)) or _is_list_of_inputs(data, inputs):
        yield from _cut(_as_batch(data, inputs, argument), rows, argument)
    elif isinstance(data, keras.utils.PyDataset):
        indices = itertools.count() if data.num_batches is None else range(data.num_batches)
        yield from (_as_batch(data[index], inputs, argument) for index in indices)
    else:
        yield from (_as_batch(batch, inputs, argument) for batch in data)


def _is_list_of_inputs(value: Any, inputs: int | None) -> bool:
    """Return True if a value is x of a model with several inputs: in (x, y), x would hold several arrays itself."""
    return (inputs or 0) > 1 and isinstance(value, (list, tuple)) and all(hasattr(part, "shape") for part in value)


def _as_batch(value: Any, inputs: int | None, argument: str) -> Batch:
    if isinstance(value, Batch):
        return Batch(*keras.tree.map_structure(np.asarray, tuple(value), none_is_leaf=False))
    has_parts = isinstance(value, tuple) or (inputs == 1 and isinstance(value, list))
    parts = tuple(value) if has_parts and not _is_list_of_inputs(value, inputs) else (value,)
    check_holds_arrays(parts, argument=argument)
    if not 1 <= len(parts) <= 3:
        raise ArgumentError(
            argument, f"batches (x,), (x, y) or (x, y, sample weights) in `{argument}`", found=f"{len(parts)} parts"
        )
    parts = tuple(dict(part) if isinstance(part, Mapping) else part for part in parts)
    return Batch(*keras.tree.map_structure(np.asarray, parts, none_is_leaf=False))


def check_holds_arrays(structure: Any, *, argument: str) -> None:
    """Refuse numbers in lists, of which each would count as an array.

    Raises:
        TypeError: If there are any.
    """
    if any(isinstance(leaf, numbers.Number) for leaf in keras.tree.flatten(structure)):
        raise ArgumentTypeError(
            argument,
            f"NumPy arrays in `{argument}`",
            found="numbers in a list or tuple",
            advice="Pass the numbers of each input as one NumPy array, such as numpy.array(x).",
        )


def _cut(whole: Batch, rows: int | None, argument: str) -> Iterator[Batch]:
    size = size_of(whole, argument=argument)
    step = rows or size
    for start in range(0, size, step or 1):
        part = operator.itemgetter(slice(start, start + step))
        yield Batch(*keras.tree.map_structure(part, tuple(whole), none_is_leaf=False))


def _arrays(structure: Any) -> list[np.ndarray]:
    return [leaf for leaf in keras.tree.flatten(structure) if leaf is not None]


def size_of(batch: Batch, *, argument: str = "data") -> int:
    """Return the number of samples in a batch.

    Raises:
        ValueError: If its arrays differ in it, or one is a single number.
    """
    arrays = _arrays(tuple(batch))
    if not all(array.ndim for array in arrays):
        raise ArgumentError(
            argument,
            f"batches in `{argument}`",
            found="single samples, some of whose parts are numbers without an axis",
            advice=f"Batch a dataset first: {argument}.batch(32).",
        )
    sizes = sorted({array.shape[0] for array in arrays})
    if len(sizes) > 1:
        raise ArgumentError(
            argument, f"the arrays of `{argument}` to have the same number of samples", found=str(sizes)
        )
    return sizes[0] if sizes else 0


def check_batch(batch: Batch, model: keras.layers.Layer, *, argument: str = "data") -> None:
    """Refuse a batch that the model cannot take.

    Raises:
        ValueError: If its arrays differ in length, have another shape than the model's inputs, or hold NaN or
            infinity.
    """
    size_of(batch, argument=argument)
    inputs = getattr(model, "inputs", None)  # subclassed models have none
    if inputs:
        expected = [tuple(tensor.shape) for tensor in inputs]
        received = [array.shape for array in _in_order(batch.x, inputs)]
        if len(expected) != len(received) or not all(map(_fits, received, expected)):
            raise ArgumentError(
                argument,
                f"`{argument}` with inputs of shape {_listed(expected)}, as {model.name!r} takes",
                found=_listed(received),
            )
    for array in _arrays(tuple(batch)):
        if np.issubdtype(array.dtype, np.inexact) and not np.isfinite(array).all():
            raise ArgumentError(
                argument, f"finite numbers in `{argument}`", found="NaN or infinity", advice="Clean the data first."
            )


def _in_order(x: Any, inputs: list[keras.KerasTensor]) -> list[np.ndarray]:
    """Return the arrays for the inputs of a model in its order, which a dict need not have."""
    names = [tensor.name for tensor in inputs]
    is_named = isinstance(x, dict) and set(names) <= x.keys()
    return _arrays([x[name] for name in names] if is_named else x)


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(
        wanted in (None, size) for size, wanted in zip(shape, expected, strict=True)
    )


def _listed(shapes: list[tuple]) -> str:
    return ", ".join(map(str, shapes)) or "none"


def classes_of(batch: Batch) -> np.ndarray:
    """Return the class of each sample of a batch, (samples,).

    Raises:
        ValueError: If there are no labels, or they are neither integers nor one-hot.
    """
    if batch.y is None:
        raise ArgumentError(
            "data",
            "`data` with class labels, which the criterion compares",
            found="inputs only",
            advice="Pass (x, y).",
        )
    if not isinstance(batch.y, np.ndarray):
        raise ArgumentError("data", "one array of class labels in `data`", found=f"a {type(batch.y).__name__}")
    labels = batch.y if batch.classes is None else batch.classes
    if labels.ndim == 2 and labels.shape[1] > 1:
        is_one_hot = np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all()
        labels = labels.argmax(axis=1) if is_one_hot else labels
    labels = labels.reshape(-1) if labels.shape[1:] == (1,) else labels
    refuse_text(labels, "data")
    if labels.ndim != 1 or not np.array_equal(labels, labels.astype(np.int64)):
        raise ArgumentError(
            "data",
            "class labels in `data`: integers of shape (samples,), or one-hot",
            found=f"shape {batch.y.shape}, dtype {batch.y.dtype}",
        )
    return labels.astype(np.int64)


class Batches:
    """Data for a graph model that are read again and again.

    Args:
        data: Anything that `batches` reads, except an iterator.
        model: The model.
        batch_size: Samples in a batch of arrays; a dataset is already batched.
        argument: The name that the user passed `data` under, for messages.
        is_for_loss: Whether a loss is measured, which sample weights would change.

    Raises:
        TypeError: If `data` is of another type, or can be read only once.
        ValueError: If `data` is a dataset without an end.
    """

    def __init__(
        self,
        data: Any,
        model: keras.Model,
        *,
        batch_size: int,
        argument: str = "data",
        is_for_loss: bool = False,
    ) -> None:
        check_source(data, argument=argument)
        if isinstance(data, Iterator):
            raise ArgumentTypeError(
                argument,
                f"`{argument}` that can be read more than once",
                found=f"an iterator of type {type(data).__name__}",
                advice="Pass a list of its batches.",
            )
        self._data, self._model, self._rows, self._argument = data, model, batch_size, argument
        self._is_for_loss = is_for_loss

    def __iter__(self) -> Iterator[tuple[list[np.ndarray], Any]]:
        """Yield the arrays for the inputs of the model, in order, and the targets, None if there are none.

        Raises:
            ValueError: If there is no sample, the data do not fit the model, or they hold NaN or infinity.
            ValueError: If a loss is to be measured, and there are sample weights.
        """
        inputs = self._model.inputs
        for batch in batches(self._data, rows=self._rows, inputs=len(inputs), argument=self._argument):
            check_batch(batch, self._model, argument=self._argument)
            if self._is_for_loss and batch.sample_weight is not None:
                raise ValueError(
                    f"Expected (x, y) without sample weights in `{self._argument}`: the loss is the mean over all "
                    f"labels. Received: (x, y, sample weights). Leave the weights out, and for text pass full "
                    f"windows without padding."
                )
            yield _in_order(batch.x, inputs), batch.y


# What a model is compiled with, and copies that train and are judged as it is.

_METRIC_MODES = ("max", "min")
_OF_A_STEP = ("train_step", "compute_loss", "compute_metrics")


def check_compiled(model: Any) -> None:
    """Refuse what cannot be trained or judged.

    Raises:
        TypeError: If it is not a model.
        ValueError: If it is not compiled.
    """
    check_keras(model)
    if not model.compiled:
        raise ArgumentError(
            "model",
            "a compiled model",
            found=f"{model.name!r}, which is not",
            advice="Call model.compile(loss=..., metrics=[...]) first.",
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
    own = [getattr(type(model), name) is not getattr(keras.Model, name) for name in _OF_A_STEP]
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
        raise ArgumentError(
            "metric",
            f"`metric` to be one of {', '.join(map(repr, values))}",
            repr(metric),
            advice=f"Compile the model with metrics=[{metric!r}] to have it.",
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
        raise ArgumentTypeError("metric", "`metric` to be a name, such as 'accuracy' or 'loss'", repr(metric))
    mode = mode or mode_of(metric)
    if mode is None:
        raise ArgumentError(
            "mode",
            "`mode` with a metric that is not an accuracy or a loss",
            "None",
            advice=f"Pass mode='max' if a larger {metric!r} is better, or mode='min' if a smaller one is.",
            beside={"metric": metric},
        )
    check_choice(mode, "mode", choices=_METRIC_MODES)
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
            raise ArgumentError(
                argument, f"`{argument}` to be (x, y) or (x, y, sample weights)", found=f"{len(data)} parts"
            )
        for labels in keras.tree.flatten(data[1]):
            if isinstance(labels, (np.ndarray, str)):
                refuse_text(np.asarray(labels), argument)
        return dict(zip(("x", "y", "sample_weight"), data, strict=False))
    is_set = hasattr(data, "__iter__") or hasattr(data, "__getitem__")
    if not is_set or hasattr(data, "shape") or isinstance(data, (Iterator, list, dict, str)):
        raise ArgumentTypeError(
            argument,
            f"`{argument}` to be a tuple (x, y), or a dataset that can be read again and again, such as a "
            f"tf.data.Dataset",
            found=f"an object of type {type(data).__name__}",
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


# The variables that an optimizer keeps for each weight: momentum, second moments, averages.


def optimizers_of(model: keras.layers.Layer) -> list[keras.optimizers.Optimizer]:
    """Return the optimizers that a model holds, `model.optimizer` first; one with steps of its own may have more."""
    first = getattr(model, "optimizer", None)
    others = [value for value in vars(model).values() if isinstance(value, keras.optimizers.Optimizer)]
    return ([] if first is None else [first]) + [optimizer for optimizer in others if optimizer is not first]


def inner_optimizers(optimizer: keras.optimizers.Optimizer) -> list[keras.optimizers.Optimizer]:
    """Return the optimizers that move weights: itself, or those inside that it hands weights to."""
    inner = getattr(optimizer, "inner_optimizer", None)
    return inner_optimizers(inner) if inner is not None else getattr(optimizer, "optimizers", None) or [optimizer]


def updates_of(optimizer: keras.optimizers.Optimizer) -> int:
    """Return how many updates an optimizer has made, also where a variable is on many devices."""
    return int(keras.ops.cast(optimizer.iterations, "int32"))  # one tensor, also of a variable on several devices


def max_updates_per_call(model: keras.Model) -> float:
    """Return how many updates there are at most between two calls of a callback at the end of a batch.

    Keras' own training makes at most one a batch; a step of the model's own may make any number.
    """
    for name in ("train_step", "make_train_function"):
        if getattr(getattr(model, name), "__func__", None) is not getattr(keras.Model, name):
            return math.inf
    return model.steps_per_execution


def slots_by_variable(
    optimizer: keras.optimizers.Optimizer | None, variables: Sequence[keras.Variable]
) -> dict[int, list[keras.Variable]]:
    """Return the optimizer variables that move a weight and have its shape, by the weight's `id`: see `owned_slots`.

    Left out are the sums of squared gradients that Adagrad and Ftrl start above zero: a step is divided by them, so
    they move no weight, and at zero Ftrl would divide by zero.
    """
    owned = owned_slots(optimizer, variables)
    return {
        id(variable): [
            slot
            for slot in owned[id(variable)]
            if slot.shape == variable.shape and slot.name != f"{variable.path.replace('/', '_')}_accumulator"
        ]
        for variable in variables
    }


def owned_slots(
    optimizer: keras.optimizers.Optimizer | None, variables: Sequence[keras.Variable]
) -> dict[int, list[keras.Variable]]:
    """Return the optimizer variables that belong to a weight, in the order of their making, by the weight's `id`.

    Keras names a slot after its weight (`adam/dense_kernel_momentum`). Weights of equal paths have equal slot
    names, and come in the same order.

    Args:
        optimizer: Built or not; None has no slots.
        variables: All trainable variables of the model, in the model's order.

    Raises:
        ValueError: If the optimizer trains some of the weights of one path only: nothing tells which.
    """
    slots_by_id: dict[int, list[keras.Variable]] = {id(variable): [] for variable in variables}
    if optimizer is None:
        return slots_by_id
    owners: dict[str, list[keras.Variable]] = defaultdict(list)
    for variable in variables:
        owners[variable.path.replace("/", "_") + "_"].append(variable)
    longest_first = sorted(owners, key=len, reverse=True)
    times_seen: dict[str, int] = defaultdict(int)
    owners_of_slot: dict[str, list[keras.Variable]] = {}
    for slot in optimizer.variables:
        prefix = next((prefix for prefix in longest_first if slot.name.startswith(prefix)), None)
        if prefix is None:
            continue
        candidates = owners[prefix]
        owner = candidates[times_seen[slot.name] % len(candidates)]
        times_seen[slot.name] += 1
        slots_by_id[id(owner)].append(slot)
        owners_of_slot[slot.name] = candidates
    for name, candidates in owners_of_slot.items():
        if times_seen[name] % len(candidates):
            raise ValueError(
                f"Expected weights with paths of their own, because an optimizer names its slots by them. Received: "
                f"{len(candidates)} weights {candidates[0].path!r}, of which {optimizer.name!r} trains "
                f"{times_seen[name]}. Name their layers differently: keras.layers.Dense(..., name=...)."
            )
    return slots_by_id


# By name, as not every version of Keras has them.
_UNFIT = {
    "Muon": "mixes the entries of a weight and so moves masked ones",
    "ScheduleFreeAdamW": "keeps a copy of each weight that would pull entries which come back to zero",
}


def check_optimizer(optimizer: keras.optimizers.Optimizer) -> None:
    """Refuse an optimizer that moves a weight whose gradient and slots are zero, or needs a slot that is not.

    Raises:
        TypeError: If it is not an optimizer.
        ValueError: For Muon, which orthogonalizes each weight as a whole, and ScheduleFreeAdamW, which keeps a second
            copy of it.
    """
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise ArgumentTypeError(
            "optimizer",
            "Keras optimizers, one or a list, or None",
            f"{optimizer!r} of type {type(optimizer).__name__}",
        )
    for part in inner_optimizers(optimizer):
        reason = next((_UNFIT[kind.__name__] for kind in type(part).__mro__ if kind.__name__ in _UNFIT), None)
        if reason:
            raise ValueError(
                f"Expected an optimizer that works entry by entry, as SGD, Adam and most others do. Received: "
                f"{type(part).__name__}, which {reason}. Train with Adam or SGD while pruning."
            )


# Which inputs of a model hold token ids, which embedding reads them, and which of them are padding.

_MASK = "padding_mask"


def check_token_ids(graph: Graph, batches: Iterable[tuple[Sequence[Any], Any]], *, argument: str = "samples") -> None:
    """Refuse texts without tokens, batches of padding alone, and ids beyond the vocabulary.

    Args:
        graph: The model.
        batches: The data.
        argument: The name that the user passed them under, for messages.

    Raises:
        ValueError: If a batch is empty or nothing but padding, or holds an id that the embedding has no vector for.
    """
    sizes = [_vocabulary(graph, tensor) for tensor in graph.model.inputs]
    for inputs, _ in batches:
        for index, mask in token_masks(graph, inputs).items():
            if not mask.any():
                raise ArgumentError(
                    argument,
                    f"texts with tokens in `{argument}`",
                    found=f"a batch in which all of {graph.model.inputs[index].name} is padding",
                    advice="Is `padding_mask` 1 for tokens?",
                )
        for tensor, size, array in zip(graph.model.inputs, sizes, inputs, strict=True):
            if not array.size:
                raise ArgumentError(
                    argument,
                    f"texts with tokens in `{argument}`",
                    found=f"{tensor.name} of shape {array.shape}",
                    advice="Leave empty texts out.",
                )
            if size is not None and (array.min() < 0 or array.max() >= size):
                wrong = int(array.max()) if array.max() >= size else int(array.min())
                raise ArgumentError(
                    argument,
                    f"token ids from 0 to {size - 1} in `{argument}`",
                    found=f"{tensor.name} with {wrong}",
                    advice="Use the tokenizer of the model.",
                )


def token_masks(graph: Graph, arrays: Sequence[Any]) -> dict[int, np.ndarray]:
    """Return where texts have tokens and no padding.

    An input whose name ends with `padding_mask` says so, as in KerasHub; otherwise an embedding with `mask_zero`.

    Args:
        graph: The model.
        arrays: The arrays for its inputs.

    Returns:
        The masks, of shape (texts, positions), by the index of the input that holds the token ids, or of the mask if
        no input is named alike.
    """
    inputs = {tensor.name: (index, tensor) for index, tensor in enumerate(graph.model.inputs)}
    masks: dict[int, np.ndarray] = {}
    for name, (index, tensor) in inputs.items():
        if name.endswith(_MASK):
            texts = inputs.get(name.removesuffix(_MASK) + "token_ids", (index,))[0]
            masks[texts] = keras.ops.convert_to_numpy(arrays[index]) != 0
        elif any(embedding.mask_zero for embedding in _embeddings(graph, tensor)):
            masks.setdefault(index, keras.ops.convert_to_numpy(arrays[index]) != 0)
    return {index: mask for index, mask in masks.items() if mask.ndim == 2}


def without_padding(x: np.ndarray, masks: Iterable[np.ndarray]) -> np.ndarray:
    """Return the rows of tokens, (tokens, ...), of an array (texts, positions, ...); any other array as it is.

    Example:
        >>> without_padding(np.arange(6).reshape(1, 3, 2), [np.array([[True, True, False]])]).tolist()
        [[0, 1], [2, 3]]
    """
    fitting = [mask for mask in masks if x.ndim > 2 and x.shape[:2] == mask.shape]
    return x[np.any(fitting, axis=0)] if fitting else x  # where two texts are as long, tokens of either


def token_input(graph: Graph) -> tuple[int, keras.layers.Embedding]:
    """Return the index of the input that holds token ids, and the embedding of the largest vocabulary that reads it.

    Raises:
        ValueError: If no input is read by an embedding.
    """
    readers = [
        (index, each) for index, tensor in enumerate(graph.model.inputs) for each in _embeddings(graph, tensor)
    ]
    if not readers:
        raise ValueError(
            f"Expected a model of text, with token ids that an embedding reads. Received: {graph.model.name!r} "
            f"without any. Pass judge='distance', or a loss."
        )
    return max(readers, key=lambda reader: reader[1].input_dim)


def _vocabulary(graph: Graph, tensor: keras.KerasTensor) -> int | None:
    """Return the number of ids that an input may hold, None if it does not hold ids."""
    return min((each.input_dim for each in _embeddings(graph, tensor)), default=None)


def _embeddings(graph: Graph, tensor: keras.KerasTensor) -> list[keras.layers.Embedding]:
    """Return the largest embedding of each layer that reads an input, none if it does not hold integers."""
    if not np.issubdtype(np.dtype(keras.backend.standardize_dtype(tensor.dtype)), np.integer):
        return []
    readers = [call.layer for call in graph.calls if any(source is tensor for source in call.inputs)]
    parts = [
        [part for _, part in walk(layer) if isinstance(part, keras.layers.Embedding)]
        for layer in readers
        if isinstance(layer, keras.layers.Layer)
    ]
    return [max(some, key=lambda part: part.input_dim) for some in parts if some]
