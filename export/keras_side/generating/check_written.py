"""Compare what a language model's file writes with Keras: its tokens, its scores, and its perplexity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops

from tfprune.export.device.generating import write_job
from tfprune.export.keras_side.generating.cached_blocks import CachedModel

TIE = 1e-3  # of the largest score: closer ones are ranked by rounding
TRIED = 4  # tokens with which a cache is tried before the conversion
TIMEOUT = 3600.0  # seconds
DRAWN = 8  # tokens of a prompt that is drawn


@dataclass(frozen=True)
class TextComparison:
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
    run: write_job.Written


def check_cache(cached: CachedModel, model: Any) -> None:
    """Refuse a model whose class gives other scores with its cache than without, before the conversion.

    Args:
        cached: The model with its caches.
        model: The same model, wrapped or not.

    Raises:
        ValueError: If the scores differ.
    """
    caches = [tuple(ops.zeros(block.shape) for _ in block.names) for block in cached.blocks]
    ids = np.random.default_rng(0).integers(0, int(model.output.shape[-1]), min(TRIED, cached.length)).tolist()
    expected, differences = keras_scores(model, ids), []
    for position, token in enumerate(ids):
        logits, caches = cached(ops.array([[token]], "int32"), caches, ops.array(position, "int32"))
        differences.append(np.abs(np.asarray(logits)[0, -1] - expected[position]).max())
    difference = float(max(differences) / max(np.abs(expected).max(), 1e-6))
    if difference > TIE:
        raise ValueError(
            f"Expected a model that gives the same scores with its cache as without. Received: "
            f"{type(model).__name__}, whose scores of {len(ids)} tokens differ by {difference:.2g} of the largest. "
            f"In Keras, too, its `generate` writes another text than its `call` rates highest. Use another class."
        )


def compare_written(folder: Path, model: Any, *, prompts: Sequence[Sequence[int]], count: int) -> TextComparison:
    """Let a file continue prompts, and compare it with what Keras says of the same tokens.

    Args:
        folder: A folder with a plain .tflite file with signatures, called `write_job.MODEL`.
        model: The language model, wrapped or not.
        prompts: Token ids.
        count: The number of tokens to write after each.

    Raises:
        ValueError: If the file does not run.
    """
    run = write_job.write_apart(folder, prompts, count=count, timeout=TIMEOUT)
    if isinstance(run, str):
        raise ValueError(f"Expected a file that writes. Received: one that does not: {run}. Nothing was written.")
    equal, differences, losses = 0, [0.0], []
    for prompt, tokens, *scores in zip(prompts, run.tokens, run.read, run.scores, strict=True):
        expected = keras_scores(model, [*prompt, *tokens[:-1]])
        file_scores = np.concatenate([part.reshape(-1, expected.shape[1]) for part in scores])
        largest = np.abs(expected).max()
        differences.append(float(np.abs(file_scores - expected).max() / max(largest, 1e-6)))
        last = expected[-len(tokens) :]
        equal += int((last.max(axis=1) - last[np.arange(len(tokens)), tokens] <= TIE * largest).sum())
        losses += [(_losses(each[: len(prompt) - 1], prompt[1:])) for each in (file_scores, expected)]
    perplexity, keras_perplexity = (_perplexity(np.concatenate(losses[side::2])) for side in (0, 1))
    written = sum(map(len, run.tokens))
    return TextComparison(written, equal, max(differences), perplexity, keras_perplexity, run)


def _perplexity(losses: np.ndarray) -> float:
    return float(np.exp(losses.mean())) if losses.size else float("nan")


def keras_scores(model: Any, ids: Sequence[int]) -> np.ndarray:
    """Return Keras' logits after each of some tokens, (tokens, vocabulary)."""
    every = {"token_ids": np.array([ids], np.int32), "padding_mask": np.ones((1, len(ids)), np.int32)}
    every["position_ids"] = np.arange(len(ids), dtype=np.int32)[None]
    return np.asarray(model({tensor.name: every[tensor.name] for tensor in model.inputs}, training=False))[0]


def _losses(scores: np.ndarray, ids: Sequence[int]) -> np.ndarray:
    scores = scores.astype(np.float64) - scores.max(axis=1, keepdims=True)
    return np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(ids)), np.asarray(ids, int)]
