from __future__ import annotations

import inspect
from dataclasses import dataclass

import pytest

import tfprune
from tfprune.base.renamed import renamed


@renamed(by="criterion=", arena="target=Micro(arena=...)")
def rank(model: str, *, criterion: str = "loss") -> tuple[str, str]:
    """Rank."""
    return model, criterion


@renamed(rate="learning_rate=")
@dataclass(frozen=True)
class Stage:
    learning_rate: float = 0.1


def test_a_call_with_names_of_today_passes() -> None:
    assert rank("m", criterion="size") == ("m", "size")
    assert Stage(0.2) == Stage(learning_rate=0.2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rank("m", by="size"), r"Expected criterion= in a call of rank\(\). Received: by="),
        (lambda: rank("m", arena=3), r"Expected target=Micro\(arena=\.\.\.\) in a call of rank\(\)"),
        (lambda: Stage(rate=0.2), r"Expected learning_rate= in a call of Stage\(\). Received: rate="),  # type: ignore[call-arg]
    ],
)
def test_an_old_name_is_refused_with_the_new_one(call: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: rank("m", criterium="size"),
            r"of rank\(\): model, criterion. Received: criterium=. Did you mean c",
        ),
        (lambda: rank("m", zzz=1), r"Expected arguments of rank\(\): model, criterion. Received: zzz=.$"),
        (lambda: Stage(learning_rat=0.2), r"Received: learning_rat=. Did you mean learning_rate=\?"),
        (
            lambda: rank("m", "size"),
            r"at most 1 positional arguments in a call of rank\(\): model. Received: 2.",
        ),
        (
            lambda: Stage(0.2, 0.3),
            r"at most 1 positional arguments in a call of Stage\(\): learning_rate. R",
        ),
        (lambda: tfprune.budget(flop=0.5), r"Did you mean flops=\?"),
        (lambda: tfprune.budget(params=0.5), r"Did you mean parameters=\?"),
        (lambda: tfprune.schedules.Polynomial(final_sparsity=0.9), r"Did you mean final=\?"),
        (
            lambda: tfprune.prune_to("m", flops=0.5),
            r"Expected budget=tfprune.budget\(flops=...\) in a call",
        ),
    ],
)
def test_a_misspelled_argument_is_answered_with_the_right_name(call: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call()  # type: ignore[operator]


def test_a_misspelled_name_of_the_package_is_answered_with_the_right_name() -> None:
    with pytest.raises(AttributeError, match=r"module 'tfprune' has no attribute 'buget'. Did you mean 'budget'\?"):
        tfprune.buget  # noqa: B018


def test_a_function_of_any_arguments_gets_them() -> None:
    take = renamed(by="criterion=")(lambda *args, **arguments: (args, arguments))
    assert take(1, 2, other=3) == ((1, 2), {"other": 3})


def test_the_signature_and_the_docstring_are_kept() -> None:
    assert list(inspect.signature(rank).parameters) == ["model", "criterion"] and rank.__doc__ == "Rank."
    assert list(inspect.signature(Stage).parameters) == ["learning_rate"]
