"""Models that several tests train, given back after each."""

from __future__ import annotations

import pytest
from callback_runs import POOL


@pytest.fixture(autouse=True)
def pool():
    yield
    POOL.give_back()
