"""From an encoder of KerasHub to a file that turns texts into vectors."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from tfprune.base.spec import check_count
from tfprune.export.device.embedder import MASK, TOKENS, padded
from tfprune.export.file.files.destination import check_destination, write_atomically
from tfprune.export.file.files.metadata import with_metadata
from tfprune.export.keras_side.converting.to_tflite import to_tflite
from tfprune.export.keras_side.generating.refusals import check_length
from tfprune.export.keras_side.generating.text_content import encoder_content
from tfprune.export.rewriting.export_report import ExportReport
from tfprune.keras_models.models.anatomy import check_keras

SEGMENTS = "segment_ids"
EXAMPLES = ("The quick brown fox jumps over the lazy dog.", "How are sentences compared?")


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
    check_length(model, check_count(length, "length", least=3))
    encoder = _with_mean(model, length)
    form, content = encoder_content(tokenizer)
    texts = EXAMPLES if check_on is None else check_on
    samples = padded([[*form.start, *np.asarray(tokenizer(text)).tolist(), *form.stop] for text in texts], length)
    with tempfile.TemporaryDirectory(prefix="tfprune-") as folder:
        unfinished = Path(folder, "encoder.tflite")
        report = to_tflite(
            encoder, unfinished, quantize=quantize, check_on=samples, tolerance=tolerance, verbose=verbose
        )
        data = with_metadata(unfinished.read_bytes(), form.as_metadata(content))
    write_atomically(destination, data)
    return replace(report, path=str(destination), bytes=len(data), tflite_bytes=len(data))


def _with_mean(model: keras.Model, length: int) -> keras.Model:
    names = {tensor.name for tensor in getattr(model, "inputs", None) or ()}
    if not {TOKENS, MASK} <= names <= {TOKENS, MASK, SEGMENTS}:
        raise ValueError(
            f"Expected an encoder with the inputs {TOKENS!r} and {MASK!r}. Received: {type(model).__name__}, with "
            f"the inputs {sorted(names)}. Give the backbone, such as BertBackbone."
        )
    tokens, mask = (keras.Input((length,), dtype="int32", name=name) for name in (TOKENS, MASK))
    inputs = {TOKENS: tokens, MASK: mask}
    outputs = model({**inputs, SEGMENTS: ops.zeros_like(tokens)} if SEGMENTS in names else inputs)
    states = outputs["sequence_output"] if isinstance(outputs, dict) else outputs
    counted = ops.expand_dims(ops.cast(mask, states.dtype), -1)
    mean = ops.sum(states * counted, axis=1) / ops.maximum(ops.sum(counted, axis=1), 1.0)
    norm = ops.sqrt(ops.maximum(ops.sum(ops.square(mean), axis=-1, keepdims=True), 1e-12))
    return keras.Model(inputs, mean / norm, name=f"{model.name}_embedder")
