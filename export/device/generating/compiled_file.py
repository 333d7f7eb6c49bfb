"""A language model's file in LiteRT's CompiledModel, which fills in the caches where they lie."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

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

PACKAGE, MODULE = "ai_edge_litert", "compiled_model"


class CompiledFile:
    """A file in CompiledModel: one buffer for each cache, which is input and output of all signatures.

    It may end the process, on processors that its library was not built for: `prepare` tries it in another one.

    Args:
        path: A plain .tflite file.
        threads: Threads of the runtime.
        weights: Where the weights lie as XNNPACK orders them, or are written; empty for nowhere.

    Raises:
        ImportError: If it is not installed.
        ValueError: If the file has not the signatures of a language model, or cannot be loaded.
    """

    def __init__(self, path: str, *, threads: int, weights: str) -> None:
        litert = importlib.import_module(f"{PACKAGE}.{MODULE}")
        self.runtime = compiled_runtime()
        cpu = litert.CpuOptions(num_threads=threads, xnnpack_weight_cache_path=weights)
        try:
            self._model = litert.CompiledModel.from_file(path, options=litert.Options(cpu_options=cpu))
            self.signatures = of_language_model([*self._model.get_signature_list()])
            details = self._model.get_input_tensor_details(DECODE)
            self.caches = {
                name: tuple(map(int, detail["shape"])) for name, detail in details.items() if name.startswith(CACHE)
            }
            self.vocabulary = int(self._model.get_output_tensor_details(DECODE)[LOGITS]["shape"][-1])
            self._caches = {name: self._input(DECODE, name) for name in self.caches}
            self._inputs = {
                signature: {name: self._input(signature, name) for name in (TOKENS, POSITIONS)}
                for signature in self.signatures
            }
            self._logits = self._model.create_output_buffer_by_name(DECODE, LOGITS)
        except UNLOADABLE as error:
            raise not_a_writer(path, error) from error
        for name, shape in self.caches.items():  # numbers that are not finite would come through the mask
            self._caches[name].write(np.zeros(shape, np.float32))

    def call(self, signature: str, tokens: np.ndarray, positions: np.ndarray) -> np.ndarray | None:
        """Fill in the caches, and return the scores of the next token, if the signature gives some."""
        own = self._inputs[signature]
        own[TOKENS].write(tokens)
        own[POSITIONS].write(positions)
        gives_scores = signature == DECODE
        outputs = {**self._caches, LOGITS: self._logits} if gives_scores else self._caches
        self._model.run_by_name(signature, {**self._caches, **own}, outputs)
        return self._logits.read(self.vocabulary, np.float32) if gives_scores else None

    def _input(self, signature: str, name: str) -> Any:
        return self._model.create_input_buffer_by_name(signature, name)


def has_compiled_model() -> bool:
    """Tell whether CompiledModel is installed, without loading it."""
    return all(importlib.util.find_spec(name) is not None for name in (PACKAGE, f"{PACKAGE}.{MODULE}"))


def compiled_runtime() -> str:
    """Return its name and version."""
    return f"ai-edge-litert {importlib.import_module(PACKAGE).__version__}, in place"
