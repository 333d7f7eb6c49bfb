"""Judges of outputs: how much a model changes without a head, or how well it foretells the next token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfprune.compact.reconstruction.graph_walk import GraphWalk
from tfprune.keras_models.models.batches import Batches
from tfprune.keras_models.models.compiled import batch_loss, loss_of
from tfprune.keras_models.models.graph import Graph
from tfprune.keras_models.models.layers import walk
from tfprune.keras_models.models.token_ids import token_input, token_masks, without_padding
from tfprune.methods.one_shot.head_choice import HeadLoss

Sums = tuple[float, int]  # of losses, and how many they are
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

    def embedding_like(self, embedding: keras.layers.Embedding) -> keras.layers.Embedding:
        """Return the embedding of the fewer tokens, or the same one if it has fewer hidden dimensions."""
        own = _embedding_of(self.model, embedding.name)
        return own if own.output_dim == embedding.output_dim else embedding

    def are_scores(self, graph: Graph) -> list[bool]:
        """Tell of each output of a model with all tokens whether it has a score for each of them."""
        pairs = zip(self.model.outputs, graph.model.outputs, strict=True)
        return [fewer.shape[-1] != whole.shape[-1] for fewer, whole in pairs]

    def of(self, scores: Any) -> Any:
        """Return the scores of these tokens, of those of all tokens or of these alone."""
        return scores if scores.shape[-1] == len(self.ids) else keras.ops.take(scores, self.ids, axis=-1)


class NextTokens:
    """The cross-entropy of the token ids after the first: of logits, or of hidden states by the embedding backwards.

    Args:
        graph: The model.
        remaining: The only tokens that are scored; None scores all.

    Raises:
        ValueError: If the first output of the model is neither logits nor such hidden states.
    """

    def __init__(self, graph: Graph, remaining: RemainingTokens | None) -> None:
        self._graph, (self._index, self._embedding) = graph, token_input(graph)
        self._remaining, output = remaining, graph.model.outputs[0]
        size, maker = int(output.shape[-1] or 0), getattr(graph.producer(output), "layer", None)
        makers = [maker] if isinstance(maker, keras.layers.Layer) else []
        are_scores = any(part is self._embedding for layer in makers for _, part in walk(layer))
        is_reversible = isinstance(self._embedding, keras.layers.ReversibleEmbedding)
        self._are_hidden = is_reversible and size == self._embedding.output_dim and not are_scores
        if len(output.shape) != 3 or (size != self._embedding.input_dim and not self._are_hidden):
            raise ValueError(
                f"Expected outputs of which judge='perplexity' can make logits of {self._embedding.input_dim} "
                f"tokens. Received: {graph.model.name!r} with a first output of shape {tuple(output.shape)}, and no "
                f"embedding that is read backwards. Pass a model that returns logits, or judge='distance'."
            )

    def check_lengths(self, batches: Sequence[SampleBatch]) -> None:
        """Refuse texts without a next token."""
        shortest = min(int(self._tokens(arrays).sum(axis=1).max()) for arrays, _ in batches)
        if shortest < 2:
            raise ValueError(
                f"Expected texts of two tokens or more for judge='perplexity'. Received in `samples`: texts of "
                f"{shortest}. Pass longer windows, or judge='distance'."
            )

    def _tokens(self, arrays: Sequence[Any]) -> np.ndarray:
        """Return where a batch has tokens and no padding, of shape (texts, positions)."""
        masks = token_masks(self._graph, arrays)
        return masks[self._index] if self._index in masks else np.ones(np.shape(arrays[self._index]), bool)

    def sums(self, outputs: Sequence[Any], arrays: Sequence[Any], *, narrower: keras.Model | None = None) -> Sums:
        """Return the sum of the losses of a batch, and of how many tokens; none is padding, or follows it.

        Args:
            outputs: What a model returned, perhaps with some parts removed.
            arrays: The inputs of the whole model.
            narrower: A model with fewer hidden dimensions, whose own embedding makes scores of its hidden states.
        """
        embedding = self._embedding if narrower is None else _embedding_of(narrower, self._embedding.name)
        ids, states = np.asarray(arrays[self._index]), outputs[0][:, :-1]
        if self._remaining is not None:
            embedding, ids = self._remaining.embedding_like(embedding), np.searchsorted(self._remaining.ids, ids)
        mask = self._tokens(arrays)
        places = np.flatnonzero(mask[:, :-1] & mask[:, 1:])
        states = keras.ops.take(keras.ops.reshape(states, (-1, states.shape[-1])), places, axis=0)
        following = ids[:, 1:].reshape(-1)[places]
        total = 0.0
        for start in range(0, len(following), _TOKENS):
            some = slice(start, start + _TOKENS)
            logits = embedding(states[some], reverse=True) if self._are_hidden else states[some]
            logits = logits if self._remaining is None else self._remaining.of(logits)
            logits = keras.ops.cast(logits, "float32")  # a sum of 16-bit floats has three digits
            losses = keras.losses.sparse_categorical_crossentropy(following[some], logits, from_logits=True)
            total += float(keras.ops.sum(losses))
        return total, len(following)


def is_loss(judge: Any) -> bool:
    """Tell whether a judge is a loss of labels."""
    return not isinstance(judge, str) or judge not in ("distance", "perplexity")


def head_loss(graph: Graph, batches: Batches, *, judge: Any, remaining: RemainingTokens | None = None) -> HeadLoss:
    """Return the loss of outputs on the first batch.

    Args:
        graph: The dense model.
        batches: The data.
        judge: "distance", the squared distance to the outputs of the dense model; "perplexity"; or a loss of Keras.
        remaining: The only tokens whose scores are compared; None compares all.

    Raises:
        ValueError: If the data have no targets for a loss, or the outputs are neither logits nor hidden states.
    """
    inputs, targets = next(iter(batches))
    if judge == "distance":
        return _distance(graph, inputs, remaining)
    if judge == "perplexity":
        next_tokens = NextTokens(graph, remaining)
        return lambda outputs: float(np.exp(_mean(next_tokens.sums(outputs, inputs))))
    if targets is None:
        raise _no_labels(judge)
    measured = loss_of(graph.model, judge)
    return lambda outputs: batch_loss(measured, outputs[0], targets=targets)


def _no_labels(judge: Any) -> ValueError:
    return ValueError(
        f"Expected `samples` with labels, (x, y), because `judge` is a loss. Received: inputs alone, "
        f"judge={judge!r}. Without labels, pass judge='distance' or, for a language model, 'perplexity'."
    )


def _distance(graph: Graph, inputs: Sequence[Any], remaining: RemainingTokens | None) -> HeadLoss:
    as_arrays = _Arrays(graph, remaining)
    dense = as_arrays(GraphWalk(graph, [inputs]).outputs(0), inputs)

    def distance(outputs: Sequence[Any]) -> float:
        pairs = zip(as_arrays(outputs, inputs), dense, strict=True)
        return sum(float(np.mean(np.square(output - other))) for output, other in pairs)

    return distance


class OutputLoss:
    """A loss of the outputs of models that were made of one.

    Args:
        graph: The dense model.
        batches: The data.
        judge: As in `prune_units`.
        remaining: The tokens that models with fewer of them have, and whose scores are compared; None is all.

    Raises:
        ValueError: If `judge` needs targets or texts, and there are none.
    """

    def __init__(
        self, graph: Graph, batches: Sequence[SampleBatch], *, judge: Any, remaining: RemainingTokens | None = None
    ) -> None:
        self._batches, self._judge = batches, judge
        self._as_arrays = _Arrays(graph, remaining)
        self._dense: list[list[np.ndarray]] = []
        self._scales = np.ones(1)
        if judge == "distance":
            self._dense = [self._as_arrays(run(graph.model, arrays), arrays) for arrays, _ in batches]
            squares = [[_squares(each) for each in outputs] for outputs in self._dense]
            self._scales = np.maximum(_means(squares), 1e-30)  # of each output
        elif judge == "perplexity":
            self._next_tokens = NextTokens(graph, remaining)
            self._next_tokens.check_lengths(batches)
        elif any(targets is None for _, targets in batches):
            raise _no_labels(judge)
        elif remaining is not None and any(remaining.are_scores(graph)):
            raise ValueError(
                f"Expected judge='perplexity' or 'distance' with `texts`, for a model that returns a score of each "
                f"token: labels number the tokens of the whole vocabulary. Received: judge={judge!r} for "
                f"{graph.model.name!r}."
            )
        else:
            self._loss = loss_of(graph.model, judge)

    def __call__(self, outputs_of: Any, *, narrower: keras.Model | None = None) -> float:
        """Return the mean loss over the data.

        Args:
            outputs_of: Returns the outputs for the arrays of a batch.
            narrower: A model with fewer hidden dimensions, whose own embedding makes scores of its hidden states.
        """
        sums = [
            self._of_batch(index, outputs_of(arrays), narrower) for index, (arrays, _) in enumerate(self._batches)
        ]
        return float(np.sum(_means(sums) / self._scales))

    def _of_batch(self, index: int, outputs: Sequence[Any], narrower: keras.Model | None) -> list[Sums]:
        """Return the losses of a batch; as a distance, those of each output."""
        arrays, targets = self._batches[index]
        if self._judge == "perplexity":
            return [self._next_tokens.sums(outputs, arrays, narrower=narrower)]
        if self._judge == "distance":
            pairs = zip(self._as_arrays(outputs, arrays), self._dense[index], strict=True)
            return [_squares(output - dense) for output, dense in pairs]
        size = len(arrays[0])
        return [(size * batch_loss(self._loss, outputs[0], targets=targets), size)]


def _squares(differences: np.ndarray) -> Sums:
    return float(np.sum(np.square(differences))), differences.size


def _mean(sums: Sums) -> float:
    return sums[0] / max(sums[1], 1)


def _means(batches: Sequence[Sequence[Sums]]) -> np.ndarray:
    """Return the mean over all batches of each of their sums."""
    totals, counts = np.sum(batches, axis=0).T
    return totals / np.maximum(counts, 1)


def _embedding_of(model: keras.Model, name: str) -> keras.layers.Embedding:
    embeddings = [part for _, part in walk(model) if isinstance(part, keras.layers.Embedding)]
    return next(part for part in embeddings if part.name == name)


class _Arrays:
    """Outputs of a model as arrays of float32, without padding; of scores of tokens those of the remaining ones."""

    def __init__(self, graph: Graph, remaining: RemainingTokens | None) -> None:
        self._graph, self._remaining = graph, remaining
        self._are_scores = [] if remaining is None else remaining.are_scores(graph)

    def __call__(self, outputs: Sequence[Any], inputs: Sequence[Any]) -> list[np.ndarray]:
        masks = list(token_masks(self._graph, inputs).values())
        if self._remaining is not None:
            pairs = zip(outputs, self._are_scores, strict=True)
            outputs = [self._remaining.of(output) if is_score else output for output, is_score in pairs]
        arrays = [keras.ops.convert_to_numpy(output).astype("float32") for output in outputs]
        return [without_padding(array, masks) for array in arrays]


def run(model: keras.Model, arrays: Sequence[np.ndarray]) -> list[Any]:
    """Return the outputs of a model for the arrays of its inputs, in order."""
    tensors = [keras.ops.convert_to_tensor(array) for array in arrays]
    return keras.tree.flatten(model(packed_inputs(model, tensors), training=False))


def packed_inputs(model: keras.Model, arrays: Sequence[Any]) -> Any:
    """Return the arrays of a model's inputs in the structure in which it takes them."""
    structure = getattr(model, "input", model.inputs[0])  # a Sequential that was never called lacks `input`
    return keras.tree.pack_sequence_as(structure, arrays)
