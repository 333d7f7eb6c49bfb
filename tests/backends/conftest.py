"""On other backends TensorFlow cannot be imported in this process, so that only a child process can have used it."""

import importlib.util
import sys

import keras
import pytest

if keras.backend.backend() != "tensorflow":
    assert "tensorflow" not in sys.modules
    sys.modules["tensorflow"] = None  # type: ignore[assignment]  # import raises; Keras, too, asks for it when it saves

HAS_LITERT = bool(importlib.util.find_spec("litert_converter"))
NEEDS_LITERT = pytest.mark.skipif(not HAS_LITERT, reason="litert-converter is not installed: see the extra `jax`")


@pytest.fixture(params=["tensorflow", pytest.param("litert", marks=NEEDS_LITERT)])
def converter(request, monkeypatch):
    """Export by each of the converters."""
    monkeypatch.setenv("TFPRUNE_CONVERTER", request.param)
    return request.param
