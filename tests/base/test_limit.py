from __future__ import annotations

import math

import numpy as np
import pytest

from tfprune.base.limit import Limit, as_limit


def test_a_number_is_a_limit_of_the_default_metric() -> None:
    assert as_limit(0.01) == Limit(0.01) and as_limit(None) == Limit()
    limit = Limit(0.5, metric="auc", mode="max")
    assert as_limit(limit) is limit


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_drop": -0.1}, ValueError, "max_drop=-0.1"),
        ({"max_drop": math.nan}, ValueError, "max_drop"),
        ({"max_drop": "1%"}, TypeError, "max_drop='1%'"),
        ({"max_drop_per_class": -1}, ValueError, "max_drop_per_class=-1"),
        ({"metric": 3}, TypeError, "metric=3"),
        ({"mode": "up"}, ValueError, "mode='up'"),
    ],
)
def test_other_values_are_refused_by_name(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Limit(**arguments)


def test_data_are_neither_printed_nor_compared() -> None:
    data = (np.zeros((1000, 8)), np.zeros(1000))
    assert repr(Limit(0.01, data=data)) == "Limit(max_drop=0.01, metric=None, mode=None, data=...)"
    assert "max_drop_per_class=0.1" in repr(Limit(0.01, max_drop_per_class=0.1))
    assert Limit(0.01, data=data) == Limit(0.01, data=(np.ones(3), np.ones(3)))
