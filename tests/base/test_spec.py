"""Specs: values that compare, print and save as what they were made with."""

from __future__ import annotations

import json
import pickle
import re
from dataclasses import FrozenInstanceError, dataclass, field
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfprune.base.spec import (
    ArgumentError,
    ArgumentTypeError,
    ArgumentWarning,
    Spec,
    check_choice,
    check_count,
    check_number,
    check_sparsity,
    resolve,
)
from tfprune.criteria import CRITERIA, Criterion, Magnitude, Random
from tfprune.patterns import NM, PATTERNS, Block, Pattern, Unstructured
from tfprune.schedules import Constant, Polynomial


@dataclass(frozen=True)
class Mine(Spec):
    """A spec from outside the library."""

    first: int
    second: float = field(default=0.5, kw_only=True)


SPECS = [
    Polynomial(0.9, end=100),
    Polynomial(0.9, end=0.75, begin=0.25, initial=0.5, power=1),
    Constant(0.5),
    Constant(0.5, begin=3, end=1.0),
    Magnitude(),
    Random(),
    Random(7),
    Unstructured(),
    Block(1, 4),
    NM(2, 4),
    Mine(3, second=0.25),
]


@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_config_and_repr_give_the_spec_back(spec):
    config = json.loads(json.dumps(spec.get_config()))
    copy = type(spec).from_config(config)
    assert type(copy) is type(spec)
    assert copy == spec
    assert repr(copy) == repr(spec)
    assert hash(copy) == hash(spec)
    assert eval(repr(spec)) == spec


def test_specs_differ_from_each_other():
    assert len(set(SPECS)) == len(SPECS)
    assert Magnitude() != Unstructured()


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        (Polynomial(0.9, end=100), ["final", "begin", "end", "initial", "power"]),
        (Constant(0.9), ["sparsity", "begin", "end"]),
        (Random(), ["seed"]),
        (Block(1, 4), ["rows", "cols"]),
        (NM(2, 4), ["n", "m"]),
        (Unstructured(), []),
    ],
    ids=repr,
)
def test_config_holds_every_argument(spec, names):
    assert list(spec.get_config()) == names


@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_specs_are_frozen(spec):
    for name in spec.get_config():
        with pytest.raises(FrozenInstanceError):
            setattr(spec, name, 1)


@pytest.mark.parametrize(
    ("spec", "plain"),
    [
        (Polynomial(np.float32(0.5), end=np.int64(9), begin=np.int8(2)), Polynomial(0.5, end=9, begin=2)),
        (Polynomial(np.float64(0.5), end=9, power=np.float64(2)), Polynomial(0.5, end=9, power=2)),
        (Polynomial(0, end=np.float32(0.5)), Polynomial(0.0, end=0.5)),
        (Polynomial(Fraction(1, 2), end=Fraction(3, 4)), Polynomial(0.5, end=0.75)),
        (Constant(np.float64(0.25), end=np.int32(4)), Constant(0.25, end=4)),
        (Block(np.int64(1), np.uint8(4)), Block(1, 4)),
        (NM(np.int64(2), np.int64(4)), NM(2, 4)),
        (Random(np.int64(3)), Random(3)),
    ],
    ids=str,
)
def test_numbers_of_other_libraries_become_plain_ones(spec, plain):
    assert repr(spec) == repr(plain)
    assert json.dumps(spec.get_config()) == json.dumps(plain.get_config())
    assert {type(value) for value in spec.get_config().values()} <= {int, float, type(None)}


def test_resolve_takes_names_and_specs():
    assert resolve("magnitude", CRITERIA, Criterion, "criterion") == Magnitude()
    assert resolve("random", CRITERIA, Criterion, "criterion") == Random(0)
    assert resolve("unstructured", PATTERNS, Pattern, "pattern") == Unstructured()
    pattern = NM(1, 3)
    assert resolve(pattern, PATTERNS, Pattern, "pattern") is pattern


NAMES = (
    "'magnitude', 'l2', 'random', 'gamma', 'taylor', 'snip', 'grasp', 'fisher', 'synflow', 'movement', 'wanda', "
    "'f_statistic', 'dacis'"
)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (
            "size",
            ValueError,
            f"Expected `criterion` to be {NAMES}, or an instance of Criterion, such as criteria.Random(7). Received: "
            f"criterion='size'.",
        ),
        ("magnitud", ValueError, "Received: criterion='magnitud'. Did you mean 'magnitude'?"),
        (3, TypeError, "such as criteria.Random(7). Received: criterion=3 of type int."),
        (None, TypeError, "criterion=None of type NoneType"),
        (Random, TypeError, "of type type. Did you mean Random()?"),
        (NM(2, 4), TypeError, "criterion=NM(n=2, m=4) of type NM"),
    ],
)
def test_resolve_refuses(value, error, message):
    with pytest.raises(error, match=re.escape(message)):
        resolve(value, CRITERIA, Criterion, "criterion")


def test_resolve_names_patterns_that_a_tuple_may_mean():
    message = (
        "'head', or an instance of Pattern, such as patterns.NM(2, 4), in short '2:4', or patterns.Block(1, 4), in "
        "short '1x4'. Received: pattern=(2"
    )
    with pytest.raises(TypeError, match=re.escape(message)):
        resolve((2, 4), PATTERNS, Pattern, "pattern")
    with pytest.raises(ValueError, match=re.escape("Received: pattern='chanel'. Did you mean 'channel'?")):
        resolve("chanel", PATTERNS, Pattern, "pattern")


def test_resolve_hints_only_at_specs_of_the_right_kind():
    with pytest.raises(TypeError) as caught:
        resolve(int, CRITERIA, Criterion, "criterion")
    assert "Did you mean" not in str(caught.value)


@given(st.floats(0, 1, exclude_max=True))
def test_check_sparsity_returns_what_it_accepts(value):
    assert check_sparsity(value, "sparsity") == value


@pytest.mark.parametrize("value", [0, Fraction(1, 4), np.float32(0.25), np.int64(0)])
def test_check_sparsity_takes_every_real_number(value):
    assert check_sparsity(value, "sparsity") == float(value)
    assert type(check_sparsity(value, "sparsity")) is float


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (
            1.0,
            ValueError,
            "Expected `s` to be a number in [0, 1), the fraction of zeros. Received: s=1.0. At 1 nothing",
        ),
        (-0.1, ValueError, "Received: s=-0.1."),
        (80, ValueError, "Received: s=80. For 80 % pass 0.8."),
        (float("nan"), ValueError, "Received: s=nan."),
        (float("inf"), ValueError, "Received: s=inf."),
        (
            True,
            TypeError,
            "Expected `s` to be a number in [0, 1), the fraction of zeros. Received: s=True of type bool",
        ),
        ("0.5", TypeError, "Received: s='0.5' of type str"),
        (None, TypeError, "Received: s=None of type NoneType"),
        (0.5j, TypeError, "of type complex"),
        (np.array([0.5]), TypeError, "of type ndarray"),
    ],
)
def test_check_sparsity_refuses(value, error, message):
    with pytest.raises(error, match=re.escape(message)):
        check_sparsity(value, "s")


def test_check_count_returns_what_it_accepts():
    assert check_count(3, "every", least=3) == 3
    assert type(check_count(np.int64(3), "every", least=1)) is int


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (1, ValueError, "Expected `every` to be an integer of at least 2. Received: every=1."),
        (2.0, TypeError, "Expected `every` to be an integer of at least 2. Received: every=2.0 of type float"),
        (True, TypeError, "Received: every=True of type bool"),
        ("2", TypeError, "Received: every='2' of type str"),
        (None, TypeError, "Received: every=None of type NoneType"),
    ],
)
def test_check_count_refuses(value, error, message):
    with pytest.raises(error, match=re.escape(message)):
        check_count(value, "every", least=2)


def test_messages_end_with_one_period():
    refusals = [
        lambda: check_sparsity(1.5, "s"),
        lambda: check_sparsity(90, "s"),
        lambda: check_number(2, "n", least=0, below=1, advice="Pass less."),
        lambda: check_count(0, "n", least=1),
        lambda: check_choice("x", "mode", choices=("a", "b")),
        lambda: resolve("size", CRITERIA, Criterion, "criterion"),
        lambda: resolve(3, CRITERIA, Criterion, "criterion"),
    ]
    for refuse in refusals:
        with pytest.raises((TypeError, ValueError), match=r"[^.]\.$"):
            refuse()


@pytest.mark.parametrize(
    ("limits", "text", "inside", "outside"),
    [
        ({}, "a number", [-3.5, 0, 1e300], ["nan", "inf", "-inf"]),
        ({"least": 0}, "a number of at least 0", [0, 7], [-1e-9, "inf", "nan"]),
        ({"above": 0}, "a number above 0", [1e-9, 7], [0, -1, "inf"]),
        ({"least": 0, "most": 1}, "a number from 0 to 1", [0, 0.5, 1], [-0.1, 1.1]),
        ({"least": 0, "below": 1}, "a number in [0, 1)", [0, 0.5], [1, -0.1]),
        ({"above": 0, "below": 1}, "a number in (0, 1)", [0.5], [0, 1]),
        ({"above": 0, "most": 1}, "a number in (0, 1]", [0.5, 1], [0, 2]),
    ],
    ids=str,
)
def test_check_number_holds_a_number_to_its_limits(limits, text, inside, outside):
    for value in inside:
        assert check_number(value, "n", **limits) == value
        assert type(check_number(value, "n", **limits)) is float
    for value in map(float, outside):
        with pytest.raises(ValueError, match=re.escape(f"Expected `n` to be {text}. Received: n={value!r}.")):
            check_number(value, "n", **limits)
    for value in (True, "1", None, 1j, np.ones(1)):
        with pytest.raises(TypeError, match=re.escape(f"Expected `n` to be {text}. Received: n={value!r} of type")):
            check_number(value, "n", **limits)


def test_check_number_says_what_the_number_means_and_what_to_do():
    message = "Expected `n` to be a number from 0 to 1, a part. Received: n=2. Pass less."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_number(2, "n", least=0, most=1, meaning="a part", advice="Pass less.")


def test_check_count_may_have_a_largest_number():
    assert check_count(8, "threads", least=1, most=8) == 8
    with pytest.raises(ValueError, match=r"^Expected `threads` to be an integer from 1 to 8. Received: threads=9\.$"):
        check_count(9, "threads", least=1, most=8)


@pytest.mark.parametrize(
    ("value", "error", "received"),
    [
        ("c", ValueError, "'c'."),
        (None, TypeError, "None of type NoneType."),
        ([], TypeError, "[] of type list."),
    ],
)
def test_check_choice_refuses(value, error, received):
    check_choice("a", "mode", choices=("a", "b"))
    with pytest.raises(error, match=re.escape(f"Expected `mode` to be 'a' or 'b'. Received: mode={received}")):
        check_choice(value, "mode", choices=("a", "b"))


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        ("zip", ValueError, "None, 'gzip', 'xz' or True. Received: mode='zip'. Did you mean 'gzip'?"),
        ("XZ", ValueError, "Received: mode='XZ'. Did you mean 'xz'?"),
        ("nothing", ValueError, "Received: mode='nothing'."),
        (False, TypeError, "Received: mode=False of type bool."),
        (1, TypeError, "Received: mode=1 of type int."),
        (np.ones(2), TypeError, "of type ndarray."),
    ],
)
def test_check_choice_may_have_none_and_bools_and_guesses_what_was_meant(value, error, text):
    choices = (None, "gzip", "xz", True)
    for choice in choices:
        check_choice(choice, "mode", choices=choices)
    with pytest.raises(error, match=f"{re.escape(text)}$"):
        check_choice(value, "mode", choices=choices)


def test_check_choice_lists_what_else_there_is():
    message = "Expected `mode` to be 'a', 'b', or a function. Received: mode=3 of type int. Pass one."
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        check_choice(3, "mode", choices=("a", "b"), others="or a function", hint="Pass one.")
    with pytest.raises(TypeError, match=r"^Expected `mode` to be 'a'\. Received"):
        check_choice(3, "mode", choices=("a",))


def test_an_error_prints_the_parts_that_it_has():
    error = ArgumentError("rate", "`rate` to be positive", "-1", advice="Pass rate=0.1.", beside={"steps": None})
    assert str(error) == "Expected `rate` to be positive. Received: rate=-1, steps=None. Pass rate=0.1."
    assert str(ArgumentTypeError("rate", "a number", found="a text")) == "Expected a number. Received: a text."
    assert str(ArgumentWarning("rate", "`rate` with `steps`")) == "Expected `rate` with `steps`."
    assert error.sentence(str.upper).endswith(". Received: RATE=-1, STEPS=NONE. PASS RATE=0.1.")
    assert isinstance(error, ValueError) and isinstance(ArgumentTypeError("rate", "a number"), TypeError)


def test_an_error_of_another_process_keeps_its_parts():
    error = ArgumentError("rate", "a number", "1", advice="Pass 2.", beside={"steps": 3})
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (ArgumentError, str(error), vars(error))


def test_a_check_names_the_argument():
    for error, check, value in (
        (ArgumentError, check_sparsity, 2),
        (ArgumentTypeError, check_sparsity, "half"),
    ):
        with pytest.raises(error) as raised:
            check(value, "final_sparsity")
        assert (raised.value.argument, raised.value.received[:1]) == ("final_sparsity", repr(value)[0])
