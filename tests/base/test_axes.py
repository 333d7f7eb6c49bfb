"""Axes: letters against tables by hand, equations against what numpy.einsum computes."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfprune.base.arrays import _Equation, input_axes, matrix_axes, output_axes, parse_equation, spell_out

# Letters -> outputs, positions, inputs of the matrix view, and the inputs whose channels the weight reads.
LETTERS = {
    "io": ([1], [], [0], [0]),
    "oi": ([0], [], [1], [1]),
    "hwio": ([3], [0, 1], [2], [2]),
    "dhwoi": ([3], [0, 1, 2], [4], [4]),
    "wco": ([1, 2], [0], [], [1]),
    "iooi": ([1, 2], [], [0, 3], [0, 3]),
    "i": ([], [], [0], [0]),
    "": ([], [], [], []),
}


@pytest.mark.parametrize("letters", LETTERS)
def test_letters_by_hand(letters):
    outputs, positions, inputs, read = LETTERS[letters]
    assert output_axes(letters) == outputs
    assert matrix_axes(letters) == (outputs, positions, inputs)
    assert input_axes(letters) == read


@given(st.text("oichwdp", max_size=8))
def test_the_matrix_view_has_each_dimension_once(letters):
    assert sorted(sum(matrix_axes(letters), [])) == list(range(len(letters)))


EQUATIONS = {
    "ab,bc->ac": ("io", "b", "", ""),
    "abc,cd->abd": ("io", "c", "", ""),
    "...x,xyz->...yz": ("ioo", "x", "", ""),
    "ab...,bc->ac...": ("io", "b", "", ""),
    "aecd,cdf->aef": ("iio", "cd", "", ""),
    "xa,ay->xy": ("io", "a", "", ""),
    "abc,bcd->abd": ("oio", "c", "b", ""),
    "abc,cd->ad": ("io", "c", "", "b"),
    "ab,bcd->ac": ("ioo", "b", "", "d"),
}


@pytest.mark.parametrize("text", EQUATIONS)
def test_equations_by_hand(text):
    equation = parse_equation(text)
    assert (equation.axes, equation.summed, equation.batched, equation.lost) == EQUATIONS[text]
    assert f"{equation.inputs},{equation.kernel}->{equation.outputs}" == text


@pytest.mark.parametrize(
    "text", ["", "ab,bc", "ab->ab", "a b,bc->ac", "ab,bc,cd->ad", "ab,b...->a", "a....,a->a", "a1,1->a"]
)
def test_what_is_not_an_equation_is_refused(text):
    with pytest.raises(ValueError, match=re.escape(f"such as 'abc,cd->abd'. Received: {text!r}.")):
        parse_equation(text)


@st.composite
def equations(draw, *, products: bool = False):
    """An equation with letters of every role, as text, with the rank of its input."""
    alphabet = draw(st.permutations("abcdefghij"))
    others = 0 if products else 2
    bounds = [(0, 2), (1, 2), (1, 2), (0, others), (0, others)]
    sizes = [draw(st.integers(*bound)) for bound in bounds]
    parts = [[alphabet.pop() for _ in range(size)] for size in sizes]
    rows, summed, made, batched, lost = parts
    dots = draw(st.sampled_from([[], ["..."]]))
    inputs = dots + draw(st.permutations(rows + summed + batched + lost))
    kernel = draw(st.permutations(summed + made + batched))
    outputs = dots + draw(st.permutations(rows + made + batched))
    if draw(st.booleans()):
        inputs, outputs = inputs[len(dots) :] + dots, outputs[len(dots) :] + dots
    text = f"{''.join(inputs)},{''.join(kernel)}->{''.join(outputs)}"
    return text, {"summed": summed, "batched": batched, "lost": lost}, draw(st.integers(0, 2)) if dots else 0


@given(equations())
def test_every_letter_has_the_role_it_was_drawn_for(drawn):
    text, roles, _ = drawn
    equation = parse_equation(text)
    assert {name: sorted(getattr(equation, name)) for name in roles} == {
        name: sorted(letters) for name, letters in roles.items()
    }


def _arrays(equation: _Equation, dots: int) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    rank = len(equation.inputs.replace("...", "")) + dots
    names = spell_out(equation.inputs, rank)
    sizes = {letter: 2 + index for index, letter in enumerate(dict.fromkeys([*names, *equation.kernel]))}
    generator = np.random.default_rng(0)
    return (
        generator.standard_normal([sizes[letter] for letter in names]),
        generator.standard_normal([sizes[letter] for letter in equation.kernel]),
        sizes,
    )


@given(equations())
def test_spelled_out_letters_have_the_sizes_that_numpy_gives(drawn):
    text, _, dots = drawn
    equation = parse_equation(text)
    x, kernel, sizes = _arrays(equation, dots)
    result = np.einsum(text, x, kernel)
    assert result.shape == tuple(sizes[letter] for letter in spell_out(equation.outputs, result.ndim))


@given(equations(products=True))
def test_without_batched_and_lost_letters_it_is_a_product_of_matrices(drawn):
    """Rows of the input times the kernel's matrix, axes in the order of the letters: as numpy.einsum has it."""
    text, _, dots = drawn
    equation = parse_equation(text)
    x, kernel, sizes = _arrays(equation, dots)
    names = spell_out(equation.inputs, x.ndim)
    rows = [letter for letter in names if letter not in equation.summed]
    left = x.transpose([names.index(letter) for letter in [*rows, *equation.summed]])
    right = kernel.transpose([*input_axes(equation.axes), *output_axes(equation.axes)])
    summed = int(np.prod([sizes[letter] for letter in equation.summed]))
    product = left.reshape(-1, summed) @ right.reshape(summed, -1)
    made = [letter for letter in equation.kernel if letter not in equation.summed]
    product = product.reshape([sizes[letter] for letter in [*rows, *made]])
    order = [[*rows, *made].index(letter) for letter in spell_out(equation.outputs, product.ndim)]
    np.testing.assert_allclose(product.transpose(order), np.einsum(text, x, kernel), rtol=1e-10, atol=1e-10)


def test_a_term_without_an_ellipsis_names_the_last_axes():
    assert spell_out("abc", 5) == [".0", ".1", "a", "b", "c"]
    assert spell_out("a...", 3) == ["a", ".0", ".1"]
    assert spell_out("...a", 1) == ["a"]
