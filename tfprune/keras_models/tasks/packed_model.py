"""Pack a model, arrays and settings into bytes that another process reads; nothing is pickled."""

from __future__ import annotations

import io
import json
import platform
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from tfprune.base.untrusted import LONGEST_REASON, UNREADABLE, parse_json
from tfprune.report import shortened

WITHOUT_WORKERS = "Leave out `jobs` and `executor`."


class PackedModel(NamedTuple):
    """What travels to workers.

    Attributes:
        model: A compiled model.
        arrays: Arrays in nested dicts, lists and tuples; tuples arrive as lists.
        settings: Values of JSON.
    """

    model: keras.Model
    arrays: Any
    settings: dict[str, Any]


def pack_model(packed: PackedModel) -> bytes:
    """Return the model, the arrays and the settings as bytes.

    Raises:
        TypeError: If the arrays hold Python objects.
        ValueError: If Keras cannot save the model.
    """
    arrays: list[np.ndarray] = []

    def number(array: Any) -> int:
        arrays.append(np.asarray(array))
        return len(arrays) - 1

    structure = keras.tree.map_structure(number, packed.arrays)
    if objects := [array.dtype for array in arrays if array.dtype.hasobject]:
        raise TypeError(
            f"Expected data that can be sent to workers. Received: an array with dtype {objects[0]}, which holds "
            f"Python objects. Turn it into numbers. {WITHOUT_WORKERS}"
        )
    model = packed.model
    with tempfile.TemporaryDirectory(prefix="tfprune-") as folder:
        path = Path(folder, "model.keras")
        try:
            model.save(path)
        except (ValueError, TypeError, NotImplementedError) as error:
            raise ValueError(
                f"Expected a model that Keras can save, so that workers can load it. Received: {model.name!r}:"
                f" {str(error).removesuffix('.')}. {WITHOUT_WORKERS}"
            ) from error
        content = np.frombuffer(path.read_bytes(), np.uint8)
    stored: dict[str, Any] = {str(index): array for index, array in enumerate(arrays)}
    texts = {"structure": structure, "settings": packed.settings}
    stream = io.BytesIO()
    np.savez(stream, **stored, model=content, texts=np.array(json.dumps(texts)))
    return stream.getvalue()


def unpack_model(content: bytes) -> PackedModel:
    """Return what `pack_model` turned into bytes in another process.

    Raises:
        ValueError: If Keras cannot load the model here.
    """
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        arrays = dict(stored)
    texts = parse_json(str(arrays["texts"]).encode())
    with tempfile.TemporaryDirectory(prefix="tfprune-") as folder:
        path = Path(folder, "model.keras")
        path.write_bytes(arrays["model"].tobytes())
        try:
            model = keras.saving.load_model(path)
        except UNREADABLE as error:
            reason = shortened(" ".join(str(error).split()).removesuffix("."), LONGEST_REASON)
            raise ValueError(
                f"Expected workers that can load the model. Received, on {platform.node()}: {reason}. Its classes "
                f"have to stand in modules that workers can import, not in the main program or a notebook. Move them "
                f"into a module that is installed there. {WITHOUT_WORKERS}"
            ) from error
    return PackedModel(
        model, keras.tree.map_structure(lambda index: arrays[str(index)], texts["structure"]), texts["settings"]
    )
