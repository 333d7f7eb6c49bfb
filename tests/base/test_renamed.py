from __future__ import annotations

import inspect
from dataclasses import dataclass

import pytest

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


def test_other_unknown_names_are_left_to_python() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'other'"):
        rank("m", other=1)  # type: ignore[call-arg]


def test_the_signature_and_the_docstring_are_kept() -> None:
    assert list(inspect.signature(rank).parameters) == ["model", "criterion"] and rank.__doc__ == "Rank."
    assert list(inspect.signature(Stage).parameters) == ["learning_rate"]
