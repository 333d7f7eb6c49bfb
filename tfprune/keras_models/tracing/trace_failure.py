"""Why the code of a layer could not be run on symbolic tensors, and in which line."""

from __future__ import annotations

import linecache
import os
import re
import sys
import traceback
from pathlib import Path

import keras

# What code raises that asks a symbolic tensor for its value, its open shape or its truth; and what numbers of a shape
# that a layer does not take raise in the backend.
FAILURES: tuple[type[Exception], ...] = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
    *((sys.modules["tensorflow"].errors.OpError,) if keras.config.backend() == "tensorflow" else ()),
)

_OURS = tuple(f"{folder}{os.sep}" for folder in (Path(keras.__file__).parent, Path(__file__).parents[2]))
_LONGEST = 160
_COLORS = re.compile(r"\x1b\[\d+m")


def describe(error: BaseException) -> str:
    """Describe an error in one sentence, with the last line of code that is neither Keras' nor ours."""
    text = _COLORS.sub("", str(error)).strip()
    text = re.sub(r"^Exception encountered when calling [^\n]*\n+", "", text)
    message = text.partition("\n")[0]
    if len(message) > _LONGEST:  # as many sentences as there is room for
        message = message[:_LONGEST].rpartition(". ")[0] or message[:_LONGEST]
    message = message.rstrip(". ")
    frames = [
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if not frame.f_code.co_filename.startswith(_OURS)
    ]
    locations = [(name, line) for name, line in frames if linecache.getline(name, line).strip()]
    if not locations:
        return message
    name, line = locations[-1]
    return f"{message} (in {Path(name).name}, line {line}: {linecache.getline(name, line).strip()[:80]})"
