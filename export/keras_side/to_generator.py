"""To a generator: a KerasHub language model as a file that writes text, or an encoder as one that embeds."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.base.folders import TemporaryFolder
from tfprune.base.output import Progress, check_verbose
from tfprune.base.spec import ArgumentError, ArgumentTypeError, check_count, check_number
from tfprune.export.device import generator
from tfprune.export.device.generator import MASK, MODEL, TOKENS, check_texts, padded
from tfprune.export.device.processes import write_job
from tfprune.export.device.writer_file import TextForm, check_whole_text
from tfprune.export.file.container import LARGEST_FILE, check_destination, write_atomically, write_model
from tfprune.export.file.document import load_objects, put_metadata, with_metadata
from tfprune.export.file.reader import read
from tfprune.export.file.report import FileReport, certified
from tfprune.export.keras_side.convert import JOB, SAVED_MODEL, convert_apart
from tfprune.export.keras_side.language_model import (
    SUFFIX,
    CachedBlock,
    CachedModel,
    bind_weights,
    encoder_content,
    keras_ids,
    litertlm_content,
    require_builder,
    text_content,
)
from tfprune.export.keras_side.prepare import (
    StrippedModel,
    converters,
    half_types,
    has_half_weights,
    strip_for_export,
)
from tfprune.export.keras_side.stablehlo import convert_functions
from tfprune.export.keras_side.to_tflite import to_tflite
from tfprune.export.rewriting.rewrite import ExportReport
from tfprune.export.rewriting.weights import narrow_weights
from tfprune.masking.pruned import holds_pruned
from tfprune.masking.strip import warn_if_dense
from tfprune.models.anatomy import check_keras, quantized_already, walk
from tfprune.report import table

# Compare what a language model's file writes with Keras: its tokens, its scores, and its perplexity.

_TIE = 1e-3  # of the largest score: closer ones are ranked by rounding
_TRIED = 4  # tokens with which a cache is tried before the conversion
_TIMEOUT = 3600.0  # seconds
_DRAWN = 8  # tokens of a prompt that is drawn
_BACKENDS = {"tensorflow": "tensorflow", "litert": "jax"}  # whose graphs a converter reads


@dataclass(frozen=True)
class _TextComparison:
    """How the text of a file compares with Keras.

    Attributes:
        written: How many tokens the file wrote.
        equal: How many of them have the highest score in Keras, up to a tie.
        difference: The largest difference of scores, as a fraction of Keras' largest.
        perplexity: Of the file on the prompts.
        keras_perplexity: Of Keras on the prompts.
        run: What the file wrote.
    """

    written: int
    equal: int
    difference: float
    perplexity: float
    keras_perplexity: float
    run: generator.Written


def _check_cache(cached: CachedModel, model: Any) -> None:
    """Refuse a model whose class gives other scores with its cache than without, before the conversion.

    Args:
        cached: The model with its caches.
        model: The same model, wrapped or not.

    Raises:
        ValueError: If the scores differ.
    """
    caches = [tuple(ops.zeros(block.shape) for _ in block.names) for block in cached.blocks]
    ids = np.random.default_rng(0).integers(0, int(model.output.shape[-1]), min(_TRIED, cached.length)).tolist()
    expected, differences = _keras_scores(model, ids), []
    for position, token in enumerate(ids):
        logits, caches = cached(ops.array([[token]], "int32"), caches, ops.array(position, "int32"))
        differences.append(np.abs(np.asarray(logits)[0, -1] - expected[position]).max())
    difference = float(max(differences) / max(np.abs(expected).max(), 1e-6))
    if difference > _TIE:
        raise ValueError(
            f"Expected a model that gives the same scores with its cache as without. Received: "
            f"{type(model).__name__}, whose scores of {len(ids)} tokens differ by {difference:.2g} of the largest. "
            f"In Keras, too, its `generate` writes another text than its `call` rates highest. Use another class."
        )


def _compare_written(folder: Path, model: Any, *, prompts: Sequence[Sequence[int]], count: int) -> _TextComparison:
    """Let a file continue prompts, and compare it with what Keras says of the same tokens.

    Args:
        folder: A folder with a plain .tflite file with signatures, called `write_job.MODEL`.
        model: The language model, wrapped or not.
        prompts: Token ids.
        count: The number of tokens to write after each.

    Raises:
        ValueError: If the file does not run.
    """
    run = generator.write_apart(folder, prompts, count=count, timeout=_TIMEOUT)
    if isinstance(run, str):
        raise ValueError(f"Expected a file that writes. Received: one that does not: {run}. Nothing was written.")
    equal, differences, losses = 0, [0.0], []
    for prompt, tokens, *scores in zip(prompts, run.tokens, run.read, run.scores, strict=True):
        expected = _keras_scores(model, [*prompt, *tokens[:-1]])
        file_scores = np.concatenate([part.reshape(-1, expected.shape[1]) for part in scores])
        largest = np.abs(expected).max()
        differences.append(float(np.abs(file_scores - expected).max() / max(largest, 1e-6)))
        last = expected[-len(tokens) :]
        equal += int((last.max(axis=1) - last[np.arange(len(tokens)), tokens] <= _TIE * largest).sum())
        losses += [(_losses(each[: len(prompt) - 1], prompt[1:])) for each in (file_scores, expected)]
    perplexity, keras_perplexity = (_perplexity(np.concatenate(losses[side::2])) for side in (0, 1))
    written = sum(map(len, run.tokens))
    return _TextComparison(written, equal, max(differences), perplexity, keras_perplexity, run)


def _perplexity(losses: np.ndarray) -> float:
    return float(np.exp(losses.mean()))


def _keras_scores(model: Any, ids: Sequence[int]) -> np.ndarray:
    """Return Keras' logits after each of some tokens, (tokens, vocabulary)."""
    every = {"token_ids": np.array([ids], np.int32), "padding_mask": np.ones((1, len(ids)), np.int32)}
    every["position_ids"] = np.arange(len(ids), dtype=np.int32)[None]
    return np.asarray(model({tensor.name: every[tensor.name] for tensor in model.inputs}, training=False))[0]


def _losses(scores: np.ndarray, ids: Sequence[int]) -> np.ndarray:
    scores = scores.astype(np.float64) - scores.max(axis=1, keepdims=True)
    return np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(ids)), np.asarray(ids, int)]


# Report of a language model's file: its size, and how its text compares with Keras'.

_QUARTER = 0.25


@dataclass(frozen=True)
class GeneratorReport(FileReport):
    """The file that `to_generator` wrote, and how its text compares with that of the Keras model.

    Attributes:
        path: Where it was written.
        bytes: Its size.
        parameters: Of the Keras model.
        shares: The shares of the file's bytes, and of the weights that one token reads, by part: "vocabulary",
            "blocks", and "units" of the blocks. The time of a token is nearly that of reading its weights.
        blocks: How many blocks keep a cache.
        length: How many tokens a prompt and its continuation may have together.
        quantize: The number format; None for float32.
        tokenizer: The kind of the tokenizer in the file, empty if there is none.
        written: How many tokens the file wrote.
        equal: How many of them Keras would have chosen, too, after the same tokens.
        difference: The largest difference of the scores, as a fraction of Keras' largest score.
        tolerance: The difference that is allowed.
        perplexity: Of the file on `check_on`.
        keras_perplexity: Of the Keras model on the same texts.
        prefill_speed: Tokens of a prompt in a second of processor time, by one thread of this machine.
        decode_speed: Tokens written in a second of processor time.
        runtime: The interpreter, with its version.

    Example:
        >>> report = tfprune.export.to_generator(causal_lm, "writer.tflite", length=16)
        >>> report.equal == report.written
        True
    """

    path: str
    bytes: int
    parameters: int
    shares: dict[str, tuple[float, float]]
    blocks: int
    length: int
    quantize: str | None
    tokenizer: str
    written: int
    equal: int
    difference: float
    tolerance: float
    perplexity: float
    keras_perplexity: float
    prefill_speed: float
    decode_speed: float
    runtime: str

    def __str__(self) -> str:
        rows = [
            ["bytes", f"{self.bytes:,} ({self.shares['vocabulary'][0]:.0%} in the vocabulary)"],
            ["parameters", f"{self.parameters:,}"],
            ["number format", self.quantize or "float32"],
            ["caches", f"{self.length:,} tokens in {self.blocks} blocks"],
            ["tokenizer", self.tokenizer or "none"],
            ["equal tokens", f"{self.equal} of {self.written}"],
            ["difference", f"{self.difference:.3g} of the largest score (allowed: {self.tolerance:g})"],
            ["perplexity", f"{self.perplexity:.4g} (Keras: {self.keras_perplexity:.4g})"],
            ["prefill", f"{self.prefill_speed:,.0f} tokens per processor second"],
            ["decode", f"{self.decode_speed:,.0f} tokens per processor second"],
            ["runtime", self.runtime],
            *([f"a quarter of the {part}", _saved(*self.shares[part])] for part in ("units", "blocks", "vocabulary")),
        ]
        return table(["exported", self.path], rows, left=2)


def _saved(size: float, time: float) -> str:
    """Return what a quarter of a part takes."""
    return f"{_QUARTER * size:.1%} of the bytes, about {_QUARTER * time:.1%} of a token's time"


# Which models become files that write, and why others do not.

_LEAST_BYTES = {None: 4.0, "int8": 1.0, "int4": 0.5625}  # of a weight, with its share of a scale
_PROMPT = {"token_ids", "padding_mask", "position_ids"}  # the inputs of a model that reads text alone


def _check_model(model: Any) -> None:
    """Refuse what is not a language model of KerasHub that reads text alone and keeps keys and values.

    Raises:
        TypeError: If it is not a Keras model.
        ValueError: If it cannot be exported.
    """
    check_keras(model)
    name = type(model).__name__
    if not hasattr(model, "call_with_cache") or not hasattr(model, "generate_step"):
        seen = "a backbone, without a head" if name.endswith("Backbone") else f"{name}, which has none"
        if hasattr(model, "encoder") or hasattr(getattr(model, "backbone", None), "encoder_transformer_layers"):
            seen = f"{name}, an encoder-decoder"
        raise ValueError(
            f"Expected a language model of KerasHub with the method `call_with_cache`, such as Gemma3CausalLM. "
            f"Received: {seen}. Use to_tflite for models of one call."
        )
    inputs = {tensor.name for tensor in keras.tree.flatten(model.input)}
    if not inputs <= _PROMPT:
        more = ", ".join(sorted(inputs - _PROMPT))
        raise ValueError(
            f"Expected a model that reads text alone. Received: {name}, which also reads {more}. Build its backbone "
            f"without the encoder of images or sounds, where the class allows it (image_size=None)."
        )
    _check_backend()
    if half_types(model) or has_half_weights(model):
        raise ValueError(
            f"Expected a model in float32. Received: {model.name!r}, which computes in half precision. Load it with "
            f"dtype='float32'."
        )
    quantized = quantized_already(model)
    if quantized:
        raise ValueError(f"Expected a model that is not quantized yet. Received: {model.name!r}. {quantized}")


def _converter() -> str:
    """Return the converter that reads graphs of the backend, or else the first one."""
    names = converters()
    return next((name for name in names if _BACKENDS[name] == keras.backend.backend()), names[0])


def _check_backend() -> None:
    """Refuse a backend whose graphs the converter does not read."""
    found, wanted = keras.backend.backend(), _BACKENDS[_converter()]
    if found == wanted:
        return
    other = "litert" if found == "jax" else "tensorflow" if found == "tensorflow" else ""
    advice = f", or set TFPRUNE_CONVERTER={other} in the environment" if other else ""
    raise ValueError(
        f"Expected the backend {wanted!r}, whose graphs the converter reads. Received: {found!r}. Save the model "
        f"with model.save, and export it from a program with KERAS_BACKEND={wanted}{advice}."
    )


def _check_size(model: Any, quantize: str | None) -> None:
    """Refuse a model whose file would be too large, before the conversion.

    Raises:
        ValueError: If its weights take 2 GB or more.
    """
    size = _LEAST_BYTES[quantize] * model.count_params()
    if size >= LARGEST_FILE:
        fewer = [f"quantize={name!r}, " for name, least in _LEAST_BYTES.items() if least < _LEAST_BYTES[quantize]]
        raise ValueError(
            f"Expected a model of less than 2 GB in {quantize or 'float32'}, the largest TFLite file. Received: "
            f"{model.name!r} of {size / 1e9:.1f} GB. Use {''.join(fewer)}{'or ' * bool(fewer)}a smaller model, for "
            f"example by pruning units or blocks first."
        )


def _check_length(model: Any, length: int) -> None:
    """Refuse more positions than a model has learned.

    Raises:
        ValueError: If `length` is larger than a table of positions.
    """
    for path, layer in walk(model):
        table = getattr(layer, "position_embeddings", None)
        if table is not None and length > table.shape[0]:
            raise ValueError(
                f"Expected a length of at most {table.shape[0]:,}, as many positions as {path!r} has learned. "
                f"Received: {length:,}. Set length={table.shape[0]}."
            )


def _vocabulary_size(model: Any) -> int:
    """Return the number of parameters in the tables of tokens, those for the scores included."""
    tables = {id(each): each for path, layer in walk(model) if _is_table(layer) for each in layer.weights}
    return sum(int(np.prod(table.shape)) for table in tables.values())


def _is_table(layer: Any) -> bool:
    return isinstance(layer, keras.layers.Embedding)


# Which parts of a language model's file take its bytes, and the time of a token.

_LOOK_UPS = {"GATHER", "EMBEDDING_LOOKUP", "SLICE", "STRIDED_SLICE"}  # operators that read a row of a table


def _weight_shares(content: bytes, cached: CachedModel) -> dict[str, tuple[float, float]]:
    """Return the share of a file's bytes, and of the weights that one token reads, of each part of a model.

    Reading its weights from the memory takes most of a token's time, which the second share therefore estimates. A
    mixture of experts reads some of its experts only; the estimate counts all.

    Args:
        content: The plain .tflite file.
        cached: The model in it.

    Returns:
        The two shares by part: "vocabulary", "blocks", and "units", which are a part of the blocks.
    """
    rows = int(cached.model.output.shape[-1])
    size, read_by_token = {"vocabulary": 0, "blocks": 0}, {"vocabulary": 0, "blocks": 0}
    file = read(content)
    graph = file.subgraphs[0]  # all signatures read the same weights
    readers: dict[int, set[str]] = {}
    for operator in graph.operators:
        for index in operator.inputs:
            if index >= 0 and graph.tensors[index].weight:
                readers.setdefault(graph.tensors[index].buffer, set()).add(operator.name)
    for buffer, tensor in {tensor.buffer: tensor for tensor in graph.tensors if tensor.weight}.items():
        part = "vocabulary" if rows in tensor.shape else "blocks"
        size[part] += tensor.bytes
        read_by_token[part] += tensor.bytes if readers.get(buffer, set()) - _LOOK_UPS else 0
    of_file, of_token = len(content), max(sum(read_by_token.values()), 1)
    shares = {part: (size[part] / of_file, read_by_token[part] / of_token) for part in size}
    units = _units(cached)
    return shares | {"units": (shares["blocks"][0] * units, shares["blocks"][1] * units)}


def _units(cached: CachedModel) -> float:
    """Return the share of the parameters of the blocks that are not in their attentions."""
    blocks = cached.model.count_params() - _vocabulary_size(cached.model) - _positions(cached.model)
    return 1 - cached.attention_parameters / max(blocks, 1)


def _positions(model: Any) -> int:
    tables = [getattr(layer, "position_embeddings", None) for _, layer in walk(model)]
    return sum(
        int(np.prod(table.shape)) for table in {id(each): each for each in tables if each is not None}.values()
    )


# The signatures of a language model with its caches: `prefill_P` for parts of a prompt, `decode` for one token.
#
# The caches of a file have the form [1, heads, positions, size of a head], which runtimes for phones expect. Each
# signature takes them and returns them with the new positions filled in. Kernels and tables are inputs here, too:
# the converter would copy them several times, and needs their shapes only (`bind_weights`).

_DECODE, _PREFILL, _WEIGHT = "decode", "prefill_", "weight_"
_TOKENS, _POSITIONS, _LOGITS = "tokens", "input_pos", "logits"


def _functions(cached: CachedModel, prefill: Sequence[int]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return the functions of the signatures, and the shape and type of each of their inputs.

    Args:
        cached: The model, without the weights that `_kernels` returns, which are inputs.
        prefill: How many tokens of a prompt a signature takes, one number for each.
    """
    weights = _kernels(cached.model)
    of_weights = {name: (tuple(weight.shape), "float32") for name, weight in weights.items()}
    functions = {f"{_PREFILL}{count}": _step(cached, weights) for count in prefill}
    functions[_DECODE] = _step(cached, weights, gives_logits=True)
    counts = dict(zip(functions, (*prefill, 1), strict=True))
    return functions, {name: _inputs(cached.blocks, count) | of_weights for name, count in counts.items()}


def _write_signatures(cached: CachedModel, folder: Path, *, prefill: Sequence[int]) -> list[str]:
    """Write the SavedModel, and return the names of its signatures."""
    import tensorflow as tf

    functions, inputs = _functions(cached, prefill)
    module = tf.Module()
    apart = {id(weight) for weight in _kernels(cached.model).values()}
    module.constants = [each.value for each in cached.model.variables if id(each) not in apart]
    concrete = {}
    for key, function in functions.items():
        specs = {name: tf.TensorSpec(*form, name=name) for name, form in inputs[key].items()}
        concrete[key] = tf.function(function, autograph=False).get_concrete_function(**specs)
    module.functions = concrete  # so that the SavedModel says which variables a function has captured
    tf.saved_model.save(module, str(folder), signatures=concrete)
    return list(functions)


def _kernels(model: keras.Model) -> dict[str, keras.Variable]:
    """Return the weights of two or more dimensions, by the names of the inputs that stand for them."""
    weights = [each for each in model.variables if len(each.shape) > 1 and each.dtype == "float32"]
    return {f"{_WEIGHT}{number}": weight for number, weight in enumerate(weights)}


def _inputs(blocks: Sequence[CachedBlock], count: int) -> dict[str, Any]:
    inputs: dict[str, Any] = {_TOKENS: ((1, count), "int32"), _POSITIONS: ((count,), "int32")}
    for block in blocks:
        inputs |= {name: (tuple(block.file_shape), "float32") for name in block.names}
    return inputs


def _step(cached: CachedModel, weights: Mapping[str, keras.Variable], *, gives_logits: bool = False) -> Any:
    def step(tokens: Any, input_pos: Any, **inputs: Any) -> dict[str, Any]:
        position, count = input_pos[0], tokens.shape[1]
        own = [tuple(ops.transpose(inputs[name], block.order) for name in block.names) for block in blocks]
        with keras.StatelessScope([(weight, inputs[name]) for name, weight in weights.items()]):
            logits, new = cached(tokens, own, position)
        outputs = {_LOGITS: logits} if gives_logits else {}
        for block, pair in zip(blocks, new, strict=True):
            for name, filled in zip(block.names, pair, strict=True):
                outputs[name] = _updated(inputs[name], filled, block, position=position, count=count)
        return outputs

    blocks = cached.blocks
    return step


def _updated(cache: Any, filled: Any, block: CachedBlock, *, position: Any, count: int) -> Any:
    """Put the new positions alone into a cache: a runtime does so in place where it is input and output."""
    _, heads, _, size = block.file_shape
    start, where = [0, 0, position, 0], [0, 0, 0, 0]
    where[block.order[2]] = position
    sizes = [(1, heads, count, size)[block.order.index(axis)] for axis in range(4)]
    part = ops.transpose(ops.slice(filled, where, sizes), block.order)
    return ops.slice_update(cache, start, part)


# From a KerasHub language model to a file that writes text, compared with Keras before it is written.

_TOLERANCES = {None: 1e-3, "int8": 0.35, "int4": 0.7}
_BITS = {"int8": 8, "int4": 4}
_READ_TOKENS = 128  # of each text of `check_on`, at most
_PROGRESS_STEPS = 3  # that take time: the SavedModel, the conversion, the check


@certified
def to_generator(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    length: int = 1024,
    prefill: Sequence[int] = (128,),
    max_tokens: int = 32,
    quantize: str | None = None,
    check_on: Any = None,
    tolerance: float | None = None,
    verbose: int | str = "auto",
) -> GeneratorReport:
    """Export a language model of KerasHub as a TFLite file that writes text, and compare its text with Keras' first.

    Use it for a CausalLM with its cache; `to_tflite` exports a single call without one. `Generator` runs the file, on
    devices without Keras. Wrappers are stripped first. A model made smaller by this library keeps what it saved: each
    block's cache has that block's own heads. The file has the signatures `prefill_N`, for parts of a prompt, and
    `decode`, for one token, which share their weights. It writes greedily in another process, and each token has to
    be the one that Keras chooses after the same tokens, up to ties of 0.001 of the largest score; for int8 and
    int4, the scores have to be close instead.

    Args:
        model: A CausalLM of KerasHub that keeps keys and values of each position, in float32, on the TensorFlow
            backend, or on JAX for LiteRT's converter. It is left untouched.
        path: Where the file is written, exactly as given, such as `"writer.tflite"`. A path that ends in `.litertlm`
            gives a file for LiteRT-LM, the runtime of phones, which needs the extra `litertlm` and a model with its
            tokenizer.
        length: How many tokens a prompt and its continuation may have together, at least 2. Default 1024. The caches
            take 8 bytes for each position and channel of the keys.
        prefill: How many tokens of a prompt one call takes, a number for each signature, such as (32, 128). Default
            (128,); numbers above `length` become `length`.
        max_tokens: How many tokens the file writes after each text of `check_on`, at least 1. Default 32; at most
            half of `length`, as the texts need the other half.
        quantize: None (the default) for float32, `"int8"` for 8-bit weights with a scale for each row, or `"int4"`
            for 4-bit weights with a scale for each 32 of a row; rows of another length get 8 bits. Activations stay
            floats, and so do weights of fewer than 1,024 entries and those of experts.
        check_on: Texts on which file and Keras are compared, or lists of token ids; at most 128 tokens of each are
            read. None (the default) draws token ids.
        tolerance: The largest difference of the scores allowed, as a fraction of Keras' largest score, at least 0.
            None (the default) allows 1e-3, 0.35 for int8, and 0.7 for int4.
        verbose: As in Keras: 0 shows nothing, 1 a progress bar, 2 one line at the end. `"auto"` (the default) shows
            the bar in a terminal or a notebook, once the call has taken some seconds.

    Returns:
        A report of the file that was written, and of its check.

    Raises:
        TypeError: If `model` is not a Keras model, or an argument has another type.
        ValueError: If the model is not one that this function takes, an argument does not fit, the converter fails,
            or the file writes something else than Keras. A file that was at `path` before is then untouched.

    Example:
        >>> report = to_generator(causal_lm, "writer.tflite", length=16, check_on=["the fox"], max_tokens=8)
        >>> print(report)
        exported                     writer.tflite
        ---------------------------  ---...
        bytes                        ...
        equal tokens                 8 of 8
        ...
    """
    destination = check_destination(path)
    check_verbose(verbose)
    if quantize not in _TOLERANCES:
        raise ValueError(f"Expected quantize=None, 'int8' or 'int4'. Received: {quantize!r}.")
    allowed = _TOLERANCES[quantize] if tolerance is None else check_number(tolerance, "tolerance", least=0)
    _check_model(model)
    _check_size(model, quantize)
    check_count(length, "length", least=2)
    _check_length(model, length)
    counts = sorted({min(check_count(count, "prefill", least=1), length) for count in prefill})
    if not counts:
        raise ArgumentError(
            "prefill", "at least one number in `prefill`", found="none", advice="Give for example prefill=(128,)."
        )
    count = min(check_count(max_tokens, "max_tokens", least=1), length // 2)
    form, tokenizer = text_content(model)
    is_litertlm = destination.suffix == SUFFIX
    if is_litertlm:
        _check_litertlm(model, form)
    prompts = _prompts(model, check_on, most=min(_READ_TOKENS, length + 1 - count))  # the last token is not read
    with Progress(_PROGRESS_STEPS, verbose=verbose, unit="step") as progress:
        cached = CachedModel(_stripped(model), length)
        _check_cache(cached, model)
        entries = form.as_metadata(b"" if is_litertlm else tokenizer)
        with TemporaryFolder() as name:
            unchecked = Path(name, MODEL)
            _write(cached, unchecked, counts=counts, quantize=quantize, entries=entries, each_step=progress.add)
            comparison = _compare_written(Path(name), model, prompts=prompts, count=count)
            content = unchecked.read_bytes()
        progress.add()
    _check(comparison, quantize=quantize, allowed=allowed)
    shares = _weight_shares(content, cached)
    content = litertlm_content(content, form, tokenizer=tokenizer, length=length) if is_litertlm else content
    write_atomically(destination, content)
    return GeneratorReport(
        path=str(destination),
        bytes=len(content),
        parameters=model.count_params(),
        shares=shares,
        blocks=len(cached.blocks),
        length=length,
        quantize=quantize,
        tokenizer=form.tokenizer,
        written=comparison.written,
        equal=comparison.equal,
        difference=comparison.difference,
        tolerance=allowed,
        perplexity=comparison.perplexity,
        keras_perplexity=comparison.keras_perplexity,
        prefill_speed=comparison.run.prefill_speed,
        decode_speed=comparison.run.decode_speed,
        runtime=comparison.run.runtime,
    )


def _check_litertlm(model: keras.Model, form: TextForm) -> None:
    """Refuse a file of LiteRT-LM that could not be written, or not read."""
    require_builder()
    if form.tokenizer:
        return
    has_tokenizer = getattr(getattr(model, "preprocessor", None), "tokenizer", None) is not None
    raise ValueError(
        f"Expected a model with a tokenizer for a {SUFFIX} file, whose runtime takes texts only. Received: "
        f"{model.name!r}, {'whose tokenizer is of an unknown kind' if has_tokenizer else 'which has none'}. Build it "
        "with a preprocessor of SentencePiece or byte pairs, or write a .tflite file."
    )


def _stripped(model: keras.Model) -> keras.Model:
    if not holds_pruned(model):
        return StrippedModel(model).model
    warn_if_dense(model)
    return strip_for_export(model, finds_unread=False).model


def _write(
    cached: CachedModel,
    path: Path,
    *,
    counts: Sequence[int],
    quantize: str | None,
    entries: Mapping[str, bytes],
    each_step: Callable[[], None],
) -> None:
    """Convert the model without its weights, put them in, and write the file."""
    file = load_objects(_converted(cached, counts, each_step))
    bind_weights(file, {name: _as_array(weight.value) for name, weight in _kernels(cached.model).items()})
    if quantize:
        narrow_weights(file, bits=_BITS[quantize])
    put_metadata(file, entries)
    write_model(file, path)
    each_step()


def _converted(cached: CachedModel, counts: Sequence[int], each_step: Callable[[], None]) -> bytes:
    if _converter() == "litert":
        each_step()
        return convert_functions(*_functions(cached, counts), name=cached.model.name)
    with TemporaryFolder() as name:
        folder = Path(name)
        signatures = _write_signatures(cached, folder / SAVED_MODEL, prefill=counts)
        each_step()
        write_job(folder, JOB, settings={"quantize": None, "signatures": signatures})
        return convert_apart(folder, cached.model, quantize=None)


def _as_array(value: Any) -> np.ndarray:
    return np.asarray(value.read_value() if hasattr(value, "read_value") else value)  # TensorFlow's, without a copy


def _check(comparison: _TextComparison, *, quantize: str | None, allowed: float) -> None:
    """Refuse a file whose scores differ, or that writes in float32 what Keras would not."""
    if comparison.difference <= allowed and (quantize or comparison.equal == comparison.written):
        return
    raise ValueError(
        f"Expected a file that writes what Keras writes. Received: one of which {comparison.equal} of "
        f"{comparison.written} tokens are those that Keras chooses, and whose scores differ by "
        f"{comparison.difference:.3g} of the largest (allowed: {allowed:g}). Nothing was written. Allow more "
        f"with `tolerance`, or give texts of the model's language with `check_on`."
    )


def _prompts(model: Any, check_on: Any, *, most: int) -> list[list[int]]:
    """Return the token ids of `check_on`, at least two of each."""
    if isinstance(check_on, str):
        raise ArgumentTypeError(
            "check_on", "a list of texts in `check_on`", found="a text", advice=f"Give check_on=[{check_on!r:.60}]."
        )
    if not isinstance(check_on, Iterable | None):
        raise ArgumentTypeError("check_on", "`check_on` to be a list of texts", f"{check_on!r:.80}")
    vocabulary = int(model.output.shape[-1])
    if check_on is None:
        random_ids = np.random.default_rng(0).integers(0, vocabulary, min(_DRAWN, most))
        return [random_ids.tolist()]
    prompts = []
    for text in check_on:
        if isinstance(text, str) and model.preprocessor is None:
            raise ArgumentError(
                "check_on", f"token ids in `check_on`, as {model.name!r} has no preprocessor", found="a text"
            )
        if isinstance(text, str):
            check_whole_text(text)
        ids = np.asarray(keras_ids(model, text) if isinstance(text, str) else text)
        if (
            ids.ndim != 1
            or ids.dtype.kind not in "iu"
            or len(ids) < 2
            or not (0 <= ids.min() <= ids.max() < vocabulary)
        ):
            raise ArgumentError(
                "check_on",
                f"texts of at least two tokens in `check_on`, or flat lists of at least two ids from 0 to "
                f"{vocabulary - 1:,}",
                found=f"{text!r:.80}",
            )
        prompts.append(ids[:most].tolist())
    if not prompts or math.prod(map(len, prompts)) == 0:
        raise ArgumentError("check_on", "at least one text in `check_on`", found="none")
    return prompts


# From an encoder of KerasHub to a file that turns texts into vectors.

_SEGMENTS = "segment_ids"
_EXAMPLES = ("The quick brown fox jumps over the lazy dog.", "How are sentences compared?")


@certified
def to_embedder(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    tokenizer: Any,
    length: int = 128,
    quantize: str | None = None,
    check_on: Any = None,
    tolerance: float | None = None,
    verbose: int | str = "auto",
) -> ExportReport:
    """Export an encoder of KerasHub as a TFLite file that turns texts into vectors, and compare these with Keras.

    Use it for sentence encoders such as MiniLM. The vector of a text is the mean over its tokens, divided by its
    length, so that the dot product of two vectors is their cosine similarity. `Embedder` runs the file, with its
    tokenizer, on devices without Keras.

    Args:
        model: A backbone with the inputs `token_ids` and `padding_mask`, such as `BertBackbone`, dense, wrapped or
            smaller.
        path: Where the file is written, exactly as given, such as `"encoder.tflite"`.
        tokenizer: Its tokenizer of word pieces, such as `BertTokenizer`.
        length: How many tokens a text may have, those at its start and end included, at least 3. Default 128.
        quantize: As in `to_tflite`, without "int8": None (the default), `"float16"` or `"dynamic"`.
        check_on: Texts on which file and Keras are compared. None (the default) takes two English sentences.
        tolerance: As in `to_tflite`.
        verbose: As in `to_tflite`.

    Returns:
        The report of `to_tflite`.

    Raises:
        TypeError: If `model` is not a Keras model, or an argument has another type.
        ValueError: If the model has other inputs, the tokenizer is not one of word pieces or gives other ids on a
            device, `length` does not fit, or the file gives other vectors than Keras. Nothing is then written.

    Example:
        >>> report = to_embedder(backbone, "encoder.tflite", tokenizer=tokenizer, length=16)
    """
    destination = check_destination(path)
    check_keras(model)
    _check_length(model, check_count(length, "length", least=3))
    encoder = _with_mean(model, length)
    form, content = encoder_content(tokenizer)
    texts = _EXAMPLES if check_on is None else check_on
    check_texts(texts)
    samples = padded([[*form.start, *np.asarray(tokenizer(text)).tolist(), *form.stop] for text in texts], length)
    with TemporaryFolder() as folder:
        unfinished = Path(folder, "encoder.tflite")
        report = to_tflite(
            encoder, unfinished, quantize=quantize, check_on=samples, tolerance=tolerance, verbose=verbose
        )
        data = with_metadata(unfinished.read_bytes(), form.as_metadata(content))
    write_atomically(destination, data)
    return replace(report, path=str(destination), bytes=len(data), tflite_bytes=len(data))


def _with_mean(model: keras.Model, length: int) -> keras.Model:
    names = {tensor.name for tensor in getattr(model, "inputs", None) or ()}
    if not {TOKENS, MASK} <= names <= {TOKENS, MASK, _SEGMENTS}:
        raise ValueError(
            f"Expected an encoder with the inputs {TOKENS!r} and {MASK!r}. Received: {type(model).__name__}, with "
            f"the inputs {sorted(names)}. Give the backbone, such as BertBackbone."
        )
    tokens, mask = (keras.Input((length,), dtype="int32", name=name) for name in (TOKENS, MASK))
    inputs = {TOKENS: tokens, MASK: mask}
    outputs = model({**inputs, _SEGMENTS: ops.zeros_like(tokens)} if _SEGMENTS in names else inputs)
    states = outputs["sequence_output"] if isinstance(outputs, dict) else outputs
    counted = ops.expand_dims(ops.cast(mask, states.dtype), -1)
    mean = ops.sum(states * counted, axis=1) / ops.maximum(ops.sum(counted, axis=1), 1.0)
    norm = ops.sqrt(ops.maximum(ops.sum(ops.square(mean), axis=-1, keepdims=True), 1e-12))
    return keras.Model(inputs, mean / norm, name=f"{model.name}_embedder")
