"""Judges of outputs: how much a model changes without a head, or how well it foretells the next token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfprune.compact.reconstruction.graph_walk import GraphWalk
from tfprune.keras_models.models.batches import Batches
from tfprune.keras_models.models.compiled import batch_loss
from tfprune.keras_models.models.graph import Graph
from tfprune.methods.one_shot.head_choice import HeadLoss
from tfprune.methods.one_shot.token_ids import token_input

_TOKENS = 256  # whose logits are computed at a time: a vocabulary is large


def head_loss(graph: Graph, batches: Batches, *, judge: Any) -> HeadLoss:
    """Return the loss of outputs on the first batch.

    Args:
        graph: The dense model.
        batches: The data.
        judge: "distance", the squared distance to the outputs of the dense model; "perplexity"; or a loss of Keras.

    Raises:
        ValueError: If the data have no targets for a loss, or the outputs are neither logits nor hidden states.
    """
    inputs, targets = next(iter(batches))
    if judge == "distance":
        return _distance(graph, inputs)
    if judge == "perplexity":
        return _perplexity(graph, inputs)
    if targets is None:
        raise ValueError(
            f"Expected `samples` with labels, (x, y), because `judge` is a loss. Received: inputs alone, "
            f"judge={judge!r}. Without labels, pass judge='distance' or, for a language model, 'perplexity'."
        )
    measured = keras.losses.get(judge)
    return lambda outputs: batch_loss(measured, outputs[0], targets=targets)


def _distance(graph: Graph, inputs: Sequence[Any]) -> HeadLoss:
    dense = [_as_array(output) for output in GraphWalk(graph, [inputs]).outputs(0)]
    return lambda outputs: sum(
        float(np.mean(np.square(_as_array(output) - other))) for output, other in zip(outputs, dense, strict=True)
    )


def _perplexity(graph: Graph, inputs: Sequence[Any]) -> HeadLoss:
    """Return the perplexity of the token ids: of logits, or of hidden states by the embedding read backwards."""
    index, embedding = token_input(graph)
    ids, size = np.asarray(inputs[index]), int(graph.model.outputs[0].shape[-1] or 0)
    is_reversible = isinstance(embedding, keras.layers.ReversibleEmbedding) and size == embedding.output_dim
    if size != embedding.input_dim and not is_reversible:
        raise ValueError(
            f"Expected outputs of which judge='perplexity' can make logits of {embedding.input_dim} tokens. "
            f"Received: {graph.model.name!r} with outputs of size {size}, and no embedding that is read backwards. "
            f"Pass a model that returns logits, or judge='distance'."
        )

    def perplexity(outputs: Sequence[Any]) -> float:
        states = keras.ops.reshape(outputs[0][:, :-1], (-1, size))
        following = ids[:, 1:].reshape(-1)
        total = 0.0
        for start in range(0, len(following), _TOKENS):
            some = slice(start, start + _TOKENS)
            logits = states[some] if size == embedding.input_dim else embedding(states[some], reverse=True)
            losses = keras.losses.sparse_categorical_crossentropy(following[some], logits, from_logits=True)
            total += float(keras.ops.sum(losses))
        return float(np.exp(total / len(following)))

    return perplexity


def _as_array(output: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(output).astype("float32")
