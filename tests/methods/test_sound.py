"""Claims about concepts hold on fresh samples: small versions of bench/concepts.py, without a model."""

import numpy as np
import pytest

from tfprune.methods.rule_mining import (
    ConceptLimits,
    ConceptRule,
    Limits,
    TreeLimits,
    UnitValues,
    draw_parts,
    mine_rules,
    part_of,
    with_negations,
)


def certified(values, labels, limits, *, seed=0):
    """Mine rules, and return those that are chosen, with their counts on the samples for reporting."""
    drawn, weights = draw_parts(labels.size, validation_split=0.5, seed=seed)
    named = with_negations({"c": labels})
    parts = {name: part_of(named, weights, rows=rows, name=name) for name, rows in drawn.items()}
    mining = parts["mining"]
    paths = mine_rules(
        UnitValues(values[drawn["mining"]]),
        mining.labels["c"],
        weights=mining.weights,
        units=np.arange(values.shape[1]),
        limits=TreeLimits(8, 10),
    )
    rules = [ConceptRule("c", "l", path.thresholds, 1) for path in paths if path.is_there]
    for name, part in parts.items():
        part.add(rules, values[drawn[name]])
    chosen = ConceptLimits(limits, "c", rules=rules, parts=parts, units=lambda rule: rule.units).choose("l")
    return chosen, parts["reporting"].counts("c", chosen)


def normal(samples, units, seed):
    return np.random.default_rng(seed).normal(size=(samples, units)).astype("float32")


@pytest.mark.parametrize("base", [0.5, 0.1])
def test_coin_flips_are_refused(base):
    accepted = 0
    for seed in range(40):
        values, labels = normal(600, 16, seed), np.random.default_rng(seed + 1000).random(600) < base
        accepted += bool(certified(values, labels, Limits(base + 0.03, 0.01), seed=seed)[0])
    assert accepted <= 2


@pytest.mark.parametrize("noise", [0, 0.05, 0.2])
def test_fresh_precision_lies_in_the_interval_that_is_shown(noise):
    fresh, random = normal(20_000, 8, 99), np.random.default_rng(98)
    inside = []
    for seed in range(20):
        values = normal(1600, 8, seed)
        labels = (values[:, 0] > 0) & (values[:, 1] > 0)
        labels ^= np.random.default_rng(seed + 1000).random(1600) < noise
        rules, counts = certified(values, labels, Limits(0.95 - 1.7 * noise, 0.3), seed=seed)
        if rules:
            there = (fresh[:, 0] > 0) & (fresh[:, 1] > 0)
            there ^= random.random(20_000) < noise
            holds = np.any([rule.matches(fresh) for rule in rules], axis=0)
            low, high = counts.precision_interval
            inside.append(low <= there[holds].mean() <= high)
    assert len(inside) >= 15
    assert np.mean(inside) >= 0.85


def test_a_unit_under_noise_is_found_alone():
    for seed in range(10):
        values = normal(4000, 64, seed)
        labels = (values[:, 9] > 0) ^ (np.random.default_rng(seed + 1000).random(4000) < 0.05)
        rules, counts = certified(values, labels, Limits(0.9, 0.8), seed=seed)
        assert {unit for rule in rules for unit in rule.units} == {9}
        assert counts.recall >= 0.9
