"""A language model's file in an interpreter, which copies the caches in and out of each call."""

from __future__ import annotations

import numpy as np

from tfprune.export.device.generating.signatures import (
    CACHE,
    DECODE,
    LOGITS,
    POSITIONS,
    TOKENS,
    UNLOADABLE,
    not_a_writer,
    of_language_model,
)
from tfprune.export.device.interpreter import find_interpreter


class InterpretedFile:
    """A file in an interpreter: runs wherever one is installed.

    Args:
        path: A plain .tflite file.
        threads: Threads of the interpreter.

    Raises:
        ValueError: If the file has not the signatures of a language model, or cannot be loaded.
    """

    def __init__(self, path: str, *, threads: int) -> None:
        interpreter, self.runtime = find_interpreter()
        try:
            self._interpreter = interpreter(model_path=path, num_threads=threads)
            self.signatures = of_language_model([*self._interpreter.get_signature_list()])
            self._runners = {name: self._interpreter.get_signature_runner(name) for name in self.signatures}
            details = self._runners[DECODE].get_input_details()
            self.vocabulary = int(self._runners[DECODE].get_output_details()[LOGITS]["shape"][-1])
        except UNLOADABLE as error:
            raise not_a_writer(path, error) from error
        self.caches = {
            name: tuple(map(int, detail["shape"])) for name, detail in details.items() if name.startswith(CACHE)
        }
        self._caches = {name: np.zeros(shape, np.float32) for name, shape in self.caches.items()}

    def call(self, signature: str, tokens: np.ndarray, positions: np.ndarray) -> np.ndarray | None:
        """Fill in the caches, and return the scores of the next token, if the signature gives some."""
        outputs = self._runners[signature](**{TOKENS: tokens, POSITIONS: positions}, **self._caches)
        self._caches = {name: outputs[name] for name in self.caches}
        return outputs[LOGITS].reshape(-1) if LOGITS in outputs else None
