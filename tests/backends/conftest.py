"""On other backends TensorFlow cannot be imported in this process, so that only a child process can have used it."""

import sys

import keras

if keras.backend.backend() != "tensorflow":
    assert "tensorflow" not in sys.modules
    sys.modules["tensorflow"] = None  # type: ignore[assignment]  # import raises; Keras, too, asks for it when it saves
