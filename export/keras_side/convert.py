"""Keras models to .tflite bytes, in a child process: the converter can take a process down with it.

On the TensorFlow backend the model travels as a SavedModel, so that the child needs none of its classes. On other
backends it travels as Keras saves it, and the child loads it on TensorFlow.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfprune.base.folders import TemporaryFolder
from tfprune.base.limit import refuse_text
from tfprune.base.spec import (
    ArgumentError,
    ArgumentTypeError,
    ArgumentWarning,
    check_choice,
    warn_user,
)
from tfprune.export.device.processes import OUTPUT, read_job, run_job, write_job
from tfprune.export.device.quantization_error import QuantizationErrorReport, errors_of_files
from tfprune.export.file import schema
from tfprune.export.file.document import NamedTensors, inputs_of
from tfprune.export.file.model_file import ModelFile, Pass
from tfprune.export.file.reader import check_operators, keep_order
from tfprune.export.file.report import reason_of
from tfprune.export.keras_side.prepare import (
    HALF_TYPES,
    ModelInput,
    Signature,
    converters,
    has_half_weights,
    holds_ranges,
    in_float32,
    marked_layers,
    protect_scales,
    read_copy,
    recurrent_layers,
    signature,
    states_at_start,
    with_floats_multiplied,
    without_rounding,
    write_copy,
    write_saved_model,
)
from tfprune.export.rewriting.rewrite import fewest_in_float
from tfprune.export.rewriting.share_weights import check_levels
from tfprune.export.rewriting.sparsify import join_islands, merge_constants, own_biases
from tfprune.export.rewriting.weights import (
    EdgeQuantizer,
    clamp_calibrated,
    edge_quantized,
    four_bit_weights,
    narrow_weights,
    nothing_left,
    operators_to_skip,
    takes_eight_bits,
)
from tfprune.models.anatomy import Anatomy, as_numpy, quantized_already
from tfprune.models.graph import hooked_calls
from tfprune.models.training import batches, check_holds_arrays, check_kind, check_source
from tfprune.report import install

# Mixed precision: convert a model to a file of 8-bit integers in which some operators stay in float.
#
# A user names layers, and the converter takes the names of operators. A second SavedModel, of marked layers, shows
# which operators belong to which layer.

_MARKED = "marked_model"
_PATHS = "paths"  # of the layers, by their numbers
_LEAST_MASK = -10.0  # constants above it lie among scores
_WIDEST = 1e3  # of a step among scores: no scores are that far apart


def _write_marked(model: keras.Model, folder: Path, *, inputs: Signature, unroll: bool) -> None:
    """Write a SavedModel of a model whose layers have numbers as names, and the paths of these layers.

    Args:
        model: The model. It is left as it is.
        folder: The folder of the job.
        inputs: The inputs of the model.
        unroll: Whether recurrent layers are unrolled.

    Raises:
        ValueError: As `write_saved_model` does.
    """
    with marked_layers(model) as paths:
        write_saved_model(model, folder / _MARKED, inputs=inputs, unroll=unroll, last=keras.ops.negative)
    write_job(folder, _PATHS, settings={"paths": paths})


def _convert_mixed(
    tf: Any, converter: Any, samples: Sequence[Mapping[str, np.ndarray]], *, folder: Path, settings: Mapping[str, Any]
) -> bytes:
    """Convert a model to integers except for some operators, and clamp the masks of attention.

    Args:
        tf: TensorFlow.
        converter: Its converter of the model, with calibration data; None where the job names a calibrated file.
        samples: The calibration data.
        folder: The folder of the job.
        settings: Those of the job: the operators or layers to skip, and whether inputs and outputs are integers, too.

    Returns:
        The file.

    Raises:
        ValueError: If something to skip matches nothing, or nothing is left for integers.
    """
    lite, skip, cache = tf.lite.experimental, settings["skip"], settings["calibrated"]
    is_whole = settings["io_dtype"] != "float32"
    options = functools.partial(lite.QuantizationDebugOptions, fully_quantize=is_whole)
    debugger = lite.QuantizationDebugger(converter=converter or _tiny_converter(tf), debug_options=options())
    calibrated = debugger.calibrated_model if converter else Path(cache).read_bytes()
    debugger.calibrated_model = clamp_calibrated(calibrated, samples) if converter else calibrated
    if cache:
        Path(cache).write_bytes(debugger.calibrated_model)
    if not skip:
        return debugger.get_nondebug_quantized_model()

    def marked() -> tuple[bytes, Sequence[str]]:
        content = tf.lite.TFLiteConverter.from_saved_model(str(folder / _MARKED)).convert()
        return content, read_job(folder, _PATHS)[0]["paths"]

    names = operators_to_skip(skip, content=calibrated, marked=marked)
    try:
        debugger.options = options(denylisted_nodes=sorted(names))
    except ValueError as error:  # no operator of integers is left
        raise nothing_left(skip) from error
    return debugger.get_nondebug_quantized_model()


def _tiny_converter(tf: Any) -> Any:
    """Return a converter of one operator, for a debugger that is then given a calibrated file."""
    function = tf.function(tf.tanh).get_concrete_function(tf.TensorSpec([1, 1]))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: iter([[np.ones((1, 1), np.float32)]])
    return converter


def _may_hold_masks(folder: Path) -> bool:
    """Return whether a SavedModel has a softmax, and constants so far from 0 that they may mask what it takes."""
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    functions = [function for graph in saved.meta_graphs for function in graph.graph_def.library.function]
    nodes = [node for function in functions for node in function.node_def]
    if all(node.op != "Softmax" for node in nodes):
        return False
    tensors = [node.attr["value"].tensor for node in nodes if node.op == "Const"]
    arrays = [tf.make_ndarray(tensor) for tensor in tensors if tensor.dtype == tf.float32.as_datatype_enum]
    return any(array.min(initial=0) < _LEAST_MASK or array.max(initial=0) > _WIDEST for array in arrays)


# What the child process of `convert` does: a SavedModel, or the copy of a Keras model, into a TFLite file.

JOB = "job"
SAVED_MODEL = "saved_model"
_CALIBRATED = "calibrated.tflite"
_CONVERTED = "model.tflite"
_OPERATORS = {  # of the formats that compute with integers
    "int8": "TFLITE_BUILTINS_INT8",
    "int4": "TFLITE_BUILTINS_INT8",  # its weights get fewer bits later
    "int16x8": "EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8",
}
# Entries from which a weight gets 8 bits, in files in which a scale must not be folded into it. In int8 files it may
# be: what the scale multiplies is rounded to 8 bits already, so it has nothing to protect.
_LEAST_ENTRIES = {"dynamic": 1024, "int16x8": 1, "int4": 1}


def _convert_job(folder: Path) -> None:
    """Convert the model in the folder of a job, and write the file beside it.

    Raises:
        ValueError: If TensorFlow is not installed, or the copy of the model cannot be loaded or exported.
    """
    settings, arrays = read_job(folder, JOB)
    tensorflow = _tensorflow()
    if settings.get("calibrated") and Path(settings["calibrated"]).exists():
        content = _convert_mixed(tensorflow, None, (), folder=folder, settings=settings)
        (folder / _CONVERTED).write_bytes(content)
        return
    if not (folder / SAVED_MODEL).exists():
        _export_copy(settings, folder)
    if settings.get("like") in _LEAST_ENTRIES:
        for name in (SAVED_MODEL, _MARKED):
            if (folder / name).exists():
                protect_scales(folder / name, least=_LEAST_ENTRIES[settings["like"]])
    _convert(tensorflow, settings, arrays, folder)


def _tensorflow() -> Any:
    try:
        import tensorflow
    except ImportError as error:
        raise ValueError(
            f"Expected TensorFlow, which converts models. Received: {error}. Run {install('train')}."
        ) from error
    return tensorflow


def _export_copy(settings: dict[str, Any], folder: Path) -> None:
    """Write the SavedModel that a parent on another backend could not write."""
    inputs = [ModelInput(entry["name"], tuple(entry["shape"]), entry["dtype"]) for entry in settings["inputs"]]
    model = read_copy(folder, settings["things"])
    signature = Signature(tuple(inputs), settings["form"])
    write_saved_model(model, folder / SAVED_MODEL, inputs=signature, unroll=settings["unroll"])
    if settings["skip"] and not settings["calibrated"]:
        _write_marked(model, folder, inputs=signature, unroll=settings["unroll"])


def _convert(tf: Any, settings: dict[str, Any], arrays: dict[str, np.ndarray], folder: Path) -> None:
    keys = settings.get("signatures")
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / SAVED_MODEL), signature_keys=keys)
    converter.experimental_enable_resource_variables = settings.get("holds_variables", False)
    if settings["quantize"] is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if settings["quantize"] == "float16":
        converter.target_spec.supported_types = [tf.float16]
    samples: list[dict[str, np.ndarray]] = []
    if settings["quantize"] in _OPERATORS and settings["samples"]:  # otherwise the ranges are in the model
        names = [entry["name"] for entry in settings["inputs"]]
        samples = [{name: arrays[f"{row}/{name}"] for name in names} for row in range(settings["samples"])]
        converter.representative_dataset = lambda: iter(samples)
        converter.target_spec.supported_ops = [getattr(tf.lite.OpsSet, _OPERATORS[settings["quantize"]])]
    if settings["quantize"] in _OPERATORS:
        converter.inference_input_type = converter.inference_output_type = tf.as_dtype(settings["io_dtype"])
    is_masked = settings["quantize"] in _MIXED and settings["samples"] and _may_hold_masks(folder / SAVED_MODEL)
    mixes = settings.get("skip") or is_masked
    content = (
        _convert_mixed(tf, converter, samples, folder=folder, settings=settings) if mixes else converter.convert()
    )
    (folder / _CONVERTED).write_bytes(content)


def _in_child(folder: Path) -> None:
    if (folder / SAVED_MODEL).exists():  # without code of the user's
        for package in ("sklearn", "matplotlib"):  # which Keras would import, in a second
            sys.modules[package] = None  # type: ignore[assignment]
    _convert_job(folder)


# Quantization: the number format of a file, with the options that few files need.

_SCHEMES = (None, "float16", "dynamic", "int8", "int16x8", "int4")
INTEGERS = {"int8": "int8", "int16x8": "int16", "int4": "int8"}  # schemes of integers, and their activations
_MIXED = ("int8", "int4")  # schemes in which operators may stay in float
_EIGHT_BIT_WEIGHTS = ("dynamic", "int8", "int16x8")
_IO_DTYPES = ("float32", "int8", "int16")


@dataclass(frozen=True)
class Quantization:
    """The number format of a file, with options that few files need.

    Pass it as `quantize=` to `to_tflite` where the name of a scheme is not enough.

    Args:
        scheme: `"float16"`, `"dynamic"`, `"int8"`, `"int16x8"` or `"int4"`, as `quantize=` of `to_tflite` describes
            them; None is float32.
        levels: The number of distinct values in each weight, 0 included, 2 to 256, for `"dynamic"`, `"int8"` and
            `"int16x8"`. Fewer values make a packed file smaller (`share_weights`). None (the default) keeps the
            weights as they are.
        io_dtype: The type of the file's inputs and outputs: `"float32"` (the default), or the type of integer
            activations, which is `"int8"` for the schemes `"int8"` and `"int4"`, and `"int16"` for `"int16x8"`.
        allow_float: Whether operators of a model of `quantize_aware` may compute in float. If False (the default),
            `to_tflite` refuses a file with such operators and names them.
        skip: The layers that stay in float in a file of `"int8"` or `"int4"`, which keeps accuracy where 8 bits are
            too few for a layer: a regular expression, or several, searched in the path of a layer, as for
            `quantize_aware`. The name of an operator in the file also selects it, as `quantization_error` gives it in
            `row.name`. A value between two operators stays in float only if both of them do. `"auto"` lets
            `to_tflite` choose: the fewest operators with which the file passes its checks, those whose rounding moves
            the outputs most first; without a `target`, weights of Dense layers and tables keep 8 bits. None (the
            default) skips none.

    Raises:
        TypeError: If an argument has another type.
        ValueError: If the scheme does not exist, or another argument does not fit it.

    Example:
        >>> Quantization("int8", levels=16)
        Quantization(scheme='int8', levels=16, io_dtype='float32', allow_float=False, skip=None)
        >>> Quantization("int8", skip="block_1/").skip
        ('block_1/',)
    """

    scheme: str | None
    levels: int | None = None
    io_dtype: str = "float32"
    allow_float: bool = False
    skip: str | Sequence[str] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_choice(self.scheme, "scheme", choices=_SCHEMES)
        check_choice(self.io_dtype, "io_dtype", choices=_IO_DTYPES)
        check_choice(self.allow_float, "allow_float", choices=(False, True))
        offered = dict.fromkeys(("float32", INTEGERS.get(str(self.scheme), "float32")))
        if self.io_dtype not in offered:
            raise ArgumentError(
                "io_dtype",
                f"io_dtype={' or '.join(map(repr, offered))} with scheme={self.scheme!r}",
                repr(self.io_dtype),
                advice=(
                    "Inputs and outputs are float32, or of the type of the activations: 'int8' with 'int8' "
                    "and 'int4', 'int16' with 'int16x8'."
                ),
            )
        self._check_skip()
        if self.levels is None:
            return
        check_levels(self.levels)
        if self.scheme not in _EIGHT_BIT_WEIGHTS:
            raise ArgumentError(
                "levels",
                "scheme='dynamic', 'int8' or 'int16x8' with `levels`, which 8-bit weights share",
                str(self.levels),
                beside={"scheme": self.scheme},
            )

    @property
    def finds_skip(self) -> bool:
        """Whether `to_tflite` chooses the operators that stay in float."""
        return self.skip == ("auto",)

    def _check_skip(self) -> None:
        if self.skip is None:
            return
        skip = (self.skip,) if isinstance(self.skip, str) else self.skip
        if not isinstance(skip, Sequence) or not all(isinstance(each, str) for each in skip):
            raise ArgumentTypeError(
                "skip",
                "`skip` to be a string, or a list of them",
                f"{self.skip!r} of type {type(self.skip).__name__}",
            )
        if not all(skip):
            raise ArgumentError("skip", "`skip` without empty strings", repr(self.skip), advice="Leave them out.")
        if self.scheme not in _MIXED:
            raise ArgumentError(
                "skip",
                "scheme='int8' or 'int4' with `skip`: only such files mix integers and floats",
                repr(self.skip),
                advice="Leave `skip` out.",
                beside={"scheme": self.scheme},
            )
        object.__setattr__(self, "skip", tuple(skip) or None)


def as_quantization(quantize: Any) -> Quantization:
    """Return a scheme's name, None or a Quantization as a Quantization.

    Raises:
        TypeError: If it is something else.
        ValueError: If there is no such scheme.
    """
    if isinstance(quantize, Quantization):
        return quantize
    check_choice(quantize, "quantize", choices=_SCHEMES, others="or a Quantization")
    return Quantization(quantize)


_log = logging.getLogger(__name__)
_FLOATS = Quantization(None)
# What becomes of a file of the converter, by the number format.
_PASSES: dict[str | None, tuple[Pass, ...]] = {
    "int8": (join_islands,),
    "int16x8": (join_islands, own_biases),
    "int4": (join_islands, merge_constants, four_bit_weights),
}
_TIMEOUT = 3600.0  # seconds; calibrating a large network takes minutes
# The GPU is the parent's: JAX takes most of its memory, and the child needs none.
_ENVIRONMENT = {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1"}


def convert(
    model: keras.Model,
    *,
    quantize: str | None = None,
    calibration: Any = None,
    io_dtype: str = "float32",
    batch: int | None = None,
    skip: Sequence[str] = (),
) -> bytes:
    """Convert a Keras model to a TFLite file of built-in operators only.

    Inputs keep their names; inputs and outputs keep Keras' order. A model with recurrent layers gets a batch of 1,
    which the converter needs, and for `"int8"` its recurrent layers are unrolled.

    Args:
        model: A built Sequential or Functional model.
        quantize: None (float32), `"float16"` (weights), `"dynamic"` (8-bit weights, float activations), `"int8"`
            (weights and activations, every operator; of a model with ranges those that are not left in float),
            `"int16x8"` (16-bit activations, 8-bit weights) or `"int4"` (`four_bit_weights`).
        calibration: For integers, which need it; `"int8"` only unless the model has ranges (`with_known_ranges`):
            samples of real data, as `to_tflite` takes them. 100 to 500 are enough; more are not read. The other kinds
            check it and convert without it.
        io_dtype: `"float32"`, or the type of the activations, such as `"int8"`, to leave out the conversion at the
            file's borders. Integer inputs stay as they are.
        batch: The batch that the file takes; None leaves it open where the model does.
        skip: The layers and operators that stay in float in an int8 file, as `Quantization` describes them.

    Returns:
        The file's bytes; the same model gives the same bytes.

    Raises:
        TypeError: If `model` is not a Keras model, `calibration` holds no batches, or an option has another type.
        ValueError: If an argument does not fit, another process cannot import a custom class that it needs, or the
            converter refuses the model or crashes on it.
    """
    form = Quantization(quantize, io_dtype=io_dtype, skip=skip or None)  # refuses what does not go together
    if form.finds_skip:
        raise ArgumentError("skip", "layers or operators by name", "'auto'", advice="Only `to_tflite` chooses them.")
    check_calibration(calibration, quantize=quantize, has_ranges=holds_ranges(model))
    inputs = signature(model)
    batches = [] if calibration is None else read_calibration(calibration, inputs)
    return convert_prepared(model, inputs, form=form, batches=batches, batch=batch).content


def convert_prepared(
    model: keras.Model,
    inputs: Signature,
    *,
    form: Quantization | EdgeQuantizer = _FLOATS,
    batches: Sequence[Mapping[str, np.ndarray]] = (),
    batch: int | None = None,
    beside: Quantization | None = None,
    beside_file: ModelFile | None = None,
    cache: Path | None = None,
) -> ModelFile:
    """Convert a model whose inputs and calibration data have been read, with options that have been checked.

    Args:
        model: The model.
        inputs: Its inputs.
        form: The number format; `levels` and `allow_float` are for later.
        batches: What `read_calibration` returned; empty without calibration data.
        batch: As in `convert`.
        beside: The number format of the file with which this one will be compared: it gets the same operators, with
            recurrent layers unrolled and scales protected as there. None (the default) is `form`.
        beside_file: That file, if it is there already: the same converter makes this one, and names tensors alike.
        cache: A folder that keeps what was calibrated, for calls that differ in the operators of `skip` alone, which
            are then given by their names.

    Raises:
        ValueError: As `convert` does.
    """

    if isinstance(form, EdgeQuantizer):
        file = convert_prepared(model, inputs, batch=batch, beside=beside)
        return edge_quantized(form, file, samples=_split(batches, rows=batch or inputs.batch or 1))
    quantize = form.scheme
    _check_inputs(inputs, quantize)
    if batch is not None:
        fixed = (dataclasses.replace(entry, shape=(batch, *entry.shape[1:])) for entry in inputs.inputs)
        inputs = dataclasses.replace(inputs, inputs=tuple(fixed))
    samples = _split(batches, rows=inputs.batch or 1) if quantize in INTEGERS else []
    by_litert = functools.partial(_by_litert, model, inputs, form=form, samples=samples)
    by_tensorflow = functools.partial(
        _by_tensorflow, model, inputs, form=form, samples=samples, like=(beside or form).scheme, cache=cache
    )
    try:
        content = _first_made(model, {"litert": by_litert, "tensorflow": by_tensorflow}, beside=beside_file)
        if quantize in INTEGERS:
            _check_scales(content, model)
    except ValueError:
        _refuse_infinite(model, inputs, batches)
        raise
    file = ModelFile.open(content).after(*_PASSES.get(quantize, ()))
    if quantize in INTEGERS:
        _warn_of_masks(file)
    _log.info("converted %r to %s: %s bytes", model.name, quantize or "float32", f"{len(file.content):,}")
    return file


def convert_with_floats(
    form: Quantization | EdgeQuantizer,
    convert: Callable[..., ModelFile],
    *,
    why_not: Callable[[ModelFile], str],
    samples: Mapping[str, np.ndarray],
    narrows: bool,
) -> tuple[Quantization | EdgeQuantizer, ModelFile, ModelFile | None]:
    """Convert a model; with skip="auto", the fewest operators that let the file pass stay in float.

    Args:
        form: The number format.
        convert: `convert_prepared` of the model.
        why_not: Says why a file does not pass; empty if it does.
        samples: Samples on which operators are ranked, by the names of the inputs.
        narrows: Whether the weights of operators in float keep 8 bits: kernels of some targets take none.

    Returns:
        The format with the names of the operators, the file, and that without operators in float, if it did not pass.
    """
    if isinstance(form, EdgeQuantizer) or not form.finds_skip:
        return form, convert(form=form), None
    whole = dataclasses.replace(form, skip=None)
    file = convert(form=whole)
    if not why_not(file):
        return whole, file, None
    errors = errors_beside(convert, whole, file=file, samples=samples)
    if narrows:
        costs = (dataclasses.replace(row, added_bytes=0) if takes_eight_bits(row) else row for row in errors.rows)
        errors = dataclasses.replace(errors, rows=tuple(costs))
    with TemporaryFolder() as folder:

        def mixed(names: Sequence[str]) -> tuple[ModelFile | None, str]:
            try:
                candidate = convert(form=dataclasses.replace(whole, skip=names), cache=Path(folder))
            except ValueError as error:  # no operator of integers is left
                return None, str(error)
            candidate = candidate.after(functools.partial(narrow_weights, bits=8)) if narrows else candidate
            reason = why_not(candidate)
            _log.info("%d operators in float: %s", len(names), reason or "it passes")
            return candidate, reason

        rows, best = fewest_in_float(errors, convert=mixed)
    return dataclasses.replace(whole, skip=[row.name for row in rows]), best, file


def errors_beside(
    convert: Callable[..., ModelFile], form: Quantization, *, file: ModelFile, samples: Mapping[str, np.ndarray]
) -> QuantizationErrorReport:
    """Return the errors of an 8-bit file against the float file of its model, which is made for it."""
    reference = convert(form=Quantization(None), batches=(), beside=form, beside_file=file)
    exact = reference.after(without_rounding)  # which a model with ranges has
    return errors_of_files(exact.content, file.content, samples={**samples})


def _warn_of_masks(file: ModelFile) -> None:
    """Warn of softmaxes of integers in which a mask has taken the range of the scores."""
    if "SOFTMAX" not in file.graph.ops or not file.graph.ops.keys() & {"ADD", "SELECT", "SELECT_V2"}:
        return
    names = NamedTensors(file.objects())
    softmaxes = [operator for operator in names.graph.operators if names.kind(operator) == "SOFTMAX"]
    grids = [(names.name(int(each.outputs[0])), names.grid(inputs_of(each)[0])) for each in softmaxes]
    left = [name for name, grid in grids if grid is not None and grid.scale.max() > _WIDEST]
    if left:
        warn_user(
            ArgumentWarning(
                "quantize",
                "masks of attention that are constants, and that only a softmax reads",
                found=f"others before {', '.join(left)}: they keep their values, and its scores become one integer",
                advice="Use such masks, or Quantization('int8', skip='auto').",
            )
        )


def _first_made(model: keras.Model, ways: Mapping[str, Callable[[], bytes]], *, beside: ModelFile | None) -> bytes:
    """Return the file of the first converter that takes a model; TensorFlow's keeps the loops of recurrent layers."""
    if beside is not None:
        return ways["litert" if beside.converter else "tensorflow"]()
    *names, last = reversed(converters()) if recurrent_layers(model) else converters()
    for name in names:
        try:
            return ways[name]()
        except ValueError as error:
            _log.info("the converter %s refused %r: %s", name, model.name, error)
    return ways[last]()


def _by_litert(
    model: keras.Model, inputs: Signature, *, form: Quantization, samples: Sequence[dict[str, np.ndarray]]
) -> bytes:
    from tfprune.export.keras_side.stablehlo import convert_by_jax

    return convert_by_jax(model, inputs, form=form, samples=samples)


def _by_tensorflow(
    model: keras.Model,
    inputs: Signature,
    *,
    form: Quantization,
    samples: Sequence[dict[str, np.ndarray]],
    like: str | None,
    cache: Path | None,
) -> bytes:
    calibrated = None if cache is None else cache / _CALIBRATED
    with TemporaryFolder() as name:
        folder = Path(name)
        settings: dict[str, Any] = {"quantize": form.scheme, "io_dtype": form.io_dtype, "things": []}
        settings |= {"unroll": like in INTEGERS, "like": like, "skip": [*(form.skip or ())]}
        settings |= {"calibrated": str(calibrated or ""), **dataclasses.asdict(inputs)}
        if calibrated is None or not calibrated.exists():
            is_marked = bool(form.skip) and cache is None
            settings["things"] = _write_model(model, inputs, folder, unroll=settings["unroll"], is_marked=is_marked)
        else:
            samples = ()
        _write_job(folder, settings, samples)
        content = convert_apart(folder, model, quantize=form.scheme)
        if form.scheme is None and holds_ranges(model):
            content = with_floats_multiplied(content)
        return keep_order(content, inputs.names)


def convert_apart(folder: Path, model: keras.Model, *, quantize: str | None) -> bytes:
    """Convert the job in a folder in a process of its own.

    Args:
        folder: The folder with the job and the model.
        model: The model, for messages.
        quantize: The number format, for messages.

    Raises:
        ValueError: If the converter refuses the model or crashes on it.
    """
    completed = run_job(_in_child, folder, timeout=_TIMEOUT, environment=_ENVIRONMENT, package="tensorflow")
    if not completed.ok:
        _refuse_quantized(model)
        output = (folder / OUTPUT).read_text(encoding="utf-8", errors="replace")
        raise ValueError(_failure(completed.reason, output, f"{model.name!r} with quantize={quantize!r}"))
    return (folder / _CONVERTED).read_bytes()


def _check_scales(data: bytes, model: keras.Model) -> None:
    """Refuse weights so large that the converter finds no scale for the integers: no reader takes such a file."""
    try:
        check_operators(data)
    except ValueError as error:
        largest = {weight.path: float(np.abs(as_numpy(weight)).max(initial=0)) for weight in model.weights}
        path = max(largest, key=lambda name: largest[name])
        found = (
            f"{model.name!r}, whose largest weight is {largest[path]:.3g} in {path!r}: in the file of the converter, "
            f"{reason_of(error)}"
        )
        advice = "Train the model again with smaller weights, or export it without `quantize`."
        expected = "weights and activations that integers can stand for"
        raise ArgumentError("quantize", expected, found=found, advice=advice) from error


def _refuse_infinite(model: keras.Model, inputs: Signature, batches: Sequence[Mapping[str, np.ndarray]]) -> None:
    """Name the layer, and the first sample of `calibration`, whose outputs no range holds; masks of -inf may be."""
    if any(np.abs(as_numpy(weight)).max(initial=0) > 1e30 for weight in model.weights):
        return  # no sample is to blame
    infinite: list[tuple[str, int]] = []  # layers in the order of their calls, and the samples in a batch

    def look(layer: keras.layers.Layer, _: Any, outputs: Any) -> None:
        for array in map(_as_numpy, keras.tree.flatten(outputs)):
            wrong = ~(array < np.inf) if array.ndim and array.dtype.kind == "f" else np.zeros((1, 1), bool)
            rows = wrong.reshape(len(wrong), -1).any(axis=1)
            infinite.extend([(paths[id(layer)], int(rows.argmax()))] if rows.any() else [])

    leaves, first = Anatomy.of(model).leaves, 0
    paths = {id(layer): path for path, layer in leaves}
    with hooked_calls([layer for _, layer in leaves], look):
        for batch in batches:
            model(inputs.pack({**batch}), training=False)
            if infinite:
                raise ArgumentError(
                    "calibration",
                    f"samples in `calibration` that give finite outputs of each layer of {model.name!r}",
                    found=f"sample {first + infinite[0][1]}, for which {infinite[0][0]!r} gives NaN or infinity",
                    advice="Leave the sample out, or scale it as the data that the model was trained on.",
                )
            first += _length(batch)


def check_calibration(calibration: Any, *, quantize: str | None, has_ranges: bool) -> None:
    """Refuse calibration data where the ranges are known, and missing data where they are not."""
    if quantize == "int8" and has_ranges and calibration is not None:
        raise ArgumentError(
            "calibration",
            "no `calibration` with a model that was trained quantization-aware: its ranges were trained",
            advice="Leave it out, or export tfprune.strip(model) to calibrate instead.",
        )
    if quantize in INTEGERS and calibration is None and not (has_ranges and quantize == "int8"):
        trained = "" if quantize == "int8" else "; the ranges of tfprune.quantize_aware are those of int8"
        raise ArgumentError(
            "calibration",
            f"`calibration` with quantize={quantize!r}",
            found="None",
            advice=f"Give about 100 samples of real data, such as calibration=x[:100]{trained}.",
        )


def _check_inputs(inputs: Signature, quantize: str | None) -> None:
    integers = [entry.name for entry in inputs.inputs if "int" in entry.dtype]
    if quantize == "int16x8" and integers:
        raise ArgumentError(
            "quantize",
            "inputs of real numbers with quantize='int16x8'",
            found=f"integers for {integers}, which TensorFlow's converter does not take with activations of 16 bits",
            advice="Use quantize=Quantization('int8', skip='auto'), which keeps in float what 8 bits break.",
        )


def _refuse_quantized(model: keras.Model) -> None:
    """Say of a model that could not be converted that Keras has quantized it, which the converter does not know."""
    quantized = quantized_already(model)
    if quantized:
        raise ValueError(
            f"Expected a model that is not quantized yet. Received: {model.name!r}. {quantized} TFLite has no "
            f"operators for Keras' form: quantize it here, with quantize='int8' or 'dynamic'."
        )


def _write_model(
    model: keras.Model, inputs: Signature, folder: Path, *, unroll: bool, is_marked: bool
) -> list[list[str]]:
    """Write what the child reads, in float32; return the custom classes and functions that it has to import."""
    with in_float32(model), states_at_start(model):  # a file begins with the states that it is made with
        # Weights of half precision become float32 when they are loaded; a layer that holds them cannot read them so.
        if keras.backend.backend() != "tensorflow" or has_half_weights(model):
            return write_copy(model, folder)
        write_saved_model(model, folder / SAVED_MODEL, inputs=inputs, unroll=unroll)
        if is_marked:
            _write_marked(model, folder, inputs=inputs, unroll=unroll)
        return []


def _write_job(folder: Path, settings: dict[str, Any], samples: Sequence[dict[str, np.ndarray]]) -> None:
    arrays = {f"{row}/{name}": array for row, sample in enumerate(samples) for name, array in sample.items()}
    write_job(folder, JOB, settings={**settings, "samples": len(samples)}, arrays=arrays)


def _failure(reason: str, output: str, what: str) -> str:
    """Say what stopped the converter and what to try."""
    if reason.startswith("Expected "):  # said by the child itself
        return f"{reason}."
    expected = f"Expected the converter to accept {what}."
    if reason.startswith(("killed by", "did not finish")):
        return (
            f"{expected} Received: its process {'was ' if reason.startswith('killed') else ''}{reason}. "
            "Try another value of `quantize`, or a machine with more memory."
        )
    lists = re.findall(r"(?:Flex|Custom|Select) ops: (.+)", output)
    missing = sorted({name.strip() for names in lists for name in names.split(",")})
    in_general = {name.replace("_", "").lower() for name in vars(schema.BuiltinOperator)}
    sized = [name for name in missing if name.lower() in in_general]
    if sized:
        return (
            f"{expected} Received: {', '.join(sized)} on inputs whose sizes stay open, because the batch is. Fix the "
            f"batch: x = keras.Input(shape, batch_size=1), and export keras.Model(x, model(x))."
        )
    if missing:
        return (
            f"{expected} Received: operators without a builtin form in TFLite: {', '.join(missing)}. "
            "Replace the layers or functions that need them, or export with LiteRT's converter: in an environment of "
            f"its own, {install('jax')}, and KERAS_BACKEND=jax."
        )
    wide = re.findall(r"16x8-bit not yet supported for op: '(\w+)'", reason)
    if wide:
        return (
            f"{expected} Received: {wide[0]}, which has no form with activations of 16 bits. Replace the layer that "
            f"needs it, or use quantize='int8'."
        )
    errors = re.findall(r"error: (.+)", output)
    return f"{expected} Received: {(errors[-1] if errors else reason).strip().rstrip('.')}."


# Samples: those that the integer converter observes, and those on which a file is compared with Keras, and how.

_MOST_SAMPLES = 500  # ranges settle long before; every sample costs an invocation and space in the job's file
_BATCH_ROWS = 32  # bounds the memory of one call of the model
_RANDOM_SAMPLES = 8


def read_calibration(data: Any, signature: Signature) -> list[dict[str, np.ndarray]]:
    """Read the first samples of what a user passed as `calibration`; labels are left out.

    Args:
        data: Anything that `batches` reads; it may be endless.
        signature: The inputs of the model.

    Returns:
        The batches, each with one array per input, by name; at most 500 samples together.

    Raises:
        TypeError: If `data` holds no batches.
        ValueError: If there is no sample, all samples are the same, or a batch does not fit the inputs.
    """
    check_kind(data, argument="calibration")
    parts: list[dict[str, np.ndarray]] = []
    remaining = _MOST_SAMPLES
    for arrays in _named_arrays(data, signature, argument="calibration", rows=_BATCH_ROWS):
        parts.append({name: array[:remaining] for name, array in arrays.items()})
        remaining -= _length(parts[-1])
        if remaining <= 0:
            break
    count = sum(map(_length, parts))
    constant = [name for name in signature.names if _is_constant([part[name] for part in parts], count)]
    if len(constant) == len(signature.names):
        raise ArgumentError(
            "calibration",
            "samples in `calibration` that differ from each other, so that ranges follow from them",
            found=f"{count} that are all the same" if count > 1 else "one sample of one number only",
            advice="Give about 100 samples of real data, such as calibration=x[:100].",
        )
    floats = [entry.name for entry in signature.inputs if entry.name in constant and "float" in entry.dtype]
    if floats and count > 1:
        warn_user(
            ArgumentWarning(
                "calibration",
                "samples in `calibration` that differ in each input, whose range follows from them",
                found=f"the same values of {', '.join(map(repr, floats))} in all {count} samples",
                advice="If other values will come, they are clipped to these: calibrate on data that have them.",
            )
        )
    return parts


def _is_constant(parts: Sequence[np.ndarray], count: int) -> bool:
    """Return True if all samples of an input are the same; if all numbers are, where there is one sample."""
    first = parts[0][:1] if count > 1 else parts[0].reshape(-1)[:1]
    return all(part.shape[1:] == parts[0].shape[1:] and bool((part == first).all()) for part in parts)


def read_check_on(data: Any, signature: Signature, *, argument: str = "check_on") -> dict[str, np.ndarray]:
    """Read all samples of what a user passed as `check_on`; labels are left out.

    Args:
        data: Anything that `batches` reads.
        signature: The inputs of the model.
        argument: What the user calls it.

    Returns:
        One array per input, by name.

    Raises:
        TypeError: If `data` holds no batches.
        ValueError: If there is no sample, it never ends, a batch does not fit the inputs, or batches differ in shape.
    """
    check_source(data, argument=argument)
    parts = list(_named_arrays(data, signature, argument=argument, rows=None))
    for name in signature.names:
        shapes = {part[name].shape[1:] for part in parts}
        if len(shapes) > 1:
            raise ArgumentError(
                argument,
                f"samples of one shape for input {name!r} in `{argument}`",
                found=", ".join(map(str, sorted(shapes))),
                advice="Pad them to one length.",
            )
    return {name: np.concatenate([part[name] for part in parts]) for name in signature.names}


def choose_check_on(
    check_on: Any, signature: Signature, *, batches: Sequence[dict[str, np.ndarray]] | None, model: keras.Model
) -> dict[str, np.ndarray]:
    """Read the samples on which a file is compared with Keras: the user's, calibration data, or random numbers.

    Args:
        check_on: Samples of the user; None takes others.
        signature: The inputs of the model.
        batches: The calibration data, of which the first batch is taken; None or empty draws random numbers.
        model: The model, whose embeddings bound random integers.

    Raises:
        TypeError, ValueError: As `read_check_on` does.
    """
    if check_on is not None:
        return read_check_on(check_on, signature)
    return batches[0] if batches else signature.random(_RANDOM_SAMPLES, model=model)


def count_inputs(model: keras.Model) -> int:
    """Return the number of inputs of a model; 1 if it does not tell."""
    return len(getattr(model, "inputs", None) or [model])


def labeled_arrays(data: Any, *, inputs: int, argument: str) -> tuple[Any, Any]:
    """Read all samples and labels into arrays, as Keras takes them.

    Args:
        data: A tuple (x, y), a dataset, or an iterable of batches (x, y).
        inputs: The number of inputs of the model.
        argument: What the user calls it.

    Raises:
        TypeError: If it is something else.
        ValueError: If there is no sample, or no label for each, it never ends, samples have weights, or batches
            differ in shape.
    """
    if (isinstance(data, tuple) and len(data) != 2) or hasattr(data, "shape"):
        received = f"{len(data)} parts" if isinstance(data, tuple) else f"an object of type {type(data).__name__}"
        raise ArgumentTypeError(
            argument,
            f"`{argument}` to be a tuple (x, y) of samples and labels, a dataset, or batches (x, y)",
            found=received,
        )
    x, y = data if isinstance(data, tuple) else _joined(data, inputs=inputs, argument=argument)
    check_holds_arrays((x, y), argument=argument)
    for labels in keras.tree.flatten(y):
        refuse_text(labels, argument)
    sizes = sorted({len(array) for array in keras.tree.flatten((x, y))})
    if len(sizes) > 1 or sizes == [0]:
        received = " and ".join(map(str, sizes))
        raise ArgumentError(argument, f"samples in `{argument}`, and a label for each", found=f"{received} of them")
    return x, y


def _joined(data: Any, *, inputs: int, argument: str) -> tuple[Any, Any]:
    check_source(data, argument=argument)
    parts = [*batches(data, rows=None, inputs=inputs, argument=argument)]
    if any(part.y is None or part.sample_weight is not None for part in parts):
        received = "samples only" if any(part.y is None for part in parts) else "sample weights, too"
        raise ArgumentError(argument, f"batches (x, y) of samples and labels in `{argument}`", found=received)
    shapes = {tuple(array.shape[1:] for array in keras.tree.flatten((part.x, part.y))) for part in parts}
    if len(shapes) > 1:
        raise ArgumentError(
            argument,
            f"batches of one shape in `{argument}`",
            found=f"samples and labels of shapes {', '.join(map(str, sorted(shapes)))}",
            advice="Pad them to one length.",
        )
    return keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *((part.x, part.y) for part in parts))


def _split(calibration: Iterable[Mapping[str, np.ndarray]], *, rows: int = 1) -> list[dict[str, np.ndarray]]:
    """Split batches into batches of `rows` samples; the last sample fills up the last batch."""
    samples = [
        {name: array[row : row + 1] for name, array in batch.items()}
        for batch in calibration
        for row in range(_length(batch))
    ]
    groups = [samples[start : start + rows] for start in range(0, len(samples), rows)]
    full = [[*group, *group[-1:] * (rows - len(group))] for group in groups]
    return [{name: np.concatenate([each[name] for each in group]) for name in group[0]} for group in full]


def _named_arrays(
    data: Any, signature: Signature, *, argument: str, rows: int | None
) -> Iterator[dict[str, np.ndarray]]:
    parts = batches(data, rows=rows, inputs=len(signature.inputs), argument=argument)
    for index, batch in enumerate(parts):
        yield signature.arrays(batch.x, f"batch {index} of `{argument}`")


def _length(batch: Mapping[str, np.ndarray]) -> int:
    return len(next(iter(batch.values())))


def predict(
    model: keras.Model, data: Mapping[str, np.ndarray], *, inputs: Signature, argument: str
) -> list[np.ndarray]:
    """Predict samples as `model.predict` does, in the order of the file's outputs.

    Args:
        model: A model without wrappers.
        data: Samples by the names of the inputs.
        inputs: The inputs of the model.
        argument: What the user calls the samples.

    Raises:
        ValueError: If an output has no finite value on the samples: a file could not be compared with it.
    """
    # Called directly: `predict` compiles a function for every export. Compiled code may give numbers where this
    # does not, and they are what the user sees. JAX would compile each operation by itself, which takes longer.
    is_compiled = keras.backend.backend() == "jax"
    call = model.predict_on_batch if is_compiled else functools.partial(model, training=False)
    outputs = _in_batches(call, model, data, inputs)
    if not all(np.isfinite(output).all() for output in outputs):
        graph = Anatomy.of(model).graph or model  # without what a class of the user's does around `call`
        outputs = _in_batches(graph.predict_on_batch, model, data, inputs)
    for place, output in enumerate(outputs):
        if output.size and not np.isfinite(output).any():
            raise ArgumentError(
                argument,
                f"`{argument}` to give finite outputs of {model.name!r}",
                found=f"samples for which all values of output {place} are NaN or infinity",
                advice="Pass samples for which model.predict gives numbers.",
            )
    return outputs


def _in_batches(
    call: Callable[[Any], Any], model: keras.Model, data: Mapping[str, np.ndarray], inputs: Signature
) -> list[np.ndarray]:
    rows, step = _length(data), inputs.batch or _BATCH_ROWS
    parts = ({name: array[start : start + step] for name, array in data.items()} for start in range(0, rows, step))
    with states_at_start(model):
        chunks = [_outputs(call(inputs.pack(part))) for part in parts]
    return [np.concatenate(arrays) for arrays in zip(*chunks, strict=True)]


def _outputs(outputs: Any) -> list[np.ndarray]:
    if isinstance(outputs, Mapping):
        outputs = [outputs[name] for name in sorted(outputs)]
    outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
    return [_as_numpy(output) for output in outputs]


def _as_numpy(output: Any) -> np.ndarray:
    is_half = keras.backend.standardize_dtype(output.dtype) in HALF_TYPES
    return keras.ops.convert_to_numpy(keras.ops.cast(output, "float32") if is_half else output)
