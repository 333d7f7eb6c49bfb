"""An encoder's file that turns texts into vectors, with NumPy and an interpreter."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from tfprune.export.device.generating.text_form import read_text_form
from tfprune.export.device.running.runner import Runner
from tfprune.export.file.files.metadata import read_metadata
from tfprune.export.file.files.model_file import read_model
from tfprune.export.file.files.source import source_name

TOKENS, MASK = "token_ids", "padding_mask"


class Embedder:
    """Load an encoder's file once, and turn texts into vectors.

    The file is one of `to_embedder`. Use it for semantic search on a device: texts of similar meaning have vectors
    with a large dot product. Neither Keras nor TensorFlow is needed, only the package `tokenizers`, which
    `pip install "tfprune[generate]"` brings.

    Args:
        path: The path of a .tflite file, plain or packed.
        threads: Threads of the interpreter, 1 to 1024. Default 4.

    Attributes:
        runtime: The interpreter in use, with its version.
        length: How many tokens a text may have, those at its start and end included.

    Raises:
        TypeError: If `path` is not a path, or `threads` is not an integer.
        ValueError: If the file cannot be read, is not one of `to_embedder`, or the package that reads its tokenizer
            is missing (that one is an ImportError, too).

    Example:
        >>> embedder = Embedder("encoder.tflite")
        >>> queries = embedder.encode(["Where do foxes live?"])
    """

    def __init__(self, path: str | os.PathLike[str], *, threads: int = 4) -> None:
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"Expected the path of a .tflite file. Received: {source_name(path)}.")
        data = read_model(path)
        self._form, self._tokenizer = read_text_form(read_metadata(data))
        self._runner = Runner(data, threads=threads)
        shapes = {info.name: info.shape for info in self._runner.inputs}
        if self._tokenizer is None or set(shapes) != {TOKENS, MASK}:
            raise ValueError(
                f"Expected a file of tfprune.export.to_embedder, with a tokenizer and the inputs {TOKENS!r} and "
                f"{MASK!r}. Received: {source_name(path)}, with the inputs {sorted(shapes)}. Export it again."
            )
        self.runtime, self.length = self._runner.runtime, int(shapes[TOKENS][1] or 0)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Turn texts into vectors of length 1.

        Args:
            texts: The texts, at least one.

        Returns:
            float32 array (texts, size of a vector).

        Raises:
            TypeError: If `texts` is not a list of texts.
            ValueError: If there is none, or one has more than `length` tokens.

        Example:
            >>> vectors = embedder.encode(["a fox", "a dog"])
        """
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise TypeError(f"Expected a list of texts. Received: {texts!r:.80}. Give for example ['a text'].")
        if not len(texts):
            raise ValueError("Expected at least one text. Received: none.")
        assert self._tokenizer is not None
        rows = [[*self._tokenizer.encode(text), *self._form.stop] for text in texts]
        return self._runner.predict(padded(rows, self.length))


def padded(rows: Sequence[Sequence[int]], length: int) -> dict[str, np.ndarray]:
    """Return the inputs of an encoder for token ids of several texts.

    Raises:
        ValueError: If a text has more than `length` ids.
    """
    inputs = {name: np.zeros((len(rows), length), np.int32) for name in (TOKENS, MASK)}
    for index, ids in enumerate(rows):
        if len(ids) > length:
            raise ValueError(
                f"Expected texts of at most {length:,} tokens. Received: {len(ids):,} in text {index}. Split it, or "
                f"export the encoder with a larger `length`."
            )
        inputs[TOKENS][index, : len(ids)], inputs[MASK][index, : len(ids)] = ids, 1
    return inputs
