"""Call the signatures of a language model's file, and keep its caches of keys and values from call to call."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from tfprune.export.device.running.runner import find_interpreter

PREFILL, DECODE = re.compile(r"prefill_([1-9]\d*)"), "decode"
TOKENS, POSITIONS, LOGITS, CACHE = "tokens", "input_pos", "logits", "kv_cache_"


class Signatures:
    """The signatures of one file, and a text in its caches.

    Args:
        path: A plain .tflite file.
        threads: Threads of the interpreter.

    Attributes:
        runtime: The interpreter, with its version.
        length: How many positions the caches have.
        vocabulary: How many tokens there are.
        position: How many tokens are in the caches.

    Raises:
        ValueError: If the file has not the signatures of a language model, or cannot be loaded.
    """

    def __init__(self, path: str, *, threads: int) -> None:
        interpreter, self.runtime = find_interpreter()
        try:
            self._interpreter = interpreter(model_path=path, num_threads=threads)
            self._runners = {name: self._interpreter.get_signature_runner(name) for name in self._names()}
            details = self._runners[DECODE].get_input_details()
            self.vocabulary = int(self._runners[DECODE].get_output_details()[LOGITS]["shape"][-1])
        except (KeyError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"Expected a file of tfprune.export.to_generator, with the signatures `decode` and `prefill_N`. "
                f"Received: {path!r}, where they cannot be loaded ({str(error)[:200]}). Export the model again."
            ) from error
        self._shapes = {name: tuple(detail["shape"]) for name, detail in details.items() if name.startswith(CACHE)}
        self.length = min((shape[2] for shape in self._shapes.values()), default=0)
        self._counts = sorted(int(found[1]) for name in self._runners if (found := PREFILL.fullmatch(name)))
        self.clear()

    def _names(self) -> list[str]:
        names = self._interpreter.get_signature_list()
        if DECODE not in names:
            raise ValueError(f"its signatures are {sorted(names)}")
        return [name for name in names if name == DECODE or PREFILL.fullmatch(name)]

    def clear(self) -> None:
        """Forget the text."""
        self.position = 0
        self._caches = {name: np.zeros(shape, np.float32) for name, shape in self._shapes.items()}

    def prefill(self, tokens: Sequence[int]) -> None:
        """Put tokens into the caches; all of them have to fit."""
        waiting = [*tokens]
        while waiting:
            fitting = [count for count in self._counts if self.position + count <= self.length]
            enough = [count for count in fitting if count >= len(waiting)]
            count = min(enough) if enough else max(fitting, default=1)
            part, waiting = waiting[:count], waiting[count:]
            self._call(f"prefill_{count}" if fitting else DECODE, part, count)

    def decode(self, token: int) -> np.ndarray:
        """Put one token into the caches, and return the scores of the next, (vocabulary,)."""
        return self._call(DECODE, [token], 1)[LOGITS].reshape(-1)

    def _call(self, name: str, part: Sequence[int], count: int) -> dict[str, np.ndarray]:
        tokens = np.zeros((1, count), np.int32)  # what padding writes is overwritten before it is attended to
        tokens[0, : len(part)] = part
        positions = np.arange(self.position, self.position + count, dtype=np.int32)
        outputs = self._runners[name](**{TOKENS: tokens, POSITIONS: positions}, **self._caches)
        self._caches = {cache: outputs[cache] for cache in self._caches}
        self.position += len(part)
        return outputs


def is_language_model(names: Sequence[str]) -> bool:
    """Tell by the names of its signatures whether a file is a language model with caches."""
    return DECODE in names and any(map(PREFILL.fullmatch, names))
