"""Prepare a Keras model for the converter: its signature, a stripped copy, a SavedModel, ranges and scales."""

from __future__ import annotations

import functools
import importlib
import itertools
import logging
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

import tfprune
from tfprune.base.spec import ArgumentError
from tfprune.compact.shrink import ShrinkPlan
from tfprune.criteria import finite
from tfprune.export.device.runner import warn_of_bytes
from tfprune.export.file import schema
from tfprune.export.file.document import (
    add_operator,
    add_tensor,
    inputs_of,
    operator_name,
    save_objects,
    unpack_objects,
)
from tfprune.export.rewriting.weights import LAYER_MARK
from tfprune.masking.pruned import Pruned, holds_pruned
from tfprune.masking.strip import FlatCopy, copy_with, plain_copy
from tfprune.models.anatomy import Anatomy, as_numpy, check_keras, recurrent_states, walk
from tfprune.models.twin import named_things
from tfprune.quantizing.quantized import Quantized

# Half precision: which layers compute in it, and a model that computes in float32 while it is exported.

HALF_TYPES = ("float16", "bfloat16")


def half_types(model: keras.Model) -> set[str]:
    """Return the half-precision types in which layers of a model compute."""
    return {layer.compute_dtype for layer in _computing(model) if not isinstance(layer, keras.Model)} & set(
        HALF_TYPES
    )


def has_half_weights(model: keras.Model) -> bool:
    """Return True if weights are stored in half precision, as they are not in mixed precision."""
    return any(variable.dtype in HALF_TYPES for variable in model.variables)


@contextmanager
def in_float32(model: keras.Model) -> Iterator[None]:
    """Let every layer of a model compute in float32, in which it is then traced or saved; put all back afterwards."""
    with _computing_in("float32", model, instead_of=HALF_TYPES):
        yield


@contextmanager
def in_float64(model: keras.Model) -> Iterator[None]:
    """Let every layer that computes in float32 do so in float64, with the same weights; put all back afterwards."""
    with _computing_in(_Float64("float32"), model, instead_of=("float32",)):
        yield


class _Float64(keras.dtype_policies.DTypePolicy):
    """Computes in float64, and keeps its weights as they are: no name of Keras' stands for it."""

    @property
    def compute_dtype(self) -> str:
        return "float64"


@contextmanager
def _computing_in(policy: Any, model: keras.Model, *, instead_of: Collection[str]) -> Iterator[None]:
    before = [(layer, layer.dtype_policy) for layer in _computing(model) if layer.compute_dtype in instead_of]
    try:
        for layer, _ in before:
            _set_policy(layer, policy)
        yield
    finally:
        for layer, own in before:
            _set_policy(layer, own)


def _computing(model: keras.Model) -> list[keras.layers.Layer]:
    return [layer for _, layer in walk(model) if not isinstance(layer, keras.layers.InputLayer)]


def _set_policy(layer: keras.layers.Layer, policy: Any) -> None:
    layer.dtype_policy = policy
    if isinstance(layer, keras.layers.Normalization) and layer.built:  # it keeps constants of the type it computes in
        layer.finalize_state()
        if layer.input_mean is not None:  # given, not adapted: `build` makes the constants, and no weights
            layer.build(layer.get_build_config()["input_shape"])


# The inputs of a Keras model: their names, shapes and types, and arrays brought into that form.

_OPEN_DIMENSION_LENGTH = 32  # length drawn for a dimension the model leaves open
_LENGTHS = ("max_sequence_length", "sequence_length")  # of KerasHub's backbones and position embeddings
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # what a TensorFlow signature can hold


@dataclass(frozen=True)
class ModelInput:
    """One input of a model.

    Attributes:
        name: The key in a dict of inputs, else the name given to `keras.Input`.
        shape: Batch first; None where the model leaves a dimension open.
        dtype: NumPy's name of the type.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True)
class Signature:
    """The inputs of a model and how it wants them put together.

    Attributes:
        inputs: One entry per input, in Keras' order.
        form: `array` (one input), `list` or `dict`.
    """

    inputs: tuple[ModelInput, ...]
    form: str

    @property
    def batch(self) -> int | None:
        """The batch size the model was built for, None for any."""
        return self.inputs[0].shape[0]

    @property
    def names(self) -> list[str]:
        """Names of the inputs, in Keras' order."""
        return [entry.name for entry in self.inputs]

    def pack(self, values: Mapping[str, Any]) -> Any:
        """Put one value per name together as the model takes them."""
        if self.form == "dict":
            return {name: values[name] for name in self.names}
        ordered = [values[name] for name in self.names]
        return ordered if self.form == "list" else ordered[0]

    def arrays(self, batch: Any, where: str) -> dict[str, np.ndarray]:
        """Check a batch against the inputs.

        Args:
            batch: An array for one input, a list in Keras' order or a dict by name for several.
            where: The argument that holds the batch, for the message.

        Returns:
            One array per name, in the input's type.

        Raises:
            ValueError: If names, number, shapes, types or values do not fit, or the batch is empty.
        """
        arrays = {}
        for entry, value in zip(self.inputs, self._values(batch, where), strict=True):
            arrays[entry.name] = _as_input(value, entry, where)
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"Expected as many samples for every input in {where}. Received: {lengths}.")
        return arrays

    def random(self, samples: int, *, model: keras.Model) -> dict[str, np.ndarray]:
        """Draw the same inputs of a model every time: normal floats, and integers that its embeddings take."""
        rng, below, length = np.random.default_rng(0), _smallest_vocabulary(model), _open_length(model)
        arrays = {}
        for entry in self.inputs:
            shape = (samples, *(size or length for size in entry.shape[1:]))
            if np.issubdtype(np.dtype(entry.dtype), np.floating):
                arrays[entry.name] = rng.standard_normal(shape).astype(entry.dtype)
            else:
                arrays[entry.name] = rng.integers(0, below, shape).astype(entry.dtype)
        return arrays

    def _values(self, batch: Any, where: str) -> list[Any]:
        if isinstance(batch, Mapping):
            if set(batch) != set(self.names):
                raise ValueError(
                    f"Expected the inputs {self.names} in {where}. Received: {sorted(map(str, batch))}. "
                    "Give one array under each name."
                )
            return [batch[name] for name in self.names]
        if len(self.inputs) == 1 and not isinstance(batch, tuple | list):
            return [batch]
        if not isinstance(batch, tuple | list) or len(batch) != len(self.inputs):
            received = f"{len(batch)} arrays" if isinstance(batch, tuple | list) else "a single array"
            if len(self.inputs) == 1:
                expected, advice = "one array", f"The model takes {self.names[0]!r} alone"
            else:
                expected = f"a list of {len(self.inputs)} arrays or a dict by name"
                advice = f"The model takes {self.names}, in this order"
            raise ValueError(f"Expected {expected} in {where}. Received: {received}. {advice}.")
        return list(batch)


def signature(model: keras.Model) -> Signature:
    """Read the inputs of a built model.

    Args:
        model: Sequential or Functional, with one input or a flat list or dict of them.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If `model` is not built, or a TFLite file cannot have its inputs, outputs or precision.
    """
    check_keras(model)
    _check_precision(model)
    structure = _structure(model)
    inputs = [_model_input(key, tensor, model.name) for key, tensor in _items(structure)]
    _check_outputs(model)
    batches = {entry.shape[0] for entry in inputs}
    if len(batches) > 1 or not batches <= {None, 1}:
        stateful = next((path for path, layer in walk(model) if getattr(layer, "stateful", False)), None)
        advice = (
            "`keras.Input(shape)`, which leaves the batch open"
            if stateful is None
            else f"`keras.Input(shape, batch_size=1)`, because {stateful!r} keeps states, and set its weights"
        )
        raise ValueError(
            f"Expected a batch of None or 1 in the inputs of {model.name!r}. "
            f"Received: {', '.join(map(str, sorted(batches, key=str)))}. Build the model with {advice}."
        )
    form = "dict" if isinstance(structure, dict) else "list" if isinstance(structure, list | tuple) else "array"
    return Signature(tuple(inputs), form)


def _check_precision(model: keras.Model) -> None:
    layers = [(path, layer) for path, layer in walk(model) if not isinstance(layer, keras.layers.InputLayer)]
    double = [path for path, layer in layers if layer.compute_dtype == "float64"]
    if double:
        raise ValueError(
            f"Expected a model that computes in float32 or half precision. Received: {model.name!r}, whose layer "
            f"{double[0]!r} computes in float64, for which TFLite has no operators. Build the model with "
            f"dtype='float32', and give it the weights with `set_weights`."
        )


def _smallest_vocabulary(model: keras.Model) -> int:
    """Return the smallest `input_dim` of the model's embeddings, 2 when it has none."""
    sizes = [layer.input_dim for _, layer in walk(model) if isinstance(layer, keras.layers.Embedding)]
    return min(sizes, default=2)


def _open_length(model: keras.Model) -> int:
    """Return the length drawn for a dimension that the model leaves open."""
    return min(_OPEN_DIMENSION_LENGTH, longest(model) or _OPEN_DIMENSION_LENGTH)


def longest(model: keras.Model) -> int | None:
    """Return the length up to which a model has embeddings of positions; None without them."""
    lengths = [getattr(part, name, None) for _, part in walk(model) for name in _LENGTHS]
    return min((length for length in lengths if isinstance(length, int) and length > 0), default=None)


def _structure(model: keras.Model) -> Any:
    """Return the symbolic input of the model: one tensor, or a list or dict of them."""
    if not model.built:
        raise ValueError(
            f"Expected a built model. Received: {model.name!r}, whose input shape is unknown. Start it with "
            "`keras.Input(shape)`, or call `model.build(input_shape)` first."
        )
    if isinstance(model, keras.Sequential):
        return model.inputs[0]
    if not getattr(model, "inputs", None):
        raise ValueError(
            f"Expected a Sequential or Functional model. Received: {model.name!r} of class {type(model).__name__}. "
            "Give it named inputs with `x = keras.Input(shape)` and `keras.Model(x, tfprune.strip(model)(x))`."
        )
    return model.input


def _model_input(key: Any, tensor: Any, model: str) -> ModelInput:
    if not isinstance(tensor, keras.KerasTensor):
        raise ValueError(
            f"Expected one tensor, a flat list or a flat dict as the input of {model!r}. Received: a "
            f"{type(tensor).__name__} at {key!r}. Flatten the inputs: a TFLite file cannot nest them."
        )
    name = key if isinstance(key, str) else tensor.name
    if not _FILE_NAME.fullmatch(name):
        raise ValueError(
            f"Expected input names of letters, digits, dots, hyphens and underscores in {model!r}. "
            f"Received: {name!r}. Rename it with `keras.Input(shape, name=...)`."
        )
    if tensor.dtype == "string":
        raise ValueError(
            f"Expected inputs of numbers in {model!r}. Received: {name!r} of strings. Look the strings up before "
            "the model: no built-in operator of TFLite does it."
        )
    return ModelInput(name, tuple(tensor.shape), "float32" if tensor.dtype in HALF_TYPES else tensor.dtype)


def _check_outputs(model: keras.Model) -> None:
    structure = model.outputs if isinstance(model, keras.Sequential) else model.output
    for key, tensor in _items(structure):
        if not isinstance(tensor, keras.KerasTensor):
            raise ValueError(
                f"Expected one tensor, a flat list or a flat dict as the output of {model.name!r}. Received: a "
                f"{type(tensor).__name__} at {key!r}. Flatten the outputs: a TFLite file cannot nest them."
            )


def _items(structure: Any) -> list[tuple[Any, Any]]:
    """Return the entries of a flat structure with their keys or indices."""
    if isinstance(structure, dict):
        return list(structure.items())
    return list(enumerate(structure if isinstance(structure, list | tuple) else [structure]))


def _as_input(value: Any, entry: ModelInput, where: str) -> np.ndarray:
    """Return the value as an array of the input's type, or raise a ValueError that says why it does not fit."""
    array = np.asarray(value)
    dtype = np.dtype(entry.dtype)
    fits = len(array.shape) == len(entry.shape) and all(
        expected in (None, size) for size, expected in zip(array.shape[1:], entry.shape[1:], strict=True)
    )
    if not fits or not array.size:
        shape = ", ".join(["samples", *("any" if size is None else str(size) for size in entry.shape[1:])])
        has_samples = array.ndim == len(entry.shape) and len(array)
        advice = "" if has_samples else " The first dimension counts the samples, at least 1."
        raise ValueError(
            f"Expected an array of shape ({shape}) for input {entry.name!r} in {where}. "
            f"Received: shape {array.shape}.{advice}"
        )
    is_float = np.issubdtype(dtype, np.floating)
    if array.dtype.kind not in ("fiub" if is_float else "iub"):
        raise ValueError(
            f"Expected {'numbers' if is_float else 'integers'} for input {entry.name!r} of type {dtype} in {where}. "
            f"Received: dtype {array.dtype}. Convert it first."
        )
    if is_float:
        warn_of_bytes(array, entry.name)
    with np.errstate(over="ignore"):
        converted = array.astype(dtype)
    if is_float and not np.isfinite(converted).all():
        raise ValueError(
            f"Expected finite numbers for input {entry.name!r} in {where}. Received: NaN, infinity or more than "
            f"{dtype} holds. Clean the data first."
        )
    if not is_float and not np.array_equal(converted, array):
        raise ValueError(
            f"Expected values that {dtype} holds for input {entry.name!r} in {where}. "
            f"Received: {array.min()} to {array.max()}. Check the data."
        )
    return converted


# A Keras model as the process that converts it reads it.
#
# On TensorFlow a SavedModel: inputs by name, loops in a form that the converter takes. From other backends a copy
# saved by Keras, whose custom classes are found by import.

_COPY = "model.keras"


def write_saved_model(
    model: keras.Model, folder: Path, *, inputs: Signature, unroll: bool, last: Callable[[Any], Any] | None = None
) -> None:
    """Write the SavedModel of a model on the TensorFlow backend; a loop in it fixes an open batch at 1.

    Args:
        model: The model. It is left as it is.
        folder: Where the SavedModel goes; it does not exist yet.
        inputs: The inputs of the model.
        unroll: Whether recurrent layers are unrolled.
        last: What is applied to each output; None for nothing.

    Raises:
        ValueError: If a recurrent layer of open length would have to be unrolled.
    """
    if not (unroll and recurrent_layers(model)):
        _write(model, folder, inputs=inputs, batch=inputs.batch, last=last)
        # Lists of tensors (a recurrent layer's steps) have a builtin form only when their size is known.
        if b"TensorListReserve" not in (folder / "saved_model.pb").read_bytes():
            return
        shutil.rmtree(folder)
    if not unroll:
        _write(model, folder, inputs=inputs, batch=inputs.batch or 1, last=last)
        return
    for entry in inputs.inputs:
        if None in entry.shape[1:]:
            raise ValueError(
                f"Expected inputs of fixed length for a file of integers, whose recurrent layers are unrolled. "
                f"Received: {entry.name!r} of shape {entry.shape}. Build the model with the length in "
                "`keras.Input(shape)`, or use quantize='dynamic'."
            )
    with unrolled(model):
        _write(model, folder, inputs=inputs, batch=inputs.batch or 1, last=last)


def _write(
    model: keras.Model, folder: Path, *, inputs: Signature, batch: int | None, last: Callable[[Any], Any] | None
) -> None:
    specs = {
        entry.name: keras.InputSpec(shape=(batch, *entry.shape[1:]), dtype=entry.dtype, name=entry.name)
        for entry in inputs.inputs
    }
    # `model.export` leaves it to layers whether they train, and a layer that augments images does by default.
    infer = functools.partial(model, training=False)
    serve = infer if last is None else lambda x: keras.tree.map_structure(last, infer(x))
    with _without_messages():
        archive = keras.export.ExportArchive()
        archive.add_endpoint("serve", serve, input_signature=[inputs.pack(specs)])
        archive.write_out(str(folder), verbose=False)


@contextmanager
def states_at_start(model: keras.Model) -> Iterator[None]:
    """Let the recurrent layers that keep their states start anew, and put the states back afterwards."""
    states = list(recurrent_states(model))
    before = [as_numpy(state).copy() for state in states]
    try:
        for state in states:
            state.assign(keras.ops.zeros(state.shape, state.dtype))
        yield
    finally:
        for state, value in zip(states, before, strict=True):
            state.assign(value)


@contextmanager
def _without_messages() -> Iterator[None]:
    """Keep TensorFlow from telling the temporary folder, which it prints wherever it is used interactively."""
    logger = logging.getLogger("tensorflow")
    before = logger.level
    logger.setLevel(max(before, logging.WARNING))
    try:
        yield
    finally:
        logger.setLevel(before)


def recurrent_layers(model: keras.Model) -> list[keras.layers.RNN]:
    """Return the recurrent layers of a model, which are unrolled in files of integers."""
    return [layer for _, layer in walk(model) if isinstance(layer, keras.layers.RNN)]


@contextmanager
def marked_layers(model: keras.Model) -> Iterator[list[str]]:
    """Give all layers, also those inside of others, numbers as names; yields their paths, by these numbers."""
    inside = ((path, inner, layer) for path, leaf in Anatomy.of(model).leaves for inner, layer in walk(leaf))
    layers = {id(layer): (f"{path}/{inner}" if inner else path, layer) for path, inner, layer in inside}
    names = [layer.name for _, layer in layers.values()]
    try:
        for number, (_, layer) in enumerate(layers.values()):
            layer.name = f"{LAYER_MARK}{number}"
        yield [path for path, _ in layers.values()]
    finally:
        for name, (_, layer) in zip(names, layers.values(), strict=True):
            layer.name = name


@contextmanager
def unrolled(model: keras.Model) -> Iterator[None]:
    """Unroll every recurrent layer for the time being: the integer converter crashes on their loops."""
    layers = recurrent_layers(model)
    before = [layer.unroll for layer in layers]
    try:
        for layer in layers:
            layer.unroll = True
        yield
    finally:
        for layer, unroll in zip(layers, before, strict=True):
            layer.unroll = unroll


def write_copy(model: keras.Model, folder: Path) -> list[list[str]]:
    """Save a model for `read_copy`.

    Args:
        model: A model without wrappers.
        folder: An existing folder, which gets one file.

    Returns:
        The module and the name of each custom class and function of the model.

    Raises:
        ValueError: If another process cannot import one of them.
    """
    things = {id(thing): thing for _, thing in named_things(model)}
    names = [[thing.__module__, thing.__qualname__] for thing in things.values()]
    for module, name in names:
        if module == "__main__" or "<" in name:  # defined by this program, in a function, or a lambda
            raise ValueError(_refusal(module, name))
    model.save(folder / _COPY)
    return names


def read_copy(folder: Path, things: Sequence[Sequence[str]]) -> keras.Model:
    """Load the model that `write_copy` saved.

    Args:
        folder: The folder with the file.
        things: What `write_copy` returned.

    Raises:
        ValueError: If a custom class or function cannot be imported.
    """
    imported = [_imported(module, name) for module, name in things]
    objects = {keras.saving.get_registered_name(thing): thing for thing in imported}
    return keras.saving.load_model(folder / _COPY, custom_objects=objects, compile=False)


def _imported(module: str, name: str) -> Any:
    try:
        return functools.reduce(getattr, name.split("."), importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        raise ValueError(_refusal(module, name)) from error


def _refusal(module: str, name: str) -> str:
    backend, title = ("jax", "JAX") if converters()[-1] == "litert" else ("tensorflow", "TensorFlow")
    return (
        f"Expected custom classes and functions that another process can import: it loads the model on {title} "
        f"and converts it. Received: {module}.{name}. Define it in a module that your program imports, and register "
        f"it with keras.saving.register_keras_serializable(). Or save the stripped model with model.save, and export "
        f"it from a program with KERAS_BACKEND={backend} that defines {name.rpartition('.')[2]!r}."
    )


# Which converter makes the file.

_VARIABLE = "TFPRUNE_CONVERTER"
CONVERTERS = ("tensorflow", "litert")  # TensorFlow's, and LiteRT's own, which takes what JAX traces


def converters() -> tuple[str, ...]:
    """Return the names of the converters that may make a file, in the order in which they are tried.

    It is that in the environment alone; or else all that are installed, LiteRT's first.

    Raises:
        ValueError: If the environment names another.
    """
    name = os.environ.get(_VARIABLE)
    if not name:  # found without a look at `sys.modules`: a program may keep TensorFlow out of its own process
        packages = {"litert": ("litert_converter", "jax"), "tensorflow": ("tensorflow",)}
        return tuple(key for key, needed in packages.items() if all(map(PathFinder.find_spec, needed))) or ("litert",)
    if name not in CONVERTERS:
        raise ArgumentError(
            _VARIABLE, f"{' or '.join(map(repr, CONVERTERS))} in the environment variable {_VARIABLE}", repr(name)
        )
    return (name,)


# The stripped copy that a file is made of, and what it is without the channels that no kernel reads.

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class StrippedModel:
    """A model without wrappers, which may lose channels once its outputs are known.

    Attributes:
        model: A copy that computes what the wrapped model computes; the model itself where it cannot be copied.
        source: The model of the user.
        flat: The flat copy over the same layers; None if no channel is to be removed.
        plan: The channels that some kernel reads; None without `flat`.
    """

    model: keras.Model
    source: keras.Model | None = None
    flat: FlatCopy | None = None
    plan: ShrinkPlan | None = None

    def __post_init__(self) -> None:
        """Refuse weights that are not finite: a file could not be compared with what they compute."""
        for weight in self.model.weights:
            finite(as_numpy(weight), weight.path)

    def without_unread(self) -> keras.Model:
        """Return an equal model without the channels that no kernel reads; the copy is used up by this."""
        if self.flat is None or self.plan is None:
            return self.model
        if self.plan.keep.all():
            return self.flat.hand_out()
        return tfprune.shrink(self.source, self.plan)  # from the copy that the plan has kept


def strip_for_export(model: keras.Model, *, finds_unread: bool) -> StrippedModel:
    """Strip a model; one that cannot be copied is exported as it is, if it has no wrappers.

    Args:
        model: The model of the user. It is left as it is.
        finds_unread: Whether channels are looked for that no kernel reads; the plan's copy is then the stripped one.

    Raises:
        ValueError: If a wrapped model cannot be copied, or a weight is not finite.
    """
    if finds_unread:
        try:
            plan = tfprune.plan_shrink(model)
        except ValueError as error:  # not a graph of layers, or a layer would lose all of its channels
            _log.info("channels that no kernel reads stay in %r: %s", model.name, error)
        else:
            flat = plan.planned_copy.of(model) if plan.planned_copy else None
            if flat is not None:
                return StrippedModel(flat.plain, model, flat, plan)
            if not plan.keep.all():
                return StrippedModel(tfprune.shrink(model, plan))
    try:
        return StrippedModel(plain_copy(Anatomy.of(model)))
    except ValueError as error:
        if holds_pruned(model):
            raise
        _log.info("%r is exported as it is, not a copy: %s", model.name, error)
        return StrippedModel(model)


# A model that was trained quantization-aware, as the converter wants to see it.


def holds_ranges(model: keras.Model) -> bool:
    """Return True if a model was made by `quantize_aware`."""
    return any(isinstance(layer, Quantized) for _, layer in walk(model, stop=Pruned))


def with_known_ranges(model: keras.Model) -> keras.Model:
    """Return a copy without masks whose ranges are constants, and whose weights lie on their grids.

    The converter rounds weights by itself, with a scale for each output channel, and finds the same integers. Told by
    the operation that rounds while training, it refuses most kernels, and puts those that it reads more than once on
    another grid.

    Raises:
        ValueError: If a range has seen no data, or holds a number that is none.
    """
    anatomy = Anatomy.of(model)
    trained = dict(anatomy.leaves)

    def replacement(path: str, layer: keras.layers.Layer) -> keras.layers.Layer | None:
        if isinstance(layer, Quantized):
            return layer.around(layer.layer, weights=(), levels=None, known=trained[path].known_ranges())
        return layer.layer if isinstance(layer, Pruned) else None

    copy = copy_with(anatomy, replacement)
    for path, layer in Anatomy.of(copy).leaves:
        if isinstance(layer, Quantized):
            own = {kernel.path: kernel for kernel in trained[path].inner_kernels.values()}
            for kernel in layer.inner_kernels.values():
                value = ops.copy(kernel.variable.value)
                kernel.variable.assign(trained[path].on_grid(value, own[kernel.path]))  # which knows what stays
    return copy


def without_ranges(plain: keras.Model) -> keras.Model:
    """Return a copy of what `with_known_ranges` returned whose activations are not rounded."""
    return plain_copy(Anatomy.of(plain))


def without_rounding(model: schema.ModelT) -> bool:
    """Take the operators that round to its ranges out of the open float file of such a model."""
    for graph in model.subgraphs:
        makers = {int(index): operator for operator in graph.operators for index in operator.outputs}
        for operator in graph.operators:
            operator.inputs = np.array(
                [_before_rounding(model, makers, index) for index in inputs_of(operator)], np.int32
            )
        for signature in model.signatureDefs or ():
            for entry in signature.outputs:
                entry.tensorIndex = _before_rounding(model, makers, entry.tensorIndex)
        graph.outputs = np.array([_before_rounding(model, makers, int(index)) for index in graph.outputs], np.int32)
    return True


def with_floats_multiplied(content: bytes) -> bytes:
    """Return the float file of such a model whose products take floats.

    Where a reshape stands between the rounding and a FULLY_CONNECTED, TensorFlow's converter drops the DEQUANTIZE.
    """
    model = unpack_objects(content)
    for graph in model.subgraphs:
        for operator in [each for each in graph.operators if operator_name(model, each) == "FULLY_CONNECTED"]:
            tensor, *others = (graph.tensors[index] for index in inputs_of(operator))
            if tensor.type == schema.TensorType.UINT8 and others[0].type == schema.TensorType.FLOAT32:
                integers = int(operator.inputs[0])
                name, kind = tensor.name + b"/floats", schema.TensorType.FLOAT32
                floats = add_tensor(graph, tensor, type=kind, quantization=None, name=name)
                operator.inputs = np.array([floats, *inputs_of(operator)[1:]], np.int32)
                options = schema.DequantizeOptionsT()
                add_operator(model, graph, name="DEQUANTIZE", inputs=[integers], outputs=[floats], options=options)
    return save_objects(model)


def _before_rounding(model: schema.ModelT, makers: dict[int, schema.OperatorT], index: int) -> int:
    """Return the tensor that becomes another one when it is rounded, or that one itself."""
    last = makers.get(index)
    first = None if last is None or operator_name(model, last) != "DEQUANTIZE" else makers.get(int(last.inputs[0]))
    return index if first is None or operator_name(model, first) != "QUANTIZE" else int(first.inputs[0])


# Keep the scales of norms out of the 8-bit weights behind them.
#
# The converter multiplies the weights of a FULLY_CONNECTED by a scale in front of it. In float32 that saves an
# operator. In 8 bits it may lose what the scale is for: to make channels of different ranges alike. One step for
# all channels then rounds the small ones to nothing.

_PRODUCTS = ("MatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum")  # what the converter makes FULLY_CONNECTED of
_SCALE, _SHIFT = "Mul", "AddV2"  # what it folds into the weights, and into the bias
_PASSED = ("Cast", "Identity", "Reshape", "StopGradient")  # what may stand between a scale and the product
_FUNCTIONS: dict[str, Callable[..., Any]] = {  # of which layers compute their scales and weights
    **dict.fromkeys(_PASSED, lambda values, *_: values),
    _SHIFT: np.add,
    "Exp": np.exp,
    "Maximum": np.maximum,
    _SCALE: np.multiply,
    "Neg": np.negative,
    "RealDiv": np.divide,
    "Reciprocal": np.reciprocal,
    "Reshape": np.reshape,
    "Rsqrt": lambda values: 1 / np.sqrt(values),
    "Sqrt": np.sqrt,
    "Square": np.square,
    "Sub": np.subtract,
    "Transpose": np.transpose,
}
_REACH = 3.0  # of the outputs of a norm: three standard deviations
_MOST_ROUNDING = 3.0  # how many times as large a fold may make the rounding errors


def protect_scales(folder: Path, *, least: int) -> None:
    """Change a SavedModel so that the converter folds no scale that would make rounding errors much larger.

    It folds constants of one dimension only. A second dimension, of length 1, keeps a scale where it is.

    Args:
        folder: The SavedModel.
        least: The number of entries from which a weight gets 8 bits.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    file = folder / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    variables = _Variables(folder / "variables" / "variables")
    changed = False
    for graph in saved.meta_graphs:
        bound = {name: entry.bound_inputs for name, entry in graph.object_graph_def.concrete_functions.items()}
        for function in graph.graph_def.library.function:
            captured = bound.get(function.signature.name, ())
            with np.errstate(all="ignore"):  # a scale may be 0
                changed |= _Function(function, captured, variables).protect(least)
    if changed:
        file.write_bytes(saved.SerializeToString(deterministic=True))
        (folder / "fingerprint.pb").unlink(missing_ok=True)  # of the file as it was


class _Variables:
    """The variables of a SavedModel, by their indices among its objects; read from its checkpoint when needed."""

    def __init__(self, prefix: Path) -> None:
        self._prefix = prefix
        self._reader: Any = None
        self._keys: dict[int, str] = {}

    def value(self, index: int) -> np.ndarray | None:
        """Return the values of a variable; None if the object is not one."""
        if self._reader is None:
            self._open()
        return self._reader.get_tensor(self._keys[index]) if index in self._keys else None

    def _open(self) -> None:
        import tensorflow as tf
        from tensorflow.core.protobuf import trackable_object_graph_pb2 as objects

        self._reader = tf.train.load_checkpoint(str(self._prefix))
        content = self._reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH")
        for index, node in enumerate(objects.TrackableObjectGraph.FromString(content).nodes):
            self._keys.update((index, attribute.checkpoint_key) for attribute in node.attributes)


@dataclass(frozen=True)
class _Constant:
    """A constant input of an operator that scales or shifts channels."""

    operator: Any
    place: int
    values: np.ndarray


class _Function:
    """One function of a SavedModel."""

    def __init__(self, function: Any, captured: Sequence[int], variables: _Variables) -> None:
        self._function, self._variables = function, variables
        self._nodes = {node.name: node for node in function.node_def}
        arguments = [argument.name for argument in function.signature.input_arg]
        first = len(arguments) - len(captured)
        self._captured = dict(zip(arguments[first:], captured, strict=True))
        self._takers: dict[str, set[str]] = defaultdict(set)  # of the outputs of a node
        for node in function.node_def:
            for name in node.input:
                self._takers[_node_name(name)].add(node.name)
        self._computed = self._reached_from(arguments[:first])

    def _reached_from(self, arguments: Sequence[str]) -> set[str]:
        """Return the names of the nodes that depend on inputs of the function."""
        reached, waiting = set(arguments), [*arguments]
        while waiting:
            new = self._takers[waiting.pop()] - reached
            reached |= new
            waiting += new
        return reached

    def protect(self, least: int) -> bool:
        """Give the constants that must not be folded a second dimension; return True if there are some."""
        constants_by_name = {}
        for product in [node for node in self._function.node_def if node.op in _PRODUCTS]:
            for source, weight in itertools.permutations(product.input, 2):
                constants = [*self._constants_before(source, folds_shifts=self._has_bias(product))]
                if _rounding(constants) > _MOST_ROUNDING and self._size(weight) >= least:
                    constants_by_name.update({each.operator.name: each for each in constants if each.values.any()})
        for constant in constants_by_name.values():
            self._add_dimension(constant.operator, constant.place)
        return bool(constants_by_name)

    def _has_bias(self, product: Any) -> bool:
        """Return True if a product adds a bias: the converter then folds shifts before it, too."""
        takers = [self._nodes[name] for name in self._takers[product.name] if name in self._nodes]
        biases = [self._value(taker.input[1]) for taker in takers if taker.op == "BiasAdd"]
        return any(bias is not None and bias.any() for bias in biases)

    def _constants_before(self, source: str, *, folds_shifts: bool) -> Iterator[_Constant]:
        """Yield the scales and shifts of the channels that a product takes, the last first."""
        size = 1
        while (node := self._nodes.get(_node_name(source))) is not None:
            inputs = enumerate(node.input[:2]) if node.op in (_SCALE, _SHIFT) else ()
            values = [(place, self._value(name)) for place, name in inputs]
            constants = [
                _Constant(node, place, each) for place, each in values if each is not None and each.ndim <= 1
            ]
            if len(constants) == 1:
                constant = constants[0]
                size = max(size, constant.values.size)
                stays = node.op == _SHIFT and constant.values.any() and not folds_shifts  # zeros are taken out
                if stays or constant.values.size not in (1, size):
                    return
                yield constant
                source = node.input[1 - constant.place]
            elif node.op in _PASSED:
                source = node.input[0]
            else:
                return

    def _size(self, name: str) -> int:
        values = self._value(name)
        return 0 if values is None else values.size

    def _value(self, name: str) -> np.ndarray | None:
        """Return the values of a tensor that depends on weights only; None if it does not, or they are not known."""
        import tensorflow as tf

        node = self._nodes.get(_node_name(name))
        if node is None or node.name in self._computed:
            return None
        if node.op == "Const":
            return tf.make_ndarray(node.attr["value"].tensor)
        if node.op == "ReadVariableOp" and node.input[0] in self._captured:
            return self._variables.value(self._captured[node.input[0]])
        if node.op not in _FUNCTIONS:
            return None
        values = [self._value(input_name) for input_name in node.input if not input_name.startswith("^")]
        return None if any(value is None for value in values) else np.asarray(_FUNCTIONS[node.op](*values))

    def _add_dimension(self, node: Any, place: int) -> None:
        import tensorflow as tf

        shape = self._function.node_def.add(name=f"{node.name}/two_dimensions/shape", op="Const")
        shape.attr["dtype"].type = tf.int32.as_datatype_enum
        shape.attr["value"].tensor.CopyFrom(tf.make_tensor_proto([1, -1], tf.int32))
        reshape = self._function.node_def.add(name=f"{node.name}/two_dimensions", op="Reshape")
        reshape.input.extend([node.input[place], f"{shape.name}:output:0"])
        reshape.attr["T"].CopyFrom(node.attr["T"])
        reshape.attr["Tshape"].type = tf.int32.as_datatype_enum
        node.input[place] = f"{reshape.name}:output:0"


def _node_name(name: str) -> str:
    """Return the name of the node that makes a tensor, or that runs before another."""
    return name.partition(":")[0].removeprefix("^")


def _rounding(constants: Sequence[_Constant]) -> float:
    """Estimate how many times as large folding makes rounding errors, if the constants make channels of one range.

    The error of rounding inputs grows with their range and with all weights, that of rounding weights with the
    largest of them and with all inputs.
    """
    scale, shift = np.ones(1), np.zeros(1)
    for constant in constants:
        if constant.operator.op == _SCALE:
            scale = scale * constant.values
        else:
            shift = shift + scale * constant.values
    ends = np.append(((-_REACH - shift) / scale, (_REACH - shift) / scale), 0)  # of the inputs
    by_inputs = (ends.max() - ends.min()) / (2 * _REACH) * _rms(scale)
    by_weights = np.abs(scale).max() * _rms(np.sqrt(1 + shift**2) / scale)
    return _rms(np.array([by_inputs, by_weights]))


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
