"""One word, one meaning: docs/reference/arguments.md lists each argument of a public function, in one order."""

from __future__ import annotations

import inspect
import re
import sys
from functools import cache
from pathlib import Path

import keras
import pytest
from public_names import documented_names

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "arguments.md"
ROW = re.compile(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", re.MULTILINE)
OTHERS = ("tfprune.report.", "tfprune.tfmot.")  # a base class, and names of another package
LONGEST = 12


@cache
def words():
    """Return the types of each word, by the word, in the order of the page."""
    rows = ROW.findall(PAGE.read_text(encoding="utf-8"))
    assert len({word for word, *_ in rows}) == len(rows) > 100, "a word stands twice, or the page has another form"
    return {word: re.findall(r"`([^`]+)`", types.replace(r"\|", "|")) for word, _, types in rows}


@cache
def callables():
    """Return the public functions, the classes that users make, and their methods, as the reference shows them."""
    named = {name: thing for name, thing in documented_names().items() if not name.startswith(OTHERS)}
    by_name = {}
    for name, thing in named.items():
        if not inspect.isclass(thing):
            by_name[name] = thing
            continue
        if "\n    Args:\n" in (thing.__doc__ or ""):  # else the library makes it, as it makes reports
            by_name[name] = thing
        if not _is_called_by_keras_or_flower(thing):
            by_name |= {f"{name}.{key}": method for key, method in _methods(thing).items()}
    return by_name


def _is_called_by_keras_or_flower(cls):
    bases = keras.layers.Layer, keras.callbacks.Callback, keras.losses.Loss
    return issubclass(cls, bases) or any(base.__module__.startswith("flwr.") for base in cls.__mro__)


def _methods(cls):
    plain = {key: getattr(value, "__func__", value) for key, value in vars(cls).items() if not key.startswith("_")}
    return {key: value for key, value in plain.items() if inspect.isfunction(value) and _is_for_users(value)}


def _is_for_users(method):
    """Tell whether a method has a text of its own, and takes nothing that only the library can make."""
    plain = inspect.unwrap(method)
    names = vars(sys.modules[plain.__module__])
    annotations = " ".join(str(text) for word, text in plain.__annotations__.items() if word != "return")
    classes = [names[word] for word in re.findall(r"\w+", annotations) if inspect.isclass(names.get(word))]
    own = [cls for cls in classes if cls.__module__.startswith("tfprune.")]
    return bool(method.__doc__) and all(cls in documented_names().values() for cls in own)


def parameters(thing):
    """Return the parameters of a function or class, but for `self`, and those that are handed on."""
    everything = inspect.signature(thing).parameters.values()
    handed_on = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    return [each for each in everything if each.kind not in handed_on and each.name not in ("self", "cls")]


def types_of(annotation):
    """Return the members of a union, without None.

    >>> types_of("str | Mapping[str, float | None] | None")
    ['str', 'Mapping[str, float | None]']
    """
    plain = re.sub(r"\b_(?=[A-Z])", "", str(annotation))  # readers of the page need not know which alias is private
    members = re.split(r" \| (?![^\[]*\])", plain)
    return [member for member in members if member != "None"]


@pytest.mark.parametrize("name", callables())
def test_arguments_have_the_words_order_and_types_of_the_page(name):
    listed = parameters(callables()[name])
    assert len(listed) <= LONGEST, "move what few use into a value with a name"
    order = list(words())
    for each in listed:
        assert each.name in words(), f"`{each.name}` is not on {PAGE.name}: is there a word for it already?"
        others = set(types_of(each.annotation)) - set(words()[each.name])
        assert not others, f"`{each.name}` has another type on {PAGE.name}, so it may mean something else: {others}"
    for is_named in (False, True):
        some = [each.name for each in listed if (each.kind is each.KEYWORD_ONLY) is is_named]
        assert some == sorted(some, key=order.index), f"the order of {PAGE.name} is another"
    assert "verbose" not in [each.name for each in listed[:-1]]


def test_the_page_lists_no_word_and_no_type_that_nothing_has():
    pytest.importorskip("flwr", reason="flwr is not installed (extra `federated`)")
    used = {}
    for thing in callables().values():
        for each in parameters(thing):
            used.setdefault(each.name, set()).update(types_of(each.annotation))
    assert {word: set(types) for word, types in words().items()} == used
