"""What the command line reads besides .tflite files: saved Keras models and samples."""

from __future__ import annotations

import difflib
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tfprune.base.untrusted import UNREADABLE


@contextmanager
def _reading(path: str, expected: str, advice: str) -> Iterator[None]:
    """Turn whatever goes wrong with a file into one error that names it."""
    file = Path(path)
    if not file.exists():
        raise ValueError(f"Expected {expected}. Received: {path!r}, which does not exist.{_meant(file)}")
    try:
        if file.is_dir():
            raise IsADirectoryError("a folder")
        yield
    except UNREADABLE as error:
        text = " ".join(str(error).split()).removesuffix(".")
        raise ValueError(
            f"Expected {expected}. Received: {path!r}: {text or type(error).__name__}. {advice}."
        ) from error


def _meant(file: Path) -> str:
    """Return a question about a file with a similar name beside one that does not exist."""
    beside = [path.name for path in file.parent.iterdir()] if file.parent.is_dir() else []
    close = difflib.get_close_matches(file.name, beside, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def load_keras() -> Any:
    """Import Keras with TensorFlow's start-up messages, which its C++ part writes to file descriptor 2, kept away."""
    stderr = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            import keras

            import tfprune.keras_models.copying.functional_subclass
            import tfprune.tfmot.wrapper  # noqa: F401  (Keras has to know what is saved before it loads it)

            keras.ops.zeros(1)
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
    return keras


def load_model(path: str, *, compiled: bool = False) -> Any:
    """Load a model in Keras' safe mode, which runs no code from the file.

    Args:
        path: The file.
        compiled: Whether loss, metrics and optimizer are wanted, too.

    Raises:
        ValueError: If the file is missing, damaged, or not what Keras saves; or if it needs code that Keras does not
            know or, such as that of a Lambda layer, does not run.
    """
    keras = load_keras()
    advice = (
        "Copy the file again, or save the model anew with model.save('x.keras'). A model with code of its own is "
        "exported from that code: tfprune.export.to_tflite(model, path)"
    )
    with _reading(path, "a model saved by Keras as .keras or .h5", advice):
        if path.endswith(".keras") and not zipfile.is_zipfile(path):
            raise zipfile.BadZipFile(
                "empty, cut short, or not an archive"
            )  # Keras would say that there is no such file
        return keras.saving.load_model(path, compile=compiled, safe_mode=True)


def load_arrays(path: str) -> Any:
    """Return the array of a .npy file, or those of a .npz file as a dict; each has its samples along the first axis.

    Raises:
        ValueError: If the file is missing or damaged, or holds something else.
    """
    advice = "Save samples with numpy.save, or one array per input with numpy.savez"
    with _reading(path, "a .npy or .npz file of samples along the first axis", advice):
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            arrays = {"its array": content}
        else:
            with content:
                arrays = dict(content)
        for name, array in arrays.items():
            if not np.ndim(array):
                raise TypeError(f"{name} is a single value")
        return content if isinstance(content, np.ndarray) else arrays
