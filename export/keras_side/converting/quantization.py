"""Quantization: the number format of a file, with the options that few files need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tfprune.base.spec import check_choice
from tfprune.export.rewriting.share_weights import check_levels

SCHEMES = (None, "float16", "dynamic", "int8", "int16x8", "int4")
INTEGERS = {"int8": "int8", "int16x8": "int16", "int4": "int8"}  # schemes of integers, and their activations
MIXED = ("int8", "int4")  # schemes in which operators may stay in float
EIGHT_BIT_WEIGHTS = ("dynamic", "int8", "int16x8")
IO_DTYPES = ("float32", "int8", "int16")


@dataclass(frozen=True)
class Quantization:
    """The number format of a file, with options that few files need.

    Pass it as `quantize=` to `to_tflite` where the name of a scheme is not enough.

    Args:
        scheme: `"float16"`, `"dynamic"`, `"int8"`, `"int16x8"` or `"int4"`, as `quantize=` of `to_tflite` describes
            them; None is float32.
        levels: The number of distinct values in each weight, 0 included, 2 to 256, for `"dynamic"`, `"int8"` and
            `"int16x8"`. Fewer values make a packed file smaller (`share_weights`). None (the default) keeps the
            weights as they are.
        io_dtype: The type of the file's inputs and outputs: `"float32"` (the default), or the type of integer
            activations, which is `"int8"` for the schemes `"int8"` and `"int4"`, and `"int16"` for `"int16x8"`.
        allow_float: Whether operators of a model of `quantize_aware` may compute in float. If False (the default),
            `to_tflite` refuses a file with such operators and names them.
        skip: The layers that stay in float in a file of `"int8"` or `"int4"`, which keeps accuracy where 8 bits are
            too few for a layer: a regular expression, or several, searched in the path of a layer, as for
            `quantize_aware`. The name of an operator in the file also selects it, as `quantization_error` gives it in
            `row.name`. A value between two operators stays in float only if both of them do. None (the default) skips
            none.

    Raises:
        TypeError: If an argument has another type.
        ValueError: If the scheme does not exist, or another argument does not fit it.

    Example:
        >>> Quantization("int8", levels=16)
        Quantization(scheme='int8', levels=16, io_dtype='float32', allow_float=False, skip=None)
        >>> Quantization("int8", skip="block_1/").skip
        ('block_1/',)
    """

    scheme: str | None
    levels: int | None = None
    io_dtype: str = "float32"
    allow_float: bool = False
    skip: str | Sequence[str] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_choice(self.scheme, "scheme", choices=SCHEMES)
        check_choice(self.io_dtype, "io_dtype", choices=IO_DTYPES)
        check_choice(self.allow_float, "allow_float", choices=(False, True))
        offered = dict.fromkeys(("float32", INTEGERS.get(str(self.scheme), "float32")))
        if self.io_dtype not in offered:
            raise ValueError(
                f"Expected io_dtype={' or '.join(map(repr, offered))} with scheme={self.scheme!r}. Received: "
                f"io_dtype={self.io_dtype!r}. Inputs and outputs are float32, or of the type of the activations: "
                f"'int8' with 'int8' and 'int4', 'int16' with 'int16x8'."
            )
        self._check_skip()
        if self.levels is None:
            return
        check_levels(self.levels)
        if self.scheme not in EIGHT_BIT_WEIGHTS:
            raise ValueError(
                f"Expected scheme='dynamic', 'int8' or 'int16x8' with `levels`, which 8-bit weights share. Received: "
                f"levels={self.levels}, scheme={self.scheme!r}."
            )

    def _check_skip(self) -> None:
        if self.skip is None:
            return
        skip = (self.skip,) if isinstance(self.skip, str) else self.skip
        if not isinstance(skip, Sequence) or not all(isinstance(each, str) for each in skip):
            raise TypeError(
                f"Expected `skip` to be a string, or a list of them. Received: skip={self.skip!r} of type "
                f"{type(self.skip).__name__}."
            )
        if not all(skip):
            raise ValueError(f"Expected `skip` without empty strings. Received: skip={self.skip!r}. Leave them out.")
        if self.scheme not in MIXED:
            raise ValueError(
                f"Expected scheme='int8' or 'int4' with `skip`: only such files mix integers and floats. Received: "
                f"skip={self.skip!r}, scheme={self.scheme!r}. Leave `skip` out."
            )
        object.__setattr__(self, "skip", tuple(skip) or None)


def as_quantization(quantize: Any) -> Quantization:
    """Return a scheme's name, None or a Quantization as a Quantization.

    Raises:
        TypeError: If it is something else.
        ValueError: If there is no such scheme.
    """
    if isinstance(quantize, Quantization):
        return quantize
    check_choice(quantize, "quantize", choices=SCHEMES, others="or a Quantization")
    return Quantization(quantize)
