"""Build a transformer without some of its tokens, blocks, experts, units and heads, and say what was removed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.compact.narrowing.narrow import narrow
from tfprune.compact.narrowing.stream import width_of
from tfprune.compact.vocabulary.trim_vocabulary import trim_vocabulary
from tfprune.compact.vocabulary.vocabulary_report import VocabularyReport
from tfprune.keras_models.models.batches import Batches
from tfprune.keras_models.models.graph import Graph
from tfprune.keras_models.models.token_ids import check_token_ids
from tfprune.methods.experts.drop_experts import drop_experts
from tfprune.methods.experts.rank_experts import rank_experts
from tfprune.methods.experts.rebuild_experts import read_experts
from tfprune.methods.growth.block_losses import one_by_one
from tfprune.methods.growth.drop_blocks import drop_blocks
from tfprune.methods.growth.find_blocks import find_blocks
from tfprune.methods.growth.reorder import reorder
from tfprune.methods.growth.reordered_model import ReorderedModel
from tfprune.methods.one_shot.head_choice import HeadLoss
from tfprune.methods.one_shot.judges import OutputLoss, RemainingTokens, SampleBatch, head_loss, packed_inputs, run
from tfprune.methods.one_shot.units_and_heads import UnitsAndHeads
from tfprune.solving.greedy_levels import Levels

KINDS = ("vocabulary", "blocks", "experts", "width", "units", "heads")
STEPS = 8  # of units, of heads and of hidden dimensions: each step removes this part of all of them
_FIRST = ("vocabulary", "blocks", "experts", "width")  # without which units and heads are chosen


class MixedCuts:
    """The smaller models of one transformer, each made of the dense weights.

    Tokens, blocks and experts go first, so that the other weights are fitted to what remains.

    Args:
        model: The model.
        batches: The calibration data.
        texts: The texts whose tokens remain.
        tokenizer: The tokenizer of a model without a preprocessor.
        criterion: The importance of hidden units.
        judge: The loss of outputs.
    """

    def __init__(
        self,
        model: keras.Model,
        batches: Sequence[SampleBatch],
        *,
        texts: Sequence[str] | None,
        tokenizer: Any,
        criterion: str,
        judge: Any,
    ) -> None:
        self._model, self._batches = model, batches
        self._texts, self._tokenizer = texts, tokenizer
        self._criterion, self._judge = criterion, judge
        whole = self._units_and_heads(model, {})
        self._last = (dict.fromkeys(_FIRST, 0), whole)
        self._removable = {"units": bool(whole.units), "heads": bool(whole.units and whole.heads)}
        self._skipped = whole.skipped
        check_token_ids(whole.running.graph, batches)
        self.loss = OutputLoss(whole.running.graph, batches, judge=judge, remaining=self._remaining)
        self._dropped: list[int] = []

    def most(self, kind: str) -> int:
        """Return how many steps of a kind there are.

        Raises:
            ValueError: If the model has no parts of this kind; the message says why.
        """
        if kind == "vocabulary":
            return 1
        if kind == "blocks":
            return len(self._blocks.blocks) - 1
        if kind == "experts":
            layers = read_experts(self._model)[1]
            return min(layer.experts - layer.top_k for layer in layers)
        if kind == "width":
            self._check_width()
            return STEPS - 1
        if self._removable[kind]:
            return STEPS - 1
        reasons = "; ".join(f"{each.layer}: {each.reason}" for each in self._skipped[:2]) or "it has none"
        raise ValueError(f"{self._model.name!r} has no {kind} that can be removed ({reasons}).")

    def _check_width(self) -> None:
        """Refuse a model that cannot have a narrower stream, or whose outputs could not be compared then."""
        width = width_of(self._model)
        if self._judge != "perplexity" and any(output.shape[-1] == width for output in self._model.outputs):
            raise ValueError(
                f"{self._model.name!r} returns hidden states, and judge={self._judge!r} cannot compare them with "
                f"fewer; pass a model that returns scores, or judge='perplexity'."
            )
        self._narrower(self._model, 1, self._samples({}))

    def loss_of(self, model: keras.Model, levels: Levels) -> float:
        """Return the loss of the model without the parts that levels name."""
        renumbered = self.inputs_of(levels)
        return self.loss(
            lambda arrays: run(model, renumbered(arrays)), narrower=model if levels.get("width") else None
        )

    @functools.cached_property
    def _blocks(self) -> Any:
        return find_blocks(self._model, None)

    @functools.cached_property
    def _one_by_one(self) -> Any:
        def measure(kept: list[int]) -> float:
            return self.loss(lambda arrays: self._blocks.run(kept, inputs=_tensors(arrays)).outputs)

        return one_by_one(len(self._blocks.blocks), measure)

    def dropped(self, count: int) -> list[int]:
        """Return the blocks that go one by one, by the loss of the dense blocks that remain."""
        while len(self._dropped) < count:
            self._dropped.append(next(self._one_by_one)[0])
        return self._dropped[:count]

    @functools.cached_property
    def trimmed(self) -> tuple[keras.Model, VocabularyReport]:
        """The model with the tokens of the texts and of the calibration data, and the report on it."""
        ids = [row.astype("int64") for arrays in self._token_arrays() for row in arrays]
        return trim_vocabulary(self._model, [*(self._texts or ()), *ids], tokenizer=self._tokenizer)

    @functools.cached_property
    def _remaining(self) -> RemainingTokens | None:
        """The tokens that remain. All models are judged by their scores of these, also those that have more."""
        if self._texts is None:
            return None
        model, report = self.trimmed
        return RemainingTokens(model, report.kept[report.kept < report.tokens[0]])

    def _token_arrays(self) -> list[np.ndarray]:
        return [arrays[index] for arrays, _ in self._batches for index in self._token_inputs]

    @functools.cached_property
    def _token_inputs(self) -> list[int]:
        return [index for index, each in enumerate(self._model.inputs) if each.name.endswith("token_ids")]

    def inputs_of(self, levels: Levels) -> Callable[[Sequence[np.ndarray]], list[np.ndarray]]:
        """Return the function from inputs of the dense model to those of a smaller one, with its token ids."""
        if not levels.get("vocabulary"):
            return list
        kept = self.trimmed[1].kept

        def renumbered(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
            return [
                np.searchsorted(kept, array).astype(array.dtype) if index in self._token_inputs else array
                for index, array in enumerate(arrays)
            ]

        return renumbered

    def build(self, levels: Levels) -> keras.Model:
        """Build the model without the parts that levels name."""
        first = {kind: levels.get(kind, 0) for kind in _FIRST}
        units, heads = levels.get("units", 0), levels.get("heads", 0)
        if units or heads:
            return self._units_and_heads_without(first).smaller(units=units / STEPS, heads=heads / STEPS)
        return self._without_first(first)

    def _units_and_heads_without(self, first: Levels) -> UnitsAndHeads:
        """Return the units and heads of a model without other parts; those of the last one are kept."""
        if self._last[0] != first:
            self._last = (first, self._units_and_heads(self._without_first(first), first))
        return self._last[1]

    def _without_first(self, first: Levels) -> keras.Model:
        """Return the model without some tokens, blocks and experts, to which the other weights are fitted."""
        model = self.trimmed[0] if first["vocabulary"] else self._model
        if first["blocks"]:
            blocks = self.dropped(first["blocks"])
            model = self._without(blocks).model if model is self._model else drop_blocks(model, blocks)[0]
        if first["experts"]:
            model = drop_experts(model, rank_experts(model, self._samples(first)).lowest(first["experts"]))[0]
        return self._narrower(model, first["width"], self._samples(first)) if first["width"] else model

    def _narrower(self, model: keras.Model, level: int, samples: list[tuple]) -> keras.Model:
        hidden_dim = round(width_of(model) * (1 - level / STEPS))
        return narrow(model, samples, hidden_dim=hidden_dim, verbose=0)[0]

    def _without(self, blocks: Sequence[int]) -> ReorderedModel:
        return reorder(self._blocks, [block for block in range(len(self._blocks.blocks)) if block not in blocks])

    def _samples(self, levels: Levels) -> list[tuple]:
        renumbered = self.inputs_of(levels)
        return [self._as_samples(renumbered(arrays), targets) for arrays, targets in self._batches]

    def _as_samples(self, arrays: list[np.ndarray], targets: Any) -> tuple:
        inputs = packed_inputs(self._model, arrays)
        return (inputs,) if targets is None else (inputs, targets)

    def _units_and_heads(self, model: keras.Model, first: Levels) -> UnitsAndHeads:
        """Return the units and heads of a model without the parts of the first levels."""

        def loss_of(graph: Graph, batches: Batches) -> HeadLoss:
            remaining = None if first.get("vocabulary") else self._remaining
            return head_loss(graph, batches, judge=self._judge, remaining=remaining)

        return UnitsAndHeads(model, self._samples(first), criterion=self._criterion, loss_of=loss_of)

    def described(self, kind: str, *, before: int, level: int) -> str:
        """Return what is removed of a kind after a step."""
        if kind == "vocabulary":
            tokens = self.trimmed[1].tokens
            return f"all but {tokens[1]:,} of {tokens[0]:,} tokens" if level else "no tokens"
        if kind == "blocks":
            blocks = self.dropped(max(before, level))[min(before, level) :]
            numbers = ("block " if len(blocks) == 1 else "blocks ") + ", ".join(map(str, blocks))
            return numbers if level > before else f"{numbers} again there"
        if kind == "experts":
            return f"{level} experts of each layer" if level > 1 else "one expert of each layer"
        return f"{level / STEPS:.1%} of the {'hidden dimensions' if kind == 'width' else kind}"


def _tensors(arrays: Sequence[np.ndarray]) -> list[Any]:
    return [keras.ops.convert_to_tensor(array) for array in arrays]
