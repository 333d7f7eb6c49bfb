"""Call the signatures of a language model's file, with its caches of keys and values from call to call."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from tfprune.export.device.interpreter import find_interpreter
from tfprune.export.file.tflite import schema

PREFILL, DECODE = re.compile(r"prefill_([1-9]\d*)"), "decode"
TOKENS, POSITIONS, LOGITS, CACHE = "tokens", "input_pos", "logits", "kv_cache_"
UNLOADABLE = (AttributeError, KeyError, RuntimeError, TypeError, ValueError)  # what runtimes raise for other files


class LoadedFile(Protocol):
    """A language model's file, loaded by a runtime, with its caches.

    Attributes:
        runtime: The runtime, with its version.
        signatures: The names of the signatures.
        caches: The shapes of the caches by name.
        vocabulary: How many tokens there are.
    """

    runtime: str
    signatures: list[str]
    caches: dict[str, tuple[int, ...]]
    vocabulary: int

    def call(self, signature: str, tokens: np.ndarray, positions: np.ndarray) -> np.ndarray | None:
        """Fill in the caches, and return the scores of the next token, if the signature gives some."""


class Signatures:
    """The signatures of one file, and a text in its caches.

    Args:
        file: The file.

    Attributes:
        runtime: The runtime, with its version.
        length: How many positions the caches have.
        vocabulary: How many tokens there are.
        counts: How many tokens of a prompt one call takes, in order.
        position: How many tokens are in the caches. A smaller number forgets the tokens behind it.
    """

    def __init__(self, file: LoadedFile) -> None:
        self._file, self.runtime, self.vocabulary = file, file.runtime, file.vocabulary
        self.length = min((shape[2] for shape in file.caches.values()), default=0)
        self.counts = sorted(int(match[1]) for name in file.signatures if (match := PREFILL.fullmatch(name)))
        self.position = 0

    def prefill(self, tokens: Sequence[int]) -> None:
        """Put tokens into the caches; all of them have to fit."""
        waiting = [*tokens]
        while waiting:
            fitting = [count for count in self.counts if self.position + count <= self.length]
            enough = [count for count in fitting if count >= len(waiting)]
            count = min(enough) if enough else max(fitting, default=1)
            part, waiting = waiting[:count], waiting[count:]
            self._call(f"prefill_{count}" if fitting else DECODE, part, count)

    def decode(self, token: int) -> np.ndarray:
        """Put one token into the caches, and return the scores of the next, (vocabulary,)."""
        scores = self._call(DECODE, [token], 1)
        assert scores is not None
        return scores

    def _call(self, name: str, part: Sequence[int], count: int) -> np.ndarray | None:
        tokens = np.zeros((1, count), np.int32)  # what padding writes is overwritten before it is attended to
        tokens[0, : len(part)] = part
        positions = np.arange(self.position, self.position + count, dtype=np.int32)
        scores = self._file.call(name, tokens, positions)
        self.position += len(part)
        return scores


def signature_names(data: bytes | memoryview) -> list[str]:
    """Return the names of the signatures of a plain file that is whole."""
    try:
        schema.require_schema()
    except schema.MissingPackage:  # as with tflite-runtime, which can tell them as well, with a copy of the file
        interpreter, _ = find_interpreter()
        return [*interpreter(model_content=bytes(data)).get_signature_list()]
    model = schema.Model.GetRootAs(data, 0)
    keys = [model.SignatureDefs(index).SignatureKey() or b"" for index in range(model.SignatureDefsLength())]
    return [key.decode("utf-8", "replace") for key in keys]


def of_language_model(names: Sequence[str]) -> list[str]:
    """Return the names of the signatures that a language model's file has.

    Raises:
        ValueError: If `decode` is not among them.
    """
    if DECODE not in names:
        raise ValueError(f"its signatures are {sorted(names)}")
    return [name for name in names if name == DECODE or PREFILL.fullmatch(name)]


def not_a_writer(path: str, error: Exception) -> ValueError:
    """Return the error for a file that cannot be loaded as a language model."""
    return ValueError(
        f"Expected a file of tfprune.export.to_generator, with the signatures `decode` and `prefill_N`. Received: "
        f"{path!r}, where they cannot be loaded ({str(error)[:200]}). Export the model again."
    )


def is_language_model(names: Sequence[str]) -> bool:
    """Tell by the names of its signatures whether a file is a language model with caches."""
    return DECODE in names and any(map(PREFILL.fullmatch, names))
