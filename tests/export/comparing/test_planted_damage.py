"""The bars of `bench/damage.py`, with fewer seeds and samples: what is planted is found, and nothing else."""

import importlib.util
import sys
from pathlib import Path

import pytest

from tfprune import Limit

BENCH = Path(__file__).parents[3] / "bench"


@pytest.fixture(scope="module")
def bench():
    sys.path.insert(0, str(BENCH))
    try:
        spec = importlib.util.spec_from_file_location("bench_damage", BENCH / "damage.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCH))
    return module


def test_a_rare_class_that_lost_its_feature_comes_first(bench):
    for seed in range(3):
        report = bench.planted(seed)
        assert report.rows[0].name == "class 9"
        assert report.harmed == ("class 9",)
        assert report.drop < 0.01 < report.rows[0].low


def test_a_file_without_the_rare_class_is_listed_only_where_the_average_alone_is_limited(bench):
    for seed in range(3):
        assert bench.listed(seed, Limit(0.01))
        assert not bench.listed(seed, Limit(0.01, max_drop_per_class=0.1))


def test_groups_drawn_at_random_are_not_reported(bench):
    """Of 20 runs, at a true rate below 5 %, more than three have a probability below 2 %."""
    assert sum(bool(bench.not_planted(seed, 1.0, samples=1000).harmed) for seed in range(20)) <= 3
