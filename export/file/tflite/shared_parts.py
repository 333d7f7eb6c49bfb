"""Write equal parts of a file once: in the format, several tensors and operators may point at the same bytes.

The converter writes them anew each time. In an unrolled recurrent network hundreds of operators have the same
options, and their tensors the same shapes and scales.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from tfprune.export.file.tflite import schema

ALIGNMENT = 16  # bytes: what the format asks of the values of tensors
MAX_LEFT_OUT_RATIO = (
    4  # bytes left out for each byte written, at most: a reader has to tell a file from one that goes on for ever
)


def sharing_builder() -> Any:
    """Return a builder of the flatbuffers package that writes equal parts once."""
    import flatbuffers

    class SharingBuilder(_Sharing, flatbuffers.Builder):
        pass

    return SharingBuilder(1024)


def with_shared_parts(model: schema.ModelT) -> schema.ModelT:
    """Return a copy of a model whose equal parts such a builder writes once; it can only be packed."""
    graphs = [
        _changed(
            graph,
            tensors=[_sharing(tensor, "quantization") for tensor in graph.tensors or ()],
            operators=[_sharing(operator, "builtinOptions") for operator in graph.operators or ()],
        )
        for graph in model.subgraphs or ()
    ]
    return _changed(model, subgraphs=graphs, buffers=[_Buffer(buffer) for buffer in model.buffers or ()])


class _Sharing:
    """What a builder does besides: it remembers where it wrote each part."""

    def __init__(self, size: int) -> None:
        super().__init__(size)  # type: ignore[call-arg]
        self._places: dict[Hashable, int] = {}  # by content
        self._left_out = 0  # bytes that a reader finds where others have found them

    def once(self, part: Any, write: Callable[[], int]) -> int:
        """Return where an equal part is; write this one if there is none yet."""
        key, left_out = _content(part), self._left_out + size_of(part)
        if key in self._places and left_out <= MAX_LEFT_OUT_RATIO * self.Offset():  # type: ignore[attr-defined]
            self._left_out = left_out
        else:
            self._places[key] = write()
        return self._places[key]

    def CreateNumpyVector(self, x: np.ndarray) -> int:  # noqa: N802 (the name that the packer calls)
        write = super().CreateNumpyVector  # type: ignore[misc]
        return write(x) if x.dtype.itemsize == 1 else self.once(x, lambda: write(x))  # bytes may have to be aligned


class _Shared:
    """A part that is written once if there are several equal ones."""

    def __init__(self, part: Any) -> None:
        self._part = part

    def Pack(self, builder: Any) -> int:  # noqa: N802 (the name that the packer calls)
        return builder.once(self._part, lambda: self._part.Pack(builder))


class _Buffer:
    """A buffer whose values begin where the format wants them, which the schema module does not see to."""

    def __init__(self, buffer: Any) -> None:
        self._buffer = buffer

    def Pack(self, builder: Any) -> int:  # noqa: N802 (the name that the packer calls)
        if self._buffer.data is None:
            return _Shared(self._buffer).Pack(builder)
        builder.Prep(ALIGNMENT, len(self._buffer.data))
        return self._buffer.Pack(builder)


def size_of(part: Any) -> int:
    """Return the bytes of all arrays and texts in a part."""
    if isinstance(part, np.ndarray):
        return part.nbytes
    if isinstance(part, (bytes, str, int, float)) or part is None:
        return len(part) if isinstance(part, (bytes, str)) else 0
    return sum(map(size_of, part if isinstance(part, list) else vars(part).values()))


def _sharing(holder: Any, name: str) -> Any:
    part = getattr(holder, name)
    return holder if part is None else _changed(holder, **{name: _Shared(part)})


def _changed(part: Any, **changes: Any) -> Any:
    copied = type(part)()
    vars(copied).update(vars(part), **changes)
    return copied


def _content(part: Any) -> Hashable:
    """Turn the content of a part into a key of a dict."""
    if isinstance(part, np.ndarray):
        return part.dtype.str, part.tobytes()
    if isinstance(part, list):
        return tuple(_content(entry) for entry in part)
    if hasattr(part, "__dict__"):
        return type(part).__name__, *(_content(value) for _, value in sorted(vars(part).items()))
    return part
