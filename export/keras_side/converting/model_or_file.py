"""Arguments that may be a Keras model or a file: a path, or its content."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tfprune.export.file.files.source import Source

if TYPE_CHECKING:
    import keras
    from typing_extensions import TypeIs


def is_file(model_or_source: keras.Model | Source) -> TypeIs[Source]:
    """Tell a file from a Keras model, without importing Keras for a file.

    Raises:
        TypeError: If it is neither a model nor a path nor bytes.
    """
    if isinstance(model_or_source, (str, os.PathLike, bytes, bytearray, memoryview)):
        return True
    import keras

    if not isinstance(model_or_source, keras.Model):
        raise TypeError(
            "Expected a Keras model, or a path or the bytes of a .tflite file. Received: "
            f"{type(model_or_source).__name__}."
        )
    return False
