"""Judges of outputs: how much a model changes without a head, or how well it foretells the next token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfprune.compact.reconstruction.graph_walk import GraphWalk
from tfprune.keras_models.models.batches import Batches
from tfprune.keras_models.models.compiled import batch_loss
from tfprune.keras_models.models.graph import Graph
from tfprune.keras_models.models.layers import walk
from tfprune.keras_models.models.token_ids import token_input
from tfprune.methods.one_shot.head_choice import HeadLoss

SampleBatch = tuple[list[np.ndarray], Any]  # the arrays for the inputs of the dense model, and targets or None
_TOKENS = 256  # whose logits are computed at a time: a vocabulary is large


@dataclass(frozen=True)
class RemainingTokens:
    """The only tokens whose scores a loss compares.

    Attributes:
        model: The model with these tokens alone.
        ids: Their ids in the dense model, ascending.
    """

    model: keras.Model
    ids: np.ndarray

    def embedding_like(self, embedding: keras.layers.Embedding, *, width: int) -> keras.layers.Embedding:
        """Return the embedding of the fewer tokens, or the same one if it does not make scores of such states."""
        own = _embedding_of(self.model, embedding.name)
        return own if own.output_dim == width else embedding


def head_loss(graph: Graph, batches: Batches, *, judge: Any, remaining: RemainingTokens | None = None) -> HeadLoss:
    """Return the loss of outputs on the first batch.

    Args:
        graph: The dense model.
        batches: The data.
        judge: "distance", the squared distance to the outputs of the dense model; "perplexity"; or a loss of Keras.
        remaining: The tokens that the perplexity is of; None takes all.

    Raises:
        ValueError: If the data have no targets for a loss, or the outputs are neither logits nor hidden states.
    """
    inputs, targets = next(iter(batches))
    if judge == "distance":
        return _distance(graph, inputs)
    if judge == "perplexity":
        return _perplexity(graph, inputs, remaining)
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


def _perplexity(graph: Graph, inputs: Sequence[Any], remaining: RemainingTokens | None) -> HeadLoss:
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
        return float(np.exp(_next_token_loss(outputs[0], ids, embedding, remaining)))

    return perplexity


def _next_token_loss(
    outputs: Any, ids: np.ndarray, embedding: keras.layers.Embedding, remaining: RemainingTokens | None
) -> float:
    """Return the mean cross-entropy of the token ids after the first.

    Args:
        outputs: Logits, or hidden states.
        ids: The token ids of the dense model.
        embedding: What hidden states become logits by, read backwards.
        remaining: The only tokens that are scored; None scores all.
    """
    size = int(outputs.shape[-1])
    if remaining is not None:
        embedding, ids = remaining.embedding_like(embedding, width=size), np.searchsorted(remaining.ids, ids)
    is_hidden = isinstance(embedding, keras.layers.ReversibleEmbedding) and size == embedding.output_dim
    states = keras.ops.reshape(outputs[:, :-1], (-1, size))
    following = ids[:, 1:].reshape(-1)
    total = 0.0
    for start in range(0, len(following), _TOKENS):
        some = slice(start, start + _TOKENS)
        logits = embedding(states[some], reverse=True) if is_hidden else states[some]
        if remaining is not None and logits.shape[-1] != len(remaining.ids):
            logits = keras.ops.take(logits, remaining.ids, axis=-1)
        losses = keras.losses.sparse_categorical_crossentropy(following[some], logits, from_logits=True)
        total += float(keras.ops.sum(losses))
    return total / len(following)


def _as_array(output: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(output).astype("float32")


class OutputLoss:
    """A loss of the outputs of models that were made of one.

    Args:
        graph: The dense model.
        batches: The data.
        judge: As in `prune_units`.
        remaining: The tokens that models with fewer of them have, and that the perplexity is of; None is all.

    Raises:
        ValueError: If `judge` needs targets or texts, and there are none.
    """

    def __init__(
        self, graph: Graph, batches: Sequence[SampleBatch], *, judge: Any, remaining: RemainingTokens | None = None
    ) -> None:
        self._batches, self._judge, self._remaining = batches, judge, remaining
        self._dense: list[list[np.ndarray]] = []
        self._loss = None if judge in ("distance", "perplexity") else keras.losses.get(judge)
        if judge == "distance":
            self._dense = [_as_arrays(run(graph.model, arrays)) for arrays, _ in batches]
            sizes = [len(arrays[0]) for arrays, _ in batches]
            squares = [[float(np.mean(np.square(each))) for each in outputs] for outputs in self._dense]
            self._squares = np.maximum(np.average(squares, axis=0, weights=sizes), 1e-30)  # of each output
        elif judge == "perplexity":
            self._token_index, self._embedding = token_input(graph)
            shortest = min(arrays[self._token_index].shape[1] for arrays, _ in batches)
            if shortest < 2:
                raise ValueError(
                    f"Expected texts of two tokens or more for judge='perplexity'. Received in `samples`: texts of "
                    f"{shortest}. Pass longer windows, or judge='distance'."
                )
        elif any(targets is None for _, targets in batches):
            raise ValueError(
                f"Expected `samples` with labels, (x, y), because `judge` is a loss. Received: inputs alone, "
                f"judge={judge!r}. Without labels, pass judge='distance' or, for a language model, 'perplexity'."
            )

    def __call__(self, outputs_of: Any, *, narrower: keras.Model | None = None) -> float:
        """Return the mean loss over the data.

        Args:
            outputs_of: Returns the outputs for the arrays of a batch.
            narrower: A model with fewer hidden dimensions, whose own embedding makes scores of its hidden states.
        """
        embedding = None
        if self._judge == "perplexity":
            embedding = self._embedding if narrower is None else _embedding_of(narrower, self._embedding.name)
        losses = [
            self._of_batch(index, outputs_of(arrays), embedding) for index, (arrays, _) in enumerate(self._batches)
        ]
        sizes = [len(arrays[0]) for arrays, _ in self._batches]
        return float(np.average(losses, weights=sizes))

    def _of_batch(self, index: int, outputs: Sequence[Any], embedding: keras.layers.Embedding | None) -> float:
        arrays, targets = self._batches[index]
        if self._loss is not None:
            return batch_loss(self._loss, outputs[0], targets=targets)
        if self._judge == "distance":
            pairs = zip(_as_arrays(outputs), self._dense[index], strict=True)
            distances = [_mean_square(output, dense, self._remaining) for output, dense in pairs]
            return float(np.sum(distances / self._squares))
        return _next_token_loss(outputs[0], arrays[self._token_index], embedding, self._remaining)


def _embedding_of(model: keras.Model, name: str) -> keras.layers.Embedding:
    embeddings = [part for _, part in walk(model) if isinstance(part, keras.layers.Embedding)]
    return next(part for part in embeddings if part.name == name)


def run(model: keras.Model, arrays: Sequence[np.ndarray]) -> list[Any]:
    """Return the outputs of a model for the arrays of its inputs, in order."""
    tensors = [keras.ops.convert_to_tensor(array) for array in arrays]
    return keras.tree.flatten(model(packed_inputs(model, tensors), training=False))


def packed_inputs(model: keras.Model, arrays: Sequence[Any]) -> Any:
    """Return the arrays of a model's inputs in the structure in which it takes them."""
    structure = getattr(model, "input", model.inputs[0])  # a Sequential that was never called lacks `input`
    return keras.tree.pack_sequence_as(structure, arrays)


def _as_arrays(outputs: Sequence[Any]) -> list[np.ndarray]:
    return [_as_array(output) for output in outputs]


def _mean_square(output: np.ndarray, dense: np.ndarray, remaining: RemainingTokens | None) -> float:
    """Return the mean squared distance, of the scores of tokens that both have."""
    if remaining is not None and output.shape[-1] == len(remaining.ids) != dense.shape[-1]:
        dense = dense[..., remaining.ids]
    return float(np.mean(np.square(output - dense)))
