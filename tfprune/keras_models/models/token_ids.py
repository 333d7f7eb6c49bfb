"""Which inputs of a model hold token ids, which embedding reads them, and which of them are padding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.keras_models.models.graph import Graph
from tfprune.keras_models.models.layers import walk

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
                raise ValueError(
                    f"Expected texts with tokens in `{argument}`. Received: a batch in which all of "
                    f"{graph.model.inputs[index].name} is padding. Is `padding_mask` 1 for tokens?"
                )
        for tensor, size, array in zip(graph.model.inputs, sizes, inputs, strict=True):
            if not array.size:
                raise ValueError(
                    f"Expected texts with tokens in `{argument}`. Received: {tensor.name} of shape {array.shape}. "
                    f"Leave empty texts out."
                )
            if size is not None and (array.min() < 0 or array.max() >= size):
                wrong = int(array.max()) if array.max() >= size else int(array.min())
                raise ValueError(
                    f"Expected token ids from 0 to {size - 1} in `{argument}`. Received: {tensor.name} with {wrong}. "
                    f"Use the tokenizer of the model."
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
