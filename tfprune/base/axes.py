"""Axis letters of weights, such as `hwio`, and the einsum equations that follow from them.

The axes of a weight are written as one letter per dimension: `o` output, `i` input, `c` a channel that is both (a
depthwise kernel), any other letter a kernel position. `hwio` is the kernel of a 2D convolution.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

INPUT, OUTPUT, CHANNEL = "i", "o", "c"

_TERM = r"([a-zA-Z]*(?:\.\.\.)?[a-zA-Z]*)"
_EQUATION = re.compile(rf"{_TERM},([a-zA-Z]+)->{_TERM}")


def output_axes(letters: str) -> list[int]:
    """Return the dimensions that are outputs, including channels that are both.

    Example:
        >>> output_axes("hwio"), output_axes("hwco")
        ([3], [2, 3])
    """
    return [axis for axis, letter in enumerate(letters) if letter in (OUTPUT, CHANNEL)]


def input_axes(letters: str) -> list[int]:
    """Return the dimensions that are inputs; if there are none, the channels that are both.

    Example:
        >>> input_axes("hwio"), input_axes("hwco")
        ([2], [2])
    """
    kind = INPUT if INPUT in letters else CHANNEL
    return [axis for axis, letter in enumerate(letters) if letter == kind]


def matrix_axes(letters: str) -> tuple[list[int], list[int], list[int]]:
    """Return the dimensions that are outputs, kernel positions and inputs in the matrix view, each dimension once.

    Example:
        >>> matrix_axes("hwio"), matrix_axes("hwco")
        (([3], [0, 1], [2]), ([2, 3], [0, 1], []))
    """
    outputs = output_axes(letters)
    inputs = [axis for axis in input_axes(letters) if axis not in outputs]
    return outputs, [axis for axis in range(len(letters)) if axis not in outputs + inputs], inputs


@dataclass(frozen=True)
class Equation:
    """An einsum equation of an input and a kernel.

    Attributes:
        inputs: Letters of the input's axes, `...` for any number of axes.
        kernel: Letters of the kernel's axes.
        outputs: Letters of the output's axes, `...` for those of the input.
    """

    inputs: str
    kernel: str
    outputs: str

    @property
    def axes(self) -> str:
        """The kernel's axes as letters of a weight: an axis that is summed over is an input, any other an output."""
        return "".join(INPUT if letter in self.summed else OUTPUT for letter in self.kernel)

    @property
    def summed(self) -> str:
        """The kernel's letters that are summed over with those of the input."""
        return "".join(letter for letter in self.kernel if letter in self.inputs and letter not in self.outputs)

    @property
    def batched(self) -> str:
        """The kernel's letters that the input and the output have as well: a kernel for each position."""
        return "".join(letter for letter in self.kernel if letter in self.inputs and letter in self.outputs)

    @property
    def lost(self) -> str:
        """Letters of a single term: they are summed over on their own."""
        inputs = self.inputs.replace("...", "")
        letters = [letter for letter in inputs + self.kernel if (letter in inputs) != (letter in self.kernel)]
        return "".join(letter for letter in letters if letter not in self.outputs)


def parse_equation(text: str) -> Equation:
    """Parse an einsum equation of an input and a kernel.

    Raises:
        ValueError: If `text` is not such an equation.

    Example:
        >>> parse_equation("...x,xyz->...yz")
        Equation(inputs='...x', kernel='xyz', outputs='...yz')
    """
    match = _EQUATION.fullmatch(text)
    if match is None:
        raise ValueError(f"Expected an equation of an input and a kernel, such as 'abc,cd->abd'. Received: {text!r}.")
    return Equation(*match.groups())


def spell_out(term: str, rank: int) -> list[str]:
    """Return a letter for each axis of a tensor, `.0`, `.1` and so on for those of the ellipsis.

    A term without an ellipsis names the last axes of a tensor of more: those of a layer that is called step by step.

    Example:
        >>> spell_out("a...b", 4), spell_out("ab", 3)
        (['a', '.0', '.1', 'b'], ['.0', 'a', 'b'])
    """
    before, _, after = term.rpartition("...")
    dots = rank - len(before) - len(after)
    return [*before, *(f".{index}" for index in range(dots)), *after]


def other_axes(rank: int, axis: int) -> tuple[int, ...]:
    """Return all axes but one.

    Example:
        >>> other_axes(4, 2)
        (0, 1, 3)
    """
    return tuple(other for other in range(rank) if other != axis)


def shape_along(rank: int, axis: int) -> tuple[int, ...]:
    """Return the shape that lays a vector along one axis of an array, to be broadcast along the others.

    Example:
        >>> shape_along(4, 2)
        (1, 1, -1, 1)
    """
    return tuple(-1 if other == axis else 1 for other in range(rank))
