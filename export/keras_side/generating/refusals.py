"""Which models become files that write, and why others do not."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tfprune.export.file.files.write_model import LARGEST_FILE
from tfprune.export.keras_side.preparing.half_precision import half_types, has_half_weights
from tfprune.keras_models.models.anatomy import check_keras
from tfprune.keras_models.models.layers import quantized_already, walk

LEAST_BYTES = {None: 4.0, "int8": 1.0, "int4": 0.5625}  # of a weight, with its share of a scale
PROMPT = {"token_ids", "padding_mask", "position_ids"}  # the inputs of a model that reads text alone


def check_model(model: Any) -> None:
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
    if not inputs <= PROMPT:
        more = ", ".join(sorted(inputs - PROMPT))
        raise ValueError(
            f"Expected a model that reads text alone. Received: {name}, which also reads {more}. Build its backbone "
            f"without the encoder of images or sounds, where the class allows it (image_size=None)."
        )
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"Expected the TensorFlow backend, whose graphs the converter reads. Received: "
            f"{keras.backend.backend()}. Save the model with model.save, and export it from a program with "
            "KERAS_BACKEND=tensorflow."
        )
    if half_types(model) or has_half_weights(model):
        raise ValueError(
            f"Expected a model in float32. Received: {model.name!r}, which computes in half precision. Load it with "
            f"dtype='float32'."
        )
    quantized = quantized_already(model)
    if quantized:
        raise ValueError(f"Expected a model that is not quantized yet. Received: {model.name!r}. {quantized}")


def check_size(model: Any, quantize: str | None) -> None:
    """Refuse a model whose file would be too large, before the conversion.

    Raises:
        ValueError: If its weights take 2 GB or more.
    """
    size = LEAST_BYTES[quantize] * model.count_params()
    if size >= LARGEST_FILE:
        fewer = [f"quantize={name!r}, " for name, least in LEAST_BYTES.items() if least < LEAST_BYTES[quantize]]
        raise ValueError(
            f"Expected a model of less than 2 GB in {quantize or 'float32'}, the largest TFLite file. Received: "
            f"{model.name!r} of {size / 1e9:.1f} GB. Use {''.join(fewer)}{'or ' * bool(fewer)}a smaller model, for "
            f"example by pruning units or blocks first."
        )


def check_length(model: Any, length: int) -> None:
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


def vocabulary_size(model: Any) -> int:
    """Return the number of parameters in the tables of tokens, those for the scores included."""
    tables = {id(each): each for path, layer in walk(model) if _is_table(layer) for each in layer.weights}
    return sum(int(np.prod(table.shape)) for table in tables.values())


def _is_table(layer: Any) -> bool:
    return isinstance(layer, keras.layers.Embedding)
