"""From a KerasHub language model to a file that writes text, compared with Keras before it is written."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfprune.base.progress import Progress, check_verbose
from tfprune.base.spec import check_count, check_number
from tfprune.export.device.generating.text_form import TextForm
from tfprune.export.device.generating.write_job import MODEL
from tfprune.export.device.processes.job_files import write_job
from tfprune.export.file.files.destination import check_destination, write_atomically
from tfprune.export.file.files.metadata import put_metadata
from tfprune.export.file.files.write_model import write_model
from tfprune.export.file.tflite.editor import load_objects
from tfprune.export.keras_side.converting.convert import convert_apart
from tfprune.export.keras_side.converting.convert_job import JOB, SAVED_MODEL
from tfprune.export.keras_side.generating.bind_weights import bind_weights
from tfprune.export.keras_side.generating.cached_blocks import CachedModel
from tfprune.export.keras_side.generating.check_written import (
    DRAWN,
    TextComparison,
    check_cache,
    compare_written,
)
from tfprune.export.keras_side.generating.generator_report import GeneratorReport
from tfprune.export.keras_side.generating.litertlm_content import SUFFIX, litertlm_content, require_builder
from tfprune.export.keras_side.generating.refusals import check_length, check_model, check_size
from tfprune.export.keras_side.generating.signatures import kernels, write_signatures
from tfprune.export.keras_side.generating.text_content import keras_ids, text_content
from tfprune.export.keras_side.generating.weight_shares import weight_shares
from tfprune.export.keras_side.preparing.stripped_model import StrippedModel, strip_for_export
from tfprune.export.rewriting.weights.narrow_weights import narrow_weights
from tfprune.masking.wrapping.pruned import holds_pruned
from tfprune.masking.wrapping.pruned_layers import warn_if_dense

TOLERANCES = {None: 1e-3, "int8": 0.35, "int4": 0.7}
BITS = {"int8": 8, "int4": 4}
READ_TOKENS = 128  # of each text of `check_on`, at most
PROGRESS_STEPS = 3  # that take time: the SavedModel, the conversion, the check


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
            backend. It is left untouched.
        path: Where the file is written, exactly as given, such as `"writer.tflite"`. A path that ends in `.litertlm`
            gives a file for LiteRT-LM, the runtime of phones, which needs the extra `litertlm` and a model with its
            tokenizer.
        length: How many tokens a prompt and its continuation may have together, at least 2. Default 1024. The caches
            take 8 bytes for each position and channel of the keys.
        prefill: How many tokens of a prompt one call takes, a number for each signature, such as (32, 128). Default
            (128,); numbers above `length` become `length`.
        max_tokens: How many tokens the file writes after each text of `check_on`, at least 1. Default 32; fewer where
            `length` ends before.
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
    if quantize not in TOLERANCES:
        raise ValueError(f"Expected quantize=None, 'int8' or 'int4'. Received: {quantize!r}.")
    allowed = TOLERANCES[quantize] if tolerance is None else check_number(tolerance, "tolerance", least=0)
    check_model(model)
    check_size(model, quantize)
    check_count(length, "length", least=2)
    check_length(model, length)
    counts = sorted({min(check_count(count, "prefill", least=1), length) for count in prefill})
    if not counts:
        raise ValueError(
            "Expected at least one number in `prefill`. Received: none. Give for example prefill=(128,)."
        )
    count = min(check_count(max_tokens, "max_tokens", least=1), length - 1)
    form, tokenizer = text_content(model)
    is_litertlm = destination.suffix == SUFFIX
    if is_litertlm:
        _check_litertlm(model, form)
    prompts = _prompts(model, check_on, most=min(READ_TOKENS, length - count))
    with Progress(PROGRESS_STEPS, verbose=verbose, unit="step") as progress:
        cached = CachedModel(_stripped(model), length)
        check_cache(cached, model)
        entries = form.as_metadata(b"" if is_litertlm else tokenizer)
        with tempfile.TemporaryDirectory(prefix="tfprune-") as name:
            unchecked = Path(name, MODEL)
            _write(cached, unchecked, counts=counts, quantize=quantize, entries=entries, each_step=progress.add)
            comparison = compare_written(Path(name), model, prompts=prompts, count=count)
            content = unchecked.read_bytes()
        progress.add()
    _check(comparison, quantize=quantize, allowed=allowed)
    shares = weight_shares(content, cached)
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
    with tempfile.TemporaryDirectory(prefix="tfprune-") as name:
        folder = Path(name)
        signatures = write_signatures(cached, folder / SAVED_MODEL, prefill=counts)
        each_step()
        write_job(folder, JOB, settings={"quantize": None, "signatures": signatures})
        file = load_objects(convert_apart(folder, cached.model, quantize=None))
    weights = kernels(cached.model)  # read_value does not copy them
    bind_weights(file, {name: np.asarray(weight.value.read_value()) for name, weight in weights.items()})
    if quantize:
        narrow_weights(file, bits=BITS[quantize])
    put_metadata(file, entries)
    write_model(file, path)
    each_step()


def _check(comparison: TextComparison, *, quantize: str | None, allowed: float) -> None:
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
        raise TypeError(
            f"Expected a list of texts in `check_on`. Received: a text. Give check_on=[{check_on!r:.60}]."
        )
    vocabulary = int(model.output.shape[-1])
    if check_on is None:
        random_ids = np.random.default_rng(0).integers(0, vocabulary, min(DRAWN, most))
        return [random_ids.tolist()]
    prompts = []
    for text in check_on:
        if isinstance(text, str) and model.preprocessor is None:
            raise ValueError(
                f"Expected token ids in `check_on`, as {model.name!r} has no preprocessor. Received: a text."
            )
        ids = np.asarray(keras_ids(model, text) if isinstance(text, str) else text)
        if (
            ids.ndim != 1
            or ids.dtype.kind not in "iu"
            or len(ids) < 2
            or not (0 <= ids.min() <= ids.max() < vocabulary)
        ):
            raise ValueError(
                f"Expected texts of at least two tokens in `check_on`, or flat lists of at least two ids from 0 to "
                f"{vocabulary - 1:,}. Received: {text!r:.80}."
            )
        prompts.append(ids[:most].tolist())
    if not prompts or math.prod(map(len, prompts)) == 0:
        raise ValueError("Expected at least one text in `check_on`. Received: none.")
    return prompts
